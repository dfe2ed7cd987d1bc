//! The model compared with the kernel's own picture, /proc/PID/maps.
//!
//! Borders between lines of maps depend on page faults, mlock and advice that no system call log shows, so both sides
//! are merged as far as they go before they are compared: same rights, same sharing, and for files an offset that
//! runs on. What is tolerated has a name here, and nothing else is.

use std::fmt;

use super::Calls;
use super::mapping::Mapping;
use super::space::{AddressSpace, Area, Backing};
use crate::event::{Prot, Sharing, Vma};
use crate::units::{Addr, Range};

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
///
/// Left out: the vsyscall page, which is in no address space of its own (`get_gate_vma`), and `[uprobes]`, which the
/// kernel maps into any process for a probe (`xol_add_vma`) and never takes out again.
pub fn is_modelled(vma: &Vma) -> bool {
    const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
    vma.range.start().0 < VSYSCALL && &*vma.name != b"[uprobes]"
}

impl AddressSpace {
    /// Compares the whole address space with the kernel's, and says where they first differ.
    ///
    /// Growth of stacks by page faults, which no call shows, is taken over first.
    pub fn compare(&mut self, maps: &[Vma]) -> Result<(), Mismatch> {
        self.grow_stacks(maps);
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
        self.grow_stacks(maps);
        let model = without(self.areas.iter().map(|(range, area)| area.segment(range)), unsure);
        let kernel = without(maps.iter().filter(|vma| is_modelled(vma)).map(Segment::from), unsure);
        match first_difference(&merged(model.into_iter()), &merged(kernel.into_iter())) {
            None => Ok(()),
            Some(mismatch) => Err(mismatch),
        }
    }

    /// Makes the model what the kernel says, keeping what is known of mappings that it still has.
    pub fn adopt(&mut self, maps: &[Vma]) {
        self.has_unseen = true;
        self.grow_stacks(maps);
        let mut position = Addr(0);
        for vma in maps.iter().filter(|vma| is_modelled(vma)) {
            if let Some(gap) = Range::new(position, vma.range.start()) {
                self.unmap(gap);
            }
            position = vma.range.end();
            self.adopt_line(vma);
        }
        if let Some(rest) = Range::new(position, Addr(!(crate::units::PAGE - 1))) {
            self.unmap(rest);
        }
        if self.calls == Calls::Untold {
            self.disown_cut();
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
            self.map_seen(missing, vma);
        }
        self.areas.update(vma.range, |area| Area { prot, ..area });
    }

    /// Takes over where the kernel has extended a stack downwards on a page fault (`expand_downwards`).
    fn grow_stacks(&mut self, maps: &[Vma]) {
        let remembered = std::mem::take(&mut self.growth);
        for vma in maps {
            if self.areas.at(vma.range.start()).is_some() {
                continue;
            }
            if remembered.iter().any(|(above, area)| *above == vma.range.end() && area.is_like(vma)) {
                self.map_seen(vma.range, vma);
                continue;
            }
            let Some((first, area)) = self.areas.overlapping(vma.range).next().map(|(range, area)| (range, *area))
            else {
                continue;
            };
            let alike = area.marks.grows_down && area.is_like(vma);
            if let (true, Some(growth)) = (alike, Range::new(vma.range.start(), first.start())) {
                self.areas.set(growth, Area { marks: area.marks.unguarded(), ..area });
                let mapping: Option<&mut Mapping> = self.mappings.get_mut(area.mapping);
                if let Some(mapping) = mapping {
                    mapping.bytes += growth.bytes();
                }
            }
        }
    }
}

impl Area {
    fn is_like(&self, vma: &Vma) -> bool {
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
fn merged(segments: impl Iterator<Item = Segment>) -> Vec<Segment> {
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
