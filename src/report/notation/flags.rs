//! How strace writes a word of flags.

use std::fmt::{self, Formatter};

use crate::abi::names::{
    CLONE, CLONE3, EXECVEAT, MADV, MAP, MREMAP, Names, PERSONALITY, PROT, SET_MM, SHADOW_STACK, SHM,
};

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

/// The first two arguments of prctl(2), where the first is PR_SET_MM.
pub(super) fn prctl(f: &mut Formatter<'_>, option: i32, what: u64) -> fmt::Result {
    if option == crate::abi::set_mm::PR_SET_MM {
        f.write_str("PR_SET_MM")?
    } else {
        write!(f, "{option:#x}")?
    }
    match SET_MM.iter().find(|(value, _)| *value == what) {
        Some((_, name)) => write!(f, ", {name}"),
        None => write!(f, ", {what:#x} /* PR_SET_MM_??? */"),
    }
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
