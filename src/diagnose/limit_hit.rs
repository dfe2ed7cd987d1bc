//! The note for calls that failed because something had run out, naming what.

use super::bytes_for_people;
use super::finding::{Finding, Note, NoteKind};
use crate::event::{Limits, Usage};
use crate::model::space::{AddressSpace, Refusal};

/// A limit that may have been met, and how its numbers are written.
struct Met {
    name: &'static str,
    usage: Usage,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Mappings,
    Tasks,
}

/// Notes on one address space, with how much of the limits the findings use.
pub fn notes(space: &AddressSpace, findings: &[Finding]) -> Vec<Note> {
    space.refusals.iter().map(|refusal| note(space, refusal, findings)).collect()
}

fn note(space: &AddressSpace, refusal: &Refusal, findings: &[Finding]) -> Note {
    let leaked: u64 = findings.iter().map(Finding::virtual_bytes).sum();
    let regions: u64 = findings.iter().map(|finding| finding.members.len() as u64).sum();
    let times = if refusal.count == 1 { "once".to_owned() } else { format!("{} times", refusal.count) };
    let errno = refusal.errno.name().unwrap_or("an error");
    let met = refusal.limits.as_deref().and_then(|limits| met(refusal, limits));
    let cause = match &met {
        None if refusal.limits.is_none() => "which limit was met is not known".to_owned(),
        None => "no limit that can be read was met (memory control group, or physical memory)".to_owned(),
        Some(Met { name, usage, unit }) => {
            let of = |number| match unit {
                Unit::Bytes => bytes_for_people(number),
                Unit::Mappings | Unit::Tasks => number.to_string(),
            };
            let share = match unit {
                Unit::Bytes if leaked > 0 => {
                    format!("; the findings hold {}", bytes_for_people(leaked))
                }
                Unit::Mappings if regions > 0 => {
                    let mappings: usize =
                        findings.iter().flat_map(|finding| &finding.members).map(|member| member.pieces.len()).sum();
                    format!("; the findings hold {mappings} or more")
                }
                _ => String::new(),
            };
            format!("{name} was met, {} of {} in use{share}", of(usage.used), of(usage.limit))
        }
    };
    Note {
        kind: NoteKind::LimitHit,
        pid: Some(space.pid),
        regions: refusal.count,
        virtual_bytes: 0,
        text: format!("{} failed {times} with {errno}: {cause}", refusal.call),
    }
}

/// The limit that explains the failure: the first that the call would have exceeded.
fn met(refusal: &Refusal, limits: &Limits) -> Option<Met> {
    let clone = matches!(refusal.call, "clone" | "clone3" | "fork" | "vfork");
    let exceeded = |name, usage: Option<Usage>, wanted: u64, unit| {
        let usage = usage?;
        (usage.used.saturating_add(wanted) > usage.limit).then_some(Met { name, usage, unit })
    };
    let bytes = if clone { 0 } else { refusal.wanted_bytes };
    let tasks = [
        exceeded("RLIMIT_NPROC", limits.user_tasks, 1, Unit::Tasks),
        exceeded("pids.max", limits.cgroup_tasks, 1, Unit::Tasks),
        exceeded("kernel.threads-max", limits.system_tasks, 1, Unit::Tasks),
    ];
    let memory = [
        exceeded("RLIMIT_AS", limits.address_space, bytes, Unit::Bytes),
        // A split of one region into three needs two more.
        exceeded("vm.max_map_count", limits.vmas, 2, Unit::Mappings),
        exceeded("the overcommit limit", limits.commit, bytes, Unit::Bytes),
        exceeded("RLIMIT_DATA", limits.data, bytes, Unit::Bytes),
    ];
    if clone { tasks.into_iter().flatten().next() } else { memory.into_iter().flatten().next() }
}
