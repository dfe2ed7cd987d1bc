//! For people: what leaked, how sure that is, why, and what to do, in at most 100 columns.

mod breakdown;
mod leak;

use std::io::{self, Write};

use colored::{ColoredString, Colorize};
use indexmap::IndexMap;

use super::layout::{COLUMNS, glue, printable, wrap};
use super::words::{count, counted, duration, size};
use super::{Engine, Known, Mode, Report, notation};
use crate::diagnose::finding::{Confidence, Finding, Note, NoteKind};
use crate::event::Exit;
use crate::source::Follow;
use crate::units::Pid;

/// Where the text behind a label begins.
const INDENT: usize = 12;

/// So many notes of one kind on other processes than the target are shown.
const NOTES_ELSEWHERE: usize = 3;

/// How the text is dressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Letters alone, for files and pipes.
    Plain,
    /// With colours, for terminals.
    Coloured,
}

/// Writes the report.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report, out: &mut dyn Write, style: Style) -> io::Result<()> {
    if style == Style::Coloured {
        // The crate decides by its own look at stdout unless told; plain text never asks it.
        colored::control::set_override(true);
    }
    let mut page = Page { out, style };
    page.header(report)?;
    page.warnings(report)?;
    let listed: Vec<&Finding> = report.listed().collect();
    if listed.is_empty() {
        page.clean_bill(report)?;
    }
    for finding in &listed {
        page.blank()?;
        leak::write(&mut page, finding, report)?;
    }
    breakdown::write(&mut page, &report.breakdown)?;
    if !report.notes.is_empty() || report.unlisted() > 0 || listed.len() > 1 {
        page.blank()?;
    }
    page.notes(report)?;
    page.unlisted(report)?;
    page.sum(&listed)
}

/// Where the report is written to, line by line.
struct Page<'a> {
    out: &'a mut dyn Write,
    style: Style,
}

impl Page<'_> {
    fn header(&mut self, report: &Report) -> io::Result<()> {
        let target = &report.target;
        let mut parts = vec![counted(report.counts.threads_seen, "thread")];
        match report.memory.virtual_bytes.filter(|_| target.mode == Mode::Inspect) {
            Some(bytes) => parts.push(format!("{} of address space", size(bytes))),
            None => parts.push(counted(report.counts.events, "event")),
        }
        if let Some(verify) = report.verify.filter(|verify| verify.checks > 0) {
            parts.push(format!("model verified {}", times(verify.checks)));
        }
        let pid = match target.pid {
            Pid(0) => glue("(pid not known)"),
            pid => glue(&format!("(pid {pid})")),
        };
        let text = format!("{} {pid}, {}: {}", program(&target.command), followed(report), clauses(&parts));
        let prefix = "vmtrace: ";
        let mut first = true;
        for line in wrap(&text, COLUMNS - prefix.len()) {
            let lead = if first { prefix } else { "         " };
            writeln!(self.out, "{lead}{line}")?;
            first = false;
        }
        Ok(())
    }

    /// What makes the rest of the report less certain comes before it.
    fn warnings(&mut self, report: &Report) -> io::Result<()> {
        if report.counts.lost > 0 {
            let lost = counted(report.counts.lost, "event");
            let were = if report.counts.lost == 1 { "was" } else { "were" };
            self.warning(&format!("{lost} {were} lost: findings may be missing, or wrong"))?;
        }
        if let Some(verify) = report.verify.filter(|verify| verify.mismatches > 0) {
            let (differed, checks) = (count(verify.mismatches), counted(verify.checks, "comparison"));
            self.warning(&format!("the model differed from the kernel's maps in {differed} of {checks}"))?;
        }
        Ok(())
    }

    /// No finding is listed: what was watched, so that it is worth something.
    fn clean_bill(&mut self, report: &Report) -> io::Result<()> {
        let counts = &report.counts;
        let verdict = verdict(report);
        self.blank()?;
        for line in wrap(&verdict, COLUMNS) {
            let line = self.paint(&line, |line| line.bold());
            writeln!(self.out, "{line}")?;
        }
        if report.target.mode == Mode::Inspect {
            let looked = format!(
                "at {} and {}",
                counted(counts.threads_live, "live thread"),
                counted(counts.mappings_live, "mapping")
            );
            let looked = [looked, "from outside".to_owned(), format!("in {}", duration(report.followed))];
            self.labelled("looked", &clauses(&looked))?;
            return self.memory(report);
        }
        // Those that lived when the process ended are no ended threads: it ended them.
        let alive = if report.at_end { "to the end" } else { "alive" };
        let live = match counts.threads_live {
            0 => String::new(),
            1 if counts.threads_seen == 1 => format!(" ({alive})"),
            live if live == counts.threads_seen => format!(" (all {alive})"),
            live => format!(" ({} of them {alive})", count(live)),
        };
        let threads = counted(counts.threads_seen, "thread");
        if report.target.engine == Engine::StraceLog {
            let read = [format!("the mapping calls in the log, of {threads}"), counted(counts.events, "event")];
            return self.labelled("read", &clauses(&read));
        }
        let watched = [
            match report.target.follow {
                Some(Follow::Threads) => format!("the births and ends of {threads}{live}, no mapping calls"),
                _ => format!("every mapping call of {threads}{live}"),
            },
            counted(counts.events, "event"),
            format!("for {}", duration(report.followed)),
        ];
        self.labelled("watched", &clauses(&watched))?;
        match report.verify {
            Some(verify) if verify.checks > 0 && verify.mismatches == 0 => {
                let times = times(verify.checks);
                self.labelled("verified", &format!("compared with the kernel's maps {times}, without a difference"))?;
            }
            Some(verify) if verify.checks > 0 => {}
            _ if report.target.follow == Some(Follow::Threads) => {
                let not_seen = "memory that is no stack, stacks of which a part is left; --follow memory sees these";
                self.labelled("unseen", not_seen)?;
            }
            _ => self.labelled("verified", "not compared with the kernel's maps; --verify does that")?,
        }
        self.memory(report)
    }

    /// VIRT, RES and the number of mappings, as far as they are known.
    fn memory(&mut self, report: &Report) -> io::Result<()> {
        let memory = &report.memory;
        let mut parts = Vec::new();
        parts.extend(memory.virtual_bytes.map(|bytes| format!("VIRT {}", size(bytes))));
        parts.extend(memory.resident_bytes.map(|bytes| format!("RES {}", size(bytes))));
        parts.extend(match (memory.vmas, memory.max_map_count) {
            (Some(vmas), Some(limit)) => Some(format!("{} of {} possible mappings", count(vmas), count(limit))),
            (Some(vmas), None) => Some(counted(vmas, "mapping")),
            (None, _) => None,
        });
        if parts.is_empty() { Ok(()) } else { self.labelled("memory", &clauses(&parts)) }
    }

    /// All notes on the target itself, and of those on other processes the first few of each kind: a program may have
    /// made a thousand that all have the same to say.
    fn notes(&mut self, report: &Report) -> io::Result<()> {
        let mut elsewhere: IndexMap<NoteKind, Vec<&Note>> = IndexMap::new();
        for note in &report.notes {
            if note.pid.is_none_or(|pid| pid == report.target.pid) {
                self.note(note, report)?;
            } else {
                elsewhere.entry(note.kind).or_default().push(note);
            }
        }
        for notes in elsewhere.values() {
            let (shown, rest) = notes.split_at(notes.len().min(NOTES_ELSEWHERE));
            for note in shown {
                self.note(note, report)?;
            }
            if !rest.is_empty() {
                let bytes = rest.iter().map(|note| note.virtual_bytes).sum();
                let regions: u64 = rest.iter().map(|note| note.regions).sum();
                let processes = if rest.len() == 1 { "process" } else { "processes" };
                let number = count(rest.len() as u64);
                let text =
                    format!("the same of {number} other {processes}: {} in all, {}", count(regions), size(bytes));
                self.lead("note", &text, |label| label.cyan())?;
            }
        }
        Ok(())
    }

    fn note(&mut self, note: &Note, report: &Report) -> io::Result<()> {
        let elsewhere = note.pid.filter(|pid| *pid != report.target.pid);
        let place = elsewhere.map_or(String::new(), |pid| format!("in process {pid}: "));
        let text = format!("{place}{}", printable(&note.text, TEXT_LIMIT));
        match note.kind {
            NoteKind::LimitHit | NoteKind::Incomplete => self.warning(&text),
            _ => self.lead("note", &text, |label| label.cyan()),
        }
    }

    /// What is below the minimum confidence: counted, not listed.
    fn unlisted(&mut self, report: &Report) -> io::Result<()> {
        let below: Vec<&Finding> =
            report.findings.iter().filter(|finding| finding.confidence < report.min_confidence).collect();
        let Some(weakest) = below.iter().map(|finding| finding.confidence).min() else {
            return Ok(());
        };
        let findings = counted(below.len() as u64, "finding");
        let verb = if below.len() == 1 { "is" } else { "are" };
        let bytes = size(below.iter().map(|finding| finding.virtual_bytes()).sum());
        let (minimum, weakest) = (confidence(report.min_confidence), confidence(weakest));
        let them = if below.len() == 1 { "it" } else { "them" };
        let option = glue(&format!("--min-confidence {weakest}"));
        let text = format!("{findings} ({bytes}) {verb} less than {minimum} and not listed; {option} shows {them}");
        self.lead("note", &text, |label| label.cyan())
    }

    fn sum(&mut self, listed: &[&Finding]) -> io::Result<()> {
        if listed.len() < 2 {
            return Ok(());
        }
        let regions: usize = listed.iter().map(|finding| finding.members.len()).sum();
        let bytes: u64 = listed.iter().map(|finding| finding.virtual_bytes()).sum();
        let resident: Option<u64> = listed.iter().map(|finding| finding.resident_bytes).sum();
        let resident = resident.map_or(String::new(), |bytes| format!(", {} resident", size(bytes)));
        let (findings, regions) = (counted(listed.len() as u64, "finding"), counted(regions as u64, "region"));
        let text = format!("{findings}, {regions}: {} of address space{resident}", size(bytes));
        self.lead("sum", &text, |label| label.bold())
    }

    fn warning(&mut self, text: &str) -> io::Result<()> {
        self.lead("warning", text, |label| label.yellow().bold())
    }

    /// A line of its own with a label at the margin.
    fn lead(&mut self, label: &str, text: &str, dress: fn(&str) -> ColoredString) -> io::Result<()> {
        self.hanging(&format!("{label:<width$}", width = INDENT - 2), INDENT - 2, text, dress)
    }

    /// A fact of a finding: its label, and its text from column 12 on.
    fn labelled(&mut self, label: &str, text: &str) -> io::Result<()> {
        self.hanging(&format!("  {label:<width$}", width = INDENT - 2), INDENT, text, |label| label.dimmed())
    }

    fn hanging(&mut self, label: &str, indent: usize, text: &str, dress: fn(&str) -> ColoredString) -> io::Result<()> {
        for (number, line) in wrap(text, COLUMNS - indent).iter().enumerate() {
            let lead = if number == 0 { self.paint(label, dress) } else { " ".repeat(indent) };
            writeln!(self.out, "{lead}{line}")?;
        }
        Ok(())
    }

    fn blank(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    fn paint(&self, text: &str, dress: fn(&str) -> ColoredString) -> String {
        match self.style {
            Style::Plain => text.to_owned(),
            Style::Coloured => dress(text).to_string(),
        }
    }
}

/// What can be said when nothing is listed, and no more than that.
fn verdict(report: &Report) -> String {
    let so_far = if report.at_end { "" } else { " so far" };
    let regions_of = |kind| report.notes.iter().filter(|note| note.kind == kind).map(|note| note.regions).sum::<u64>();
    let unproven = regions_of(NoteKind::UnprovenStacks);
    if report.unlisted() > 0 {
        return format!("Nothing{so_far} that is sure enough to be listed.");
    }
    if unproven > 0 {
        let stacks = match unproven {
            1 => "the stack of a thread".to_owned(),
            _ => format!("{} of threads", counted(unproven, "stack")),
        };
        return format!("No leak is proven{so_far}, but {stacks} that ended could not be judged: see the note.");
    }
    let blind = report.counts.lost > 0 || report.notes.iter().any(|note| note.kind == NoteKind::Incomplete);
    if report.target.mode == Mode::Inspect {
        return match blind {
            true => "No leak found, but not all could be seen: see the warning.".to_owned(),
            false => {
                "No leaked thread stack found so far: every thread that has ended was joined or detached.".to_owned()
            }
        };
    }
    let ended = report.counts.threads_seen.saturating_sub(report.counts.threads_live);
    if report.target.engine == Engine::StraceLog && ended == 0 {
        return match blind {
            true => "Nothing can be proven from this log: see the warnings.".to_owned(),
            false => format!("No leak found{so_far}, but the log shows no end of a thread."),
        };
    }
    let leak = match report.target.follow {
        Some(Follow::Threads) => "leaked thread stack",
        _ => "leak",
    };
    let found = format!("No {leak} found{so_far}{}", if blind { ", as far as could be seen" } else { "" });
    match ended {
        // Of those that ended before vmtrace came only the thread library's lists tell, where there are any.
        0 if !report.target.from_start => format!("{found}, but no thread has ended since vmtrace came."),
        0 if report.at_end => format!("{found}: no thread ended before the process did, so none could leave anything."),
        0 => format!("{found}, but no thread has ended, so none could leave anything."),
        1 if report.target.follow == Some(Follow::Threads) => {
            format!("{found}: the one thread that ended left none that is known to be lost.")
        }
        ended if report.target.follow == Some(Follow::Threads) => {
            format!("{found}: none of the {} threads that ended left one that is known to be lost.", count(ended))
        }
        1 => format!("{found}: the one thread that ended left no address space that is lost."),
        ended => {
            format!("{found}: none of the {} threads that ended left address space that is lost.", count(ended))
        }
    }
}

/// Columns that one text from elsewhere may take before it is cut: five full lines.
const TEXT_LIMIT: usize = 5 * COLUMNS;

/// The program's name: the last part of what was executed.
fn program(command: &[String]) -> String {
    let name = command.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    if name.is_empty() { "process".to_owned() } else { printable(name, 40) }
}

/// Parts of a sentence that lines are broken between.
fn clauses(parts: &[String]) -> String {
    parts.iter().map(|part| glue(part)).collect::<Vec<_>>().join(", ")
}

/// `once`, `41 times`.
fn times(number: u64) -> String {
    if number == 1 { "once".to_owned() } else { counted(number, "time") }
}

/// How and until when it was followed.
fn followed(report: &Report) -> String {
    if report.target.mode == Mode::Inspect {
        return format!("looked at in {}", glue(&duration(report.followed)));
    }
    let how = match report.target.engine {
        Engine::Ptrace => "followed for {} with ptrace",
        Engine::Perf => "followed for {} with perf",
        Engine::Procfs => "followed for {} by /proc",
        Engine::StraceLog => "replayed {} of an strace log",
        Engine::Recording => "replayed {} of a recording",
    };
    let until = match report.target.exit {
        _ if !report.at_end => String::new(),
        Some(Exit::Code(code)) => format!(" until it exited with {code}"),
        Some(Exit::Signal(signal)) => {
            format!(" until it was killed by {}", notation::signal_name(signal))
        }
        None => " to its end".to_owned(),
    };
    let what = match report.target.follow {
        Some(Follow::Threads) => " (thread lifecycles alone)",
        _ => "",
    };
    let how = match report.clock.known {
        Known::Order => how.replace("{} of ", ""),
        _ => how.replace("{}", &glue(&duration(report.followed))),
    };
    format!("{how}{what}{until}")
}

fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Possible => "possible",
        Confidence::Probable => "probable",
        Confidence::Definite => "definite",
    }
}

#[cfg(test)]
mod tests;
