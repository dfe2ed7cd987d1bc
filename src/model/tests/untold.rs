//! Calls whose arguments do not tell what they have done, or that are told only for what they make unsure.

use super::*;

fn mapped(trace: &mut Trace, call: Call, at: u64, line: Vma) {
    trace.happen(MAIN, EventKind::Syscall(Syscall { call, result: Ok(at), mapped: Some(line) }));
}

fn file_of(start: u64, bytes: u64, name: &str) -> Vma {
    Vma { sharing: Sharing::Shared, inode: 7, ..line(range(start, bytes), READ_WRITE, name) }
}

/// A program that has nothing unseen, for it is followed from its start.
fn launched() -> Trace {
    let mut trace = Trace::new();
    trace.exec(MAIN, MAIN);
    trace
}

/// A file of huge pages is mapped in these, which only the kernel's line tells; the line of a neighbour that is alike is
/// not taken for it.
#[test]
fn files_of_huge_pages() {
    const HUGE: u64 = 2 << 20;
    let (len, at) = (HUGE + 1, 0x4000_0000);
    let call = Call::Mmap { addr: Addr(0), len, prot: RW, flags: map::SHARED, fd: 3, offset: 0 };
    let mut trace = launched();
    mapped(&mut trace, call, at, file_of(at, 2 * HUGE, "/memfd:huge (deleted)"));
    assert_eq!(trace.mapping(range(at, 2 * HUGE)).bytes, 2 * HUGE);
    let mut trace = launched();
    let above =
        Call::Mmap { addr: Addr(0), len: HUGE - PAGE, prot: RW, flags: map::SHARED, fd: 3, offset: HUGE + PAGE };
    trace.call(MAIN, above, Ok(at + HUGE + PAGE));
    mapped(&mut trace, call, at, file_of(at, 2 * HUGE, "/tmp/file"));
    assert_eq!(trace.mapping(range(at, HUGE)).bytes, HUGE + PAGE);
}

/// A driver may choose another offset, and whether a fork copies its mappings: each child is looked at then.
#[test]
fn mappings_of_drivers() {
    let call = Call::Mmap { addr: Addr(0), len: PAGE, prot: RW, flags: map::SHARED, fd: 3, offset: 0 };
    for (name, is_driver) in [
        ("anon_inode:[perf_event]", true),
        ("/dev/dri/card0", true),
        ("/dev/zero (deleted)", false),
        ("/dev/shm/x", false),
        ("/tmp/dev", false),
    ] {
        let mut trace = launched();
        mapped(&mut trace, call, 0x9_000, Vma { offset: 0x5_000, ..file_of(0x9_000, PAGE, name) });
        assert_eq!(trace.space().has_unseen, is_driver, "{name}");
        let (_, area) = trace.space().areas.at(Addr(0x9_000)).unwrap();
        assert_eq!(area.backing, Backing::file(0x5_000, Addr(0x9_000)));
    }
}

/// Of which nothing is mapped yet.
fn image_with_break(start: Addr) -> EventKind {
    let start_brk = Some(start);
    EventKind::Exec(Box::new(Exec { former: MAIN, maps: Box::default(), start_brk, read_implies_exec: false }))
}

/// prctl(PR_SET_MM) moves the break without a mapping, and later calls of brk count from there.
#[test]
fn the_break_is_set() {
    let mut trace = Trace::new();
    trace.happen(MAIN, image_with_break(Addr(0x50_0000)));
    let set = |trace: &mut Trace, what, to| {
        trace.call(MAIN, Call::Prctl { option: 35, arg2: what, arg3: to, arg4: 0, arg5: 0 }, Ok(0)).unclear
    };
    let brk = |trace: &mut Trace, to: u64| trace.call(MAIN, Call::Brk { addr: Addr(to) }, Ok(to)).unclear;
    let start = trace.space().brk.unwrap().start.0;
    assert_eq!(brk(&mut trace, start + 4 * PAGE), None);
    assert_eq!(set(&mut trace, 7, start + PAGE), None);
    assert_eq!(trace.mapping(range(start, 4 * PAGE)).bytes, 4 * PAGE);
    assert_eq!(brk(&mut trace, start), None);
    assert_eq!(trace.mapping(range(start + PAGE, 3 * PAGE)).bytes, 3 * PAGE);
    assert_eq!(set(&mut trace, 6, start + 8 * PAGE), None);
    assert_eq!(trace.space().brk.unwrap().start, Addr(start + 8 * PAGE));
    // All bounds at once lie in the target's memory.
    assert_eq!(set(&mut trace, 14, 0x7000), None);
    assert!(brk(&mut trace, start).is_some());
}

/// Where the kernel's maps have another end of the heap, a brk was between them and what is known of the break. Where the order
/// of calls was lost it is not known in any case: it may have been moved where nothing is mapped, or by prctl.
#[test]
fn the_break_is_doubted() {
    for (seen_pages, is_lost, known) in
        [(4, false, true), (6, false, false), (2, false, false), (0, false, false), (4, true, false)]
    {
        let mut trace = launched();
        let start = 0x50_0000;
        trace.happen(MAIN, image_with_break(Addr(start)));
        let brk = |trace: &mut Trace, pages: u64| {
            let to = start + pages * PAGE;
            trace.call(MAIN, Call::Brk { addr: Addr(to) }, Ok(to)).unclear
        };
        assert_eq!(brk(&mut trace, 4), None);
        if is_lost {
            trace.happen(MAIN, EventKind::OrderLost);
        }
        let heap = (seen_pages > 0).then(|| line(range(start, seen_pages * PAGE), READ_WRITE, "[heap]"));
        trace.happen(MAIN, EventKind::Maps(heap.into_iter().collect()));
        assert_eq!(brk(&mut trace, 8).is_none(), known, "{seen_pages} pages, lost: {is_lost}");
        assert_eq!(brk(&mut trace, 9), None, "known again");
    }
}

/// After these, what a fork copies, or what shmdt and io_destroy leave, is for the kernel to tell.
#[test]
fn calls_that_make_unsure() {
    let advise = |advice| Call::ProcessMadvise { pidfd: 3, iovec: Addr(0x1000), vlen: 1, advice, flags: 0 };
    let seal = Call::Mseal { addr: Addr(0x1000), len: PAGE, flags: 0 };
    let uring = Call::IoUringSetup { entries: 8, params: Addr(0x1000) };
    for (call, result, unsure) in [
        (advise(madv::DONTFORK), Ok(PAGE), true),
        (advise(madv::DOFORK), Err(Errno::ENOMEM), true),
        (advise(madv::DONTNEED), Ok(PAGE), false),
        (seal, Ok(0), true),
        (seal, Err(Errno::ENOMEM), true),
        (uring, Ok(4), true),
        (uring, Err(Errno::ENOSYS), false),
    ] {
        let mut trace = launched();
        trace.call(MAIN, call, result);
        assert_eq!(trace.space().has_unseen, unsure, "{call:?} {result:?}");
        trace.exec(MAIN, MAIN);
        assert_eq!(trace.space().has_unseen, call == uring && unsure, "a ring may be kept");
    }
}

/// io_destroy unmaps what lies where the ring was, whatever that is by now: unless it is the whole ring, the kernel is
/// asked.
#[test]
fn rings_that_were_changed() {
    let ring = |trace: &mut Trace| {
        let vma = Vma { inode: 7, ..line(range(0x8_000, 3 * PAGE), READ_WRITE, "/[aio] (deleted)") };
        mapped(trace, Call::IoSetup { nr_events: 128, ctxp: Addr(0) }, 0, vma);
    };
    let destroy = |trace: &mut Trace| trace.call(MAIN, Call::IoDestroy { ctx: Addr(0x8_000) }, Ok(0)).unclear.is_some();
    type Change = fn(&mut Trace);
    let changes: [(Change, bool); 5] = [
        (|_| {}, false),
        (|trace| trace.munmap(range(0x9_000, PAGE)), true),
        (|trace| _ = trace.mmap_at(MAIN, Addr(0x8_000), PAGE, RW, PLAIN), true),
        (|trace| trace.munmap(range(0x8_000, 3 * PAGE)), true),
        (|trace| _ = trace.call(MAIN, Call::Mseal { addr: Addr(0x8_000), len: PAGE, flags: 0 }, Ok(0)), true),
    ];
    for (number, (change, unclear)) in changes.into_iter().enumerate() {
        let mut trace = launched();
        ring(&mut trace);
        change(&mut trace);
        assert_eq!(destroy(&mut trace), unclear, "change {number}");
    }
}
