//! Words of flags, as strace writes them: names, numbers, or both, with `|` between them.

use super::text::{Cursor, Damage};
use crate::abi::names::{CLONE, CLONE3, MADV, MAP, MREMAP, Names, PERSONALITY, PROT, SHADOW_STACK, SHM};

/// What a name that is not known stands for: nothing, for a newer strace knows more of them.
const UNKNOWN: u64 = 0;

/// Names that are no bits of their own, or that older or newer versions of strace write.
const MAP_TYPES: Names = &[
    (0, "MAP_FILE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (3, "MAP_SHARED_VALIDATE"),
    (8, "MAP_DROPPABLE"),
    (0x20, "MAP_ANON"),
    (0x400_0000, "MAP_UNINITIALIZED"),
];
const PROT_NONE: Names = &[(0, "PROT_NONE")];
const EXECUTION_DOMAINS: Names = &[(0, "PER_LINUX"), (8, "PER_LINUX32")];
const CLONE_MORE: Names = &[(0x40_0000, "CLONE_DETACHED"), (0x200_0000, "CLONE_STOPPED")];

/// The `prot` argument of mmap(2) and mprotect(2).
#[inline]
pub fn prot(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    let rest = cursor.rest();
    if let Some(behind) = rest.strip_prefix(b"PROT_READ|PROT_WRITE")
        && let Some(prot) = usual(cursor, behind, 3)
    {
        return Ok(prot);
    }
    if let Some(behind) = rest.strip_prefix(b"PROT_NONE")
        && let Some(prot) = usual(cursor, behind, 0)
    {
        return Ok(prot);
    }
    low(word(cursor, &[PROT, PROT_NONE]))
}

/// The `flags` argument of mmap(2).
#[inline]
pub fn map(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    if let Some(behind) = cursor.rest().strip_prefix(b"MAP_PRIVATE|MAP_ANONYMOUS") {
        let more: (&[u8], u32) = match behind {
            [b'|', b'M', b'A', b'P', b'_', b'S', b'T', b'A', b'C', b'K', behind @ ..] => (behind, 0x2_0022),
            _ => (behind, 0x22),
        };
        if let Some(flags) = usual(cursor, more.0, more.1) {
            return Ok(flags);
        }
    }
    low(word(cursor, &[MAP_TYPES, MAP]))
}

/// The `flags` argument of mremap(2).
pub fn mremap(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    low(word(cursor, &[MREMAP]))
}

/// The `advice` argument of madvise(2). A name that is not known is −1, no advice at all.
pub fn advice(cursor: &mut Cursor<'_>) -> Result<i32, Damage> {
    if !cursor.rest().starts_with(b"MADV_") {
        return Ok(cursor.number()? as i32);
    }
    let name = cursor.name();
    let known = MADV.iter().find(|(_, known)| known.as_bytes() == name);
    Ok(known.map_or(-1, |(value, _)| *value as i32))
}

/// The argument of personality(2).
pub fn persona(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    low(word(cursor, &[EXECUTION_DOMAINS, PERSONALITY]))
}

/// The `flags` of clone(2) and clone3(2), with the signal among them as clone has it, in the lowest byte.
pub fn clone(cursor: &mut Cursor<'_>) -> Result<u64, Damage> {
    word(cursor, &[CLONE, CLONE3, CLONE_MORE])
}

/// The `shmflg` argument of shmat(2).
pub fn shm(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    low(word(cursor, &[SHM]))
}

/// The `flags` argument of map_shadow_stack(2).
pub fn shadow_stack(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    low(word(cursor, &[SHADOW_STACK]))
}

/// A word that most calls have, read in one go, if it ends here.
#[inline]
fn usual(cursor: &mut Cursor<'_>, behind: &[u8], word: u32) -> Option<u32> {
    let is_whole = matches!(behind, [] | [b',' | b')', ..]);
    is_whole.then(|| {
        cursor.skip(cursor.rest().len() - behind.len());
        word
    })
}

fn low(word: Result<u64, Damage>) -> Result<u32, Damage> {
    word.map(|word| word as u32)
}

/// One word: everything up to something that is none of its parts.
fn word(cursor: &mut Cursor<'_>, names: &[Names]) -> Result<u64, Damage> {
    let mut word = 0;
    loop {
        word |= part(cursor, names)?;
        if !cursor.eat(b"|") {
            cursor.skip_comment();
            return Ok(word);
        }
    }
}

fn part(cursor: &mut Cursor<'_>, names: &[Names]) -> Result<u64, Damage> {
    let first = cursor.peek().ok_or(cursor.damage("flags"))?;
    if first.is_ascii_uppercase() && !cursor.rest().starts_with(b"NULL") {
        let name = cursor.name();
        let known = names.iter().copied().flatten().find(|(_, known)| known.as_bytes() == name);
        return Ok(match known {
            Some((bits, _)) => *bits,
            None => signal(name).unwrap_or(UNKNOWN),
        });
    }
    let number = cursor.number()?;
    // `21<<MAP_HUGE_SHIFT`
    if cursor.eat(b"<<") {
        let is_huge = cursor.name() == b"MAP_HUGE_SHIFT";
        return Ok(if is_huge { number.wrapping_shl(crate::abi::map::HUGE_SHIFT) } else { UNKNOWN });
    }
    Ok(number)
}

/// The number of a signal by its name.
pub fn signal(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    if let Some(real_time) = name.strip_prefix("SIGRT_") {
        return Some(real_time.parse::<u64>().ok()? + 32).filter(|number| *number <= 64);
    }
    match name {
        "SIGRTMIN" => Some(32),
        "SIGRTMAX" => Some(64),
        _ => u64::try_from(name.parse::<nix::sys::signal::Signal>().ok()? as i32).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, of: fn(&mut Cursor<'_>) -> Result<u32, Damage>) -> (u32, String) {
        let mut cursor = Cursor::new(text.as_bytes());
        let word = of(&mut cursor).unwrap();
        (word, String::from_utf8_lossy(cursor.rest()).into_owned())
    }

    /// Names, numbers, and what `-X verbose` writes behind them.
    #[test]
    fn words() {
        assert_eq!(read("PROT_READ|PROT_WRITE, x", prot), (3, ", x".to_owned()));
        assert_eq!(read("0 /* PROT_NONE */, x", prot), (0, ", x".to_owned()));
        assert_eq!(read("MAP_PRIVATE|0x4000, x", map), (0x4002, ", x".to_owned()));
        assert_eq!(read("0x20022 /* MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK */, x", map), (0x20022, ", x".to_owned()));
        assert_eq!(read("MAP_SHARED|MAP_HUGETLB|21<<MAP_HUGE_SHIFT, x", map).0, 0x40001 | 21 << 26);
        assert_eq!(read("MAP_PRIVATE|MAP_OF_TOMORROW|MAP_STACK, x", map).0, 0x20002);
        assert_eq!(read("PER_LINUX|ADDR_NO_RANDOMIZE) = 0", persona), (0x4_0000, ") = 0".to_owned()));
    }

    /// The signal of a clone is one more name, or none.
    #[test]
    fn signals() {
        assert_eq!(clone(&mut Cursor::new(b"CLONE_VM|CLONE_VFORK|SIGCHLD, ")), Ok(0x4100 | 17));
        assert_eq!(clone(&mut Cursor::new(b"SIGCHLD")), Ok(17));
        assert_eq!(clone(&mut Cursor::new(b"0")), Ok(0));
        assert_eq!(
            [&b"SIGRT_2"[..], b"SIGRTMIN", b"SIGKILL", b"SIGNOT"].map(signal),
            [Some(34), Some(32), Some(9), None]
        );
    }

    /// Advice is one value.
    #[test]
    fn advices() {
        let read = |text: &str| advice(&mut Cursor::new(text.as_bytes())).unwrap();
        assert_eq!(read("MADV_DONTNEED) = 0"), 4);
        assert_eq!(read("0x66 /* MADV_??? */) = 0"), 102);
        assert_eq!(read("MADV_OF_TOMORROW) = 0"), -1);
    }
}
