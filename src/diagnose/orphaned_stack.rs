//! The rule for stacks whose last owner has ended.
//!
//! | what is known of an idle stack | verdict |
//! |---|---|
//! | a part is gone, the rest stayed | `partly-unmapped`, definite |
//! | on the thread library's list of used stacks | `unjoined`, definite |
//! | the same, but each the latest of its creator, ended within the last second, at a site that lets go of most | `unjoined`, possible |
//! | on its list of cached ones | cached |
//! | musl's, and still there | `unjoined`, definite: musl unmaps at the join, or at a detached thread's end |
//! | glibc's, and a fresh one was mapped for which this one would have served | `unjoined`, probable; definite once such are more than the cache can hold |
//! | glibc's, otherwise | unproven |
//! | the program's, had several owners | a pool |
//! | the program's, and its site has mapped a fresh one since, and never lets go of any, or has of a later one | `unmanaged`, definite |
//! | the program's, and its site reuses stacks | a pool |
//! | the program's, and its site unmaps stacks, so far those of earlier threads | `unmanaged`, possible |
//! | the program's, two or more of the site | `unmanaged`, probable |
//! | the program's, two or more of the same function from several sites, and nobody lets go of that size | `unmanaged`, probable |
//! | the program's, a single one | `unmanaged`, possible |
//!
//! Where mapping calls are not told, the lists decide alone, and of the program's own stacks what their last owners have
//! left in them (`verdict_without_calls`).
//!
//! The lists and the system calls check each other. These are no disagreements: a stack that was passed over and is in
//! the cache now (it was joined later); one that is on none of the lists while any task may be moving it from one to
//! another, or to munmap; one that is on the list of used ones for a thread that is
//! being created, or joined.
//! These are, and get a note:
//!
//! | the system calls say | the lists say |
//! |---|---|
//! | its last owner has ended | a live task has it: a birth was missed, and it is no leak |
//! | glibc's own, as the owner's MADV_DONTNEED shows | it is on none of them, and nobody can be moving it: another copy of the library made it, or its descriptor is damaged |

mod habits;
mod notes;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::finding::{
    Confidence, Diagnosis, Evidence, EvidenceCall, Finding, Member, Origin, Reason, Recurrence, Rule,
};
use super::{GRACE, Library, Moment, Phase, pieces_of};
use crate::event::{Call, ThreadLibrary};
use crate::model::Calls;
use crate::model::mapping::{Ended, Maker, Mapping, MappingId, Stack};
use crate::model::sites::{Site, SiteKey};
use crate::model::space::AddressSpace;
use crate::threadlib::{List, ListedThread, ThreadLists};
use crate::units::{Addr, CodeId, Range, Tid, Time};
use habits::Habits;

pub use habits::prove_by_members;

/// What glibc keeps of ended threads' stacks at most (nptl/nptl-stack.c, `__nptl_stack_cache_maxsize`).
const CACHE_BYTES: u64 = 40 << 20;

/// An idle stack.
#[derive(Clone, Copy)]
struct Idle<'a> {
    id: MappingId,
    mapping: &'a Mapping,
    stack: &'a Stack,
    ended: Ended,
    word: Word,
    /// What its thread ran.
    function: Option<CodeId>,
}

impl Idle<'_> {
    /// Whether it is the program's, and nothing speaks for or against it.
    fn is_undecided(&self, calls: Calls) -> bool {
        let stack = self.stack;
        let program_made = stack.maker == Maker::Program || calls == Calls::Untold && self.word == Word::On(List::User);
        program_made && stack.owners == 1 && stack.passed_over.is_none()
    }

    fn group(&self, reason: Reason) -> Group {
        Group { reason, site: self.stack.site(), function: self.function }
    }
}

/// What the thread library says of an idle stack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Its lists are not known.
    None,
    /// It is on this one.
    On(List),
    /// A live task has it.
    Live,
    /// It is on none, or about to be used: it may be on its way from one to another.
    Moving,
    /// It is on none, and on no way.
    Denied,
}

/// What is to be said of an idle stack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Leak(Reason, Confidence),
    /// The thread library's, and nothing more is known.
    Unproven,
    /// The thread library's, for reuse.
    Cached,
    Pool,
    /// By a task whose birth was missed.
    InUse,
}

/// Leaks are grouped by this.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    reason: Reason,
    site: SiteKey,
    function: Option<CodeId>,
}

/// Leaks of one group.
struct Leaks<'a> {
    confidence: Confidence,
    maker: Maker,
    /// Whether the thread library's list names one of them.
    listed: bool,
    /// Whether the join may only have been cut short by the process's end.
    cut_short: bool,
    members: Vec<Idle<'a>>,
}

/// What has become of a site's threads and stacks.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Stacks that are leaked, also in another group.
    leaked: u64,
    /// Threads that live.
    live: u64,
    /// Threads that have only just ended.
    in_grace: u64,
    /// Idle stacks of the program's that nothing speaks for or against.
    undecided: u64,
}

/// Findings and notes about the stacks of one address space.
pub fn diagnose(space: &AddressSpace, moment: Moment, library: Library<'_>) -> Diagnosis {
    let (idle, mut sites) = survey(space, moment, &Words::new(space, library));
    let habits = Habits::of(space, &idle);
    let passed_over: u64 = idle
        .iter()
        .filter(|idle| idle.stack.maker == Maker::Glibc && idle.stack.passed_over.is_some())
        .map(|idle| idle.mapping.bytes)
        .sum();
    let beyond_cache = passed_over > CACHE_BYTES;

    let mut groups: IndexMap<Group, Leaks> = IndexMap::new();
    let mut unproven = Vec::new();
    let mut pool = Vec::new();
    let mut disputed = Vec::new();
    for idle in idle {
        if is_disputed(&idle) {
            disputed.push(idle);
        }
        let key = idle.stack.site();
        let site = space.sites.get(key);
        let tally = sites.get(&key).copied().unwrap_or_default();
        let repeated = tally.undecided > 1 || habits.include(&idle);
        let verdict = match space.calls {
            Calls::Told => verdict(&idle, site, repeated, beyond_cache),
            Calls::Untold => verdict_without_calls(&idle, site, repeated),
        };
        match verdict {
            Verdict::Leak(reason, confidence) => {
                let maker = idle.stack.maker;
                let new = Leaks { confidence, maker, listed: false, cut_short: false, members: Vec::new() };
                let leaks = groups.entry(idle.group(reason)).or_insert(new);
                leaks.listed |= idle.word == Word::On(List::Used);
                leaks.confidence = confidence.max(leaks.confidence);
                leaks.members.push(idle);
            }
            Verdict::Unproven => unproven.push(idle),
            Verdict::Cached => {}
            Verdict::Pool => pool.push(idle),
            Verdict::InUse => {}
        }
    }
    join_their_like(space, &mut groups, &mut unproven);
    let left: HashSet<MappingId> = groups.values().flat_map(|leaks| leaks.members.iter().map(|idle| idle.id)).collect();
    for (group, leaks) in &mut groups {
        if let Phase::Ending { by } = moment.phase
            && is_cut_short(space, space.sites.get(group.site), leaks, &left, moment.now, by)
        {
            (leaks.confidence, leaks.cut_short) = (Confidence::Possible, true);
        }
    }

    for (group, leaks) in &groups {
        sites.entry(group.site).or_default().leaked += leaks.members.len() as u64;
    }
    let ids = groups.values().flat_map(|leaks| leaks.members.iter().map(|idle| idle.id));
    let pieces = pieces_of(space, ids);
    let mut findings: Vec<Finding> = groups
        .into_iter()
        .map(|(group, leaks)| {
            let tally = sites.get(&group.site).copied().unwrap_or_default();
            finding(space, group, leaks, tally, &pieces)
        })
        .collect();
    if let Library::Lists { lists, functions } = library {
        add_forgotten(space, lists, functions, moment, &mut findings);
    }
    let notes = [
        notes::unproven(space, &unproven, library),
        notes::cached(space, library),
        notes::pool(space, &pool),
        notes::disputed(space, &disputed),
    ];
    Diagnosis { findings, notes: notes.into_iter().flatten().collect() }
}

/// What the thread library says, by mapping: of the stack, and of the function that its thread ran.
struct Words {
    said: HashMap<MappingId, (Word, Option<CodeId>)>,
    /// Of those that it says nothing of.
    otherwise: Word,
}

impl Words {
    fn new(space: &AddressSpace, library: Library<'_>) -> Words {
        let Library::Lists { lists, functions } = library else {
            return Words { said: HashMap::new(), otherwise: Word::None };
        };
        let said = lists.threads.iter().filter_map(|thread| {
            let function = functions.get(&thread.start_routine).copied();
            Some((space.mapping_at(thread.descriptor)?, (word(thread), function)))
        });
        Words { said: said.collect(), otherwise: if lists.settled { Word::Denied } else { Word::Moving } }
    }

    fn of(&self, id: MappingId) -> (Word, Option<CodeId>) {
        self.said.get(&id).copied().unwrap_or((self.otherwise, None))
    }
}

fn word(thread: &ListedThread) -> Word {
    match thread.list {
        _ if thread.task.is_some() => Word::Live,
        _ if thread.is_on_its_way() => Word::Moving,
        list => Word::On(list),
    }
}

/// Whether what the thread library says of an idle stack contradicts the system calls.
fn is_disputed(idle: &Idle) -> bool {
    let stack = idle.stack;
    match idle.word {
        Word::Live => true,
        Word::Denied => stack.maker == Maker::Glibc && stack.last.released && !stack.cut,
        _ => false,
    }
}

/// Adds what was never joined before we came: on the list of used stacks, with no task, and not known to the model.
fn add_forgotten(
    space: &AddressSpace,
    lists: &ThreadLists,
    functions: &HashMap<Addr, CodeId>,
    moment: Moment,
    findings: &mut Vec<Finding>,
) {
    // They may have ended a moment before we came, and be joined in a moment.
    let in_grace = moment.phase == Phase::Living && moment.now.since(Time::default()) < GRACE;
    let proof = match lists.library {
        ThreadLibrary::Glibc => LISTED,
        ThreadLibrary::Musl => MUSL,
    };
    let mut groups: IndexMap<(u64, u64, Option<CodeId>), Vec<Member>> = IndexMap::new();
    for thread in lists.threads.iter().filter(|thread| thread.list == List::Used && thread.task.is_none()) {
        let Some(block) = thread.stack else { continue };
        let mapping = space.mapping_at(thread.descriptor).and_then(|id| space.mappings.get(id));
        // A mapping whose birth was seen, and that is no stack yet, is that of a thread which is being created.
        let unknown = mapping.is_some_and(|mapping| {
            let known = mapping.stack.as_deref().is_some_and(|stack| stack.maker != Maker::Unknown);
            !known && mapping.made.is_none() && !mapping.inherited
        });
        let ended = mapping.and_then(Mapping::idle_stack).map(|(_, ended)| ended.at);
        let only_just = moment.phase == Phase::Living && ended.is_some_and(|at| moment.now.since(at) < GRACE);
        if unknown && !only_just && !thread.is_on_its_way() {
            let function = functions.get(&thread.start_routine).copied();
            groups
                .entry((block.range.bytes(), block.guard_bytes, function))
                .or_default()
                .push(Member::unseen(block.range));
        }
    }
    for ((region_bytes, guard_bytes, function), members) in groups {
        let origin = Origin { function, ..Origin::default() };
        let same = |finding: &&mut Finding| {
            finding.reason == Reason::Unjoined && finding.region_bytes == region_bytes && finding.origin == origin
        };
        if let Some(finding) = findings.iter_mut().find(same).filter(|_| !in_grace) {
            finding.members.splice(0..0, members);
            (finding.confidence, finding.created, finding.recurrence) = (Confidence::Definite, None, None);
            (finding.proof, finding.advice) = (proof.to_owned(), JOIN.to_owned());
        } else {
            findings.push(Finding {
                rule: Rule::OrphanedStack,
                reason: Reason::Unjoined,
                confidence: if in_grace { Confidence::Possible } else { Confidence::Definite },
                recurrence: None,
                pid: space.pid,
                created: None,
                region_bytes,
                guard_bytes,
                resident_bytes: None,
                origin,
                thread_function: None,
                site: Vec::new(),
                mapped_site: Vec::new(),
                proof: proof.to_owned(),
                advice: JOIN.to_owned(),
                awaits_proof: false,
                members,
            });
        }
    }
}

pub(super) const LISTED: &str = "never joined: on the thread library's list of used stacks, its task is gone";
const MUSL: &str = "never joined: musl unmaps a stack when its thread is joined, or when a detached one ends";
pub(super) const JOIN: &str = "call pthread_join or pthread_detach for each of these threads";
pub(super) const UNMAP: &str = "unmap (or free) the stack after its thread has ended";
const FRESH: &str =
    "the program's own: its thread is gone, and the program mapped a fresh one rather than use it again";

/// All idle stacks that count, oldest end first, and what else their sites have made.
fn survey<'a>(space: &'a AddressSpace, moment: Moment, words: &Words) -> (Vec<Idle<'a>>, HashMap<SiteKey, Tally>) {
    let mut idle = Vec::new();
    let mut sites: HashMap<SiteKey, Tally> = HashMap::new();
    for (id, mapping) in space.mappings.iter().filter(|(_, mapping)| !mapping.inherited) {
        let Some(stack) = mapping.stack.as_deref() else {
            continue;
        };
        let site = sites.entry(stack.site()).or_default();
        let Some((_, ended)) = mapping.idle_stack() else {
            site.live += u64::from(stack.live);
            continue;
        };
        if moment.phase == Phase::Living && moment.now.since(ended.at) < GRACE {
            site.in_grace += 1;
            continue;
        }
        let (word, listed) = words.of(id);
        // What was seen at the birth is right also where other code lies at that address now.
        let function = stack.last.born.and_then(|born| born.function).or(listed);
        let one = Idle { id, mapping, stack, ended, word, function };
        sites.entry(stack.site()).or_default().undecided += u64::from(one.is_undecided(space.calls));
        idle.push(one);
    }
    idle.sort_by_key(|idle| (idle.ended.at, idle.stack.last.tid));
    (idle, sites)
}

/// `repeated` says whether the program has left several such stacks of its own.
fn verdict(idle: &Idle, site: Site, repeated: bool, beyond_cache: bool) -> Verdict {
    use Confidence::{Definite, Possible, Probable};
    let stack = idle.stack;
    let passed_over = stack.passed_over.is_some();
    // It looks like glibc's, but would be on a list.
    let is_denied = stack.maker == Maker::Glibc && idle.word == Word::Denied && !stack.last.released;
    let maker = if idle.word == Word::On(List::User) { Maker::Program } else { stack.maker };
    match maker {
        _ if idle.word == Word::Live => Verdict::InUse,
        Maker::Unknown => Verdict::Unproven,
        _ if stack.cut => Verdict::Leak(Reason::PartlyUnmapped, Definite),
        _ if idle.word == Word::On(List::Used) => Verdict::Leak(Reason::Unjoined, Definite),
        _ if idle.word == Word::On(List::Cached) => Verdict::Cached,
        // musl uses none of its own twice.
        Maker::Musl if stack.owners > 1 => Verdict::Pool,
        Maker::Musl => Verdict::Leak(Reason::Unjoined, Definite),
        Maker::Glibc if is_denied && stack.owners > 1 => Verdict::Pool,
        Maker::Glibc if is_denied && passed_over => Verdict::Leak(Reason::Unmanaged, Probable),
        Maker::Glibc if is_denied => Verdict::Leak(Reason::Unmanaged, Possible),
        // Whatever has not been joined would be on a list.
        Maker::Glibc if idle.word == Word::Moving => Verdict::Unproven,
        Maker::Glibc if passed_over && beyond_cache && idle.word != Word::Denied => {
            Verdict::Leak(Reason::Unjoined, Definite)
        }
        Maker::Glibc if passed_over => Verdict::Leak(Reason::Unjoined, Probable),
        Maker::Glibc | Maker::Unsettled => Verdict::Unproven,
        Maker::Program if stack.owners > 1 => Verdict::Pool,
        Maker::Program if passed_over && !site.may_let_go(idle.ended) => Verdict::Leak(Reason::Unmanaged, Definite),
        Maker::Program if site.reused > 0 => Verdict::Pool,
        Maker::Program if passed_over => Verdict::Leak(Reason::Unmanaged, Possible),
        Maker::Program if repeated => Verdict::Leak(Reason::Unmanaged, Probable),
        Maker::Program => Verdict::Leak(Reason::Unmanaged, Possible),
    }
}

/// The same where mapping calls are not told: by the thread library's lists, and of the program's own stacks by their
/// contents, which are still what their last owner has left (others have been disowned). Who mapped what, and when, is not
/// known, so that nothing of the program's is definite.
fn verdict_without_calls(idle: &Idle, site: Site, repeated: bool) -> Verdict {
    use Confidence::{Definite, Possible, Probable};
    let is_program_made = idle.stack.maker == Maker::Program || idle.word == Word::On(List::User);
    match idle.word {
        Word::Live => Verdict::InUse,
        Word::On(List::Used) => Verdict::Leak(Reason::Unjoined, Definite),
        Word::On(List::Cached) => Verdict::Cached,
        _ if !is_program_made => Verdict::Unproven,
        _ if idle.stack.owners > 1 || site.reused > 0 => Verdict::Pool,
        _ if repeated && !site.lets_go() => Verdict::Leak(Reason::Unmanaged, Probable),
        _ => Verdict::Leak(Reason::Unmanaged, Possible),
    }
}

/// Whether the process's end may have come between the ends of these threads and their joins: the site lets go of most of
/// its threads' stacks, and each of these had ended less than a second before, among the latest that its creator has
/// made. Loops that create and join, in as many threads, are left so when another thread or a signal ends the process
/// around them; a creator that ends it itself may leave its loop in the middle of one round (stress-ng's pthread
/// stressor, one run in two), but has had the time to join more than one thread.
fn is_cut_short(
    space: &AddressSpace,
    site: Site,
    leaks: &Leaks,
    left: &HashSet<MappingId>,
    now: Time,
    ended_by: Option<Tid>,
) -> bool {
    /// Hardly more loops than this are caught in the same moment.
    const MOST: usize = 64;
    let count = leaks.members.len();
    let are_few = count <= MOST && site.created > 2 * count as u64;
    let is_enders = |idle: &Idle| ended_by.is_some() && idle.stack.last.born.map(|born| born.creator) == ended_by;
    let just_ended = |idle: &Idle| {
        let in_time = count == 1 || !is_enders(idle);
        in_time && now.since(idle.ended.at) < GRACE && is_latest_of_creator(space, idle.stack, left)
    };
    leaks.listed && site.lets_go() && are_few && leaks.members.iter().all(just_ended)
}

/// Whether no thread that the stack's owner's creator has made later has ended and is none of those `left`, as far as
/// there are stacks to tell: a loop that makes several threads and then joins them leaves the latest of them together.
fn is_latest_of_creator(space: &AddressSpace, stack: &Stack, left: &HashSet<MappingId>) -> bool {
    let Some(born) = stack.last.born else { return false };
    let is_later = |stack: &Stack| {
        let other = stack.last.born.filter(|other| other.creator == born.creator && other.at > born.at);
        other.is_some() && stack.last.ended.is_some()
    };
    let mut others = space.mappings.iter().filter(|(id, _)| !left.contains(id));
    !others.any(|(_, mapping)| mapping.stack.as_deref().is_some_and(is_later))
}

/// Stacks of which nothing is known go with those of their site that are proven, if the site never let one go.
fn join_their_like<'a>(space: &AddressSpace, groups: &mut IndexMap<Group, Leaks<'a>>, unproven: &mut Vec<Idle<'a>>) {
    unproven.retain(|idle| {
        if idle.word != Word::None {
            return true;
        }
        let site = space.sites.get(idle.stack.site());
        match groups.get_mut(&idle.group(Reason::Unjoined)) {
            Some(leaks) if !site.lets_go() && idle.stack.maker == leaks.maker => {
                leaks.members.push(*idle);
                false
            }
            _ => true,
        }
    });
}

fn finding(
    space: &AddressSpace,
    group: Group,
    leaks: Leaks,
    tally: Tally,
    pieces: &HashMap<MappingId, Vec<Range>>,
) -> Finding {
    let site_known = leaks.members.iter().all(|idle| idle.stack.last.born.is_some());
    let created = site_known.then(|| space.sites.get(group.site).created);
    let recurrence = created.map(|created| {
        if created == 1 {
            Recurrence::OneTime
        } else if tally.leaked >= 2 && tally.leaked + tally.live + tally.in_grace == created {
            Recurrence::Recurrent
        } else {
            Recurrence::Occasional
        }
    });
    let program_made = leaks.members.iter().filter(|idle| idle.stack.maker == Maker::Program);
    let mapped = program_made.filter_map(|idle| idle.mapping.made).find_map(|made| made.call_stack);
    let origin = Origin { created: group.site.call_stack, mapped, function: group.function };
    let (proof, advice) = explain(group.reason, leaks.confidence, &leaks);
    let guard_bytes = leaks.members.first().map_or(0, |idle| idle.stack.guard_bytes);
    let awaits_proof = group.reason == Reason::Unmanaged
        && leaks.confidence < Confidence::Definite
        && leaks.members.iter().all(|idle| idle.is_undecided(Calls::Told))
        && !space.sites.get(group.site).lets_go();
    let members = leaks.members.iter().filter_map(|idle| member(idle, pieces.get(&idle.id)?)).collect();
    Finding {
        rule: Rule::OrphanedStack,
        reason: group.reason,
        confidence: leaks.confidence,
        recurrence,
        pid: space.pid,
        created,
        region_bytes: group.site.region_bytes,
        guard_bytes,
        resident_bytes: None,
        origin,
        thread_function: None,
        site: Vec::new(),
        mapped_site: Vec::new(),
        proof,
        advice,
        awaits_proof,
        members,
    }
}

/// What proves it, and what to do about it.
fn explain(reason: Reason, confidence: Confidence, leaks: &Leaks) -> (String, String) {
    let (proof, advice) = match (reason, leaks.maker, confidence) {
        (Reason::PartlyUnmapped, ..) => (
            "a part of the stack was unmapped, the rest is still mapped and no live thread uses it",
            "unmap the whole range that was mapped, guard page included",
        ),
        (Reason::Unjoined, Maker::Musl, _) => (MUSL, JOIN),
        (Reason::Unjoined, ..) if leaks.cut_short => (
            "not joined when the process ended, less than a second after the thread, one of the latest that its \
             creator made at a site that joins most",
            JOIN,
        ),
        (Reason::Unjoined, ..) if leaks.listed => (LISTED, JOIN),
        (Reason::Unjoined, _, Confidence::Definite) => (
            "never joined: a fresh stack was mapped while these lay idle, and they are more than the thread library's \
             cache may hold (40 MiB)",
            JOIN,
        ),
        (Reason::Unjoined, ..) => (
            "not joined by the time a fresh stack was mapped, which would have used this one had it been in the cache",
            JOIN,
        ),
        (_, _, Confidence::Definite) => (FRESH, UNMAP),
        _ if leaks.members.iter().all(|idle| idle.stack.imprint.is_some()) => (
            "the program's own: its thread is gone, and what it has left in it is still there, so that nothing has \
             used it or unmapped it since",
            UNMAP,
        ),
        _ => ("the program's own: its thread is gone, and nothing has used, unmapped or freed it since", UNMAP),
    };
    (proof.to_owned(), advice.to_owned())
}

fn member(idle: &Idle, pieces: &[Range]) -> Option<Member> {
    let stack = idle.stack;
    let owner = stack.last;
    let born = owner.born.map(|born| Evidence {
        at: born.at,
        tid: born.creator,
        what: EvidenceCall::Returned { call: Call::Clone(born.args), result: u64::try_from(owner.tid.0).unwrap_or(0) },
    });
    let ended = Evidence { at: idle.ended.at, tid: owner.tid, what: EvidenceCall::Ended(idle.ended.exit) };
    let made = idle.mapping.made.as_ref().map(Evidence::from);
    let guarded = idle.mapping.guarded.as_deref().map(Evidence::from);
    Some(Member {
        range: Range::new(pieces.first()?.start(), pieces.last()?.end())?,
        virtual_bytes: idle.mapping.bytes,
        pieces: pieces.to_vec(),
        owner: Some(owner.tid),
        creator: owner.born.map(|born| born.creator),
        mapped_at: idle.mapping.made.map(|made| made.at),
        born_at: owner.born.map(|born| born.at),
        exited_at: Some(idle.ended.at),
        evidence: made.into_iter().chain(guarded).chain(born).chain([ended]).collect(),
    })
}
