//! Requests that come from outside while the source waits: signals, timers, and the source's own need to look up.
//!
//! The source blocks in wait, which nothing but a signal ends. One thread collects all that may be asked, sets a flag,
//! and sends the waiting thread a signal until the flag has been read: a signal that comes a moment before the wait
//! begins would be lost otherwise. The event path pays one atomic load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::perf::sent::SentSignals;
use crate::procfs::task;
use crate::sys::{self, perf::monotonic_ns};
use crate::units::Pid;

/// How often the thread looks after things that have no signal of their own.
const TICK: Duration = Duration::from_millis(20);

/// A signal may have been sent to all of the process group, and then the program gets it itself meanwhile, which its source may
/// see.
const FORWARD_AFTER: Duration = Duration::from_millis(20);

/// When it is watched what a launched program is sent, unless it was from the first moment on.
const WATCH_AFTER: Duration = Duration::from_millis(200);

/// So many signals are taken before something is done.
const MOST_AT_ONCE: usize = 256;

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
    /// Whether it is known that the program has not been sent it itself.
    pub is_ours_alone: bool,
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

#[derive(Debug, Default)]
struct Shared {
    flags: AtomicU32,
    signals: Mutex<Vec<Sent>>,
    /// Whether the source holds tasks, and wants to be woken for it at every tick.
    holding: AtomicBool,
    /// The launched program, where it is to be watched what that is sent; 0 where not.
    main: AtomicI32,
    /// Who watches it from the first moment on.
    watched: Mutex<Option<SentSignals>>,
    /// Whether timers run.
    armed: AtomicBool,
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
pub fn block_signals() -> Result<SigSet, Errno> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&collected()), Some(&mut before))?;
    Ok(before)
}

/// Those that we act on, and all others that would end us, and with us what is followed: a program may send any to its process
/// group, where we are too.
fn collected() -> SigSet {
    use Signal::{SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1};
    const LAST: i32 = 64;
    let ours = [SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1].map(|signal| signal as i32);
    // Whoever wants to outlive the session, or something else, says so: nohup(1).
    let deadly = (1..=LAST).filter(|signal| !is_left_alone(*signal) && !sys::is_ignored(*signal));
    sys::signal_set(ours.into_iter().chain(deadly))
}

/// Whether a signal ends nobody by default, cannot be held off, tells of a fault of our own, or is dealt with elsewhere
/// (WAKE, SIGPIPE, and those of resource limits).
fn is_left_alone(signal: i32) -> bool {
    use Signal::{
        SIGABRT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGKILL, SIGPIPE, SIGSEGV, SIGSTOP, SIGSYS, SIGTRAP,
        SIGWINCH, SIGXCPU, SIGXFSZ,
    };
    let others = [SIGCHLD, SIGCONT, SIGKILL, SIGPIPE, SIGSTOP, SIGWINCH, SIGXCPU, SIGXFSZ, WAKE];
    let faults = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP];
    Signal::try_from(signal).is_ok_and(|signal| others.contains(&signal) || faults.contains(&signal))
}

impl Control {
    /// Collects nothing before [`Control::start`]; timers run from [`Control::arm`] on.
    pub fn new(manners: Manners) -> Control {
        Control { shared: Arc::default(), thread: None, manners }
    }

    /// Starts to collect, for the calling thread, which must be the one that waits.
    pub fn start(&mut self, timers: Timers) -> std::io::Result<()> {
        sys::interrupt_calls_on(WAKE)?;
        let shared = Arc::clone(&self.shared);
        let (manners, waiter) = (self.manners, sys::ThisThread::current());
        let mut blocked = SigSet::empty();
        blocked.add(WAKE);
        // The new thread must not take the wake-ups itself.
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        let spawned = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || collect(&shared, manners, timers, waiter));
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&blocked), None)?;
        self.thread = Some(spawned?);
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
            look_after_held: flags & HELD != 0,
            signals: if flags & FORWARD != 0 { self.shared.take_signals() } else { Vec::new() },
        }
    }

    /// Nobody is followed any more, nor waited for: what would end us does so where the last report finds no reader.
    pub fn stand_down(&self) {
        self.shared.over.store(true, Ordering::Release);
    }

    /// Passes on only what this process has not been sent itself, as far as that can be seen: by `sent`, or by somebody else who
    /// comes a little later, for to come and to go costs more than many programs last.
    pub fn watch_signals(&self, main: Pid, sent: Option<SentSignals>) {
        *locked(&self.shared.watched) = sent;
        self.shared.main.store(main.0, Ordering::Release);
    }

    /// Asks to be woken soon, and again, as long as tasks are held.
    pub fn watch_held(&self, holding: bool) {
        self.shared.holding.store(holding, Ordering::Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; a panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

/// What the launched program is sent.
#[derive(Default)]
struct WatchOfSignals {
    sent: Option<SentSignals>,
    is_late: bool,
    began: Option<Instant>,
}

impl WatchOfSignals {
    /// Begins when it is time to, and reads.
    fn look(&mut self, shared: &Shared) {
        if let Some(sent) = locked(&shared.watched).take() {
            self.sent = Some(sent);
        }
        let main = Pid(shared.main.load(Ordering::Acquire));
        if main.0 != 0 && !self.is_late {
            let began = *self.began.get_or_insert_with(Instant::now);
            self.is_late = began.elapsed() >= WATCH_AFTER;
            if self.is_late && self.sent.is_none() {
                // Where perf events are not permitted, the source alone can tell.
                self.sent = SentSignals::to(main).ok();
            }
        }
        if let Some(sent) = &mut self.sent {
            sent.read();
        }
    }
}

fn collect(shared: &Shared, manners: Manners, timers: Timers, waiter: sys::ThisThread) {
    let set = collected();
    let mut start = None;
    let mut next_report = timers.report_every;
    let mut next_status = timers.status_every;
    let mut stop_after = timers.stop_after;
    let mut forwarded: VecDeque<(Instant, Sent)> = VecDeque::new();
    let mut watch = WatchOfSignals::default();
    let ask = |flag: u32| shared.flags.fetch_or(flag, Ordering::AcqRel);
    while !shared.done.load(Ordering::Acquire) {
        let mut patience = TICK;
        for _ in 0..MOST_AT_ONCE {
            let Some(received) = sys::wait_signal(&set, patience) else { break };
            patience = Duration::ZERO;
            if shared.over.load(Ordering::Acquire) && WRITING.load(Ordering::Acquire) && ends_us(received.signal) {
                sys::end_by(received.signal);
            }
            if received.signal == Signal::SIGCONT as i32 {
                // As the kernel does with those that have not been taken.
                forwarded.retain(|(_, sent)| !stops_job(sent.signal));
                locked(&shared.signals).retain(|sent| !stops_job(sent.signal));
            }
            let meaning = meaning(received, manners);
            if meaning & FORWARD != 0 {
                let sys::Received { signal, sender, value } = received;
                forwarded.push_back((Instant::now(), Sent { signal, sender, value, is_ours_alone: false }));
            }
            ask(meaning & !FORWARD);
        }
        watch.look(shared);
        while let Some((since, mut sent)) = forwarded.pop_front_if(|(since, _)| since.elapsed() >= FORWARD_AFTER) {
            let received_at = monotonic_ns().saturating_sub(since.elapsed().as_nanos() as u64);
            let is_for_both = watch.sent.as_mut().and_then(|watched| watched.is_for_both(sent, received_at));
            if is_for_both != Some(true) {
                sent.is_ours_alone = is_for_both == Some(false);
                shared.add_signal(sent);
                ask(FORWARD);
            }
        }
        if start.is_none() && shared.armed.load(Ordering::Acquire) {
            start = Some(Instant::now());
        }
        let elapsed = start.map_or(Duration::ZERO, |start| start.elapsed());
        if stop_after.is_some_and(|after| elapsed >= after) {
            stop_after = None;
            ask(STOP);
        }
        for (due, every, flag) in
            [(&mut next_report, timers.report_every, REPORT), (&mut next_status, timers.status_every, STATUS)]
        {
            if let (Some(at), Some(every)) = (*due, every)
                && elapsed >= at
            {
                *due = Some((at + every).max(elapsed));
                ask(flag);
            }
        }
        if shared.holding.load(Ordering::Relaxed) {
            ask(HELD);
        }
        if shared.flags.load(Ordering::Acquire) != 0 {
            waiter.send(WAKE);
        }
    }
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
    !stops_job(signal) && !matches!(Signal::try_from(signal), Ok(Signal::SIGCONT | Signal::SIGUSR1))
}

/// Whether a signal is for job control to stop the job, by a terminal's leave.
pub fn stops_job(signal: i32) -> bool {
    matches!(Signal::try_from(signal), Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))
}

/// What it asks for: flags.
fn meaning(received: sys::Received, manners: Manners) -> u32 {
    use Signal::{SIGCONT, SIGHUP, SIGUSR1};
    let signal = Signal::try_from(received.signal);
    let stops_job = stops_job(received.signal);
    match manners {
        _ if signal == Ok(SIGUSR1) => REPORT,
        // Whoever is attached to would wait for us.
        Manners::Attached if stops_job || signal == Ok(SIGCONT) => 0,
        Manners::Attached => STOP,
        Manners::Launched => {
            // What the terminal sends the program has got as well. Only of its going away it tells the session's leader alone
            // (drivers/tty, __tty_hangup).
            let is_for_us = match received.sender {
                Some(sender) => !is_descendant(sender),
                None => signal == Ok(SIGHUP) && leads_session(),
            };
            (if stops_job { SUSPEND } else { 0 }) | (if is_for_us { FORWARD } else { 0 })
        }
    }
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
