//! The picture of a running process that following begins with, taken while it runs on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use super::Perf;
use super::keeper::Keeper;
use super::look;
use super::record::{Record, What};
use super::rings::{PerfError, Rings};
use super::stream::SpaceNo;
use crate::event::{Attached, AttachedTask, EventKind};
use crate::procfs::{self, task};
use crate::source::ptrace::launch::LaunchError;
use crate::source::ptrace::refusal::{AttachError, explain, followable};
use crate::sys::perf::{hurry, monotonic_ns};
use crate::units::{Addr, Pid, Tid};

/// How often, and how far apart, a thread that runs is asked for its stack pointer, which it has only while it sleeps.
const POINTER_TRIES: u32 = 5;
const BETWEEN_POINTER_TRIES: Duration = Duration::from_millis(1);

/// Why a process cannot be followed by perf events. One line: what, why, what to do.
#[derive(Debug, Error)]
pub enum FollowError {
    /// Nothing can be.
    #[error(transparent)]
    Perf(#[from] PerfError),
    /// It cannot be, whoever tries.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The program cannot be launched, whoever tries.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// 32-bit calls pass the tracepoints by, also those of a program to be launched.
    #[error("{0} is a 32-bit program, whose system calls perf events do not show: use --engine ptrace")]
    I386Program(String),
    /// The same of a process.
    #[error("process {0} is a 32-bit program, whose system calls perf events do not show: use --engine ptrace")]
    I386(Pid),
}

impl Perf {
    /// Follows all tasks that share the address space of process `pid`, with rings of at most `ring_bytes`.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn attach(pid: Pid, ring_bytes: Option<usize>) -> Result<Perf, FollowError> {
        let status = followable(pid)?;
        // Who may not see the maps learns why; perf events themselves would not ask.
        let maps = procfs::maps::read(live_task(pid));
        if maps.as_ref().map_or(true, |maps| maps.is_empty()) {
            let errno = match maps {
                Err(error) if error.raw_os_error() != Some(Errno::EACCES as i32) => Errno::ESRCH,
                _ => Errno::EPERM,
            };
            return Err(explain(pid, status, errno).into());
        }
        if is_i386(live_task(pid)) {
            return Err(FollowError::I386(pid));
        }
        let rings = Rings::open(ring_bytes)?;
        let mut source = Perf::new(pid, rings);
        source.enable()?;
        source.keep(pid, &[live_task(pid)]);
        source.begin(pid)?;
        // It may have executed another program meanwhile.
        if is_i386(live_task(pid)) {
            return Err(FollowError::I386(pid));
        }
        Ok(source)
    }

    /// From now on everything is told.
    pub(super) fn enable(&mut self) -> Result<(), PerfError> {
        self.rings.enable()?;
        // One CPU after the other: of what happened meanwhile only a part is in the records.
        self.since = monotonic_ns();
        self.keeper = Some(Keeper::start());
        hurry();
        Ok(())
    }

    /// Reads who is there and what is mapped, and tells it as of one moment.
    fn begin(&mut self, pid: Pid) -> Result<(), AttachError> {
        let processes: Vec<Pid> = std::iter::once(pid).chain(task::sharers(pid, live_task(pid))).collect();
        // Their records are of interest from the first one on.
        self.newborn.extend(processes.iter().copied());
        let mut listed: HashMap<Tid, Pid> = HashMap::new();
        let mut pointers: HashMap<Tid, Addr> = HashMap::new();
        list(&processes, &mut listed);
        self.ask_pointers(&listed, &mut pointers);
        self.round();
        let read_from = monotonic_ns();
        let reader = live_task(pid);
        let maps = procfs::maps::read(reader).unwrap_or_default();
        let (start_brk, read_implies_exec) = (task::start_brk(reader), task::read_implies_exec(reader));
        let read_until = monotonic_ns();
        // Whoever was born before the maps were read, and lives, is here by now.
        list(&processes, &mut listed);
        self.ask_pointers(&listed, &mut pointers);
        let listed_until = monotonic_ns();
        if maps.is_empty() || listed.is_empty() {
            return Err(AttachError::Vanished(pid));
        }
        while self.sorter.horizon() <= listed_until {
            std::thread::sleep(super::URGENT);
            self.round();
        }
        let born_later: HashSet<Tid> = self
            .sorter
            .pending()
            .filter(|record| record.at > read_from)
            .filter_map(|record| match record.what {
                What::Fork { child, .. } => Some(child),
                _ => None,
            })
            .collect();
        let space = self.stream.new_space();
        let mut found: Vec<(Tid, Pid)> = listed.into_iter().filter(|(tid, _)| !born_later.contains(tid)).collect();
        // The address space is the process's own.
        found.sort_unstable_by_key(|(_, other)| *other != pid);
        for (tid, pid) in found {
            self.stream.add_found(tid, pid, space);
        }
        self.catch_up(read_from, space);
        self.stream.begins_break(space, start_brk);
        self.change_mappers();
        let mut tasks: Vec<AttachedTask> = self
            .stream
            .tasks
            .iter()
            .filter(|(_, task)| task.space == space)
            .map(|(tid, task)| AttachedTask { tid: *tid, pid: task.pid, sp: pointers.get(tid).copied(), tls: None })
            .collect();
        tasks.sort_unstable_by_key(|task| task.tid);
        let Some(first) = tasks.first().map(|task| task.tid) else { return Err(AttachError::Vanished(pid)) };
        let pids: HashSet<Pid> = processes.into_iter().collect();
        let is_theirs = |record: &Record| pids.contains(&record.pid);
        let maps = look::before(&mut self.sorter, maps, None, read_from, read_until, is_theirs);
        let attached = Attached { pid, tasks, maps, start_brk, read_implies_exec };
        self.stream.tell(space, read_from, first, EventKind::Attached(Box::new(attached)));
        Ok(())
    }

    /// Takes in what happened before the picture was taken: which calls are under way, who was born or has ended, and who has
    /// left the address space by execve. The picture shows the rest. Whoever had another address space by then is as little
    /// followed as one that had it before vmtrace came.
    pub(super) fn catch_up(&mut self, until: u64, space: SpaceNo) {
        while self.sorter.next_at().is_some_and(|at| at <= until) {
            let Some(record) = self.sorter.pop() else { break };
            match record.what {
                // What is mapped was read of the new program, which nobody shares yet.
                What::Executed { .. } if record.pid == self.main => {
                    self.stream.leave(|_, _| true);
                    self.stream.add_found(record.tid, record.pid, space);
                    self.forget_kept(record.pid, record.at);
                }
                What::Executed { .. } => self.stream.leave(|pid, _| pid == record.pid),
                What::Lost(records) => self.take_lost(record.at, records),
                What::Exited => self.take_end(record),
                _ => self.stream.take(record),
            }
        }
        self.stream.leave(|_, other| other != space);
        while self.stream.pop().is_some() {}
    }

    fn ask_pointers(&mut self, tasks: &HashMap<Tid, Pid>, pointers: &mut HashMap<Tid, Addr>) {
        for attempt in 0..POINTER_TRIES {
            let unknown: Vec<Tid> = tasks.keys().filter(|tid| !pointers.contains_key(tid)).copied().collect();
            if unknown.is_empty() {
                return;
            }
            if attempt > 0 {
                std::thread::sleep(BETWEEN_POINTER_TRIES);
            }
            for tid in unknown {
                pointers.extend(task::blocked_in(tid).and_then(|blocked| blocked.sp).map(|sp| (tid, sp)));
            }
            self.round();
        }
    }
}

/// Adds the tasks of these processes. Of those that are made from now on the records tell.
fn list(processes: &[Pid], listed: &mut HashMap<Tid, Pid>) {
    for pid in processes {
        listed.extend(task::threads(*pid).unwrap_or_default().into_iter().map(|tid| (tid, *pid)));
    }
}

/// A task of the process through which its memory can be read: the leader unless that has ended.
pub(super) fn live_task(pid: Pid) -> Tid {
    let lives = |tid: &Tid| task::status(*tid).is_ok_and(|status| !matches!(status.state, 'Z' | 'X'));
    let leader = Tid::from(pid);
    if lives(&leader) {
        return leader;
    }
    task::threads(pid).unwrap_or_default().into_iter().find(lives).unwrap_or(leader)
}

/// Whether a process's program is a 32-bit one, by what the kernel has told it (getauxval(3)): words of four bytes, of which
/// the second, the first entry's value, is not zero. The program's file is not asked: it may not answer.
pub(super) fn is_i386(tid: Tid) -> bool {
    procfs::read(tid, "auxv").is_ok_and(|entries| entries.get(4..8).is_some_and(|second| second != [0; 4]))
}
