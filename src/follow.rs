//! Following a target: its events into the model, the model against the kernel, and out comes a report.

mod drafting;
mod judging;
mod lifecycles;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::diagnose::finding::{Confidence, Finding, Note, NoteKind};
use crate::event::{Birth, Event, EventKind, Syscall};
use crate::model::kernel::Mismatch;
use crate::model::{Calls, Model, SpaceId};
use crate::report::draft::Draft;
use crate::report::{Clock, Memory, Mode, Verify, notation};
use crate::source::control::Control;
use crate::target::{Target, Told};
use crate::units::{Pid, Tid, Time};
use judging::Executing;

/// Limits are looked at no more often than this: a program that runs into one does so again and again.
const LIMITS_EVERY: Duration = Duration::from_secs(1);

/// What to do while following.
pub struct Options {
    /// Launch or attach.
    pub mode: Mode,
    /// The command line of the target.
    pub command: Vec<String>,
    /// Compare the model with the kernel's maps at every so many changes, and at the end.
    pub verify_every: Option<u64>,
    /// What is below is counted, not listed.
    pub min_confidence: Confidence,
    /// Where the followed calls are written as they happen.
    pub events: Option<Box<dyn Write>>,
}

/// What the follower tells while it follows.
pub trait Observer {
    /// A report as of now was asked for.
    fn report(&mut self, draft: Draft);
    /// How it stands.
    fn status(&mut self, status: &Status);
    /// Something that the user should know at once, in a line.
    fn warn(&mut self, line: &str);
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Time followed so far.
    pub followed: Duration,
    /// Tasks alive.
    pub threads: usize,
    /// Events so far.
    pub events: u64,
    /// Mappings now.
    pub mappings: usize,
    /// Findings so far that would be listed.
    pub findings: usize,
}

/// Follows a target to its end.
pub struct Follower<'a> {
    target: &'a mut dyn Target,
    control: &'a Control,
    options: Options,
    observer: &'a mut dyn Observer,
    model: Model,
    clock: Clock,
    verify: Verify,
    changes: u64,
    /// Findings and notes of processes that have ended, or were looked at for the last time.
    finished: Vec<Finding>,
    finished_notes: Vec<Note>,
    beyond_finished: u64,
    /// The target's size, and its threads and mappings, when last looked at.
    memory: Memory,
    last_counts: Option<(u64, u64)>,
    /// From the moment that all threads are followed.
    began: Option<Time>,
    /// When the target has last told something.
    now: Time,
    limits_seen: Option<Time>,
    at_end: bool,
    /// Whether nothing of the main process's life was missed.
    from_start: bool,
    /// What is to be said of processes that are in execve, if it succeeds.
    executing: HashMap<SpaceId, Executing>,
}

impl<'a> Follower<'a> {
    /// A follower of `target`, whose times count from `clock`.
    pub fn new(
        target: &'a mut dyn Target,
        control: &'a Control,
        clock: Clock,
        options: Options,
        observer: &'a mut dyn Observer,
    ) -> Follower<'a> {
        let model = if target.tells_all() { Model::new() } else { Model::partial() };
        Follower {
            target,
            control,
            options,
            observer,
            model,
            clock,
            verify: Verify::default(),
            changes: 0,
            finished: Vec::new(),
            finished_notes: Vec::new(),
            beyond_finished: 0,
            memory: Memory::default(),
            last_counts: None,
            began: None,
            now: Time::default(),
            limits_seen: None,
            at_end: false,
            from_start: true,
            executing: HashMap::new(),
        }
    }

    /// Follows until the target ends or a stop is asked for, and leaves whatever is still alive untouched.
    ///
    /// # Errors
    /// Why following ended early. What was gathered until then is in the report all the same.
    pub fn run(mut self) -> (Draft, io::Result<()>) {
        let result = self.follow();
        self.flush_events();
        (self.draft(), result)
    }

    fn follow(&mut self) -> io::Result<()> {
        loop {
            match self.target.next(self.control)? {
                Told::Event(event) => self.take(event),
                Told::Asked { at, report, status } => {
                    self.now = at;
                    self.answer(report, status);
                }
                Told::Quiet(at) => {
                    self.now = at;
                    self.look_at_the_living();
                    self.target.detach();
                    return Ok(());
                }
                Told::Finished(at) => {
                    self.now = at;
                    self.at_end = true;
                    return Ok(());
                }
            }
            if let Some(warning) = self.target.warning() {
                self.observer.warn(&warning);
            }
        }
    }

    /// Answers what was asked from outside.
    fn answer(&mut self, report: bool, status: bool) {
        if report {
            let draft = self.draft();
            self.observer.report(draft);
        }
        if status {
            let status = self.status();
            self.flush_events();
            self.observer.status(&status);
        }
    }

    fn take(&mut self, mut event: Event) {
        self.now = event.at;
        self.target.annotate(&mut event, &self.model);
        let event = &event;
        match self.model.ends(event) {
            Some(space) if event.kind == EventKind::Executing => return self.look_before_exec(space, event),
            Some(space) => self.last_look(space, event),
            None => {}
        }
        self.look_around(event);
        self.write_event(event);
        let applied = self.model.apply(event);
        self.target.learn(event, &self.model);
        if let (EventKind::Attached(_), Some(space)) = (&event.kind, self.model.space_of(event.tid)) {
            self.ask_library(space, event.tid);
        }
        self.from_start &= !matches!(event.kind, EventKind::Attached(_));
        self.forget_execve(event);
        match &event.kind {
            EventKind::Attached(_) | EventKind::Exec(_) if self.began.is_none() => self.begin(event.at),
            EventKind::Syscall(syscall) if self.ran_out(syscall) => self.look_at_limits(event),
            EventKind::Born(birth) if !birth.args.shares_memory() => self.look_at_child(birth, event),
            EventKind::LifecyclesAlone => self.look_at_idle_stacks(),
            _ => {}
        }
        if let Some(space) = applied.unclear {
            self.ask_the_kernel(space, event);
        } else if let Some(space) = applied.changed {
            self.changes += 1;
            if self.options.verify_every.is_some_and(|every| self.changes.is_multiple_of(every)) {
                self.check(space, event.tid);
            }
        }
    }

    /// All threads are followed from here on.
    fn begin(&mut self, at: Time) {
        self.began = Some(at);
        self.control.arm();
    }

    /// Takes over the kernel's maps where the arguments of a call do not tell what it did.
    fn ask_the_kernel(&mut self, space: SpaceId, event: &Event) {
        if let Some(maps) = self.target.maps(event.tid) {
            self.model.apply(&Event { kind: EventKind::Maps(maps), ..event.clone() });
        } else if !self.target.look_later(event.tid)
            && let Some(space) = self.model.space(space)
        {
            let pid = space.pid;
            self.note_incomplete(pid, "an address space could not be read after a call that failed halfway");
        }
    }

    /// Takes over what a fork has left out by advice that was not seen.
    fn look_at_child(&mut self, birth: &Birth, event: &Event) {
        let parent = self.model.space_of(event.tid).and_then(|id| self.model.space(id));
        if parent.is_none_or(|space| !space.has_unseen) {
            return;
        }
        if let Some(maps) = self.target.maps(birth.child) {
            self.model.apply(&Event { tid: birth.child, kind: EventKind::Maps(maps), ..event.clone() });
        } else {
            self.target.look_later(birth.child);
        }
    }

    /// Compares the model with the kernel's maps.
    fn check(&mut self, space: SpaceId, tid: Tid) {
        if self.model.calls() == Calls::Untold {
            return;
        }
        let Some(maps) = self.target.maps(tid) else {
            return;
        };
        let Some(space) = self.model.space_mut(space) else {
            return;
        };
        self.verify.checks += 1;
        let pid = space.pid;
        let unsure = self.target.unsure(tid);
        let mut compared = space.compare_but(&maps, &unsure);
        if compared.is_err() {
            let perhaps = space.perhaps_grown(&maps).into_iter();
            let grown: Vec<_> = perhaps.filter(|start| self.target.grows_down(tid, *start)).collect();
            if !grown.is_empty() {
                grown.into_iter().for_each(|start| space.grows_from(start));
                compared = space.compare_but(&maps, &unsure);
            }
        }
        self.verify.tolerated.add(std::mem::take(&mut space.tolerated));
        if let Err(mismatch) = compared {
            space.adopt(&maps);
            self.differs(pid, &mismatch);
        }
    }

    fn differs(&mut self, pid: Pid, mismatch: &Mismatch) {
        self.verify.mismatches += 1;
        self.observer.warn(&format!("model of process {pid}: {mismatch}"));
    }

    /// Whether a call failed for lack of something, and it is time to see of what.
    fn ran_out(&self, syscall: &Syscall) -> bool {
        let lacking = matches!(syscall.result, Err(syscalls::Errno::EAGAIN | syscalls::Errno::ENOMEM));
        lacking && self.limits_seen.is_none_or(|seen| self.now.since(seen) >= LIMITS_EVERY)
    }

    fn look_at_limits(&mut self, event: &Event) {
        let refusals = self.model.space_of(event.tid).and_then(|id| self.model.space(id));
        if refusals.is_none_or(|space| space.refusals.is_empty()) {
            return;
        }
        self.limits_seen = Some(event.at);
        if let Some(limits) = self.target.limits(event.tid) {
            self.model.apply(&Event { kind: EventKind::Limits(Box::new(limits)), ..event.clone() });
        }
    }

    fn note_incomplete(&mut self, pid: Pid, text: &str) {
        let known = self.finished_notes.iter_mut().find(|note| note.kind == NoteKind::Incomplete && note.text == text);
        match known {
            Some(note) => note.regions += 1,
            None => self.finished_notes.push(Note::incomplete(Some(pid), 1, text.to_owned())),
        }
    }

    fn write_event(&mut self, event: &Event) {
        let Some(out) = &mut self.options.events else {
            return;
        };
        let Some(line) = Some(notation::event(event, &self.clock)) else {
            return;
        };
        if let Err(error) = writeln!(out, "{line}") {
            self.options.events = None;
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                self.observer.warn(&format!("--events: {error}; following goes on without it"));
            }
        }
    }

    fn flush_events(&mut self) {
        if let Some(out) = &mut self.options.events
            && out.flush().is_err()
        {
            self.options.events = None;
        }
    }
}
