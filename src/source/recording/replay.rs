//! Tells and answers what was recorded.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::time::Duration;

use super::format::{Answer, Heading, Item, Named, Told as Record};
use super::reader::{Extent, NotARecording, Reader};
use crate::diagnose::finding::{Finding, Frame, Note};
use crate::event::{CloneArgs, Event, Limits, StackRegion, Vma};
use crate::model::mapping::Imprint;
use crate::model::{Model, SpaceId};
use crate::report::Engine;
use crate::report::draft::Places;
use crate::source::control::Control;
use crate::symbols::capture::CallStacks;
use crate::symbols::module::{Identified, MOST_MODULES};
use crate::symbols::places::Place;
use crate::target::{Library, Process, Standing, Target, Told};
use crate::threadlib::Unavailable;
use crate::units::{Addr, Pid, Range, Tid, Time};

/// Places of which names are recorded: no recording of ours has more.
const MOST_NAMES: usize = 1 << 18;

/// Memory for the files and names of a recording, in bytes: packed they may be a thousandth of it.
const MOST_TEXT: usize = 256 << 20;

/// Frames of a call stack.
const MOST_FRAMES: usize = 128;

/// A recording as a target.
#[derive(Debug)]
pub struct Replay<'a> {
    reader: Reader<'a>,
    heading: Heading,
    captured: CallStacks,
    modules: Vec<Identified>,
    names: Vec<Named>,
    /// What is left for these two, in bytes.
    text_left: usize,
    /// The item that is next, if it has been looked at already.
    ahead: Option<Item<'static>>,
    now: Time,
    /// The maps that were answered last.
    maps: Box<[Vma]>,
    /// Answers that were asked for and are not there.
    unanswered: u64,
    /// Somebody wants no more of it.
    stopped: bool,
}

impl<'a> Replay<'a> {
    /// Opens a recording.
    ///
    /// # Errors
    /// Why there is nothing that could be replayed.
    pub fn open(file: Box<dyn BufRead + 'a>) -> Result<Replay<'a>, NotARecording> {
        let (reader, heading) = Reader::open(file)?;
        Ok(Replay {
            reader,
            heading,
            captured: CallStacks::default(),
            modules: Vec::new(),
            names: Vec::new(),
            text_left: MOST_TEXT,
            ahead: None,
            now: Time::default(),
            maps: Box::default(),
            unanswered: 0,
            stopped: false,
        })
    }

    /// What was followed, and how.
    pub fn heading(&self) -> &Heading {
        &self.heading
    }

    /// The next item that is told or answered. Places and names are taken in on the way.
    fn item(&mut self) -> Option<Item<'static>> {
        if let Some(item) = self.ahead.take() {
            return Some(item);
        }
        loop {
            match self.reader.next()? {
                // Beyond these numbers it is a damaged one, or made to fill our memory.
                Item::Module(_) if self.modules.len() >= MOST_MODULES || self.text_left == 0 => {}
                Item::Names(_) if self.names.len() >= MOST_NAMES || self.text_left == 0 => {}
                Item::CallStack(frames) if frames.len() > MOST_FRAMES => {
                    _ = self.captured.places.stack(&frames[..MOST_FRAMES]);
                }
                Item::Module(module) => {
                    self.take_text(size_of::<Identified>() + module.path.len());
                    self.captured.modules.add_recorded(&module);
                    self.modules.push(module);
                }
                Item::Place(place) => drop(self.captured.places.place(self.known(place))),
                Item::CallStack(frames) => drop(self.captured.places.stack(&frames)),
                Item::Names(named) => {
                    self.take_text(size_of::<Named>() + named.frames.iter().map(Frame::bytes).sum::<usize>());
                    self.names.push(Named { place: self.known(named.place), ..named });
                }
                item => return Some(item),
            }
        }
    }

    fn take_text(&mut self, bytes: usize) {
        self.text_left = self.text_left.saturating_sub(bytes);
    }

    /// The place, in a module that there is: a damaged recording may name another.
    fn known(&self, place: Place) -> Place {
        match place {
            Place::Module { module, offset } if self.captured.modules.find(module).is_none() => {
                Place::Anonymous(crate::units::Addr(offset))
            }
            place => place,
        }
    }

    /// The answer that was recorded next, if it is one to this question.
    fn answer(&mut self, fits: fn(&Answer<'_>) -> bool) -> Option<Answer<'static>> {
        match self.item() {
            Some(Item::Answer(answer)) if fits(&answer) => return Some(answer),
            other => self.ahead = other,
        }
        self.unanswered += 1;
        None
    }

    fn at(&mut self, after: i64) -> Time {
        let elapsed = Duration::from_nanos(after.unsigned_abs());
        let now = self.now.0;
        self.now = Time(if after < 0 { now.saturating_sub(elapsed) } else { now.saturating_add(elapsed) });
        self.now
    }

    /// Reads on to what is told next, or to the end: names stand there.
    fn finish(&mut self) {
        self.ahead = self.item();
    }
}

impl Target for Replay<'_> {
    fn next(&mut self, control: &Control) -> io::Result<Told> {
        if control.pending() && control.take().stop {
            self.stopped = true;
            return Ok(Told::Quiet(self.now));
        }
        while let Some(item) = self.item() {
            // An answer here is one that nobody has asked for.
            let Item::Told(told) = item else { continue };
            let at = self.at(told.0);
            return match told.1 {
                Record::Event { tid, call_stack, kind } => {
                    Ok(Told::Event(Event { at, tid, call_stack, kind: kind.into_owned() }))
                }
                Record::Asked => Ok(Told::Asked { at, report: true, status: false }),
                Record::Quiet => Ok(Told::Quiet(at)),
                Record::Finished => Ok(Told::Finished(at)),
                Record::Failed(error) => Err(io::Error::other(error)),
            };
        }
        Ok(Told::Quiet(self.now))
    }

    fn stack_region(&mut self, _: &Event, _: &CloneArgs, _: &Model) -> Option<StackRegion> {
        let Answer::StackRegion(region) = self.answer(|answer| matches!(answer, Answer::StackRegion(_)))? else {
            return None;
        };
        region.map(Cow::into_owned)
    }

    fn imprint(&mut self, _: SpaceId, _: Tid, _: Addr) -> Option<Imprint> {
        let Answer::Imprint(imprint) = self.answer(|answer| matches!(answer, Answer::Imprint(_)))? else { return None };
        imprint
    }

    fn maps(&mut self, _: Tid) -> Option<Box<[Vma]>> {
        let Answer::Maps(maps) = self.answer(|answer| matches!(answer, Answer::Maps(_)))? else { return None };
        self.maps = maps?.after(&self.maps);
        Some(self.maps.clone())
    }

    fn unsure(&mut self, _: Tid) -> Vec<Range> {
        match self.answer(|answer| matches!(answer, Answer::Unsure(_))) {
            Some(Answer::Unsure(unsure)) => unsure.into_owned(),
            _ => Vec::new(),
        }
    }

    fn grows_down(&mut self, _: Tid, _: Addr) -> bool {
        matches!(self.answer(|answer| matches!(answer, Answer::GrowsDown(_))), Some(Answer::GrowsDown(true)))
    }

    fn look_later(&mut self, _: Tid) -> bool {
        let Some(Answer::LooksLater(looks)) = self.answer(|answer| matches!(answer, Answer::LooksLater(_))) else {
            return false;
        };
        looks
    }

    fn library(&mut self, _: &Model, _: SpaceId, _: Tid) -> Option<Result<Library, Unavailable>> {
        let Answer::Library(library) = self.answer(|answer| matches!(answer, Answer::Library(_)))? else { return None };
        library.map(|library| library.map(Cow::into_owned))
    }

    fn resident(&mut self, _: Tid, _: &[Finding]) -> Option<Vec<u64>> {
        let Answer::Resident(resident) = self.answer(|answer| matches!(answer, Answer::Resident(_)))? else {
            return None;
        };
        resident.map(Cow::into_owned)
    }

    fn process(&mut self, _: Tid) -> Process {
        match self.answer(|answer| matches!(answer, Answer::Process(_))) {
            Some(Answer::Process(process)) => process,
            _ => Process::default(),
        }
    }

    fn limits(&mut self, _: Tid) -> Option<Limits> {
        let Answer::Limits(limits) = self.answer(|answer| matches!(answer, Answer::Limits(_)))? else { return None };
        limits.map(Cow::into_owned)
    }

    fn standing(&mut self) -> Standing {
        let mut standing = match self.answer(|answer| matches!(answer, Answer::Standing(_))) {
            Some(Answer::Standing(stood)) => Standing::from(stood),
            _ => Standing::default(),
        };
        self.finish();
        let missing = match self.reader.extent {
            _ if self.stopped => Some("the replay was stopped: what came later is not in this report"),
            Extent::Cut => Some("the recording is cut off: what came later is not in this report"),
            Extent::Damaged => Some("the recording is damaged: what came later is not in this report"),
            Extent::Open | Extent::Whole if self.unanswered > 0 => Some(
                "the recording has no answer to some questions: this vmtrace asks others than the one that made it",
            ),
            Extent::Open | Extent::Whole => None,
        };
        standing.notes.extend(missing.map(|text| Note::incomplete(None, self.unanswered, text.to_owned())));
        standing
    }

    fn main_pid(&self) -> Pid {
        self.heading.pid
    }

    fn engine(&self) -> Engine {
        Engine::Recording
    }

    fn captured(&self) -> &CallStacks {
        &self.captured
    }

    fn places(&self, findings: &[Finding]) -> Places {
        let mut places = Places { known: self.names.clone(), ..Places::of(findings, &self.captured) };
        if self.names.is_empty() {
            places.modules.open_recorded(&self.modules);
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::recorded;
    use super::*;
    use crate::source::control::Manners;
    use crate::units::CodeId;

    fn named(offset: u64) -> Named {
        let frame = Frame { module: "/bin/a".to_owned(), offset, symbol: None, file: None, line: None };
        Named { place: Place::Anonymous(Addr(offset)), pid: Pid(1), frames: vec![frame] }
    }

    fn module() -> Identified {
        Identified { path: "/bin/a".to_owned(), stamp: None }
    }

    /// What `items` leave behind in a replay that `before` has changed.
    fn replayed(items: &[Item<'_>], before: impl FnOnce(&mut Replay<'_>)) -> (usize, usize, CallStacks) {
        let bytes = recorded(&[items, &[Item::Told(super::super::format::After(1, Record::Finished))]].concat());
        let mut replay = Replay::open(Box::new(&*bytes)).unwrap();
        before(&mut replay);
        let told = replay.next(&Control::new(Manners::Attached)).unwrap();
        assert!(matches!(told, Told::Finished(_)), "what comes behind is told");
        (replay.modules.len(), replay.names.len(), replay.captured)
    }

    /// No more modules and names are kept than a recording may have, by their number and by their memory.
    #[test]
    fn modules_and_names_are_bounded() {
        let items: Vec<Item<'_>> =
            (0..9).flat_map(|offset| [Item::Module(module()), Item::Names(named(offset))]).collect();
        let kept = |before: &dyn Fn(&mut Replay<'_>)| {
            let (modules, names, _) = replayed(&items, before);
            (modules, names)
        };
        assert_eq!(kept(&|_| {}), (9, 9));
        let full = |replay: &mut Replay<'_>| {
            replay.modules = vec![Identified { path: String::new(), stamp: None }; MOST_MODULES - 1];
            replay.names = vec![Named { frames: Vec::new(), ..named(1) }; MOST_NAMES - 2];
        };
        assert_eq!(kept(&full), (MOST_MODULES, MOST_NAMES));
        assert_eq!(kept(&|replay| replay.text_left = 1), (1, 0));
        let (modules, names) = kept(&|replay| replay.text_left = 1000);
        assert!((2..9).contains(&modules) && (2..9).contains(&names), "{modules} {names}");
    }

    /// Of a call stack that is too deep the innermost frames are kept, and the next one has its number.
    #[test]
    fn call_stacks_are_bounded() {
        let stacks = [vec![CodeId(0); MOST_FRAMES + 1], vec![CodeId(7)]];
        let items = stacks.map(|frames| Item::CallStack(frames.into()));
        let (_, _, captured) = replayed(&items, |_| {});
        let depths: Vec<usize> = captured.places.all_stacks().map(<[CodeId]>::len).collect();
        assert_eq!(depths, [MOST_FRAMES, 1]);
    }
}
