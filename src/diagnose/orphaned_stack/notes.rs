//! What is said of idle stacks that are no findings.

use super::Idle;
use crate::diagnose::finding::{Note, NoteKind};
use crate::diagnose::{Library, bytes_for_people, stack_cache_note};
use crate::model::Calls;
use crate::model::space::AddressSpace;
use crate::threadlib::List;

/// Stacks of which nothing can be proven.
pub(super) fn unproven(space: &AddressSpace, unproven: &[Idle], library: Library<'_>) -> Option<Note> {
    let why = match library {
        Library::Unavailable(why) => format!(" ({why})"),
        Library::Lists { .. } | Library::NotAsked => String::new(),
    };
    note(space, NoteKind::UnprovenStacks, unproven, |count, size| match space.calls {
        Calls::Told => format!(
            "{count} of ended threads, {size}: kept by the thread library for reuse, or never joined; system calls \
             alone do not tell which{why}"
        ),
        Calls::Untold => format!(
            "{count} of ended threads, {size}: left, kept for reuse, or used for something else by now; thread \
             lifecycles alone do not tell which{why}"
        ),
    })
}

/// What the thread library has in its cache, be it of threads that we have seen or of earlier ones.
pub(super) fn cached(space: &AddressSpace, library: Library<'_>) -> Option<Note> {
    let Library::Lists { lists, .. } = library else { return None };
    let cached = lists.threads.iter().filter(|thread| thread.list == List::Cached);
    stack_cache_note(space.pid, cached.filter_map(|thread| Some(thread.stack?.range.bytes())))
}

/// Stacks of which the lists say another thing than the calls.
pub(super) fn disputed(space: &AddressSpace, disputed: &[Idle]) -> Option<Note> {
    note(space, NoteKind::EvidenceConflict, disputed, |count, size| {
        format!(
            "{count} of ended threads, {size}, by the system calls; but by the thread library's lists a live thread has \
             them, or the library does not know them"
        )
    })
}

/// Stacks that the program uses again and again.
pub(super) fn pool(space: &AddressSpace, pool: &[Idle]) -> Option<Note> {
    note(space, NoteKind::StackPool, pool, |count, size| match space.calls {
        Calls::Told => format!("{count} that the program keeps and gives to one thread after another, {size}"),
        Calls::Untold => {
            format!("{count} that the program has given to one thread after another, kept or mapped anew, {size}")
        }
    })
}

fn note(
    space: &AddressSpace,
    kind: NoteKind,
    stacks: &[Idle],
    text: impl FnOnce(&str, &str) -> String,
) -> Option<Note> {
    let bytes = stacks.iter().map(|idle| idle.mapping.bytes).sum();
    let count = match stacks.len() {
        0 => return None,
        1 => "1 idle stack".to_owned(),
        more => format!("{more} idle stacks"),
    };
    Some(Note {
        kind,
        pid: Some(space.pid),
        regions: stacks.len() as u64,
        virtual_bytes: bytes,
        text: text(&count, &bytes_for_people(bytes)),
    })
}
