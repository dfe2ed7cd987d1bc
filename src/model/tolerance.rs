//! What may differ between the model and /proc/PID/maps, because no system call tells of it. Each has a name, and holds
//! no further than its evidence reaches; everything else that differs is a mismatch.

use serde::Serialize;

use super::space::AddressSpace;
use crate::event::{Prot, Sharing, Vma};
use crate::units::{Addr, PAGE};

/// A difference that is none of the model's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tolerance {
    /// A page fault has extended a stack downwards (`expand_downwards`).
    ///
    /// Evidence: the pages are private and anonymous, and end where a mapping begins that grows down (the main stack,
    /// MAP_GROWSDOWN, or by the kernel's flag what was there before anything was told, or has been taken over from maps), or
    /// began when a call took pages away or changed them there; their rights are its own; no other mapping lies in between.
    /// RLIMIT_STACK is no evidence: it may have been another one at the time of the fault.
    StackGrowth,
    /// The vsyscall page, which is in no address space of its own (`get_gate_vma`).
    ///
    /// Evidence: its address, which is above all that can be mapped.
    GatePage,
    /// What the kernel maps into any process for a probe, and never takes out again: the page in which probed
    /// instructions are executed (`xol_add_vma`) and that of the trampolines (`create_uprobe_trampoline`).
    ///
    /// Evidence: a single private page by the name that only the kernel gives, which cannot be written to.
    Uprobes,
    /// The vDSO and its data, mapped once more by arch_prctl(2) with ARCH_MAP_VDSO_64 and its like, as who restores
    /// checkpoints does (`map_vdso_once`).
    ///
    /// Evidence: private pages by the names that only the kernel gives, which cannot be written to, where the model has
    /// nothing.
    Vdso,
}

/// How often each was needed in comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tolerated {
    /// [`Tolerance::StackGrowth`]
    pub stack_growth: u64,
    /// [`Tolerance::GatePage`]
    #[serde(skip)]
    pub gate_page: u64,
    /// [`Tolerance::Uprobes`]
    pub uprobes: u64,
    /// [`Tolerance::Vdso`]
    pub vdso: u64,
}

impl Tolerated {
    /// One more.
    pub fn count(&mut self, tolerance: Tolerance) {
        *match tolerance {
            Tolerance::StackGrowth => &mut self.stack_growth,
            Tolerance::GatePage => &mut self.gate_page,
            Tolerance::Uprobes => &mut self.uprobes,
            Tolerance::Vdso => &mut self.vdso,
        } += 1;
    }

    /// Adds those of another comparison.
    pub fn add(&mut self, other: Tolerated) {
        self.stack_growth += other.stack_growth;
        self.gate_page += other.gate_page;
        self.uprobes += other.uprobes;
        self.vdso += other.vdso;
    }
}

/// Why a line of maps is no part of the model; none if it is one.
pub fn not_modelled(vma: &Vma) -> Option<Tolerance> {
    const VSYSCALL: Addr = Addr(0xffff_ffff_ff60_0000);
    if vma.range.start() == VSYSCALL && vma.range.bytes() == PAGE {
        return Some(Tolerance::GatePage);
    }
    let is_named = matches!(&*vma.name, b"[uprobes]" | b"[uprobes-trampoline]");
    let is_page = vma.range.bytes() == PAGE && vma.sharing == Sharing::Private && !vma.prot.contains(Prot::WRITE);
    (is_named && is_page && !vma.is_file()).then_some(Tolerance::Uprobes)
}

impl AddressSpace {
    /// Takes over from the kernel's maps what no call has told, and counts it.
    pub(super) fn take_over_untold(&mut self, maps: &[Vma]) {
        for tolerance in maps.iter().filter_map(not_modelled) {
            self.tolerated.count(tolerance);
        }
        self.grow_stacks(maps);
        for vma in maps.iter().filter(|vma| is_vdso(vma)) {
            if self.areas.overlapping(vma.range).next().is_none() {
                self.map_seen(vma.range, vma);
                self.tolerated.count(Tolerance::Vdso);
            }
        }
    }
}

fn is_vdso(vma: &Vma) -> bool {
    let is_named = matches!(&*vma.name, b"[vdso]" | b"[vvar]" | b"[vvar_vclock]");
    is_named && vma.sharing == Sharing::Private && !vma.prot.contains(Prot::WRITE) && !vma.is_file()
}
