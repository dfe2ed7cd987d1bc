//! What can be said of a process by one look at it: stacks that are leaked already, and what its VIRT consists of.
//!
//! | what is known of a stack | verdict |
//! |---|---|
//! | on the thread library's list of used ones, its thread has run, ended, and nobody joins it | `unjoined`, definite |
//! | the same, but it may be that of another thread from look to look, or its descriptor cannot be read; for a second | `unjoined`, probable |
//! | on its list of cached ones | cached |
//! | a mapping that has the shape of a stack, used from its upper end, and no thread is on it; two or more of a size | `unmanaged`, possible |

use std::collections::HashMap;

use indexmap::IndexMap;

use super::breakdown::{Claim, Kind, Share, breakdown, resident_bytes};
use super::finding::{Confidence, Diagnosis, Finding, Member, Note, NoteKind, Origin, Reason, Rule};
use super::orphaned_stack::{JOIN, LISTED, UNMAP};
use super::{MANY_ARENAS, bytes_for_people, stack_cache_note};
use crate::event::{Prot, Sharing, Vma};
use crate::units::{Addr, CodeId, PAGE, Pid, Range};

/// What was seen of a process, in order where it has ranges.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// The process.
    pub pid: Pid,
    /// Its mappings.
    pub maps: &'a [Vma],
    /// Its pages in physical memory.
    pub resident: &'a [Range],
    /// The thread library's stacks; none where its lists cannot be read.
    pub stacks: Option<&'a [KnownStack]>,
    /// malloc's arenas.
    pub arenas: &'a [Range],
    /// Stack pointers of live tasks.
    pub stack_pointers: &'a [Addr],
    /// How many live tasks there are whose stack pointer could not be had.
    pub without_pointer: usize,
    /// The places of the functions that threads of the library's stacks run, or ran.
    pub functions: &'a HashMap<Addr, CodeId>,
}

/// A stack of which the thread library knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownStack {
    /// All of it, guard included.
    pub range: Range,
    /// The guard at its lower end, in bytes.
    pub guard_bytes: u64,
    /// The function that its thread runs, or ran.
    pub start_routine: Addr,
    /// What is known of it.
    pub standing: Standing,
}

/// What is known of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Its thread lives, or is being created or joined.
    Live,
    /// Its thread has ended, and nobody has joined it.
    Orphaned(Confidence),
    /// Kept for reuse.
    Cached,
    /// The program gave it.
    Program,
}

/// Findings and notes, and what the address space consists of.
#[derive(Clone, PartialEq, Debug)]
pub struct Survey {
    /// What is leaked, and what else is worth knowing.
    pub diagnosis: Diagnosis,
    /// What VIRT consists of, largest share first.
    pub breakdown: Vec<Share>,
}

/// Judges what was seen.
pub fn survey(snapshot: &Snapshot) -> Survey {
    // What was unmapped between the look at the lists and that at the maps is none any more.
    let stacks: Vec<KnownStack> = snapshot
        .stacks
        .unwrap_or_default()
        .iter()
        .filter(|stack| is_mapped(snapshot.maps, stack.range))
        .copied()
        .collect();
    let mut claims: Vec<Claim> =
        stacks.iter().map(|stack| Claim { range: stack.range, kind: kind(stack.standing) }).collect();
    claims.extend(snapshot.arenas.iter().map(|range| Claim { range: *range, kind: Kind::MallocArenas }));
    claims.sort_by_key(|claim| claim.range.start());

    let shapes = shapes(snapshot, &claims);
    claims.extend(shapes.iter().filter(|shape| shape.used_now).map(|shape| shape.claim(Kind::LiveStacks)));
    let mut findings = unjoined(snapshot, &stacks);
    let cached = stacks.iter().filter(|stack| stack.standing == Standing::Cached).map(|stack| stack.range.bytes());
    let mut notes = vec![stack_cache_note(snapshot.pid, cached), arenas_note(snapshot)];
    // Where a thread may be on any of them, nothing is claimed.
    let idle = if snapshot.without_pointer == 0 { left_shapes(&shapes) } else { Vec::new() };
    match snapshot.stacks {
        Some(_) => findings.extend(idle.into_iter().map(|shapes| unmanaged(snapshot, &shapes))),
        None => notes.push(unproven_note(snapshot.pid, &idle)),
    }
    findings.sort_by_key(|finding| std::cmp::Reverse((finding.confidence, finding.virtual_bytes())));
    Survey {
        diagnosis: Diagnosis { findings, notes: notes.into_iter().flatten().collect() },
        breakdown: breakdown(snapshot.maps, snapshot.resident, &claims),
    }
}

fn kind(standing: Standing) -> Kind {
    match standing {
        Standing::Live => Kind::LiveStacks,
        Standing::Orphaned(_) => Kind::OrphanedStacks,
        Standing::Cached => Kind::CachedStacks,
        Standing::Program => Kind::ProgramStacks,
    }
}

/// Whether all of a range is mapped.
fn is_mapped(maps: &[Vma], range: Range) -> bool {
    let first = maps.partition_point(|vma| vma.range.end() <= range.start());
    let mut at = range.start();
    for vma in &maps[first..] {
        if at >= range.end() {
            break;
        }
        if vma.range.start() > at {
            return false;
        }
        at = vma.range.end();
    }
    at >= range.end()
}

/// The never-joined stacks, by size, guard and thread function.
fn unjoined(snapshot: &Snapshot, stacks: &[KnownStack]) -> Vec<Finding> {
    let mut groups: IndexMap<(u64, u64, Addr), (Confidence, Vec<Range>)> = IndexMap::new();
    // The newest are first on the list, and the oldest are to be first in the report.
    for stack in stacks.iter().rev() {
        if let Standing::Orphaned(confidence) = stack.standing {
            let key = (stack.range.bytes(), stack.guard_bytes, stack.start_routine);
            let (strongest, ranges) = groups.entry(key).or_insert((confidence, Vec::new()));
            *strongest = confidence.max(*strongest);
            ranges.push(stack.range);
        }
    }
    groups
        .into_iter()
        .map(|((region_bytes, guard_bytes, start_routine), (confidence, ranges))| Finding {
            region_bytes,
            guard_bytes,
            origin: Origin { function: snapshot.functions.get(&start_routine).copied(), ..Origin::default() },
            ..finding(snapshot, Reason::Unjoined, confidence, &ranges, LISTED, JOIN)
        })
        .collect()
}

/// What mappings of one size that look like stacks amount to.
fn unmanaged(snapshot: &Snapshot, shapes: &[Shape]) -> Finding {
    const PROOF: &str = "a shape, no proof: memory above a guard, used from its upper end like a stack; no thread is on \
                         it, and the thread library does not know it";
    let ranges: Vec<Range> = shapes.iter().map(|shape| shape.range).collect();
    Finding {
        region_bytes: ranges.first().map_or(0, |range| range.bytes()),
        guard_bytes: shapes.first().map_or(0, |shape| shape.guard_bytes),
        ..finding(snapshot, Reason::Unmanaged, Confidence::Possible, &ranges, PROOF, UNMAP)
    }
}

fn finding(
    snapshot: &Snapshot,
    reason: Reason,
    confidence: Confidence,
    ranges: &[Range],
    proof: &str,
    advice: &str,
) -> Finding {
    Finding {
        rule: Rule::OrphanedStack,
        reason,
        confidence,
        recurrence: None,
        pid: snapshot.pid,
        created: None,
        region_bytes: 0,
        guard_bytes: 0,
        resident_bytes: Some(ranges.iter().map(|range| resident_bytes(snapshot.resident, *range)).sum()),
        origin: Origin::default(),
        thread_function: None,
        site: Vec::new(),
        mapped_site: Vec::new(),
        proof: proof.to_owned(),
        advice: advice.to_owned(),
        awaits_proof: false,
        members: ranges.iter().copied().map(Member::unseen).collect(),
    }
}

/// A mapping that looks like a thread's stack.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Guard included.
    range: Range,
    guard_bytes: u64,
    /// Whether a live task's stack pointer lies in it.
    used_now: bool,
    /// Whether it has been used as a stack is: its highest page, but not the lowest.
    used_once: bool,
}

impl Shape {
    fn claim(&self, kind: Kind) -> Claim {
        Claim { range: self.range, kind }
    }
}

/// Writable private memory right above a guard, of a size that stacks have, of which nobody knows more.
fn shapes(snapshot: &Snapshot, claims: &[Claim]) -> Vec<Shape> {
    // A guard is a few pages. What is larger is a reserve for something that grows.
    const MOST_GUARD: u64 = 1 << 20;
    // Rust's signal stacks have less, and what is larger is a heap.
    const SIZES: std::ops::RangeInclusive<u64> = 4 * PAGE + 1..=256 << 20;
    let is_plain = |vma: &Vma| vma.sharing == Sharing::Private && !vma.is_file() && vma.name.is_empty();
    let writable = Prot::READ.with(Prot::WRITE);
    snapshot
        .maps
        .windows(2)
        .filter_map(|pair| {
            let [guard, stack] = pair else { return None };
            let adjoin = guard.range.end() == stack.range.start() && is_plain(guard) && is_plain(stack);
            let sizes = guard.range.bytes() <= MOST_GUARD && SIZES.contains(&stack.range.bytes());
            if !(adjoin && sizes && guard.prot == Prot::NONE && stack.prot == writable) {
                return None;
            }
            let range = Range::new(guard.range.start(), stack.range.end())?;
            let before = claims.partition_point(|claim| claim.range.end() <= range.start());
            if claims.get(before).is_some_and(|claim| claim.range.start() < range.end()) {
                return None;
            }
            let is_resident = |page: u64| {
                let page = Range::of_len(Addr(page), PAGE);
                page.is_some_and(|page| resident_bytes(snapshot.resident, page) > 0)
            };
            Some(Shape {
                range,
                guard_bytes: guard.range.bytes(),
                used_now: snapshot.stack_pointers.iter().any(|sp| range.contains(*sp)),
                used_once: is_resident(range.end().0 - PAGE) && !is_resident(stack.range.start().0),
            })
        })
        .collect()
}

/// Shapes that have been used and are not any more, two or more of a size.
fn left_shapes(shapes: &[Shape]) -> Vec<Vec<Shape>> {
    let mut groups: IndexMap<(u64, u64), Vec<Shape>> = IndexMap::new();
    for shape in shapes.iter().filter(|shape| shape.used_once && !shape.used_now) {
        groups.entry((shape.range.bytes(), shape.guard_bytes)).or_default().push(*shape);
    }
    groups.into_values().filter(|shapes| shapes.len() > 1).collect()
}

fn unproven_note(pid: Pid, idle: &[Vec<Shape>]) -> Option<Note> {
    let shapes: Vec<&Shape> = idle.iter().flatten().collect();
    let bytes = shapes.iter().map(|shape| shape.range.bytes()).sum();
    (!shapes.is_empty()).then(|| Note {
        kind: NoteKind::UnprovenStacks,
        pid: Some(pid),
        regions: shapes.len() as u64,
        virtual_bytes: bytes,
        text: format!(
            "{} mappings look like stacks that no thread is on, {}: never joined, kept for reuse, or no stacks; \
             without the thread library's lists a look does not tell, but following the process does (vmtrace -p {pid})",
            shapes.len(),
            bytes_for_people(bytes)
        ),
    })
}

fn arenas_note(snapshot: &Snapshot) -> Option<Note> {
    let bytes = snapshot.arenas.iter().map(|range| range.bytes()).sum();
    let count = snapshot.arenas.len();
    (count >= MANY_ARENAS).then(|| super::arenas_note(snapshot.pid, count, bytes))
}

#[cfg(test)]
mod tests;
