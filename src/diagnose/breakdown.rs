//! What an address space consists of: every mapped page is counted once, for what it is used.

use std::cmp::Reverse;

use serde::Serialize;

use crate::event::{Prot, Sharing, Vma};
use crate::units::Range;

/// What a part of an address space is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Stacks of live threads, and of such as are being created or joined.
    LiveStacks,
    /// Stacks of threads that have ended and were not joined.
    OrphanedStacks,
    /// Stacks that the thread library keeps for reuse.
    CachedStacks,
    /// Stacks that the program gave to its threads.
    ProgramStacks,
    /// The stack of the process's first thread.
    MainStack,
    /// malloc's arenas: what they use, and their reserve.
    MallocArenas,
    /// What brk(2) has made.
    Heap,
    /// Program, libraries, and other files.
    Files,
    /// System V's, POSIX's and anonymous shared memory.
    SharedMemory,
    /// Other anonymous memory, without access: reserved, or guards.
    Reserved,
    /// Other anonymous memory.
    Anonymous,
    /// The kernel's own: vDSO and its data.
    Kernel,
}

/// How much of an address space is of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Share {
    /// What it is for.
    pub kind: Kind,
    /// Stacks, arenas, or lines of the maps.
    pub regions: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Physical memory behind it, in bytes.
    pub resident_bytes: u64,
}

/// A range of which more is known than a line of the maps says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Where it lies.
    pub range: Range,
    /// What it is for.
    pub kind: Kind,
}

/// Divides an address space, largest share first. The shares of all kinds add up to VIRT. `resident` are the pages in
/// physical memory; both these and the maps are in order. What is claimed twice counts for the lower claim.
pub fn breakdown(maps: &[Vma], resident: &[Range], claims: &[Claim]) -> Vec<Share> {
    let mut claims = claims.to_vec();
    claims.sort_by_key(|claim| (claim.range.start(), claim.range.end()));
    let mut shares = Shares { all: Vec::new(), resident, claimed: None };
    let mut next = 0;
    for vma in maps.iter().filter(|vma| is_counted(vma)) {
        let mut rest = Some(vma.range);
        while let Some(left) = rest {
            // Claims that end before what is left have been dealt with.
            while claims.get(next).is_some_and(|claim| claim.range.end() <= left.start()) {
                next += 1;
            }
            let claim = claims.get(next).filter(|claim| claim.range.start() < left.end());
            let Some((claim, piece)) = claim.and_then(|claim| Some((claim, claim.range.intersection(left)?))) else {
                shares.add(kind_of(vma), left, None);
                break;
            };
            if let Some(before) = Range::new(left.start(), piece.start()) {
                shares.add(kind_of(vma), before, None);
            }
            shares.add(claim.kind, piece, Some(next));
            rest = Range::new(piece.end(), left.end());
        }
    }
    shares.all.sort_by_key(|share| Reverse(share.virtual_bytes));
    shares.all
}

/// VIRT, as the maps have it.
pub fn virtual_bytes(maps: &[Vma]) -> u64 {
    maps.iter().filter(|vma| is_counted(vma)).map(|vma| vma.range.bytes()).sum()
}

/// Whether a line of the maps is part of VIRT: all but the vsyscall page, which lies in the kernel's half.
pub fn is_counted(vma: &Vma) -> bool {
    &*vma.name != b"[vsyscall]"
}

/// How much of `range` is in physical memory. `resident` is in order.
pub fn resident_bytes(resident: &[Range], range: Range) -> u64 {
    let first = resident.partition_point(|one| one.end() <= range.start());
    resident[first..]
        .iter()
        .take_while(|one| one.start() < range.end())
        .filter_map(|one| one.intersection(range))
        .map(Range::bytes)
        .sum()
}

struct Shares<'a> {
    all: Vec<Share>,
    resident: &'a [Range],
    /// The claim that was counted last: it may lie in several lines.
    claimed: Option<usize>,
}

impl Shares<'_> {
    fn add(&mut self, kind: Kind, range: Range, claim: Option<usize>) {
        let is_new = claim.is_none() || self.claimed != claim;
        self.claimed = claim.or(self.claimed);
        let at = self.all.iter().position(|share| share.kind == kind).unwrap_or_else(|| {
            self.all.push(Share { kind, regions: 0, virtual_bytes: 0, resident_bytes: 0 });
            self.all.len() - 1
        });
        let share = &mut self.all[at];
        share.regions += u64::from(is_new);
        share.virtual_bytes += range.bytes();
        share.resident_bytes += resident_bytes(self.resident, range);
    }
}

/// What a line of the maps is for, by itself.
fn kind_of(vma: &Vma) -> Kind {
    let is_shared_memory = |name: &[u8]| {
        [&b"/SYSV"[..], b"/dev/shm/", b"/memfd:", b"/dev/zero", b"[anon_shmem"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    match &*vma.name {
        b"[heap]" => Kind::Heap,
        b"[stack]" => Kind::MainStack,
        name if name.starts_with(b"[v") || name == b"[uprobes]" => Kind::Kernel,
        name if vma.sharing == Sharing::Shared && is_shared_memory(name) => Kind::SharedMemory,
        _ if vma.is_file() => Kind::Files,
        _ if vma.sharing == Sharing::Shared => Kind::SharedMemory,
        _ if vma.prot == Prot::NONE => Kind::Reserved,
        _ => Kind::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::maps::parse;
    use crate::units::Addr;

    fn range(start: u64, end: u64) -> Range {
        Range::new(Addr(start), Addr(end)).unwrap()
    }

    fn show(shares: &[Share]) -> Vec<String> {
        let line = |share: &Share| {
            format!("{:?} {} {:x} {:x}", share.kind, share.regions, share.virtual_bytes, share.resident_bytes)
        };
        shares.iter().map(line).collect()
    }

    /// Every line has its kind, and the sum is VIRT without the vsyscall page.
    #[test]
    fn kinds_of_lines() {
        let maps = parse(
            b"\
400000-402000 r-xp 00000000 fe:01 1312 /bin/app
500000-508000 rw-p 00000000 00:00 0 [heap]
600000-610000 ---p 00000000 00:00 0 
610000-613000 rw-p 00000000 00:00 0 
700000-704000 rw-s 00000000 00:01 5 /SYSV00000000 (deleted)
7ff000-800000 rw-p 00000000 00:00 0 [stack]
900000-901000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
",
        );
        let shares = breakdown(&maps, &[range(0x50_1000, 0x50_3000), range(0x61_2000, 0x61_3000)], &[]);
        assert_eq!(
            show(&shares),
            [
                "Reserved 1 10000 0",
                "Heap 1 8000 2000",
                "SharedMemory 1 4000 0",
                "Anonymous 1 3000 1000",
                "Files 1 2000 0",
                "MainStack 1 1000 0",
                "Kernel 1 1000 0"
            ]
        );
        assert_eq!(shares.iter().map(|share| share.virtual_bytes).sum::<u64>(), virtual_bytes(&maps));
    }

    /// A stack is one region although its guard has a line of its own; neighbours that share a line are two; what of a
    /// claim is not mapped does not count.
    #[test]
    fn claims_go_before_lines() {
        let maps = parse(
            b"\
10000-11000 ---p 00000000 00:00 0 
11000-15000 rw-p 00000000 00:00 0 
20000-2a000 rw-p 00000000 00:00 0 
",
        );
        let claim = |start, end, kind| Claim { range: range(start, end), kind };
        let claims = [
            claim(0x25000, 0x28000, Kind::CachedStacks),
            claim(0x10000, 0x15000, Kind::OrphanedStacks),
            claim(0x22000, 0x25000, Kind::CachedStacks),
            claim(0x40000, 0x50000, Kind::LiveStacks),
        ];
        let resident = [range(0x14000, 0x15000), range(0x20000, 0x23000), range(0x26000, 0x2a000)];
        assert_eq!(
            show(&breakdown(&maps, &resident, &claims)),
            ["CachedStacks 2 6000 3000", "OrphanedStacks 1 5000 1000", "Anonymous 2 4000 4000"]
        );
    }

    /// Claims that overlap are counted once.
    #[test]
    fn nothing_counts_twice() {
        let maps = parse(b"10000-20000 rw-p 00000000 00:00 0 \n");
        let claim = |start, end, kind| Claim { range: range(start, end), kind };
        let claims = [claim(0x10000, 0x18000, Kind::CachedStacks), claim(0x14000, 0x1c000, Kind::LiveStacks)];
        let shares = breakdown(&maps, &[], &claims);
        assert_eq!(show(&shares), ["CachedStacks 1 8000 0", "LiveStacks 1 4000 0", "Anonymous 1 4000 0"]);
    }
}
