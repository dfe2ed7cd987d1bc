//! For programs: one object of the schema `vmtrace.report/1`.
//!
//! Within a version of the schema fields are added, never renamed or dropped. What cannot be known is null.

use std::io::{self, Write};

use serde::Serialize;

use super::{Clock, Counts, Engine, Known, Mode, Report, Verify, notation};
use crate::diagnose::breakdown::Share;
use crate::diagnose::finding::{Confidence, Finding, Frame, Member, Note, Reason, Recurrence, Rule};
use crate::event::Exit;
use crate::source::Follow;
use crate::units::{Addr, Pid, Tid, Time};

/// The schema's name and version.
pub const SCHEMA: &str = "vmtrace.report/1";

/// Writes the report as one pretty-printed object and a newline.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&Document::from(report))?;
    writeln!(out, "{}", without_controls(&text))
}

/// JSON leaves DEL and the C1 controls in strings as they are, and a terminal would obey them.
fn without_controls(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            safe.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            safe.push(character);
        }
    }
    safe
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: &'static str,
    target: Target<'a>,
    span: Span,
    counts: Counts,
    memory: Memory<'a>,
    verify: Option<Verify>,
    min_confidence: Confidence,
    unlisted: usize,
    findings: Vec<Leak<'a>>,
    notes: &'a [Note],
}

impl<'a> From<&'a Report> for Document<'a> {
    fn from(report: &'a Report) -> Self {
        let target = &report.target;
        Document {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            target: Target {
                pid: target.pid,
                command: &target.command,
                mode: target.mode,
                engine: target.engine,
                follow: target.follow,
                exit: target.exit.map(Ending::from),
            },
            span: Span {
                start: moment(&report.clock, Time::default()),
                seconds: has_distances(report).then_some(report.followed.as_secs_f64()),
            },
            counts: report.counts,
            memory: Memory {
                size: report.memory,
                breakdown: (!report.breakdown.is_empty()).then_some(report.breakdown.as_slice()),
                leaked_virtual_bytes: report.listed().map(Finding::virtual_bytes).sum(),
                leaked_resident_bytes: report.listed().map(|finding| finding.resident_bytes).sum(),
            },
            verify: report.verify,
            min_confidence: report.min_confidence,
            unlisted: report.unlisted(),
            findings: report.listed().map(|finding| Leak::new(finding, report)).collect(),
            notes: &report.notes,
        }
    }
}

#[derive(Serialize)]
struct Target<'a> {
    pid: Pid,
    command: &'a [String],
    mode: Mode,
    engine: Engine,
    follow: Option<Follow>,
    exit: Option<Ending>,
}

/// `{"code": 0}` or `{"signal": "SIGTERM"}`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Ending {
    Code(i32),
    Signal(String),
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Ending::Code(code),
            Exit::Signal(signal) => Ending::Signal(notation::signal_name(signal)),
        }
    }
}

#[derive(Serialize)]
struct Span {
    start: Option<String>,
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct Memory<'a> {
    #[serde(flatten)]
    size: super::Memory,
    leaked_virtual_bytes: u64,
    leaked_resident_bytes: Option<u64>,
    breakdown: Option<&'a [Share]>,
}

#[derive(Serialize)]
struct Leak<'a> {
    rule: Rule,
    reason: Reason,
    confidence: Confidence,
    recurrence: Option<Recurrence>,
    pid: Pid,
    regions: usize,
    created: Option<u64>,
    virtual_bytes: u64,
    resident_bytes: Option<u64>,
    region_bytes: u64,
    guard_bytes: u64,
    period_seconds: Option<f64>,
    growth_bytes_per_second: Option<f64>,
    idle_seconds: Option<Idle>,
    thread_function: Option<&'a Frame>,
    site: &'a [Frame],
    mapped_site: &'a [Frame],
    proof: &'a str,
    advice: &'a str,
    members: Vec<Region>,
}

impl<'a> Leak<'a> {
    fn new(finding: &'a Finding, report: &Report) -> Self {
        let idle = finding.idle(Time(report.followed)).filter(|_| has_distances(report));
        Leak {
            rule: finding.rule,
            reason: finding.reason,
            confidence: finding.confidence,
            recurrence: finding.recurrence,
            pid: finding.pid,
            regions: finding.members.len(),
            created: finding.created,
            virtual_bytes: finding.virtual_bytes(),
            resident_bytes: finding.resident_bytes,
            region_bytes: finding.region_bytes,
            guard_bytes: finding.guard_bytes,
            period_seconds: finding.period().map(|period| period.as_secs_f64()),
            growth_bytes_per_second: finding.growth_bytes_per_second(),
            idle_seconds: idle
                .map(|idle| Idle { oldest: idle.oldest.as_secs_f64(), youngest: idle.youngest.as_secs_f64() }),
            thread_function: finding.thread_function.as_ref(),
            site: &finding.site,
            mapped_site: &finding.mapped_site,
            proof: &finding.proof,
            advice: &finding.advice,
            members: finding.members.iter().map(|member| Region::new(member, &report.clock)).collect(),
        }
    }
}

#[derive(Serialize)]
struct Idle {
    oldest: f64,
    youngest: f64,
}

#[derive(Serialize)]
struct Region {
    start: Addr,
    end: Addr,
    virtual_bytes: u64,
    owner_tid: Option<Tid>,
    creator_tid: Option<Tid>,
    mapped_at: Option<String>,
    born_at: Option<String>,
    exited_at: Option<String>,
    evidence: Vec<Proof>,
}

impl Region {
    fn new(member: &Member, clock: &Clock) -> Self {
        let wall = |time: Time| moment(clock, time);
        Region {
            start: member.range.start(),
            end: member.range.end(),
            virtual_bytes: member.virtual_bytes,
            owner_tid: member.owner,
            creator_tid: member.creator,
            mapped_at: member.mapped_at.and_then(wall),
            born_at: member.born_at.and_then(wall),
            exited_at: member.exited_at.and_then(wall),
            evidence: member
                .evidence
                .iter()
                .map(|evidence| Proof {
                    at: wall(evidence.at),
                    tid: evidence.tid,
                    call: notation::evidence(&evidence.what),
                })
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct Proof {
    at: Option<String>,
    tid: Tid,
    call: String,
}

/// Whether it is known how long after one another things happened.
fn has_distances(report: &Report) -> bool {
    report.clock.known != Known::Order
}

/// A moment in UTC, to the microsecond: `2019-02-21T22:00:00.000000Z`; none where it is not known.
fn moment(clock: &Clock, time: Time) -> Option<String> {
    (clock.known == Known::Moments).then(|| format!("{:.6}", clock.timestamp(time)))
}

#[cfg(test)]
mod tests;
