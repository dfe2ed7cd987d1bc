//! The loop itself, with records that are there already: no CPU is watched.

use super::points::Point;
use super::record::Snapshot;
use super::*;
use crate::source::control::Manners;
use crate::source::ptrace::decode::Followed;

/// A number that no task of the system has, so that nothing is read from /proc.
const MAIN: i32 = i32::MAX - 10;

fn perf() -> Perf {
    let mut perf = Perf::new(Pid(MAIN), Rings::none());
    let space = perf.stream.new_space();
    perf.stream.add(Tid(MAIN), Pid(MAIN), space);
    perf
}

/// An munmap that has returned at `at`, with a copy of the stack of this size.
fn munmap(at: u64, stack_bytes: usize) -> Record {
    let stack = vec![0; stack_bytes].into_boxed_slice();
    let snapshot = Snapshot { registers: record::no_registers(), stack };
    let what = What::CallWithStack(Point::Exit(Followed::Munmap), Box::new(snapshot));
    Record { at, tid: Tid(MAIN), pid: Pid(MAIN), what }
}

/// What was asked is answered when all that happened before has been told, whatever has happened since: where records come
/// faster than they can be told, there always is more.
#[test]
fn a_question_does_not_wait_for_what_comes_after_it() {
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    let begin = monotonic_ns() - 1_000_000_000;
    for after in 0..10 {
        perf.sorter.push(munmap(begin + after, 0));
    }
    perf.asked_at = Some(begin + 3);
    let mut told = 0;
    while let Next::Event(_) = perf.next(&control).unwrap() {
        told += 1;
    }
    assert_eq!((told, perf.asked_at), (4, None), "0 to 3 come before the answer");
    let next = perf.next(&control).unwrap();
    assert!(matches!(next, Next::Event(_)), "{next:?}");
}

/// Who is too slow for the target does not fall behind for ever: while much is pending, no ring is read.
#[test]
fn no_more_is_read_than_can_be_told() {
    const EACH: usize = 1 << 20;
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    perf.round();
    perf.round();
    let full = MOST_PENDING / EACH + 2;
    for _ in 0..full {
        perf.sorter.push(munmap(1, EACH));
    }
    let mut left_alone = 0;
    while perf.sorter.pending_bytes() >= MOST_PENDING {
        // Long ago.
        perf.last_round = 0;
        assert!(matches!(perf.next(&control), Ok(Next::Event(_))));
        left_alone += u32::from(perf.last_round == 0);
    }
    assert!(left_alone >= 2, "read although {MOST_PENDING} bytes were pending");
    perf.last_round = 0;
    assert!(matches!(perf.next(&control), Ok(Next::Event(_))));
    assert_ne!(perf.last_round, 0, "and then it is read again");
}
