//! A log of `strace -f`: of any age, with any options.
//!
//! What happens to its bytes, in order, is the list of files: [`files`] finds and unpacks them, [`blocks`] reads ahead, [`mod@read`] takes lines,
//! [`beginning`] looks who was there before, [`leader`] and [`line`](mod@line) read them, [`call`] the calls, [`join`] puts broken calls together, [`reconcile`] puts all in an
//! order that the model may believe, and [`gaps`] says what the log lacks.

pub mod beginning;
pub mod blocks;
pub mod call;
pub mod clone;
pub mod files;
pub mod gaps;
pub mod join;
pub mod leader;
pub mod line;
pub mod plain;
pub mod read;
pub mod reconcile;
pub mod text;
pub mod times;
pub mod words;

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use thiserror::Error;

use crate::diagnose::finding::{Confidence, Finding};
use crate::event::{Limits, Vma};
use crate::model::{Model, SpaceId};
use crate::report::{Clock, Engine, Known};
use crate::source::control::Control;
use crate::symbols::capture::CallStacks;
use crate::target::{Library, Process, Standing, Target, Told};
use crate::threadlib::Unavailable;
use crate::units::{Pid, Tid, Time};
use beginning::who_was_there;
use files::Files;
use gaps::Seen;
use join::{Item, Joiner, UNNAMED, What};
use read::Message;
use reconcile::Reconciler;
use times::{Kind, Times};

/// So many items are looked at before the first is believed, to find out which tasks were there before the log.
const WINDOW: usize = 20_000;

/// When a log without times ends.
const LONG_AFTER: Time = Time(Duration::from_secs(3600));

/// Why a log cannot be replayed.
#[derive(Debug, Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("cannot read {name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// Why not.
        error: io::Error,
    },
    /// It has no line.
    #[error("{0} is empty: there is nothing to replay; strace -f -tt -o FILE PROGRAM writes a log")]
    Empty(String),
    /// It is something else.
    #[error(
        "{name}:{line}:{column}: this is no log of strace: expected {expected}, found {found:?}; \
         strace -f -tt -o FILE PROGRAM writes one"
    )]
    NoLog {
        /// The file.
        name: String,
        /// Where, from 1.
        line: u64,
        /// Where in the line, in bytes from 1.
        column: usize,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

/// A log that is being replayed.
#[derive(Debug)]
pub struct StraceLog {
    messages: Receiver<Message>,
    /// Items that have been read and not been taken.
    items: std::vec::IntoIter<Item>,
    order: Reconciler,
    /// The times of what has been read.
    times: Times,
    /// What there was to be read, once all has been.
    end: Option<Box<(Times, Seen)>>,
    modified: Option<SystemTime>,
    nothing: CallStacks,
}

impl StraceLog {
    /// Opens a log: see [`Files::find`].
    ///
    /// # Errors
    /// Why it cannot be replayed.
    pub fn open(path: &Path) -> Result<StraceLog, LogError> {
        let name = path.display().to_string();
        match Files::find(path) {
            Ok(files) => StraceLog::begin(files, name),
            Err(error) => Err(LogError::Read { name, error }),
        }
    }

    /// Opens a log that is no file, called `name` where it has to be named.
    ///
    /// # Errors
    /// Why it cannot be replayed.
    pub fn stream(bytes: Box<dyn Read + Send>, name: String) -> Result<StraceLog, LogError> {
        StraceLog::begin(Files::Stream(bytes), name)
    }

    fn begin(files: Files, name: String) -> Result<StraceLog, LogError> {
        let unreadable = |error| LogError::Read { name: name.clone(), error };
        let modified = files.modified();
        let messages = read::start(files).map_err(unreadable)?;
        let mut window = Vec::new();
        let mut times = Times::default();
        let mut end = None;
        while window.len() < WINDOW && end.is_none() {
            match messages.recv() {
                Ok(Message::Items(items, so_far)) => {
                    window.extend(items);
                    times = so_far;
                }
                Ok(Message::End(last)) => end = Some(last),
                Ok(Message::Failed(error)) => return Err(unreadable(error)),
                Err(_) => return Err(unreadable(io::Error::other("its reader has failed"))),
            }
        }
        if let Some((_, seen)) = end.as_deref() {
            check(&name, seen)?;
        }
        let order = Reconciler::new(who_was_there(&window));
        let nothing = CallStacks::default();
        Ok(StraceLog { messages, items: window.into_iter(), order, times, end, modified, nothing })
    }

    /// Relates the log's times to the wall clock. Times of day have no date: they are given that on which the log was last
    /// written to, or the day before.
    pub fn clock(&self) -> Clock {
        let start = Duration::from_nanos(self.times.start());
        let zone = TimeZone::system();
        let modified = self.modified.and_then(|modified| Timestamp::try_from(modified).ok());
        let modified = modified.map_or_else(Zoned::now, |modified| modified.to_zoned(zone.clone()));
        let of_day =
            |day: &Zoned| day.start_of_day().ok()?.datetime().checked_add(start).ok()?.to_zoned(zone.clone()).ok();
        let (start, known) = match self.times.kind() {
            Kind::Unix => {
                let since = i64::try_from(self.times.start()).unwrap_or(i64::MAX);
                let moment = Timestamp::from_nanosecond(since.into()).unwrap_or(Timestamp::UNIX_EPOCH);
                (moment.to_zoned(zone), Known::Moments)
            }
            Kind::OfDay => {
                let today = of_day(&modified).filter(|start| *start <= modified);
                let day_before = || of_day(&modified.yesterday().ok()?);
                (today.or_else(day_before).unwrap_or(modified), Known::Moments)
            }
            Kind::Since => (modified, Known::Distances),
            Kind::None => (modified, Known::Order),
        };
        Clock { start, known }
    }

    /// The command line of the process, where the log shows how it was executed.
    pub fn command(&self) -> Vec<String> {
        let is_command = |item: &Item| item.tid == Tid::from(self.order.main()) || item.tid == UNNAMED;
        let command = self.items.as_slice().iter().find_map(|item| match &item.what {
            What::Command(command) if is_command(item) => Some(command.to_vec()),
            _ => None,
        });
        command.unwrap_or_default()
    }
}

/// All that is done with the bytes of a log, up to the model, and with nothing to show for it: for tests by chance, and
/// for whoever looks for bytes that are not borne.
pub fn digest(bytes: &[u8]) {
    let mut joiner = Joiner::default();
    let mut items = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        joiner.line(line, UNNAMED, &mut items);
    }
    let who = who_was_there(&items);
    let main = who.main;
    let mut order = Reconciler::new(who);
    let mut model = Model::partial();
    for item in items {
        let mut next = order.pass(item);
        while let Some(event) = next {
            model.apply(&event);
            next = order.pop();
        }
    }
    order.finish();
    while let Some(event) = order.pop() {
        model.apply(&event);
    }
    let _ = joiner.seen.notes(joiner.times.kind(), order.kin(), main);
}

/// Whether what was read is a log.
fn check(name: &str, seen: &Seen) -> Result<(), LogError> {
    match &seen.first_damage {
        _ if seen.is_log => Ok(()),
        None => Err(LogError::Empty(name.to_owned())),
        Some((line, damage, found)) => Err(LogError::NoLog {
            name: name.to_owned(),
            line: *line,
            column: damage.at + 1,
            expected: damage.expected,
            found: found.clone(),
        }),
    }
}

impl Target for StraceLog {
    fn next(&mut self, _control: &Control) -> io::Result<Told> {
        loop {
            if let Some(event) = self.order.pop() {
                return Ok(Told::Event(event));
            }
            if let Some(item) = self.items.next() {
                match self.order.pass(item) {
                    Some(event) => return Ok(Told::Event(event)),
                    None => continue,
                }
            }
            if let Some(end) = &self.end {
                // Without times nothing has only just happened: whatever the log shows as left counts as left.
                let without_times = (end.0.kind() == Kind::None).then_some(LONG_AFTER);
                let now = without_times.unwrap_or(end.0.now());
                self.order.finish();
                return Ok(match self.order.pop() {
                    Some(event) => Told::Event(event),
                    None if self.order.is_over() => Told::Finished(now),
                    None => Told::Quiet(now),
                });
            }
            match self.messages.recv() {
                Ok(Message::Items(items, _)) => self.items = items.into_iter(),
                Ok(Message::End(end)) => self.end = Some(end),
                Ok(Message::Failed(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("the log's reader has failed")),
            }
        }
    }

    fn maps(&mut self, _tid: Tid) -> Option<Box<[Vma]>> {
        None
    }

    fn library(&mut self, _model: &Model, _space: SpaceId, _tid: Tid) -> Option<Result<Library, Unavailable>> {
        None
    }

    fn resident(&mut self, _tid: Tid, _findings: &[Finding]) -> Option<Vec<u64>> {
        None
    }

    fn process(&mut self, _tid: Tid) -> Process {
        Process::default()
    }

    fn limits(&mut self, _tid: Tid) -> Option<Limits> {
        None
    }

    fn tells_all(&self) -> bool {
        false
    }

    fn standing(&mut self) -> Standing {
        let (kin, main) = (self.order.kin(), self.order.main());
        let (ceiling, notes) = match &self.end {
            Some(end) => {
                // And what only seems to be left because the log ends there may be freed a moment later.
                let cut_short = end.0.kind() == Kind::None && !self.order.is_over();
                let ceiling = if cut_short { Some(Confidence::Possible) } else { end.1.ceiling() };
                (ceiling, end.1.notes(end.0.kind(), kin, main))
            }
            // Reading has failed, which is said elsewhere.
            None => (None, Vec::new()),
        };
        Standing { exit: self.order.exit(), notes, ceiling, ..Standing::default() }
    }

    fn main_pid(&self) -> Pid {
        self.order.main()
    }

    fn engine(&self) -> Engine {
        Engine::StraceLog
    }

    fn captured(&self) -> &CallStacks {
        &self.nothing
    }
}

#[cfg(test)]
mod tests;
