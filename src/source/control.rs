//! Requests that come from outside while the source waits: signals, timers, and the source's own need to look up.
//!
//! The source blocks in wait, which nothing but a signal ends. One thread collects all that may be asked, sets a flag,
//! and sends the waiting thread a signal until the flag has been read: a signal that comes a moment before the wait
//! begins would be lost otherwise. The event path pays one atomic load.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::group::ProgramGroup;
use crate::procfs::task;
use crate::sys::lookout;
use crate::sys::witness::Witness;
use crate::sys::{self, Received};
use crate::units::Pid;

/// How often the thread looks after things that have no signal of their own.
const TICK: Duration = Duration::from_millis(20);

/// Who sends to one process after the other, as pkill(1), needs a moment for all of them.
const FORWARD_AFTER: Duration = Duration::from_millis(20);

/// So many signals are taken before something is done.
const MOST_AT_ONCE: usize = 256;

/// So many at once are much for the witness to tell: its pipe holds some thousand.
const MUCH: usize = 256;

/// More do not wait to be taken, as a rule (RLIMIT_SIGPENDING).
const MOST_WAITING: usize = 1 << 16;

/// Ends a blocked wait. SIGURG is ignored by default, so that a stray one harms nobody.
const WAKE: Signal = Signal::SIGURG;

/// What signals mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manners {
    /// ^C, SIGTERM and their like end the following.
    Attached,
    /// They are the program's: what the terminal sends it gets itself, what a process sends us is passed on.
    Launched,
}

/// How long, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timers {
    /// Stop after this.
    pub stop_after: Option<Duration>,
    /// A report at this interval.
    pub report_every: Option<Duration>,
    /// A status line at this interval.
    pub status_every: Option<Duration>,
}

/// A signal that was sent to us and is the launched program's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Its number.
    pub signal: i32,
    /// The process that sent it; none where the kernel did.
    pub sender: Option<Pid>,
    /// What came with it, where it was queued.
    pub value: Option<usize>,
    /// Whether it is known that it was not for the whole process group.
    pub is_ours_alone: bool,
    /// Whether it is for the program's process group, which is not ours any more.
    pub is_for_group: bool,
}

/// A program that is about to run.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its process.
    pub pid: Pid,
    /// Its name and arguments.
    pub command: &'a [OsString],
}

/// What has been asked since it was last looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requests {
    /// The following is to end.
    pub stop: bool,
    /// A report as of now.
    pub report: bool,
    /// A status line.
    pub status: bool,
    /// The terminal wants the job stopped.
    pub suspend: bool,
    /// The program seems to be stopped, and the shell does not know yet.
    pub seems_stopped: bool,
    /// Signals that are to be passed on to the launched program.
    pub signals: Vec<Sent>,
    /// The source has something held that should not be held for long.
    pub look_after_held: bool,
}

const STOP: u32 = 1;
const REPORT: u32 = 2;
const STATUS: u32 = 4;
const SUSPEND: u32 = 8;
const FORWARD: u32 = 16;
const HELD: u32 = 32;
const STANDS: u32 = 64;

#[derive(Debug, Default)]
struct Shared {
    flags: AtomicU32,
    signals: Mutex<Vec<Sent>>,
    /// Whether the source holds tasks, and wants to be woken for it at every tick.
    holding: AtomicBool,
    /// Whether timers run.
    armed: AtomicBool,
    /// Whether the launched program has ended, and what it has left behind is followed.
    main_has_ended: AtomicBool,
    /// By what key the terminal has interrupted the job: a signal's number.
    struck: AtomicI32,
    /// Whether nobody is followed any more, nor waited for.
    over: AtomicBool,
    done: AtomicBool,
}

impl Shared {
    fn take_signals(&self) -> Vec<Sent> {
        std::mem::take(&mut *locked(&self.signals))
    }

    fn add_signal(&self, sent: Sent) {
        locked(&self.signals).push(sent);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that collects requests, and the place where they are read.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    manners: Manners,
}

/// Blocks the signals that [`Control`] is going to collect, and returns the mask as it was, for a launched program.
///
/// To be called before any thread exists.
pub fn block_signals(manners: Manners) -> Result<SigSet, Errno> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&collected(manners)), Some(&mut before))?;
    Ok(before)
}

/// Launched, all that may be the program's. A fault of our own ends us also where its signal is blocked (kernel/signal.c,
/// force_sig_info_to_task). Attached, those that we act on, and all others that would end us: whoever wants to outlive the
/// session, or something else, says so by ignoring it, as nohup(1) has it.
fn collected(manners: Manners) -> SigSet {
    use Signal::{SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1};
    const LAST: i32 = 64;
    let ours = [SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1].map(|signal| signal as i32);
    let others = (1..=LAST).filter(|signal| match manners {
        Manners::Launched => !is_out_of_reach(*signal),
        Manners::Attached => !is_out_of_reach(*signal) && !is_left_alone(*signal) && !sys::is_ignored(*signal),
    });
    sys::signal_set(ours.into_iter().chain(others))
}

/// Whether a signal cannot be held off, or comes all the time: for each stop of a task, and to wake us.
fn is_out_of_reach(signal: i32) -> bool {
    use Signal::{SIGCHLD, SIGKILL, SIGSTOP};
    Signal::try_from(signal).is_ok_and(|signal| [SIGCHLD, SIGKILL, SIGSTOP, WAKE].contains(&signal))
}

/// Whether a signal ends nobody by default, tells of a fault of our own, or is dealt with elsewhere (SIGPIPE, and those of
/// resource limits).
fn is_left_alone(signal: i32) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGWINCH, SIGXCPU, SIGXFSZ};
    let all = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGWINCH, SIGXCPU, SIGXFSZ];
    Signal::try_from(signal).is_ok_and(|signal| all.contains(&signal))
}

impl Control {
    /// Collects nothing before [`Control::start`]; timers run from [`Control::arm`] on.
    pub fn new(manners: Manners) -> Control {
        Control { shared: Arc::default(), thread: None, manners }
    }

    /// Starts to collect, for the calling thread, which must be the one that waits. Where a program is `launched`, what the process
    /// group is sent from here on is told from what we alone are sent.
    pub fn start(&mut self, timers: Timers, launched: Option<Program<'_>>) -> std::io::Result<()> {
        sys::interrupt_calls_on(WAKE)?;
        let shared = Arc::clone(&self.shared);
        let (manners, waiter) = (self.manners, sys::ThisThread::current());
        let launched = launched.map(|program| (ProgramGroup::of(program.pid), program.command.to_vec()));
        let (ready, is_ready) = mpsc::sync_channel(1);
        let mut blocked = SigSet::empty();
        blocked.add(WAKE);
        // The new thread must not take the wake-ups itself.
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        let spawned = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            // It is this thread's child, so that the one that waits need not know of it. Without it, what is for the whole
            // group reaches the program twice.
            let (program, witness) = launched.map(|(group, command)| (group, Witness::start(&command).ok())).unzip();
            let _ = ready.send(());
            let collector = Collector::new(&shared, manners, program, witness.flatten());
            collect(collector, timers, waiter);
        });
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&blocked), None)?;
        self.thread = Some(spawned?);
        // An error would mean that it has ended, which is told when it is joined.
        let _ = is_ready.recv();
        Ok(())
    }

    /// Starts the timers: all threads are followed.
    pub fn arm(&self) {
        self.shared.armed.store(true, Ordering::Release);
    }

    /// Whether something has been asked.
    pub fn pending(&self) -> bool {
        self.shared.flags.load(Ordering::Relaxed) != 0
    }

    /// What has been asked; asks no more.
    pub fn take(&self) -> Requests {
        let flags = self.shared.flags.swap(0, Ordering::AcqRel);
        Requests {
            stop: flags & STOP != 0,
            report: flags & REPORT != 0,
            status: flags & STATUS != 0,
            suspend: flags & SUSPEND != 0,
            seems_stopped: flags & STANDS != 0,
            look_after_held: flags & HELD != 0,
            signals: if flags & FORWARD != 0 { self.shared.take_signals() } else { Vec::new() },
        }
    }

    /// The launched program has ended: the terminal's keys are for us from here on.
    pub fn main_has_ended(&self) {
        self.shared.main_has_ended.store(true, Ordering::Release);
    }

    /// Collects no more. Gives the signal by which the terminal has last interrupted the job, for a key.
    ///
    /// It is known for sure once a member of the job that died of it has been waited for: the kernel lets none become a
    /// zombie before it has sent the signal to all (tasklist_lock: kernel/signal.c, kill_pgrp; kernel/exit.c, exit_notify).
    pub fn end(mut self) -> Option<i32> {
        self.join();
        match self.shared.struck.load(Ordering::Acquire) {
            0 => None,
            signal => Some(signal),
        }
    }

    fn join(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; a panic in it has been printed already.
            let _ = thread.join();
        }
    }

    /// Nobody is followed any more, nor waited for: what would end us does so where the last report finds no reader.
    pub fn stand_down(&self) {
        self.shared.over.store(true, Ordering::Release);
    }

    /// Asks to be woken soon, and again, as long as tasks are held.
    pub fn watch_held(&self, holding: bool) {
        self.shared.holding.store(holding, Ordering::Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.join();
    }
}

/// What the witness has told, and when.
type At = (Instant, Received);

/// A signal that we have got, and of which is not known yet whom else it was sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Undecided {
    since: Instant,
    received: Received,
    /// Whether the program led a process group of its own: then it has not got what our group was sent.
    is_elsewhere: bool,
}

/// Takes those out that the process group was sent, which `heard` tells.
fn take_the_groups(undecided: &mut Vec<Undecided>, heard: &mut VecDeque<At>) -> Vec<Undecided> {
    let is_the_groups = |one: &mut Undecided| {
        let Some(index) = heard.iter().position(|(_, heard)| *heard == one.received) else { return false };
        // Of the others one waits at a time: we may have got two as one, or one by one what somebody else got as one.
        if one.received.signal >= sys::REAL_TIME {
            heard.remove(index);
        }
        true
    };
    undecided.extract_if(.., is_the_groups).collect()
}

/// The thread that collects.
struct Collector<'a> {
    shared: &'a Shared,
    manners: Manners,
    set: SigSet,
    program: Option<ProgramGroup>,
    /// Who tells what the process group is sent; none where nobody can.
    witness: Option<Witness>,
    /// What it has told of late.
    heard: VecDeque<At>,
    undecided: Vec<Undecided>,
}

impl<'a> Collector<'a> {
    fn new(
        shared: &'a Shared,
        manners: Manners,
        program: Option<ProgramGroup>,
        witness: Option<Witness>,
    ) -> Collector<'a> {
        let set = collected(manners);
        Collector { shared, manners, set, program, witness, heard: VecDeque::new(), undecided: Vec::new() }
    }

    fn ask(&self, flags: u32) {
        self.shared.flags.fetch_or(flags, Ordering::AcqRel);
    }

    fn pass_on(&self, received: Received, is_for_group: bool) {
        let Received { signal, sender, value } = received;
        let is_ours_alone = self.witness.is_some() && !is_for_group;
        self.shared.add_signal(Sent { signal, sender, value, is_ours_alone, is_for_group });
        self.ask(FORWARD);
    }

    /// Takes the signals that have come, up to so many, and waits so long for the first.
    fn receive(&mut self, mut patience: Duration, most: usize) {
        for _ in 0..most {
            let Some(received) = sys::wait_signal(&self.set, patience) else { break };
            patience = Duration::ZERO;
            if self.shared.over.load(Ordering::Acquire) && WRITING.load(Ordering::Acquire) && ends_us(received.signal) {
                sys::end_by(received.signal);
            }
            if received.signal == Signal::SIGCONT as i32 {
                // As the kernel does with those that have not been taken.
                self.hear(false);
                self.undecided.retain(|one| !stops_job(one.received.signal));
                self.heard.retain(|(_, heard)| !stops_job(heard.signal));
                locked(&self.shared.signals).retain(|sent| !stops_job(sent.signal));
            }
            if self.manners == Manners::Launched && received.sender.is_none() && interrupts(received.signal) {
                self.shared.struck.store(received.signal, Ordering::Release);
                if self.shared.main_has_ended.load(Ordering::Acquire) {
                    // Those that are left have it, or are not of the terminal's.
                    self.ask(STOP);
                }
            }
            let is_elsewhere = self.program.as_ref().is_some_and(ProgramGroup::is_elsewhere);
            let meaning = meaning(received, self.manners);
            if (meaning & FORWARD != 0 || is_elsewhere) && !is_of_lookout(received) {
                self.undecided.push(Undecided { since: Instant::now(), received, is_elsewhere });
            }
            self.ask(meaning & !FORWARD);
        }
    }

    /// Listens to the witness: all that was sent before, or what it has told so far.
    fn hear(&mut self, all: bool) {
        let Some(witness) = &mut self.witness else { return };
        match if all { witness.hear() } else { witness.heard() } {
            Some(heard) => {
                let now = Instant::now();
                self.heard.extend(heard.into_iter().map(|heard| (now, heard)));
            }
            None => self.witness = None,
        }
    }

    /// Hands on what was sent to us alone, and what was sent to our process group when the program had left that.
    fn decide(&mut self) {
        let asked_at = Instant::now();
        let is_due = |one: &mut Undecided| one.since + FORWARD_AFTER <= asked_at;
        let any_due = self.undecided.iter_mut().any(is_due);
        let heard = self.heard.len();
        self.hear(any_due);
        if self.heard.len() - heard >= MUCH && !any_due {
            // It must not be kept from taking what it is sent: what waits counts against the user's limit (RLIMIT_SIGPENDING).
            self.hear(true);
        }
        if !self.heard.is_empty() {
            // All that was sent to us at the same time as what the witness has told is among the undecided ones then.
            self.receive(Duration::ZERO, MOST_WAITING);
        }
        for one in take_the_groups(&mut self.undecided, &mut self.heard) {
            // Otherwise the program has got it itself.
            if one.is_elsewhere {
                self.pass_on(one.received, true);
            }
        }
        self.heard.retain(|(since, _)| *since + FORWARD_AFTER > asked_at);
        // What has come since the witness was asked is for the next time.
        let alone: Vec<Undecided> = self.undecided.extract_if(.., is_due).collect();
        for Undecided { received, is_elsewhere, .. } in alone {
            if self.is_for_program(received, is_elsewhere) {
                self.pass_on(received, false);
            }
        }
    }

    /// Whether a signal that the witness has not told of is for the program.
    fn is_for_program(&self, received: Received, is_elsewhere: bool) -> bool {
        match received.sender {
            _ if meaning(received, self.manners) & FORWARD == 0 => false,
            None => true,
            // Without a witness: what a process of the program sends to its group it has got itself.
            Some(sender) if self.witness.is_some() || is_elsewhere => !is_own(sender),
            Some(sender) => !is_descendant(sender),
        }
    }

    /// Looks after the program's process group.
    fn look_after_program(&mut self) {
        let Some(program) = &mut self.program else { return };
        program.share_terminal();
        program.continue_early_askers();
        if program.seems_stopped() {
            self.ask(STANDS);
        }
    }
}

fn collect(mut collector: Collector<'_>, timers: Timers, waiter: sys::ThisThread) {
    let shared = collector.shared;
    let mut start = None;
    let mut next_report = timers.report_every;
    let mut next_status = timers.status_every;
    let mut stop_after = timers.stop_after;
    while !shared.done.load(Ordering::Acquire) {
        collector.receive(TICK, MOST_AT_ONCE);
        // Before it is told to go on.
        collector.look_after_program();
        collector.decide();
        if start.is_none() && shared.armed.load(Ordering::Acquire) {
            start = Some(Instant::now());
        }
        let elapsed = start.map_or(Duration::ZERO, |start| start.elapsed());
        if stop_after.is_some_and(|after| elapsed >= after) {
            stop_after = None;
            collector.ask(STOP);
        }
        for (due, every, flag) in
            [(&mut next_report, timers.report_every, REPORT), (&mut next_status, timers.status_every, STATUS)]
        {
            if let (Some(at), Some(every)) = (*due, every)
                && elapsed >= at
            {
                *due = Some((at + every).max(elapsed));
                collector.ask(flag);
            }
        }
        if shared.holding.load(Ordering::Relaxed) {
            collector.ask(HELD);
        }
        if shared.flags.load(Ordering::Acquire) != 0 {
            waiter.send(WAKE);
        }
    }
    // What was sent before the end was asked for.
    collector.receive(Duration::ZERO, MOST_WAITING);
}

/// Whether a report is being written.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Writes a report, for which there may be no reader.
pub fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(true, Ordering::Release);
    let result = write();
    WRITING.store(false, Ordering::Release);
    result
}

/// Whether a collected signal has no meaning of its own for us.
fn ends_us(signal: i32) -> bool {
    let is_harmless = matches!(Signal::try_from(signal), Ok(Signal::SIGCONT | Signal::SIGUSR1));
    !is_harmless && !stops_job(signal) && !is_left_alone(signal)
}

/// Whether a signal is that of a key which interrupts the job.
fn interrupts(signal: i32) -> bool {
    matches!(Signal::try_from(signal), Ok(Signal::SIGINT | Signal::SIGQUIT))
}

/// Whether a signal is for job control to stop the job, by a terminal's leave.
pub fn stops_job(signal: i32) -> bool {
    matches!(Signal::try_from(signal), Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))
}

/// What it asks for: flags.
fn meaning(received: Received, manners: Manners) -> u32 {
    use Signal::{SIGALRM, SIGCONT, SIGHUP, SIGUSR1};
    let signal = Signal::try_from(received.signal);
    let stops_job = stops_job(received.signal);
    match manners {
        _ if signal == Ok(SIGUSR1) => REPORT,
        // Whoever is attached to would wait for us.
        Manners::Attached if stops_job || signal == Ok(SIGCONT) => 0,
        Manners::Attached => STOP,
        Manners::Launched => {
            // What the terminal sends the program has got as well. Only of its going away it tells the session's leader alone
            // (drivers/tty, __tty_hangup). A timer may be from before our own execve (alarm(2)).
            let is_for_us = match (received.sender, signal) {
                (None, Ok(SIGHUP | SIGCONT)) => leads_session(),
                (None, signal) => signal == Ok(SIGALRM),
                (Some(_), _) => !is_of_lookout(received),
            };
            (if stops_job { SUSPEND } else { 0 }) | (if is_for_us { FORWARD } else { 0 })
        }
    }
}

/// Whether a signal is from who has watched over the program while we were stopped.
fn is_of_lookout(received: Received) -> bool {
    received.sender.is_some_and(lookout::is_last)
}

/// Whether a signal is from the program itself, for its parent, whose place we have taken.
fn is_own(sender: Pid) -> bool {
    task::status(sender.into()).is_ok_and(|status| status.parent == Pid(std::process::id() as i32))
}

/// Whether a process was made by us, or by one that was: what it sends to its process group it has got itself.
fn is_descendant(sender: Pid) -> bool {
    let own = std::process::id() as i32;
    const DEEPEST: usize = 100;
    let mut pid = sender;
    for _ in 0..DEEPEST {
        let Ok(status) = task::status(pid.into()) else { return false };
        if [Some(status.parent), status.tracer].contains(&Some(Pid(own))) {
            return true;
        }
        pid = status.parent;
    }
    false
}

fn leads_session() -> bool {
    nix::unistd::getsid(None) == Ok(nix::unistd::getpid())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = 15;
    const RT: i32 = 40;

    fn received(signal: i32, sender: i32) -> Received {
        Received { signal, sender: Some(Pid(sender)), value: None }
    }

    fn left(undecided: &[Received], heard: &[Received]) -> Vec<Received> {
        let since = Instant::now();
        let one = |received: &Received| Undecided { since, received: *received, is_elsewhere: false };
        let mut heard = heard.iter().map(|one| (since, *one)).collect();
        let mut undecided: Vec<Undecided> = undecided.iter().map(one).collect();
        let all = undecided.len();
        let taken = take_the_groups(&mut undecided, &mut heard);
        assert_eq!(taken.len() + undecided.len(), all);
        undecided.into_iter().map(|one| one.received).collect()
    }

    /// What the group was sent is nobody's to pass on; the rest is.
    #[test]
    fn what_the_group_was_sent_is_not_ours_alone() {
        let (term, other, rt) = (received(TERM, 7), received(TERM, 8), received(RT, 7));
        assert_eq!(left(&[term, other, rt], &[term]), [other, rt]);
        assert_eq!(left(&[term, rt], &[rt, term]), []);
        assert_eq!(left(&[Received { value: Some(1), ..rt }], &[rt]).len(), 1, "another value");
    }

    /// Ordinary signals may come as one here and one by one there; each real-time signal counts.
    #[test]
    fn real_time_signals_are_counted() {
        let (term, rt) = (received(TERM, 7), received(RT, 7));
        assert_eq!(left(&[term, term], &[term]), []);
        assert_eq!(left(&[term], &[term, term]), []);
        assert_eq!(left(&[rt, rt], &[rt]), [rt]);
    }
}
