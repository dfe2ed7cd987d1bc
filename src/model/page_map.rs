//! Which pages hold what: ranges that split when a part of them changes and merge when their values are equal again.
//!
//! The mechanism only. What a value means, and what makes two of them equal, is the user's business; a value has to
//! survive a split, so it holds `file offset − address` rather than an offset.

use nodit::interval::ii;
use nodit::{Interval, NoditMap};

use crate::units::{Addr, PAGE, Range};

/// Values by page.
#[derive(Clone, Debug)]
pub struct PageMap<V> {
    /// Keys are page numbers, both ends inclusive.
    map: NoditMap<u64, Interval<u64>, V>,
}

impl<V> Default for PageMap<V> {
    fn default() -> Self {
        PageMap { map: NoditMap::new() }
    }
}

impl<V: Clone + Eq> PageMap<V> {
    /// Takes all that lies in `range` out, and returns it, lowest first.
    pub fn cut(&mut self, range: Range) -> impl Iterator<Item = (Range, V)> {
        self.map.cut(&key(range)).map(|(pages, value)| (range_of(pages), value))
    }

    /// Puts `value`, which no neighbour equals, on `range` if nothing lies there, and says whether that was so.
    pub fn put(&mut self, range: Range, value: V) -> bool {
        self.map.insert_strict(key(range), value).is_ok()
    }

    /// Puts `value` on `range`, whatever lay there before, and merges it with equal neighbours.
    pub fn set(&mut self, range: Range, value: V) {
        drop(self.map.cut(&key(range)));
        // The range has just been made free, which is the one way for this to fail.
        let _ = self.map.insert_merge_touching_if_values_equal(key(range), value);
    }

    /// Replaces every value in `range` by what `change` makes of it; holes stay holes.
    pub fn update(&mut self, range: Range, mut change: impl FnMut(V) -> V) {
        // One piece that stays as it is, the usual case of a repeated mprotect or madvise.
        if let Some((piece, value)) = self.at(range.start())
            && piece.covers(range)
            && change(value.clone()) == *value
        {
            return;
        }
        let pieces: Vec<(Range, V)> = self.cut(range).collect();
        for (piece, value) in pieces {
            self.set(piece, change(value));
        }
    }

    /// The piece that holds `addr`, whole.
    pub fn at(&self, addr: Addr) -> Option<(Range, &V)> {
        let (pages, value) = self.map.get_key_value_at_point(&(addr.0 / PAGE)).ok()?;
        Some((range_of(*pages), value))
    }

    /// All that lies in `range`, lowest first, the first and the last piece cut to it.
    pub fn overlapping(&self, range: Range) -> impl DoubleEndedIterator<Item = (Range, &V)> {
        self.map
            .overlapping(&key(range))
            .filter_map(move |(pages, value)| Some((range_of(*pages).intersection(range)?, value)))
    }

    /// The lowest address of `range` that holds nothing.
    pub fn first_hole(&self, range: Range) -> Option<Addr> {
        let mut covered = range.start();
        for (piece, _) in self.overlapping(range) {
            if piece.start() > covered {
                break;
            }
            covered = piece.end();
        }
        (covered < range.end()).then_some(covered)
    }

    /// Everything, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = (Range, &V)> {
        self.map.iter().map(|(pages, value)| (range_of(*pages), value))
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

fn key(range: Range) -> Interval<u64> {
    ii(range.start().0 / PAGE, range.end().0 / PAGE - 1)
}

fn range_of(pages: Interval<u64>) -> Range {
    Range::new(Addr(pages.start() * PAGE), Addr((pages.end() + 1) * PAGE))
        .expect("a key covers one page or more, and came from a range")
}
