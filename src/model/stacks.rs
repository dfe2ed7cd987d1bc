//! Whose stack a mapping is: ownership from clone to the owner's end, and what reuse tells about idle stacks.

use std::time::Duration;

use super::Calls;
use super::mapping::{Born, Ended, Kind, Maker, Mapping, MappingId, Owner, Stack};
use super::space::AddressSpace;
use crate::abi::{clone, map};
use crate::event::{AttachedTask, Call, Exit, LibraryStack, Prot, Sharing, ThreadLibrary};
use crate::units::{Addr, PAGE, Range, Tid, Time};

/// A library looks at its cache a moment before it maps: an idle stack counts as passed over only if its owner had
/// ended this long before the fresh one was mapped.
pub const CACHE_LOOK: Duration = Duration::from_millis(10);

/// glibc gives a cached stack to a request of at least a quarter of its size (nptl/allocatestack.c, get_cached_stack).
const CACHE_FIT: u64 = 4;

impl AddressSpace {
    /// A task was created in this address space: the mapping that holds its stack is its own from now on.
    /// `last_birth` is when its creator had made one before.
    pub fn task_born(&mut self, child: Tid, born: Born, last_birth: Option<Time>) -> Option<MappingId> {
        let top = born.args.stack_top()?;
        if self.calls == Calls::Untold && born.args.flags & clone::VFORK != 0 {
            // Its creator waits for its end, and gets its stack back unseen.
            return None;
        }
        let id = self.mapping_at(Addr(top.0.checked_sub(1)?))?;
        let owner = Owner { tid: child, born: Some(born), ended: None, released: false };
        if self.mappings[id].stack.is_some() {
            self.take_over(id, owner);
        } else {
            let stack = self.first_stack(id, top, owner, last_birth)?;
            let (maker, site) = (stack.maker, stack.site());
            self.mappings[id].stack = Some(Box::new(stack));
            let site = self.sites.entry(site);
            site.created += 1;
            if maker != Maker::Unsettled {
                self.fresh_stack(id);
            }
        }
        self.mappings[id].inherited = false;
        Some(id)
    }

    /// An existing stack gets a new owner: it was in a cache or in a pool.
    fn take_over(&mut self, id: MappingId, owner: Owner) {
        let mapping = &mut self.mappings[id];
        let region_bytes = mapping.bytes;
        let inherited = mapping.inherited;
        let Some(stack) = mapping.stack.as_deref_mut() else {
            return;
        };
        self.waiting.remove(id, stack.maker, stack.region_bytes);
        let was_idle = stack.live == 0;
        if stack.cut && was_idle {
            // Whoever uses it again uses what is left of it.
            (stack.region_bytes, stack.cut) = (region_bytes, false);
        }
        let reused = u64::from(was_idle && !inherited);
        let (former, ended) = (stack.site(), stack.last.ended);
        stack.owners += u32::from(!inherited);
        stack.live += 1;
        stack.last = owner;
        (stack.passed_over, stack.imprint) = (None, None);
        let key = stack.site();
        let site = self.sites.entry(key);
        site.created += 1;
        site.reused += reused;
        let former = self.sites.entry(former);
        former.passed_on += reused;
        if reused > 0 {
            former.let_go(ended);
        }
    }

    /// The mapping's life as a stack begins; none where it is no stack of its own but part of something larger.
    fn first_stack(&mut self, id: MappingId, top: Addr, owner: Owner, last_birth: Option<Time>) -> Option<Stack> {
        let born = owner.born?;
        let args = born.args;
        let mapping = &self.mappings[id];
        let may_be = matches!(mapping.kind, Kind::Anonymous | Kind::File | Kind::Shm { .. });
        if !may_be || mapping.is_malloc_arena() {
            return None;
        }
        let pieces = self.pieces_near(id, top);
        let span = Range::new(pieces.first()?.0.start(), pieces.last()?.0.end())?;
        // A stack that leaves more than half of the mapping above it is one of several in a larger block: a heap's,
        // or a pool's that will show a second owner in time.
        if span.end().0 - top.0 > span.bytes() / 2 {
            return None;
        }
        let guard_bytes = pieces.iter().filter(|(_, guard)| *guard).map(|(range, _)| range.bytes()).sum();
        // pthread_create, also on a stack of the program's, keeps its descriptor at the stack's upper end.
        let descriptor = args.flags & clone::SETTLS != 0 && span.contains(args.tls);
        if mapping.holds_several && !descriptor {
            return None;
        }
        let maker = if descriptor { self.library_stack_maker(id, &born, last_birth) } else { Maker::Program };
        Some(Stack::new(maker, mapping.bytes, guard_bytes, owner))
    }

    /// The pieces of a mapping around `addr`, and whether each is a guard.
    fn pieces_near(&self, id: MappingId, addr: Addr) -> Vec<(Range, bool)> {
        let size = self.mappings[id].made_bytes.max(self.mappings[id].bytes);
        let low = Addr(addr.0.saturating_sub(size + PAGE));
        let Some(window) = Range::around(low, Addr(addr.0.saturating_add(size))) else {
            return Vec::new();
        };
        self.areas
            .overlapping(window)
            .filter(|(_, area)| area.mapping == id)
            .map(|(range, area)| (range, area.marks.guard || area.prot == Prot::NONE))
            .collect()
    }

    /// Who made a mapping that pthread_create uses as a stack.
    ///
    /// The library maps, guards and clones in one go; a program that prepares stacks beforehand has created other
    /// tasks since, or maps without MAP_STACK. glibc 2.26 to 2.41 and musl map without access and then open all but
    /// the guard, which programs hardly ever do.
    fn library_stack_maker(&self, id: MappingId, born: &Born, last_birth: Option<Time>) -> Maker {
        let mapping = &self.mappings[id];
        let Some(made) = mapping.made else {
            return Maker::Unknown;
        };
        let Some((flags, prot, _)) = mapping.mmap_arguments() else {
            return Maker::Program;
        };
        let in_one_go = made.tid == born.creator && last_birth.is_none_or(|before| before <= made.at);
        let private = flags & map::TYPE == map::PRIVATE && flags & map::ANONYMOUS != 0;
        if !in_one_go || !private || mapping.trimmed {
            return Maker::Program;
        }
        let opened = prot == Prot::NONE
            && mapping.guarded.as_deref().is_some_and(|guarded| {
                guarded.tid == born.creator && matches!(guarded.call, Call::Mprotect { prot, .. } if prot & 3 == 3)
            });
        if born.args.flags & clone::DETACHED != 0 {
            // musl's own without a guard look like the program's, which are the more frequent.
            return if opened { Maker::Musl } else { Maker::Program };
        }
        match (flags & map::STACK != 0, opened) {
            (false, _) => Maker::Program,
            (true, true) => Maker::Glibc,
            (true, false) if self.glibc_confirmed => Maker::Glibc,
            (true, false) => Maker::Unsettled,
        }
    }

    /// A stack was there before us: `task` runs on it.
    ///
    /// Its bounds are known where a guard lies right below, and above where the thread library's descriptor is, with
    /// which the stack ends. Elsewhere neighbours may have merged with it, and nothing will be claimed.
    pub fn stack_found(&mut self, task: &AttachedTask) -> Option<MappingId> {
        const DESCRIPTOR_BYTES: u64 = 0x700;
        let (line, area) = self.areas.at(task.sp?).map(|(range, area)| (range, *area))?;
        if self.mappings[area.mapping].kind != Kind::Anonymous || area.sharing != Sharing::Private {
            return None;
        }
        let owner = Owner { tid: task.tid, born: None, ended: None, released: false };
        if let Some(stack) = self.mappings[area.mapping].stack.as_deref_mut() {
            stack.live += 1;
            stack.owners += 1;
            stack.maker = Maker::Unknown;
            stack.last = owner;
            return Some(area.mapping);
        }
        let guard = line.start().0.checked_sub(1).and_then(|below| self.areas.at(Addr(below)));
        let guard = guard.filter(|(_, guard)| {
            guard.prot == Prot::NONE && guard.backing == area.backing && guard.sharing == area.sharing
        });
        let guard = guard.map(|(range, _)| range);
        let descriptor = task.tls.filter(|tls| line.contains(*tls) && task.sp.is_some_and(|sp| sp < *tls));
        let (Some(guard), Some(descriptor)) = (guard, descriptor) else {
            let stack = Stack::new(Maker::Unknown, line.bytes(), 0, owner);
            self.mappings[area.mapping].stack = Some(Box::new(stack));
            return Some(area.mapping);
        };
        let end = Addr(crate::units::page_up(descriptor.0 + DESCRIPTOR_BYTES)).min(line.end());
        let whole = Range::new(guard.start(), end)?;
        let id = self.make_one_mapping(whole, area.mapping);
        let stack = Stack::new(Maker::Unsettled, whole.bytes(), guard.bytes(), owner);
        self.mappings[id].stack = Some(Box::new(stack));
        Some(id)
    }

    /// The thread library tells the bounds of a stack of its own. Of one that was there before us they were not known,
    /// or guessed at: it gets them now. Gives its mapping in that case.
    pub fn library_stack(&mut self, known: &LibraryStack) -> Option<MappingId> {
        let pieces: Vec<MappingId> = self.areas.overlapping(known.range).map(|(_, area)| area.mapping).collect();
        let first = *pieces.first()?;
        let is_whole = self.areas.first_hole(known.range).is_none();
        if !is_whole || !pieces.iter().all(|id| self.mappings.get(*id).is_some_and(Mapping::is_unbounded)) {
            return None;
        }
        let maker = match known.library {
            ThreadLibrary::Glibc => Maker::Glibc,
            ThreadLibrary::Musl => Maker::Musl,
        };
        let exact = pieces.iter().all(|id| *id == first) && self.mappings[first].bytes == known.range.bytes();
        let (id, stack) = if exact {
            (first, self.mappings[first].stack.take())
        } else {
            let stacks = pieces.iter().find_map(|id| self.leave_shared(*id, known.task));
            (self.make_one_mapping(known.range, first), stacks)
        };
        let stack = stack.or_else(|| {
            let owner = Owner { tid: known.task?, born: None, ended: None, released: false };
            Some(Box::new(Stack::new(maker, known.range.bytes(), known.guard_bytes, owner)))
        });
        self.mappings[id].stack = stack.map(|mut stack| {
            (stack.maker, stack.region_bytes) = (maker, known.range.bytes());
            (stack.guard_bytes, stack.cut) = (known.guard_bytes, false);
            stack
        });
        Some(id)
    }

    /// A task's stack turns out to be a part of what was taken for one. If that was this task's alone, it is given back.
    fn leave_shared(&mut self, id: MappingId, task: Option<Tid>) -> Option<Box<Stack>> {
        let shared = &mut self.mappings[id].stack;
        let stack = shared.as_deref_mut()?;
        let is_last = task.is_none_or(|task| task == stack.last.tid);
        if stack.owners == 1 {
            return if is_last { shared.take() } else { None };
        }
        stack.owners -= 1;
        stack.live = stack.live.saturating_sub(u32::from(task.is_some()));
        if stack.live == 0 && stack.last.ended.is_none() {
            *shared = None;
        }
        None
    }

    /// Gives the pages of `range`, so far of several lines of maps, a mapping of their own.
    pub(super) fn make_one_mapping(&mut self, range: Range, like: MappingId) -> MappingId {
        let kind = self.mappings[like].kind;
        let id = self.mappings.insert(super::mapping::Mapping {
            bytes: range.bytes(),
            made_bytes: range.bytes(),
            ..super::mapping::Mapping::new(kind, None)
        });
        let pieces: Vec<_> = self.areas.cut(range).collect();
        for (piece, area) in pieces {
            if let Some(mapping) = self.mappings.get_mut(area.mapping) {
                mapping.bytes -= piece.bytes();
                mapping.made_bytes = mapping.bytes;
                if mapping.bytes == 0 {
                    self.mappings.remove(area.mapping);
                }
            }
            self.areas.set(piece, super::space::Area { mapping: id, ..area });
        }
        id
    }

    /// The owner of this stack has given pages of it back.
    pub fn released(&mut self, id: MappingId, tid: Tid, advised: Range) {
        if self.mapping_at(advised.start()) != Some(id) {
            return;
        }
        if let Some(stack) = self.mappings.get_mut(id).and_then(|mapping| mapping.stack.as_deref_mut())
            && stack.last.tid == tid
        {
            stack.last.released = true;
        }
    }

    /// A task on this stack has ended.
    pub fn owner_ended(&mut self, id: MappingId, tid: Tid, at: Time, exit: Exit) {
        let Some(mapping) = self.mappings.get_mut(id) else {
            return;
        };
        let inherited = mapping.inherited;
        let Some(stack) = mapping.stack.as_deref_mut() else {
            return;
        };
        stack.live = stack.live.saturating_sub(1);
        if stack.last.tid == tid {
            stack.last.ended = Some(Ended { at, exit });
        }
        if stack.live > 0 || inherited {
            return;
        }
        if stack.last.ended.is_none() {
            // Its latest owner ended before the others: they were several on one stack.
            stack.last.ended = Some(Ended { at, exit });
        }
        if self.calls == Calls::Untold {
            // Neither advice nor mmap tells of its maker: the thread library will.
            return;
        }
        let unsettled = stack.maker == Maker::Unsettled;
        let assumed = stack.maker;
        stack.settle();
        let changed = assumed != stack.maker;
        if unsettled && stack.maker == Maker::Glibc && stack.last.released {
            self.glibc_confirmed = true;
        }
        self.waiting.add(id, stack.maker, stack.region_bytes);
        if unsettled || changed {
            self.fresh_stack(id);
        }
    }

    /// A stack of known maker was mapped for its first owner: idle ones that would have served have been passed over.
    fn fresh_stack(&mut self, id: MappingId) {
        let mapping = &self.mappings[id];
        let (Some(stack), Some(made)) = (mapping.stack.as_deref(), mapping.made) else {
            return;
        };
        if stack.owners != 1 {
            return;
        }
        let (maker, wanted, site) = (stack.maker, stack.region_bytes, stack.site());
        let largest = if maker == Maker::Glibc { wanted.saturating_mul(CACHE_FIT) } else { wanted };
        let mappings = &mut self.mappings;
        self.waiting.pass_over(maker, wanted, largest, |id| {
            let Some(passed) = mappings.get_mut(id).and_then(|mapping| mapping.stack.as_deref_mut()) else {
                return true;
            };
            let early = passed.last.ended.is_some_and(|ended| made.at.since(ended.at) >= CACHE_LOOK);
            // The library's cache serves all of the program; what one place of the program keeps, another does not know.
            let early = early && (maker == Maker::Glibc || passed.site() == site);
            if early {
                passed.passed_over = Some(made.at);
            }
            early
        });
    }
}
