//! Stories: random sequences of what may happen to processes, most of it to what they have mapped.

use std::ops::Range as Span;

use proptest::prelude::*;
use vmtrace::abi::{READ_IMPLIES_EXEC, madv, map, mremap, prot};
use vmtrace::event::{Call, Sharing};
use vmtrace::units::{Addr, PAGE};

use super::kernel::{FILE, Fate, FileKind, HEAP, Kernel, PAGES, Page, READ_ONLY_FILE, SHM, address_of, index_of};

/// Processes that one story may have at a time.
pub const MOST_PROCESSES: usize = 3;

/// What happens to a process.
#[derive(Clone, Debug)]
pub enum Step {
    Call(Call, Aim, Fate),
    /// fork(2)
    Fork,
    /// _exit(2)
    Exit,
    /// mseal(2), which is not followed.
    Seal {
        at: usize,
        count: usize,
    },
    /// Access to the page below the region of this one.
    Fault {
        at: usize,
    },
    /// A look at the kernel's maps.
    Look,
}

/// What happens, one after the other: to which process, and where VMAs end that need not.
pub type Story = Vec<(usize, Step, u64)>;

/// What a call is aimed at: random addresses alone would mostly hit nothing.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// The range of the call itself.
    AsGiven,
    /// The next page that is mapped.
    Page,
    /// That, and the rest of its region.
    Rest,
    /// A whole region.
    Region,
}

impl Aim {
    /// The same call, aimed at something.
    pub fn at(self, call: Call, kernel: &Kernel) -> Call {
        match call {
            Call::Munmap { addr, len } => {
                let (addr, len) = self.at_range(addr, len, kernel, |_| true);
                Call::Munmap { addr, len }
            }
            Call::Mprotect { addr, len, prot } => {
                let (addr, len) = self.at_range(addr, len, kernel, |_| true);
                Call::Mprotect { addr, len, prot }
            }
            Call::Madvise { addr, len, advice } => {
                let (addr, len) = self.at_range(addr, len, kernel, |_| true);
                Call::Madvise { addr, len, advice }
            }
            Call::Mremap { old, old_len, new_len, flags, new } => {
                let shared = |page: Page| old_len > 0 || page.sharing == Sharing::Shared;
                let (old, aimed) = self.at_range(old, old_len, kernel, shared);
                let new_len = if old_len == new_len { aimed } else { new_len };
                Call::Mremap { old, old_len: if old_len == 0 { 0 } else { aimed }, new_len, flags, new }
            }
            Call::RemapFilePages { addr, len, prot, pgoff, flags } => {
                let (addr, len) = self.at_range(addr, len, kernel, |page| page.sharing == Sharing::Shared);
                Call::RemapFilePages { addr, len, prot, pgoff, flags }
            }
            Call::Shmdt { addr } => {
                let segment = |page: Page| page.file.filter(|file| file.kind == FileKind::Segment);
                let at = self.page(addr, kernel, |page| segment(page).is_some());
                let file = at.and_then(|at| segment(kernel.pages[at]?)).map_or(0, |file| file.number as usize);
                let start = at.and_then(|at| at.checked_sub(file));
                Call::Shmdt { addr: start.map_or(addr, address_of) }
            }
            call => call,
        }
    }

    fn at_range(self, addr: Addr, len: u64, kernel: &Kernel, wanted: impl Fn(Page) -> bool) -> (Addr, u64) {
        let Some(at) = self.page(addr, kernel, wanted) else { return (addr, len) };
        let bytes = |pages: Span<usize>| pages.len() as u64 * PAGE;
        match self {
            Aim::AsGiven => (addr, len),
            Aim::Page => (address_of(at), len),
            Aim::Rest => (address_of(at), bytes(at..kernel.vma(at).end)),
            Aim::Region => (address_of(kernel.vma(at).start), bytes(kernel.vma(at))),
        }
    }

    /// The first page from `addr` on that holds what is wanted, round the arena.
    fn page(self, addr: Addr, kernel: &Kernel, wanted: impl Fn(Page) -> bool) -> Option<usize> {
        let from = index_of(addr).filter(|_| !matches!(self, Aim::AsGiven))?;
        (from..PAGES).chain(0..from).find(|&at| kernel.pages[at].is_some_and(&wanted))
    }
}

/// A story of up to this many steps.
pub fn story(steps: usize) -> impl Strategy<Value = Story> {
    prop::collection::vec((0..MOST_PROCESSES, step(), any::<u64>()), 1..steps)
}

fn aim() -> impl Strategy<Value = Aim> {
    prop_oneof![1 => Just(Aim::AsGiven), 2 => Just(Aim::Page), 2 => Just(Aim::Rest), 2 => Just(Aim::Region)]
}

fn addr() -> impl Strategy<Value = Addr> {
    prop_oneof![40 => (0..PAGES).prop_map(address_of), 1 => (0..PAGES).prop_map(|at| Addr(address_of(at).0 + 8))]
}

/// Lengths as programs give them: often no whole number of pages, now and then 0.
fn len() -> impl Strategy<Value = u64> {
    prop_oneof![
        10 => (1..8_u64).prop_map(|pages| pages * PAGE),
        4 => (1..8_u64, 1..PAGE).prop_map(|(pages, less)| pages * PAGE - less),
        2 => (8..20_u64).prop_map(|pages| pages * PAGE),
        1 => Just(0),
    ]
}

fn prot_bits() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(3), Just(5)]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![20 => Just(Fate::Normal), 1 => Just(Fate::Refused), 1 => Just(Fate::RefusedLate)]
}

fn mmap() -> impl Strategy<Value = Call> {
    let kind = prop_oneof![
        4 => Just((map::PRIVATE | map::ANONYMOUS, -1)),
        2 => Just((map::SHARED | map::ANONYMOUS, -1)),
        2 => Just((map::SHARED, FILE)),
        2 => Just((map::PRIVATE, FILE)),
        1 => Just((map::SHARED_VALIDATE, READ_ONLY_FILE)),
        1 => Just((map::PRIVATE | map::ANONYMOUS | map::GROWSDOWN, -1)),
    ];
    let place = prop_oneof![3 => Just(map::FIXED), 1 => Just(0), 1 => Just(map::FIXED_NOREPLACE)];
    (addr(), len(), prot_bits(), kind, place, 0..4_u64).prop_map(|(addr, len, prot, (flags, fd), place, page)| {
        Call::Mmap { addr, len, prot, flags: flags | place, fd, offset: page * PAGE }
    })
}

fn mprotect() -> impl Strategy<Value = Call> {
    let modifier = prop_oneof![12 => Just(0), 1 => Just(prot::GROWSDOWN)];
    (addr(), len(), prot_bits(), modifier).prop_map(|(addr, len, prot, modifier)| Call::Mprotect {
        addr,
        len,
        prot: prot | modifier,
    })
}

fn mremap_call() -> impl Strategy<Value = Call> {
    const MOVE: u32 = mremap::MAYMOVE;
    let flags = prop_oneof![
        2 => Just(0),
        3 => Just(MOVE),
        6 => Just(MOVE | mremap::FIXED),
        2 => Just(MOVE | mremap::DONTUNMAP),
        3 => Just(MOVE | mremap::DONTUNMAP | mremap::FIXED),
        1 => Just(mremap::FIXED),
    ];
    let lens = prop_oneof![
        4 => len().prop_map(|len| (len, len)),
        4 => (len(), len()),
        1 => len().prop_map(|len| (0, len)),
    ];
    (addr(), lens, flags, addr()).prop_map(|(old, (old_len, new_len), flags, new)| Call::Mremap {
        old,
        old_len,
        new_len,
        flags,
        new,
    })
}

fn madvise() -> impl Strategy<Value = Call> {
    let advice = prop_oneof![
        2 => Just(madv::DONTFORK),
        1 => Just(madv::DOFORK),
        2 => Just(madv::GUARD_INSTALL),
        1 => Just(madv::GUARD_REMOVE),
        1 => Just(madv::DONTNEED),
        1 => Just(-1),
    ];
    (addr(), len(), advice).prop_map(|(addr, len, advice)| Call::Madvise { addr, len, advice })
}

fn call() -> impl Strategy<Value = Call> {
    let brk = (0..=(PAGES - HEAP + 1) as u64 * PAGE)
        .prop_map(|above| Call::Brk { addr: Addr(address_of(HEAP - 1).0 + above) });
    let shm_flags = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(read_only, remap, exec)| {
        [read_only, remap, exec].into_iter().zip(SHM).map(|(set, flag)| i32::from(set) * flag).sum::<i32>()
    });
    let shm_addr = prop_oneof![1 => Just(Addr(0)), 3 => addr()];
    prop_oneof![
        8 => mmap().boxed(),
        4 => (addr(), len()).prop_map(|(addr, len)| Call::Munmap { addr, len }),
        6 => mprotect().boxed(),
        8 => mremap_call().boxed(),
        4 => madvise().boxed(),
        3 => brk,
        2 => (0..5, shm_addr, shm_flags).prop_map(|(id, addr, flags)| Call::Shmat { id, addr, flags }),
        2 => addr().prop_map(|addr| Call::Shmdt { addr }),
        3 => (addr(), 0..3_u64, len(), 0..9_u64).prop_map(|(addr, into, len, pgoff)| Call::RemapFilePages {
            addr: Addr(addr.0 + into * 100),
            len,
            prot: 0,
            pgoff,
            flags: 0,
        }),
        1 => prop_oneof![Just(0), Just(READ_IMPLIES_EXEC)].prop_map(|persona| Call::Personality { persona }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // Boxed: a tree of unboxed strategies outgrows a test's stack.
    prop_oneof![
        40 => (call().boxed(), aim(), fate()).prop_map(|(call, aim, fate)| Step::Call(call, aim, fate)).boxed(),
        1 => Just(Step::Fork),
        1 => Just(Step::Exit),
        1 => (0..PAGES, 1..3_usize).prop_map(|(at, count)| Step::Seal { at, count }),
        3 => (0..PAGES).prop_map(|at| Step::Fault { at }),
        1 => Just(Step::Look),
    ]
}
