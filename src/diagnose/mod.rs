//! Rules: model in, findings out. One file per rule, and no operating system in here.

pub mod breakdown;
pub mod finding;
pub mod limit_hit;
pub mod orphaned_mapping;
pub mod orphaned_stack;
pub mod series;
pub mod survey;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use crate::model::Calls;
use crate::model::mapping::{Made, MappingId};
use crate::model::space::AddressSpace;
use crate::threadlib::{ThreadLists, Unavailable};
use crate::units::{Addr, CodeId, Pid, Range, Tid, Time};
use finding::{Confidence, Diagnosis, Evidence, EvidenceCall, Note, NoteKind};

/// The moment for which a diagnosis is made.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// When.
    pub now: Time,
    /// Whether the process ends: nobody gets time to clean up any more.
    pub phase: Phase,
}

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It goes on: what has only just been left gets a grace.
    Living,
    /// It ends now.
    Ending {
        /// By a call of this task's; none where it was killed.
        by: Option<Tid>,
    },
}

/// How long after its owner's end a stack may lie idle before that means anything, in a process that goes on.
const GRACE: Duration = Duration::from_secs(1);

/// Arenas from this number on are worth a note: they explain VIRT.
const MANY_ARENAS: usize = 8;

/// What the thread library says of its stacks.
#[derive(Clone, Copy, Debug)]
pub enum Library<'a> {
    /// Its lists, read at this moment.
    Lists {
        /// The threads on them.
        lists: &'a ThreadLists,
        /// The places of the functions that they name.
        functions: &'a HashMap<Addr, CodeId>,
    },
    /// It has none that can be read: system calls are the only evidence.
    Unavailable(&'a Unavailable),
    /// It was not asked.
    NotAsked,
}

/// Judges what the events that any bytes stand for come to, for fuzzing.
///
/// # Panics
/// When the model of them does not hold together.
pub fn digest(bytes: &[u8]) {
    let model = crate::model::digest(bytes);
    for (_, space) in model.unfinished() {
        for phase in [Phase::Living, Phase::Ending { by: None }] {
            let moment = Moment { now: Time(Duration::from_secs(1)), phase };
            let _ = diagnose(space, moment, &|tid| model.task(tid).is_some(), Library::NotAsked);
        }
    }
}

/// All that the rules have to say of one address space. `is_live` tells whether a task still runs.
pub fn diagnose(
    space: &AddressSpace,
    moment: Moment,
    is_live: &dyn Fn(Tid) -> bool,
    library: Library<'_>,
) -> Diagnosis {
    let mut diagnosis = orphaned_stack::diagnose(space, moment, library);
    if space.calls == Calls::Told {
        diagnosis.findings.extend(orphaned_mapping::findings(space, is_live));
    }
    diagnosis.findings.sort_by_key(|finding| (Reverse(finding.confidence), Reverse(finding.virtual_bytes())));
    if space.untold_unmaps > 0 {
        for finding in &mut diagnosis.findings {
            finding.confidence = finding.confidence.min(Confidence::Probable);
            finding.awaits_proof = false;
        }
        diagnosis.notes.push(untold_unmaps(space));
    }
    diagnosis.notes.extend(malloc_arenas(space));
    let limits = limit_hit::notes(space, &diagnosis.findings);
    diagnosis.notes.extend(limits);
    diagnosis
}

/// Not all that was unmapped is shown, so what seems to be left may be gone.
fn untold_unmaps(space: &AddressSpace) -> Note {
    let times = if space.untold_unmaps == 1 { "once".to_owned() } else { format!("{} times", space.untold_unmaps) };
    let text =
        format!("{times} something was mapped where, as far as is shown, something else still was: not all calls are");
    Note::incomplete(Some(space.pid), space.untold_unmaps, text)
}

fn malloc_arenas(space: &AddressSpace) -> Option<Note> {
    let arenas: Vec<u64> =
        space.mappings.values().filter(|mapping| mapping.is_malloc_arena()).map(|mapping| mapping.bytes).collect();
    let bytes = arenas.iter().sum();
    (arenas.len() >= MANY_ARENAS).then(|| arenas_note(space.pid, arenas.len(), bytes))
}

fn arenas_note(pid: Pid, count: usize, bytes: u64) -> Note {
    Note {
        kind: NoteKind::MallocArenas,
        pid: Some(pid),
        regions: count as u64,
        virtual_bytes: bytes,
        text: format!(
            "malloc has {count} arenas, {} of address space: they outlive their threads on purpose (limit them with \
             MALLOC_ARENA_MAX)",
            bytes_for_people(bytes)
        ),
    }
}

/// Stacks of these sizes, in bytes, lie in the thread library's cache.
fn stack_cache_note(pid: Pid, sizes: impl Iterator<Item = u64>) -> Option<Note> {
    let sizes: Vec<u64> = sizes.collect();
    let bytes = sizes.iter().sum();
    let stacks = match sizes.len() {
        0 => return None,
        1 => "1 idle stack".to_owned(),
        more => format!("{more} idle stacks"),
    };
    Some(Note {
        kind: NoteKind::StackCache,
        pid: Some(pid),
        regions: sizes.len() as u64,
        virtual_bytes: bytes,
        text: format!(
            "{stacks} in the thread library's cache, {}: of threads that are done with, to be used again",
            bytes_for_people(bytes)
        ),
    })
}

/// Where each of these mappings still lies, in one pass over the address space.
fn pieces_of(space: &AddressSpace, wanted: impl Iterator<Item = MappingId>) -> HashMap<MappingId, Vec<Range>> {
    let mut pieces: HashMap<MappingId, Vec<Range>> = wanted.map(|id| (id, Vec::new())).collect();
    if !pieces.is_empty() {
        for (range, area) in space.areas.iter() {
            if let Some(pieces) = pieces.get_mut(&area.mapping) {
                match pieces.last_mut() {
                    Some(last) if last.end() == range.start() => {
                        *last = Range::new(last.start(), range.end()).unwrap_or(range);
                    }
                    _ => pieces.push(range),
                }
            }
        }
    }
    pieces
}

impl From<&Made> for Evidence {
    fn from(made: &Made) -> Evidence {
        let what = EvidenceCall::Returned { call: made.call, result: made.result };
        Evidence { at: made.at, tid: made.tid, what }
    }
}

/// A size in the largest binary unit that leaves it at 1 or more: `150.1 MiB`.
pub fn bytes_for_people(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let whole = (size.fract() * 10.0).round() == 0.0;
    if whole { format!("{size:.0} {}", UNITS[unit]) } else { format!("{size:.1} {}", UNITS[unit]) }
}
