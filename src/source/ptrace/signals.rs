//! What processes send to the main one: a signal to all of its process group reaches us too, and is not to be passed on.

use std::time::Instant;

use super::statuses::MOST_READY;
use super::{Ptrace, gone};
use crate::procfs::task;
use crate::source::control::Sent;
use crate::sys::{self, Wait};
use crate::units::{Pid, Tid};

/// SIGRTMIN of the kernel.
const REAL_TIME: i32 = 32;

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
        if self.main.delivered.take(sent) {
            return true;
        }
        // One that is held off is not queued twice, unless it is a real-time one.
        if sent.signal < REAL_TIME && task::is_pending(self.main.pid, sent.signal) {
            return true;
        }
        // Who gets it now has stopped for it: the kernel takes a signal from those that are pending and stops the task at once.
        self.take_looked_at();
        let most = MOST_READY + self.tracees.len();
        self.collect(Wait::Poll, most).is_ok() && self.main.delivered.take(sent)
    }
}
