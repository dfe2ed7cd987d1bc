//! From records, in order, to events: which calls are under way, who is born and who ends.

mod births;
mod correction;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nix::libc::{self, user_regs_struct};

pub(super) use births::clone_args;
use correction::unseen_clone;

use super::look::NewImage;
use super::points::Point;
use super::record::{Record, Snapshot, What};
use crate::event::{Birth, Call, CloneArgs, Event, EventKind, Exec, Exit, ExitScope, Exiting, Syscall};
use crate::procfs;
use crate::source::ptrace::decode::{self, Abi, Arguments, Followed};
use crate::source::reconcile::Reconciler;
use crate::sys::perf::monotonic_ns;
use crate::units::{Addr, Pid, Tid, Time};

/// Names an address space here; never reused.
pub type SpaceNo = u64;

/// What belongs to an event: where the task stood.
pub type With = Option<Box<Snapshot>>;

/// All followed tasks, and what they are in.
#[derive(Debug)]
pub struct Stream {
    /// CLOCK_MONOTONIC in nanoseconds where times begin.
    start: u64,
    pub(super) tasks: HashMap<Tid, Task>,
    /// Of tasks that are gone, until all that is to be told of them has been.
    buried: HashMap<Tid, (Pid, SpaceNo)>,
    groups: HashMap<Pid, Group>,
    /// How many tasks use each address space, and whose it is: the process that had it first.
    users: HashMap<SpaceNo, (u32, Pid)>,
    /// Where the break of address spaces began, which tells one program from the next.
    breaks: HashMap<SpaceNo, Addr>,
    /// Address spaces whose calls cannot be seen: those of 32-bit programs.
    opaque: HashSet<SpaceNo>,
    reconciler: Reconciler<SpaceNo, With>,
    spaces: SpaceNo,
    main: Pid,
    main_exit: Option<Exit>,
    /// Tasks have come or gone since that was last asked.
    changed: bool,
    /// Address spaces that the kernel has to be asked about, by one of their tasks.
    doubtful: Vec<Tid>,
}

/// A followed task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) pid: Pid,
    pub(super) space: SpaceNo,
    inside: Option<Inside>,
    /// Its end has been told.
    ended: bool,
    /// It may have called exit unseen: nothing was heard of it since it was found, or records were lost.
    missed: bool,
}

#[derive(Debug)]
enum Inside {
    /// clone and its kin.
    Creating(CloneArgs, With),
    /// mmap that is of interest.
    Mapping(With),
    /// execve and its kin, with its arguments, which are gone when it has succeeded.
    Executing(Call),
}

/// What the tasks of a process have in common.
#[derive(Debug, Default)]
struct Group {
    tasks: u32,
    /// When it was told of first, in nanoseconds of CLOCK_MONOTONIC.
    since: u64,
    /// The thread that is in execve.
    executing: Option<Tid>,
    /// Of exit_group.
    code: Option<i32>,
    /// The first signal that may have killed it.
    fatal: Option<i32>,
    /// How it has ended, where its calls cannot be seen.
    seen_end: Option<Exit>,
}

impl Stream {
    /// A stream of events of which `main` is the process in question, whose times count from `start`, in nanoseconds of
    /// CLOCK_MONOTONIC.
    pub fn new(main: Pid, start: u64) -> Stream {
        Stream {
            start,
            tasks: HashMap::new(),
            buried: HashMap::new(),
            groups: HashMap::new(),
            users: HashMap::new(),
            breaks: HashMap::new(),
            opaque: HashSet::new(),
            reconciler: Reconciler::default(),
            spaces: 0,
            main,
            main_exit: None,
            changed: true,
            doubtful: Vec::new(),
        }
    }

    /// A moment of CLOCK_MONOTONIC as event times have it.
    pub fn time(&self, at: u64) -> Time {
        Time(Duration::from_nanos(at.saturating_sub(self.start)))
    }

    /// A new address space.
    pub fn new_space(&mut self) -> SpaceNo {
        self.spaces += 1;
        self.spaces
    }

    /// A forked child's, which begins as its parent's is.
    fn copy_of(&mut self, space: SpaceNo) -> SpaceNo {
        let copy = self.new_space();
        self.begins_break(copy, self.start_brk(space));
        copy
    }

    /// Where the break of an address space began has been read.
    pub fn begins_break(&mut self, space: SpaceNo, start_brk: Option<Addr>) {
        self.breaks.extend(start_brk.map(|start_brk| (space, start_brk)));
    }

    /// Where it began, if that could be read.
    pub fn start_brk(&self, space: SpaceNo) -> Option<Addr> {
        self.breaks.get(&space).copied()
    }

    /// Follows a task from its beginning on.
    pub fn add(&mut self, tid: Tid, pid: Pid, space: SpaceNo) {
        self.remove(tid);
        let new = || Group { since: monotonic_ns(), ..Group::default() };
        self.groups.entry(pid).or_insert_with(new).tasks += 1;
        self.users.entry(space).or_insert((0, pid)).0 += 1;
        self.changed = true;
        self.tasks.insert(tid, Task { pid, space, inside: None, ended: false, missed: false });
    }

    /// Follows a task from now on that has been there before, and may have called exit unseen.
    pub fn add_found(&mut self, tid: Tid, pid: Pid, space: SpaceNo) {
        self.add(tid, pid, space);
        if let Some(task) = self.tasks.get_mut(&tid) {
            task.missed = true;
        }
    }

    /// The tasks for which this holds, of their process and address space, are followed no more. Nothing is told of that.
    pub fn leave(&mut self, leaves: impl Fn(Pid, SpaceNo) -> bool) {
        let leaving = self.tasks.iter().filter(|(_, task)| leaves(task.pid, task.space));
        for tid in leaving.map(|(tid, _)| *tid).collect::<Vec<_>>() {
            self.remove(tid);
        }
    }

    fn remove(&mut self, tid: Tid) {
        let Some(Task { pid, space, .. }) = self.tasks.remove(&tid) else { return };
        self.changed = true;
        self.buried.insert(tid, (pid, space));
        if let Some(group) = self.groups.get_mut(&pid) {
            group.tasks = group.tasks.saturating_sub(1);
            if group.tasks == 0 {
                self.groups.remove(&pid);
            }
        }
        if let Some((users, _)) = self.users.get_mut(&space) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&space);
                self.breaks.remove(&space);
                self.opaque.remove(&space);
                self.reconciler.forget(space);
            }
        }
    }

    /// Whose an address space is: that of a child of vfork is its parent's.
    pub fn owner(&self, space: SpaceNo) -> Option<Pid> {
        self.users.get(&space).map(|(_, owner)| *owner)
    }

    /// Tells something that is not in the records.
    pub fn tell(&mut self, space: SpaceNo, at: u64, tid: Tid, kind: EventKind) {
        let at = self.time(at);
        self.reconciler.push(space, Event { at, tid, call_stack: None, kind }, None);
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<(Event, With)> {
        let next = self.reconciler.pop();
        if next.is_none() {
            self.buried.clear();
        }
        next
    }

    /// A task of an address space that the kernel has to be asked about.
    pub fn doubtful(&mut self) -> Option<Tid> {
        while let Some(space) = self.reconciler.doubtful() {
            self.doubtful.extend(self.tasks.iter().find(|(_, task)| task.space == space).map(|(tid, _)| *tid));
        }
        self.doubtful.pop()
    }

    /// How the process in question ended.
    pub fn main_exit(&self) -> Option<Exit> {
        self.main_exit
    }

    /// The process and the address space of a followed task, also of one that has just ended.
    pub fn place_of(&self, tid: Tid) -> Option<(Pid, SpaceNo)> {
        self.tasks.get(&tid).map(|task| (task.pid, task.space)).or_else(|| self.buried.get(&tid).copied())
    }

    /// Whether a process is in execve.
    pub fn executes(&self, pid: Pid) -> bool {
        self.groups.get(&pid).is_some_and(|group| group.executing.is_some())
    }

    /// Whether tasks have come or gone since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What a task that is making another one was given.
    pub fn creating(&self, tid: Tid) -> Option<CloneArgs> {
        match &self.tasks.get(&tid)?.inside {
            Some(Inside::Creating(args, _)) => Some(*args),
            _ => None,
        }
    }

    /// Gives up the room that only a burst has needed.
    pub fn shrink(&mut self) {
        self.reconciler.shrink();
    }

    /// Pages that calls under way in the address space may have freed already.
    pub fn under_way(&self, space: SpaceNo) -> impl Iterator<Item = crate::units::Range> {
        self.reconciler.under_way(space)
    }

    /// The process that ends with this task, if how it ends may not be in the records.
    pub fn ends_unseen(&self, tid: Tid) -> Option<Pid> {
        let Task { pid, space, missed, ended, .. } = self.tasks.get(&tid)?;
        let group = self.groups.get(pid)?;
        // A signal that ends all threads at once is delivered as SIGKILL (kernel/signal.c, complete_signal).
        let is_unsure = group.code.is_none() && group.fatal.is_none_or(|signal| signal == libc::SIGKILL);
        let is_last = group.tasks == 1 && !ended;
        (is_last && (*missed || is_unsure || self.opaque.contains(space))).then_some(*pid)
    }

    /// The process of a task whose end now has no reason that was seen: all of them have been killed, or its call of exit was
    /// lost, which the ring that lost it may not have told yet.
    pub fn ends_without_reason(&self, tid: Tid) -> Option<Pid> {
        let Task { pid, missed, ended, .. } = self.tasks.get(&tid)?;
        let group = self.groups.get(pid)?;
        let has_reason = group.code.is_some() || group.fatal.is_some() || group.executing.is_some();
        (!has_reason && !missed && !ended).then_some(*pid)
    }

    /// The task's call of exit was lost.
    pub fn has_missed(&mut self, tid: Tid) {
        if let Some(task) = self.tasks.get_mut(&tid) {
            task.missed = true;
        }
    }

    /// How a process has ended of which that may not be in the records. To be told before its last task's end.
    pub fn saw_end(&mut self, pid: Pid, exit: Exit) {
        if let Some(group) = self.groups.get_mut(&pid) {
            group.seen_end = Some(exit);
        }
    }

    /// All followed processes.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.groups.keys().copied()
    }

    /// Whether a process is followed.
    pub fn knows(&self, pid: Pid) -> bool {
        self.groups.contains_key(&pid)
    }

    /// When a process was told of first, in nanoseconds of CLOCK_MONOTONIC: what has its number and was made later is another one.
    pub fn known_since(&self, pid: Pid) -> Option<u64> {
        self.groups.get(&pid).map(|group| group.since)
    }

    /// Records were lost before `at`: what tasks were in, they may be out of.
    pub fn lost(&mut self, at: u64) {
        let spaces: Vec<SpaceNo> = self.users.keys().copied().collect();
        for group in self.groups.values_mut() {
            group.executing = None;
        }
        for task in self.tasks.values_mut() {
            task.inside = None;
            task.missed = true;
        }
        for space in spaces {
            self.reconciler.abandon_all(space);
        }
        let tellers: HashMap<SpaceNo, Tid> = self.tasks.iter().map(|(tid, task)| (task.space, *tid)).collect();
        for (space, tid) in tellers {
            self.tell(space, at, tid, EventKind::OrderLost);
        }
    }

    /// Takes in the next record. execve is [`Stream::executed`]'s business.
    pub fn take(&mut self, record: Record) {
        let Record { at, tid, pid, what } = record;
        // The number is another task's by now: of the former one the end was lost.
        if self.tasks.get(&tid).is_some_and(|task| task.pid != pid || task.ended && what != What::Exited) {
            self.vanished(at, tid);
        }
        if let Some(task) = self.tasks.get_mut(&tid)
            && what != What::Exited
        {
            task.missed = false;
        }
        match what {
            What::Call(point, registers) => self.call(at, tid, point, &registers.as_user(), None),
            What::CallWithStack(point, snapshot) => {
                let registers = snapshot.registers;
                self.call(at, tid, point, &registers, Some(snapshot));
            }
            What::Signal(signal) => {
                if let Some(task) = self.tasks.get(&tid)
                    && is_fatal(signal)
                    && let Some(group) = self.groups.get_mut(&task.pid)
                {
                    group.fatal.get_or_insert(signal);
                }
            }
            What::Fork { child, child_pid } => self.born(at, tid, child, child_pid),
            What::Exited => self.exited(at, tid),
            What::Executed { .. } | What::Lost(_) => {}
        }
    }

    fn call(&mut self, at: u64, tid: Tid, point: Point, registers: &user_regs_struct, snapshot: With) {
        match point {
            Point::Enter(followed) => self.enter(at, tid, followed, registers, snapshot),
            Point::Exit(followed) => self.exit(at, tid, followed, registers),
            Point::Signal | Point::Executed => {}
        }
    }

    fn enter(&mut self, at: u64, tid: Tid, followed: Followed, registers: &user_regs_struct, snapshot: With) {
        let Some(task) = self.tasks.get(&tid) else { return };
        let space = task.space;
        match followed {
            Followed::Mmap => {
                if let Some(task) = self.tasks.get_mut(&tid) {
                    task.inside = Some(Inside::Mapping(snapshot));
                }
            }
            Followed::Exit | Followed::ExitGroup => self.exiting(at, tid, followed, registers),
            Followed::Clone | Followed::Clone3 | Followed::Fork | Followed::Vfork => {
                let args = clone_args(tid, followed, registers, snapshot.as_deref());
                if let (Some(task), Some(args)) = (self.tasks.get_mut(&tid), args) {
                    task.inside = Some(Inside::Creating(args, snapshot));
                }
            }
            _ => {
                let Some(decoded) = decode::call(tid, Abi::X86_64, followed, registers, Arguments::Unused) else {
                    return;
                };
                if matches!(followed, Followed::Execve | Followed::Execveat) {
                    if let Some(task) = self.tasks.get_mut(&tid) {
                        task.inside = Some(Inside::Executing(decoded.call));
                        self.groups.entry(task.pid).or_default().executing = Some(tid);
                    }
                    self.tell(space, at, tid, EventKind::Executing);
                } else {
                    self.reconciler.enter(space, tid, decoded.call);
                }
            }
        }
    }

    fn exiting(&mut self, at: u64, tid: Tid, followed: Followed, registers: &user_regs_struct) {
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        let (pid, space) = (task.pid, task.space);
        let code = decode::exit_code(Abi::X86_64, registers);
        if followed == Followed::ExitGroup {
            if let Some(group) = self.groups.get_mut(&pid) {
                group.code.get_or_insert(code);
            }
            return self.tell(space, at, tid, EventKind::Exiting(Exiting { scope: ExitScope::Group, code }));
        }
        // From here on it does nothing of its own. Its end is told now, because the kernel tells whoever joins it
        // (CLONE_CHILD_CLEARTID) before it tells us, and the stack may have its next owner by then.
        task.ended = true;
        if tid.0 == pid.0 && pid == self.main {
            self.main_exit = Some(Exit::Code(code));
        }
        self.tell(space, at, tid, EventKind::Exiting(Exiting { scope: ExitScope::Thread, code }));
        self.tell(space, at, tid, EventKind::Ended(Exit::Code(code)));
    }

    fn exit(&mut self, at: u64, tid: Tid, followed: Followed, registers: &user_regs_struct) {
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        let space = task.space;
        let mut result = decode::result(Abi::X86_64, followed, registers);
        let (mut mapped, mut with) = (None, None);
        let call = match (followed, task.inside.take()) {
            (Followed::Clone | Followed::Clone3 | Followed::Fork | Followed::Vfork, inside) => match inside {
                Some(Inside::Creating(args, _)) => Call::Clone(args),
                // A child's own return, or one whose beginning was not seen.
                _ => return,
            },
            (Followed::Execve | Followed::Execveat, inside) => match inside {
                Some(Inside::Executing(call)) if result.is_err() => {
                    if let Some(group) = self.groups.get_mut(&task.pid) {
                        group.executing = None;
                    }
                    call
                }
                _ => return,
            },
            (_, inside) => {
                if let Some(Inside::Mapping(snapshot)) = inside {
                    with = snapshot;
                }
                let Some(decoded) = decode::call(tid, Abi::X86_64, followed, registers, Arguments::Unused) else {
                    return;
                };
                if let (Ok(returned), Call::Shmat { .. } | Call::IoSetup { .. }) = (result, decoded.call) {
                    let addr = match decoded.result_at {
                        Some(place) => decode::stored_address(tid, Abi::X86_64, place, Arguments::Unused),
                        None => Some(Addr(returned)),
                    };
                    mapped = addr.and_then(|addr| procfs::maps::region_at(tid, addr));
                    if let (Some(addr), Call::Shmat { .. }) = (addr, decoded.call) {
                        result = Ok(addr.0);
                    }
                }
                decoded.call
            }
        };
        let kind = EventKind::Syscall(Syscall { call, result, mapped });
        let event = Event { at: self.time(at), tid, call_stack: None, kind };
        self.reconciler.push(space, event, with);
    }

    fn born(&mut self, at: u64, parent: Tid, child: Tid, child_pid: Pid) {
        let Some(task) = self.tasks.get_mut(&parent) else { return };
        let (pid, space) = (task.pid, task.space);
        let (args, with) = match &mut task.inside {
            Some(Inside::Creating(args, with)) => (*args, with.take()),
            _ => (unseen_clone(pid == child_pid, child, parent), None),
        };
        self.vacate(at, child);
        if child.0 == child_pid.0 && self.groups.contains_key(&child_pid) {
            // So has the whole process that had its number.
            self.tasks_of(child_pid).into_iter().for_each(|tid| self.vanished(at, tid));
        }
        let child_space = if args.shares_memory() { space } else { self.copy_of(space) };
        self.add(child, child_pid, child_space);
        if self.opaque.contains(&space) {
            self.opaque.insert(child_space);
        }
        let kind = EventKind::Born(Birth { child, pid: child_pid, args, function: None });
        let event = Event { at: self.time(at), tid: parent, call_stack: None, kind };
        self.reconciler.push(space, event, with);
    }

    fn exited(&mut self, at: u64, tid: Tid) {
        let Some(task) = self.tasks.get(&tid) else { return };
        let (pid, space, ended, missed) = (task.pid, task.space, task.ended, task.missed);
        self.reconciler.abandon(space, tid);
        if !ended {
            self.end(at, tid, pid, space, missed);
        }
        self.remove(tid);
    }

    /// Tells the end of a task that was not seen to call exit; `missed` is whether it may have done so all the same.
    fn end(&mut self, at: u64, tid: Tid, pid: Pid, space: SpaceNo, missed: bool) {
        let mut group = self.groups.get_mut(&pid);
        let exit = match group.as_ref().and_then(|group| group.code) {
            Some(code) => Exit::Code(code),
            None if group.as_ref().and_then(|group| group.executing).is_some_and(|caller| caller != tid) => {
                return self.tell(space, at, tid, EventKind::Superseded);
            }
            // A thread ends by itself or with all others. Its call of exit may be among the records that were lost: as
            // long as others live, nothing says then that the process has come to its end. Of a process whose end nobody
            // has seen no status is told.
            None if (missed || self.opaque.contains(&space))
                && group.as_ref().is_some_and(|group| group.fatal.is_none()) =>
            {
                let seen = group.filter(|group| group.tasks == 1).and_then(|group| group.seen_end);
                if pid == self.main && seen.is_some() {
                    self.main_exit = seen;
                }
                return self.tell(space, at, tid, EventKind::Ended(seen.unwrap_or(Exit::Code(0))));
            }
            // A signal whose delivery was not seen can only be the one that cannot be seen coming.
            None => {
                let seen = group.as_ref().filter(|group| group.tasks == 1).and_then(|group| group.seen_end);
                if pid == self.main && seen.is_some() {
                    self.main_exit = seen;
                }
                let fatal = group.as_mut().map_or(libc::SIGKILL, |group| *group.fatal.get_or_insert(libc::SIGKILL));
                seen.unwrap_or(Exit::Signal(fatal))
            }
        };
        if pid == self.main && (tid.0 == pid.0 || self.main_exit.is_none()) {
            self.main_exit = Some(exit);
        }
        self.tell(space, at, tid, EventKind::Ended(exit));
    }

    /// execve has succeeded: `tid` is the leader now, whoever called, and has a new address space.
    pub fn executed(&mut self, at: u64, tid: Tid, by_leader: bool, image: NewImage) {
        let pid = Pid(tid.0);
        let caller = self.groups.get(&pid).and_then(|group| group.executing).filter(|_| !by_leader);
        let former = caller.unwrap_or(tid);
        let Some((_, space)) = self.place_of(former).or_else(|| self.place_of(tid)) else { return };
        let call = match self.tasks.get_mut(&former).and_then(|task| task.inside.take()) {
            Some(Inside::Executing(call)) => Some(call),
            _ => None,
        };
        if let Some(call) = call {
            let kind = EventKind::Syscall(Syscall { call, result: Ok(0), mapped: None });
            self.tell(space, at, former, kind);
        }
        for sibling in self.tasks_of(pid) {
            self.remove(sibling);
        }
        let new = self.new_space();
        self.add(tid, pid, new);
        let NewImage { maps, start_brk, read_implies_exec, is_i386 } = image;
        self.begins_break(new, start_brk);
        self.tell(new, at, tid, EventKind::Exec(Box::new(Exec { former, maps, start_brk, read_implies_exec })));
        if is_i386 {
            self.opaque.insert(new);
            self.tell(new, at, tid, EventKind::Opaque);
        }
    }

    fn tasks_of(&self, pid: Pid) -> Vec<Tid> {
        self.tasks.iter().filter(|(_, task)| task.pid == pid).map(|(tid, _)| *tid).collect()
    }
}

/// Whether a signal's default action is to end the process: signal(7).
fn is_fatal(signal: i32) -> bool {
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    !harmless.contains(&signal)
}

#[cfg(test)]
mod tests;
