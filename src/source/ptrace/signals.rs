//! What processes send to the main one: a signal to all of its process group reaches us too, and is not to be passed on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::statuses::MOST_READY;
use super::{Ptrace, gone};
use crate::procfs::task;
use crate::source::control::Sent;
use crate::sys::{self, Wait};
use crate::units::{Pid, Tid};

/// A signal that is sent to a process group reaches all of it at once; that of us is asked about a little later.
const WITHIN: Duration = Duration::from_secs(1);

/// So many are remembered.
const MOST: usize = 64;

/// Signals from processes that have come of late, the latest first.
#[derive(Debug, Default)]
pub(super) struct Delivered(VecDeque<One>);

#[derive(Clone, Copy, Debug)]
struct One {
    at: Instant,
    signal: i32,
    sender: Pid,
}

impl Delivered {
    /// One has come.
    fn add(&mut self, at: Instant, signal: i32, sender: Pid) {
        self.0.truncate(MOST - 1);
        self.0.push_front(One { at, signal, sender });
    }

    /// Whether one like this has come of late; counts once.
    fn take(&mut self, now: Instant, sent: Sent) -> bool {
        self.0.retain(|one| now.saturating_duration_since(one.at) < WITHIN);
        let found = self.0.iter().position(|one| (one.signal, Some(one.sender)) == (sent.signal, sent.sender));
        found.and_then(|index| self.0.remove(index)).is_some()
    }
}

impl Ptrace {
    /// Remembers what processes send to the main one.
    pub(super) fn see_delivered(&mut self, tid: Tid, signal: i32) {
        let is_main = self.tracees.get(&tid).is_some_and(|tracee| tracee.pid == self.main.pid);
        if is_main && let Some(Some(sender)) = gone(sys::signal_sender(tid)) {
            self.main.delivered.add(Instant::now(), signal, Pid(sender));
        }
    }

    /// Whether the main process, which lives, has got, or will get, what was sent to us too.
    pub(super) fn main_has_got(&mut self, sent: Sent) -> bool {
        if self.main.delivered.take(Instant::now(), sent) {
            return true;
        }
        // One that is held off is not queued twice, unless it is a real-time one.
        if sent.signal < sys::REAL_TIME && task::is_pending(self.main.pid, sent.signal) {
            return true;
        }
        // Who gets it now has stopped for it: the kernel takes a signal from those that are pending and stops the task at once.
        self.take_looked_at();
        let most = MOST_READY + self.tracees.len();
        self.collect(Wait::Poll, most).is_ok() && self.main.delivered.take(Instant::now(), sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Pid = Pid(7);

    fn sent(signal: i32, sender: Option<Pid>) -> Sent {
        Sent { signal, sender, value: None, is_ours_alone: false }
    }

    /// Each counts once, for a signal of this number by this process, and not for ever.
    #[test]
    fn each_counts_once() {
        let now = Instant::now();
        let mut delivered = Delivered::default();
        for signal in [15, 12, 15, 10] {
            delivered.add(now, signal, SHELL);
        }
        for (signal, sender, counts) in [
            (15, Some(Pid(8)), false),
            (1, Some(SHELL), false),
            (15, None, false),
            (15, Some(SHELL), true),
            (15, Some(SHELL), true),
            (15, Some(SHELL), false),
            (12, Some(SHELL), true),
        ] {
            assert_eq!(delivered.take(now, sent(signal, sender)), counts, "{signal} {sender:?}");
        }
        assert!(!delivered.take(now + WITHIN, sent(10, Some(SHELL))), "it came too long ago");
    }

    /// A process that sends without end takes no more memory, and the latest are known.
    #[test]
    fn only_the_latest_are_remembered() {
        let now = Instant::now();
        let mut delivered = Delivered::default();
        for signal in 0..1000 {
            delivered.add(now, signal, SHELL);
        }
        let mut take = |signal| delivered.take(now, sent(signal, Some(SHELL)));
        assert!(take(999) && take(1000 - MOST as i32) && !take(999 - MOST as i32));
    }
}
