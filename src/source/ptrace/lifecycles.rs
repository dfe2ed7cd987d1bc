//! Where mapping calls cannot be followed, or cost the target too much, the lifecycles of its threads are.

use std::time::Instant;

use super::gate::Gate;
use super::overhead::Verdict;
use super::{Phase, Ptrace};
use crate::event::EventKind;
use crate::source::{Follow, Source};
use crate::units::Tid;

/// A share of the target's time, in percent, that hardly anybody minds.
const MODEST: u32 = 5;

impl Ptrace {
    /// Measures what stops cost, and acts on it.
    pub(super) fn watch_overhead(&mut self, tid: Tid) {
        let now = Instant::now();
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.noticed = Some(now);
        }
        if !matches!(self.phase, Phase::Following) {
            return;
        }
        const COSTS: &str = "of the time in which its threads wanted to run, the target stood stopped for";
        match self.overhead.as_mut().and_then(|overhead| overhead.judge(now)) {
            Some(Verdict::Warn(percent)) => self.warnings.push_back(format!(
                "{COSTS} {percent:.0} %, as every system call stops; --engine perf or --follow threads cost next to \
                 nothing, and --max-overhead {MODEST} turns to the latter by itself"
            )),
            Some(Verdict::TooMuch(percent)) => {
                let text = format!(
                    "{COSTS} {percent:.0} %, more than --max-overhead allows: thread lifecycles alone are followed \
                     since {:.1} s after vmtrace came",
                    self.now().0.as_secs_f64()
                );
                self.warnings.push_back(text.clone());
                self.fallen_back = Some(text);
                self.fall_back();
            }
            None => {}
        }
    }

    /// Without PTRACE_GET_SYSCALL_INFO (Linux 5.3) the entry of a call and the exit of one cannot be told apart in a process
    /// that was in the middle of its life: what is left is to follow the lifecycles of its threads.
    pub(super) fn cannot_tell_calls(&mut self, tid: Tid) {
        if self.follow == Follow::Memory {
            let text = "this kernel does not tell the entry of a system call from its exit (Linux 5.3 and later do): thread \
                        lifecycles alone are followed; --engine perf follows mapping calls too";
            self.warnings.push_back(text.to_owned());
            self.fallen_back = Some(text.to_owned());
            self.fall_back();
        }
        self.restart(tid, 0);
    }

    /// Follows thread lifecycles alone from here on. Those that run to their next call stop there once more.
    pub(super) fn fall_back(&mut self) {
        (self.follow, self.overhead) = (Follow::Threads, None);
        self.placement.free();
        self.gates.values_mut().for_each(Gate::clear);
        let mut held = Vec::new();
        for (tid, tracee) in &mut self.tracees {
            tracee.inside = None;
            if std::mem::take(&mut tracee.held) {
                held.push(*tid);
            }
        }
        for tid in held {
            self.restart(tid, 0);
        }
        self.tell(self.main.pid.into(), EventKind::LifecyclesAlone);
    }
}
