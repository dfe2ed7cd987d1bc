//! One call that changes mappings at a time in each address space.
//!
//! The order in which tracees report the ends of their calls is not the order in which the kernel did them: of four
//! threads that map and unmap, one mmap in twenty returns pages that another's munmap, not reported yet, has freed.
//! So a task that is about to make such a call waits at its entry until the one before has been reported.
//!
//! A call can block for long (memory of a hung file system, a fault that another held thread would serve). Then the
//! gate opens for all, and what has been mixed up is read from the kernel once the last of them has returned.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::units::Tid;

/// How long others are held because of one call.
const PATIENCE: Duration = Duration::from_millis(100);

/// The gate of one address space.
#[derive(Debug, Default)]
pub struct Gate {
    /// Tasks in a call that changes mappings, and since when.
    inside: Vec<(Tid, Instant)>,
    /// Tasks that are held at the entry of one, in order.
    held: VecDeque<Tid>,
    mode: Mode,
    /// Tasks of the address space.
    pub members: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    /// One at a time.
    #[default]
    Serial,
    /// One has taken too long: all may go, and the order is lost.
    Open,
    /// None may go.
    Closed,
}

/// What follows from a task's leaving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// The order is known.
    InOrder,
    /// Calls have overlapped, and now all have returned: the kernel has to be asked.
    OrderLost,
}

impl Gate {
    /// A gate that lets nobody in.
    pub fn closed() -> Gate {
        Gate { mode: Mode::Closed, ..Gate::default() }
    }

    /// A task wants to make a call that changes mappings: true if it may, otherwise it is to be held.
    pub fn enter(&mut self, tid: Tid) -> bool {
        let may = self.may_enter();
        if may {
            self.inside.push((tid, Instant::now()));
        } else {
            self.held.push_back(tid);
        }
        may
    }

    fn may_enter(&self) -> bool {
        match self.mode {
            Mode::Serial => self.inside.is_empty(),
            Mode::Open => true,
            Mode::Closed => false,
        }
    }

    /// A task's call has returned, or the task is gone. None if it was not inside.
    pub fn leave(&mut self, tid: Tid) -> Option<Left> {
        self.held.retain(|held| *held != tid);
        let position = self.inside.iter().position(|(inside, _)| *inside == tid)?;
        self.inside.swap_remove(position);
        if self.mode == Mode::Open && self.inside.is_empty() {
            self.mode = Mode::Serial;
            return Some(Left::OrderLost);
        }
        Some(Left::InOrder)
    }

    /// The next held task that may go now. It is inside from here on.
    pub fn admit(&mut self) -> Option<Tid> {
        if !self.may_enter() {
            return None;
        }
        let tid = self.held.pop_front()?;
        self.inside.push((tid, Instant::now()));
        Some(tid)
    }

    /// Opens for all if somebody has been held for too long.
    pub fn lose_patience(&mut self, now: Instant) {
        let late = self.inside.iter().any(|(_, since)| now.duration_since(*since) > PATIENCE);
        if self.mode == Mode::Serial && !self.held.is_empty() && late {
            self.mode = Mode::Open;
        }
    }

    /// Lets nobody in any more.
    pub fn close(&mut self) {
        self.mode = Mode::Closed;
    }

    /// Lets one in at a time, after it was closed.
    pub fn open(&mut self) {
        self.mode = Mode::Serial;
    }

    /// Forgets who is inside or held: calls are not followed any more.
    pub fn clear(&mut self) {
        *self = Gate { members: self.members, ..Gate::default() };
    }

    /// Whether nobody but `tid` is inside, so that the model, brought up to date, can be compared with the kernel.
    pub fn is_settled(&self, tid: Option<Tid>) -> bool {
        self.mode != Mode::Open && self.inside.iter().all(|(inside, _)| Some(*inside) == tid)
    }

    /// Whether somebody is held.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tid = Tid(1);
    const B: Tid = Tid(2);
    const C: Tid = Tid(3);

    /// Tasks go in one by one, in the order in which they came.
    #[test]
    fn one_at_a_time() {
        let mut gate = Gate::default();
        assert!(gate.enter(A));
        assert!(!gate.enter(B));
        assert!(!gate.enter(C));
        assert_eq!(gate.admit(), None);
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.admit(), Some(B));
        assert_eq!(gate.admit(), None);
    }

    /// A task that dies while it is held is not let in.
    #[test]
    fn the_dead_are_forgotten() {
        let mut gate = Gate::default();
        assert!(gate.enter(A));
        assert!(!gate.enter(B));
        assert!(!gate.enter(C));
        assert_eq!(gate.leave(B), None);
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.admit(), Some(C));
    }

    /// Behind a call that blocks all go, and once the last has returned the kernel is asked.
    #[test]
    fn patience_ends() {
        let mut gate = Gate::default();
        assert!(gate.enter(A));
        assert!(!gate.enter(B));
        gate.lose_patience(Instant::now());
        assert_eq!(gate.admit(), None);
        gate.lose_patience(Instant::now() + 2 * PATIENCE);
        assert_eq!(gate.admit(), Some(B));
        assert!(gate.enter(C));
        assert!(!gate.is_settled(Some(A)));
        assert_eq!(gate.leave(B), Some(Left::InOrder));
        assert_eq!(gate.leave(C), Some(Left::InOrder));
        assert_eq!(gate.leave(A), Some(Left::OrderLost));
        assert!(gate.is_settled(None));
    }

    /// While it is closed nobody goes in.
    #[test]
    fn closed_and_opened_again() {
        let mut gate = Gate::closed();
        assert!(!gate.enter(A));
        assert_eq!(gate.admit(), None);
        gate.open();
        assert_eq!(gate.admit(), Some(A));
    }
}
