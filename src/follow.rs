//! Following a process: events from a source into the model, the model against the kernel, and out comes a report.

mod drafting;
mod judging;
mod origins;

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};

use crate::diagnose::finding::{Confidence, Finding, Note, NoteKind};
use crate::event::{Birth, Call, Event, EventKind, Syscall};
use crate::model::kernel::Mismatch;
use crate::model::{Model, SpaceId};
use crate::procfs;
use crate::report::draft::Draft;
use crate::report::{Clock, Memory, Mode, Verify, notation};
use crate::source::Next;
use crate::source::control::Control;
use crate::source::ptrace::Ptrace;
use crate::threadlib::Libraries;
use crate::units::{Pid, Tid, Time};
use judging::Executing;
use origins::Origins;

/// Limits are looked at no more often than this: a program that runs into one does so again and again.
const LIMITS_EVERY: Duration = Duration::from_secs(1);

/// How long the terminal's wish to stop the job is remembered, until the program has done so.
const SUSPEND_WITHIN: Duration = Duration::from_millis(500);

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

/// Follows one source to its end.
pub struct Follower<'a> {
    source: Ptrace,
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
    limits_seen: Option<Instant>,
    libraries: Libraries,
    origins: Origins,
    suspend_until: Option<Instant>,
    at_end: bool,
    /// What is to be said of processes that are in execve, if it succeeds.
    executing: HashMap<SpaceId, Executing>,
}

impl<'a> Follower<'a> {
    /// A follower of `source`, whose times count from `clock`.
    pub fn new(
        source: Ptrace,
        control: &'a Control,
        clock: Clock,
        options: Options,
        observer: &'a mut dyn Observer,
    ) -> Follower<'a> {
        Follower {
            source,
            control,
            options,
            observer,
            model: Model::new(),
            clock,
            verify: Verify::default(),
            changes: 0,
            finished: Vec::new(),
            finished_notes: Vec::new(),
            beyond_finished: 0,
            memory: Memory::default(),
            last_counts: None,
            began: None,
            limits_seen: None,
            libraries: Libraries::default(),
            origins: Origins::default(),
            suspend_until: None,
            at_end: false,
            executing: HashMap::new(),
        }
    }

    /// Follows until the target ends or a stop is asked for, and leaves whatever is still alive untouched.
    ///
    /// # Errors
    /// When the kernel refuses what it must not refuse. What was gathered until then is in the report all the same.
    pub fn run(mut self) -> (Draft, Ptrace, Result<(), Errno>) {
        let result = self.follow();
        self.flush_events();
        let draft = self.draft();
        (draft, self.source, result)
    }

    fn follow(&mut self) -> Result<(), Errno> {
        loop {
            match self.source.next(self.control)? {
                Next::Event(event) => self.take(event),
                Next::Woken => self.answer(),
                Next::Quiet => {
                    self.look_at_the_living();
                    self.source.detach();
                    return Ok(());
                }
                Next::Finished => {
                    self.at_end = true;
                    return Ok(());
                }
            }
        }
    }

    /// Answers what was asked from outside.
    fn answer(&mut self) {
        let requests = self.control.take();
        if requests.look_after_held {
            self.source.look_after_held();
        }
        let main = nix::unistd::Pid::from_raw(self.source.main_pid().0);
        for signal in requests.signals() {
            // It may have ended this moment; then there is nobody to pass the signal on to.
            if let Ok(signal) = Signal::try_from(signal) {
                let _ = signal::kill(main, signal);
            }
        }
        if requests.suspend {
            self.suspend_until = Some(Instant::now() + SUSPEND_WITHIN);
        }
        self.suspend_with_target();
        if requests.report {
            let draft = self.draft();
            self.observer.report(draft);
        }
        if requests.status {
            let status = self.status();
            self.flush_events();
            self.observer.status(&status);
        }
        if requests.stop {
            self.source.close();
        }
    }

    /// Stops with the program when the terminal stops the job, so that the shell sees it stopped.
    fn suspend_with_target(&mut self) {
        let Some(until) = self.suspend_until else {
            return;
        };
        if self.source.main_is_stopped() {
            self.suspend_until = None;
            let _ = signal::raise(Signal::SIGSTOP);
        } else if Instant::now() > until {
            self.suspend_until = None;
        }
    }

    fn take(&mut self, mut event: Event) {
        self.origins.annotate(&mut event, &self.model, &mut self.libraries);
        let event = &event;
        match self.model.ends(event) {
            Some(space) if event.kind == EventKind::Executing => return self.look_before_exec(space, event),
            Some(space) => self.last_look(space, event),
            None => {}
        }
        self.write_event(event);
        let applied = self.model.apply(event);
        self.origins.learn(event, &self.model);
        if let (EventKind::Attached(_), Some(space)) = (&event.kind, self.model.space_of(event.tid)) {
            self.ask_library(space, event.tid);
        }
        match &event.kind {
            EventKind::Attached(_) | EventKind::Exec(_) if self.began.is_none() => self.begin(event.at),
            EventKind::Syscall(Syscall {
                call: Call::Execve { .. } | Call::Execveat { .. }, result: Err(_), ..
            }) => {
                self.executing.retain(|_, executing| executing.tid != event.tid);
            }
            EventKind::Syscall(syscall) if self.ran_out(syscall) => self.look_at_limits(event),
            EventKind::Born(birth) if !birth.args.shares_memory() => self.look_at_child(birth, event),
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
        self.suspend_with_target();
    }

    /// All threads are followed from here on.
    fn begin(&mut self, at: Time) {
        self.began = Some(at);
        self.control.arm();
        if let (Some(errno), Mode::Launch) = (self.source.unfiltered(), self.options.mode) {
            self.observer.warn(&format!(
                "no seccomp filter could be installed ({errno}): every system call of the program stops, which is slow"
            ));
        }
    }

    /// Takes over the kernel's maps where the arguments of a call do not tell what it did.
    fn ask_the_kernel(&mut self, space: SpaceId, event: &Event) {
        if let Some(maps) = self.settled_maps(event.tid) {
            self.model.apply(&Event { kind: EventKind::Maps(maps), ..event.clone() });
        } else if let Some(space) = self.model.space(space) {
            let pid = space.pid;
            self.note_incomplete(pid, "an address space could not be read after a call that failed halfway");
        }
    }

    /// Takes over what a fork has left out by advice that was not seen.
    fn look_at_child(&mut self, birth: &Birth, event: &Event) {
        let parent = self.model.space_of(event.tid).and_then(|id| self.model.space(id));
        if parent.is_some_and(|space| space.has_unseen)
            && let Some(maps) = self.settled_maps(birth.child)
        {
            self.model.apply(&Event { tid: birth.child, kind: EventKind::Maps(maps), ..event.clone() });
        }
    }

    /// The kernel's maps, if no change is under way that the model has not seen.
    fn settled_maps(&self, tid: Tid) -> Option<Box<[crate::event::Vma]>> {
        if !self.source.is_settled(tid) {
            return None;
        }
        procfs::maps::read(tid).ok().filter(|maps| !maps.is_empty())
    }

    /// Compares the model with the kernel's maps.
    fn check(&mut self, space: SpaceId, tid: Tid) {
        let Some(maps) = self.settled_maps(tid) else {
            return;
        };
        let Some(space) = self.model.space_mut(space) else {
            return;
        };
        self.verify.checks += 1;
        let pid = space.pid;
        if let Err(mismatch) = space.compare(&maps) {
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
        lacking && self.limits_seen.is_none_or(|seen| seen.elapsed() >= LIMITS_EVERY)
    }

    fn look_at_limits(&mut self, event: &Event) {
        let refusals = self.model.space_of(event.tid).and_then(|id| self.model.space(id));
        if refusals.is_none_or(|space| space.refusals.is_empty()) {
            return;
        }
        self.limits_seen = Some(Instant::now());
        let limits = Box::new(procfs::limits::look(event.tid));
        self.model.apply(&Event { kind: EventKind::Limits(limits), ..event.clone() });
    }

    fn note_incomplete(&mut self, pid: Pid, text: &str) {
        let known = self.finished_notes.iter_mut().find(|note| note.kind == NoteKind::Incomplete && note.text == text);
        match known {
            Some(note) => note.regions += 1,
            None => self.finished_notes.push(incomplete(Some(pid), 1, text.to_owned())),
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

/// A note on something that could not be seen.
fn incomplete(pid: Option<Pid>, regions: u64, text: String) -> Note {
    Note { kind: NoteKind::Incomplete, pid, regions, virtual_bytes: 0, text }
}
