//! What page faults have put below mappings that grow down, of which no call tells (mm/mmap.c, `expand_downwards`).
//!
//! Until the kernel's maps are seen, a hole below such a mapping may hold pages that have its rights. Calls may succeed on
//! them, cut them off, or move them; so each call that touches such a hole leaves a note of what may lie below.

use super::kernel::merged;
use super::mapping::{Kind, Mapping};
use super::space::{AddressSpace, Area, Backing, Marks};
use super::tolerance::{Tolerance, not_modelled};
use crate::event::{Sharing, Vma};
use crate::units::{Addr, PAGE, Range};

/// Pages may have grown below this address, like these.
pub type Grown = (Addr, Area);

/// Notes of what may have grown. Where maps are never compared nothing takes them out again, and moving them leaves some.
const MOST_NOTES: usize = 1024;

/// The end of all that can be mapped.
const CEILING: Addr = Addr(!(PAGE - 1));

/// A part of the model where nothing is mapped.
struct Hole {
    /// Those of its pages that were asked about.
    asked: Range,
    /// What lies above it.
    above: Option<Grown>,
}

impl Hole {
    /// Where it ends.
    fn end(&self) -> Addr {
        self.above.map_or(CEILING, |(start, _)| start)
    }

    /// What lies above it, if that grows down.
    fn growing(&self) -> Option<Grown> {
        self.above.filter(|(_, area)| area.marks.grows_down)
    }
}

impl AddressSpace {
    /// Takes over from the kernel's maps the pages that page faults have put there.
    ///
    /// Lock, name and advice split the lines of maps, so neighbours that are alike are taken together first.
    pub(super) fn grow_stacks(&mut self, maps: &[Vma]) {
        for segment in merged(maps.iter().filter(|vma| not_modelled(vma).is_none()).map(Into::into)) {
            if segment.backing != Backing::Anonymous || segment.sharing != Sharing::Private {
                continue;
            }
            for hole in self.holes(segment.range) {
                let top = hole.asked.end();
                let left = self.growth.iter().find(|(above, area)| *above == top && area.prot == segment.prot);
                let goes_on = hole
                    .growing()
                    .filter(|(start, area)| *start == top && top < segment.range.end() && area.prot == segment.prot);
                if let Some((_, above)) = left.copied().or(goes_on) {
                    self.put_growth(hole.asked, above);
                    self.tolerated.count(Tolerance::StackGrowth);
                }
            }
        }
    }

    /// Where mappings begin of which it was not seen whether they grow down, and below which the kernel's maps show more of
    /// their kind: they were there before anything was told, or something was taken over from maps, which do not tell what
    /// has taken the place of its like.
    pub fn perhaps_grown(&self, maps: &[Vma]) -> Vec<Addr> {
        let mut starts = Vec::new();
        for segment in merged(maps.iter().filter(|vma| not_modelled(vma).is_none()).map(Into::into)) {
            if segment.backing != Backing::Anonymous || segment.sharing != Sharing::Private {
                continue;
            }
            let holes = self.holes(segment.range).into_iter();
            let above = holes.filter_map(|hole| hole.above.filter(|(start, _)| *start == hole.asked.end()));
            let is_old = |area: &Area| self.mappings.get(area.mapping).is_some_and(|mapping| mapping.made.is_none());
            let unseen = |area: &Area| self.has_unseen || is_old(area);
            let alike = above.filter(|(_, area)| area.prot == segment.prot && !area.marks.grows_down && unseen(area));
            starts.extend(alike.map(|(start, _)| start));
        }
        starts
    }

    /// What begins here grows down.
    pub fn grows_from(&mut self, start: Addr) {
        if let Some((piece, area)) = self.areas.at(start) {
            let marks = Marks { grows_down: true, ..area.marks };
            self.areas.set(piece, Area { marks, ..*area });
        }
    }

    /// Calls have succeeded on these pages, so where the model has holes the kernel has none: what is above has grown.
    ///
    /// Where it is not certain what is there, nothing is done: only the kernel knows.
    pub(super) fn claim_growth(&mut self, range: Range) {
        for hole in self.holes(range) {
            let Some((start, above)) = hole.growing() else { continue };
            let is_certain = self.notes_of(&hole).all(|(at, area)| {
                *at == start && (area.prot, area.marks.unguarded()) == (above.prot, above.marks.unguarded())
            });
            if let (true, Some(grown)) = (is_certain, Range::new(hole.asked.start(), start)) {
                self.put_growth(grown, above);
            }
        }
    }

    /// Whether something may have grown into holes of these pages.
    pub(super) fn may_have_grown(&self, range: Range) -> bool {
        self.holes(range).iter().any(|hole| hole.growing().is_some() || self.notes_of(hole).next().is_some())
    }

    /// Whether what ends here may have grown: it lies below what grows down, or once did.
    pub(super) fn grows_below(&self, end: Addr) -> bool {
        self.areas.at(end).is_some_and(|(_, area)| area.marks.grows_down)
            || self.growth.iter().any(|(above, _)| *above == end)
    }

    /// A call takes away, replaces or changes these pages: what a page fault may have put below those that grow down is
    /// no longer one with them.
    pub(super) fn disturb(&mut self, range: Range) {
        if self.is_partial || self.growth.len() >= MOST_NOTES {
            return;
        }
        let Some(rest) = Range::new(range.start(), CEILING) else { return };
        let first = self.areas.overlapping(rest).next().map(|(piece, area)| (piece.start(), *area));
        let ceiling = first.map_or(CEILING, |(start, _)| start);
        // What lies in the hole may have grown from what was above it before.
        let earlier = self.growth.iter().filter(|(above, _)| (range.start()..=ceiling).contains(above));
        let mut below: Vec<Grown> = earlier.map(|(_, area)| (range.start(), *area)).collect();
        if let Some((start, area)) = first.filter(|(_, area)| area.marks.grows_down) {
            below.extend([(start, area), (range.start(), area)]);
        }
        self.note_growth(below);
    }

    /// What may have grown within these pages has been moved with them.
    pub(super) fn move_growth(&mut self, from: Range, to: Addr) {
        let within = self.growth.iter().filter(|(above, _)| from.start() < *above && *above <= from.end());
        let moved = |above: Addr| to.checked_add(above.0 - from.start().0);
        let there = within.filter_map(|(above, area)| Some((moved(*above)?, *area))).collect();
        self.note_growth(there);
    }

    fn note_growth(&mut self, notes: Vec<Grown>) {
        for one in notes {
            if self.growth.len() < MOST_NOTES && !self.growth.contains(&one) {
                self.growth.push(one);
            }
        }
    }

    /// Pages that a page fault has put below those of `above`.
    fn put_growth(&mut self, growth: Range, above: Area) {
        let mapping = if self.mappings.contains_key(above.mapping) {
            above.mapping
        } else {
            self.mappings.insert(Mapping::new(Kind::Anonymous, None))
        };
        // Whether it came before or after MADV_DONTFORK, or MADV_DOFORK, only a child of fork shows.
        let notes = self.growth.iter().filter(|(at, _)| growth.start() < *at && *at <= growth.end());
        let now = self.areas.at(growth.end()).map(|(_, area)| area).filter(|area| area.marks.grows_down);
        let mut others = notes.map(|(_, area)| area).chain(now);
        self.has_unseen |= others.any(|area| area.marks.dont_fork != above.marks.dont_fork);
        self.areas.set(growth, Area { mapping, marks: above.marks.unguarded(), ..above });
        self.mappings[mapping].bytes += growth.bytes();
    }

    /// What may have grown into a hole from what was there before.
    fn notes_of(&self, hole: &Hole) -> impl Iterator<Item = &Grown> {
        let (start, end) = (hole.asked.start(), hole.end());
        self.growth.iter().filter(move |(above, _)| start < *above && *above <= end)
    }

    /// Where nothing is mapped among these pages.
    fn holes(&self, range: Range) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut position = range.start();
        let above = Range::new(position, CEILING).into_iter().flat_map(|rest| self.areas.overlapping(rest));
        for (piece, area) in above {
            if let Some(asked) = Range::new(position, piece.start().min(range.end())) {
                holes.push(Hole { asked, above: Some((piece.start(), *area)) });
            }
            position = piece.end();
            if position >= range.end() {
                return holes;
            }
        }
        holes.extend(Range::new(position, range.end()).map(|asked| Hole { asked, above: None }));
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Prot;
    use crate::units::Pid;

    /// What may have grown is noted up to a number, also where what it lies in is moved over and over.
    #[test]
    fn notes_are_bounded() {
        let line = Vma {
            range: Range::of_len(Addr(PAGE), PAGE).unwrap(),
            prot: Prot::READ,
            sharing: Sharing::Private,
            offset: 0,
            inode: 0,
            device: 0,
            name: Box::default(),
        };
        let mut space = AddressSpace::new(Pid(1), &[line], None);
        let area = *space.areas.at(Addr(PAGE)).unwrap().1;
        let notes: Vec<Grown> = (1..400).map(|page| (Addr(page * PAGE), area)).collect();
        space.note_growth(notes.clone());
        space.note_growth(notes.clone());
        assert_eq!(space.growth, notes);
        for number in 1..5 {
            space.move_growth(Range::of_len(Addr(0), 500 * PAGE).unwrap(), Addr(number * 1000 * PAGE));
        }
        assert_eq!((space.growth.len(), &space.growth[..399]), (MOST_NOTES, &*notes));
        assert_eq!(space.growth[399], (Addr(1001 * PAGE), area));
    }
}
