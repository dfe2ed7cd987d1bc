//! Where the tracer runs: on the target's own processor, when that is faster.
//!
//! A stop on one processor that wakes the tracer on another costs both of them a trip through an idle state, and ptrace
//! waits until the target has left its processor. On one processor, a call that stops twice takes 23 µs instead of 54.
//! The target must not be pinned; and pinning the tracer alone does not help, for each restart then wakes the target
//! somewhere else, its processor being busy with the tracer. A tracer of SCHED_IDLE does not count as making it busy
//! (kernel/sched/fair.c, `sched_idle_cpu`), so that the target stays.
//!
//! Whether that is faster depends on what else runs, so it is tried, measured, and given up where it is not. SCHED_IDLE
//! also means that whoever else wants the processor gets it. A thread of normal priority therefore looks whether the
//! tracer starves, and frees it within some hundredths of a second; the next try comes much later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid as ThreadId;

use crate::procfs::task;
use crate::sys::{self, Policy};
use crate::units::Tid;

/// So many stops are measured at a time.
pub const WINDOW: u64 = 256;

/// Where so many stops take longer than this, their cost does not matter.
const WINDOW_OF_INTEREST: Duration = Duration::from_millis(50);

/// How often the guard looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A try has so many windows to be faster in, and what is slower for so many in a row is slower.
const PATIENCE: u32 = 6;

/// How long nothing is tried after a try that failed: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// Where the tracer runs.
#[derive(Debug)]
pub struct Placement {
    state: State,
    /// When the present window began.
    began: Instant,
    /// No try before this.
    not_before: Instant,
    pause: Duration,
    guard: Option<Guard>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not allowed to do anything.
    Fixed,
    /// Wherever the kernel likes; what a window took, if one was measured.
    Free(Option<Duration>),
    /// On this processor since so many windows; what one had taken before.
    Trying { cpu: usize, windows: u32, before: Duration },
    /// On this processor, which is faster; what a window takes, and how many in a row have taken much longer.
    Settled { cpu: usize, takes: Duration, slow: u32 },
}

/// Frees the tracer where it starves.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    tracer: Tid,
    /// The processors that the tracer may use.
    home: CpuSet,
    /// Counts up as the tracer gets on.
    beat: AtomicU64,
    settled: AtomicBool,
    starved: AtomicBool,
    done: AtomicBool,
}

impl Placement {
    /// The calling thread's, which is the tracer, or becomes it.
    pub fn new() -> Placement {
        let now = Instant::now();
        Placement { state: State::Free(None), began: now, not_before: now, pause: FIRST_PAUSE, guard: None }
    }

    /// The tracer gets on.
    pub fn beat(&self, stops: u64) {
        if let Some(guard) = &self.guard {
            guard.shared.beat.store(stops, Ordering::Relaxed);
        }
    }

    /// A window of stops is over, of which `tid`'s was the last.
    pub fn window(&mut self, tid: Tid) {
        if self.state == State::Fixed {
            return;
        }
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(&mut self.began, now));
        if self.guard.as_ref().is_some_and(|guard| guard.shared.starved.swap(false, Ordering::AcqRel)) {
            return self.give_up(now);
        }
        if took > WINDOW_OF_INTEREST {
            return self.free();
        }
        match self.state {
            State::Fixed => {}
            State::Free(None) => self.state = State::Free(Some(took)),
            State::Free(Some(before)) => {
                let before = before.min(took);
                self.state = State::Free(Some(before));
                if now >= self.not_before
                    && let Some(cpu) = task::last_cpu(tid)
                {
                    self.settle(cpu);
                    if self.state != State::Fixed {
                        self.state = State::Trying { cpu, windows: 0, before };
                    }
                }
            }
            // In the first window everybody finds his place.
            State::Trying { cpu, before, windows } if windows > 0 && took * 10 < before * 9 => {
                self.state = State::Settled { cpu, takes: took, slow: 0 };
                self.pause = FIRST_PAUSE;
            }
            State::Trying { cpu, before, windows } if windows < PATIENCE => {
                self.state = State::Trying { cpu, windows: windows + 1, before };
            }
            State::Trying { .. } => self.give_up(now),
            State::Settled { cpu, takes, slow } if took * 2 > takes * 3 => {
                // One long window is somebody else's work, or a target that has moved.
                if slow >= PATIENCE {
                    return self.give_up(now);
                }
                let target = task::last_cpu(tid).unwrap_or(cpu);
                if target != cpu {
                    self.settle(target);
                }
                if self.state != State::Fixed {
                    self.state = State::Settled { cpu: target, takes, slow: slow + 1 };
                }
            }
            State::Settled { cpu, takes, .. } => {
                self.state = State::Settled { cpu, takes: (takes * 7 + took) / 8, slow: 0 };
            }
        }
    }

    /// Lets the kernel choose again, and leaves it at that for a while.
    fn give_up(&mut self, now: Instant) {
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.free();
    }

    /// Lets the kernel choose again.
    pub fn free(&mut self) {
        if let Some(guard) = &self.guard {
            guard.shared.set_free();
        }
        if self.state != State::Fixed {
            self.state = State::Free(None);
        }
    }

    fn settle(&mut self, cpu: usize) {
        if self.guard.is_none() {
            self.guard = Guard::new();
        }
        let settled = self.guard.as_ref().and_then(|guard| guard.settle(cpu));
        if settled.is_none() {
            self.free();
            self.state = State::Fixed;
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.free();
        if let Some(guard) = self.guard.take() {
            guard.shared.done.store(true, Ordering::Release);
            guard.thread.thread().unpark();
            // It ends at once; a panic in it has been printed already.
            let _ = guard.thread.join();
        }
    }
}

impl Guard {
    /// None where the way back from SCHED_IDLE is barred: without CAP_SYS_NICE or RLIMIT_NICE it is one way (sched(7)). Nor where
    /// there can be no further thread, as beside a process that has made all that may be.
    fn new() -> Option<Guard> {
        let home = sched_getaffinity(ThreadId::from_raw(0)).ok()?;
        let there_and_back = || {
            sys::set_policy(sys::own_tid(), Policy::Idle).and_then(|()| sys::set_policy(sys::own_tid(), Policy::Normal))
        };
        std::thread::Builder::new().spawn(there_and_back).ok()?.join().ok()?.ok()?;
        let shared = Arc::new(Shared {
            tracer: sys::own_tid(),
            home,
            beat: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            done: AtomicBool::new(false),
        });
        let guarded = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn(move || guarded.watch()).ok()?;
        Some(Guard { shared, thread })
    }

    fn settle(&self, cpu: usize) -> Option<()> {
        let mut set = CpuSet::new();
        set.set(cpu).ok()?;
        let is_ours = self.shared.home.is_set(cpu).unwrap_or(false);
        self.shared.settled.store(true, Ordering::Release);
        self.thread.thread().unpark();
        sched_setaffinity(ThreadId::from_raw(0), if is_ours { &set } else { &self.shared.home }).ok()?;
        sys::set_policy(self.shared.tracer, Policy::Idle).ok()?;
        if !self.shared.settled.load(Ordering::Acquire) {
            // Freed already, and a moment too early.
            self.shared.settled.store(true, Ordering::Release);
            self.shared.set_free();
        }
        Some(())
    }
}

impl Shared {
    /// From either thread.
    fn set_free(&self) {
        if self.settled.swap(false, Ordering::AcqRel) {
            // Neither can fail: both were so before.
            let _ = sys::set_policy(self.tracer, Policy::Normal);
            let _ = sched_setaffinity(ThreadId::from_raw(self.tracer.0), &self.home);
        }
    }

    /// Looks, as long as the tracer is settled, whether it gets on.
    fn watch(&self) {
        let mut last = None;
        while !self.done.load(Ordering::Acquire) {
            if !self.settled.load(Ordering::Acquire) {
                last = None;
                std::thread::park();
                continue;
            }
            std::thread::sleep(LOOK_EVERY);
            let beat = self.beat.load(Ordering::Relaxed);
            // A tracer that waits for a stop sleeps, and does not starve.
            let wants_to_run = || task::activity(self.tracer).is_some_and(|activity| activity.wants_to_run);
            if last == Some(beat) && wants_to_run() {
                self.set_free();
                self.starved.store(true, Ordering::Release);
            }
            last = Some(beat);
        }
    }
}
