//! Moments at which a target is asked for something that it has no good answer to.

use std::collections::VecDeque;

use super::*;
use crate::event::{Attached, AttachedTask, Call, Limits, Prot, Sharing, Vma};
use crate::report::Engine;
use crate::source::control::Manners;
use crate::symbols::capture::CallStacks;
use crate::target::{Library, Process, Standing};
use crate::threadlib::Unavailable;
use crate::units::{Addr, Range};

/// What happens, and what the kernel shows afterwards.
struct Scripted {
    told: VecDeque<Told>,
    maps: Box<[Vma]>,
    captured: CallStacks,
    unavailable: Option<Unavailable>,
    /// How often it was asked for its sizes, which is what it says that these are.
    asked: u64,
}

const MAIN: i32 = 7;

impl Target for Scripted {
    fn next(&mut self, _: &Control) -> io::Result<Told> {
        Ok(self.told.pop_front().expect("it has been asked to end"))
    }

    fn maps(&mut self, _: Tid) -> Option<Box<[Vma]>> {
        Some(self.maps.clone())
    }

    fn library(&mut self, _: &Model, _: SpaceId, _: Tid) -> Option<Result<Library, Unavailable>> {
        self.unavailable.clone().map(Err)
    }

    fn resident(&mut self, _: Tid, _: &[Finding]) -> Option<Vec<u64>> {
        None
    }

    fn process(&mut self, _: Tid) -> Process {
        self.asked += 1;
        Process { memory: Memory { virtual_bytes: Some(self.asked), ..Memory::default() }, ..Process::default() }
    }

    fn limits(&mut self, _: Tid) -> Option<Limits> {
        None
    }

    fn standing(&mut self) -> Standing {
        Standing::default()
    }

    fn main_pid(&self) -> Pid {
        Pid(MAIN)
    }

    fn engine(&self) -> Engine {
        Engine::Ptrace
    }

    fn captured(&self) -> &CallStacks {
        &self.captured
    }
}

/// What is observed: reports as of now, and warnings.
#[derive(Default)]
struct Seen {
    reports: Vec<Draft>,
    warnings: Vec<String>,
}

impl Observer for Seen {
    fn report(&mut self, draft: Draft) {
        self.reports.push(draft);
    }

    fn status(&mut self, _: &Status) {}

    fn warn(&mut self, line: &str) {
        self.warnings.push(line.to_owned());
    }
}

fn mapping(start: u64) -> Vma {
    Vma {
        range: Range::of_len(Addr(start), 0x2000).unwrap(),
        prot: Prot::READ,
        sharing: Sharing::Private,
        offset: 0,
        inode: 0,
        device: 0,
        name: Box::default(),
    }
}

/// Follows a process of two threads through these events, to the end that is asked for; the kernel shows a new program.
fn follow(events: Vec<EventKind>, then: Vec<Told>) -> (Seen, Draft) {
    let attached = |tid| AttachedTask { tid: Tid(tid), pid: Pid(MAIN), sp: None, tls: None };
    let attached = Attached {
        pid: Pid(MAIN),
        tasks: vec![attached(MAIN), attached(MAIN + 1)],
        maps: [mapping(0x10000)].into(),
        start_brk: None,
        read_implies_exec: false,
    };
    let event = |kind| Told::Event(Event { at: Time::default(), tid: Tid(MAIN + 1), call_stack: None, kind });
    let told = [EventKind::Attached(Box::new(attached))].into_iter().chain(events).map(event).chain(then).collect();
    let maps = [mapping(0x90000)].into();
    let unavailable = Some(Unavailable::Gone);
    let mut target = Scripted { told, maps, captured: CallStacks::default(), unavailable, asked: 0 };
    let options = Options {
        mode: Mode::Attach,
        command: Vec::new(),
        verify_every: Some(1),
        min_confidence: Confidence::Possible,
        events: None,
    };
    let (control, mut seen) = (Control::new(Manners::Attached), Seen::default());
    let clock = Clock::new("2019-02-21T23:00:00[UTC]".parse().unwrap());
    let follower = Follower::new(&mut target, &control, clock, options, &mut seen);
    let (draft, result) = follower.run();
    result.unwrap();
    (seen, draft)
}

/// Who is in execve may run the new program already, which nobody has told yet: it is neither compared nor judged by that.
#[test]
fn execve_is_under_way_when_following_ends() {
    let (seen, draft) = follow(vec![EventKind::Executing], vec![Told::Quiet(Time::default())]);
    let verify = draft.report.verify.unwrap();
    assert_eq!((verify.checks, verify.mismatches, seen.warnings), (0, 0, vec![]));
    // Otherwise it is.
    let (seen, draft) = follow(vec![], vec![Told::Quiet(Time::default())]);
    let verify = draft.report.verify.unwrap();
    assert_eq!((verify.checks, verify.mismatches, seen.warnings.len()), (1, 1, 1));
}

/// That an execve has failed may not be told: records may be lost, and thread lifecycles alone do not tell. Who does something
/// else is in none.
#[test]
fn execve_was_over_before() {
    let munmap = Syscall { call: Call::Munmap { addr: Addr(0), len: 4096 }, result: Ok(0), mapped: None };
    let execve =
        Syscall { call: Call::Execve { path: Addr(0), argv: Addr(0), envp: Addr(0) }, result: Ok(0), mapped: None };
    for (since, is_over) in
        [(EventKind::Syscall(munmap), true), (EventKind::LifecyclesAlone, true), (EventKind::Syscall(execve), false)]
    {
        let asked = || Told::Asked { at: Time::default(), report: true, status: false };
        let then = vec![asked(), Told::Finished(Time::default())];
        let (seen, _) = follow(vec![EventKind::Executing, since], then);
        let sizes = seen.reports[0].report.memory.virtual_bytes;
        assert_eq!(sizes, Some(if is_over { 2 } else { 1 }));
    }
}

/// A report as of now says how it was at the call, and asks nobody about what may be half gone.
#[test]
fn execve_is_under_way_when_a_report_is_asked_for() {
    for (events, sizes) in [(vec![EventKind::Executing], [1, 1]), (vec![], [1, 2])] {
        let asked = || Told::Asked { at: Time::default(), report: true, status: false };
        let (seen, _) = follow(events, vec![asked(), asked(), Told::Finished(Time::default())]);
        let seen: Vec<Option<u64>> = seen.reports.iter().map(|draft| draft.report.memory.virtual_bytes).collect();
        assert_eq!(seen, sizes.map(Some));
    }
}

/// That nobody could be asked for the thread lists is said.
#[test]
fn the_process_was_gone() {
    let (_, draft) = follow(vec![], vec![Told::Quiet(Time::default())]);
    let notes: Vec<(NoteKind, &str)> = draft.report.notes.iter().map(|note| (note.kind, note.text.as_str())).collect();
    let text = "what its threads have left is known by system calls alone: the process was gone before its memory could be read";
    assert_eq!(notes, [(NoteKind::Incomplete, text)]);
}
