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
    assert!(trace.call(MAIN, call, Err(Errno::EINVAL)).unclear.is_none());
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

/// Of a single mapping mprotect changes all or nothing. What was taken over from maps may be several of one file, opened with
/// other rights: then a part may have been changed before the rest was refused.
#[test]
fn what_maps_show_as_one_may_be_several() {
    let file = range(0x7f00_0000, 4 * PAGE);
    let seen = Vma { sharing: Sharing::Shared, inode: 7, ..line(file, Prot::READ, "/tmp/file") };
    let is_unclear = |trace: &mut Trace, errno| {
        let call = Call::Mprotect { addr: file.start(), len: 2 * PAGE, prot: RW };
        trace.call(MAIN, call, Err(errno)).unclear.is_some()
    };
    let mut trace = Trace::new();
    let map = Call::Mmap { addr: Addr(0), len: file.bytes(), prot: 1, flags: map::SHARED, fd: 3, offset: 0 };
    trace.call(MAIN, map, Ok(file.start().0));
    let id = trace.model.space_of(MAIN).unwrap();
    // As of a program that was followed from its start.
    trace.model.space_mut(id).unwrap().has_unseen = false;
    assert!(!is_unclear(&mut trace, Errno::EACCES));
    trace.happen(MAIN, EventKind::Maps([seen].into()));
    assert!(is_unclear(&mut trace, Errno::EACCES));
    assert!(!is_unclear(&mut trace, Errno::EINVAL));
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
