//! Names are put to a report when it is about to be written: away from the target, which may have gone on or ended, for
//! the debug information of a large program takes a while to read.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::Report;
use crate::diagnose::finding::{Finding, Frame, Reason, Recurrence, Rule};
use crate::diagnose::orphaned_stack;
use crate::source::recording::format::Named;
use crate::symbols::capture::CallStacks;
use crate::symbols::module::Modules;
use crate::symbols::names::Names;
use crate::symbols::names::perf_map::Writer;
use crate::symbols::places::Place;
use crate::symbols::plumbing::own_frames;
use crate::units::{CallStackId, CodeId, Pid};

/// A report in which everything stands but names.
#[derive(Debug)]
pub struct Draft {
    /// The report.
    pub report: Report,
    /// What is to be named in it.
    pub places: Places,
}

/// The places that the findings of a report come from.
#[derive(Debug, Default)]
pub struct Places {
    /// The files in which they lie.
    pub modules: Modules,
    /// The frames of call stacks, innermost first.
    pub stacks: HashMap<CallStackId, Vec<Place>>,
    /// Functions that threads ran.
    pub functions: HashMap<CodeId, Place>,
    /// Who the processes with findings were.
    pub writers: HashMap<Pid, Writer>,
    /// Names that have been looked up before.
    pub known: Vec<Named>,
}

impl Draft {
    /// The report with names, as far as there are any.
    pub fn named(mut self, names: &mut Names) -> Report {
        self.places.tell(names);
        for finding in &mut self.report.findings {
            self.places.name(finding, names);
        }
        self.report.findings = together(self.report.findings);
        for finding in &mut self.report.findings {
            orphaned_stack::prove_by_members(finding);
            point_to_source(finding);
        }
        let main = self.report.target.pid;
        self.report
            .findings
            .sort_by_key(|finding| (finding.pid != main, Reverse((finding.confidence, finding.virtual_bytes()))));
        self.report
    }
}

impl Places {
    /// The places of all that these findings come from, as they were captured.
    pub fn of(findings: &[Finding], captured: &CallStacks) -> Places {
        let mut places = Places { modules: captured.modules.clone(), ..Places::default() };
        let known = &captured.places;
        for origin in findings.iter().map(|finding| finding.origin) {
            for stack in [origin.created, origin.mapped].into_iter().flatten() {
                let frames = || known.frames(stack).iter().filter_map(|code| known.get(*code)).collect();
                places.stacks.entry(stack).or_insert_with(frames);
            }
            if let Some(code) = origin.function {
                places.functions.extend(known.get(code).map(|place| (code, place)));
            }
        }
        places
    }

    /// The names of all these places, of these findings' processes: what a recording keeps.
    pub fn names(&self, findings: &[Finding], names: &mut Names) -> Vec<Named> {
        self.tell(names);
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for Finding { origin, pid, .. } in findings {
            let stacks = [origin.created, origin.mapped].into_iter().flatten();
            let places = stacks.filter_map(|stack| self.stacks.get(&stack)).flatten();
            let function = origin.function.and_then(|code| self.functions.get(&code));
            for place in places.chain(function).filter(|place| seen.insert((**place, *pid))) {
                let frames = names.frames(&self.modules, *place, Some(*pid));
                found.push(Named { place: *place, pid: *pid, frames });
            }
        }
        found
    }

    /// Tells what is known without a look at the files.
    fn tell(&self, names: &mut Names) {
        for (pid, writer) in &self.writers {
            names.remember(*pid, *writer);
        }
        for Named { place, pid, frames } in &self.known {
            names.know(*place, *pid, frames);
        }
    }

    fn name(&self, finding: &mut Finding, names: &mut Names) {
        let (origin, pid) = (finding.origin, finding.pid);
        finding.site = self.site(origin.created, pid, names);
        finding.mapped_site = self.site(origin.mapped, pid, names);
        let function = origin.function.and_then(|code| self.functions.get(&code));
        finding.thread_function = function.and_then(|place| names.function(&self.modules, *place, Some(pid)));
    }

    fn site(&self, stack: Option<CallStackId>, pid: Pid, names: &mut Names) -> Vec<Frame> {
        let places = stack.and_then(|stack| self.stacks.get(&stack)).into_iter().flatten();
        places.flat_map(|place| names.frames(&self.modules, *place, Some(pid))).collect()
    }
}

/// Findings of the same line of source are one: a compiler that unrolls a loop makes several places of it.
fn together(findings: Vec<Finding>) -> Vec<Finding> {
    let mut together: Vec<Finding> = Vec::with_capacity(findings.len());
    // A program can have tens of thousands of places.
    let mut seen: HashMap<Line, usize> = HashMap::new();
    for finding in findings {
        let number = together.len();
        let earlier = match finding.site.is_empty() {
            true => number,
            false => *seen.entry(Line::of(&finding)).or_insert(number),
        };
        match together.get_mut(earlier) {
            Some(earlier) => add(earlier, finding),
            None => together.push(finding),
        }
    }
    together
}

/// What is the same for findings which nothing but the offsets of their frames tells apart.
#[derive(PartialEq, Eq, Hash)]
struct Line {
    kind: (Rule, Reason, Pid, u64),
    thread_function: Option<Frame>,
    site: Vec<Frame>,
}

impl Line {
    fn of(finding: &Finding) -> Line {
        // Without lines offsets are all there is.
        let in_line = |frame: &Frame| Frame { offset: frame.line.map_or(frame.offset, |_| 0), ..frame.clone() };
        Line {
            kind: (finding.rule, finding.reason, finding.pid, finding.region_bytes),
            thread_function: finding.thread_function.clone(),
            site: finding.site.iter().map(in_line).collect(),
        }
    }
}

fn add(to: &mut Finding, other: Finding) {
    if other.confidence > to.confidence {
        (to.confidence, to.proof) = (other.confidence, other.proof);
    }
    to.recurrence = match (to.recurrence, other.recurrence) {
        (Some(Recurrence::Occasional), Some(_)) | (Some(_), Some(Recurrence::Occasional)) => {
            Some(Recurrence::Occasional)
        }
        (Some(_), Some(_)) => Some(Recurrence::Recurrent),
        _ => None,
    };
    to.awaits_proof &= other.awaits_proof;
    to.created = to.created.zip(other.created).map(|(one, other)| one + other);
    to.resident_bytes = to.resident_bytes.zip(other.resident_bytes).map(|(one, other)| one + other);
    to.members.extend(other.members);
    to.members.sort_by_key(|member| (member.exited_at, member.born_at));
}

/// Adds to the advice where in the source it is to be followed.
fn point_to_source(finding: &mut Finding) {
    let done = if finding.rule == Rule::OrphanedMapping { "mapped" } else { "created" };
    let Some(Frame { file: Some(file), line: Some(line), .. }) = own_frames(&finding.site).first() else { return };
    let file = file.rsplit('/').next().unwrap_or(file);
    finding.advice.push_str(&format!(" ({done} at {file}:{line})"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample;
    use super::*;
    use crate::diagnose::finding::Confidence;
    use crate::units::Time;

    fn finding(line: u32, offset: u64) -> Finding {
        let mut finding = sample::documented().findings.remove(0);
        finding.members.truncate(1);
        finding.created = Some(1);
        finding.recurrence = Some(Recurrence::OneTime);
        let site = finding.site.iter_mut().find(|frame| frame.line.is_some()).unwrap();
        (site.line, site.offset) = (Some(line), offset);
        finding
    }

    /// Two places of one line are one finding, with all that belongs to both; another line is another.
    #[test]
    fn one_line_is_one_finding() {
        let found = together(vec![finding(88, 1), finding(90, 2), finding(88, 3)]);
        let seen: Vec<_> = found.iter().map(|one| (one.members.len(), one.created, one.recurrence)).collect();
        assert_eq!(seen, [(2, Some(2), Some(Recurrence::Recurrent)), (1, Some(1), Some(Recurrence::OneTime))]);
    }

    /// One line that has mapped a fresh stack after the end of another's owner does not use them again, whichever of its
    /// places did; unless one of these lets go of them.
    #[test]
    fn a_line_proves_what_its_places_do_not() {
        let left = |number: u64, awaits_proof| {
            let mut finding = finding(88, number);
            let at = |seconds| Some(Time(Duration::from_secs(seconds)));
            (finding.confidence, finding.awaits_proof) = (Confidence::Probable, awaits_proof);
            finding.members[0].mapped_at = at(10 * number);
            finding.members[0].exited_at = at(10 * number + 5);
            finding
        };
        let judged = |findings| {
            let mut found = together(findings);
            found.iter_mut().for_each(orphaned_stack::prove_by_members);
            found.iter().map(|finding| (finding.confidence, finding.members.len())).collect::<Vec<_>>()
        };
        assert_eq!(judged(vec![left(1, true)]), [(Confidence::Probable, 1)]);
        assert_eq!(judged(vec![left(1, true), left(2, true)]), [(Confidence::Definite, 2)]);
        assert_eq!(judged(vec![left(1, true), left(2, false)]), [(Confidence::Probable, 2)]);
        let together = vec![left(1, true), left(1, true)];
        assert_eq!(judged(together), [(Confidence::Probable, 2)], "mapped before any had ended");
    }

    /// Without a line nothing says that two places are the same.
    #[test]
    fn places_without_lines_stay_apart() {
        let mut findings = vec![finding(88, 1), finding(88, 3)];
        findings.iter_mut().flat_map(|one| &mut one.site).for_each(|frame| frame.line = None);
        assert_eq!(together(findings).len(), 2);
    }
}
