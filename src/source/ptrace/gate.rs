//! One call that changes mappings at a time in each address space.
//!
//! The order in which tracees report the ends of their calls is not the order in which the kernel did them: of four
//! threads that map and unmap, one mmap in twenty returns pages that another's munmap, not reported yet, has freed.
//! So a task that is about to make such a call waits at its entry until the one before has been reported.
//!
//! A call can block for long (memory of a hung file system, a fault that another held thread would serve). As long as it
//! does, others may go beside it; when it has returned they wait again, until the last of those that overlapped has, and what
//! has been mixed up is read from the kernel. Who has stopped at the end of its call, which we have not come to yet, does not
//! block.

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
    /// Calls have been inside at the same time, and not all have returned yet: their order is not known.
    overlapped: bool,
    /// None may go in.
    closed: bool,
    /// Tasks of the address space.
    pub members: u32,
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
        Gate { closed: true, ..Gate::default() }
    }

    /// A task wants to make a call that changes mappings: true if it may, otherwise it is to be held. `is_in_call` tells whether
    /// a task that was let in has not come to the end of its call yet; it is asked only of those that take long.
    pub fn enter(&mut self, tid: Tid, now: Instant, is_in_call: impl Fn(Tid) -> bool) -> bool {
        let may = self.may_enter(now, is_in_call);
        if may {
            self.let_in(tid, now);
        } else {
            self.held.push_back(tid);
        }
        may
    }

    fn may_enter(&self, now: Instant, is_in_call: impl Fn(Tid) -> bool) -> bool {
        let blocks = |(tid, since): &(Tid, Instant)| now.duration_since(*since) > PATIENCE && is_in_call(*tid);
        !self.closed && (self.inside.is_empty() || self.inside.iter().any(blocks))
    }

    fn let_in(&mut self, tid: Tid, now: Instant) {
        self.overlapped |= !self.inside.is_empty();
        self.inside.push((tid, now));
    }

    /// A task's call has returned, or the task is gone. None if it was not inside.
    pub fn leave(&mut self, tid: Tid) -> Option<Left> {
        self.held.retain(|held| *held != tid);
        let position = self.inside.iter().position(|(inside, _)| *inside == tid)?;
        self.inside.swap_remove(position);
        if self.inside.is_empty() && self.forget_overlap() {
            return Some(Left::OrderLost);
        }
        Some(Left::InOrder)
    }

    /// The next held task that may go now. It is inside from here on.
    pub fn admit(&mut self, now: Instant, is_in_call: impl Fn(Tid) -> bool) -> Option<Tid> {
        if !self.may_enter(now, is_in_call) {
            return None;
        }
        let tid = self.held.pop_front()?;
        self.let_in(tid, now);
        Some(tid)
    }

    /// Lets nobody in any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Lets one in at a time, after it was closed.
    pub fn open(&mut self) {
        self.closed = false;
    }

    /// Forgets who is inside or held: calls are not followed any more.
    pub fn clear(&mut self) {
        *self = Gate { members: self.members, ..Gate::default() };
    }

    /// Whether calls have overlapped of which not all have returned.
    pub fn has_overlap(&self) -> bool {
        self.overlapped
    }

    /// The same; from here on they are taken to have been in order.
    pub fn forget_overlap(&mut self) -> bool {
        std::mem::take(&mut self.overlapped)
    }

    /// Whether nobody but `tid` is inside, so that the model, brought up to date, can be compared with the kernel.
    pub fn is_settled(&self, tid: Option<Tid>) -> bool {
        !self.overlapped && self.inside.iter().all(|(inside, _)| Some(*inside) == tid)
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

    /// All are in their calls.
    fn blocks(_: Tid) -> bool {
        true
    }

    /// Tasks go in one by one, in the order in which they came.
    #[test]
    fn one_at_a_time() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        assert!(!gate.enter(B, now, blocks));
        assert!(!gate.enter(C, now, blocks));
        assert_eq!(gate.admit(now, blocks), None);
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.admit(now, blocks), Some(B));
        assert_eq!(gate.admit(now, blocks), None);
    }

    /// A task that dies while it is held is not let in.
    #[test]
    fn the_dead_are_forgotten() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        assert!(!gate.enter(B, now, blocks));
        assert!(!gate.enter(C, now, blocks));
        assert_eq!(gate.leave(B), None);
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.admit(now, blocks), Some(C));
    }

    /// Beside a call that blocks others go; once the last has returned the kernel is asked.
    #[test]
    fn patience_ends() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        assert!(!gate.enter(B, now, blocks));
        assert_eq!(gate.admit(now + PATIENCE, blocks), None);
        let later = now + 2 * PATIENCE;
        assert_eq!(gate.admit(later, blocks), Some(B));
        assert!(gate.enter(C, later, blocks));
        assert!(!gate.is_settled(Some(A)));
        assert_eq!(gate.leave(B), Some(Left::InOrder));
        assert_eq!(gate.leave(C), Some(Left::InOrder));
        assert!(!gate.is_settled(Some(A)));
        assert_eq!(gate.leave(A), Some(Left::OrderLost));
        assert!(gate.is_settled(None));
    }

    /// Who has only not been asked yet, although its call is over, blocks nobody.
    #[test]
    fn who_has_stopped_is_waited_for() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        let later = now + 2 * PATIENCE;
        assert!(!gate.enter(B, later, |tid| tid != A));
        assert_eq!(gate.admit(later, |tid| tid != A), None);
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.admit(later, blocks), Some(B));
    }

    /// When the call has returned that others did not have to wait for, one at a time goes again, however many there are.
    #[test]
    fn patience_comes_back() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        let later = now + 2 * PATIENCE;
        assert!(gate.enter(B, later, blocks));
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert!(!gate.enter(A, later, blocks));
        assert!(!gate.enter(C, later, blocks));
        assert_eq!(gate.leave(B), Some(Left::OrderLost));
        assert_eq!(gate.admit(later, blocks), Some(A));
        assert!(gate.is_settled(Some(A)));
        assert_eq!(gate.admit(later, blocks), None);
    }

    /// While it is closed nobody goes in.
    #[test]
    fn closed_and_opened_again() {
        let (mut gate, now) = (Gate::closed(), Instant::now());
        assert!(!gate.enter(A, now, blocks));
        assert_eq!(gate.admit(now, blocks), None);
        gate.open();
        assert_eq!(gate.admit(now, blocks), Some(A));
    }

    /// That the order was lost is not forgotten when it is closed.
    #[test]
    fn closed_while_calls_overlap() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.enter(A, now, blocks));
        assert!(gate.enter(B, now + 2 * PATIENCE, blocks));
        gate.close();
        assert!(!gate.enter(C, now + 2 * PATIENCE, blocks));
        assert_eq!(gate.leave(A), Some(Left::InOrder));
        assert_eq!(gate.leave(B), Some(Left::OrderLost));
    }
}
