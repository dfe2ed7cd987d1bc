//! The report as of now, without the names that are put to it later, and the line that says how it stands.

use std::time::Duration;

use super::{Follower, Status};
use crate::diagnose::finding::{Finding, Note};
use crate::diagnose::{self, Library, Moment, Phase};
use crate::model::{Calls, SpaceId};
use crate::report::draft::Draft;
use crate::report::{Counts, Report, Target};
use crate::source::Follow;

impl Follower<'_> {
    fn followed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| self.now.since(began))
    }

    pub(super) fn status(&self) -> Status {
        let moment = Moment { now: self.now, phase: Phase::Living };
        let is_live = |tid| self.model.task(tid).is_some();
        let listed = |finding: &Finding| finding.confidence >= self.options.min_confidence;
        // What has been unmapped since the last report would count as left, where calls do not tell.
        let living = self.model.unfinished().filter(|(_, space)| space.calls == Calls::Told).map(|(_, space)| {
            diagnose::diagnose(space, moment, &is_live, Library::NotAsked)
                .findings
                .iter()
                .filter(|finding| listed(finding))
                .count()
        });
        Status {
            followed: self.followed(),
            threads: self.model.tasks_live(),
            events: self.model.events(),
            mappings: self.model.mappings_live(),
            findings: living.sum::<usize>() + self.finished.iter().filter(|finding| listed(finding)).count(),
        }
    }

    /// The report as of now: of those that have ended as they were at their end, of the living as they are.
    pub(super) fn draft(&mut self) -> Draft {
        let moment = Moment { now: self.now, phase: Phase::Living };
        let mut findings = self.finished.clone();
        let mut notes = self.finished_notes.clone();
        let main = self.target.main_pid();
        let living: Vec<SpaceId> = self.model.unfinished().map(|(id, _)| id).collect();
        for id in living {
            let judgment = match self.executing.get(&id) {
                Some(executing) => Some(executing.judgment.clone()),
                None => self.judge(id, moment, self.model.any_task_of(id)),
            };
            let Some(mut judgment) = judgment else { continue };
            self.keep_sizes(id, &judgment);
            findings.append(&mut judgment.diagnosis.findings);
            notes.append(&mut judgment.diagnosis.notes);
        }
        let (threads_live, mappings_live) = self.last_counts.unwrap_or_default();
        let standing = self.target.standing();
        let places = self.target.places(&findings);
        notes.extend(self.own_notes());
        notes.extend(standing.notes);
        for finding in &mut findings {
            finding.confidence = standing.ceiling.map_or(finding.confidence, |most| finding.confidence.min(most));
        }
        let report = Report {
            target: Target {
                pid: main,
                command: self.options.command.clone(),
                mode: self.options.mode,
                engine: self.target.engine(),
                from_start: self.from_start,
                follow: Some(match self.model.calls() {
                    Calls::Told => Follow::Memory,
                    Calls::Untold => Follow::Threads,
                }),
                exit: standing.exit,
            },
            clock: self.clock.clone(),
            followed: self.followed(),
            at_end: self.at_end,
            counts: Counts {
                events: self.model.events(),
                lost: standing.lost,
                stops: standing.stops,
                threads_seen: self.model.tasks_seen(),
                threads_live,
                mappings_live,
            },
            memory: self.memory,
            breakdown: Vec::new(),
            verify: self.options.verify_every.map(|_| self.verify),
            findings,
            notes,
            min_confidence: self.options.min_confidence,
        };
        Draft { report, places }
    }

    /// What is to be said of the following itself.
    fn own_notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.began.is_none() {
            notes.push(Note::incomplete(None, 0, "following had not begun when it ended".to_owned()));
        }
        if self.beyond_finished > 0 {
            let text = format!("{} more findings in processes that have ended are not listed", self.beyond_finished);
            notes.push(Note::incomplete(None, self.beyond_finished, text));
        }
        let given_up = self.model.given_up();
        if given_up > 0 {
            let text = format!(
                "{given_up} times a process's memory was given up, of which nothing is known then: there were more mappings at \
                 the same time than vmtrace keeps in mind"
            );
            notes.push(Note::incomplete(None, given_up, text));
        }
        notes
    }
}
