//! Signals that processes send to a launched program, by the tracepoint of the sending: it shows also where nobody traces the
//! program.

use std::time::{Duration, Instant};

use super::points;
use super::record::What;
use super::rings::{PerfError, Rings};
use crate::source::control::Sent;
use crate::source::delivered::Delivered;
use crate::sys::perf::monotonic_ns;
use crate::units::Pid;

/// What has been sent to one process of late.
#[derive(Debug)]
pub struct SentSignals {
    rings: Rings,
    sent: Delivered,
}

impl SentSignals {
    /// Watches from now on what is sent to a process.
    ///
    /// # Errors
    /// Why perf events cannot be had.
    pub fn to(pid: Pid) -> Result<SentSignals, PerfError> {
        Ok(SentSignals { rings: Rings::of_one(points::sent_to(pid))?, sent: Delivered::default() })
    }

    /// Reads what there is. To be called often: the rings are small.
    pub fn read(&mut self) {
        let SentSignals { rings, sent } = self;
        let (now, instant) = (monotonic_ns(), Instant::now());
        rings.drain(|record| {
            if let What::Sent(signal) = record.what {
                let ago = Duration::from_nanos(now.saturating_sub(record.at));
                sent.add(instant.checked_sub(ago).unwrap_or(instant), signal, record.pid);
            }
        });
    }

    /// Whether the process has been sent what was sent to us; counts once. After [`SentSignals::read`].
    pub fn take(&mut self, sent: Sent) -> bool {
        self.sent.take(sent)
    }
}
