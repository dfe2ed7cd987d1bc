//! The rule for memory that is no stack: mapped by threads that are gone, again and again, and never unmapped.
//!
//! Always `possible`, for memory may be handed on to those who live. The size stands for the site: three threads or
//! more have mapped one of that size, and none of that size was ever unmapped.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::finding::{Confidence, Evidence, Finding, Member, Origin, Reason, Rule};
use super::pieces_of;
use crate::abi::map;
use crate::event::Prot;
use crate::model::mapping::{Kind, Made, Mapping, MappingId};
use crate::model::space::AddressSpace;
use crate::units::{Range, Tid};

/// How many threads must have done it.
const THREADS: usize = 3;

/// Findings of one address space. `is_live` tells whether a task still runs.
pub fn findings(space: &AddressSpace, is_live: &dyn Fn(Tid) -> bool) -> Vec<Finding> {
    let mut sizes: IndexMap<u64, Vec<(MappingId, &Mapping, Made)>> = IndexMap::new();
    for (id, mapping) in &space.mappings {
        let Some(made) = mapping.made else { continue };
        if is_plain(mapping) && !space.freed_sizes.may_contain(mapping.made_bytes) && !is_live(made.tid) {
            sizes.entry(mapping.made_bytes).or_default().push((id, mapping, made));
        }
    }
    sizes.retain(|_, members| {
        let threads: HashSet<Tid> = members.iter().map(|(_, _, made)| made.tid).collect();
        threads.len() >= THREADS && !is_allocators(members)
    });
    let pieces = pieces_of(space, sizes.values().flatten().map(|(id, ..)| *id));
    sizes
        .into_iter()
        .map(|(region_bytes, mut members)| {
            members.sort_by_key(|(_, _, made)| made.at);
            let call_stack = members.iter().find_map(|(_, _, made)| made.call_stack);
            let members = members.iter().filter_map(|(id, mapping, made)| member(mapping, *made, pieces.get(id)?));
            Finding {
                rule: Rule::OrphanedMapping,
                reason: Reason::NeverUnmapped,
                confidence: Confidence::Possible,
                recurrence: None,
                pid: space.pid,
                created: None,
                region_bytes,
                guard_bytes: 0,
                resident_bytes: None,
                origin: Origin { created: call_stack, ..Origin::default() },
                thread_function: None,
                site: Vec::new(),
                mapped_site: Vec::new(),
                proof: "mapped by threads that have ended; of this size none was ever unmapped".to_owned(),
                advice: "unmap it before the thread ends, or make sure that those it is handed to do".to_owned(),
                awaits_proof: false,
                members: members.collect(),
            }
        })
        .collect()
}

/// Whether it is memory that a thread asked for, whole, for its own use: no stack, no file, no allocator's reserve.
fn is_plain(mapping: &Mapping) -> bool {
    let asked_for = mapping.mmap_arguments().is_some_and(|(flags, prot, _)| {
        prot != Prot::NONE && flags & (map::NORESERVE | map::STACK | map::GROWSDOWN) == 0
    });
    mapping.stack.is_none()
        && !mapping.inherited
        && !mapping.trimmed
        && mapping.guarded.is_none()
        && mapping.kind == Kind::Anonymous
        && asked_for
}

/// Allocators take chunks that are aligned to their size, to find a chunk's head from any address in it.
fn is_allocators(members: &[(MappingId, &Mapping, Made)]) -> bool {
    const CHUNK_MIN: u64 = 64 << 10;
    members.iter().all(|(_, mapping, made)| {
        let size = mapping.made_bytes;
        size >= CHUNK_MIN && size.is_power_of_two() && made.result.is_multiple_of(size)
    })
}

fn member(mapping: &Mapping, made: Made, pieces: &[Range]) -> Option<Member> {
    Some(Member {
        range: Range::new(pieces.first()?.start(), pieces.last()?.end())?,
        virtual_bytes: mapping.bytes,
        pieces: pieces.to_vec(),
        owner: Some(made.tid),
        creator: Some(made.tid),
        mapped_at: Some(made.at),
        born_at: Some(made.at),
        exited_at: None,
        evidence: vec![Evidence::from(&made)],
    })
}
