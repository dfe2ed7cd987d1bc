//! Signals that processes send to a launched program and to us, by the tracepoint of the sending: it shows whether one was for all
//! of the process group, also where nobody traces the program, or it takes signals without being stopped for them (sigwait(3),
//! signalfd(2)).

use std::collections::VecDeque;

use super::points;
use super::record::What;
use super::rings::{PerfError, Rings};
use crate::source::control::Sent;
use crate::sys;
use crate::units::Pid;

/// One call sends to all members of a group, without being interrupted: within so many nanoseconds.
const AT_ONCE: u64 = 5_000_000;

/// So many are remembered, of each of the two.
const MOST: usize = 1024;

/// What has been sent of late to a launched process, and to this one.
#[derive(Debug)]
pub struct SentSignals {
    rings: Rings,
    main: Pid,
    to_main: Sendings,
    to_us: Sendings,
}

#[derive(Debug, Default)]
struct Sendings(VecDeque<Sending>);

#[derive(Clone, Copy, Debug)]
struct Sending {
    /// In nanoseconds of CLOCK_MONOTONIC.
    at: u64,
    signal: i32,
    sender: Pid,
}

impl Sendings {
    fn add(&mut self, sending: Sending) {
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(sending);
    }

    /// One that is like this; counts once.
    fn take(&mut self, is_it: impl FnMut(&Sending) -> bool) -> Option<Sending> {
        let index = self.0.iter().position(is_it)?;
        self.0.remove(index)
    }

    /// That which came as this signal, taken at this time.
    fn take_received(&mut self, sent: Sent, received_at: u64) -> Option<Sending> {
        if sent.signal >= sys::REAL_TIME {
            return self.take(|sending| sending.is(sent));
        }
        // One of a kind waits at a time, and what was sent before was taken before, or discarded by SIGCONT.
        let found = *self.0.iter().rfind(|sending| sending.is(sent) && sending.at <= received_at)?;
        self.0.retain(|sending| !sending.is(sent) || sending.at > found.at);
        Some(found)
    }
}

impl Sending {
    fn is(&self, sent: Sent) -> bool {
        (self.signal, Some(self.sender)) == (sent.signal, sent.sender)
    }
}

impl SentSignals {
    /// Watches from now on what is sent to a process and to us.
    ///
    /// # Errors
    /// Why perf events cannot be had.
    pub fn to(main: Pid) -> Result<SentSignals, PerfError> {
        let own = Pid(std::process::id() as i32);
        let rings = Rings::of_one(points::sent_to([main, own]))?;
        Ok(SentSignals { rings, main, to_main: Sendings::default(), to_us: Sendings::default() })
    }

    /// Reads what there is. To be called often: the rings are small.
    pub fn read(&mut self) {
        let SentSignals { rings, main, to_main, to_us } = self;
        let mut read = Vec::new();
        rings.drain(|record| {
            if let What::Sent { signal, to, merged } = record.what {
                read.push((Sending { at: record.at, signal, sender: record.pid }, to, merged));
            }
        });
        // Those of one processor come in order, and processes move.
        read.sort_by_key(|(sending, ..)| sending.at);
        for (sending, to, merged) in read {
            match to == *main {
                true => to_main.add(sending),
                // We get the two as one.
                false if merged => {}
                false => to_us.add(sending),
            }
        }
    }

    /// Whether what we have got, at this time of CLOCK_MONOTONIC in nanoseconds, was sent to the process as well; none where its
    /// sending was not seen. After [`SentSignals::read`], once for each signal that comes, in turn.
    pub fn is_for_both(&mut self, sent: Sent, received_at: u64) -> Option<bool> {
        let at = self.to_us.take_received(sent, received_at)?.at;
        Some(self.to_main.take(|sending| sending.is(sent) && sending.at.abs_diff(at) <= AT_ONCE).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Pid = Pid(7);

    fn watched(sendings: &[(u64, i32, bool)]) -> SentSignals {
        let (mut to_main, mut to_us) = (Sendings::default(), Sendings::default());
        for (at, signal, is_for_both) in sendings {
            let sending = Sending { at: *at, signal: *signal, sender: SHELL };
            to_us.add(sending);
            if *is_for_both {
                to_main.add(Sending { at: at + 900, ..sending });
            }
        }
        SentSignals { rings: Rings::none(), main: Pid(2), to_main, to_us }
    }

    fn sent(signal: i32, sender: Pid) -> Sent {
        Sent { signal, sender: Some(sender), value: None, is_ours_alone: false }
    }

    const MS: u64 = 1_000_000;

    /// Each is told by its own sending, whatever was sent before and after by the same process.
    #[test]
    fn one_by_one() {
        const TERM: i32 = 15;
        let mut watched = watched(&[(0, TERM, false), (50 * MS, TERM, true), (100 * MS, 12, false)]);
        assert_eq!(watched.is_for_both(sent(TERM, SHELL), MS), Some(false));
        assert_eq!(watched.is_for_both(sent(TERM, SHELL), 51 * MS), Some(true));
        assert_eq!(watched.is_for_both(sent(TERM, SHELL), 52 * MS), None, "its sending was not seen");
        assert_eq!(watched.is_for_both(sent(12, Pid(8)), 101 * MS), None, "somebody else's");
    }

    /// A stop that SIGCONT has discarded before it was taken is not the next one.
    #[test]
    fn what_was_discarded() {
        const TSTP: i32 = 20;
        let mut watched = watched(&[(0, TSTP, true), (2000 * MS, TSTP, false)]);
        assert_eq!(watched.is_for_both(sent(TSTP, SHELL), 2001 * MS), Some(false));
    }

    /// Real-time signals come in the order in which they were sent, however late.
    #[test]
    fn real_time_signals_queue() {
        const RT: i32 = 40;
        let mut watched = watched(&[(0, RT, true), (MS / 100, RT, false), (MS / 50, RT, true)]);
        let told = [(); 3].map(|()| watched.is_for_both(sent(RT, SHELL), 10 * MS));
        assert_eq!(told.iter().filter(|one| **one == Some(true)).count(), 2, "{told:?}");
    }
}
