//! Records of all CPUs, put into one order.

use std::collections::VecDeque;

use super::record::Record;

/// A record is written a moment after its time was taken, in which its CPU may be interrupted: so much later it is taken
/// to be there.
const SLACK_NS: u64 = 1_000_000;

/// For so many room is kept.
const FEW: usize = 1024;

/// Collects records in rounds, in each of which all rings are read; gives them in the order of their times.
#[derive(Debug, Default)]
pub struct Sorter {
    pending: VecDeque<Record>,
    /// Their size in memory.
    bytes: usize,
    /// How many of them are in order, from the front.
    sorted: usize,
    /// When the latest two rounds began.
    rounds: [u64; 2],
    /// All that is older has been given.
    given: u64,
    late: bool,
}

impl Sorter {
    /// A round begins: all rings are read from now on.
    pub fn begin_round(&mut self, now: u64) {
        self.rounds = [self.rounds[1], now];
    }

    /// Gives up the room that only a burst has needed.
    pub fn shrink(&mut self) {
        self.pending.shrink_to(FEW);
    }

    /// Forgets all that has not been given.
    pub fn clear(&mut self) {
        self.pending.clear();
        (self.bytes, self.sorted) = (0, 0);
    }

    /// Takes a record of this round.
    pub fn push(&mut self, record: Record) {
        self.late |= record.at < self.given;
        self.bytes += record.bytes();
        self.pending.push_back(record);
    }

    /// All records that are older than this are there: every ring has been read since, in a round that began after it.
    pub fn horizon(&self) -> u64 {
        self.rounds[0].min(self.rounds[1].saturating_sub(SLACK_NS))
    }

    /// The next record that is older than the horizon.
    pub fn pop(&mut self) -> Option<Record> {
        self.sort();
        if self.pending.front()?.at >= self.horizon() {
            return None;
        }
        self.sorted -= 1;
        let record = self.pending.pop_front()?;
        self.bytes -= record.bytes();
        self.given = self.given.max(record.at);
        Some(record)
    }

    /// The time of the next record, whether it can be had already or not.
    pub fn next_at(&mut self) -> Option<u64> {
        self.sort();
        self.pending.front().map(|record| record.at)
    }

    /// All that have not been given, oldest first.
    pub fn pending(&mut self) -> impl Iterator<Item = &Record> {
        self.sort();
        self.pending.iter()
    }

    /// How much memory those take that have not been given.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some came too late to be put in their place since this was last asked: their CPU was taken away between the
    /// moment that they tell of and their being written, as hypervisors do.
    pub fn take_late(&mut self) -> bool {
        std::mem::take(&mut self.late)
    }

    fn sort(&mut self) {
        if self.sorted < self.pending.len() {
            // Stable, so that records of one CPU keep their order, and fast on what consists of ordered runs.
            self.pending.make_contiguous().sort_by_key(|record| record.at);
            self.sorted = self.pending.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::What;
    use super::*;
    use crate::units::{Pid, Tid};

    fn record(at: u64, tid: i32) -> Record {
        Record { at, tid: Tid(tid), pid: Pid(1), what: What::Exited }
    }

    fn given(sorter: &mut Sorter) -> Vec<(u64, i32)> {
        std::iter::from_fn(|| sorter.pop()).map(|record| (record.at, record.tid.0)).collect()
    }

    /// A record that one ring shows may have an older one in another ring, which was read before that was there.
    #[test]
    fn nothing_is_given_before_all_rings_have_been_read_again() {
        let mut sorter = Sorter::default();
        sorter.begin_round(10_000_000);
        sorter.push(record(9_000_000, 1));
        assert_eq!(given(&mut sorter), []);
        sorter.begin_round(20_000_000);
        sorter.push(record(8_999_999, 2));
        assert_eq!(given(&mut sorter), [(8_999_999, 2), (9_000_000, 1)]);
        assert!(!sorter.take_late());
    }

    /// What a burst has taken is given back when it has been told.
    #[test]
    fn a_burst_leaves_no_room_behind() {
        let mut sorter = Sorter::default();
        for at in [5_000_000, 50_000_000] {
            sorter.begin_round(at);
        }
        (0..100_000).for_each(|at| sorter.push(record(at, 1)));
        let most = sorter.pending.capacity();
        sorter.shrink();
        assert!(sorter.pending.capacity() >= 100_000, "it has not been told");
        assert_eq!(given(&mut sorter).len(), 100_000);
        sorter.shrink();
        assert!(most >= 100_000 && sorter.pending.capacity() <= 2 * FEW, "{}", sorter.pending.capacity());
    }

    /// Rounds that follow each other at once leave a record time to be written.
    #[test]
    fn a_record_has_time_to_be_written() {
        let mut sorter = Sorter::default();
        sorter.begin_round(10_000_000);
        sorter.begin_round(10_000_100);
        sorter.push(record(9_500_000, 1));
        assert_eq!(given(&mut sorter), []);
        sorter.begin_round(10_500_001);
        assert_eq!(given(&mut sorter), [(9_500_000, 1)]);
    }

    /// Records of the same time keep the order of their ring; one that comes too late is given all the same, and that is told.
    #[test]
    fn what_comes_late_is_told() {
        let mut sorter = Sorter::default();
        for at in [5_000_000, 50_000_000] {
            sorter.begin_round(at);
        }
        for tid in 1..4 {
            sorter.push(record(1, tid));
        }
        assert_eq!(given(&mut sorter), [(1, 1), (1, 2), (1, 3)]);
        sorter.push(record(3, 4));
        assert_eq!(given(&mut sorter), [(3, 4)]);
        sorter.push(record(2, 5));
        assert_eq!(given(&mut sorter), [(2, 5)]);
        assert_eq!([sorter.take_late(), sorter.take_late()], [true, false]);
    }
}
