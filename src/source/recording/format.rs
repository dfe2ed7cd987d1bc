//! What stands in a recording.
//!
//! ```text
//! heading  "vmtrace recording\n", format version (u32), length of what follows (u32), the Heading by postcard
//! chunk    compressed length (u32), raw length (u32), CRC-32 of the compressed bytes (u32), zlib data of whole Items
//! chunk    …
//! ```
//! Numbers are little-endian. Items are by postcard, whose layout follows the types below: whoever changes one of them, or
//! a type that they hold, counts [`VERSION`] up.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::diagnose::finding::{Frame, Note, NoteKind};
use crate::event::{EventKind, Exit, Limits, StackRegion, Vma};
use crate::model::mapping::Imprint;
use crate::report::Engine;
use crate::symbols::module::Identified;
use crate::symbols::places::Place;
use crate::target::{Library, Process, Standing};
use crate::threadlib::Unavailable;
use crate::units::{CallStackId, CodeId, Pid, Range, Tid};

/// What a recording begins with.
pub const MAGIC: &[u8; 18] = b"vmtrace recording\n";

/// The version of the format. Another one is not read.
pub const VERSION: u32 = 4;

/// Larger headings are damaged ones, in bytes: a command line may be long.
pub const LARGEST_HEADING: u32 = 4 << 20;

/// Larger chunks are damaged ones, in bytes.
pub const LARGEST_CHUNK: u32 = 256 << 20;

/// What was followed, and how.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heading {
    /// The version of vmtrace that wrote it.
    pub vmtrace: String,
    /// The moment that times count from, with its zone: RFC 9557.
    pub start: String,
    /// The process that was launched or named.
    pub pid: Pid,
    /// Its command line.
    pub command: Vec<String>,
    /// Where the events came from.
    pub engine: Engine,
    /// The model was compared with the kernel's maps at every so many changes.
    pub verify_every: Option<u64>,
}

/// One thing after the other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Item<'a> {
    /// The next module.
    Module(Identified),
    /// The next place.
    Place(Place),
    /// The next call stack, innermost frame first.
    CallStack(Cow<'a, [CodeId]>),
    /// What was told.
    Told(After<'a>),
    /// What was answered.
    Answer(Answer<'a>),
    /// The names of a place, as they stand in the report.
    Names(Named),
    /// Nothing is missing.
    End,
}

/// Something that was told, and how many nanoseconds it was later than what was told before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct After<'a>(pub i64, pub Told<'a>);

/// What was told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Told<'a> {
    /// An event.
    Event {
        /// To which task it happened.
        tid: Tid,
        /// Where that stood.
        call_stack: Option<CallStackId>,
        /// What happened.
        kind: Cow<'a, EventKind>,
    },
    /// A report was asked for.
    Asked,
    /// Following ended although tasks lived on.
    Quiet,
    /// No task was left.
    Finished,
    /// Following ended early, for this reason.
    Failed(String),
}

/// What was answered. None: it could not be known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the questions of `Target`
pub enum Answer<'a> {
    Maps(Option<Changed<'a>>),
    Unsure(Cow<'a, [Range]>),
    LooksLater(bool),
    Library(Option<Result<Cow<'a, Library>, Unavailable>>),
    Resident(Option<Cow<'a, [u64]>>),
    Process(Process),
    Limits(Option<Cow<'a, Limits>>),
    StackRegion(Option<Cow<'a, StackRegion>>),
    Imprint(Option<Imprint>),
    Standing(Stood),
    GrowsDown(bool),
}

/// Maps, as what has changed since those that were recorded before: with --verify they are most of what there is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Changed<'a> {
    /// So many lines at the beginning are the same.
    head: u32,
    /// These follow.
    lines: Cow<'a, [Vma]>,
    /// So many lines at the end are the same.
    tail: u32,
}

impl<'a> Changed<'a> {
    /// What is to be recorded of `maps` after `before`.
    pub fn between(before: &[Vma], maps: &'a [Vma]) -> Changed<'a> {
        let same = before.iter().zip(maps).take_while(|(one, other)| one == other).count();
        let (old, new) = (&before[same..], &maps[same..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(one, other)| one == other).count();
        // No program has more mappings than that.
        let number = |lines: usize| u32::try_from(lines).unwrap_or(u32::MAX);
        Changed { head: number(same), lines: Cow::Borrowed(&new[..new.len() - tail]), tail: number(tail) }
    }

    /// The maps that were recorded after `before`. A damaged recording may speak of lines that there are not, or twice of the
    /// same, so that a few bytes would double the maps each time: no line is taken over twice.
    pub fn after(self, before: &[Vma]) -> Box<[Vma]> {
        let (head, rest) = before.split_at(before.len().min(self.head as usize));
        let tail = &rest[rest.len().saturating_sub(self.tail as usize)..];
        [head, &self.lines, tail].concat().into()
    }
}

/// How it stood with the source.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stood {
    exit: Option<Exit>,
    stops: u64,
    lost: u64,
    notes: Vec<(NoteKind, Option<Pid>, u64, u64, String)>,
}

impl From<&Standing> for Stood {
    fn from(standing: &Standing) -> Stood {
        let note = |note: &Note| (note.kind, note.pid, note.regions, note.virtual_bytes, note.text.clone());
        let notes = standing.notes.iter().map(note).collect();
        Stood { exit: standing.exit, stops: standing.stops, lost: standing.lost, notes }
    }
}

impl From<Stood> for Standing {
    fn from(stood: Stood) -> Standing {
        let note = |(kind, pid, regions, virtual_bytes, text)| Note { kind, pid, regions, virtual_bytes, text };
        let notes = stood.notes.into_iter().map(note).collect();
        // All that can be recorded tells all.
        Standing { exit: stood.exit, stops: stood.stops, lost: stood.lost, notes, ceiling: None }
    }
}

/// The names of a place in a process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The place.
    pub place: Place,
    /// The process that it belongs to, where it lies in no file.
    pub pid: Pid,
    /// The functions there, innermost inlined one first.
    pub frames: Vec<Frame>,
}
