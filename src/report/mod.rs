//! Findings out: one file per format. Reports see findings, never the model.

pub mod draft;
pub mod json;
pub mod layout;
pub mod notation;
pub mod text;
pub mod words;

#[cfg(test)]
pub(crate) mod sample;

use std::time::Duration;

use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::diagnose::breakdown::Share;
use crate::diagnose::finding::{Confidence, Finding, Note};
use crate::event::Exit;
use crate::model::tolerance::Tolerated;
use crate::source::Follow;
use crate::units::{Pid, Time};

/// Everything that a report says, whatever its format.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was looked at, and how.
    pub target: Target,
    /// Relates the events' times to the wall clock.
    pub clock: Clock,
    /// How long it was followed.
    pub followed: Duration,
    /// Whether the process ended while it was followed; where not, the text says "so far".
    pub at_end: bool,
    /// What was counted.
    pub counts: Counts,
    /// Sizes of the target's memory at the end, or as last seen.
    pub memory: Memory,
    /// What VIRT consists of, largest share first; empty where that was not looked at.
    pub breakdown: Vec<Share>,
    /// The comparison of the model with the kernel, where it was asked for.
    pub verify: Option<Verify>,
    /// Leaks of all processes, of every confidence, largest first.
    pub findings: Vec<Finding>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
    /// What is below is counted, not listed.
    pub min_confidence: Confidence,
}

impl Report {
    /// The findings that are listed.
    pub fn listed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.confidence >= self.min_confidence)
    }

    /// How many findings are below what is listed.
    pub fn unlisted(&self) -> usize {
        self.findings.len() - self.listed().count()
    }
}

/// What was looked at, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The process that was launched or named.
    pub pid: Pid,
    /// Its command line.
    pub command: Vec<String>,
    /// What vmtrace was asked to do.
    pub mode: Mode,
    /// Where the events came from.
    pub engine: Engine,
    /// Whether nothing of the process's life was missed; else threads may have ended before.
    pub from_start: bool,
    /// How much was followed, at the end; none where nothing was.
    pub follow: Option<Follow>,
    /// How the process ended; none while it lives.
    pub exit: Option<Exit>,
}

/// What vmtrace was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mode {
    Launch,
    Attach,
    Inspect,
    Replay,
}

/// Where the events came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Engine {
    Ptrace,
    Perf,
    Procfs,
    StraceLog,
    Recording,
}

/// Relates the events' times to the wall clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The moment that event times count from, with the zone in which text reports are written.
    pub start: Zoned,
    /// What is known of these times.
    pub known: Known,
}

/// What is known of the times of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Known {
    /// The moment of each.
    #[default]
    Moments,
    /// How long after another each happened, but not when.
    Distances,
    /// Nothing but their order.
    Order,
}

impl Clock {
    /// A clock whose times count from `start`.
    pub fn new(start: Zoned) -> Clock {
        Clock { start, known: Known::Moments }
    }

    /// The time of day at `time` with 3 or 6 digits of its second, or how long after the start it is, as far as that is
    /// known; with a blank behind it.
    pub fn label(&self, time: Time, digits: usize) -> String {
        match self.known {
            Known::Moments => {
                let zoned = self.timestamp(time).to_zoned(self.start.time_zone().clone());
                format!("{} ", zoned.strftime(if digits == 3 { "%H:%M:%S%.3f" } else { "%H:%M:%S%.6f" }))
            }
            Known::Distances => format!("+{:.digits$} ", time.0.as_secs_f64()),
            Known::Order => String::new(),
        }
    }

    /// The wall clock at `time`.
    pub fn timestamp(&self, time: Time) -> Timestamp {
        let nanoseconds = i64::try_from(time.0.as_nanos()).unwrap_or(i64::MAX);
        self.start.timestamp().saturating_add(jiff::SignedDuration::from_nanos(nanoseconds)).unwrap_or(Timestamp::MAX)
    }
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Followed system calls, births and deaths of tasks.
    pub events: u64,
    /// Events known to have been lost.
    pub lost: u64,
    /// How often a task was stopped.
    pub stops: u64,
    /// Tasks, in all followed processes.
    pub threads_seen: u64,
    /// Tasks alive at the end.
    pub threads_live: u64,
    /// Mappings at the end.
    pub mappings_live: u64,
}

/// Sizes of the target's memory. None where they could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// VIRT.
    pub virtual_bytes: Option<u64>,
    /// RES.
    pub resident_bytes: Option<u64>,
    /// Regions of /proc/PID/maps.
    pub vmas: Option<u64>,
    /// How many the kernel allows: `vm.max_map_count`.
    pub max_map_count: Option<u64>,
}

/// The comparison of the model with the kernel's maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Verify {
    /// How often.
    pub checks: u64,
    /// How often they differed.
    pub mismatches: u64,
    /// What the kernel had done without a system call, by its name, and how often it was seen.
    pub tolerated: Tolerated,
}
