//! What the events add up to: address spaces, mappings, tasks. No operating system in here.
//!
//! The model has one writer, [`Model::apply`]. Its size follows what is alive: a mapping that is gone leaves nothing
//! behind but a count at its site.

pub mod calls;
mod digest;
mod growth;
pub mod kernel;
pub mod mapping;
pub mod page_map;
mod refused;
pub mod regions;
pub mod sites;
pub mod space;
pub mod stacks;
pub mod tolerance;
pub mod waiting;

#[cfg(test)]
pub(crate) mod tests;

pub use digest::digest;

use slotmap::SlotMap;

use crate::abi::{clone, madv};
use crate::event::{
    Attached, Birth, Call, CloneArgs, Event, EventKind, Exec, Exit, ExitScope, LibraryStack, StackRegion, Syscall, Vma,
};
use crate::tasks::{OfProcess, Tasks};
use crate::units::{Addr, Pid, Range, Tid, Time};
use calls::Caller;
use mapping::{Born, MappingId};
use space::{AddressSpace, Break};

slotmap::new_key_type! {
    /// Names an address space; never reused.
    pub struct SpaceId;
}

/// Whether mapping calls are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Calls {
    /// All of them.
    #[default]
    Told,
    /// None: what is mapped is looked up now and then, and what happened in between is not known.
    Untold,
}

/// So many mappings are known at the same time, of all address spaces: some 400 MiB. No machine is likely to have as many;
/// a log without the ends of processes, or one that means ill, may.
const MOST_MAPPINGS: usize = 2 << 20;

/// All followed tasks and their address spaces.
#[derive(Debug)]
pub struct Model {
    calls: Calls,
    spaces: SlotMap<SpaceId, AddressSpace>,
    tasks: Tasks<Task>,
    /// Followed system calls, births and deaths.
    events: u64,
    tasks_seen: u64,
    /// Whether mappings may have been there that nothing was told of.
    is_partial: bool,
    /// How many mappings there are, as far as they have been counted.
    mappings: usize,
    most_mappings: usize,
    /// Address spaces that were given up, because there were more.
    given_up: u64,
    /// Whether an io_uring has been made.
    has_rings: bool,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            calls: Calls::default(),
            spaces: SlotMap::default(),
            tasks: Tasks::default(),
            events: 0,
            tasks_seen: 0,
            is_partial: false,
            mappings: 0,
            most_mappings: MOST_MAPPINGS,
            given_up: 0,
            has_rings: false,
        }
    }
}

/// A live task.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Its thread group.
    pub pid: Pid,
    /// Its address space.
    pub space: SpaceId,
    /// The mapping that is its stack, if it has one of its own.
    pub stack: Option<MappingId>,
    /// An address in its thread library's stack: its thread-local storage or, failing that, where its stack pointer was.
    pub anchor: Option<Addr>,
    /// When it last created a task.
    last_birth: Option<Time>,
    /// READ_IMPLIES_EXEC of personality(2).
    read_implies_exec: bool,
}

impl OfProcess for Task {
    fn pid(&self) -> Pid {
        self.pid
    }
}

/// What an event meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The address space whose mappings it changed.
    pub changed: Option<SpaceId>,
    /// The address space of which only a look at the kernel's maps can tell what it is now.
    pub unclear: Option<SpaceId>,
}

impl Model {
    /// A model of nothing.
    pub fn new() -> Model {
        Model::default()
    }

    /// Whether mapping calls are told, from here on.
    pub fn calls(&self) -> Calls {
        self.calls
    }

    /// Mapping calls are told no more.
    fn calls_untold(&mut self) {
        self.calls = Calls::Untold;
        for space in self.spaces.values_mut() {
            space.calls = Calls::Untold;
        }
    }

    /// A model of what is told, where that may not be all: mappings that were there before, or calls that were not seen.
    /// What is done to unknown pages does nothing.
    pub fn partial() -> Model {
        Model { is_partial: true, ..Model::default() }
    }

    /// The address space whose process this event ends, before it does: the moment to judge it.
    ///
    /// That is the call of exit_group, the call of exit by the last task, death by a signal, or execve (of its call it
    /// is not known yet whether it does). Tasks that merely share the address space (vfork's child, raw clones) end without it.
    pub fn ends(&self, event: &Event) -> Option<SpaceId> {
        // By far the most events are calls, which end nothing.
        let is_of_all = match &event.kind {
            EventKind::Exiting(exiting) => exiting.scope == ExitScope::Group,
            EventKind::Ended(exit) => matches!(exit, Exit::Signal(_)),
            EventKind::GroupEnding { .. } | EventKind::Executing | EventKind::Superseded | EventKind::Exec(_) => true,
            _ => return None,
        };
        let caller = match &event.kind {
            // The leader, whose number the event has, may have ended long before.
            EventKind::Exec(exec) if self.tasks.contains_key(&exec.former) => exec.former,
            _ => event.tid,
        };
        let task = self.tasks.get(&caller)?;
        let space = self.spaces.get(task.space)?;
        if space.finished {
            return None;
        }
        let last = space.tasks == 1;
        let ends = last || is_of_all && (space.pid == task.pid || self.group_is_alone(task));
        ends.then_some(task.space)
    }

    /// Takes in what happened.
    pub fn apply(&mut self, event: &Event) -> Applied {
        match &event.kind {
            EventKind::Attached(attached) => self.attached(attached),
            EventKind::Noticed(pid) => self.noticed(event.tid, *pid),
            EventKind::Syscall(syscall) => {
                self.events += 1;
                if matches!(syscall.call, Call::IoUringSetup { .. }) && syscall.result.is_ok() {
                    self.ring_made();
                }
                return self.syscall(event, syscall);
            }
            EventKind::Exiting(_) => self.events += 1,
            EventKind::LifecyclesAlone => self.calls_untold(),
            EventKind::Opaque => {
                if let Some(space) = self.space_of(event.tid).and_then(|id| self.spaces.get_mut(id)) {
                    (space.is_opaque, space.finished) = (true, true);
                }
            }
            EventKind::Executing | EventKind::GroupEnding { .. } => {}
            EventKind::Born(birth) => {
                self.events += 1;
                self.born(event, birth);
            }
            EventKind::Ended(exit) => {
                self.events += 1;
                self.ended(event.tid, event.at, *exit);
            }
            EventKind::Superseded => {
                self.events += 1;
                self.ended(event.tid, event.at, Exit::Code(0));
            }
            EventKind::Exec(exec) => self.exec(event, exec),
            EventKind::OrderLost => {
                if let Some(space) = self.space_of(event.tid).and_then(|id| self.spaces.get_mut(id)) {
                    space.forget_break();
                }
            }
            EventKind::Maps(maps) => {
                if let Some(id) = self.space_of(event.tid)
                    && let Some(space) = self.spaces.get_mut(id).filter(|space| !space.is_opaque)
                {
                    space.adopt(maps);
                    self.count(id);
                }
            }
            EventKind::LibraryStacks(stacks) => self.library_stacks(event.tid, stacks),
            EventKind::Limits(limits) => {
                let space = self.space_of(event.tid).and_then(|id| self.spaces.get_mut(id));
                if let Some(refusal) = space.and_then(|space| space.refusals.last_mut()) {
                    refusal.limits = Some(limits.clone());
                }
            }
        }
        Applied::default()
    }

    /// Its process is over as far as verdicts go.
    pub fn finish(&mut self, space: SpaceId) {
        if let Some(space) = self.spaces.get_mut(space) {
            space.finished = true;
        }
    }

    /// The address spaces whose processes are not over.
    pub fn unfinished(&self) -> impl Iterator<Item = (SpaceId, &AddressSpace)> {
        self.spaces.iter().filter(|(_, space)| !space.finished)
    }

    /// An address space.
    pub fn space(&self, id: SpaceId) -> Option<&AddressSpace> {
        self.spaces.get(id)
    }

    /// An address space, to be compared with the kernel's.
    pub fn space_mut(&mut self, id: SpaceId) -> Option<&mut AddressSpace> {
        self.spaces.get_mut(id)
    }

    /// The address space of a live task.
    pub fn space_of(&self, tid: Tid) -> Option<SpaceId> {
        self.tasks.get(&tid).map(|task| task.space)
    }

    /// Address spaces of which nothing more is known, because more mappings than can be kept were there at the same time.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    fn add_space(&mut self, space: AddressSpace) -> SpaceId {
        let id = self.spaces.insert(space);
        self.count(id);
        id
    }

    fn remove_space(&mut self, id: SpaceId) {
        if let Some(space) = self.spaces.remove(id) {
            self.mappings -= space.counted;
        }
    }

    /// Counts the mappings of an address space that may have got some, and gives it up if there are too many in all.
    fn count(&mut self, id: SpaceId) {
        let Some(space) = self.spaces.get_mut(id) else { return };
        self.mappings = self.mappings - space.counted + space.mappings.len();
        space.counted = space.mappings.len();
        if self.mappings > self.most_mappings && !space.is_opaque {
            self.mappings -= space.counted;
            space.give_up();
            self.given_up += 1;
        }
    }

    /// A live task.
    pub fn task(&self, tid: Tid) -> Option<&Task> {
        self.tasks.get(&tid)
    }

    /// All live tasks that use the address space.
    pub fn tasks_of(&self, space: SpaceId) -> impl Iterator<Item = (Tid, &Task)> {
        let (pid, tasks) = self.spaces.get(space).map_or((Pid(0), 0), |space| (space.pid, space.tasks));
        let of_process = move || self.tasks.of(pid).iter().filter_map(|tid| Some((*tid, self.tasks.get(tid)?)));
        let is_here = move |(_, task): &(Tid, &Task)| task.space == space;
        // As a rule these are all; others are looked for among all tasks there are.
        let has_others = of_process().filter(is_here).count() < tasks as usize;
        let others = has_others.then(|| self.tasks.iter()).into_iter().flatten().map(|(tid, task)| (*tid, task));
        of_process().chain(others.filter(move |(_, task)| task.pid != pid)).filter(is_here)
    }

    /// A live task that uses the address space.
    pub fn any_task_of(&self, space: SpaceId) -> Option<Tid> {
        self.tasks_of(space).next().map(|(tid, _)| tid)
    }

    /// Followed system calls, births and deaths so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Tasks seen so far.
    pub fn tasks_seen(&self) -> u64 {
        self.tasks_seen
    }

    /// Tasks alive now.
    pub fn tasks_live(&self) -> usize {
        self.tasks.len()
    }

    /// Mappings now, of all address spaces.
    pub fn mappings_live(&self) -> usize {
        self.spaces.values().map(|space| space.mappings.len()).sum()
    }

    fn attached(&mut self, attached: &Attached) {
        let mut space = self.new_space(attached.pid, &attached.maps, attached.start_brk);
        space.was_attached = true;
        (space.has_unseen, space.has_undetachable) = (true, true);
        space.calls = self.calls;
        space.tasks = u32::try_from(attached.tasks.len()).unwrap_or(u32::MAX);
        let stacks: Vec<Option<MappingId>> = attached.tasks.iter().map(|task| space.stack_found(task)).collect();
        if attached.tasks.is_empty() {
            return;
        }
        let id = self.add_space(space);
        for (task, stack) in attached.tasks.iter().zip(stacks) {
            self.add_task(
                task.tid,
                Task {
                    pid: task.pid,
                    space: id,
                    stack,
                    anchor: task.tls.or(task.sp),
                    last_birth: None,
                    read_implies_exec: attached.read_implies_exec,
                },
            );
        }
    }

    fn new_space(&self, pid: Pid, maps: &[Vma], start_brk: Option<Addr>) -> AddressSpace {
        let space = AddressSpace::new(pid, maps, start_brk);
        AddressSpace { is_partial: self.is_partial, has_unseen: self.has_rings, ..space }
    }

    fn noticed(&mut self, tid: Tid, pid: Pid) {
        if self.tasks.contains_key(&tid) {
            return;
        }
        let known = self.tasks.of(pid).first().and_then(|sibling| self.tasks.get(sibling)).copied();
        let (space, read_implies_exec) = match known {
            Some(sibling) => (sibling.space, sibling.read_implies_exec),
            None => {
                let mut space = self.new_space(pid, &[], None);
                space.was_attached = true;
                (space.has_unseen, space.has_undetachable) = (true, true);
                (self.add_space(space), false)
            }
        };
        if let Some(space) = self.spaces.get_mut(space) {
            space.tasks += 1;
        }
        self.add_task(tid, Task { pid, space, stack: None, anchor: None, last_birth: None, read_implies_exec });
    }

    fn add_task(&mut self, tid: Tid, task: Task) {
        self.tasks_seen += 1;
        self.put_task(tid, task);
    }

    fn put_task(&mut self, tid: Tid, task: Task) {
        // A number is given again when its task is gone, of which a damaged recording may not tell.
        if let Some(former) = self.tasks.insert(tid, task)
            && let Some(space) = self.spaces.get_mut(former.space)
        {
            space.tasks = space.tasks.saturating_sub(1);
            if space.tasks == 0 {
                self.remove_space(former.space);
            }
        }
    }

    fn syscall(&mut self, event: &Event, syscall: &Syscall) -> Applied {
        let Some(task) = self.tasks.get_mut(&event.tid) else {
            return Applied::default();
        };
        if let (Call::Personality { persona }, Ok(_)) = (syscall.call, syscall.result)
            && persona != u32::MAX
        {
            task.read_implies_exec = persona & crate::abi::READ_IMPLIES_EXEC != 0;
        }
        let id = task.space;
        let Some(space) = self.spaces.get_mut(id).filter(|space| !space.is_opaque) else {
            return Applied::default();
        };
        if let (Call::Madvise { addr, len, advice: madv::DONTNEED }, Ok(_)) = (syscall.call, syscall.result)
            && let (Some(stack), Some(advised)) = (task.stack, Range::of_len(addr, len))
        {
            space.released(stack, event.tid, advised);
        }
        let caller = Caller {
            at: event.at,
            tid: event.tid,
            call_stack: event.call_stack,
            read_implies_exec: task.read_implies_exec,
        };
        // Nobody can be asked about what is not all known.
        let unclear = space.apply(caller, syscall).is_err() && !space.is_partial;
        let (before, now) = (space.counted, space.mappings.len());
        if now != before {
            space.counted = now;
            self.mappings = self.mappings - before + now;
            if self.mappings > self.most_mappings {
                self.count(id);
            }
        }
        let changes = syscall.call.changes_mappings() && !matches!(syscall.call, Call::Clone(_));
        Applied { changed: changes.then_some(id), unclear: unclear.then_some(id) }
    }

    /// An io_uring can be given madvise by whoever has its descriptor, which may be handed on, or kept over execve: whoever
    /// enters it is advised without any other call.
    fn ring_made(&mut self) {
        self.has_rings = true;
        for space in self.spaces.values_mut() {
            space.has_unseen = true;
        }
    }

    fn born(&mut self, event: &Event, birth: &Birth) {
        let Some(&parent) = self.tasks.get(&event.tid) else {
            return;
        };
        let child = if birth.args.shares_memory() {
            let Some(space) = self.spaces.get_mut(parent.space) else {
                return;
            };
            space.tasks += 1;
            let born = Born {
                at: event.at,
                creator: event.tid,
                args: birth.args,
                call_stack: event.call_stack,
                function: birth.function,
            };
            let stack = space.task_born(birth.child, born, parent.last_birth);
            // Without storage of its own it uses its creator's.
            let anchor = (birth.args.flags & clone::SETTLS != 0).then_some(birth.args.tls);
            Task { pid: birth.pid, stack, anchor, last_birth: None, ..parent }
        } else {
            let Some(space) = self.spaces.get(parent.space) else {
                return;
            };
            let mut copy = space.fork(birth.pid);
            copy.tasks = 1;
            if let Some(stack) = parent.stack.and_then(|id| copy.mappings.get_mut(id)?.stack.as_deref_mut()) {
                stack.live = 1;
            }
            Task { pid: birth.pid, space: self.add_space(copy), last_birth: None, ..parent }
        };
        self.add_task(birth.child, child);
        if let Some(parent) = self.tasks.get_mut(&event.tid)
            && birth.args.shares_memory()
        {
            parent.last_birth = Some(event.at);
        }
    }

    fn ended(&mut self, tid: Tid, at: Time, exit: Exit) {
        let Some(task) = self.tasks.remove(&tid) else {
            return;
        };
        let Some(space) = self.spaces.get_mut(task.space) else {
            return;
        };
        space.tasks = space.tasks.saturating_sub(1);
        if space.tasks == 0 {
            self.remove_space(task.space);
        } else if let (Some(stack), false) = (task.stack, space.finished) {
            space.owner_ended(stack, tid, at, exit);
        }
    }

    /// Where the stack of a task lies that `parent` is about to make. To be told before its birth, where calls are not.
    pub fn stack_region(&mut self, parent: Tid, args: &CloneArgs, region: &StackRegion) {
        let space = self.space_of(parent).and_then(|id| self.spaces.get_mut(id));
        if let (Some(space), Some(top)) = (space, args.stack_top()) {
            space.stack_region(top, region);
        }
    }

    fn library_stacks(&mut self, tid: Tid, stacks: &[LibraryStack]) {
        let Some(id) = self.space_of(tid) else { return };
        let Some(space) = self.spaces.get_mut(id) else { return };
        for stack in stacks {
            let task = stack.task.and_then(|tid| self.tasks.get_mut(&tid)).filter(|task| task.space == id);
            // A source whose events come late may know a task whose birth has not been told: then it takes its stack.
            let known = LibraryStack { task: stack.task.filter(|_| task.is_some()), ..*stack };
            let mapping = space.library_stack(&known);
            if let (Some(task), Some(mapping)) = (task, mapping) {
                task.stack = Some(mapping);
            }
        }
    }

    fn exec(&mut self, event: &Event, exec: &Exec) {
        let tid = event.tid;
        // The caller goes on under the leader's number, whose own task is gone, with all its siblings. Who shares the
        // old address space without being one, such as the parent of a vfork, keeps it, and their stacks in it.
        let pid = self.tasks.get(&exec.former).map_or(Pid(tid.0), |caller| caller.pid);
        let siblings = self.tasks.of(pid).to_vec();
        self.tasks_seen += u64::from(siblings.is_empty());
        for sibling in siblings {
            self.ended(sibling, event.at, Exit::Code(0));
        }
        let mut space = self.new_space(pid, &exec.maps, exec.start_brk);
        space.tasks = 1;
        space.calls = self.calls;
        // A new program's break is where it starts (fs/binfmt_elf.c, load_elf_binary).
        space.brk = exec.start_brk.map(|start| Break { start, end: Some(start) });
        let space = self.add_space(space);
        let read_implies_exec = exec.read_implies_exec;
        self.put_task(tid, Task { pid, space, stack: None, anchor: None, last_birth: None, read_implies_exec });
    }

    /// Whether all tasks of the address space are of this task's process.
    fn group_is_alone(&self, task: &Task) -> bool {
        self.tasks_of(task.space).all(|(_, other)| other.pid == task.pid)
    }
}
