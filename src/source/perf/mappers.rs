//! Which mmap calls bring their call stack: those that may map a program's own stacks.
//!
//! That a mapping is a stack shows only when a task is created on it. So the first few calls of each size are looked at,
//! and all of a size that has been used so. The kernel passes over the others: a copy of the stack costs more than the call.

use std::collections::HashMap;

use crate::event::Call;
use crate::units::{Tid, page_up};

/// So many calls of a size are looked at without a reason.
const FIRST: u32 = 4;
/// So many sizes are told to the kernel one by one.
const MOST_SIZES: usize = 32;
/// So many tasks are.
const MOST_TASKS: usize = 32;
/// The filter is changed no more often than this, in nanoseconds.
const CHANGE_EVERY: u64 = 50_000_000;

/// What the filter of mmap calls is, and is to be.
#[derive(Debug, Default)]
pub struct Mappers {
    /// How often each length was seen.
    seen: HashMap<u64, u32>,
    /// Sizes of stacks, in whole pages.
    stacks: Vec<u64>,
    /// Lengths that are of no interest.
    dull: Vec<u64>,
    /// The followed tasks, unless there are too many to name.
    tasks: Vec<Tid>,
    /// The number of the newest task when these were.
    newest: i32,
    /// There are too many lengths to name those of no interest.
    crowded: bool,
    changed: bool,
    changed_at: u64,
}

impl Mappers {
    /// The followed tasks, and the number that the kernel has given last to a new one: of others nothing is copied, but of
    /// those to come, which may be followed ones.
    pub fn follow(&mut self, tasks: impl Iterator<Item = Tid>, newest: i32) {
        let mut tasks: Vec<Tid> = tasks.take(MOST_TASKS + 1).collect();
        tasks.sort_unstable();
        if tasks != self.tasks {
            (self.tasks, self.newest, self.changed) = (tasks, newest, true);
        }
    }

    /// A call was looked at.
    pub fn seen(&mut self, call: &Call) {
        let Call::Mmap { len, .. } = *call else { return };
        if self.crowded || self.stacks.contains(&page_up(len)) {
            return;
        }
        let seen = self.seen.entry(len).or_default();
        *seen += 1;
        if *seen == FIRST {
            self.dull.push(len);
            self.changed = true;
        }
        if self.dull.len() > MOST_SIZES || self.seen.len() > 8 * MOST_SIZES {
            (self.crowded, self.changed) = (true, true);
            self.seen.clear();
        }
    }

    /// Mappings of this size, in whole pages, are used as stacks.
    pub fn expect(&mut self, bytes: u64) {
        if self.stacks.contains(&bytes) || self.stacks.len() >= MOST_SIZES {
            return;
        }
        self.stacks.push(bytes);
        self.dull.retain(|len| page_up(*len) != bytes);
        self.changed = true;
    }

    /// The new filter, if it is time for one; none inside where no call is to be looked at.
    pub fn change(&mut self, now: u64) -> Option<Option<String>> {
        if !self.changed || now.saturating_sub(self.changed_at) < CHANGE_EVERY {
            return None;
        }
        (self.changed, self.changed_at) = (false, now);
        Some(self.filter())
    }

    /// In the words of Documentation/trace/events.rst: MAP_PRIVATE, MAP_ANONYMOUS and PROT_WRITE, and the length.
    fn filter(&self) -> Option<String> {
        const KIND: &str = "flags & 2 && flags & 32 && prot & 2";
        let sizes: Vec<String> = if self.crowded {
            if self.stacks.is_empty() {
                return None;
            }
            let size = |bytes: &u64| format!("(len > {} && len <= {bytes})", bytes - crate::units::PAGE);
            let any: Vec<String> = self.stacks.iter().map(size).collect();
            vec![format!("({})", any.join(" || "))]
        } else {
            self.dull.iter().map(|len| format!("len != {len}")).collect()
        };
        let newer = format!("common_pid > {}", self.newest);
        let tasks: Vec<String> = self.tasks.iter().map(|tid| format!("common_pid == {tid}")).chain([newer]).collect();
        let tasks = (2..=MOST_TASKS + 1).contains(&tasks.len()).then(|| format!("({})", tasks.join(" || ")));
        Some(tasks.into_iter().chain([KIND.to_owned()]).chain(sizes).collect::<Vec<_>>().join(" && "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Addr;

    const KIND: &str = "flags & 2 && flags & 32 && prot & 2";

    fn see(mappers: &mut Mappers, len: u64, times: u32) {
        for _ in 0..times {
            mappers.seen(&Call::Mmap { addr: Addr(0), len, prot: 3, flags: 0x22, fd: -1, offset: 0 });
        }
    }

    /// A size that has been looked at a few times is passed over, until a stack turns out to have it.
    #[test]
    fn sizes_are_dull_until_they_are_those_of_stacks() {
        let mut mappers = Mappers::default();
        see(&mut mappers, 5000, FIRST - 1);
        assert_eq!(mappers.change(CHANGE_EVERY), None);
        see(&mut mappers, 5000, 1);
        assert_eq!(mappers.change(CHANGE_EVERY), Some(Some(format!("{KIND} && len != 5000"))));
        mappers.expect(8192);
        assert_eq!(mappers.change(CHANGE_EVERY), None, "too early");
        assert_eq!(mappers.change(2 * CHANGE_EVERY), Some(Some(KIND.to_owned())));
        see(&mut mappers, 5000, 10);
        assert_eq!(mappers.change(3 * CHANGE_EVERY), None);
    }

    /// Of the mappings of others nothing is copied; of too many tasks they cannot be told apart.
    #[test]
    fn tasks_are_named() {
        let mut mappers = Mappers::default();
        mappers.follow([Tid(9), Tid(7)].into_iter(), 12);
        let two = format!("(common_pid == 7 || common_pid == 9 || common_pid > 12) && {KIND}");
        assert_eq!(mappers.change(CHANGE_EVERY), Some(Some(two)));
        mappers.follow([Tid(7), Tid(9)].into_iter(), 13);
        assert_eq!(mappers.change(2 * CHANGE_EVERY), None);
        mappers.follow((1..100).map(Tid), 100);
        assert_eq!(mappers.change(2 * CHANGE_EVERY), Some(Some(KIND.to_owned())));
    }

    /// With too many sizes only those of stacks are looked at.
    #[test]
    fn too_many_sizes_are_not_told_apart() {
        let mut mappers = Mappers::default();
        for size in 0..=MOST_SIZES as u64 {
            see(&mut mappers, 4096 * (size + 1), FIRST);
        }
        assert_eq!(mappers.change(CHANGE_EVERY), Some(None));
        mappers.expect(8192);
        let only = format!("{KIND} && ((len > 4096 && len <= 8192))");
        assert_eq!(mappers.change(2 * CHANGE_EVERY), Some(Some(only)));
    }

    /// Of too many sizes of stacks the first are looked at, and lengths that are seen once each are not counted without end.
    #[test]
    fn sizes_are_bounded() {
        let mut mappers = Mappers::default();
        for pages in 1..=100 {
            mappers.expect(4096 * pages);
        }
        assert_eq!((mappers.stacks.len(), mappers.stacks[0]), (MOST_SIZES, 4096));
        for number in 0..10_000 {
            see(&mut mappers, (1 << 30) + 4096 * number, 1);
            assert!(mappers.seen.len() <= 8 * MOST_SIZES);
        }
        let filter = mappers.change(CHANGE_EVERY).unwrap().unwrap();
        assert_eq!(filter.matches("len <=").count(), MOST_SIZES);
    }
}
