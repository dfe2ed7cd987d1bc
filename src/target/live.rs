//! A process that lives: its events come from a source, its answers from the system.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use super::origins::Origins;
use super::{Library, Process, Standing, Target, Told};
use nix::errno::Errno;

use crate::abi::clone;
use crate::diagnose::finding::Finding;

use crate::event::{CloneArgs, Event, Exit, Limits, StackRegion, Vma};
use crate::model::mapping::Imprint;
use crate::model::{Calls, Model, SpaceId};
use crate::procfs;
use crate::procfs::memory::ResidentPages;
use crate::report::draft::Places;
use crate::report::{Engine, Memory};
use crate::source::control::Control;
use crate::source::job::{Suspension, pass_on};
use crate::source::{Launched, Next, Source};
use crate::symbols::capture::{CallStacks, Task};
use crate::sys;
use crate::threadlib::{Libraries, Unavailable, are_settled};
use crate::units::{Addr, Pid, Range, Tid, page_up};

/// A process followed by a source.
#[derive(Debug)]
pub struct Live<S> {
    /// Where its events come from.
    pub source: S,
    libraries: Libraries,
    origins: Origins,
    suspension: Suspension,
}

impl<S: Source> Live<S> {
    /// The process that `source` follows.
    pub fn new(source: S) -> Live<S> {
        Live { source, libraries: Libraries::default(), origins: Origins::default(), suspension: Suspension::default() }
    }

    /// Does what was asked from outside, as far as it is the source's business; says what is the follower's.
    fn answer(&mut self, control: &Control) -> Told {
        let mut requests = control.take();
        if requests.look_after_held {
            self.source.look_after_held();
        }
        // When the program has ended, its number may be somebody else's, and the signals are for those that it has left.
        let mut is_over = requests.stop;
        let lives = self.source.main_exit().is_none();
        self.suspension.hear(&requests);
        requests.signals.retain(|sent| self.suspension.admits(sent));
        if !requests.signals.is_empty() {
            requests.signals.iter_mut().for_each(|sent| sent.is_for_group &= lives);
            let to = if lives { vec![self.source.main_pid()] } else { self.source.others() };
            is_over |= to.is_empty();
            pass_on(&requests, &to);
        }
        self.suspend_with_main(control, requests.seems_stopped);
        if is_over {
            self.source.close();
        }
        Told::Asked { at: self.source.now(), report: requests.report, status: requests.status }
    }

    /// Stops with the program when that was stopped, so that the shell sees the job stopped.
    fn suspend_with_main(&mut self, control: &Control, seems_stopped: bool) {
        // Somebody among those that run may be about to continue it.
        let takes_us = seems_stopped && !self.source.others_run();
        if self.suspension.is_due(takes_us, || self.source.main_is_stopped(), || control.is_continued()) {
            self.source.stop_too();
        }
    }
}

impl<S: Launched> Live<S> {
    /// Waits for the end of the launched process, which may have been left to itself before.
    ///
    /// # Errors
    /// When somebody else has taken its status.
    pub fn wait_for_main(&mut self, control: &Control) -> Result<Exit, Errno> {
        self.source.wait_for_main(control, self.suspension)
    }
}

impl<S: Source> Target for Live<S> {
    fn next(&mut self, control: &Control) -> io::Result<Told> {
        self.suspend_with_main(control, false);
        if self.source.main_exit().is_some() {
            control.main_has_ended();
        }
        Ok(match self.source.next(control)? {
            Next::Event(event) => Told::Event(event),
            Next::Woken => self.answer(control),
            Next::Quiet => Told::Quiet(self.source.now()),
            Next::Finished => Told::Finished(self.source.now()),
        })
    }

    fn annotate(&mut self, event: &mut Event, model: &Model) {
        let (stand, held) = (self.source.stand(), self.source.held(event.tid));
        self.origins.annotate(event, model, &mut self.libraries, stand, held.as_ref());
    }

    fn learn(&mut self, event: &Event, model: &Model) {
        if let Some(bytes) = self.origins.learn(event, model) {
            self.source.expect_stacks(bytes);
        }
    }

    fn stack_region(&mut self, event: &Event, args: &CloneArgs, model: &Model) -> Option<StackRegion> {
        let space = model.space_of(event.tid)?;
        let (below, line) = procfs::maps::around(event.tid, Addr(args.stack_top()?.0.checked_sub(1)?))?;
        let has_descriptor = args.flags & clone::SETTLS != 0;
        let reader = self.libraries.reader(space, event.tid, None);
        let block = has_descriptor.then(|| self.libraries.stack_of(space, &reader, args.tls)).flatten();
        Some(StackRegion { line, below, block })
    }

    fn imprint(&mut self, space: SpaceId, tid: Tid, top: Addr) -> Option<Imprint> {
        /// The first frames, and above them what clone(3) has put there.
        const BELOW: u64 = 512;
        const ABOVE: u64 = 16;
        let end = page_up(top.0).min(top.0.checked_add(ABOVE)?);
        let at = Addr(top.0.checked_sub(BELOW)?);
        let mut contents = [0u8; (BELOW + ABOVE) as usize];
        let contents = contents.get_mut(..usize::try_from(end - at.0).ok()?)?;
        // What others have put there since is not what it has left.
        if sys::may_read_memory(tid) == Err(Errno::ESRCH) {
            return None;
        }
        self.libraries.memory(space, tid).read(at, contents).ok()?;
        let mut hasher = DefaultHasher::new();
        contents.hash(&mut hasher);
        let says_something = contents.iter().any(|byte| *byte != 0);
        says_something.then_some(Imprint(hasher.finish()))
    }

    fn maps(&mut self, tid: Tid) -> Option<Box<[Vma]>> {
        self.source.maps(tid)
    }

    fn unsure(&mut self, tid: Tid) -> Vec<Range> {
        self.source.unsure(tid).to_vec()
    }

    fn grows_down(&mut self, tid: Tid, at: Addr) -> bool {
        procfs::maps::grows_down(tid, at)
    }

    fn look_later(&mut self, tid: Tid) -> bool {
        self.source.look_later(tid)
    }

    fn library(&mut self, model: &Model, space: SpaceId, tid: Tid) -> Option<Result<Library, Unavailable>> {
        if model.calls() == Calls::Untold {
            // Other code may have been mapped since it was looked at.
            self.origins.forget(space);
        }
        let held = self.source.held(tid);
        let reader = self.libraries.reader(space, tid, held.as_deref());
        let lists = self.libraries.lists(model, space, &reader)?;
        // Read after the lists: whoever came on them since is among these.
        let ahead = self.source.ahead(tid);
        let tasks = || model.tasks_of(space).map(|(tid, task)| (tid, task.anchor));
        Some(lists.map(|mut lists| {
            lists.settled = ahead.is_empty() && are_settled(tasks().map(|(tid, _)| tid));
            lists.find_tasks(tasks().chain(ahead));
            let functions = self.origins.functions(space, Task { tid, held: held.as_ref() }, &lists);
            Library { lists, functions }
        }))
    }

    fn resident(&mut self, tid: Tid, findings: &[Finding]) -> Option<Vec<u64>> {
        let (own, held);
        held = self.source.held(tid);
        let pages = match held.as_deref() {
            Some(held) => &held.pages,
            None => {
                own = ResidentPages::open(tid).ok()?;
                &own
            }
        };
        let of_finding = |finding: &Finding| {
            let pieces = finding.members.iter().flat_map(|member| &member.pieces);
            pieces.map(|piece| pages.count(*piece).ok()).sum()
        };
        findings.iter().map(of_finding).collect()
    }

    fn process(&mut self, tid: Tid) -> Process {
        let maps = procfs::maps::read(tid).unwrap_or_default();
        let named = |name: &[u8], part: &[u8]| name.windows(part.len()).any(|window| window == part);
        // Of a process that is gone the kernel says 0.
        let size = procfs::task::size(tid).filter(|(virt, _)| *virt > 0);
        Process {
            memory: Memory {
                virtual_bytes: size.map(|(virt, _)| virt),
                resident_bytes: size.map(|(_, resident)| resident),
                vmas: Some(maps.len() as u64).filter(|count| *count > 0),
                max_map_count: procfs::limits::max_map_count(),
            },
            has_leak_sanitizer: self.source.engine() == Engine::Ptrace
                && maps.iter().any(|vma| named(&vma.name, b"/libasan.so") || named(&vma.name, b"/liblsan.so")),
        }
    }

    fn limits(&mut self, tid: Tid) -> Option<Limits> {
        Some(procfs::limits::look(tid))
    }

    fn standing(&mut self) -> Standing {
        Standing {
            exit: self.source.main_exit(),
            stops: self.source.stops(),
            lost: self.source.lost(),
            notes: self.source.notes(),
            ceiling: None,
        }
    }

    fn warning(&mut self) -> Option<String> {
        self.source.warning()
    }

    fn main_pid(&self) -> Pid {
        self.source.main_pid()
    }

    fn engine(&self) -> Engine {
        self.source.engine()
    }

    fn captured(&self) -> &CallStacks {
        self.origins.captured()
    }

    fn remember(&mut self, pid: Pid) {
        self.origins.remember(pid);
    }

    fn places(&self, findings: &[Finding]) -> Places {
        Places { writers: self.origins.writers(), ..Places::of(findings, self.captured()) }
    }

    fn forget(&mut self, space: SpaceId) {
        self.libraries.forget(space);
        self.origins.forget(space);
    }

    fn detach(&mut self) {
        self.source.detach();
    }
}
