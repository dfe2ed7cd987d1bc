//! Events by ptrace(2): launch or attach, and the wait loop.
//!
//! The loop is `next`: finish what the last stop left to do, wait for a stop, decode it ([`stop`]), turn it into events,
//! and leave the task stopped until they have been taken. A signal on its way is never taken out of the kernel's
//! hands: see [`crate::sys::peek_status`].

pub mod attach;
pub mod decode;
pub mod filter;
pub mod gate;
pub mod launch;
pub mod stop;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Next;
use super::control::Control;
use crate::event::{Birth, Call, CloneArgs, Event, EventKind, Exec, Exit, ExitScope, Exiting, Syscall, Vma};
use crate::procfs;
use crate::sys::{self, Restart, Status, SyscallStop, Wait};
use crate::units::{Addr, Pid, Tid, Time};
use decode::{Abi, Followed};
use gate::{Gate, Left};
use stop::Stop;

/// How long a new task may wait for the event of the one that made it; after that its parent has died before telling.
const STRAY_AFTER: Duration = Duration::from_millis(200);

/// All followed tasks.
#[derive(Debug)]
pub struct Ptrace {
    tracees: HashMap<Tid, Tracee>,
    /// New tasks whose first stop came before their parent's event.
    unborn: HashMap<Tid, Instant>,
    gates: HashMap<GateId, Gate>,
    next_gate: GateId,
    /// Events that have not been asked for yet.
    events: VecDeque<Event>,
    /// What is to be done once they have been.
    after: VecDeque<After>,
    /// Whether a filter picks the calls that stop; without, every call does.
    filtered: bool,
    start: Instant,
    main: Main,
    phase: Phase,
    stops: u64,
    overlaps: u64,
}

/// The process that was launched or named.
#[derive(Debug)]
struct Main {
    pid: Pid,
    exit: Option<Exit>,
    group_stopped: bool,
}

#[derive(Debug)]
enum Phase {
    /// The launched child has not executed its program yet.
    Launching(launch::Launching),
    /// Not all threads have been stopped once.
    Attaching(attach::Attaching),
    /// Events flow.
    Following,
    /// No more calls are let in.
    Closing { deadline: Instant },
}

/// Names the gate of an address space.
type GateId = u64;

#[derive(Debug)]
struct Tracee {
    pid: Pid,
    gate: GateId,
    /// The followed call that it is in.
    inside: Option<Inside>,
    /// It has called exit.
    exiting: bool,
    /// Its end has been told.
    ended: bool,
    /// It is held at the entry of a call, and stopped.
    held: bool,
}

#[derive(Clone, Copy, Debug)]
struct Inside {
    abi: Abi,
    followed: Followed,
    /// execve's arguments, which are gone when it has succeeded.
    exec: Option<Call>,
}

/// What is to be done with a stopped task once its events have been taken.
#[derive(Clone, Copy, Debug)]
enum After {
    Resume(Tid),
    /// The task's call is over: others may go.
    Leave(Tid, GateId),
    /// Lets those go that wait at a gate.
    Grant(GateId),
}

impl Ptrace {
    fn new(pid: Pid, filtered: bool, phase: Phase) -> Ptrace {
        Ptrace {
            tracees: HashMap::new(),
            unborn: HashMap::new(),
            gates: HashMap::new(),
            next_gate: 0,
            events: VecDeque::new(),
            after: VecDeque::new(),
            filtered,
            start: Instant::now(),
            main: Main { pid, exit: None, group_stopped: false },
            phase,
            stops: 0,
            overlaps: 0,
        }
    }

    /// What comes next. Blocks until there is something.
    pub fn next(&mut self, control: &Control) -> Result<Next, Errno> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Next::Event(event));
            }
            if let Some(after) = self.after.pop_front() {
                self.finish(after);
                continue;
            }
            if control.pending() {
                return Ok(Next::Woken);
            }
            if self.is_quiet() {
                return Ok(Next::Quiet);
            }
            control.watch_held(self.needs_watching());
            match sys::peek_status(Wait::Block) {
                Ok(Some((tid, status))) => self.dispatch(tid, status),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(Next::Finished),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The time of an event that happens now.
    pub fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    /// The process that was launched or named.
    pub fn main_pid(&self) -> Pid {
        self.main.pid
    }

    /// How it ended.
    pub fn main_exit(&self) -> Option<Exit> {
        self.main.exit
    }

    /// Whether job control has stopped it.
    pub fn main_is_stopped(&self) -> bool {
        self.main.group_stopped
    }

    /// How often a task has stopped for us.
    pub fn stops(&self) -> u64 {
        self.stops
    }

    /// How often the order of calls was lost, and the kernel had to be asked.
    pub fn overlaps(&self) -> u64 {
        self.overlaps
    }

    /// Whether a filter picks the calls that stop.
    pub fn is_filtered(&self) -> bool {
        self.filtered
    }

    /// Whether all changes of the task's address space up to the event just told are in the kernel's maps, and no more.
    pub fn is_settled(&self, tid: Tid) -> bool {
        let gate = self.tracees.get(&tid).and_then(|tracee| self.gates.get(&tracee.gate));
        gate.is_some_and(|gate| gate.is_settled(Some(tid)))
    }

    /// Lets no more calls in; `next` will say when those under way are over.
    pub fn close(&mut self) {
        self.phase = Phase::Closing { deadline: Instant::now() + Duration::from_millis(500) };
        for gate in self.gates.values_mut() {
            gate.close();
        }
    }

    /// Looks after tasks that wait for something that may never come. To be called when the control asks for it.
    pub fn look_after_held(&mut self) {
        let now = Instant::now();
        for gate in self.gates.values_mut() {
            gate.lose_patience(now);
        }
        self.after.extend(self.gates.iter().filter(|(_, gate)| gate.holds()).map(|(id, _)| After::Grant(*id)));
        self.adopt_strays(now);
        self.excuse_unstoppable(now);
    }

    fn needs_watching(&self) -> bool {
        !self.unborn.is_empty()
            || matches!(self.phase, Phase::Attaching(_) | Phase::Closing { .. })
            || self.gates.values().any(Gate::holds)
    }

    fn is_quiet(&self) -> bool {
        let Phase::Closing { deadline } = self.phase else {
            return false;
        };
        self.gates.values().all(|gate| gate.is_settled(None)) || Instant::now() >= deadline
    }

    /// A task has stopped or is gone.
    fn dispatch(&mut self, tid: Tid, status: Status) {
        let status = match status {
            Status::Stopped(status) => status,
            Status::Exited(code) => return self.reaped(tid, Exit::Code(code)),
            Status::Killed(signal) => return self.reaped(tid, Exit::Signal(signal)),
        };
        self.stops += 1;
        let stop = Stop::from_status(status);
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            // Its parent's event is still to come, and tells whose child it is.
            take(tid);
            self.unborn.insert(tid, Instant::now());
            return;
        };
        if std::mem::take(&mut tracee.held) {
            // Only its end makes a held task stop anew.
            let gate = tracee.gate;
            if let Some(gate) = self.gates.get_mut(&gate) {
                gate.leave(tid);
            }
        }
        if self.first_stop_of_attach(tid, stop) {
            return;
        }
        match stop {
            Stop::Signal(signal) => self.restart(tid, signal),
            Stop::Seccomp => {
                if let Some(message) = gone(sys::event_message(tid)) {
                    let (abi, nr) = filter::from_message(message);
                    self.entry(tid, abi, nr);
                }
            }
            Stop::Syscall => self.syscall_stop(tid),
            Stop::GroupStop => {
                if tid == self.main.pid.into() {
                    self.main.group_stopped = true;
                }
                let _ = gone(sys::restart(tid, Restart::Listen, 0));
            }
            Stop::Trap => {
                if tid == self.main.pid.into() {
                    self.main.group_stopped = false;
                }
                self.restart(tid, 0);
            }
            Stop::NewTask => self.new_task(tid),
            Stop::Exec => self.exec(tid),
            Stop::Exit => self.exiting(tid),
            Stop::Other => self.restart(tid, 0),
        }
    }

    fn syscall_stop(&mut self, tid: Tid) {
        let known = self.tracees.get(&tid).and_then(|tracee| tracee.inside);
        if self.filtered && known.is_some() {
            return self.exit(tid);
        }
        match gone(sys::syscall_info(tid)) {
            Some(SyscallStop::Entry { arch, nr }) => match arch {
                filter::AUDIT_ARCH_X86_64 => self.entry(tid, Abi::X86_64, nr),
                filter::AUDIT_ARCH_I386 => self.entry(tid, Abi::I386, nr),
                _ => self.restart(tid, 0),
            },
            Some(SyscallStop::Exit) if known.is_some() => self.exit(tid),
            Some(_) => self.restart(tid, 0),
            None => {}
        }
    }

    /// A system call is about to be made.
    fn entry(&mut self, tid: Tid, abi: Abi, nr: u64) {
        let Some(followed) = decode::followed(abi, nr) else {
            return self.restart(tid, 0);
        };
        let mut exec = None;
        let serial = match followed {
            Followed::Exit => {
                self.say_exiting(tid, abi, ExitScope::Thread);
                return self.after.push_back(After::Resume(tid));
            }
            Followed::Execve | Followed::Execveat => {
                exec = self.call_at(tid, abi, followed).map(|decoded| decoded.call);
                false
            }
            Followed::Vfork | Followed::Personality => false,
            // It ends all siblings: none may be halfway through a change when the last look is taken.
            Followed::ExitGroup | Followed::Fork => true,
            Followed::Madvise | Followed::Clone | Followed::Clone3 | Followed::Ipc => {
                self.call_at(tid, abi, followed).is_some_and(|decoded| decoded.call.changes_mappings())
            }
            _ => true,
        };
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            return;
        };
        tracee.inside = Some(Inside { abi, followed, exec });
        let Some(gate) = self.gates.get_mut(&tracee.gate) else {
            return;
        };
        if !serial || gate.enter(tid) {
            self.proceed(tid);
        } else {
            tracee.held = true;
            take(tid);
        }
    }

    /// A task may make its call.
    fn proceed(&mut self, tid: Tid) {
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            return;
        };
        tracee.held = false;
        match tracee.inside {
            Some(Inside { abi, followed: Followed::ExitGroup, .. }) => {
                tracee.inside = None;
                self.say_exiting(tid, abi, ExitScope::Group);
                self.after.push_back(After::Resume(tid));
            }
            _ => self.restart(tid, 0),
        }
    }

    fn say_exiting(&mut self, tid: Tid, abi: Abi, scope: ExitScope) {
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.exiting = true;
        }
        let Some(registers) = gone(sys::registers(tid)) else {
            return;
        };
        let code = decode::exit_code(abi, &registers);
        self.tell(tid, EventKind::Exiting(Exiting { scope, code }));
    }

    /// A followed call has returned.
    fn exit(&mut self, tid: Tid) {
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            return;
        };
        let Some(Inside { abi, followed, .. }) = tracee.inside.take() else {
            return;
        };
        let gate = tracee.gate;
        self.after.push_back(After::Resume(tid));
        self.after.push_back(After::Leave(tid, gate));
        let Some(registers) = gone(sys::registers(tid)) else {
            return;
        };
        let Some(decoded) = decode::call(tid, abi, followed, &registers) else {
            return;
        };
        let mut result = decode::result(abi, &registers);
        let mut mapped = None;
        if let Ok(returned) = result
            && matches!(decoded.call, Call::Shmat { .. } | Call::IoSetup { .. })
        {
            let addr = match decoded.result_at {
                Some(at) => decode::stored_address(tid, abi, at),
                None => Some(Addr(returned)),
            };
            mapped = addr.and_then(|addr| region_at(tid, addr));
            if let (Some(addr), Call::Shmat { .. }) = (addr, decoded.call) {
                result = Ok(addr.0);
            }
        }
        self.tell(tid, EventKind::Syscall(Syscall { call: decoded.call, result, mapped }));
    }

    /// fork, vfork or clone has made a task, which has not run yet.
    fn new_task(&mut self, tid: Tid) {
        self.after.push_back(After::Resume(tid));
        let Some(child) = gone(sys::event_message(tid)).and_then(|message| i32::try_from(message).ok()).map(Tid) else {
            return;
        };
        let args = self.inside(tid).and_then(|Inside { abi, followed, .. }| self.call_at(tid, abi, followed));
        let Some(decode::Decoded { call: Call::Clone(args), .. }) = args else {
            // Attached to in the middle of the call: what the new task is, /proc knows.
            return self.adopt(child);
        };
        let Some(parent) = self.tracees.get(&tid) else {
            return;
        };
        let (pid, gate) = (if args.is_thread() { parent.pid } else { Pid(child.0) }, parent.gate);
        self.add_child(child, pid, args.shares_memory().then_some(gate));
        self.say_born(tid, child, pid, args);
    }

    fn say_born(&mut self, parent: Tid, child: Tid, pid: Pid, args: CloneArgs) {
        self.tell(parent, EventKind::Born(Birth { child, pid, args }));
        if self.unborn.remove(&child).is_some() {
            self.after.push_back(After::Resume(child));
        }
    }

    /// Files a new task under the gate of its address space, or a gate of its own.
    fn add_child(&mut self, child: Tid, pid: Pid, gate: Option<GateId>) {
        let gate = gate.unwrap_or_else(|| self.new_gate());
        if let Some(gate) = self.gates.get_mut(&gate) {
            gate.members += 1;
        }
        self.tracees.insert(child, Tracee { pid, gate, inside: None, exiting: false, ended: false, held: false });
    }

    fn new_gate(&mut self) -> GateId {
        self.next_gate += 1;
        let gate = match self.phase {
            Phase::Attaching(_) | Phase::Closing { .. } => Gate::closed(),
            Phase::Launching(_) | Phase::Following => Gate::default(),
        };
        self.gates.insert(self.next_gate, gate);
        self.next_gate
    }

    /// execve has succeeded: `tid` is the leader now, whoever called.
    fn exec(&mut self, tid: Tid) {
        // The kernel refuses every request as long as this status stands, lest it be meant for the former leader
        // (kernel/ptrace.c, looks_like_a_spurious_pid).
        take(tid);
        self.after.push_back(After::Resume(tid));
        let former = gone(sys::event_message(tid)).and_then(|message| i32::try_from(message).ok()).map_or(tid, Tid);
        let call = self.inside(former).and_then(|inside| inside.exec);
        let attaching = matches!(self.phase, Phase::Attaching(_));
        if let (Some(call), false) = (call, attaching) {
            self.tell(former, EventKind::Syscall(Syscall { call, result: Ok(0), mapped: None }));
        }
        let pid = self.tracees.get(&former).map_or(Pid(tid.0), |tracee| tracee.pid);
        let siblings: Vec<Tid> =
            self.tracees.iter().filter(|(_, tracee)| tracee.pid == pid).map(|(tid, _)| *tid).collect();
        for sibling in siblings {
            self.remove(sibling);
        }
        self.add_child(tid, pid, None);
        if let Phase::Launching(launching) = &mut self.phase {
            self.filtered = launching.program_runs();
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
    fn exiting(&mut self, tid: Tid) {
        self.after.push_back(After::Resume(tid));
        let Some(status) = gone(sys::event_message(tid)) else {
            return;
        };
        let status = status as i32;
        let exit = match status & 0x7f {
            0 => Exit::Code(status >> 8 & 0xff),
            signal => Exit::Signal(signal),
        };
        self.say_ended(tid, exit);
    }

    /// A task is gone, and its status has to be taken.
    fn reaped(&mut self, tid: Tid, exit: Exit) {
        take(tid);
        self.unborn.remove(&tid);
        self.say_ended(tid, exit);
        if tid == self.main.pid.into() {
            self.main.exit = Some(exit);
        }
        self.remove(tid);
        self.no_longer_attaching(tid);
    }

    /// Tells an end once, be it by its event or, when a SIGKILL was faster, by its status alone.
    fn say_ended(&mut self, tid: Tid, exit: Exit) {
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            return;
        };
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

    fn has_exec_under_way(&self, pid: Pid) -> bool {
        self.tracees
            .values()
            .any(|tracee| tracee.pid == pid && tracee.inside.is_some_and(|inside| inside.exec.is_some()))
    }

    fn remove(&mut self, tid: Tid) {
        let Some(tracee) = self.tracees.remove(&tid) else {
            return;
        };
        let Some(gate) = self.gates.get_mut(&tracee.gate) else {
            return;
        };
        gate.members = gate.members.saturating_sub(1);
        gate.leave(tid);
        if gate.members == 0 {
            self.gates.remove(&tracee.gate);
        } else {
            self.after.push_back(After::Grant(tracee.gate));
        }
    }

    /// Does what the last stop left to do.
    fn finish(&mut self, after: After) {
        match after {
            After::Resume(tid) => self.restart(tid, 0),
            After::Leave(tid, gate) => {
                let left = self.gates.get_mut(&gate).and_then(|gate| gate.leave(tid));
                if left == Some(Left::OrderLost) {
                    self.overlaps += 1;
                    self.look_at_maps(gate, None);
                }
                // After the look, and only then, the next may change something.
                if left.is_some() {
                    self.after.push_back(After::Grant(gate));
                }
            }
            After::Grant(gate) => {
                while let Some(tid) = self.gates.get_mut(&gate).and_then(Gate::next) {
                    self.proceed(tid);
                }
            }
        }
    }

    /// Asks the kernel what an address space looks like, by any task but `except`, and tells it.
    fn look_at_maps(&mut self, gate: GateId, except: Option<Tid>) {
        let alive = self
            .tracees
            .iter()
            .find(|(tid, tracee)| tracee.gate == gate && !tracee.ended && Some(**tid) != except)
            .map(|(tid, _)| *tid);
        if let Some(tid) = alive
            && let Ok(maps) = procfs::maps::read(tid)
            && !maps.is_empty()
        {
            self.tell(tid, EventKind::Maps(maps));
        }
    }

    /// New tasks whose parent was killed before it could tell of them.
    fn adopt_strays(&mut self, now: Instant) {
        let strays: Vec<Tid> = self
            .unborn
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > STRAY_AFTER)
            .map(|(tid, _)| *tid)
            .collect();
        for tid in strays {
            self.adopt(tid);
            self.unborn.remove(&tid);
            self.after.push_back(After::Resume(tid));
        }
    }

    /// Files a task of which only /proc can tell whose it is. Its stack stays unknown.
    fn adopt(&mut self, tid: Tid) {
        let Ok(status) = procfs::task::status(tid) else {
            return;
        };
        let relative = self.tracees.iter().find(|(other, _)| sys::share_memory(tid, **other).unwrap_or(false));
        let Some((&relative, gate)) = relative.map(|(other, tracee)| (other, tracee.gate)) else {
            self.add_child(tid, status.pid, None);
            return;
        };
        self.add_child(tid, status.pid, Some(gate));
        let thread = if status.pid.0 == tid.0 { 0 } else { crate::abi::clone::THREAD };
        let args = CloneArgs {
            call: crate::event::CloneCall::Clone,
            flags: crate::abi::clone::VM | thread,
            exit_signal: 0,
            stack: Addr(0),
            stack_size: 0,
            tls: Addr(0),
            parent_tid: Addr(0),
            child_tid: Addr(0),
        };
        self.tell(relative, EventKind::Born(Birth { child: tid, pid: status.pid, args }));
    }

    fn inside(&self, tid: Tid) -> Option<Inside> {
        self.tracees.get(&tid)?.inside
    }

    fn call_at(&self, tid: Tid, abi: Abi, followed: Followed) -> Option<decode::Decoded> {
        decode::call(tid, abi, followed, &gone(sys::registers(tid))?)
    }

    fn tell(&mut self, tid: Tid, kind: EventKind) {
        let at = self.now();
        self.events.push_back(Event { at, tid, kind });
    }

    /// Lets a stopped task run on, to the next stop that it has to make.
    fn restart(&mut self, tid: Tid, signal: i32) {
        let in_call = self.tracees.get(&tid).is_some_and(|tracee| tracee.inside.is_some());
        let how = if self.filtered && !in_call { Restart::Cont } else { Restart::Syscall };
        let _ = gone(sys::restart(tid, how, signal));
    }
}

/// The one place that judges failures of ptrace: a tracee can be killed at any moment, so that it is not stopped any
/// more, or not there at all. Wait will tell of its end.
fn gone<T>(result: Result<T, Errno>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(errno) => {
            debug_assert!(matches!(errno, Errno::ESRCH | Errno::EIO), "ptrace failed with {errno}");
            None
        }
    }
}

/// Takes the status of a task that will not be restarted at once, so that wait goes on to others.
fn take(tid: Tid) {
    // ECHILD: it is gone, and somebody else has taken its status.
    let _ = sys::take_status(tid);
}

fn region_at(tid: Tid, addr: Addr) -> Option<Vma> {
    procfs::maps::read(tid).ok()?.into_iter().find(|vma| vma.range.contains(addr))
}
