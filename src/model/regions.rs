//! Stacks where mapping calls are not told: their bounds are looked up at birth, and what is left of them is recognised by
//! its contents.
//!
//! A line of maps may hold several mappings side by side. What the model had before is told from what is new, so that a
//! stack that was mapped for its thread is known exactly although it has merged with its neighbours. Where several were
//! mapped before the first thread was made, each birth tells where one of them ends.

use super::mapping::{Imprint, Kind, Maker, MappingId};
use super::space::AddressSpace;
use crate::event::{Prot, Sharing, StackRegion, Vma};
use crate::units::{Addr, Range, page_up};

/// A region without access below a stack is taken for its guard up to this size, in bytes.
const LARGEST_GUARD: u64 = 1 << 20;

impl AddressSpace {
    /// A task is about to be created whose stack grows down from `top`.
    pub fn stack_region(&mut self, top: Addr, region: &StackRegion) {
        let is_plain = |vma: &Vma| !vma.is_file() && vma.sharing == Sharing::Private && vma.name.is_empty();
        let guard = region.below.as_ref().filter(|below| {
            is_plain(below) && below.prot == Prot::NONE && below.range.end() == region.line.range.start()
        });
        let named = region.block.filter(|_| is_plain(&region.line));
        for line in guard.into_iter().chain([&region.line]) {
            self.adopt_line(line);
        }
        match named {
            Some(block) => self.bound_by_library(top, block),
            None if is_plain(&region.line) => self.bound_by_lines(top, guard),
            None => {}
        }
    }

    /// The stack is `block`, as the thread library says.
    fn bound_by_library(&mut self, top: Addr, block: Range) {
        let Some(id) = self.mapping_at(Addr(top.0.saturating_sub(1))).filter(|_| block.contains(Addr(top.0 - 1)))
        else {
            return;
        };
        let is_whole = self.areas.first_hole(block).is_none();
        let mut within: Vec<MappingId> = self.areas.overlapping(block).map(|(_, area)| area.mapping).collect();
        within.dedup();
        let is_exact = within == [id] && self.mappings.get(id).is_some_and(|mapping| mapping.bytes == block.bytes());
        if !is_whole || is_exact {
            return;
        }
        for former in within {
            self.disown(former);
        }
        self.make_one_mapping(block, id);
    }

    /// The stack ends at `top`, or a little above, and lies in anonymous memory with this guard below.
    fn bound_by_lines(&mut self, top: Addr, guard: Option<&Vma>) {
        let Some((piece, &area)) = self.areas.at(Addr(top.0.saturating_sub(1))) else { return };
        let plain = self.mappings.get_mut(area.mapping).filter(|mapping| mapping.kind == Kind::Anonymous);
        let Some(mapping) = plain else { return };
        if let Some(other) = mapping.stack.as_deref() {
            let other_top = other.last.born.and_then(|born| born.args.stack_top());
            if let (Some(other_top), Maker::Program) = (other_top, other.maker) {
                self.divide(area.mapping, piece, page_up(other_top.0), page_up(top.0));
            }
            return;
        }
        if page_up(top.0) != piece.end().0 {
            // As part of a heap, or of what was mapped together: where it begins nothing tells.
            mapping.holds_several = true;
            return;
        }
        let bytes = mapping.bytes;
        let guard = guard.filter(|guard| guard.range.end() == piece.start() && guard.range.bytes() <= LARGEST_GUARD);
        let free = guard.filter(|guard| {
            self.areas.overlapping(guard.range).all(|(_, area)| {
                self.mappings.get(area.mapping).is_some_and(|below| below.stack.is_none() && below.is_unbounded())
            })
        });
        let start = free.map_or(piece.start(), |guard| guard.range.start());
        if let Some(whole) = Range::new(start, piece.end()).filter(|whole| whole.bytes() != bytes) {
            self.make_one_mapping(whole, area.mapping);
        }
    }

    /// What was taken for one stack, up to `end`, turns out to hold another one that goes up to `other_end`.
    fn divide(&mut self, id: MappingId, piece: Range, end: u64, other_end: u64) {
        let border = Addr(end.min(other_end));
        let (Some(lower), Some(upper)) = (Range::new(piece.start(), border), Range::new(border, piece.end())) else {
            return;
        };
        let (new, kept) = if other_end < end { (lower, upper) } else { (upper, lower) };
        let Some(stack) = self.mappings.get_mut(id).and_then(|mapping| mapping.stack.as_deref_mut()) else { return };
        let before = stack.site();
        (stack.region_bytes, stack.guard_bytes) = (kept.bytes(), 0);
        let after = stack.site();
        self.sites.entry(before).created -= 1;
        self.sites.entry(after).created += 1;
        self.make_one_mapping(new, id);
    }

    /// An idle stack that is not what it was: it was unmapped, or used for something else.
    pub fn disown(&mut self, id: MappingId) {
        let Some(mapping) = self.mappings.get_mut(id).filter(|mapping| mapping.idle_stack().is_some()) else { return };
        let inherited = mapping.inherited;
        let Some(stack) = mapping.stack.take() else { return };
        self.waiting.remove(id, stack.maker, stack.region_bytes);
        if !inherited {
            let site = self.sites.entry(stack.site());
            site.unmapped_after_end += 1;
            site.let_go(stack.last.ended);
        }
    }

    /// Disowns the idle stacks of which a part is gone: what is left may be something that was mapped since.
    pub(super) fn disown_cut(&mut self) {
        let cut = |(id, mapping): (MappingId, &super::mapping::Mapping)| {
            mapping.idle_stack().is_some_and(|(stack, _)| stack.cut).then_some(id)
        };
        let cut: Vec<MappingId> = self.mappings.iter().filter_map(cut).collect();
        for id in cut {
            self.disown(id);
        }
    }

    /// Idle stacks of the program's, each with its imprint and where the stack of its last owner began.
    pub fn imprinted(&self) -> impl Iterator<Item = (MappingId, Addr, Option<Imprint>)> {
        self.mappings.iter().filter_map(|(id, mapping)| {
            let (stack, _) = mapping.idle_stack().filter(|_| !mapping.inherited)?;
            let top = stack.last.born?.args.stack_top()?;
            (stack.maker == Maker::Program).then_some((id, top, stack.imprint))
        })
    }

    /// Keeps what the last owner of a stack has left in it.
    pub fn keep_imprint(&mut self, id: MappingId, imprint: Option<Imprint>) {
        if let Some(stack) = self.mappings.get_mut(id).and_then(|mapping| mapping.stack.as_deref_mut()) {
            stack.imprint = imprint;
        }
    }
}
