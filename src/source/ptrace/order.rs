//! The order of calls: who may go in at a gate, and what is asked of the kernel where the order was lost.

use std::time::Instant;

use super::gate::Gate;
use super::{GateId, Ptrace, Tracee};
use crate::event::{EventKind, Vma};
use crate::procfs::{self, task};
use crate::units::Tid;

impl Ptrace {
    pub(super) fn admit(&mut self, gate: GateId) -> Option<Tid> {
        self.gates.get_mut(&gate).filter(|gate| gate.holds())?.admit(Instant::now(), task::runs_or_sleeps)
    }

    /// Looks once more at the end, where calls that block have been overtaken; false if there are none.
    pub(super) fn look_at_overlapped(&mut self) -> bool {
        let overlapped: Vec<GateId> =
            self.gates.iter_mut().filter_map(|(id, gate)| gate.forget_overlap().then_some(*id)).collect();
        for gate in &overlapped {
            self.overlaps += 1;
            self.look_at_maps(*gate, None);
        }
        !overlapped.is_empty()
    }

    /// An address space is about to be judged, because of what `tid` is about to do, and a call that blocks has been overtaken
    /// in it: the order of calls is not known, the maps are.
    pub(super) fn look_if_overlapped(&mut self, gate: GateId, tid: Tid) {
        if !self.gates.get(&gate).is_some_and(Gate::has_overlap) {
            return;
        }
        // It has not gone on yet, whatever the others do.
        match maps_by(tid) {
            Some(maps) => self.tell_maps(tid, maps),
            None => self.look_at_maps(gate, Some(tid)),
        }
    }

    /// Asks the kernel what an address space looks like, by any task but `except`, and tells it.
    ///
    /// A task may have ended by now and have no memory any more, and one that executes a program may have another; what they
    /// do is told only later.
    pub(super) fn look_at_maps(&mut self, gate: GateId, except: Option<Tid>) {
        let shows = |tid: Tid, tracee: &Tracee| {
            tracee.gate == gate && !tracee.ended && !tracee.executes() && Some(tid) != except
        };
        let seen = self
            .tracees
            .iter()
            .filter(|(tid, tracee)| shows(**tid, tracee))
            .find_map(|(tid, _)| Some((*tid, maps_by(*tid)?)));
        if let Some((tid, maps)) = seen {
            self.tell_maps(tid, maps);
        }
    }

    /// Tells what an address space looks like in which the order of calls was lost.
    pub(super) fn tell_maps(&mut self, tid: Tid, maps: Box<[Vma]>) {
        self.tell(tid, EventKind::OrderLost);
        self.tell(tid, EventKind::Maps(maps));
    }
}

/// What a task's address space looks like, if it still has one.
fn maps_by(tid: Tid) -> Option<Box<[Vma]>> {
    procfs::maps::read(tid).ok().filter(|maps| !maps.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ptrace::{Abi, Follow, Followed, Inside, Phase};
    use crate::units::Pid;

    /// The maps are read by a task that lives and executes nothing else, whichever comes first.
    #[test]
    fn the_maps_are_read_by_one_that_has_them() {
        let own = Pid(std::process::id() as i32);
        let mut other = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let executing = Tid(other.id() as i32);
        let mut source = Ptrace::new(own, false, Follow::Memory, Phase::Following);
        let gate = source.new_gate();
        // No such tasks.
        for gone in 1..=20 {
            source.add_child(Tid(i32::MAX - gone), own, Some(gate));
        }
        for followed in [Followed::Execve, Followed::Execveat] {
            source.add_child(executing, Pid(executing.0), Some(gate));
            let inside = Inside { abi: Abi::X86_64, followed, asked: None, is_let_through: true };
            source.tracees.get_mut(&executing).unwrap().inside = Some(inside);
            source.look_at_maps(gate, None);
            assert_eq!(source.events.len(), 0, "there is none that lives, or that does not execute");
        }
        source.add_child(own.into(), own, Some(gate));
        source.look_at_maps(gate, None);
        let tellers: Vec<Tid> = source.events.iter().map(|event| event.tid).collect();
        assert_eq!(tellers, [Tid::from(own); 2]);
        source.look_at_maps(gate, Some(own.into()));
        assert_eq!(source.events.len(), 2, "it is excepted");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
