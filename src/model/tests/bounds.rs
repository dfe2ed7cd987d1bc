//! The model's size follows what is alive, not what has happened.

use super::*;

const ROUNDS: u32 = 100_000;

/// What the model knows after many rounds is what it knew after a few, but for some digits.
fn check_bound(mut trace: Trace, mut round: impl FnMut(&mut Trace, u32)) {
    for count in 0..100 {
        round(&mut trace, count);
    }
    let (before, mappings) = (trace.size(), trace.model.mappings_live());
    for count in 100..ROUNDS {
        round(&mut trace, count);
    }
    assert_eq!(trace.model.mappings_live(), mappings);
    assert!(trace.size() < before + 200, "{before} bytes have become {}", trace.size());
}

/// A thread that comes and goes on a cached stack.
#[test]
fn threads_on_a_reused_stack_leave_nothing() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    check_bound(trace, |trace, count| {
        let tid = Tid(100 + count as i32 % 30_000);
        trace.thread(tid, stack);
        trace.end_released(tid, stack);
    });
}

/// A thread on a stack that is mapped for it and unmapped afterwards.
#[test]
fn threads_on_fresh_stacks_leave_nothing() {
    check_bound(Trace::new(), |trace, count| {
        trace.next = 0x7000_0000_0000;
        let stack = trace.unjoined(Tid(100 + count as i32 % 30_000), STACK);
        trace.munmap(stack);
    });
}

/// A mapping that comes and goes, at changing places.
#[test]
fn mappings_leave_nothing() {
    check_bound(Trace::new(), |trace, count| {
        let range = trace.mmap_at(MAIN, Addr(u64::from(count % 1000 + 1) * STACK), STACK, RW, PLAIN);
        trace.mprotect(MAIN, guard(range), NONE);
        trace.munmap(range);
    });
}

/// Processes that are forked, execute another program and end.
#[test]
fn processes_leave_nothing() {
    let mut trace = Trace::new();
    trace.unjoined(ONE, STACK);
    check_bound(trace, |trace, count| {
        let child = Tid(100 + count as i32 % 30_000);
        trace.fork(MAIN, child);
        trace.exec(child, child);
        trace.end(child);
    });
}

/// Sizes that are mapped and freed once each are remembered up to a limit.
#[test]
fn freed_sizes_are_bounded() {
    let mut trace = Trace::new();
    for pages in 1..10_000 {
        let range = trace.mmap_at(MAIN, Addr(PAGE), pages * PAGE, RW, PLAIN);
        trace.munmap(range);
    }
    assert!(trace.size() < 100_000);
    assert!(trace.space().freed_sizes.may_contain(9_999 * PAGE), "what is not remembered counts as freed");
}

/// A number that is given again although its task is not known to have ended leaves no address space behind.
#[test]
fn numbers_that_come_back_leave_nothing() {
    check_bound(Trace::new(), |trace, _| trace.fork(MAIN, ONE));
}
