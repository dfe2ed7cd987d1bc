//! What a fresh stack tells about those that lay idle when it was mapped.

use super::*;

/// A fresh stack proves that an idle one of the same size was not in the cache.
#[test]
fn a_fresh_stack_passes_over_an_idle_one() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.wait(10);
    let fresh = trace.glibc_stack(STACK);
    assert!(!trace.passed_over(idle), "a mapping alone proves nothing");
    trace.thread(TWO, fresh);
    assert!(trace.passed_over(idle));
    assert!(!trace.passed_over(fresh));
}

/// The library looks at its cache a moment before it maps: what ended within 10 ms may have come too late for it,
/// and waits for the next fresh one.
#[test]
fn ten_milliseconds_are_too_short() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.wait(9);
    trace.unjoined(TWO, STACK);
    assert!(!trace.passed_over(idle));
    trace.wait(9);
    trace.unjoined(THREE, STACK);
    assert!(trace.passed_over(idle));
}

/// The cache serves a request with a stack of its size up to four times that.
#[test]
fn only_fitting_stacks_are_passed_over() {
    for (idle_bytes, fits) in [(STACK - PAGE, false), (STACK, true), (4 * STACK, true), (4 * STACK + PAGE, false)] {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, idle_bytes);
        trace.wait(20);
        trace.unjoined(TWO, STACK);
        assert_eq!(trace.passed_over(idle), fits, "{idle_bytes} bytes idle, {STACK} wanted");
    }
}

/// A program is expected to reuse a stack for the same size only, and glibc's cache is not its own.
#[test]
fn makers_are_told_apart() {
    let mut trace = Trace::new();
    let [same, larger] = [STACK, 2 * STACK].map(|bytes| trace.mmap(MAIN, bytes, RW, PLAIN));
    let cached = trace.unjoined(ONE, STACK);
    trace.raw(TWO, same);
    trace.raw(THREE, larger);
    trace.end(TWO);
    trace.end(THREE);
    trace.wait(20);
    let fresh = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.raw(ONE, fresh);
    assert_eq!([same, larger, cached].map(|stack| trace.passed_over(stack)), [true, false, false]);
}

/// A stack that only its end shows to be glibc's passes over those that were idle when it was mapped, not later.
#[test]
fn what_settles_late_counts_from_its_mapping() {
    let mut trace = Trace::new();
    let before = trace.unjoined(ONE, STACK);
    trace.wait(20);
    let fresh = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.thread(TWO, fresh);
    let after = trace.glibc_stack(2 * STACK);
    trace.thread(THREE, after);
    trace.end_released(THREE, after);
    trace.wait(20);
    assert!(!trace.passed_over(before), "whose it is is not known yet");
    trace.end_released(TWO, fresh);
    assert!(trace.passed_over(before));
    assert!(!trace.passed_over(after));
}

/// A reused stack is fresh evidence of nothing, and has not been passed over any more.
#[test]
fn a_reused_stack_starts_over() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.wait(20);
    let fresh = trace.unjoined(TWO, STACK);
    trace.wait(20);
    trace.thread(THREE, idle);
    assert!(!trace.passed_over(idle));
    assert!(!trace.passed_over(fresh));
}

/// An unmapped stack waits no more: its name may not be met again.
#[test]
fn an_unmapped_stack_waits_no_more() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.munmap(idle);
    trace.wait(20);
    let fresh = trace.unjoined(TWO, STACK);
    assert!(!trace.passed_over(fresh));
}

/// Of two idle stacks of one size the one that is used again waits no more, and the other still does.
#[test]
fn only_the_reused_stack_waits_no_more() {
    let mut trace = Trace::new();
    let stacks = [ONE, TWO].map(|tid| {
        let stack = trace.glibc_stack(STACK);
        trace.thread(tid, stack);
        (tid, stack)
    });
    for (tid, stack) in stacks {
        trace.end_released(tid, stack);
    }
    trace.thread(THREE, stacks[0].1);
    trace.wait(20);
    trace.unjoined(ONE, STACK);
    assert_eq!(stacks.map(|(_, stack)| trace.passed_over(stack)), [false, true]);
}

/// A stack that turns out to be the program's at its second end was not mapped for that owner, so it passes over none.
#[test]
fn a_second_owner_settles_without_passing_over() {
    let mut trace = Trace::new();
    let idle = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.raw(ONE, idle);
    trace.end(ONE);
    trace.wait(20);
    let stack = trace.unjoined(TWO, STACK);
    trace.thread(THREE, stack);
    trace.end(THREE);
    assert_eq!(trace.stack(stack).maker, Maker::Program);
    assert!(!trace.passed_over(idle));
}
