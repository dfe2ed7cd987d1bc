//! Requests that come from outside while the source waits: signals, timers, and the source's own need to look up.
//!
//! The source blocks in wait, which nothing but a signal ends. One thread collects all that may be asked, sets a flag,
//! and sends the waiting thread a signal until the flag has been read: a signal that comes a moment before the wait
//! begins would be lost otherwise. The event path pays one atomic load.

mod collector;
mod meaning;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::group::ProgramGroup;
use crate::sys;
use crate::sys::witness::Witness;
use crate::units::Pid;
use collector::{Collector, collect};
use meaning::collected;

pub use meaning::stops_job;

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
    /// We have been told to go on: what was to stop the job before that is out of date.
    pub continued: bool,
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
const CONTINUED: u32 = 128;

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
    /// How often the thread has taken what there was.
    rounds: AtomicU64,
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
            continued: flags & CONTINUED != 0,
            seems_stopped: flags & STANDS != 0,
            look_after_held: flags & HELD != 0,
            signals: if flags & FORWARD != 0 { self.shared.take_signals() } else { Vec::new() },
        }
    }

    /// Whether we have been told to go on, and that has not been taken so far. Waits until all is known that was sent before the
    /// call: who has been stopped, and goes on, may run before it is known why.
    pub fn is_continued(&self) -> bool {
        /// The thread may wait for the witness as well.
        const WITHIN: Duration = Duration::from_millis(200);
        let (begin, before) = (Instant::now(), self.shared.rounds.load(Ordering::Acquire));
        // One round may have been under way.
        while self.thread.is_some()
            && self.shared.rounds.load(Ordering::Acquire) < before + 2
            && begin.elapsed() < WITHIN
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.flags.load(Ordering::Acquire) & CONTINUED != 0
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

/// Whether a report is being written.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Writes a report, for which there may be no reader.
pub fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(true, Ordering::Release);
    let result = write();
    WRITING.store(false, Ordering::Release);
    result
}
