//! Which pages hold what: ranges that split when a part of them changes and merge when their values are equal again.
//!
//! The mechanism only. What a value means, and what makes two of them equal, is the user's business; a value has to
//! survive a split, so it holds `file offset − address` rather than an offset.
//!
//! Pieces lie in order in short runs, and the first page of each run in one array: a look-up is two binary searches in
//! memory that is close together, and a change moves a few hundred bytes. Replaying a log of 4 million mapping calls took nearly
//! three times as long with an interval map made of B-trees (nodit).

use std::cell::Cell;
use std::fmt;

use crate::units::{Addr, PAGE, Range};

/// Pieces in a run, at most.
const MOST: usize = 64;

/// A run of fewer is put together with its neighbour where there is room.
const FEW: usize = MOST / 4;

/// Values by page.
#[derive(Clone, Debug)]
pub struct PageMap<V> {
    /// Never empty runs, lowest first.
    runs: Vec<Vec<Piece<V>>>,
    /// The first page of each run.
    firsts: Vec<u64>,
    pieces: usize,
    found: Found,
}

/// The page that was looked for last, and its place, unless something has changed since. What a call changes is looked up
/// several times before.
#[derive(Clone, Default)]
struct Found(Cell<Option<(u64, Place)>>);

impl fmt::Debug for Found {
    /// It is no part of what the map holds: two that hold the same look the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Found")
    }
}

/// Pages from `start` up to but not including `end`.
#[derive(Clone, Debug)]
struct Piece<V> {
    start: u64,
    end: u64,
    value: V,
}

/// Where a piece is, or would be: its run, and its place in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    run: usize,
    at: usize,
}

impl<V> Default for PageMap<V> {
    fn default() -> Self {
        PageMap { runs: Vec::new(), firsts: Vec::new(), pieces: 0, found: Found::default() }
    }
}

impl<V> Piece<V> {
    fn range(&self) -> Range {
        range_of(self.start, self.end)
    }
}

impl<V: Clone + Eq> PageMap<V> {
    /// Takes all that lies in `range` out, and returns it, lowest first.
    pub fn cut(&mut self, range: Range) -> impl Iterator<Item = (Range, V)> + use<V> {
        let (start, end) = pages(range);
        let mut cut = Cut::default();
        let mut place = self.find_to_change(start);
        if let Some(piece) = self.piece_mut(place)
            && piece.start < start
        {
            let (old_end, value) = (piece.end, piece.value.clone());
            piece.end = start;
            cut.push(range_of(start, old_end.min(end)), value.clone());
            place.at += 1;
            if end < old_end {
                self.insert(place, Piece { start: end, end: old_end, value });
                return cut.into_iter();
            }
        }
        while place.run < self.runs.len() {
            let run = &mut self.runs[place.run];
            let beyond = place.at + run[place.at..].partition_point(|piece| piece.end <= end);
            let whole = beyond - place.at;
            let goes_on = beyond == run.len();
            for piece in run.drain(place.at..beyond) {
                cut.push(piece.range(), piece.value);
            }
            if let Some(piece) = run.get_mut(place.at)
                && piece.start < end
            {
                cut.push(range_of(piece.start, end), piece.value.clone());
                piece.start = end;
            }
            self.pieces -= whole;
            if !self.settle(place.run) {
                place.run += 1;
            }
            place.at = 0;
            if !goes_on {
                break;
            }
        }
        cut.into_iter()
    }

    /// Puts `value` on `range`, whatever lay there before, and merges it with equal neighbours.
    pub fn set(&mut self, range: Range, value: V) {
        let (start, end) = pages(range);
        let mut place = self.find_to_change(start);
        if self.piece(place).is_some_and(|piece| piece.start < end) {
            drop(self.cut(range));
            place = self.find_to_change(start);
        }
        let before = self.before(place).filter(|before| {
            let piece = &self.runs[before.run][before.at];
            piece.end == start && piece.value == value
        });
        let after = self.piece(place).filter(|piece| piece.start == end && piece.value == value).map(|piece| piece.end);
        match (before, after) {
            (Some(before), Some(end)) => {
                self.runs[before.run][before.at].end = end;
                self.remove(place);
            }
            (Some(before), None) => self.runs[before.run][before.at].end = end,
            (None, Some(_)) => {
                self.runs[place.run][place.at].start = start;
                if place.at == 0 {
                    self.firsts[place.run] = start;
                }
            }
            (None, None) => self.insert(place, Piece { start, end, value }),
        }
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
        for (piece, value) in self.cut(range) {
            self.set(piece, change(value));
        }
    }

    /// The piece that holds `addr`, whole.
    pub fn at(&self, addr: Addr) -> Option<(Range, &V)> {
        let page = addr.0 / PAGE;
        let piece = self.piece(self.find(page)).filter(|piece| piece.start <= page)?;
        Some((piece.range(), &piece.value))
    }

    /// All that lies in `range`, lowest first, the first and the last piece cut to it.
    pub fn overlapping(&self, range: Range) -> impl Iterator<Item = (Range, &V)> {
        let (start, end) = pages(range);
        let place = self.find(start);
        let first = self.runs.get(place.run).map_or(&[][..], |run| &run[place.at..]);
        let rest = self.runs.get(place.run + 1..).unwrap_or_default().iter().flatten();
        let pieces = first.iter().chain(rest).take_while(move |piece| piece.start < end);
        pieces.map(move |piece| (range_of(piece.start.max(start), piece.end.min(end)), &piece.value))
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
        self.runs.iter().flatten().map(|piece| (piece.range(), &piece.value))
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// The first piece that ends behind `page`: the one that holds it, or the next.
    fn find(&self, page: u64) -> Place {
        if let Some((_, place)) = self.found.0.get().filter(|(found, _)| *found == page) {
            return place;
        }
        let place = self.search(page);
        self.found.0.set(Some((page, place)));
        place
    }

    /// The same for a change, after which it may be elsewhere.
    fn find_to_change(&mut self, page: u64) -> Place {
        let place = self.find(page);
        self.found.0.set(None);
        place
    }

    fn search(&self, page: u64) -> Place {
        let run = self.firsts.partition_point(|first| *first <= page).saturating_sub(1);
        let at = self.runs.get(run).map_or(0, |run| run.partition_point(|piece| piece.end <= page));
        match self.runs.get(run) {
            Some(pieces) if at == pieces.len() => Place { run: run + 1, at: 0 },
            _ => Place { run, at },
        }
    }

    fn piece(&self, place: Place) -> Option<&Piece<V>> {
        self.runs.get(place.run)?.get(place.at)
    }

    fn piece_mut(&mut self, place: Place) -> Option<&mut Piece<V>> {
        self.runs.get_mut(place.run)?.get_mut(place.at)
    }

    /// The place before this one.
    fn before(&self, place: Place) -> Option<Place> {
        match place {
            Place { run: 0, at: 0 } => None,
            Place { run, at: 0 } => Some(Place { run: run - 1, at: self.runs[run - 1].len() - 1 }),
            Place { run, at } => Some(Place { run, at: at - 1 }),
        }
    }

    /// Puts a piece in before the one at `place`, where nothing else lies.
    fn insert(&mut self, mut place: Place, piece: Piece<V>) {
        self.pieces += 1;
        if self.runs.is_empty() {
            return self.add_run(0, vec![piece]);
        }
        // At the beginning of a run it may as well end the one before.
        if place.at == 0
            && let Some(before) = self.before(place)
        {
            place = Place { run: before.run, at: before.at + 1 };
        }
        if self.runs[place.run].len() == MOST {
            // What is mapped grows at an end more often than in the middle: full runs stay full then.
            if place.at == MOST {
                return self.add_run(place.run + 1, vec![piece]);
            }
            if place.at == 0 {
                return self.add_run(place.run, vec![piece]);
            }
            let upper = self.runs[place.run].split_off(MOST / 2);
            self.add_run(place.run + 1, upper);
            if place.at > MOST / 2 {
                place = Place { run: place.run + 1, at: place.at - MOST / 2 };
            }
        }
        if place.at == 0 {
            self.firsts[place.run] = piece.start;
        }
        self.runs[place.run].insert(place.at, piece);
    }

    /// Takes a piece out.
    fn remove(&mut self, place: Place) {
        self.pieces -= 1;
        self.runs[place.run].remove(place.at);
        self.settle(place.run);
    }

    fn add_run(&mut self, at: usize, run: Vec<Piece<V>>) {
        self.firsts.insert(at, run[0].start);
        self.runs.insert(at, run);
    }

    /// Puts a run in order from which pieces were taken. True where it is no more, and the next one has its number.
    fn settle(&mut self, number: usize) -> bool {
        let run = &mut self.runs[number];
        if let Some(first) = run.first() {
            self.firsts[number] = first.start;
            let len = run.len();
            if len >= FEW || number == 0 || self.runs[number - 1].len() + len > MOST / 2 {
                return false;
            }
        }
        let rest = self.runs.remove(number);
        self.firsts.remove(number);
        if !rest.is_empty() {
            self.runs[number - 1].extend(rest);
        }
        true
    }
}

/// What was cut out: hardly ever more than one piece.
struct Cut<V> {
    first: Option<(Range, V)>,
    more: Vec<(Range, V)>,
}

impl<V> Default for Cut<V> {
    fn default() -> Self {
        Cut { first: None, more: Vec::new() }
    }
}

impl<V> Cut<V> {
    fn push(&mut self, range: Range, value: V) {
        match &self.first {
            None => self.first = Some((range, value)),
            Some(_) => self.more.push((range, value)),
        }
    }

    fn into_iter(self) -> impl Iterator<Item = (Range, V)> + use<V> {
        self.first.into_iter().chain(self.more)
    }
}

fn pages(range: Range) -> (u64, u64) {
    (range.start().0 / PAGE, range.end().0 / PAGE)
}

fn range_of(start: u64, end: u64) -> Range {
    Range::new(Addr(start * PAGE), Addr(end * PAGE)).expect("a piece has a page or more, and came from a range")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Enough pages for many runs.
    const PAGES: u64 = 1000;

    fn range(start: u64, len: u64) -> Range {
        range_of(start, start + len)
    }

    /// Everything that can be asked, against one entry per page.
    fn check(map: &PageMap<u8>, dense: &[Option<u8>]) {
        let mut expected: Vec<(u64, u64, u8)> = Vec::new();
        for (page, value) in (0..).zip(dense) {
            match (expected.last_mut(), value) {
                (Some(last), Some(value)) if last.1 == page && last.2 == *value => last.1 += 1,
                (_, Some(value)) => expected.push((page, page + 1, *value)),
                (_, None) => {}
            }
        }
        let pieces: Vec<_> = map.iter().map(|(range, value)| (pages(range).0, pages(range).1, *value)).collect();
        assert_eq!(pieces, expected);
        assert_eq!(map.len(), expected.len());
        assert!(map.runs.iter().all(|run| !run.is_empty() && run.len() <= MOST));
        let firsts: Vec<u64> = map.runs.iter().map(|run| run[0].start).collect();
        assert_eq!(firsts, map.firsts);
        for page in 0..PAGES {
            assert_eq!(map.at(Addr(page * PAGE)).map(|(_, value)| *value), dense[page as usize]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any changes leave what one entry per page would have, and hand out what they take away.
        #[test]
        fn like_one_entry_per_page(changes in prop::collection::vec((0..PAGES, 1..6_u64, 0..5_u8, 0..4_u8), 1..700)) {
            let mut map = PageMap::default();
            let mut dense = vec![None; PAGES as usize + 400];
            for (start, len, value, what) in changes {
                // Now and then a large piece, which takes whole runs away.
                let len = if value == 4 { len * 60 } else { len };
                let (range, window) = (range(start, len), start as usize..(start + len) as usize);
                match what {
                    0 | 1 => {
                        map.set(range, value);
                        dense[window].fill(Some(value));
                    }
                    2 => {
                        let cut: Vec<(Range, u8)> = map.cut(range).collect();
                        let mut out = vec![None; PAGES as usize + 400];
                        for (piece, value) in cut {
                            out[pages(piece).0 as usize..pages(piece).1 as usize].fill(Some(value));
                        }
                        prop_assert_eq!(&out[window.clone()], &dense[window.clone()]);
                        dense[window].fill(None);
                    }
                    _ => {
                        map.update(range, |old| old / 2 + value);
                        dense[window].iter_mut().flatten().for_each(|old| *old = *old / 2 + value);
                    }
                }
            }
            check(&map, &dense);
        }
    }
}
