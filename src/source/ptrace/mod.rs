//! Events by ptrace(2): launch or attach, and the wait loop.
//!
//! The loop is `next`: finish what the last stop left to do, wait for a stop, decode it ([`stop`]), turn it into events,
//! and leave the task stopped until they have been taken. A signal on its way is never taken out of the kernel's
//! hands: see [`crate::sys::peek_status`].

pub mod attach;
mod calls;
pub mod decode;
pub mod filter;
pub mod gate;
pub mod halt;
pub mod launch;
mod lifecycles;
mod order;
pub mod overhead;
mod placement;
pub mod refusal;
mod statuses;
pub mod stop;
mod tasks;
mod untraced;
mod without_us;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::user_regs_struct as Registers;

use super::control::Control;
use super::group::ProgramGroup;
use super::{Follow, Next, Source};
use crate::diagnose::finding::Note;
use crate::event::{Call, Event, EventKind, Exit};
use crate::report::Engine;
use crate::sys::{self, Restart, Status, SyscallStop};
use crate::units::{NumberMap, Pid, Tid, Time};
use decode::{Abi, Followed};
use gate::{Gate, Left};
use overhead::Overhead;
use placement::Placement;
use stop::Stop;
use untraced::Withheld;
use without_us::Woken;

/// When a new task has waited so long for the event of the one that made it, it is looked whether that can still come.
const STRAY_AFTER: Duration = Duration::from_millis(200);

/// So long it may take the one that made it to get a processor, and stop for that event.
const LATE_EVENT_WITHIN: Duration = Duration::from_secs(1);

/// All followed tasks.
#[derive(Debug)]
pub struct Ptrace {
    tracees: NumberMap<Tid, Tracee>,
    /// New tasks whose first stop came before their parent's event.
    unborn: HashMap<Tid, Instant>,
    /// Tasks that could not be stopped in order to leave them, and will stop when they wake up.
    stragglers: HashSet<Tid>,
    /// Why a launched program runs without the filter that was wanted.
    unfiltered: Option<Errno>,
    gates: NumberMap<GateId, Gate>,
    next_gate: GateId,
    /// Events that have not been asked for yet.
    events: VecDeque<Event>,
    /// The status that was looked at last, if it has not been taken and its task has not gone on.
    looked_at: Option<(Tid, Status)>,
    /// How many have been dispatched one by one since all were collected.
    in_a_row: u32,
    /// Statuses that have been taken and not been dispatched yet.
    ready: VecDeque<(Tid, Status)>,
    /// What is to be done once they have been.
    after: VecDeque<After>,
    /// Whether a filter picks the calls that stop; without, every call does.
    filtered: bool,
    follow: Follow,
    start: Instant,
    main: Main,
    phase: Phase,
    stops: u64,
    overlaps: u64,
    placement: Placement,
    /// What an attached target, whose every call stops, is made to wait.
    overhead: Option<Overhead>,
    warnings: VecDeque<String>,
    /// Why mapping calls are not followed any more.
    fallen_back: Option<String>,
}

/// The process that was launched or named.
#[derive(Debug)]
struct Main {
    pid: Pid,
    /// It was launched: its status will be ours.
    is_child: bool,
    /// Its process group, where it was launched.
    group: Option<ProgramGroup>,
    exit: Option<Exit>,
    /// It has been stopped by job control since this was last told.
    stop_is_news: bool,
}

impl Main {
    fn of(pid: Pid, is_child: bool) -> Main {
        let group = is_child.then(|| ProgramGroup::of(pid));
        Main { pid, is_child, group, exit: None, stop_is_news: false }
    }
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

#[derive(Clone, Copy, Debug)]
struct Tracee {
    pid: Pid,
    gate: GateId,
    /// The followed call that it is in.
    inside: Option<Inside>,
    /// It has called exit.
    exiting: bool,
    /// Its end has been told.
    ended: bool,
    /// When its present stop was noticed; none while it runs, or where that does not matter.
    noticed: Option<Instant>,
    /// It is held at the entry of a call, and stopped.
    held: bool,
    /// Job control has stopped it.
    group_stopped: bool,
    /// It has been let into a call that is not followed: if the next stop is one at a call, it is the exit.
    passing: bool,
    /// What it gets back at its next stop.
    withheld: Option<Withheld>,
    /// Another process is notified of some of its calls, and decides on them before our filter does: each one stops.
    is_notified: bool,
}

impl Tracee {
    /// Whether it is in a call of execve, and may be of another address space by now.
    fn executes(&self) -> bool {
        self.inside.is_some_and(|inside| inside.executes())
    }
}

#[derive(Clone, Copy, Debug)]
struct Inside {
    abi: Abi,
    followed: Followed,
    /// What it was asked for, where that may not be there any more when it has succeeded: execve, and i386's mmap, whose arguments
    /// lie in memory.
    asked: Option<Call>,
    /// Whether no filter has answered in the kernel's place, as far as that can be told.
    is_let_through: bool,
}

impl Inside {
    fn executes(&self) -> bool {
        matches!(self.followed, Followed::Execve | Followed::Execveat)
    }
}

/// What is to be done with a stopped task once its events have been taken.
#[derive(Clone, Copy, Debug)]
enum After {
    Resume(Tid),
    /// It is about to end, and is left.
    Part(Tid),
    /// The task's call is over: others may go.
    Leave(Tid, GateId),
    /// Lets those go that wait at a gate.
    Grant(GateId),
}

impl Ptrace {
    fn new(pid: Pid, filtered: bool, follow: Follow, phase: Phase) -> Ptrace {
        let mut source = Ptrace {
            tracees: NumberMap::default(),
            unborn: HashMap::new(),
            stragglers: HashSet::new(),
            unfiltered: None,
            gates: NumberMap::default(),
            next_gate: 0,
            events: VecDeque::new(),
            looked_at: None,
            in_a_row: 0,
            ready: VecDeque::new(),
            after: VecDeque::new(),
            filtered,
            follow,
            start: Instant::now(),
            main: Main::of(pid, matches!(phase, Phase::Launching(_))),
            phase,
            stops: 0,
            overlaps: 0,
            placement: Placement::new(),
            overhead: None,
            warnings: VecDeque::new(),
            fallen_back: None,
        };
        if follow == Follow::Threads {
            source.tell(pid.into(), EventKind::LifecyclesAlone);
        }
        source
    }

    /// Lets a task go on, however; its status is replaced by that.
    fn go_on(&mut self, tid: Tid, how: Restart, signal: i32) {
        if self.looked_at.is_some_and(|(looked_at, _)| looked_at == tid) {
            self.looked_at = None;
        }
        if let Some(overhead) = &mut self.overhead
            && let Some(tracee) = self.tracees.get_mut(&tid)
            && let Some(noticed) = tracee.noticed.take()
            && how != Restart::Listen
        {
            overhead.add(tracee.pid, noticed);
        }
        let _ = gone(sys::restart(tid, how, signal));
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
        if self.overhead.is_some() {
            self.watch_overhead(tid);
        }
        self.placement.beat(self.stops);
        if self.stops.is_multiple_of(placement::WINDOW) {
            self.placement.window(tid);
        }
        let stop = Stop::from_status(status);
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            if stop == Stop::Exec {
                // The leader, whose number it has now, was left when it ended.
                return self.executed(tid);
            }
            if stop == Stop::Exit {
                return self.ends_unborn(tid);
            }
            // Its parent's event is still to come, and tells whose child it is.
            self.unborn.insert(tid, Instant::now());
            return;
        };
        // A new task has copied it, and has to get it back too.
        if tracee.withheld.is_some() && stop != Stop::NewTask {
            self.give_back(tid);
        }
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.group_stopped = stop == Stop::GroupStop;
        let passing = std::mem::take(&mut tracee.passing);
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
            Stop::Signal(signal) if without_us::is_kept_from(tid, signal) => self.restart(tid, 0),
            Stop::Signal(signal) if without_us::is_of_terminal(tid, signal, self.main.group.as_mut()) => {
                self.restart(tid, 0);
            }
            Stop::Signal(signal) => {
                without_us::resume(tid, Woken::BySignal(signal));
                self.restart(tid, signal);
            }
            Stop::Seccomp => self.seccomp_stop(tid),
            Stop::Syscall if passing || self.follow == Follow::Threads => self.restart(tid, 0),
            Stop::Syscall => self.syscall_stop(tid),
            Stop::GroupStop => {
                self.main.stop_is_news |= self.main_is_stopped();
                self.go_on(tid, Restart::Listen, 0);
            }
            Stop::Trap => self.restart(tid, 0),
            Stop::NewTask => {
                self.new_task(tid);
                self.give_back(tid);
            }
            Stop::Exec => self.executed(tid),
            Stop::Exit => self.exiting(tid),
            Stop::Other => self.restart(tid, 0),
        }
    }

    fn executed(&mut self, tid: Tid) {
        // The kernel refuses every request as long as this status stands, lest it be meant for the former leader
        // (kernel/ptrace.c, looks_like_a_spurious_pid).
        self.take_looked_at();
        self.exec(tid);
    }

    /// Does what the last stop left to do.
    fn finish(&mut self, after: After) {
        match after {
            After::Resume(tid) => self.restart(tid, 0),
            After::Part(tid) => self.part(tid),
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
                while let Some(tid) = self.admit(gate) {
                    self.proceed(tid);
                }
            }
        }
    }

    fn inside(&self, tid: Tid) -> Option<Inside> {
        self.tracees.get(&tid)?.inside
    }

    /// The call that a task is about to make.
    fn call_at(&self, tid: Tid, abi: Abi, followed: Followed) -> Option<decode::Decoded> {
        decode::call(tid, abi, followed, &gone(sys::registers(tid))?, decode::Arguments::Unused)
    }

    /// The followed call that a task is in which has stopped for an event, by its registers alone.
    fn call_at_event(&self, tid: Tid) -> Option<(Abi, Followed, Registers)> {
        let registers = gone(sys::registers(tid))?;
        let abi = match sys::syscall_info(tid) {
            Err(Errno::EIO) => Abi::of_code_segment(&registers),
            info => match gone(info)? {
                SyscallStop::Other { arch } => Abi::of_audit_arch(arch)?,
                _ => return None,
            },
        };
        // The kernel looks at the lower half alone (`do_syscall_64`).
        Some((abi, decode::followed(abi, registers.orig_rax & 0xffff_ffff)?, registers))
    }

    fn tell(&mut self, tid: Tid, kind: EventKind) {
        let at = self.now();
        self.events.push_back(Event { at, tid, call_stack: None, kind });
    }

    /// Lets a stopped task run on, to the next stop that it has to make.
    fn restart(&mut self, tid: Tid, signal: i32) {
        let stops_next = || self.tracees.get(&tid).is_some_and(|tracee| tracee.inside.is_some() || tracee.is_notified);
        let how = match self.follow {
            Follow::Threads => Restart::Cont,
            Follow::Memory if self.filtered && !stops_next() => Restart::Cont,
            Follow::Memory => Restart::Syscall,
        };
        self.go_on(tid, how, signal);
    }
}

impl Source for Ptrace {
    fn engine(&self) -> Engine {
        Engine::Ptrace
    }

    fn next(&mut self, control: &Control) -> Result<Next, Errno> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Next::Event(event));
            }
            if let Some(after) = self.after.pop_front() {
                self.finish(after);
                continue;
            }
            if control.pending() || std::mem::take(&mut self.main.stop_is_news) {
                // What is to be done now, a report perhaps, takes longer than a stop.
                self.placement.free();
                return Ok(Next::Woken);
            }
            if self.is_quiet() {
                if self.look_at_overlapped() {
                    continue;
                }
                return Ok(Next::Quiet);
            }
            control.watch_held(self.needs_watching());
            match self.next_status() {
                Ok(Some((tid, status))) => self.dispatch(tid, status),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(Next::Finished),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    fn main_pid(&self) -> Pid {
        self.main.pid
    }

    fn main_exit(&self) -> Option<Exit> {
        self.main.exit
    }

    fn others(&self) -> Vec<Pid> {
        let pids: HashSet<Pid> = self.tracees.values().map(|tracee| tracee.pid).collect();
        pids.into_iter().collect()
    }

    fn main_is_stopped(&self) -> bool {
        let main = self.main.pid;
        match self.tracees.get(&main.into()) {
            Some(first) if !first.ended => first.group_stopped,
            // The others live on.
            _ => self.tracees.values().any(|tracee| tracee.pid == main && tracee.group_stopped),
        }
    }

    fn others_run(&self) -> bool {
        self.tracees.values().any(|tracee| !tracee.group_stopped && !tracee.ended)
    }

    fn stops(&self) -> u64 {
        self.stops
    }

    fn is_settled(&self, tid: Tid) -> bool {
        let gate = self.tracees.get(&tid).and_then(|tracee| self.gates.get(&tracee.gate));
        gate.is_some_and(|gate| gate.is_settled(Some(tid)))
    }

    fn notes(&self) -> Vec<Note> {
        let fallen_back = self.fallen_back.clone().map(|text| Note::incomplete(None, 0, text));
        if self.overlaps == 0 {
            return fallen_back.into_iter().collect();
        }
        let times = if self.overlaps == 1 { "once".to_owned() } else { format!("{} times", self.overlaps) };
        let text = format!(
            "the order of mapping calls was lost {times} behind one that blocked; the model was put right from the \
             kernel's maps"
        );
        fallen_back.into_iter().chain([Note::incomplete(None, self.overlaps, text)]).collect()
    }

    fn warning(&mut self) -> Option<String> {
        let Some(errno) = self.unfiltered.take() else { return self.warnings.pop_front() };
        Some(format!(
            "no seccomp filter could be installed ({errno}): every system call of the program stops, which is slow"
        ))
    }

    fn look_after_held(&mut self) {
        let now = Instant::now();
        self.after.extend(self.gates.iter().filter(|(_, gate)| gate.holds()).map(|(id, _)| After::Grant(*id)));
        self.adopt_strays(now);
        self.excuse_unstoppable(now);
    }

    fn close(&mut self) {
        self.placement.free();
        self.phase = Phase::Closing { deadline: Instant::now() + Duration::from_millis(500) };
        for gate in self.gates.values_mut() {
            gate.close();
        }
    }

    fn detach(&mut self) {
        self.leave_all();
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

/// Takes the status of a task, so that wait goes on to others.
fn take(tid: Tid) {
    // ECHILD: it is gone, and somebody else has taken its status.
    let _ = sys::take_status(tid);
}
