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

/// The main thread's stack is the kernel's, not the program's to free.
#[test]
fn the_main_stack_is_no_finding() {
    let maps = [line(range(0x2000, 8 * PAGE), READ_WRITE, "[stack]")];
    let trace = Trace::attached(&maps, &[(MAIN, Some(0x8800), None)]);
    let mapping = trace.space().mappings.values().next().unwrap();
    assert_eq!((mapping.kind, mapping.stack.is_none()), (Kind::MainStack, true));
}
