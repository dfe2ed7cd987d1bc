//! Names of flags, and how strace writes a word of them.
//!
//! The names and their order are those of strace's own lists, the values those of `include/uapi` for x86.

use std::fmt::{self, Formatter};

/// Names of bits, in the order in which they are written.
type Names = &'static [(u64, &'static str)];

const PROT: Names = &[
    (1, "PROT_READ"),
    (2, "PROT_WRITE"),
    (4, "PROT_EXEC"),
    (8, "PROT_SEM"),
    (0x0100_0000, "PROT_GROWSDOWN"),
    (0x0200_0000, "PROT_GROWSUP"),
];

const MAP: Names = &[
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x80, "MAP_ABOVE4G"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x1_0000, "MAP_NONBLOCK"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"),
    (0x2_0000, "MAP_STACK"),
    (0x4_0000, "MAP_HUGETLB"),
    (0x8_0000, "MAP_SYNC"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];

const MREMAP: Names = &[(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED"), (4, "MREMAP_DONTUNMAP")];

const SHM: Names = &[(0o10000, "SHM_RDONLY"), (0o20000, "SHM_RND"), (0o40000, "SHM_REMAP"), (0o100_000, "SHM_EXEC")];

const SHADOW_STACK: Names = &[(1, "SHADOW_STACK_SET_TOKEN")];

const EXECVEAT: Names = &[(0x100, "AT_SYMLINK_NOFOLLOW"), (0x1000, "AT_EMPTY_PATH")];

const CLONE: Names = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x80_0000, "CLONE_UNTRACED"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x200_0000, "CLONE_NEWCGROUP"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
    (0x8000_0000, "CLONE_IO"),
];

/// What clone3 alone can be given.
const CLONE3: Names = &[(0x80, "CLONE_NEWTIME"), (1 << 32, "CLONE_CLEAR_SIGHAND"), (1 << 33, "CLONE_INTO_CGROUP")];

const PERSONALITY: Names = &[
    (0x2_0000, "UNAME26"),
    (0x4_0000, "ADDR_NO_RANDOMIZE"),
    (0x8_0000, "FDPIC_FUNCPTRS"),
    (0x10_0000, "MMAP_PAGE_ZERO"),
    (0x20_0000, "ADDR_COMPAT_LAYOUT"),
    (0x40_0000, "READ_IMPLIES_EXEC"),
    (0x80_0000, "ADDR_LIMIT_32BIT"),
    (0x100_0000, "SHORT_INODE"),
    (0x200_0000, "WHOLE_SECONDS"),
    (0x400_0000, "STICKY_TIMEOUTS"),
    (0x800_0000, "ADDR_LIMIT_3GB"),
];

const MADV: Names = &[
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (9, "MADV_REMOVE"),
    (10, "MADV_DONTFORK"),
    (11, "MADV_DOFORK"),
    (12, "MADV_MERGEABLE"),
    (13, "MADV_UNMERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (17, "MADV_DODUMP"),
    (18, "MADV_WIPEONFORK"),
    (19, "MADV_KEEPONFORK"),
    (20, "MADV_COLD"),
    (21, "MADV_PAGEOUT"),
    (22, "MADV_POPULATE_READ"),
    (23, "MADV_POPULATE_WRITE"),
    (24, "MADV_DONTNEED_LOCKED"),
    (25, "MADV_COLLAPSE"),
    (100, "MADV_HWPOISON"),
    (101, "MADV_SOFT_OFFLINE"),
    (102, "MADV_GUARD_INSTALL"),
    (103, "MADV_GUARD_REMOVE"),
];

/// Bits 26 to 31 of mmap's flags hold the logarithm of the size of huge pages.
const HUGE_MASK: u64 = 0x3f << crate::abi::map::HUGE_SHIFT;

/// The `prot` argument of mmap(2) and mprotect(2).
pub(super) fn prot(f: &mut Formatter<'_>, prot: u32) -> fmt::Result {
    if prot == 0 { f.write_str("PROT_NONE") } else { word(f, prot.into(), &[PROT], "PROT_???") }
}

/// The `flags` argument of mmap(2): a type, single bits, and the size of huge pages.
pub(super) fn map(f: &mut Formatter<'_>, flags: u32) -> fmt::Result {
    match flags & crate::abi::map::TYPE {
        0 => f.write_str("MAP_FILE")?,
        1 => f.write_str("MAP_SHARED")?,
        2 => f.write_str("MAP_PRIVATE")?,
        3 => f.write_str("MAP_SHARED_VALIDATE")?,
        8 => f.write_str("MAP_DROPPABLE")?,
        other => write!(f, "{other:#x} /* MAP_??? */")?,
    }
    let flags = u64::from(flags & !crate::abi::map::TYPE);
    let (huge, bits) = (flags & HUGE_MASK, flags & !HUGE_MASK);
    if bits != 0 {
        f.write_str("|")?;
        word(f, bits, &[MAP], "")?;
    }
    if huge != 0 {
        write!(f, "|{}<<MAP_HUGE_SHIFT", huge >> crate::abi::map::HUGE_SHIFT)?;
    }
    Ok(())
}

/// The `flags` argument of mremap(2).
pub(super) fn mremap(f: &mut Formatter<'_>, flags: u32) -> fmt::Result {
    word(f, flags.into(), &[MREMAP], "MREMAP_???")
}

/// The `advice` argument of madvise(2), which is one value and no set of bits.
pub(super) fn advice(f: &mut Formatter<'_>, advice: i32) -> fmt::Result {
    let advice = advice as u32;
    match MADV.iter().find(|(value, _)| *value == u64::from(advice)) {
        Some((_, name)) => f.write_str(name),
        None => write!(f, "{advice:#x} /* MADV_??? */"),
    }
}

/// The `shmflg` argument of shmat(2).
pub(super) fn shm(f: &mut Formatter<'_>, flags: i32) -> fmt::Result {
    word(f, u64::from(flags as u32), &[SHM], "SHM_???")
}

/// The `flags` argument of map_shadow_stack(2).
pub(super) fn shadow_stack(f: &mut Formatter<'_>, flags: u32) -> fmt::Result {
    word(f, flags.into(), &[SHADOW_STACK], "SHADOW_STACK_???")
}

/// The `flags` argument of execveat(2).
pub(super) fn execveat(f: &mut Formatter<'_>, flags: u32) -> fmt::Result {
    word(f, flags.into(), &[EXECVEAT], "AT_???")
}

/// The `flags` of clone(2), without the exit signal.
pub(super) fn clone(f: &mut Formatter<'_>, flags: u64) -> fmt::Result {
    word(f, flags, &[CLONE], "CLONE_???")
}

/// The `flags` of clone3(2).
pub(super) fn clone3(f: &mut Formatter<'_>, flags: u64) -> fmt::Result {
    word(f, flags, &[CLONE, CLONE3], "CLONE_???")
}

/// Name of the first flag of clone that is set, for a shortened line; 0 when none is.
pub(super) fn first_of_clone(flags: u64) -> &'static str {
    CLONE.iter().find(|(bit, _)| flags & bit != 0).map_or("0", |(_, name)| name)
}

/// A persona: an execution domain in the low byte, and bits. 0xffffffff asks, and stays a number.
pub(super) fn persona(f: &mut Formatter<'_>, persona: u32) -> fmt::Result {
    if persona == u32::MAX {
        return write!(f, "{persona:#x}");
    }
    match persona & 0xff {
        0x00 => f.write_str("PER_LINUX")?,
        0x08 => f.write_str("PER_LINUX32")?,
        other => write!(f, "{other:#x} /* PER_??? */")?,
    }
    match u64::from(persona & !0xff) {
        0 => Ok(()),
        bits => {
            f.write_str("|")?;
            word(f, bits, &[PERSONALITY], "")
        }
    }
}

/// A word of flags: the known names, then what is left as a number, explained by `unknown` when it stands alone.
fn word(f: &mut Formatter<'_>, flags: u64, names: &[Names], unknown: &str) -> fmt::Result {
    let mut rest = flags;
    let mut separator = "";
    for (bit, name) in names.iter().copied().flatten() {
        if rest & bit != 0 {
            write!(f, "{separator}{name}")?;
            separator = "|";
            rest &= !bit;
        }
    }
    match rest {
        0 if separator.is_empty() => f.write_str("0"),
        0 => Ok(()),
        _ if separator.is_empty() && !unknown.is_empty() => write!(f, "{rest:#x} /* {unknown} */"),
        _ => write!(f, "{separator}{rest:#x}"),
    }
}
