//! System calls beyond what the dense oracle of tests/suite/model_oracle.rs goes through.

use super::*;

/// Page faults extend a stack without a call, and a look at the maps takes that over.
#[test]
fn stacks_grow_unseen() {
    let low = range(0x2000, 2 * PAGE);
    let mut trace = Trace::attached(&[line(low, READ_WRITE, "[stack]")], &[(MAIN, None, None)]);
    let id = trace.model.space_of(MAIN).unwrap();
    let grown = [line(range(0x1000, 3 * PAGE), READ_WRITE, "[stack]")];
    assert_eq!(trace.model.space_mut(id).unwrap().compare(&grown), Ok(()));
    assert_eq!(trace.mapping(range(0x1000, PAGE)).bytes, 3 * PAGE);
}

/// What has grown unseen stays when the part above it goes or is closed, and the maps show it as a line of its own.
#[test]
fn growth_survives_what_happens_above_it() {
    let (grown, known) = (line(range(0x1000, PAGE), READ_WRITE, ""), range(0x2000, 2 * PAGE));
    for close in [true, false] {
        let mut trace = Trace::new();
        trace.mmap_at(MAIN, known.start(), known.bytes(), RW, PLAIN | map::GROWSDOWN);
        let left = if close {
            trace.mprotect(MAIN, known, NONE);
            vec![grown.clone(), line(known, Prot::NONE, "")]
        } else {
            trace.munmap(known);
            vec![grown.clone()]
        };
        let id = trace.model.space_of(MAIN).unwrap();
        assert_eq!(trace.model.space_mut(id).unwrap().compare(&left), Ok(()));
    }
}

/// A success over pages that the model does not have tells that it has missed something.
#[test]
fn success_over_a_hole_is_unclear() {
    let mut trace = Trace::new();
    let known = trace.mmap(MAIN, STACK, RW, PLAIN);
    let beyond = Call::Mprotect { addr: known.start(), len: 2 * STACK, prot: NONE };
    assert!(trace.call(MAIN, beyond, Ok(0)).unclear.is_some());
    let (old, old_len) = (Addr(0x1000), PAGE);
    let moved = Call::Mremap { old, old_len, new_len: 2 * PAGE, flags: mremap::MAYMOVE, new: Addr(0) };
    assert!(trace.call(MAIN, moved, Ok(0x9000)).unclear.is_some());
}

/// PROT_GROWSDOWN reaches down to a border that only the kernel knows, also where it fails half-way.
#[test]
fn growsdown_is_unclear() {
    let mut trace = Trace::new();
    let known = trace.mmap(MAIN, STACK, RW, PLAIN | map::GROWSDOWN);
    let call = Call::Mprotect { addr: known.start(), len: PAGE, prot: prot::GROWSDOWN };
    assert!(trace.call(MAIN, call, Ok(0)).unclear.is_some());
    assert!(trace.call(MAIN, call, Err(Errno::ENOMEM)).unclear.is_some());
    assert!(trace.call(MAIN, call, Err(Errno::EINVAL)).unclear.is_some());
}

/// The heap of brk is one mapping, however often it grows, and the first call only tells where it is.
#[test]
fn the_heap_is_one_mapping() {
    let mut trace = Trace::new();
    let brk = |trace: &mut Trace, to: u64| trace.call(MAIN, Call::Brk { addr: Addr(to) }, Ok(to)).unclear;
    assert!(brk(&mut trace, 0x50_0000).is_some());
    for to in [0x50_1001, 0x50_8000, 0x50_7fff, 0x50_4000] {
        assert!(brk(&mut trace, to).is_none());
    }
    assert_eq!(trace.space().mappings.len(), 1);
    let heap = trace.mapping(range(0x50_0000, PAGE));
    assert_eq!((heap.kind, heap.bytes), (Kind::Heap, 4 * PAGE));
}

/// Huge pages: the length is rounded up to them, and anonymous ones have a file that keeps the offset.
#[test]
fn huge_pages_are_rounded_up() {
    let mut trace = Trace::new();
    let flags = PLAIN | map::HUGETLB | 21 << map::HUGE_SHIFT;
    let (addr, start) = (Addr(0), 0x4000_0000);
    trace.call(MAIN, Call::Mmap { addr, len: PAGE, prot: RW, flags, fd: -1, offset: 4 << 20 }, Ok(start));
    let (range, area) = trace.space().areas.at(Addr(start)).unwrap();
    assert_eq!((range.bytes(), area.backing), (2 << 20, Backing::file(4 << 20, Addr(start))));
}

/// A ring of asynchronous I/O goes as a whole, by whichever name it is given back.
#[test]
fn rings_come_and_go() {
    let mut trace = Trace::new();
    trace.exec(MAIN, MAIN);
    let ring = Vma { inode: 7, ..line(range(0x8000, 3 * PAGE), READ_WRITE, "/[aio] (deleted)") };
    let call = Call::IoSetup { nr_events: 128, ctxp: Addr(0) };
    trace.happen(MAIN, EventKind::Syscall(Syscall { call, result: Ok(0), mapped: Some(ring) }));
    assert_eq!(trace.model.mappings_live(), 1);
    trace.call(MAIN, Call::IoDestroy { ctx: Addr(0x8000) }, Ok(0));
    assert_eq!(trace.model.mappings_live(), 0);
}

/// Failures for lack of something are counted by call and errno, and the limits seen next are theirs.
#[test]
fn refusals_are_counted() {
    let mut trace = Trace::new();
    let map = Call::Mmap { addr: Addr(0), len: STACK, prot: RW, flags: PLAIN, fd: -1, offset: 0 };
    let limits = Limits { vmas: Some(Usage { used: 10, limit: 10 }), ..Limits::default() };
    trace.call(MAIN, map, Err(Errno::ENOMEM));
    trace.call(MAIN, Call::Clone(on(whole(), THREAD)), Err(Errno::EAGAIN));
    trace.call(MAIN, map, Err(Errno::ENOMEM));
    trace.happen(MAIN, EventKind::Limits(Box::new(limits.clone())));
    trace.call(MAIN, map, Err(Errno::EINVAL));
    let refusals = &trace.space().refusals;
    let counts: Vec<_> = refusals.iter().map(|refusal| (refusal.call, refusal.count)).collect();
    assert_eq!(counts, [("clone", 1), ("mmap", 2)]);
    assert_eq!((&refusals[0].limits, &refusals[1].limits), (&None, &Some(Box::new(limits))));
}

/// Where the maps show something else at the same pages, what was there is gone, and not its owner's any more.
#[test]
fn replaced_pages_are_another_mapping() {
    let mut trace = Trace::new();
    let stack = trace.unjoined(ONE, STACK);
    let file = Vma { inode: 9, ..line(stack, READ_WRITE, "/file") };
    trace.happen(MAIN, EventKind::Maps(Box::new([file])));
    assert!(trace.mapping(stack).stack.is_none());
    assert_eq!(trace.model.mappings_live(), 1);
}

/// The first difference is named, with both sides.
#[test]
fn a_mismatch_names_what_differs() {
    let here = range(0x1000, 2 * PAGE);
    let mut trace = Trace::new();
    trace.mmap_at(MAIN, here.start(), here.bytes(), RW, PLAIN);
    let id = trace.model.space_of(MAIN).unwrap();
    let same = line(here, READ_WRITE, "");
    let cases = [
        ("protection differs at 0x1000", line(here, Prot::NONE, ""), "1000-3000 ---p anonymous"),
        ("sharing differs at 0x1000", Vma { sharing: Sharing::Shared, ..same.clone() }, "1000-3000 rw-s anonymous"),
        ("file offset differs at 0x1000", Vma { inode: 3, offset: 0x5000, ..same }, "1000-3000 rw-p file+0x5000"),
        ("end differs at 0x3000", line(range(0x1000, 3 * PAGE), READ_WRITE, ""), "1000-4000 rw-p anonymous"),
        ("mapped differs at 0x0", line(range(0, PAGE), READ_WRITE, ""), "0-1000 rw-p anonymous"),
    ];
    for (what, vma, kernel) in cases {
        let mismatch = trace.model.space_mut(id).unwrap().compare(&[vma]).unwrap_err();
        let expected = format!("{what}: the model has 1000-3000 rw-p anonymous, the kernel {kernel}");
        assert_eq!(mismatch.to_string(), expected);
    }
}

/// Of what the model knows as one region the kernel may have several, which mprotect changes one by one until it is refused: by
/// advice, or files that were opened with other rights. A page is one, and wrong arguments are refused at once.
#[test]
fn what_is_known_as_one_may_be_several() {
    let (start, mut trace) = (Addr(0x7f00_0000), Trace::new());
    trace.mmap_at(MAIN, start, 4 * PAGE, RW, PLAIN);
    let mut is_unclear = |addr: u64, len, prot, errno| {
        let call = Call::Mprotect { addr: Addr(addr), len, prot };
        trace.call(MAIN, call, Err(errno)).unclear.is_some()
    };
    for errno in [Errno::EACCES, Errno::ENOMEM, Errno::EPERM, Errno::EINVAL] {
        assert!(is_unclear(start.0, 2 * PAGE, RW, errno), "{errno}");
        assert!(!is_unclear(start.0, PAGE, RW, errno), "{errno}: a page");
    }
    assert!(!is_unclear(start.0 + 1, 2 * PAGE, RW, Errno::EINVAL));
    assert!(!is_unclear(start.0, 2 * PAGE, 1 << 7, Errno::EINVAL));
}

/// What lies before a hole has been changed, unless it is that for which something was lacking, which only the kernel knows.
#[test]
fn a_limit_before_a_hole() {
    let start = 0x7f00_0000;
    for (from, to) in [(0, RW), (RW, RW), (RW, 1), (0, 1)] {
        let mut trace = Trace::new();
        let call = Call::Mmap { addr: Addr(0), len: 4 * PAGE, prot: from, flags: PLAIN, fd: -1, offset: 0 };
        trace.call(MAIN, call, Ok(start));
        let call = Call::Mprotect { addr: Addr(start), len: 6 * PAGE, prot: to };
        let applied = trace.call(MAIN, call, Err(Errno::ENOMEM));
        assert!(applied.unclear.is_some(), "{from} {to}");
        assert!(
            trace.space().areas.overlapping(range(start, 4 * PAGE)).all(|(_, area)| area.prot == Prot::from_bits(to))
        );
        assert!(trace.space().refusals.is_empty());
    }
}

/// Advice that was refused on the way, otherwise than by a hole, may have reached some of the pages.
#[test]
fn advice_that_was_refused() {
    let start = 0x7f00_0000;
    for (advice, len, errno, unseen) in [
        (madv::DONTFORK, 2 * PAGE, Errno::EAGAIN, true),
        (madv::DOFORK, 2 * PAGE, Errno::EINVAL, true),
        (madv::DONTFORK, 2 * PAGE, Errno::ENOMEM, false),
        (madv::DONTFORK, PAGE, Errno::EAGAIN, false),
        (madv::DONTNEED, 2 * PAGE, Errno::EINVAL, false),
    ] {
        let mut trace = Trace::new();
        trace.exec(MAIN, MAIN);
        trace.mmap_at(MAIN, Addr(start), 2 * PAGE, RW, PLAIN);
        trace.call(MAIN, Call::Madvise { addr: Addr(start), len, advice }, Err(errno));
        assert_eq!(trace.space().has_unseen, unseen, "{advice} {len} {errno}");
    }
}

/// What MREMAP_DONTUNMAP copies stays what it was: each mapping has a copy of its own.
#[test]
fn copies_of_several() {
    let mut trace = Trace::new();
    let segment = shmat(&mut trace, 0x10_000);
    trace.mmap_at(MAIN, segment.end(), PAGE, RW, PLAIN);
    let flags = mremap::MAYMOVE | mremap::FIXED | mremap::DONTUNMAP;
    let (old, len, new) = (segment.start(), 5 * PAGE, Addr(0x50_000));
    trace.call(MAIN, Call::Mremap { old, old_len: len, new_len: len, flags, new }, Ok(new.0));
    let kinds: Vec<(Kind, u64)> = [new, Addr(new.0 + 4 * PAGE)]
        .map(|at| trace.space().mapping_at(at).unwrap())
        .map(|id| (trace.space().mappings[id].kind, trace.space().mappings[id].bytes))
        .into();
    assert_eq!(kinds, [(Kind::Shm { inode: 7 }, 4 * PAGE), (Kind::Anonymous, PAGE)]);
}

/// Readable pages of a file become executable under READ_IMPLIES_EXEC unless it lies where nothing is: the kernel's line tells.
#[test]
fn readable_is_executable_but_where_it_is_mounted_noexec() {
    let start = 0x10_000;
    let call = |flags| Call::Mmap { addr: Addr(0), len: PAGE, prot: 1, flags, fd: 3, offset: 0 };
    let mut trace = Trace::new();
    trace.call(MAIN, Call::Personality { persona: crate::abi::READ_IMPLIES_EXEC }, Ok(0));
    assert!(trace.call(MAIN, call(map::PRIVATE), Ok(start)).unclear.is_some());
    assert!(trace.call(MAIN, call(PLAIN), Ok(start)).unclear.is_none());
    let protect = Call::Mprotect { addr: Addr(start), len: PAGE, prot: 1 };
    assert!(trace.call(MAIN, protect, Ok(0)).unclear.is_none());
    let seen = Vma { sharing: Sharing::Shared, inode: 7, ..line(range(start, PAGE), Prot::READ, "/tmp/file") };
    let syscall = Syscall { call: call(map::SHARED), result: Ok(start), mapped: Some(seen) };
    assert!(trace.happen(MAIN, EventKind::Syscall(syscall)).unclear.is_none());
    let (_, area) = trace.space().areas.at(Addr(start)).unwrap();
    assert_eq!(area.prot, Prot::READ);
    assert!(trace.call(MAIN, protect, Ok(0)).unclear.is_some());
}

/// The gate page is in no address space, and the page of uprobes comes without a call: neither is a difference.
#[test]
fn pages_of_the_kernels_own_are_no_difference() {
    let maps = [
        line(range(0x7fff_ffff_e000, PAGE), Prot::EXEC, "[uprobes]"),
        line(range(0xffff_ffff_ff60_0000, PAGE), Prot::EXEC, "[vsyscall]"),
    ];
    let mut trace = Trace::new();
    let id = trace.model.space_of(MAIN).unwrap();
    assert_eq!(trace.model.space_mut(id).unwrap().compare(&maps), Ok(()));
    assert_eq!(AddressSpace::new(Pid(1), &maps, None).mappings.len(), 0);
}

/// shmat of a segment of four pages.
fn shmat(trace: &mut Trace, at: u64) -> Range {
    let segment = range(at, 4 * PAGE);
    let vma = Vma { sharing: Sharing::Shared, inode: 7, ..line(segment, READ_WRITE, "/SYSV00000000 (deleted)") };
    let syscall = Syscall { call: Call::Shmat { id: 1, addr: Addr(0), flags: 0 }, result: Ok(at), mapped: Some(vma) };
    trace.happen(MAIN, EventKind::Syscall(syscall));
    segment
}

/// shmdt takes all that is left where shmat has put it, and what lies in between stays.
#[test]
fn shmdt_takes_what_is_left() {
    let mut trace = Trace::new();
    trace.exec(MAIN, MAIN);
    let segment = shmat(&mut trace, 0x10000);
    trace.mprotect(MAIN, part(segment, 3 * PAGE, PAGE), NONE);
    trace.munmap(part(segment, 0, PAGE));
    let between = trace.mmap_at(MAIN, Addr(0x11000), PAGE, RW, PLAIN);
    assert_eq!(trace.call(MAIN, Call::Shmdt { addr: segment.start() }, Ok(0)).unclear, None);
    assert_eq!(trace.space().areas.iter().map(|(range, _)| range).collect::<Vec<_>>(), [between]);
}

/// The kernel knows the file that shmat opened and how large the segment is. What mremap has put into the segment's
/// place, or let it grow to, is for the kernel to tell.
#[test]
fn shmdt_of_what_mremap_has_changed_is_unclear() {
    let from_another = |trace: &mut Trace, segment: Range| {
        let another = shmat(trace, 0x20000);
        trace.mremap(part(another, 3 * PAGE, PAGE), part(segment, 3 * PAGE, PAGE));
        segment
    };
    let grown = |trace: &mut Trace, segment: Range| {
        trace.mremap(segment, range(0x30000, 6 * PAGE));
        range(0x30000, PAGE)
    };
    let again = |trace: &mut Trace, segment: Range| {
        let (old, flags) = (segment.start(), mremap::MAYMOVE);
        let call = Call::Mremap { old, old_len: 0, new_len: 6 * PAGE, flags, new: Addr(0) };
        trace.call(MAIN, call, Ok(0x30000));
        range(0x30000, PAGE)
    };
    let changes: [fn(&mut Trace, Range) -> Range; 3] = [from_another, grown, again];
    for change in changes {
        let mut trace = Trace::new();
        trace.exec(MAIN, MAIN);
        let segment = shmat(&mut trace, 0x10000);
        let addr = change(&mut trace, segment).start();
        assert!(trace.call(MAIN, Call::Shmdt { addr }, Ok(0)).unclear.is_some());
    }
}
