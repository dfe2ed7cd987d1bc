//! What may differ between the model and /proc/PID/maps, because no system call tells of it. Each has a name, and holds
//! no further than its evidence reaches; everything else that differs is a mismatch.

use serde::Serialize;

use super::mapping::{Kind, Mapping};
use super::space::{AddressSpace, Area, Backing};
use crate::event::{Prot, Sharing, Vma};
use crate::units::{Addr, PAGE, Range};

/// A difference that is none of the model's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tolerance {
    /// A page fault has extended a stack downwards (`expand_downwards`).
    ///
    /// Evidence: the pages end where a mapping begins that grows down (the main stack, or MAP_GROWSDOWN), or began when
    /// a call took pages away or changed them there; their rights and sharing are its own; no other mapping lies in
    /// between. RLIMIT_STACK is no evidence: it may have been another one at the time of the fault.
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
    /// The offset of private pages of /dev/zero. They are anonymous memory with a file's name, and mremap(2) gives them
    /// another offset if no page of them was ever touched (`copy_vma`).
    ///
    /// Evidence: the kernel's line has that name and is private, and the model has private pages of a file there.
    ZeroDeviceOffset,
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
    /// [`Tolerance::ZeroDeviceOffset`]
    pub zero_device_offset: u64,
}

impl Tolerated {
    /// One more.
    pub fn count(&mut self, tolerance: Tolerance) {
        *match tolerance {
            Tolerance::StackGrowth => &mut self.stack_growth,
            Tolerance::GatePage => &mut self.gate_page,
            Tolerance::Uprobes => &mut self.uprobes,
            Tolerance::ZeroDeviceOffset => &mut self.zero_device_offset,
        } += 1;
    }

    /// Adds those of another comparison.
    pub fn add(&mut self, other: Tolerated) {
        self.stack_growth += other.stack_growth;
        self.gate_page += other.gate_page;
        self.uprobes += other.uprobes;
        self.zero_device_offset += other.zero_device_offset;
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
        for vma in maps.iter().filter(|vma| is_zero_device(vma)) {
            self.take_over_offset(vma);
        }
    }

    /// Stacks that have grown.
    fn grow_stacks(&mut self, maps: &[Vma]) {
        let remembered = std::mem::take(&mut self.growth);
        for vma in maps {
            if self.areas.at(vma.range.start()).is_some() {
                continue;
            }
            let left = remembered.iter().find(|(above, area)| *above == vma.range.end() && area.is_like(vma));
            if let Some((_, area)) = left {
                self.put_growth(vma.range, *area);
                continue;
            }
            let first = self.areas.overlapping(vma.range).next().map(|(range, area)| (range, *area));
            if let Some((first, area)) = first
                && area.marks.grows_down
                && area.is_like(vma)
                && let Some(growth) = Range::new(vma.range.start(), first.start())
            {
                self.put_growth(growth, area);
            }
        }
    }

    /// Pages that a page fault has put below those of `above`.
    fn put_growth(&mut self, growth: Range, above: Area) {
        let mapping = if self.mappings.contains_key(above.mapping) {
            above.mapping
        } else {
            self.mappings.insert(Mapping::new(Kind::Anonymous, None))
        };
        self.areas.set(growth, Area { mapping, marks: above.marks.unguarded(), ..above });
        self.mappings[mapping].bytes += growth.bytes();
        self.tolerated.count(Tolerance::StackGrowth);
    }

    /// The offset of pages of /dev/zero.
    fn take_over_offset(&mut self, vma: &Vma) {
        let backing = vma.backing();
        let differs = |area: &Area| {
            area.sharing == Sharing::Private && area.backing != Backing::Anonymous && area.backing != backing
        };
        if self.areas.overlapping(vma.range).any(|(_, area)| differs(area)) {
            self.areas.update(vma.range, |area| if differs(&area) { Area { backing, ..area } } else { area });
            self.tolerated.count(Tolerance::ZeroDeviceOffset);
        }
    }

    /// A call takes away, replaces or changes these pages: what a page fault may have put below those that grow down is
    /// no longer one with them.
    pub(super) fn disturb(&mut self, range: Range) {
        /// Where maps are never compared nothing takes them out again.
        const MOST: usize = 1024;
        if self.is_partial || self.growth.len() >= MOST {
            return;
        }
        let Some(rest) = Range::new(range.start(), Addr(!(PAGE - 1))) else { return };
        let first = self.areas.overlapping(rest).next().map(|(piece, area)| (piece.start(), *area));
        let ceiling = first.map_or(rest.end(), |(start, _)| start);
        // What lies in the hole may have grown from what was above it before.
        let earlier = self.growth.iter().filter(|(above, _)| (range.start()..=ceiling).contains(above));
        let mut below: Vec<(Addr, Area)> = earlier.map(|(_, area)| (range.start(), *area)).collect();
        if let Some((start, area)) = first.filter(|(_, area)| area.marks.grows_down) {
            below.extend([(start, area), (range.start(), area)]);
        }
        for one in below {
            if !self.growth.contains(&one) {
                self.growth.push(one);
            }
        }
    }
}

fn is_zero_device(vma: &Vma) -> bool {
    &*vma.name == b"/dev/zero" && vma.sharing == Sharing::Private
}
