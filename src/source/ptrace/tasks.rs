//! The births, ends and replacements of tasks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::decode::{Arguments, Followed};
use super::gate::Gate;
use super::stop::Stop;
use super::{After, GateId, Inside, LATE_EVENT_WITHIN, Phase, Ptrace, STRAY_AFTER, Tracee, decode, gone};
use crate::event::{Birth, Call, CloneArgs, CloneCall, EventKind, Exec, Exit, Syscall};
use crate::procfs;
use crate::source::Follow;
use crate::sys::{self, Restart, Status, Wait};
use crate::units::{Pid, Tid};

impl Ptrace {
    /// fork, vfork or clone has made a task, which has not run yet.
    pub(super) fn new_task(&mut self, tid: Tid) {
        self.after.push_back(After::Resume(tid));
        let Some(child) = gone(sys::event_message(tid)).and_then(|message| i32::try_from(message).ok()).map(Tid) else {
            return;
        };
        if self.tracees.contains_key(&child) {
            // It has waited too long for this.
            return;
        }
        let call = self
            .call_at_event(tid)
            .and_then(|(abi, followed, registers)| decode::call(tid, abi, followed, &registers, Arguments::Used));
        let Some(decode::Decoded { call: Call::Clone(args), .. }) = call else {
            // By a call of another machine's, or with arguments that cannot be read: what the new task is, /proc knows.
            return self.adopt(child, Some(tid));
        };
        let Some(parent) = self.tracees.get(&tid) else { return };
        let (pid, gate) = (if args.is_thread() { parent.pid } else { Pid(child.0) }, parent.gate);
        self.add_child(child, pid, args.shares_memory().then_some(gate));
        self.inherit(child, tid, args.shares_memory());
        self.say_born(tid, child, pid, args);
        // Beside calls that overlap, what fork copies is not what has been told.
        let is_settled = |gate| self.gates.get(&gate).is_none_or(|gate: &Gate| gate.is_settled(Some(tid)));
        if !args.shares_memory()
            && !is_settled(gate)
            && let Ok(maps) = procfs::maps::read(child)
        {
            self.tell_maps(child, maps);
        }
    }

    pub(super) fn say_born(&mut self, parent: Tid, child: Tid, pid: Pid, args: CloneArgs) {
        self.tell(parent, EventKind::Born(Birth { child, pid, args, function: None }));
        if self.unborn.remove(&child).is_some() {
            self.give_back(child);
            self.after.push_back(After::Resume(child));
        }
    }

    /// What a new task has from the one that made it.
    fn inherit(&mut self, child: Tid, parent: Tid, shares_memory: bool) {
        let Some(Tracee { withheld, is_notified, .. }) = self.tracees.get(&parent).copied() else { return };
        if let Some(child) = self.tracees.get_mut(&child) {
            child.is_notified = is_notified;
            child.withheld = withheld.map(|withheld| withheld.of_child(shares_memory));
        }
    }

    /// Files a new task under the gate of its address space, or a gate of its own.
    pub(super) fn add_child(&mut self, child: Tid, pid: Pid, gate: Option<GateId>) {
        let gate = gate.unwrap_or_else(|| self.new_gate());
        if let Some(gate) = self.gates.get_mut(&gate) {
            gate.members += 1;
        }
        self.tracees.insert(
            child,
            Tracee {
                pid,
                gate,
                inside: None,
                exiting: false,
                ended: false,
                noticed: None,
                held: false,
                group_stopped: false,
                passing: false,
                withheld: None,
                is_notified: false,
            },
        );
    }

    pub(super) fn new_gate(&mut self) -> GateId {
        self.next_gate += 1;
        let gate = match self.phase {
            Phase::Attaching(_) | Phase::Closing { .. } => Gate::closed(),
            Phase::Launching(_) | Phase::Following => Gate::default(),
        };
        self.gates.insert(self.next_gate, gate);
        self.next_gate
    }

    /// execve has succeeded: `tid` is the leader now, whoever called.
    pub(super) fn exec(&mut self, tid: Tid) {
        self.after.push_back(After::Resume(tid));
        let former = gone(sys::event_message(tid)).and_then(|message| i32::try_from(message).ok()).map_or(tid, Tid);
        let call = self.inside(former).filter(Inside::executes).and_then(|inside| inside.asked);
        let attaching = matches!(self.phase, Phase::Attaching(_));
        if let (Some(call), false) = (call, attaching) {
            self.tell(former, EventKind::Syscall(Syscall { call, result: Ok(0), mapped: None }));
        }
        let pid = self.tracees.get(&former).map_or(Pid(tid.0), |tracee| tracee.pid);
        let is_notified = self.tracees.get(&former).is_some_and(|tracee| tracee.is_notified);
        let siblings: Vec<Tid> =
            self.tracees.iter().filter(|(_, tracee)| tracee.pid == pid).map(|(tid, _)| *tid).collect();
        for sibling in siblings {
            self.remove(sibling);
        }
        self.add_child(tid, pid, None);
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.is_notified = is_notified;
        }
        if let Phase::Launching(launching) = &self.phase {
            let filtered = launching.program_runs();
            self.filtered = filtered.is_ok();
            self.unfiltered = filtered.err().flatten();
            self.phase = Phase::Following;
        }
        if attaching {
            // The picture that following begins with will show the new image.
            return self.former_is_gone(former, tid);
        }
        self.tell(
            tid,
            EventKind::Exec(Box::new(Exec {
                former,
                maps: procfs::maps::read(tid).unwrap_or_default(),
                start_brk: procfs::task::start_brk(tid),
                read_implies_exec: procfs::task::read_implies_exec(tid),
            })),
        );
    }

    /// A task is about to end, with its memory still there.
    pub(super) fn exiting(&mut self, tid: Tid) {
        if !self.exits_later(tid) {
            self.exits(tid);
        }
    }

    /// A new task was killed before its first stop, as a rule with the one that made it, whose event may never come.
    pub(super) fn ends_unborn(&mut self, tid: Tid) {
        self.unborn.remove(&tid);
        self.adopt(tid, None);
        if self.tracees.contains_key(&tid) {
            self.exiting(tid);
        } else {
            self.restart(tid, 0);
        }
    }

    /// It ends, which is told now.
    pub(super) fn exits(&mut self, tid: Tid) {
        // A SIGKILL has let it go on: wait will tell.
        let Some(status) = gone(sys::event_message(tid)) else { return };
        if self.follow == Follow::Threads {
            // A task ends by its own call of exit, or because all of its process do.
            match self.call_at_event(tid).map(|(_, followed, _)| followed) {
                Some(Followed::Exit) => {}
                call => self.tell(tid, EventKind::GroupEnding { by_call: call == Some(Followed::ExitGroup) }),
            }
        }
        let status = status as i32;
        let exit = match status & 0x7f {
            0 => Exit::Code(status >> 8 & 0xff),
            signal => Exit::Signal(signal),
        };
        self.say_ended(tid, exit);
        let is_main = tid == self.main.pid.into();
        // The status of our own child is ours to take, and would not be kept for us where SIGCHLD is ignored.
        if is_main && (self.main.is_child || self.is_outlived(tid)) {
            return self.after.push_back(After::Resume(tid));
        }
        if is_main {
            self.main.exit = Some(exit);
        }
        self.after.push_back(After::Part(tid));
    }

    /// Whether a task is the leader of a process that goes on, and with whose status nobody knows yet.
    fn is_outlived(&self, tid: Tid) -> bool {
        let Some(pid) = self.tracees.get(&tid).map(|leader| leader.pid).filter(|pid| Tid::from(*pid) == tid) else {
            return false;
        };
        let mut others = self.tracees.iter().filter(|(other, tracee)| tracee.pid == pid && **other != tid);
        others.any(|(_, tracee)| !tracee.ended)
            && self.call_at_event(tid).is_some_and(|(_, followed, _)| followed == Followed::Exit)
    }

    /// Leaves a task that is about to end, with all told: otherwise it would be a zombie until its status has been taken, and its
    /// parent, whom a pidfd may have told already, could not wait for it; nor would a thread be gone that has been joined.
    pub(super) fn part(&mut self, tid: Tid) {
        if self.looked_at.is_some_and(|(looked_at, _)| looked_at == tid) {
            self.looked_at = None;
        }
        if gone(sys::restart(tid, Restart::Detach, 0)).is_some() {
            self.remove(tid);
            self.no_longer_attaching(tid);
        }
    }

    /// A task is gone, and its status has to be taken.
    pub(super) fn reaped(&mut self, tid: Tid, exit: Exit) {
        self.unborn.remove(&tid);
        let pid = self.tracees.get(&tid).filter(|tracee| !tracee.ended).map(|tracee| tracee.pid);
        if let (Follow::Threads, Some(pid)) = (self.follow, pid) {
            // Killed at another stop, and let go from its last one unseen: nobody is killed alone. As long as its status stands,
            // a sibling's execve waits for it, and has the memory of both.
            let mut siblings = self.tracees.iter().filter(|(other, tracee)| tracee.pid == pid && **other != tid);
            let sibling = siblings.find(|(_, tracee)| !tracee.ended).map(|(sibling, _)| *sibling);
            self.tell(sibling.unwrap_or(tid), EventKind::GroupEnding { by_call: false });
        }
        self.say_ended(tid, exit);
        if tid == self.main.pid.into() {
            self.main.exit = Some(exit);
        }
        self.remove(tid);
        self.no_longer_attaching(tid);
    }

    /// Tells an end once, be it by its event or, when a SIGKILL was faster, by its status alone.
    pub(super) fn say_ended(&mut self, tid: Tid, exit: Exit) {
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        if std::mem::replace(&mut tracee.ended, true) {
            return;
        }
        let (gate, pid, exiting) = (tracee.gate, tracee.pid, tracee.exiting);
        let cut_off = tracee.inside.take().is_some();
        // A sibling's execve kills with a code of 0, as if the thread had ended by itself (kernel/signal.c, get_signal).
        let superseded = exit == Exit::Code(0) && !exiting && self.has_exec_under_way(pid);
        self.tell(tid, if superseded { EventKind::Superseded } else { EventKind::Ended(exit) });
        self.after.push_back(After::Leave(tid, gate));
        if cut_off {
            // Whether the call in which it was killed had any effect, those who share its memory can tell.
            self.look_at_maps(gate, Some(tid));
        }
    }

    pub(super) fn has_exec_under_way(&self, pid: Pid) -> bool {
        self.tracees.values().any(|tracee| tracee.pid == pid && tracee.executes())
    }

    pub(super) fn remove(&mut self, tid: Tid) {
        let Some(tracee) = self.tracees.remove(&tid) else { return };
        let Some(gate) = self.gates.get_mut(&tracee.gate) else { return };
        gate.members = gate.members.saturating_sub(1);
        gate.leave(tid);
        if gate.members == 0 {
            self.gates.remove(&tracee.gate);
        } else {
            self.after.push_back(After::Grant(tracee.gate));
        }
    }

    /// New tasks whose parent was killed before it could tell of them.
    pub(super) fn adopt_strays(&mut self, now: Instant) {
        let waits = |since: &Instant| now.duration_since(*since);
        if !self.unborn.values().any(|since| waits(since) > STRAY_AFTER) {
            return;
        }
        // Where there is much to do, what their parents have to tell may have to wait its turn.
        self.take_looked_at();
        let _ = self.collect(Wait::Poll, usize::MAX);
        let told: HashSet<Tid> = self.ready.iter().filter_map(|(tid, status)| announced(*tid, *status)).collect();
        let unborn = self.unborn.iter().map(|(tid, since)| (*tid, waits(since)));
        let strays: Vec<Tid> = unborn
            .filter(|(tid, waited)| *waited > STRAY_AFTER && !told.contains(tid) && !self.may_be_told(*tid, *waited))
            .map(|(tid, _)| tid)
            .collect();
        for tid in strays {
            self.unborn.remove(&tid);
            self.adopt(tid, None);
            self.after.push_back(After::Resume(tid));
        }
    }

    /// Whether some task may be about to stop for the event that tells of this new one: it is in the call that makes one, or
    /// waits for a processor, perhaps in such a call.
    fn may_be_told(&self, child: Tid, waited: Duration) -> bool {
        if waited >= LATE_EVENT_WITHIN {
            return false;
        }
        let Ok(status) = procfs::task::status(child) else { return false };
        let makes_task = |tracee: &Tracee| {
            let followed = tracee.inside.map(|inside| inside.followed);
            matches!(followed, Some(Followed::Clone | Followed::Clone3 | Followed::Fork | Followed::Vfork))
        };
        let may_be_running = |tid: Tid| procfs::task::status(tid).is_ok_and(|status| matches!(status.state, 'R' | 'D'));
        let mut parents = self
            .tracees
            .iter()
            .filter(|(_, tracee)| [status.pid, status.parent].contains(&tracee.pid) && !tracee.ended);
        parents.any(|(tid, tracee)| makes_task(tracee) || may_be_running(*tid))
    }

    /// Files a task, by whomever it was made, of which only /proc can tell whose it is. Its stack stays unknown.
    fn adopt(&mut self, tid: Tid, parent: Option<Tid>) {
        let Ok(status) = procfs::task::status(tid) else { return };
        // kcmp may be refused where the task is not dumpable; a thread shares its process's memory in any case.
        let relative = self
            .tracees
            .iter()
            .find(|(other, tracee)| tracee.pid == status.pid || sys::share_memory(tid, **other).unwrap_or(false));
        let Some((&relative, gate)) = relative.map(|(other, tracee)| (other, tracee.gate)) else {
            self.add_child(tid, status.pid, None);
            return self.introduce(tid, status.pid, parent);
        };
        self.add_child(tid, status.pid, Some(gate));
        self.inherit(tid, parent.unwrap_or(relative), true);
        let thread = if status.pid.0 == tid.0 { 0 } else { crate::abi::clone::THREAD };
        let args = CloneArgs::bare(CloneCall::Clone, crate::abi::clone::VM | thread);
        self.say_born(relative, tid, status.pid, args);
    }

    /// Tells of a process that shares no memory with any other, and what its own looks like.
    fn introduce(&mut self, tid: Tid, pid: Pid, parent: Option<Tid>) {
        match parent {
            Some(parent) => {
                self.inherit(tid, parent, false);
                self.say_born(parent, tid, pid, CloneArgs::bare(CloneCall::Fork, 0));
            }
            None => self.tell(tid, EventKind::Noticed(pid)),
        }
        if let Ok(maps) = procfs::maps::read(tid) {
            self.tell_maps(tid, maps);
        }
    }
}

/// The new task of which a status tells that was taken.
fn announced(tid: Tid, status: Status) -> Option<Tid> {
    let Status::Stopped(status) = status else { return None };
    let message = (Stop::from_status(status) == Stop::NewTask).then(|| gone(sys::event_message(tid)))??;
    i32::try_from(message).ok().map(Tid)
}
