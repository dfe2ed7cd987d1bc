//! Which status is dealt with next.

use nix::errno::Errno;

use super::Ptrace;
use super::stop::Stop;
use crate::sys::{self, Status, Wait};
use crate::units::Tid;

/// So many stops are dispatched as wait tells them, before all that there are are collected.
const MOST_IN_A_ROW: u32 = 32;

/// So many statuses are collected before they are dispatched.
const MOST_READY: usize = 256;

impl Ptrace {
    /// The next status to be dispatched; none when it is out of date, or has been dealt with already.
    ///
    /// A status that was looked at stays in place while it is dispatched, and the restart replaces it: one wait for each
    /// stop. Only where the task stays stopped does the status have to be taken, lest wait tell of it again.
    ///
    /// Wait always tells of the first task in the kernel's list that has something to tell: left to it, a few busy tasks
    /// would keep all others stopped. So once in a while all that there is is collected first, and then dispatched in turn.
    /// A signal on its way is not collected but passed on at once, for the status must not be taken while it holds the signal.
    pub(super) fn next_status(&mut self) -> Result<Option<(Tid, Status)>, Errno> {
        if let Some((tid, status)) = self.ready.pop_front() {
            // What has been killed since has something newer to tell, and is not where its status says.
            let is_current =
                !matches!(status, Status::Stopped(_)) || sys::peek_status_of(tid).is_ok_and(|newer| newer.is_none());
            return Ok(is_current.then_some((tid, status)));
        }
        self.take_looked_at();
        if let Some(newer) = self.ready.pop_front() {
            return Ok(Some(newer));
        }
        if self.in_a_row < MOST_IN_A_ROW || self.tracees.len() == 1 {
            self.in_a_row += 1;
            self.looked_at = sys::peek_status(Wait::Block)?;
            return Ok(self.looked_at);
        }
        self.in_a_row = 0;
        match self.collect(Wait::Block, MOST_READY) {
            Err(errno) if self.ready.is_empty() => Err(errno),
            _ => Ok(self.ready.pop_front()),
        }
    }

    /// Takes the statuses that there are, up to so many, and passes signals on.
    pub(super) fn collect(&mut self, mut wait: Wait, most: usize) -> Result<(), Errno> {
        for _ in 0..most {
            match sys::peek_status(wait)? {
                Some((tid, status)) if self.is_signal_for(tid, status) => self.dispatch(tid, status),
                Some((tid, _)) => {
                    if let Ok(Some(status)) = sys::take_status(tid) {
                        self.ready.push_back((tid, status));
                    }
                }
                None => break,
            }
            wait = Wait::Poll;
        }
        Ok(())
    }

    /// Takes the status that was looked at last, if its task has not gone on since.
    pub(super) fn take_looked_at(&mut self) {
        let Some((tid, status)) = self.looked_at.take() else { return };
        if let Ok(Some(taken)) = sys::take_status(tid)
            && taken != status
        {
            // It was killed meanwhile.
            self.ready.push_back((tid, taken));
        }
    }

    fn is_signal_for(&self, tid: Tid, status: Status) -> bool {
        let Status::Stopped(status) = status else { return false };
        matches!(Stop::from_status(status), Stop::Signal(_)) && self.tracees.contains_key(&tid)
    }
}
