//! Signals that processes send to a launched program and to us, by the tracepoint of the sending: it shows whether one was for all
//! of the process group, also where nobody traces the program, or it takes signals without being stopped for them (sigwait(3),
//! signalfd(2)).

use std::collections::VecDeque;

use super::points;
use super::record::What;
use super::rings::{PerfError, Rings};
use crate::source::control::Sent;
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

    /// The first that is like this; counts once.
    fn take(&mut self, is_it: impl FnMut(&Sending) -> bool) -> Option<Sending> {
        let index = self.0.iter().position(is_it)?;
        self.0.remove(index)
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

    /// Whether what we have got was sent to the process as well; none where its sending was not seen. After
    /// [`SentSignals::read`], once for each signal that comes, in turn.
    pub fn is_for_both(&mut self, sent: Sent) -> Option<bool> {
        let is_it = |sending: &Sending| (sending.signal, Some(sending.sender)) == (sent.signal, sent.sender);
        let at = self.to_us.take(is_it)?.at;
        Some(self.to_main.take(|sending| is_it(sending) && sending.at.abs_diff(at) <= AT_ONCE).is_some())
    }
}
