//! Writes down what a target tells and answers, on its way to the follower.

use std::borrow::Cow;
use std::io;

use super::format::{After, Answer, Changed, Item, Stood, Told as Record};
use super::writer::Writer;
use crate::diagnose::finding::Finding;
use crate::event::{CloneArgs, Event, Limits, StackRegion, Vma};
use crate::model::mapping::Imprint;
use crate::model::{Model, SpaceId};
use crate::report::Engine;
use crate::report::draft::Places;
use crate::source::control::Control;
use crate::symbols::capture::CallStacks;
use crate::target::{Library, Process, Standing, Target, Told};
use crate::threadlib::Unavailable;
use crate::units::{Addr, Pid, Range, Tid, Time};

/// A target that is recorded.
pub struct Recorder<'a> {
    target: &'a mut dyn Target,
    writer: &'a Writer,
    /// When something was told last.
    last: Time,
    /// How many modules, places and call stacks have been written.
    written: [usize; 3],
    /// The maps that were recorded last.
    maps: Box<[Vma]>,
}

impl<'a> Recorder<'a> {
    /// Records `target`.
    pub fn new(target: &'a mut dyn Target, writer: &'a Writer) -> Recorder<'a> {
        Recorder { target, writer, last: Time::default(), written: [0; 3], maps: Box::default() }
    }

    fn told(&mut self, at: Time, told: Record<'_>) {
        let nanoseconds = |time: Time| i64::try_from(time.0.as_nanos()).unwrap_or(i64::MAX);
        self.writer.add(&Item::Told(After(nanoseconds(at).saturating_sub(nanoseconds(self.last)), told)));
        self.last = at;
    }

    fn answered(&mut self, answer: Answer<'_>) {
        self.define();
        self.writer.add(&Item::Answer(answer));
    }

    /// Writes the places and stacks that have been captured since, for what follows names them by number.
    fn define(&mut self) {
        let CallStacks { modules, places, .. } = self.target.captured();
        let [modules_written, places_written, stacks_written] = &mut self.written;
        for module in modules.identified().skip(*modules_written) {
            self.writer.add(&Item::Module(module));
            *modules_written += 1;
        }
        for place in places.all().skip(*places_written) {
            self.writer.add(&Item::Place(place));
            *places_written += 1;
        }
        for stack in places.all_stacks().skip(*stacks_written) {
            self.writer.add(&Item::CallStack(Cow::Borrowed(stack)));
            *stacks_written += 1;
        }
    }
}

impl Target for Recorder<'_> {
    fn next(&mut self, control: &Control) -> io::Result<Told> {
        let told = self.target.next(control);
        match &told {
            // Written when it has been annotated.
            Ok(Told::Event(_) | Told::Asked { report: false, .. }) => {}
            Ok(Told::Asked { at, report: true, .. }) => self.told(*at, Record::Asked),
            Ok(Told::Quiet(at)) => self.told(*at, Record::Quiet),
            Ok(Told::Finished(at)) => self.told(*at, Record::Finished),
            Err(error) => self.told(self.last, Record::Failed(error.to_string())),
        }
        told
    }

    fn annotate(&mut self, event: &mut Event, model: &Model) {
        self.target.annotate(event, model);
        self.define();
        let Event { at, tid, call_stack, kind } = &*event;
        self.told(*at, Record::Event { tid: *tid, call_stack: *call_stack, kind: Cow::Borrowed(kind) });
    }

    fn learn(&mut self, event: &Event, model: &Model) {
        self.target.learn(event, model);
    }

    fn stack_region(&mut self, event: &Event, args: &CloneArgs, model: &Model) -> Option<StackRegion> {
        let region = self.target.stack_region(event, args, model);
        self.answered(Answer::StackRegion(region.as_ref().map(Cow::Borrowed)));
        region
    }

    fn imprint(&mut self, space: SpaceId, tid: Tid, top: Addr) -> Option<Imprint> {
        let imprint = self.target.imprint(space, tid, top);
        self.answered(Answer::Imprint(imprint));
        imprint
    }

    fn maps(&mut self, tid: Tid) -> Option<Box<[Vma]>> {
        let maps = self.target.maps(tid);
        let before = std::mem::take(&mut self.maps);
        self.answered(Answer::Maps(maps.as_deref().map(|maps| Changed::between(&before, maps))));
        self.maps = maps.clone().unwrap_or(before);
        maps
    }

    fn unsure(&mut self, tid: Tid) -> Vec<Range> {
        let unsure = self.target.unsure(tid);
        self.answered(Answer::Unsure(Cow::Borrowed(&unsure)));
        unsure
    }

    fn grows_down(&mut self, tid: Tid, at: Addr) -> bool {
        let grows = self.target.grows_down(tid, at);
        self.answered(Answer::GrowsDown(grows));
        grows
    }

    fn look_later(&mut self, tid: Tid) -> bool {
        let looks = self.target.look_later(tid);
        self.answered(Answer::LooksLater(looks));
        looks
    }

    fn library(&mut self, model: &Model, space: SpaceId, tid: Tid) -> Option<Result<Library, Unavailable>> {
        let library = self.target.library(model, space, tid);
        let answer = library.as_ref().map(|asked| asked.as_ref().map(Cow::Borrowed).map_err(Clone::clone));
        self.answered(Answer::Library(answer));
        library
    }

    fn resident(&mut self, tid: Tid, findings: &[Finding]) -> Option<Vec<u64>> {
        let resident = self.target.resident(tid, findings);
        self.answered(Answer::Resident(resident.as_deref().map(Cow::Borrowed)));
        resident
    }

    fn process(&mut self, tid: Tid) -> Process {
        let process = self.target.process(tid);
        self.answered(Answer::Process(process));
        process
    }

    fn limits(&mut self, tid: Tid) -> Option<Limits> {
        let limits = self.target.limits(tid);
        self.answered(Answer::Limits(limits.as_ref().map(Cow::Borrowed)));
        limits
    }

    fn standing(&mut self) -> Standing {
        let standing = self.target.standing();
        self.answered(Answer::Standing(Stood::from(&standing)));
        standing
    }

    fn warning(&mut self) -> Option<String> {
        let broken = || {
            let error = self.writer.error()?;
            Some(format!("--record: {error}; following goes on without it"))
        };
        self.target.warning().or_else(broken)
    }

    fn main_pid(&self) -> Pid {
        self.target.main_pid()
    }

    fn engine(&self) -> Engine {
        self.target.engine()
    }

    fn captured(&self) -> &CallStacks {
        self.target.captured()
    }

    fn places(&self, findings: &[Finding]) -> Places {
        self.target.places(findings)
    }

    fn remember(&mut self, pid: Pid) {
        self.target.remember(pid);
    }

    fn forget(&mut self, space: SpaceId) {
        self.target.forget(space);
    }

    fn detach(&mut self) {
        self.target.detach();
    }
}
