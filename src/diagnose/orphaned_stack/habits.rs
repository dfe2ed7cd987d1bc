//! What several sites tell together that none of them tells alone.

use std::collections::{HashMap, HashSet};

use super::{FRESH, Idle};
use crate::diagnose::finding::{Confidence, Finding, Member};
use crate::model::space::AddressSpace;
use crate::model::stacks::CACHE_LOOK;
use crate::units::CodeId;

/// What the program does with its own stacks wherever it creates threads: a function whose threads are created from
/// several places, or in a loop that the compiler has unrolled, leaves one at each of many sites.
pub(super) struct Habits {
    /// How many undecided stacks there are, by size, of threads of one function.
    undecided: HashMap<(u64, CodeId), u64>,
    /// Sizes of which a stack was used again or unmapped after its owner's end.
    let_go: HashSet<u64>,
}

impl Habits {
    pub(super) fn of(space: &AddressSpace, idle: &[Idle]) -> Habits {
        let mut undecided = HashMap::new();
        for one in idle.iter().filter(|one| one.is_undecided(space.calls)) {
            if let Some(function) = one.function {
                *undecided.entry((one.stack.region_bytes, function)).or_default() += 1;
            }
        }
        let let_go = space.sites.iter().filter(|(_, site)| site.lets_go() || site.reused > 0);
        Habits { undecided, let_go: let_go.map(|(key, _)| key.region_bytes).collect() }
    }

    /// Whether an undecided stack is one of several, and none like it was ever let go of.
    pub(super) fn include(&self, idle: &Idle) -> bool {
        let bytes = idle.stack.region_bytes;
        let count = idle.function.and_then(|function| self.undecided.get(&(bytes, function)));
        count.is_some_and(|count| *count > 1) && !self.let_go.contains(&bytes)
    }
}

/// What was left at several sites turns out to be of one line of the source: where that has mapped a fresh stack after
/// another's owner had ended, it is as if it had been one site from the beginning.
pub fn prove_by_members(finding: &mut Finding) {
    let latest = finding.members.iter().filter_map(|member| member.mapped_at).max();
    let Some(latest) = latest.filter(|_| finding.awaits_proof) else { return };
    let passed_over = |member: &Member| member.exited_at.is_some_and(|ended| latest.since(ended) >= CACHE_LOOK);
    if finding.members.iter().any(passed_over) {
        (finding.confidence, finding.awaits_proof) = (Confidence::Definite, false);
        FRESH.clone_into(&mut finding.proof);
    }
}
