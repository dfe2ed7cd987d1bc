//! One address space: its pages, its mappings, and the verbs that change them.
//!
//! The verbs are named after the system calls and do what the kernel does on success (mm/mmap.c, mm/mremap.c,
//! mm/mprotect.c, ipc/shm.c of Linux 6.18). `calls.rs` decides which verb a call means.

use slotmap::{SecondaryMap, SlotMap};

use super::Calls;
use super::calls::huge_page_of;
use super::growth::Grown;
use super::mapping::{Kind, Made, Mapping, MappingId};
use super::page_map::PageMap;
use super::sites::{FreedSizes, Sites};
use super::tolerance::Tolerated;
use super::waiting::Waiting;
use crate::event::{Call, Limits, Prot, Sharing, Vma};
use crate::units::{Addr, Pid, Range, page_up};

/// What a run of pages has in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// The mapping that it belongs to.
    pub mapping: MappingId,
    /// Rights.
    pub prot: Prot,
    /// Shared or private.
    pub sharing: Sharing,
    /// What lies behind it.
    pub backing: Backing,
    /// Advice that stays with the pages.
    pub marks: Marks,
}

/// What lies behind pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Nothing: zeroes on first use.
    Anonymous,
    /// A file; `origin` is offset − address, wrapping, so that it is the same for all parts.
    File {
        /// Offset minus address.
        origin: u64,
    },
}

impl Backing {
    /// A file mapped at `addr` from `offset` on.
    pub fn file(offset: u64, addr: Addr) -> Backing {
        Backing::File { origin: offset.wrapping_sub(addr.0) }
    }

    /// The same contents after a move.
    pub fn moved(self, from: Addr, to: Addr) -> Backing {
        match self {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { origin } => Backing::File { origin: origin.wrapping_add(from.0).wrapping_sub(to.0) },
        }
    }
}

/// Advice that stays with the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// MADV_DONTFORK: a child does not get it.
    pub dont_fork: bool,
    /// MADV_GUARD_INSTALL: access is a fault, whatever the rights say.
    pub guard: bool,
    /// MAP_GROWSDOWN and main stacks: page faults below extend it without a system call.
    pub grows_down: bool,
}

impl Marks {
    /// Those of the region, without those of its pages.
    pub fn unguarded(self) -> Marks {
        Marks { guard: false, ..self }
    }
}

/// The break of brk(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Break {
    /// Where the heap begins.
    pub start: Addr,
    /// The break itself, not rounded; none where it is not known yet.
    pub end: Option<Addr>,
}

/// A failed call for which something was lacking.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    /// Name of the call.
    pub call: &'static str,
    /// EAGAIN or ENOMEM.
    pub errno: syscalls::Errno,
    /// How often.
    pub count: u64,
    /// How much the latest one wanted to map, in bytes.
    pub wanted_bytes: u64,
    /// The limits, as seen at the latest one.
    pub limits: Option<Box<Limits>>,
}

/// What an mremap was to move that has failed on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HalfMoved {
    /// The pages.
    pub from: Range,
    /// Where to.
    pub to: Addr,
    /// MREMAP_DONTUNMAP: the source stays mapped.
    pub stays: bool,
}

/// An address space.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    /// The process that it was made for, by fork, by exec, or found at attach.
    pub pid: Pid,
    /// What the pages hold.
    pub areas: PageMap<Area>,
    /// All mappings of which something is still mapped.
    pub mappings: SlotMap<MappingId, Mapping>,
    /// brk's heap.
    pub brk: Option<Break>,
    /// Where threads came from.
    pub sites: Sites,
    /// Sizes that have been freed.
    pub freed_sizes: FreedSizes,
    /// Calls that failed for lack of something.
    pub refusals: Vec<Refusal>,
    /// What the latest refusal was asked to change: where that has a hole nothing was lacking, but a stack may have grown there.
    pub perhaps_a_hole: Option<Range>,
    /// Where a part of a mapping that grows down was taken away or changed: what grew below it, unseen, is still there.
    pub growth: Vec<Grown>,
    /// What an mremap was to move, and where to, that has failed on the way.
    pub half_moved: Option<HalfMoved>,
    /// Idle stacks that no fresh one has passed over yet.
    pub waiting: Waiting,
    /// Whether a stack that showed no sure sign of its maker turned out to be glibc's own.
    pub glibc_confirmed: bool,
    /// Whether it was there before us, so that threads may have ended that nothing was seen of.
    pub was_attached: bool,
    /// Whether mapping calls are told.
    pub calls: Calls,
    /// Whether there may be pages that fork does not copy, or that grow down, of which no call has told and which maps do not
    /// show.
    pub has_unseen: bool,
    /// Whether there may be pages of which maps do not show that they are sealed, or to which attachment of a shared memory
    /// segment they belong: shmdt and io_destroy succeed whatever they leave alone.
    pub has_undetachable: bool,
    /// Whether it may hold mappings that nothing was told of.
    pub is_partial: bool,
    /// How often a call has mapped where something lay that nothing was told to be unmapped.
    pub untold_unmaps: u64,
    /// What had to be taken over from the kernel's maps so far, in comparisons and looks.
    pub tolerated: Tolerated,
    /// How many mappings the model has counted in it.
    pub counted: usize,
    /// Live tasks.
    pub tasks: u32,
    /// Whether its process is over as far as verdicts go; what happens now is only its end.
    pub finished: bool,
    /// Whether what happens in it cannot be seen; no verdict rests on it then, nor on its copies.
    pub is_opaque: bool,
}

impl AddressSpace {
    /// An address space with what the kernel's maps show.
    pub fn new(pid: Pid, maps: &[Vma], start_brk: Option<Addr>) -> AddressSpace {
        let mut space = AddressSpace {
            pid,
            areas: PageMap::default(),
            mappings: SlotMap::with_key(),
            brk: start_brk.map(|start| Break { start, end: None }),
            sites: Sites::default(),
            freed_sizes: FreedSizes::default(),
            refusals: Vec::new(),
            perhaps_a_hole: None,
            growth: Vec::new(),
            half_moved: None,
            waiting: Waiting::default(),
            glibc_confirmed: false,
            was_attached: false,
            calls: Calls::Told,
            has_unseen: false,
            has_undetachable: false,
            is_partial: false,
            untold_unmaps: 0,
            tolerated: Tolerated::default(),
            counted: 0,
            tasks: 0,
            finished: false,
            is_opaque: false,
        };
        for vma in maps.iter().filter(|vma| super::kernel::is_modelled(vma)) {
            space.map_seen(vma.range, vma);
        }
        space
    }

    /// The copy that fork(2) gives to `child`: all but what MADV_DONTFORK took out.
    pub fn fork(&self, child: Pid) -> AddressSpace {
        let mut copy = AddressSpace {
            pid: child,
            counted: 0,
            tasks: 0,
            finished: self.is_opaque,
            was_attached: false,
            sites: Sites::default(),
            waiting: Waiting::default(),
            refusals: Vec::new(),
            perhaps_a_hole: None,
            untold_unmaps: 0,
            tolerated: Tolerated::default(),
            ..self.clone()
        };
        for mapping in copy.mappings.values_mut() {
            mapping.inherited = true;
            if let Some(stack) = &mut mapping.stack {
                stack.live = 0;
            }
        }
        let absent: Vec<Range> =
            self.areas.iter().filter(|(_, area)| area.marks.dont_fork).map(|(range, _)| range).collect();
        for range in absent {
            copy.unmap(range);
        }
        copy
    }

    /// Nothing is known of it from here on.
    pub fn give_up(&mut self) {
        let (tasks, calls) = (self.tasks, self.calls);
        *self = AddressSpace {
            calls,
            tasks,
            is_partial: self.is_partial,
            is_opaque: true,
            finished: true,
            ..AddressSpace::new(self.pid, &[], None)
        };
    }

    /// mmap(2) and its kin: a new mapping, over whatever was there.
    ///
    /// Pages that are put into a stack with MAP_FIXED stay part of it: the JVM arms and disarms its guards so, and
    /// whoever unmaps the stack unmaps them too. Not so shared memory, which is detached, and pages of another size.
    pub fn map(&mut self, range: Range, mapping: Mapping, area: impl FnOnce(MappingId) -> Area) -> MappingId {
        self.disturb(range);
        if self.areas.overlapping(range).next().is_some() {
            if let Some(stack) = self.stack_around(range).filter(|stack| self.takes_in(*stack, &mapping)) {
                self.areas.set(range, area(stack));
                return stack;
            }
            self.remove(range);
        }
        let id = self.mappings.insert(Mapping { bytes: range.bytes(), made_bytes: range.bytes(), ..mapping });
        self.areas.set(range, area(id));
        id
    }

    /// The stack of which `range` is an inner part.
    fn stack_around(&self, range: Range) -> Option<MappingId> {
        let stack = self.mapping_at(range.start())?;
        let mapping = self.mappings.get(stack)?;
        let inside = mapping.stack.is_some() && range.bytes() < mapping.bytes && self.areas.first_hole(range).is_none();
        (inside && self.areas.overlapping(range).all(|(_, area)| area.mapping == stack)).then_some(stack)
    }

    /// Whether a stack may take in what is mapped into it.
    fn takes_in(&self, stack: MappingId, inner: &Mapping) -> bool {
        let page = |mapping: &Mapping| mapping.made.and_then(|made| huge_page_of(&made.call));
        let is_detached = matches!(inner.kind, Kind::Shm { .. } | Kind::AioRing);
        !is_detached && self.mappings.get(stack).is_some_and(|stack| page(stack) == page(inner))
    }

    /// A mapping of which only the kernel's maps tell.
    pub fn map_seen(&mut self, range: Range, vma: &Vma) -> MappingId {
        let kind = match &*vma.name {
            b"[heap]" => Kind::Heap,
            b"[stack]" => Kind::MainStack,
            name if name.starts_with(b"/SYSV") => Kind::Shm { inode: vma.inode },
            name if name.starts_with(b"/[aio]") => Kind::AioRing,
            _ if vma.is_file() => Kind::File,
            _ => Kind::Anonymous,
        };
        self.map_observed(range, vma, Mapping::new(kind, None))
    }

    /// A mapping whose attributes the kernel's maps tell.
    pub fn map_observed(&mut self, range: Range, vma: &Vma, mapping: Mapping) -> MappingId {
        let marks = Marks { grows_down: mapping.kind == Kind::MainStack, ..Marks::default() };
        let (prot, sharing, backing) = (vma.prot, vma.sharing, vma.backing());
        self.map(range, mapping, |mapping| Area { mapping, prot, sharing, backing, marks })
    }

    /// munmap(2).
    pub fn unmap(&mut self, range: Range) {
        self.disturb(range);
        self.remove(range);
    }

    /// Takes pages out, below which nothing can have grown unseen.
    pub(super) fn remove(&mut self, range: Range) {
        for (piece, area) in self.areas.cut(range) {
            self.lose(area.mapping, piece.bytes());
        }
    }

    /// The kernel has found room here without being told to make some: whatever lay here has been unmapped, and nothing
    /// was told of that. Of a stack nothing is left then; of other memory, what lies elsewhere may be.
    pub fn find_unmapped(&mut self, range: Range) {
        if self.areas.overlapping(range).next().is_none() {
            return;
        }
        let stale: Vec<(Range, MappingId)> =
            self.areas.overlapping(range).map(|(piece, area)| (piece, area.mapping)).collect();
        self.untold_unmaps += 1;
        for (piece, mapping) in stale {
            let is_stack = self.mappings.get(mapping).is_some_and(|mapping| mapping.stack.is_some());
            let pieces = if is_stack { self.pieces_of(mapping) } else { vec![piece] };
            for piece in pieces {
                self.unmap(piece);
            }
        }
    }

    /// mprotect(2), as far as the first hole, which is returned.
    pub fn protect(&mut self, range: Range, prot: Prot) -> Option<Addr> {
        let hole = self.areas.first_hole(range);
        if let Some(range) = Range::new(range.start(), hole.unwrap_or(range.end())) {
            self.disturb(range);
            self.areas.update(range, |area| Area { prot, ..area });
        }
        hole
    }

    /// madvise(2), for advice that stays: everywhere, holes or not.
    pub fn advise(&mut self, range: Range, mark: impl Fn(&mut Marks)) {
        self.disturb(range);
        self.areas.update(range, |mut area| {
            mark(&mut area.marks);
            area
        });
    }

    /// remap_file_pages(2): other parts of the file, mapped anew, so that advice is gone.
    pub fn remap_file_pages(&mut self, range: Range, offset: u64, prot: impl Fn(Prot) -> Prot) {
        let backing = Backing::file(offset, range.start());
        self.areas.update(range, |area| Area { backing, prot: prot(area.prot), marks: Marks::default(), ..area });
    }

    /// mremap(2) that moves or resizes: `from` becomes `to`.
    ///
    /// | | |
    /// |---|---|
    /// | shrinks in place | the tail is unmapped |
    /// | grows in place | the last page's mapping extends |
    /// | moves | what lay at the target is unmapped, but not below holes of the source (Linux 6.17) |
    /// | moves, larger | the last page's mapping extends behind it |
    /// | moves, smaller | the source's tail is unmapped |
    pub fn remap(&mut self, from: Range, to: Range) {
        let kept = from.bytes().min(to.bytes());
        if let Some(tail) = from.start().checked_add(kept).and_then(|start| Range::new(start, from.end())) {
            self.unmap(tail);
        }
        self.disturb(from);
        if let Some(source) = Range::of_len(from.start(), kept).filter(|_| from.start() != to.start()) {
            self.move_pieces(source, from.start(), to.start());
            self.move_growth(source, to.start());
        }
        let grown = to.start().checked_add(kept).and_then(|start| Range::new(start, to.end()));
        let last = grown.and_then(|grown| self.areas.at(Addr(grown.start().0 - 1)).map(|(_, area)| *area));
        if let (Some(grown), Some(last)) = (grown, last) {
            self.unmap(grown);
            self.areas.set(grown, Area { marks: last.marks.unguarded(), ..last });
            if let Some(mapping) = self.mappings.get_mut(last.mapping) {
                mapping.bytes += grown.bytes();
            }
        }
    }

    /// mremap(2) with an old size of 0: `to` shows what a shared mapping shows from `from` on.
    pub fn remap_again(&mut self, from: Addr, to: Range, made: Made) {
        let Some(first) = self.areas.at(from).map(|(_, area)| *area) else {
            return;
        };
        let Some(kind) = self.mappings.get(first.mapping).map(|mapping| mapping.kind) else {
            return;
        };
        self.map(to, Mapping::new(kind, Some(made)), |mapping| Area {
            mapping,
            backing: first.backing.moved(from, to.start()),
            marks: first.marks.unguarded(),
            ..first
        });
    }

    /// mremap(2) with MREMAP_DONTUNMAP: the source stays mapped, but its contents move, guards among them.
    pub fn remap_copy(&mut self, from: Range, to: Addr, made: Made) {
        let pieces: Vec<(Range, Area)> = self.areas.overlapping(from).map(|(range, area)| (range, *area)).collect();
        let mut copies = SecondaryMap::new();
        for (piece, area) in pieces {
            let Some(source) = self.mappings.get(area.mapping) else { continue };
            let mapping = match copies.get(area.mapping) {
                Some(copy) => *copy,
                None => {
                    let copy = self.mappings.insert(Mapping::new(source.kind, Some(made)));
                    copies.insert(area.mapping, copy);
                    copy
                }
            };
            self.mappings[mapping].bytes += piece.bytes();
            self.mappings[mapping].made_bytes += piece.bytes();
            self.put_moved(piece, Area { mapping, ..area }, from.start(), to);
        }
        self.advise(from, |marks| *marks = marks.unguarded());
    }

    /// Where the break is, is not known any more: after the next brk(2) the kernel has to be asked.
    pub fn forget_break(&mut self) {
        if let Some(brk) = &mut self.brk {
            brk.end = None;
        }
    }

    /// brk(2) that has moved the break to `new`; false where the old one was not known.
    pub fn set_break(&mut self, new: Addr, prot: Prot) -> bool {
        let Some(brk) = &mut self.brk else {
            return false;
        };
        let Some(old) = brk.end.replace(new) else {
            return false;
        };
        let (old, new) = (Addr(page_up(old.0)), Addr(page_up(new.0)));
        if let Some(shrunk) = Range::new(new, old) {
            self.unmap(shrunk);
        }
        if let Some(grown) = Range::new(old, new) {
            self.unmap(grown);
            let heap = self.heap();
            let marks = Marks::default();
            let area = Area { mapping: heap, prot, sharing: Sharing::Private, backing: Backing::Anonymous, marks };
            self.areas.set(grown, area);
            self.mappings[heap].bytes += grown.bytes();
        }
        true
    }

    /// The mapping that brk grows: one for the whole heap, since brk calls are never undone one by one.
    fn heap(&mut self) -> MappingId {
        let below = self.brk.and_then(|brk| {
            let (_, area) = self.areas.at(brk.start)?;
            (self.mappings.get(area.mapping)?.kind == Kind::Heap).then_some(area.mapping)
        });
        below.unwrap_or_else(|| self.mappings.insert(Mapping::new(Kind::Heap, None)))
    }

    /// shmdt(2): all that is left of the segment attached at `addr`, where shmat put it. False where it cannot be told
    /// what that is.
    pub fn detach_shm(&mut self, addr: Addr) -> bool {
        // Later parts may stand although the first is unmapped (ipc/shm.c, ksys_shmdt).
        let Some(rest) = Range::new(addr, Addr(!(crate::units::PAGE - 1))) else {
            return true;
        };
        let attached = Backing::file(0, addr);
        let mut first = None;
        let mut is_clear = !self.has_undetachable;
        let mut pieces = Vec::new();
        for (piece, area) in self.areas.overlapping(rest) {
            let Some(mapping) = self.mappings.get(area.mapping) else {
                continue;
            };
            let Kind::Shm { inode } = mapping.kind else {
                continue;
            };
            if area.backing != attached {
                continue;
            }
            // The kernel goes by the file that shmat opened, and no further than the segment's size: neither is known
            // of what mremap has put there.
            let (attachment, segment) = *first.get_or_insert((area.mapping, inode));
            let by_shmat = mapping.made.is_some_and(|made| matches!(made.call, Call::Shmat { .. }));
            is_clear &= by_shmat && area.mapping == attachment && piece.end().0 - addr.0 <= mapping.made_bytes;
            if inode == segment {
                pieces.push(piece);
            }
        }
        for piece in pieces {
            self.unmap(piece);
        }
        is_clear
    }

    /// io_destroy(2) of the ring at `ctx`. False where it cannot be told what that has unmapped.
    ///
    /// The kernel unmaps the pages where the ring was mapped, or moved, whatever lies there now (fs/aio.c, kill_ioctx),
    /// and finds the ring by a word in it: what replaced it may hold the right one.
    pub fn destroy_ring(&mut self, ctx: Addr) -> bool {
        let ring = self.areas.at(ctx).map(|(_, area)| area.mapping);
        let whole = ring.and_then(|ring| {
            let mapping = self.mappings.get(ring).filter(|mapping| mapping.kind == Kind::AioRing)?;
            let range = Range::of_len(ctx, mapping.made_bytes)?;
            let is_whole = mapping.made.is_some() && !mapping.trimmed && self.areas.first_hole(range).is_none();
            let is_alone = self.areas.overlapping(range).all(|(_, area)| area.mapping == ring);
            (is_whole && is_alone).then_some(range)
        });
        match whole {
            Some(range) if !self.has_undetachable => {
                self.unmap(range);
                true
            }
            _ => false,
        }
    }

    /// Where a mapping still lies, lowest first. Looks at the whole address space.
    pub fn pieces_of(&self, mapping: MappingId) -> Vec<Range> {
        self.areas.iter().filter(|(_, area)| area.mapping == mapping).map(|(range, _)| range).collect()
    }

    /// The mapping that holds `addr`.
    pub fn mapping_at(&self, addr: Addr) -> Option<MappingId> {
        self.areas.at(addr).map(|(_, area)| area.mapping)
    }

    /// Moves all that lies in `range` as far as from `from` to `to`.
    pub(super) fn move_pieces(&mut self, range: Range, from: Addr, to: Addr) {
        let pieces: Vec<(Range, Area)> = self.areas.cut(range).collect();
        for (piece, area) in pieces {
            self.put_moved(piece, area, from, to);
        }
    }

    pub(super) fn put_moved(&mut self, piece: Range, area: Area, from: Addr, to: Addr) {
        let moved = Area { backing: area.backing.moved(from, to), ..area };
        match piece.moved(from, to) {
            Some(target) => {
                self.unmap(target);
                self.areas.set(target, moved);
            }
            None => self.lose(area.mapping, piece.bytes()),
        }
    }

    /// A part of a mapping is no longer mapped.
    fn lose(&mut self, id: MappingId, bytes: u64) {
        let Some(mapping) = self.mappings.get_mut(id) else {
            return;
        };
        mapping.bytes = mapping.bytes.saturating_sub(bytes);
        mapping.trimmed = true;
        if let Some(stack) = &mut mapping.stack {
            stack.cut = true;
        }
        if mapping.bytes == 0 {
            self.forget(id);
        }
    }

    /// Nothing of a mapping is left.
    fn forget(&mut self, id: MappingId) {
        let Some(mapping) = self.mappings.remove(id) else {
            return;
        };
        match mapping.idle_stack() {
            // The parent's threads came from the parent's sites.
            Some(_) if mapping.inherited => {}
            Some((stack, _)) => {
                let site = self.sites.entry(stack.site());
                site.unmapped_after_end += 1;
                site.let_go(stack.last.ended);
                self.waiting.remove(id, stack.maker, stack.region_bytes);
            }
            None if mapping.stack.is_none() && mapping.made.is_some() => self.freed_sizes.add(mapping.made_bytes),
            None => {}
        }
    }
}

impl Vma {
    /// What lies behind it.
    pub fn backing(&self) -> Backing {
        if self.is_file() { Backing::file(self.offset, self.range.start()) } else { Backing::Anonymous }
    }
}
