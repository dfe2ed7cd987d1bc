//! What is known of stacks that were there before.

use super::*;

/// A guard right below and the descriptor above bound a stack that was there before, also one of several that
/// the kernel shows as one line.
#[test]
fn guard_and_descriptor_bound_a_stack() {
    let (guard, line_above) = (range(0x1000, PAGE), range(0x2000, 8 * PAGE));
    let maps = [line(guard, Prot::NONE, ""), line(line_above, READ_WRITE, "")];
    let mut trace = Trace::attached(&maps, &[(MAIN, None, None), (ONE, Some(0x3800), Some(0x4900))]);
    let stack = range(0x1000, 4 * PAGE);
    assert_eq!((trace.mapping(stack).bytes, trace.stack(stack).guard_bytes), (4 * PAGE, PAGE));
    assert_eq!(trace.stack(stack).maker, Maker::Unsettled);
    assert_eq!(trace.mapping(range(0x5000, PAGE)).bytes, 5 * PAGE, "the rest of the line is something else");
    trace.end_released(ONE, range(0x1000, 16 * PAGE));
    assert!(trace.mapping(stack).idle_stack().is_some());
}

/// Without them nothing is claimed of what a task runs on, and tasks on one line share it.
#[test]
fn unbounded_stacks_have_no_known_maker() {
    let maps = [line(range(0x2000, 8 * PAGE), READ_WRITE, "")];
    let trace = Trace::attached(&maps, &[(MAIN, Some(0x3800), None), (ONE, Some(0x7800), None)]);
    let stack = trace.space().mappings.values().next().unwrap().stack.as_deref().unwrap();
    assert_eq!((stack.maker, stack.live, stack.owners), (Maker::Unknown, 2, 2));
}

/// Three stacks that the kernel shows as one line: the thread library tells them apart, and which thread has which.
#[test]
fn the_library_knows_bounds() {
    let maps = [line(range(0x2000, 12 * PAGE), READ_WRITE, "")];
    let mut trace = Trace::attached(&maps, &[(MAIN, None, None), (ONE, Some(0x4800), None), (TWO, Some(0x8800), None)]);
    let stacks = [0x2000, 0x6000, 0xa000].map(|start| range(start, 4 * PAGE));
    let known = |range, task| LibraryStack { library: ThreadLibrary::Glibc, range, guard_bytes: PAGE, task };
    let told = [known(stacks[0], Some(ONE)), known(stacks[1], Some(TWO)), known(stacks[2], None)];
    for _ in 0..2 {
        trace.happen(MAIN, EventKind::LibraryStacks(told.into()));
        for (stack, owner) in stacks.into_iter().zip([ONE, TWO]) {
            let known = trace.stack(stack);
            assert_eq!((known.maker, known.last.tid, known.live), (Maker::Glibc, owner, 1));
            assert_eq!((known.region_bytes, known.guard_bytes, known.cut), (4 * PAGE, PAGE, false));
        }
        assert_eq!((trace.mapping(stacks[2]).bytes, trace.mapping(stacks[2]).stack.is_none()), (4 * PAGE, true));
        assert_eq!(trace.space().mappings.len(), 3);
    }
    trace.end_released(TWO, range(0x6000, 16 * PAGE));
    assert!(trace.mapping(stacks[0]).idle_stack().is_none() && trace.mapping(stacks[1]).idle_stack().is_some());
}

/// A source whose events come late may know from the lists of a thread whose birth has not been told: its stack is idle
/// after its end all the same.
#[test]
fn the_library_is_ahead_of_births() {
    let stack = range(0x2000, STACK);
    let guard = part(stack, 0, PAGE);
    let maps = [line(guard, Prot::NONE, ""), line(above_guard(stack), READ_WRITE, "")];
    let mut trace = Trace::attached(&maps, &[(MAIN, None, None)]);
    let told = LibraryStack { library: ThreadLibrary::Glibc, range: stack, guard_bytes: PAGE, task: Some(ONE) };
    trace.happen(MAIN, EventKind::LibraryStacks([told].into()));
    trace.thread(ONE, stack);
    trace.happen(MAIN, EventKind::LibraryStacks([told].into()));
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).live), (Maker::Glibc, 1));
    trace.end_released(ONE, usable(stack));
    assert!(trace.mapping(stack).idle_stack().is_some());
}

/// What has been seen being mapped has known bounds, and descriptors that say otherwise, or nonsense, change nothing.
#[test]
fn bounds_that_are_known_are_kept() {
    let maps = [line(range(0x2000, 4 * PAGE), READ_WRITE, ""), line(range(0x8000, PAGE), Prot::NONE, "/file")];
    let mut trace = Trace::attached(&maps, &[(MAIN, None, None)]);
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    let before = format!("{:?}", trace.model);
    for range in [part(stack, 0, 8 * PAGE), range(0x1000, 4 * PAGE), range(0x5000, 4 * PAGE), range(PAGE, 1 << 46)] {
        let told = LibraryStack { library: ThreadLibrary::Glibc, range, guard_bytes: 0, task: Some(ONE) };
        trace.happen(MAIN, EventKind::LibraryStacks([told].into()));
    }
    assert_eq!(format!("{:?}", trace.model), before);
}

/// The main thread's stack is the kernel's, not the program's to free.
#[test]
fn the_main_stack_is_no_finding() {
    let maps = [line(range(0x2000, 8 * PAGE), READ_WRITE, "[stack]")];
    let trace = Trace::attached(&maps, &[(MAIN, Some(0x8800), None)]);
    let mapping = trace.space().mappings.values().next().unwrap();
    assert_eq!((mapping.kind, mapping.stack.is_none()), (Kind::MainStack, true));
}

/// A task that is noticed late uses its process's address space; of a process that is gone, a new one.
#[test]
fn tasks_that_are_noticed_late() {
    let mut trace = Trace::new();
    trace.happen(TWO, EventKind::Noticed(Pid(1)));
    assert_eq!(trace.model.space_of(TWO), trace.model.space_of(MAIN));
    trace.happen(TWO, EventKind::Noticed(Pid(1)));
    assert_eq!((trace.space().tasks, trace.model.tasks_seen()), (2, 2));
    trace.happen(MAIN, EventKind::Ended(Exit::Code(0)));
    trace.happen(TWO, EventKind::Ended(Exit::Code(0)));
    trace.happen(THREE, EventKind::Noticed(Pid(1)));
    let space = trace.model.space_of(THREE).and_then(|id| trace.model.space(id)).unwrap();
    assert_eq!((space.tasks, space.pid, space.areas.is_empty()), (1, Pid(1), true));
}
