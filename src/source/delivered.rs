//! Signals that the launched process has been sent itself: one that goes to its whole process group reaches us too, and is not to
//! be passed on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::control::Sent;
use crate::units::Pid;

/// A signal that is sent to a process group reaches all of it at once; that of us is asked about a little later.
const WITHIN: Duration = Duration::from_secs(1);

/// So many are remembered.
const MOST: usize = 64;

/// Signals from processes that have come of late, the latest first.
#[derive(Debug, Default)]
pub struct Delivered(VecDeque<One>);

#[derive(Clone, Copy, Debug)]
struct One {
    at: Instant,
    signal: i32,
    sender: Pid,
}

impl Delivered {
    /// One has come at this time.
    pub fn add(&mut self, at: Instant, signal: i32, sender: Pid) {
        self.0.truncate(MOST - 1);
        self.0.push_front(One { at, signal, sender });
    }

    /// Whether one like this has come; counts once.
    pub fn take(&mut self, sent: Sent) -> bool {
        self.0.retain(|one| one.at.elapsed() < WITHIN);
        let found = self.0.iter().position(|one| (one.signal, Some(one.sender)) == (sent.signal, sent.sender));
        found.and_then(|index| self.0.remove(index)).is_some()
    }
}
