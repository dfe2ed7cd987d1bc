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

fn fork(at: u64, parent: i32, child: i32) -> Record {
    let what = What::Fork { child: Tid(child), child_pid: Pid(child) };
    Record { at, tid: Tid(parent), pid: Pid(parent), what }
}

fn taken_in(perf: &mut Perf) -> Vec<(u64, Pid)> {
    perf.sorter.pending().map(|record| (record.at, record.pid)).collect()
}

/// A child's records may be read in the round before that of its parent's fork, or before it in the same round, and what the
/// child forks at once is followed too.
#[test]
fn records_of_children_may_come_before_their_forks() {
    const CHILD: i32 = MAIN + 1;
    const GRANDCHILD: i32 = MAIN + 2;
    let mut perf = perf();
    let at = monotonic_ns();
    perf.batch.push(Record { tid: Tid(CHILD), pid: Pid(CHILD), ..munmap(at + 1, 0) });
    perf.round();
    assert_eq!(taken_in(&mut perf), []);
    let grandchild = Record { tid: Tid(GRANDCHILD), pid: Pid(GRANDCHILD), ..munmap(at + 3, 0) };
    perf.batch.extend([grandchild, fork(at + 2, CHILD, GRANDCHILD), fork(at, MAIN, CHILD)]);
    perf.round();
    let expected = [(at, MAIN), (at + 1, CHILD), (at + 2, CHILD), (at + 3, GRANDCHILD)];
    assert_eq!(taken_in(&mut perf), expected.map(|(at, pid)| (at, Pid(pid))));
}

/// Other processes' records are forgotten as soon as no fork can come any more that makes them followed ones'.
#[test]
fn strangers_are_forgotten() {
    let mut perf = perf();
    let at = monotonic_ns();
    perf.batch.push(Record { tid: Tid(1), pid: Pid(1), ..munmap(at, 0) });
    perf.round();
    assert_eq!(perf.batch.len(), 1);
    while perf.sorter.horizon() <= at {
        perf.round();
    }
    assert_eq!((perf.batch.len(), taken_in(&mut perf)), (0, vec![]));
}

/// A record that comes behind later ones may have been told in the wrong order: /proc is asked what is right.
#[test]
fn what_comes_late_is_put_right() {
    let mut perf = perf();
    let begin = monotonic_ns() - 1_000_000_000;
    perf.batch.push(munmap(begin + 10, 0));
    perf.round();
    perf.round();
    assert!(perf.advance() && !perf.to_heal);
    perf.batch.push(munmap(begin, 0));
    perf.round();
    assert!(perf.to_heal);
}

/// A process that has executed two programs before anybody looked: what was seen is the second one's image.
#[test]
fn an_image_is_that_of_the_last_execve_before_it_was_read() {
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    let at = monotonic_ns() - 1_000_000_000;
    let executed = |at| {
        let what = What::Executed { by_leader: true, is_i386: false };
        Record { at, tid: Tid(MAIN), pid: Pid(MAIN), what }
    };
    for at in [at, at + 100] {
        perf.sorter.push(executed(at));
    }
    let maps = procfs::maps::read(crate::sys::own_tid()).unwrap();
    let new = look::NewImage { maps, ..Default::default() };
    let image = Image { new, read_from: at + 200, read_until: at + 300 };
    perf.images.entry(Pid(MAIN)).or_default().push_back(image);
    let mut lines = Vec::new();
    while lines.len() < 2 {
        if let Next::Event(Event { kind: EventKind::Exec(exec), .. }) = perf.next(&control).unwrap() {
            lines.push(exec.maps.len());
        }
    }
    assert!(lines[0] == 0 && lines[1] > 0, "{lines:?}");
}
