//! Who takes hold of the memory of new images, in a thread that does nothing else: a program may live for milliseconds, and
//! the follower may be busy for longer than that.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::kept::{self, Kept};
use super::look::Image;
use super::points;
use super::record::What;
use super::rings::Rings;
use crate::procfs::task;
use crate::sys::perf::{preempt, wait_readable};
use crate::units::Pid;

/// How often it looks whether it is to end.
const IDLE: Duration = Duration::from_millis(50);

/// A program that a followed process has executed, or one that it has forked.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) pid: Pid,
    /// A reading of it.
    pub(super) image: Image,
    /// Its memory, where that could be held.
    pub(super) kept: Option<Kept>,
}

impl Seen {
    /// What a process runs now, whose memory is held if `to_hold`; none where it is gone. Memory first: what is held does not
    /// go away.
    pub(super) fn now(pid: Pid, is_i386: bool, to_hold: bool) -> Option<Seen> {
        let kept = if is_i386 || !to_hold { None } else { kept::take(pid.into()) };
        let image = Image::read(pid.into(), is_i386, kept.as_ref());
        (!image.new.maps.is_empty()).then_some(Seen { pid, image, kept })
    }
}

/// The thread, and what it has seen.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The followed processes.
    followed: Mutex<HashSet<Pid>>,
    seen: Mutex<Vec<Seen>>,
    /// Locked while memory is taken hold of, before `seen`.
    holding: Mutex<()>,
    /// Of how many processes the follower keeps memory.
    kept: AtomicUsize,
    done: AtomicBool,
}

impl Shared {
    /// Whether the memory of one more process can be held.
    fn has_room(&self) -> bool {
        kept::is_room(self.kept.load(Ordering::Relaxed) + locked(&self.seen).len())
    }
}

impl Keeper {
    /// Looks out for what the followed processes execute. Where that cannot be, nothing is ever seen.
    pub(super) fn start() -> Keeper {
        let shared = Arc::<Shared>::default();
        let thread = Rings::of_one(points::execve()).ok().and_then(|rings| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("keeper".to_owned()).spawn(move || watch(rings, &shared)).ok()
        });
        Keeper { shared, thread }
    }

    /// These processes are followed now.
    pub(super) fn follow(&self, processes: impl Iterator<Item = Pid>) {
        *locked(&self.shared.followed) = processes.collect();
    }

    /// What was seen since this was last asked, in order. `kept` is of how many processes memory is kept already.
    pub(super) fn take(&self, kept: usize) -> Vec<Seen> {
        let seen = std::mem::take(&mut *locked(&self.shared.seen));
        self.shared.kept.store(kept + seen.iter().filter(|one| one.kept.is_some()).count(), Ordering::Relaxed);
        seen
    }

    /// No memory is taken hold of while this is kept.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        locked(&self.shared.holding)
    }

    /// What was seen since it was last taken.
    pub(super) fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        locked(&self.shared.seen)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(mut rings: Rings, shared: &Shared) {
    preempt();
    let files = rings.files();
    let mut executed = Vec::new();
    while !shared.done.load(Ordering::Acquire) {
        wait_readable(&files, IDLE);
        rings.drain(|record| {
            if let What::Executed { is_i386, .. } = record.what {
                executed.push((record.pid, is_i386));
            }
        });
        for (pid, is_i386) in executed.drain(..) {
            if !is_followed(&locked(&shared.followed), pid) {
                continue;
            }
            let holding = locked(&shared.holding);
            let seen = Seen::now(pid, is_i386, shared.has_room());
            locked(&shared.seen).extend(seen);
            drop(holding);
        }
    }
}

/// Whether a process is followed, or was forked by one that is so recently that nobody has told.
fn is_followed(followed: &HashSet<Pid>, pid: Pid) -> bool {
    /// Shells that run shells: so many forks are told late.
    const MOST_STEPS: u32 = 4;
    let mut ancestor = pid;
    for _ in 0..MOST_STEPS {
        if followed.contains(&ancestor) {
            return true;
        }
        match task::status(ancestor.into()) {
            Ok(status) => ancestor = status.parent,
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the follower keeps and what it has not taken over yet count together.
    #[test]
    fn what_is_held_is_bounded() {
        let keeper = Keeper { shared: Arc::default(), thread: None };
        let most = (0..).find(|held| !kept::is_room(*held)).unwrap();
        keeper.take(most - 1);
        assert!(keeper.shared.has_room());
        let seen = Seen { pid: Pid(1), image: Image::unseen(false), kept: None };
        keeper.seen().push(seen);
        assert!(!keeper.shared.has_room());
        keeper.take(most - 1);
        assert!(keeper.shared.has_room());
        keeper.take(most);
        assert!(!keeper.shared.has_room());
    }
}
