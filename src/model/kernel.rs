//! The model compared with the kernel's own picture, /proc/PID/maps.
//!
//! Borders between lines of maps depend on page faults, mlock and advice that no system call log shows, so both sides
//! are merged as far as they go before they are compared: same rights, same sharing, and for files an offset that
//! runs on. What is tolerated has a name in `tolerance.rs`, and nothing else is.

use std::fmt;

use super::Calls;
use super::mapping::{Kind, Mapping};
use super::space::{AddressSpace, Area, Backing, Break, HalfMoved};
use super::tolerance::not_modelled;
use crate::event::{Prot, Sharing, Vma};
use crate::units::{Addr, PAGE, Range, page_up};

/// The end of all that can be mapped.
const CEILING: Addr = Addr(!(PAGE - 1));

/// Pages that are alike, as both sides see them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The pages.
    pub range: Range,
    /// Their rights.
    pub prot: Prot,
    /// Their sharing.
    pub sharing: Sharing,
    /// Their file offset, if there is a file.
    pub backing: Backing,
}

impl fmt::Debug for Segment {
    /// As a line of maps: `7f00-8000 rw-p file+0x1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sharing = match self.sharing {
            Sharing::Private => 'p',
            Sharing::Shared => 's',
        };
        write!(f, "{} {:?}{sharing} ", self.range, self.prot)?;
        match self.backing {
            Backing::Anonymous => write!(f, "anonymous"),
            Backing::File { origin } => {
                write!(f, "file+{:#x}", origin.wrapping_add(self.range.start().0))
            }
        }
    }
}

/// The first place where model and kernel differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// What differs.
    pub field: &'static str,
    /// Where.
    pub at: Addr,
    /// What the model has there.
    pub model: Option<Segment>,
    /// What the kernel has there.
    pub kernel: Option<Segment>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |segment: Option<Segment>| segment.map_or("nothing".to_owned(), |segment| format!("{segment:?}"));
        let (model, kernel) = (side(self.model), side(self.kernel));
        write!(f, "{} differs at {}: the model has {model}, the kernel {kernel}", self.field, self.at)
    }
}

/// Whether a line of maps is part of the model.
pub fn is_modelled(vma: &Vma) -> bool {
    not_modelled(vma).is_none()
}

impl AddressSpace {
    /// Compares the whole address space with the kernel's, and says where they first differ.
    ///
    /// What no call shows is taken over first, as far as [`Tolerance`](super::tolerance::Tolerance) has evidence for it.
    pub fn compare(&mut self, maps: &[Vma]) -> Result<(), Mismatch> {
        self.take_over_untold(maps);
        self.growth.clear();
        let model = merged(self.areas.iter().map(|(range, area)| area.segment(range)));
        let kernel = merged(maps.iter().filter(|vma| is_modelled(vma)).map(Segment::from));
        match first_difference(&model, &kernel) {
            None => Ok(()),
            Some(mismatch) => Err(mismatch),
        }
    }

    /// The same, but for pages that may have changed on either side since the other was seen.
    pub fn compare_but(&mut self, maps: &[Vma], unsure: &[Range]) -> Result<(), Mismatch> {
        if unsure.is_empty() {
            return self.compare(maps);
        }
        self.take_over_untold(maps);
        self.growth.clear();
        let model = without(self.areas.iter().map(|(range, area)| area.segment(range)), unsure);
        let kernel = without(maps.iter().filter(|vma| is_modelled(vma)).map(Segment::from), unsure);
        match first_difference(&merged(model.into_iter()), &merged(kernel.into_iter())) {
            None => Ok(()),
            Some(mismatch) => Err(mismatch),
        }
    }

    /// Makes the model what the kernel says, keeping what is known of mappings that it still has.
    pub fn adopt(&mut self, maps: &[Vma]) {
        (self.has_unseen, self.has_undetachable) = (true, true);
        self.move_half(maps);
        self.take_over_untold(maps);
        if self.doubts_break(maps) {
            self.forget_break();
        }
        // From the top down: what has grown is known by what lies above it.
        let mut position = CEILING;
        for vma in maps.iter().rev().filter(|vma| is_modelled(vma)) {
            if let Some(gap) = Range::new(vma.range.end(), position) {
                self.remove(gap);
            }
            position = vma.range.start();
            self.adopt_line(vma);
        }
        if let Some(rest) = Range::new(Addr(0), position) {
            self.remove(rest);
        }
        self.excuse_hole();
        self.growth.clear();
        if self.calls == Calls::Untold {
            self.disown_cut();
        }
    }

    /// Whether the maps are of another moment than what is known of the break, which they do not tell: a brk that comes
    /// between, of another thread or before a fork, is in only one of them. The heap then ends elsewhere, and not because
    /// of what the model knows to lie there, or not to.
    fn doubts_break(&self, maps: &[Vma]) -> bool {
        let Some(Break { start, end: Some(end) }) = self.brk else { return false };
        let heaps = maps.iter().filter(|vma| &*vma.name == b"[heap]").map(|vma| vma.range.end());
        let (known, seen) = (Addr(page_up(end.0)), heaps.max().unwrap_or(Addr(page_up(start.0))));
        let Some(between) = Range::new(known.min(seen), known.max(seen)) else { return false };
        let model = self.areas.overlapping(between).map(|(range, area)| area.segment(range));
        let lines = maps.iter().filter(|vma| is_modelled(vma)).map(Segment::from);
        let kernel = lines.filter_map(|line| Some(Segment { range: line.range.intersection(between)?, ..line }));
        merged(model) != merged(kernel)
    }

    /// An mremap of several mappings that has failed has moved those that are not where they were.
    fn move_half(&mut self, maps: &[Vma]) {
        let Some(HalfMoved { from, to, stays }) = self.half_moved.take() else { return };
        if stays {
            self.copy_half(maps, from, to);
            return;
        }
        let left: Vec<Range> = maps.iter().map(|vma| vma.range).collect();
        let pieces = self.areas.overlapping(from).map(|(range, area)| area.segment(range));
        let gone: Vec<Range> = without(pieces, &left).iter().map(|segment| segment.range).collect();
        for range in gone {
            self.move_pieces(range, from.start(), to);
        }
        self.move_growth(from, to);
    }

    /// The same with MREMAP_DONTUNMAP: those have been moved that are seen where something else was.
    fn copy_half(&mut self, maps: &[Vma], from: Range, to: Addr) {
        let pieces: Vec<(Range, Area)> = self.areas.overlapping(from).map(|(range, area)| (range, *area)).collect();
        for (piece, area) in pieces {
            let Some(target) = piece.moved(from.start(), to) else { continue };
            let backing = area.backing.moved(from.start(), to);
            let is_moved = |vma: &&Vma| area.is_like(vma) && vma.backing() == backing;
            let lines: Vec<Range> =
                maps.iter().filter(is_moved).filter_map(|vma| vma.range.intersection(target)).collect();
            for there in lines {
                let was_alike = self.areas.first_hole(there).is_none()
                    && self
                        .areas
                        .overlapping(there)
                        .all(|(range, at)| at.segment(range) == Area { backing, ..area }.segment(range));
                let Some(source) = there.moved(to, from.start()).filter(|_| !was_alike) else { continue };
                let kind = self.mappings.get(area.mapping).map_or(Kind::Anonymous, |mapping| mapping.kind);
                let mapping = self.mappings.insert(Mapping { bytes: there.bytes(), ..Mapping::new(kind, None) });
                self.put_moved(source, Area { mapping, ..area }, from.start(), to);
            }
        }
    }

    /// Makes the pages of one line of maps what the kernel says they are.
    pub(super) fn adopt_line(&mut self, vma: &Vma) {
        let (prot, sharing, backing) = (vma.prot, vma.sharing, vma.backing());
        // Rights may have changed unseen; what lies behind the pages changes only with the mapping.
        let replaced: Vec<Range> = self
            .areas
            .overlapping(vma.range)
            .filter(|(_, area)| area.sharing != sharing || area.backing != backing)
            .map(|(range, _)| range)
            .collect();
        for range in replaced {
            self.unmap(range);
        }
        while let Some(hole) = self.areas.first_hole(vma.range) {
            let next = Range::new(hole, vma.range.end())
                .and_then(|rest| self.areas.overlapping(rest).next().map(|(range, _)| range.start()));
            let Some(missing) = Range::new(hole, next.unwrap_or(vma.range.end())) else {
                break;
            };
            let is_plain = backing == Backing::Anonymous && sharing == Sharing::Private;
            let grew = is_plain && self.grows_below(missing.end());
            self.map_seen(missing, vma);
            if grew {
                self.advise(missing, |marks| marks.grows_down = true);
            }
        }
        self.areas.update(vma.range, |area| Area { prot, ..area });
    }
}

impl Area {
    pub(super) fn is_like(&self, vma: &Vma) -> bool {
        self.prot == vma.prot && self.sharing == vma.sharing
    }

    fn segment(&self, range: Range) -> Segment {
        Segment { range, prot: self.prot, sharing: self.sharing, backing: self.backing }
    }
}

impl From<&Vma> for Segment {
    fn from(vma: &Vma) -> Segment {
        Segment { range: vma.range, prot: vma.prot, sharing: vma.sharing, backing: vma.backing() }
    }
}

/// Neighbours that are alike become one.
pub(super) fn merged(segments: impl Iterator<Item = Segment>) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in segments {
        if let Some(last) = merged.last_mut()
            && last.range.end() == segment.range.start()
            && (Segment { range: segment.range, ..*last }) == segment
            && let Some(range) = Range::new(last.range.start(), segment.range.end())
        {
            last.range = range;
        } else {
            merged.push(segment);
        }
    }
    merged
}

/// What is left of segments without these pages.
fn without(segments: impl Iterator<Item = Segment>, pages: &[Range]) -> Vec<Segment> {
    let mut left: Vec<Segment> = segments.collect();
    for gone in pages {
        left = left
            .into_iter()
            .flat_map(|one| {
                let below = Range::new(one.range.start(), one.range.end().min(gone.start()));
                let above = Range::new(one.range.start().max(gone.end()), one.range.end());
                [below, above].into_iter().flatten().map(move |range| Segment { range, ..one })
            })
            .collect();
    }
    left
}

fn first_difference(model: &[Segment], kernel: &[Segment]) -> Option<Mismatch> {
    let common = model.iter().zip(kernel).take_while(|(model, kernel)| model == kernel).count();
    let (model, kernel) = (model.get(common).copied(), kernel.get(common).copied());
    let (field, at) = match (model, kernel) {
        (None, None) => return None,
        (Some(model), None) => ("mapped", model.range.start()),
        (None, Some(kernel)) => ("mapped", kernel.range.start()),
        (Some(model), Some(kernel)) => {
            let at = model.range.start().min(kernel.range.start());
            if model.range.start() != kernel.range.start() {
                ("mapped", at)
            } else if model.prot != kernel.prot {
                ("protection", at)
            } else if model.sharing != kernel.sharing {
                ("sharing", at)
            } else if model.backing != kernel.backing {
                ("file offset", at)
            } else {
                ("end", model.range.end().min(kernel.range.end()))
            }
        }
    };
    Some(Mismatch { field, at, model, kernel })
}
