//! Attaching to all threads of a running process, and leaving it as it was.
//!
//! The world is never stopped. Each thread is interrupted, read and let go at once; only those that are about to change
//! mappings are held, until every thread has been stopped once. Then no change is under way, and the kernel's maps are
//! a picture that the model can start from.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::overhead::Overhead;
use super::refusal::{AttachError, explain, followable};
use super::stop::Stop;
use super::without_us::Woken;
use super::{After, Phase, Ptrace, decode, gone, without_us};
use crate::event::{Attached, AttachedTask, EventKind, Exit};
use crate::procfs::{self, task};
use crate::source::Follow;
use crate::sys::{self, Restart, Status, Wait};
use crate::units::{Pid, Tid};

/// A thread that does not stop within this time sleeps uninterruptibly: waiting for vfork's child, or for a disk.
const UNSTOPPABLE_AFTER: Duration = Duration::from_millis(200);

/// Such a thread is waited for no longer than this when it may be changing mappings.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// So often the kernel has to refuse a thread before that is believed.
const MOST_REFUSALS: u32 = 5;

/// How long to try to stop a thread in order to leave it. The kernel detaches the rest when we end.
const DETACH_WITHIN: Duration = Duration::from_secs(2);

/// Threads that have been attached to, before events flow.
#[derive(Debug)]
pub struct Attaching {
    began: Instant,
    /// Those that have not stopped yet.
    waiting: HashSet<Tid>,
    /// What those that have stopped run on.
    seen: HashMap<Tid, AttachedTask>,
    /// Those that are about to end, and are held there.
    exiting: Vec<Tid>,
}

impl Attaching {
    fn new() -> Attaching {
        Attaching { began: Instant::now(), waiting: HashSet::new(), seen: HashMap::new(), exiting: Vec::new() }
    }
}

impl Ptrace {
    /// Attaches to all tasks that share the address space of process `pid`.
    ///
    /// The first event will be [`EventKind::Attached`], once all of them have been stopped once.
    /// Where every call stops, and that costs the target more than `most_overhead` percent of its time, thread lifecycles
    /// alone are followed from then on.
    pub fn attach(pid: Pid, follow: Follow, most_overhead: Option<f64>) -> Result<Ptrace, AttachError> {
        let status = followable(pid)?;
        let mut source = Ptrace::new(pid, false, follow, Phase::Attaching(Attaching::new()));
        source.overhead = (follow == Follow::Memory).then(|| Overhead::new(pid, most_overhead));
        let gate = source.new_gate();
        source.seize_all(pid, gate).map_err(|errno| explain(pid, status, errno))?;
        if source.tracees.is_empty() {
            return Err(AttachError::Vanished(pid));
        }
        let seized = source.tracees.keys().next().copied();
        for other in seized.map_or(Vec::new(), |seized| task::sharers(pid, seized)) {
            // Those that share the memory but may not be traced, or are gone by now, are no reason to give up.
            let _ = source.seize_all(other, gate);
            seized.into_iter().for_each(|seized| source.separate(other, seized));
        }
        for tid in source.tracees.keys() {
            let _ = gone(sys::interrupt(*tid));
        }
        Ok(source)
    }

    /// Seizes the threads of a process until none is left that is not ours.
    ///
    /// Threads that seized ones create from now on are ours from their birth.
    fn seize_all(&mut self, pid: Pid, gate: u64) -> Result<(), Errno> {
        let mut refusals = 0;
        loop {
            let mut found_new = false;
            for tid in task::threads(pid).unwrap_or_default() {
                if self.tracees.contains_key(&tid) {
                    continue;
                }
                match sys::seize(tid, sys::TRACE_OPTIONS) {
                    Ok(()) => {
                        found_new = true;
                        self.add_child(tid, pid, Some(gate));
                        if let Phase::Attaching(attaching) = &mut self.phase {
                            attaching.waiting.insert(tid);
                        }
                    }
                    // It has just ended; or it is already ours, being the child of one that is, or a zombie.
                    Err(Errno::ESRCH) => {}
                    Err(Errno::EPERM) if self.is_ours(tid) => {}
                    Err(Errno::EPERM) if has_ended(tid) => {}
                    // The tid may have been that of a leader whom execve has replaced this moment.
                    Err(Errno::EPERM) if refusals < MOST_REFUSALS => {
                        refusals += 1;
                        found_new = true;
                    }
                    Err(errno) => return Err(errno),
                }
            }
            if !found_new {
                return Ok(());
            }
        }
    }

    /// A child of vfork shares the memory until it executes: whoever has done that before it was seized has another address
    /// space than `sharer`, and comes as a process of its own.
    fn separate(&mut self, pid: Pid, sharer: Tid) {
        let shares = |tid: Tid| sys::share_memory(tid, sharer).unwrap_or(true);
        let strangers: Vec<Tid> = self
            .tracees
            .iter()
            .filter(|(tid, tracee)| tracee.pid == pid && !shares(**tid))
            .map(|(tid, _)| *tid)
            .collect();
        let mut gate = None;
        for tid in strangers {
            self.remove(tid);
            self.add_child(tid, pid, gate);
            gate = self.tracees.get(&tid).map(|tracee| tracee.gate);
        }
    }

    fn is_ours(&self, tid: Tid) -> bool {
        let tracer = task::status(tid).ok().and_then(|status| status.tracer);
        tracer.is_some_and(|tracer| tracer.0 as u32 == std::process::id())
    }

    /// Whether this was a thread's first stop, which is dealt with.
    pub(super) fn first_stop_of_attach(&mut self, tid: Tid, stop: Stop) -> bool {
        let Phase::Attaching(attaching) = &mut self.phase else {
            return false;
        };
        let Some(tracee) = self.tracees.get(&tid) else {
            return false;
        };
        if attaching.waiting.remove(&tid)
            && let Some(registers) = gone(sys::registers(tid))
        {
            let (sp, tls) = decode::stack_and_tls(&registers);
            attaching.seen.insert(tid, AttachedTask { tid, pid: tracee.pid, sp: Some(sp), tls });
            if stop == Stop::Trap {
                without_us::resume(tid, Woken::ByUs);
            }
        }
        let is_birth = stop == Stop::NewTask;
        if is_birth {
            // Made by one that we have, on a stack that the maps will show.
            let (pid, gate) = (tracee.pid, tracee.gate);
            if let Some(child) = gone(sys::event_message(tid)).and_then(|child| i32::try_from(child).ok()) {
                self.new_while_attaching(Tid(child), pid, gate);
            }
            self.restart(tid, 0);
        }
        self.attached_if_complete();
        is_birth
    }

    fn new_while_attaching(&mut self, child: Tid, parent: Pid, gate: u64) {
        let pid = task::status(child).map_or(parent, |status| status.pid);
        let shares = pid == parent || sys::share_memory(child, parent.into()).unwrap_or(false);
        self.add_child(child, pid, shares.then_some(gate));
        let Phase::Attaching(attaching) = &mut self.phase else {
            return;
        };
        if self.unborn.remove(&child).is_none() {
            attaching.waiting.insert(child);
            return;
        }
        if let (true, Some(registers)) = (shares, gone(sys::registers(child))) {
            let (sp, tls) = decode::stack_and_tls(&registers);
            attaching.seen.insert(child, AttachedTask { tid: child, pid, sp: Some(sp), tls });
        }
        self.after.push_back(After::Resume(child));
    }

    /// A task has ended, perhaps before its first stop.
    pub(super) fn no_longer_attaching(&mut self, tid: Tid) {
        let Phase::Attaching(attaching) = &mut self.phase else {
            return;
        };
        attaching.waiting.remove(&tid);
        attaching.seen.remove(&tid);
        self.attached_if_complete();
    }

    /// execve has put `former` in the place of the leader, `tid`, and all other threads are gone.
    pub(super) fn former_is_gone(&mut self, former: Tid, tid: Tid) {
        if former != tid {
            self.no_longer_attaching(former);
        }
        self.no_longer_attaching(tid);
    }

    /// Holds a task that is about to end, and of whose end the picture would show only a part: threads are missing then that
    /// exit_group or execve has killed, and not joined. True where it is held. A child of vfork is not: its parent waits for
    /// it, and cannot stop before.
    pub(super) fn exits_later(&mut self, tid: Tid) -> bool {
        let is_guest = self.is_guest(tid);
        let (Phase::Attaching(attaching), Some(tracee)) = (&mut self.phase, self.tracees.get_mut(&tid)) else {
            return false;
        };
        if !is_guest {
            tracee.held = true;
            attaching.exiting.push(tid);
        }
        !is_guest
    }

    /// Lets those end that were held, and still are there.
    fn exit_now(&mut self, exiting: Vec<Tid>) {
        for tid in exiting {
            if let Some(tracee) = self.tracees.get_mut(&tid) {
                tracee.held = false;
                self.exits(tid);
            }
        }
    }

    /// Threads that were in execve before they could be stopped wait for the others to end.
    fn let_execve_go_on(&mut self) {
        let Phase::Attaching(attaching) = &mut self.phase else { return };
        if attaching.exiting.is_empty() {
            return;
        }
        let Ptrace { tracees, .. } = self;
        let pid_of = |tid: &Tid| tracees.get(tid).map(|tracee| tracee.pid);
        let executing: HashSet<Pid> =
            attaching.waiting.iter().filter(|tid| task::sleeps_in_execve(**tid)).filter_map(pid_of).collect();
        let is_waited_for = |tid: &mut Tid| pid_of(tid).is_some_and(|pid| executing.contains(&pid));
        let exiting = attaching.exiting.extract_if(.., is_waited_for).collect();
        self.exit_now(exiting);
    }

    /// Waits no longer for threads that sleep uninterruptibly, if what they sleep in leaves mappings alone.
    pub(super) fn excuse_unstoppable(&mut self, now: Instant) {
        self.let_execve_go_on();
        let Phase::Attaching(attaching) = &mut self.phase else {
            return;
        };
        let waited = now.duration_since(attaching.began);
        if waited < UNSTOPPABLE_AFTER {
            return;
        }
        let excused: Vec<Tid> =
            attaching.waiting.iter().copied().filter(|tid| waited > GIVE_UP_AFTER || sleeps_harmlessly(*tid)).collect();
        for tid in excused {
            attaching.waiting.remove(&tid);
            if let Some(tracee) = self.tracees.get(&tid) {
                let sp = task::blocked_in(tid).and_then(|blocked| blocked.sp);
                attaching.seen.insert(tid, AttachedTask { tid, pid: tracee.pid, sp, tls: None });
            }
        }
        self.attached_if_complete();
    }

    /// Once every thread has been stopped, the maps are read, and events flow.
    fn attached_if_complete(&mut self) {
        let attaching = match std::mem::replace(&mut self.phase, Phase::Following) {
            Phase::Attaching(attaching) if attaching.waiting.is_empty() => attaching,
            phase => {
                self.phase = phase;
                return;
            }
        };
        let main_gate = self.tracees.values().find(|tracee| tracee.pid == self.main.pid).map(|tracee| tracee.gate);
        let gates: Vec<u64> = self.gates.keys().copied().collect();
        for gate in gates {
            self.tell_attached(gate, main_gate, &attaching);
            if let Some(open) = self.gates.get_mut(&gate) {
                open.open();
            }
            self.after.push_back(After::Grant(gate));
        }
        self.exit_now(attaching.exiting);
    }

    /// Tells of one address space; those of children that were forked meanwhile come as processes of their own.
    fn tell_attached(&mut self, gate: u64, main_gate: Option<u64>, attaching: &Attaching) {
        let mut tasks: Vec<AttachedTask> = self
            .tracees
            .iter()
            .filter(|(_, tracee)| tracee.gate == gate && !tracee.ended)
            .map(|(tid, tracee)| {
                let unseen = AttachedTask { tid: *tid, pid: tracee.pid, sp: None, tls: None };
                attaching.seen.get(tid).copied().unwrap_or(unseen)
            })
            .collect();
        let Some(pid) = tasks.iter().map(|task| task.pid).min() else {
            return;
        };
        let pid = if Some(gate) == main_gate { self.main.pid } else { pid };
        // Those of the process itself come first: others may be about to have another address space.
        tasks.sort_unstable_by_key(|task| (task.pid != pid, task.tid));
        let maps = tasks.iter().filter_map(|task| procfs::maps::read(task.tid).ok()).find(|maps| !maps.is_empty());
        let Some(first) = tasks.first().copied() else {
            return;
        };
        self.tell(
            first.tid,
            EventKind::Attached(Box::new(Attached {
                pid,
                maps: maps.unwrap_or_default(),
                start_brk: task::start_brk(first.tid),
                read_implies_exec: task::read_implies_exec(first.tid),
                tasks,
            })),
        );
    }

    /// Leaves all tasks: none stays stopped, and signals and group-stops go on as if we had never been there.
    pub(super) fn leave_all(&mut self) {
        let until = Instant::now() + DETACH_WITHIN;
        self.events.clear();
        let mut left: HashSet<Tid> = self.tracees.keys().chain(self.unborn.keys()).copied().collect();
        for (tid, status) in std::mem::take(&mut self.ready) {
            left.remove(&tid);
            match status {
                Status::Stopped(status) => {
                    self.give_back(tid);
                    left.extend(leave(tid, status));
                }
                Status::Exited(_) | Status::Killed(_) => self.see_end_of_main(tid, status),
            }
        }
        for after in std::mem::take(&mut self.after) {
            let (After::Resume(tid) | After::Part(tid)) = after else { continue };
            self.give_back(tid);
            if sys::restart(tid, Restart::Detach, 0).is_ok() {
                left.remove(&tid);
            }
        }
        for tid in left.clone() {
            // Those that are held, or wait for their parent's event, are stopped already. Any other may have stopped this
            // moment with a signal on its way, which only its status tells of.
            let is_ours = self.unborn.contains_key(&tid) || self.tracees.get(&tid).is_some_and(|tracee| tracee.held);
            if is_ours {
                self.give_back(tid);
            }
            if is_ours && sys::restart(tid, Restart::Detach, 0).is_ok() {
                left.remove(&tid);
            } else {
                let _ = gone(sys::interrupt(tid));
            }
        }
        while !left.is_empty() && Instant::now() < until {
            match sys::peek_status(Wait::Poll) {
                Ok(Some((tid, Status::Stopped(status)))) => {
                    self.give_back(tid);
                    left.extend(leave(tid, status));
                    left.remove(&tid);
                }
                Ok(Some((tid, status))) => {
                    self.see_end_of_main(tid, status);
                    super::take(tid);
                    left.remove(&tid);
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        self.tracees.clear();
        self.unborn.clear();
        self.gates.clear();
        self.stragglers = left;
    }

    /// Keeps the status of the process that was launched or named, which wait tells once.
    fn see_end_of_main(&mut self, tid: Tid, status: Status) {
        if tid == self.main.pid.into() {
            self.main.exit = match status {
                Status::Exited(code) => Some(Exit::Code(code)),
                Status::Killed(signal) => Some(Exit::Signal(signal)),
                Status::Stopped(_) => self.main.exit,
            };
        }
    }
}

/// Detaches from a stopped task, and returns the one that it has just made.
pub(super) fn leave(tid: Tid, status: i32) -> Option<Tid> {
    let (mut signal, mut child) = (0, None);
    match Stop::from_status(status) {
        Stop::Signal(number) if without_us::is_kept_from(tid, number) => {}
        Stop::Signal(number) => {
            without_us::resume(tid, Woken::BySignal(number));
            signal = number;
        }
        // An interrupted call ends first, with what interrupted it still to be dealt with.
        Stop::Trap | Stop::Syscall => without_us::resume(tid, Woken::ByUs),
        Stop::NewTask => child = gone(sys::event_message(tid)).and_then(|child| i32::try_from(child).ok()).map(Tid),
        // The kernel refuses every request as long as this status stands, lest it be meant for the former leader
        // (kernel/ptrace.c, looks_like_a_spurious_pid).
        Stop::Exec => super::take(tid),
        _ => {}
    }
    let _ = gone(sys::restart(tid, Restart::Detach, signal));
    child
}

/// Whether nothing is left of a thread but its status, if that.
fn has_ended(tid: Tid) -> bool {
    task::status(tid).map_or(true, |status| matches!(status.state, 'Z' | 'X'))
}

/// Whether a thread that does not stop sleeps in a call that leaves mappings alone.
fn sleeps_harmlessly(tid: Tid) -> bool {
    let Some(blocked) = task::blocked_in(tid) else {
        return false;
    };
    let Ok(nr) = u64::try_from(blocked.nr) else {
        return true;
    };
    use decode::Followed::{Clone, Clone3, Vfork};
    matches!(decode::followed(decode::Abi::X86_64, nr), None | Some(Clone | Clone3 | Vfork))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::event::Event;

    /// A process, and two tasks in one gate: its own, and that of a child which `pid` says to be another process's.
    fn attaching(main: Pid, guest: Tid, pid: Pid) -> (Ptrace, u64) {
        let mut source = Ptrace::new(main, false, Follow::Memory, Phase::Attaching(Attaching::new()));
        let gate = source.new_gate();
        source.add_child(main.into(), main, Some(gate));
        source.add_child(guest, pid, Some(gate));
        (source, gate)
    }

    fn child() -> (std::process::Child, Pid) {
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        // The parent goes on before the program is mapped.
        while !procfs::maps::read(pid.into()).unwrap().iter().any(is_sleep) {
            std::thread::yield_now();
        }
        (child, pid)
    }

    fn is_sleep(vma: &crate::event::Vma) -> bool {
        vma.name.ends_with(b"/sleep")
    }

    /// The picture that following begins with is seen through a task of the process itself: a child of vfork, whatever its
    /// number, may execute a program at that moment.
    #[test]
    fn the_picture_is_of_the_process_itself() {
        let (mut sleep, main) = child();
        let guest = sys::own_tid();
        let (mut source, _) = attaching(main, guest, Pid(std::process::id() as i32));
        source.attached_if_complete();
        let event = source.events.pop_front().unwrap();
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        let EventKind::Attached(attached) = event.kind else { panic!("{event:?}") };
        assert_eq!((attached.pid, event.tid), (main, main.into()));
        assert!(attached.maps.iter().any(is_sleep), "{:?}", attached.maps);
        assert_eq!(attached.tasks.iter().map(|task| task.tid).collect::<Vec<_>>(), [main.into(), guest]);
    }

    /// Who is about to end while the picture is taken is in it, and its end is told afterwards; but nobody waits for the end of
    /// who is waited for in vfork.
    #[test]
    fn nobody_ends_before_the_picture() {
        let main = Pid(std::process::id() as i32);
        let thread = sys::own_tid();
        let (mut source, _) = attaching(main, thread, main);
        assert!(source.exits_later(thread));
        assert!(source.tracees.get(&thread).is_some_and(|tracee| tracee.held && !tracee.ended));
        source.attached_if_complete();
        let Some(Event { kind: EventKind::Attached(attached), .. }) = source.events.pop_front() else { panic!() };
        assert!(attached.tasks.iter().any(|task| task.tid == thread));
        assert!(source.tracees.get(&thread).is_some_and(|tracee| !tracee.held));
        assert!(!source.exits_later(thread), "whoever ends later ends at once");

        let (mut source, _) = attaching(main, Tid(i32::MAX - 1), Pid(i32::MAX - 1));
        assert!(!source.exits_later(Tid(i32::MAX - 1)));
        assert!(source.exits_later(main.into()), "its host is no guest");
    }

    /// Who has executed a program between being found and being seized has another address space.
    #[test]
    fn who_shares_the_memory_no_more_is_a_process_of_its_own() {
        let (mut sleep, pid) = child();
        let main = Pid(std::process::id() as i32);
        let (mut source, gate) = attaching(main, pid.into(), pid);
        source.separate(pid, main.into());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert_eq!(source.tracees.get(&Tid::from(main)).map(|tracee| tracee.gate), Some(gate));
        assert!(source.tracees.get(&Tid::from(pid)).is_some_and(|tracee| tracee.gate != gate));

        // A thread does share it.
        let (mut source, gate) = attaching(main, sys::own_tid(), main);
        source.separate(main, main.into());
        assert!(source.tracees.values().all(|tracee| tracee.gate == gate));
    }
}
