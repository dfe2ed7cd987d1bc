//! What each place that creates threads has done so far.

use std::collections::HashMap;

use super::mapping::Ended;
use crate::units::{CallStackId, NumberSet, Time};

/// Identifies the place in the program that created a thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteKey {
    /// Size of the stacks, in bytes.
    pub region_bytes: u64,
    /// Where the threads are created; none where that could not be seen.
    pub call_stack: Option<CallStackId>,
}

/// What a site has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site {
    /// Threads created.
    pub created: u64,
    /// How many of them got the stack of an ended one.
    pub reused: u64,
    /// How many of them, ended, left their stack to another thread.
    pub passed_on: u64,
    /// Stacks unmapped, whole, after their owner's end.
    pub unmapped_after_end: u64,
    /// When the latest owner had ended of those whose stacks were used again, or unmapped.
    pub let_go_up_to: Option<Time>,
}

impl Site {
    /// Whether a stack of an ended thread of this site was ever used again, or unmapped.
    pub fn lets_go(&self) -> bool {
        self.passed_on > 0 || self.unmapped_after_end > 0
    }

    /// A stack was used again, or unmapped, after its owner's end at this time.
    pub fn let_go(&mut self, ended: Option<Ended>) {
        self.let_go_up_to = self.let_go_up_to.max(ended.map(|ended| ended.at));
    }

    /// Whether a stack may still have its turn: the site lets go of stacks, and so far of none whose owner has ended later.
    pub fn may_let_go(&self, ended: Ended) -> bool {
        self.lets_go() && self.let_go_up_to.is_none_or(|latest| latest < ended.at)
    }
}

/// The sites of one address space.
#[derive(Clone, Debug, Default)]
pub struct Sites(HashMap<SiteKey, Site>);

impl Sites {
    /// What the site has done.
    pub fn get(&self, key: SiteKey) -> Site {
        self.0.get(&key).copied().unwrap_or_default()
    }

    /// All sites.
    pub fn iter(&self) -> impl Iterator<Item = (&SiteKey, &Site)> {
        self.0.iter()
    }

    /// The site's record, to be changed.
    pub fn entry(&mut self, key: SiteKey) -> &mut Site {
        self.0.entry(key).or_default()
    }
}

/// Sizes of which a mapping, once, was unmapped: such sizes are none that is never freed.
///
/// Bounded, since a program may map any number of sizes: what does not fit counts as freed.
#[derive(Clone, Debug, Default)]
pub struct FreedSizes(NumberSet<u64>);

impl FreedSizes {
    const MOST: usize = 4096;

    /// A mapping of this size was unmapped.
    pub fn add(&mut self, bytes: u64) {
        if self.0.len() < Self::MOST {
            self.0.insert(bytes);
        }
    }

    /// Whether one of this size may have been unmapped.
    pub fn may_contain(&self, bytes: u64) -> bool {
        self.0.len() >= Self::MOST || self.0.contains(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond the sizes that are told apart each counts as freed: no finding rests on what has been forgotten.
    #[test]
    fn freed_sizes_are_bounded() {
        let mut sizes = FreedSizes::default();
        for bytes in 1..FreedSizes::MOST as u64 {
            sizes.add(bytes);
        }
        assert!(sizes.may_contain(1) && !sizes.may_contain(1 << 30));
        for bytes in 10_000..20_000 {
            sizes.add(bytes);
        }
        assert_eq!(sizes.0.len(), FreedSizes::MOST);
        assert!(sizes.may_contain(1) && sizes.may_contain(1 << 30));
    }
}
