//! More than can be kept in mind.

use super::*;

/// A model that keeps 100 mappings, and a process with so many.
fn with(mappings: u64) -> Trace {
    let mut trace = Trace::new();
    trace.model.most_mappings = 100;
    for _ in 0..mappings {
        trace.mmap(MAIN, PAGE, RW, PLAIN);
    }
    trace
}

/// A child whose copy would be too much is given up, and its parent is not; nor are its children known, or what they map.
#[test]
fn a_child_too_many() {
    let mut trace = with(60);
    trace.fork(MAIN, ONE);
    assert_eq!((trace.model.given_up(), trace.model.mappings_live()), (1, 60));
    trace.fork(ONE, TWO);
    for task in [ONE, TWO] {
        let known = trace.mmap(task, PAGE, RW, PLAIN);
        trace.call(task, Call::Munmap { addr: known.start(), len: PAGE }, Ok(0));
        trace.happen(task, EventKind::Maps([line(known, READ_WRITE, "")].into()));
    }
    assert_eq!((trace.model.given_up(), trace.model.mappings_live()), (1, 60));
    assert_eq!((trace.space().is_opaque, trace.space_of(TWO).is_opaque), (false, true));
    trace.happen(ONE, EventKind::Ended(Exit::Code(0)));
    trace.happen(TWO, EventKind::Ended(Exit::Code(0)));
    assert_eq!(trace.model.mappings, 60);
}

/// What is gone makes room.
#[test]
fn room_for_others() {
    let mut trace = with(60);
    let last = trace.mmap(MAIN, PAGE, RW, PLAIN);
    trace.munmap(range(last.start().0 - 50 * PAGE, 51 * PAGE));
    for child in [ONE, TWO, ONE, TWO, ONE] {
        trace.fork(MAIN, child);
    }
    assert_eq!((trace.model.given_up(), trace.model.mappings_live(), trace.model.mappings), (0, 30, 30));
    trace.happen(ONE, exec(ONE));
    assert_eq!((trace.model.mappings_live(), trace.model.mappings), (20, 20));
}

/// A process that maps too much is given up, and known again after execve.
#[test]
fn a_mapping_too_many() {
    let mut trace = with(101);
    assert_eq!((trace.model.given_up(), trace.model.mappings_live(), trace.space().is_opaque), (1, 0, true));
    trace.happen(MAIN, exec(MAIN));
    trace.mmap(MAIN, PAGE, RW, PLAIN);
    assert_eq!((trace.model.given_up(), trace.model.mappings_live(), trace.space().is_opaque), (1, 1, false));
}
