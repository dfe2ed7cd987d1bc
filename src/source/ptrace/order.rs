//! The order of calls: who may go in at a gate, and what is asked of the kernel where the order was lost.

use std::time::Instant;

use super::gate::Gate;
use super::{GateId, Ptrace};
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

    /// An address space is about to be judged, and a call that blocks has been overtaken in it: the order of calls is not
    /// known, the maps are.
    pub(super) fn look_if_overlapped(&mut self, gate: GateId) {
        if self.gates.get(&gate).is_some_and(Gate::has_overlap) {
            self.look_at_maps(gate, None);
        }
    }

    /// Asks the kernel what an address space looks like, by any task but `except`, and tells it.
    pub(super) fn look_at_maps(&mut self, gate: GateId, except: Option<Tid>) {
        let alive = self
            .tracees
            .iter()
            .find(|(tid, tracee)| tracee.gate == gate && !tracee.ended && Some(**tid) != except)
            .map(|(tid, _)| *tid);
        if let Some(tid) = alive
            && let Ok(maps) = procfs::maps::read(tid)
            && !maps.is_empty()
        {
            self.tell_maps(tid, maps);
        }
    }

    /// Tells what an address space looks like in which the order of calls was lost.
    pub(super) fn tell_maps(&mut self, tid: Tid, maps: Box<[Vma]>) {
        self.tell(tid, EventKind::OrderLost);
        self.tell(tid, EventKind::Maps(maps));
    }
}
