//! Signals that the launched process has been sent itself: one that goes to its whole process group reaches us too, and is not to
//! be passed on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::procfs::task;
use crate::source::control::Sent;
use crate::units::Pid;

/// A signal that is sent to a process group reaches all of it at once; that of us is asked about a little later.
const WITHIN: Duration = Duration::from_secs(1);

/// So many are remembered.
const MOST: usize = 64;

/// SIGRTMIN of the kernel.
const REAL_TIME: i32 = 32;

/// Signals from processes that were delivered of late, the latest first.
#[derive(Debug, Default)]
pub(super) struct Delivered(VecDeque<(Instant, Sent)>);

impl Delivered {
    /// One is.
    pub(super) fn add(&mut self, sent: Sent) {
        self.0.truncate(MOST - 1);
        self.0.push_front((Instant::now(), sent));
    }

    /// Whether a live process has got, or will get, what was sent to us too.
    pub(super) fn has(&mut self, sent: &Sent, process: Pid) -> bool {
        self.0.retain(|(since, _)| since.elapsed() < WITHIN);
        if let Some(index) = self.0.iter().position(|(_, seen)| seen == sent) {
            self.0.remove(index);
            return true;
        }
        // One that is held off is not queued twice, unless it is a real-time one.
        sent.signal < REAL_TIME && task::is_pending(process, sent.signal)
    }
}
