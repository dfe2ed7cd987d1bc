//! Who made a stack: glibc by its three ways to map one, musl, or the program.

use super::*;

/// Up to glibc 2.25: mapped open, then the guard closed. A program might do so too, so the end has to tell.
#[test]
fn glibc_up_to_2_25_is_settled_by_the_end() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.mprotect(MAIN, guard(stack), NONE);
    trace.thread(ONE, stack);
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Unsettled, PAGE));
    trace.end_released(ONE, stack);
    assert_eq!(trace.stack(stack).maker, Maker::Glibc);
}

/// glibc 2.26 to 2.41: mapped closed, then all but the guard opened, which gives it away.
#[test]
fn glibc_from_2_26_is_known_at_birth() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Glibc, PAGE));
}

/// From glibc 2.42 on Linux 6.13: mapped open, with a guard by madvise.
#[test]
fn glibc_from_2_42_is_settled_by_the_end() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.madvise(MAIN, guard(stack), madv::GUARD_INSTALL);
    trace.thread(ONE, stack);
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Unsettled, PAGE));
    trace.end_released(ONE, stack);
    assert_eq!(trace.stack(stack).maker, Maker::Glibc);
}

/// Once one such stack has turned out to be glibc's own, the next is taken for it at birth.
#[test]
fn the_second_one_is_known_at_birth() {
    let mut trace = Trace::new();
    for tid in [ONE, TWO] {
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.madvise(MAIN, guard(stack), madv::GUARD_INSTALL);
        trace.thread(tid, stack);
        let expected = if tid == ONE { Maker::Unsettled } else { Maker::Glibc };
        assert_eq!(trace.stack(stack).maker, expected);
        trace.end_released(tid, stack);
    }
}

/// musl maps without MAP_STACK and clones with CLONE_DETACHED; what is mapped open may be given to it by the program.
#[test]
fn musl_is_known_at_birth() {
    let mut trace = Trace::new();
    let guarded = trace.mmap(MAIN, STACK, NONE, PLAIN);
    trace.mprotect(MAIN, above_guard(guarded), RW);
    trace.born(MAIN, ONE, Pid(1), on(guarded, THREAD | clone::DETACHED));
    let open = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.born(MAIN, TWO, Pid(1), on(open, THREAD | clone::DETACHED));
    assert_eq!([trace.stack(guarded).maker, trace.stack(open).maker], [Maker::Musl, Maker::Program]);
    trace.end(ONE);
    assert_eq!(trace.stack(guarded).maker, Maker::Musl);
}

/// Memory that pthread_attr_setstack was given right after its mmap looks like glibc's own until the thread ends
/// without giving pages back.
#[test]
fn setstack_is_settled_by_the_end() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.thread(ONE, stack);
    assert_eq!(trace.stack(stack).maker, Maker::Unsettled);
    trace.end(ONE);
    assert_eq!(trace.stack(stack).maker, Maker::Program);
}

/// A killed thread gives nothing back; that proves nothing.
#[test]
fn a_killed_thread_does_not_settle_for_the_program() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.thread(ONE, stack);
    trace.happen(ONE, EventKind::Ended(Exit::Signal(9)));
    assert_eq!(trace.stack(stack).maker, Maker::Glibc);
}

/// Of small stacks glibc gives nothing back either.
#[test]
fn silence_about_a_small_stack_proves_nothing() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, 8 * PAGE, RW, LIBRARY);
    trace.thread(ONE, stack);
    trace.end(ONE);
    assert_eq!(trace.stack(stack).maker, Maker::Glibc);
}

/// Who prepares stacks ahead of the threads is a program: glibc maps, guards and clones in one go.
#[test]
fn stacks_prepared_ahead_are_the_programs() {
    let mut trace = Trace::new();
    let first = trace.mmap(MAIN, STACK, RW, LIBRARY);
    let second = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.thread(ONE, first);
    trace.thread(TWO, second);
    assert_eq!(trace.stack(second).maker, Maker::Program);
}

/// So is who maps for another thread, without MAP_STACK, or trims first.
#[test]
fn other_habits_are_the_programs() {
    let mut trace = Trace::new();
    let by_other = trace.mmap(TWO, STACK, RW, LIBRARY);
    trace.thread(TWO, by_other);
    let of_other = trace.mmap(TWO, STACK, RW, LIBRARY);
    trace.thread(ONE, of_other);
    let plain = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.thread(THREE, plain);
    let block = trace.mmap(MAIN, 2 * STACK, RW, LIBRARY);
    trace.munmap(part(block, STACK, STACK));
    trace.thread(Tid(14), part(block, 0, STACK));
    assert_eq!([of_other, plain, block].map(|stack| trace.stack(stack).maker), [Maker::Program; 3]);
}

/// A raw clone keeps no descriptor in its stack.
#[test]
fn a_raw_clone_is_on_the_programs_stack() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.raw(ONE, stack);
    assert_eq!(trace.stack(stack).maker, Maker::Program);
}

/// Opening all of a mapping leaves no guard, which is not how glibc does it.
#[test]
fn a_mapping_opened_whole_has_no_guard() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, NONE, LIBRARY);
    trace.mprotect(MAIN, stack, RW);
    trace.thread(ONE, stack);
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Unsettled, 0));
    assert!(trace.mapping(stack).guarded.is_none());
}
