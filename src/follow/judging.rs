//! What is to be said of a process: when it ends, when it executes another program, and whenever a report is asked for.

use super::Follower;
use crate::diagnose::finding::{Diagnosis, Finding, Note};
use crate::diagnose::{self, Library, Moment, Phase};
use crate::event::{Call, Event, EventKind, Syscall};
use crate::model::{Calls, SpaceId};
use crate::report::Memory;
use crate::target::Library as Asked;
use crate::threadlib::Unavailable;
use crate::units::Tid;

/// Findings of processes that have ended are kept up to this number; what is beyond is counted.
const MOST_FINISHED: usize = 1000;

/// A process in execve, as it was at the call.
pub(super) struct Executing {
    /// Who called.
    pub(super) tid: Tid,
    pub(super) judgment: Judgment,
}

/// What is to be said of a process.
#[derive(Clone)]
pub(super) struct Judgment {
    /// Findings and notes.
    pub(super) diagnosis: Diagnosis,
    /// Threads and mappings.
    counts: (u64, u64),
    /// None where nobody was left who could be asked.
    memory: Option<Memory>,
}

impl Follower<'_> {
    /// A task calls execve, which ends its program if it succeeds: then what counts is how it is now.
    pub(super) fn look_before_exec(&mut self, id: SpaceId, event: &Event) {
        let moment = Moment { now: event.at, phase: Phase::Ending { by: Some(event.tid) } };
        if let Some(judgment) = self.judge(id, moment, Some(event.tid)) {
            self.executing.insert(id, Executing { tid: event.tid, judgment });
        }
    }

    /// Who does something else is not in execve any more, which has failed then, whether that was told or not.
    pub(super) fn forget_execve(&mut self, event: &Event) {
        match &event.kind {
            // That it has succeeded is told before the new program is.
            EventKind::Syscall(Syscall {
                call: Call::Execve { .. } | Call::Execveat { .. }, result: Ok(_), ..
            }) => {}
            EventKind::Syscall(_) | EventKind::Born(_) => self.executing.retain(|_, one| one.tid != event.tid),
            // Its failure would not be told.
            EventKind::LifecyclesAlone => self.executing.clear(),
            _ => {}
        }
    }

    /// The process of an address space ends: what counts is how it is now, or was when it called execve.
    pub(super) fn last_look(&mut self, id: SpaceId, event: &Event) {
        if let Some(executing) = self.executing.remove(&id)
            && matches!(event.kind, EventKind::Superseded | EventKind::Exec(_))
        {
            return self.conclude(id, executing.judgment);
        }
        let alive = !matches!(event.kind, EventKind::Exec(_));
        if self.options.verify_every.is_some() && matches!(event.kind, EventKind::Exiting(_)) {
            self.check(id, event.tid);
        }
        let is_call = matches!(event.kind, EventKind::Exiting(_) | EventKind::GroupEnding { by_call: true });
        let moment = Moment { now: event.at, phase: Phase::Ending { by: is_call.then_some(event.tid) } };
        self.diagnose_finally(id, moment, alive.then_some(event.tid));
    }

    /// Following ends although processes live on: they are looked at as they are now.
    pub(super) fn look_at_the_living(&mut self) {
        let living: Vec<SpaceId> = self.model.unfinished().map(|(id, _)| id).collect();
        for id in living {
            if let Some(executing) = self.executing.remove(&id) {
                // Its threads are being killed, or it runs the new program already.
                self.conclude(id, executing.judgment);
                continue;
            }
            let Some(tid) = self.model.any_task_of(id) else {
                continue;
            };
            if self.options.verify_every.is_some() {
                self.check(id, tid);
            }
            let moment = Moment { now: self.now, phase: Phase::Living };
            self.diagnose_finally(id, moment, Some(tid));
        }
    }

    fn diagnose_finally(&mut self, id: SpaceId, moment: Moment, reader: Option<Tid>) {
        if let Some(judgment) = self.judge(id, moment, reader) {
            self.conclude(id, judgment);
        }
    }

    /// What there is to be said of an address space, as seen through one of its tasks.
    pub(super) fn judge(&mut self, id: SpaceId, moment: Moment, reader: Option<Tid>) -> Option<Judgment> {
        let is_up_to_date = self.bring_up_to_date(id, reader);
        let asked = reader.and_then(|tid| self.ask_library(id, tid));
        let process = reader.map(|tid| self.target.process(tid));
        let space = self.model.space(id)?;
        let pid = space.pid;
        let counts = (u64::from(space.tasks), space.mappings.len() as u64);
        let mut diagnosis =
            diagnose::diagnose(space, moment, &|tid| self.model.task(tid).is_some(), library_of(&asked));
        if !is_up_to_date {
            self.withdraw(id, &mut diagnosis);
        }
        if process.is_some_and(|process| process.has_leak_sanitizer) {
            let text = "LeakSanitizer is part of this program and cannot run under ptrace: if it fails, set \
                        ASAN_OPTIONS=detect_leaks=0 for it";
            diagnosis.notes.push(Note::incomplete(Some(pid), 1, text.to_owned()));
        }
        if let Some(Err(why)) = &asked {
            let unknown = match (why, space.was_attached) {
                (Unavailable::Gone, _) => Some("what its threads have left is known by system calls alone"),
                (_, true) => Some("threads that ended before vmtrace came, and were never joined, cannot be seen"),
                (_, false) => None,
            };
            let note = unknown.map(|unknown| Note::incomplete(Some(pid), 0, format!("{unknown}: {why}")));
            diagnosis.notes.extend(note);
        }
        if let Some(tid) = reader.filter(|_| !diagnosis.findings.is_empty()) {
            self.measure(&mut diagnosis.findings, tid);
            self.target.remember(pid);
        }
        Some(Judgment { diagnosis, counts, memory: process.map(|process| process.memory) })
    }

    /// Fills in how much of the findings lies in physical memory, where that is known.
    fn measure(&mut self, findings: &mut [Finding], tid: Tid) {
        let resident = self.target.resident(tid, findings).unwrap_or_default();
        for (finding, bytes) in findings.iter_mut().zip(resident) {
            finding.resident_bytes = Some(bytes);
        }
    }

    /// An address space's process is over, and this is what is said of it.
    fn conclude(&mut self, id: SpaceId, judgment: Judgment) {
        self.keep_sizes(id, &judgment);
        let mut diagnosis = judgment.diagnosis;
        self.finished.append(&mut diagnosis.findings);
        self.finished_notes.append(&mut diagnosis.notes);
        if self.finished.len() > MOST_FINISHED {
            self.beyond_finished += (self.finished.len() - MOST_FINISHED) as u64;
            self.finished.truncate(MOST_FINISHED);
        }
        self.finished_notes.truncate(MOST_FINISHED);
        self.model.finish(id);
        self.target.forget(id);
    }

    /// The report shows the main process's sizes as they were when last looked at.
    pub(super) fn keep_sizes(&mut self, id: SpaceId, judgment: &Judgment) {
        if self.model.space(id).is_some_and(|space| space.pid == self.target.main_pid()) {
            self.last_counts = Some(judgment.counts);
            self.memory = judgment.memory.unwrap_or(self.memory);
        }
    }

    /// What the thread library says now. Of stacks that were there before us the model learns their bounds by it.
    pub(super) fn ask_library(&mut self, id: SpaceId, tid: Tid) -> Option<Result<Asked, Unavailable>> {
        let asked = self.target.library(&self.model, id, tid)?;
        if let Ok(known) = &asked
            && self.model.space(id).is_some_and(|space| space.was_attached || space.calls == Calls::Untold)
        {
            let kind = EventKind::LibraryStacks(known.lists.library_stacks());
            self.model.apply(&Event { at: self.now, tid, call_stack: None, kind });
        }
        Some(asked)
    }
}

/// As the rules want it.
fn library_of(asked: &Option<Result<Asked, Unavailable>>) -> Library<'_> {
    match asked {
        Some(Ok(known)) => Library::Lists { lists: &known.lists, functions: &known.functions },
        Some(Err(why)) => Library::Unavailable(why),
        None => Library::NotAsked,
    }
}
