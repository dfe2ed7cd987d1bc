//! What strace puts before a call: the task, the time, and what else was asked for.
//!
//! `1234  23:01:00.000137 [   9] [00007f2b5c5e4b2a] mmap(…`, `[pid  1234] …`, or nothing at all.

use super::text::{Cursor, Damage};
use crate::units::Tid;

/// What stands before a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leader {
    /// The task, where the line has it.
    pub tid: Option<Tid>,
    /// The time, where the line has one.
    pub stamp: Option<Stamp>,
}

/// A time as the line has it, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// Since midnight (`-t`, `-tt`).
    OfDay(u64),
    /// Since 1970 (`-ttt`).
    Unix(u64),
    /// Since the line before (`-r`).
    Since(u64),
}

/// The highest number that a task can have (PID_MAX_LIMIT in linux/threads.h).
pub const PID_MAX: u64 = 1 << 22;

/// What is less is no time since 1970: seconds of a year of which no strace log is.
const EARLIEST_UNIX: u64 = 100_000_000;

const SECOND: u64 = 1_000_000_000;

/// Reads what stands before a call.
///
/// # Errors
/// It breaks off, or is none of the notations.
#[inline]
pub fn leader(cursor: &mut Cursor<'_>) -> Result<Leader, Damage> {
    match usual(cursor.rest()) {
        Some((leader, length)) => {
            cursor.skip(length);
            Ok(leader)
        }
        None => unusual(cursor),
    }
}

/// The number of a task and a time of day at the beginning of a line, and their length, as nearly every line has them.
#[inline(always)]
pub fn usual(line: &[u8]) -> Option<(Leader, usize)> {
    let (word, _) = line.split_first_chunk()?;
    let word = u64::from_le_bytes(*word) ^ ZEROES;
    let digits = (not_digits(word).trailing_zeros() / 8) as usize;
    // None, or more than fit into the word.
    if digits.wrapping_sub(1) >= 7 {
        return None;
    }
    let tid = eight_digits(word << (64 - 8 * digits));
    let rest = line[digits..].strip_prefix(b" ")?;
    let blanks = digits + 1 + rest.iter().take_while(|byte| **byte == b' ').count();
    let (stamp, length) = usual_stamp(&line[blanks..])?;
    let behind = blanks + length;
    let is_all = (1..=PID_MAX).contains(&tid) && line.get(behind) != Some(&b'[');
    is_all.then_some((Leader { tid: Some(Tid(tid as i32)), stamp: Some(stamp) }, behind))
}

/// `0` in each byte: what is left of digits is their values.
const ZEROES: u64 = 0x3030_3030_3030_3030;

/// The highest bit of a byte, or one of the next three, is set in each that is no digit's value.
#[inline]
fn not_digits(word: u64) -> u64 {
    // No carry out of a byte whose high half is zero, and those before the first that has more are not reached by any.
    (word | word.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0
}

/// The values of eight digits, the first one in the lowest byte, as one number.
#[inline]
fn eight_digits(word: u64) -> u64 {
    let pairs = (word * 10 + (word >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

/// As [`leader`] does, where it is not [`usual`].
///
/// # Errors
/// It breaks off, or is none of the notations.
pub fn unusual(cursor: &mut Cursor<'_>) -> Result<Leader, Damage> {
    let mut leader = Leader::default();
    if cursor.eat(b"[pid ") {
        cursor.skip_blanks();
        leader.tid = Some(tid(cursor)?);
        // A name may stand behind the number (-Y): `1234<name>`.
        let end: &[u8] = if cursor.peek() == Some(b'<') { b">] " } else { b"] " };
        cursor.until(end).ok_or(cursor.damage("]"))?;
        cursor.skip_blanks();
        leader.stamp = stamp(cursor)?;
    } else if starts_with_number(cursor.rest()) {
        let mut ahead = cursor.clone();
        let number = ahead.digits().unwrap_or(0);
        match ahead.peek() {
            Some(b' ' | b'<') if number <= PID_MAX && cursor.peek() != Some(b' ') => {
                leader.tid = Some(tid(cursor)?);
                if cursor.eat(b"<") {
                    cursor.until(b"> ").ok_or(cursor.damage("> behind the name"))?;
                }
                cursor.skip_blanks();
                leader.stamp = stamp(cursor)?;
            }
            _ => leader.stamp = stamp(cursor)?,
        }
    }
    // The number of the call (-n), the instruction pointer (-i), a security context (--secontext).
    while cursor.peek() == Some(b'[') && !cursor.rest().starts_with(b"[ Process ") {
        cursor.until(b"] ").ok_or(cursor.damage("]"))?;
    }
    Ok(leader)
}

fn starts_with_number(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| **byte != b' ');
    first.is_some_and(u8::is_ascii_digit)
}

fn tid(cursor: &mut Cursor<'_>) -> Result<Tid, Damage> {
    let damage = cursor.damage("the number of a task");
    let number = cursor.digits().filter(|number| (1..=PID_MAX).contains(number)).ok_or(damage)?;
    Ok(Tid(i32::try_from(number).map_err(|_| damage)?))
}

/// A time, and what `-r` adds to it in brackets.
fn stamp(cursor: &mut Cursor<'_>) -> Result<Option<Stamp>, Damage> {
    match usual_stamp(cursor.rest()) {
        Some((stamp, length)) => {
            cursor.skip(length);
            Ok(Some(stamp))
        }
        None => unusual_stamp(cursor),
    }
}

fn unusual_stamp(cursor: &mut Cursor<'_>) -> Result<Option<Stamp>, Damage> {
    if !starts_with_number(cursor.rest()) {
        return Ok(None);
    }
    cursor.skip_blanks();
    let damage = cursor.damage("a time");
    let first = cursor.digits().ok_or(damage)?;
    let stamp = if cursor.eat(b":") {
        let minutes = cursor.digits().ok_or(damage)?;
        cursor.expect(b":", "the seconds of a time")?;
        let seconds = cursor.digits().ok_or(damage)?;
        if first > 23 || minutes > 59 || seconds > 60 {
            return Err(damage);
        }
        Stamp::OfDay((first * 3600 + minutes * 60 + seconds) * SECOND + fraction(cursor)?)
    } else {
        let seconds = first.checked_mul(SECOND).ok_or(damage)?;
        let time = seconds.checked_add(fraction(cursor)?).ok_or(damage)?;
        if first >= EARLIEST_UNIX { Stamp::Unix(time) } else { Stamp::Since(time) }
    };
    if !cursor.eat(b" ") {
        return Err(cursor.damage("a blank behind the time"));
    }
    if cursor.eat(b"(+") {
        cursor.until(b")").ok_or(cursor.damage(")"))?;
        cursor.skip_blanks();
    }
    Ok(Some(stamp))
}

/// `23:01:00 ` or `23:01:00.000137 ` at the beginning of a text, and its length: nearly every line has one of them.
#[inline]
fn usual_stamp(text: &[u8]) -> Option<(Stamp, usize)> {
    // Digits are their values, and colons zeroes.
    const COLONS: u64 = 0x0a << 16 | 0x0a << 40;
    const EVERY_THIRD: u64 = 0x0f << 16 | 0x0f << 40;
    let (time, rest) = text.split_first_chunk()?;
    let time = u64::from_le_bytes(*time) ^ ZEROES ^ COLONS;
    if not_digits(time) | time & EVERY_THIRD != 0 {
        return None;
    }
    let pairs = time * 10 + (time >> 8);
    let (hours, minutes, seconds) = (pairs & 0xff, pairs >> 24 & 0xff, pairs >> 48 & 0xff);
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let whole = (hours * 3600 + minutes * 60 + seconds) * SECOND;
    match rest {
        [b' ', next, ..] if *next != b'(' => Some((Stamp::OfDay(whole), 9)),
        [b'.', _, _, _, _, _, _, b' ', next, ..] if *next != b'(' => {
            let (fraction, _) = rest.split_first_chunk()?;
            let fraction = (u64::from_le_bytes(*fraction) ^ ZEROES) >> 8 & 0xffff_ffff_ffff;
            (not_digits(fraction) == 0).then(|| (Stamp::OfDay(whole + eight_digits(fraction << 16) * 1000), 16))
        }
        _ => None,
    }
}

/// The digits behind a second's point, in nanoseconds.
fn fraction(cursor: &mut Cursor<'_>) -> Result<u64, Damage> {
    if !cursor.eat(b".") {
        return Ok(0);
    }
    let start = cursor.at();
    let damage = cursor.damage("a fraction of a second");
    let number = cursor.digits().ok_or(damage)?;
    let digits = u32::try_from(cursor.at() - start).ok().filter(|digits| *digits <= 9).ok_or(damage)?;
    Ok(number * 10_u64.pow(9 - digits))
}

/// A duration in seconds with a fraction (`-T`), in nanoseconds.
pub fn duration(cursor: &mut Cursor<'_>) -> Option<u64> {
    let seconds = cursor.digits()?;
    seconds.checked_mul(SECOND)?.checked_add(fraction(cursor).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Option<i32>, Option<Stamp>, String) {
        let mut cursor = Cursor::new(line.as_bytes());
        let leader = leader(&mut cursor).unwrap();
        let rest = String::from_utf8_lossy(cursor.rest()).into_owned();
        (leader.tid.map(|tid| tid.0), leader.stamp, rest)
    }

    /// What strace 4.x and 6.1 write, for every option that adds something.
    #[test]
    fn every_notation() {
        let day = |hour: u64, minute: u64, nanoseconds: u64| {
            Some(Stamp::OfDay((hour * 3600 + minute * 60) * SECOND + nanoseconds))
        };
        let cases: &[(&str, Option<i32>, Option<Stamp>)] = &[
            ("", None, None),
            ("1234  ", Some(1234), None),
            ("31152 23:01:00 ", Some(31152), day(23, 1, 0)),
            ("31152 23:01:00.000137 ", Some(31152), day(23, 1, 137_000)),
            ("[pid  1234] ", Some(1234), None),
            ("[pid 31152] 23:01:00.000137 ", Some(31152), day(23, 1, 137_000)),
            ("[pid 31152<a] b>] ", Some(31152), None),
            ("23:01:00 ", None, day(23, 1, 0)),
            ("1795321095.069036 ", None, Some(Stamp::Unix(1_795_321_095_069_036_000))),
            ("23357<unjoined> 1795321095.518909064 ", Some(23357), Some(Stamp::Unix(1_795_321_095_518_909_064))),
            ("23450 1795321095 ", Some(23450), Some(Stamp::Unix(1_795_321_095 * SECOND))),
            ("1795321095 ", None, Some(Stamp::Unix(1_795_321_095 * SECOND))),
            ("23301      0.000128 ", Some(23301), Some(Stamp::Since(128_000))),
            ("     0.000128 ", None, Some(Stamp::Since(128_000))),
            ("23428      0 ", Some(23428), Some(Stamp::Since(0))),
            ("23373 04:18:15 (+     0.000178) ", Some(23373), day(4, 18, 15 * SECOND)),
            ("23338 [   9] [00007fbbba3daca3] ", Some(23338), None),
            ("[????????????????] ", None, None),
            ("4242  23:01:00 [f7f3c549] ", Some(4242), day(23, 1, 0)),
        ];
        for (text, tid, stamp) in cases {
            assert_eq!(read(&format!("{text}brk(NULL) = 0")), (*tid, *stamp, "brk(NULL) = 0".to_owned()), "{text}");
        }
    }

    /// What is read in one go is what is read byte by byte: of a line, and of all that differ from it in one byte.
    #[test]
    fn at_once() {
        let lines = [
            "31152 23:59:60.999999 brk(",
            "7  00:00:00.000001 brk(",
            "4194304 10:20:30.405060 [   9] brk(",
            "31152 23:01:00 brk(",
            "19:08:07.060504 brk(",
            "19:08:07 (+     0.000178) brk(",
            "12345678 23:01:00 brk(",
        ];
        let mut read_at_once = 0;
        for line in lines {
            for (at, byte) in (0..line.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                let mut line = line.as_bytes().to_vec();
                line[at] = byte;
                let mut cursor = Cursor::new(&line);
                if let Some((leader, length)) = usual(&line) {
                    read_at_once += 1;
                    assert_eq!((unusual(&mut cursor), cursor.at()), (Ok(leader), length), "{}", line.escape_ascii());
                }
                for start in [0, 6] {
                    let mut cursor = Cursor::new(&line[start..]);
                    if let Some((stamp, length)) = usual_stamp(&line[start..]) {
                        read_at_once += 1;
                        let slowly = unusual_stamp(&mut cursor);
                        assert_eq!((slowly, cursor.at()), (Ok(Some(stamp)), length), "{}", line.escape_ascii());
                    }
                }
            }
        }
        assert!(read_at_once > 1000, "{read_at_once}");
    }

    /// The mode line has brackets too, and keeps them.
    #[test]
    fn the_mode_line_is_no_leader() {
        assert_eq!(read("[ Process PID=12 runs in 32 bit mode. ]").2, "[ Process PID=12 runs in 32 bit mode. ]");
    }

    /// What cannot be a task or a time is damage, and says where.
    #[test]
    fn damage() {
        let damage = |line: &str| leader(&mut Cursor::new(line.as_bytes())).unwrap_err();
        assert_eq!(damage("31152 25:01:00 brk(").at, 6);
        assert_eq!(damage("31152 23:01 brk(").expected, "the seconds of a time");
        assert_eq!(damage("[pid 99999999] brk(").expected, "the number of a task");
        assert_eq!(damage("31152 12.1234567890 brk(").expected, "a fraction of a second");
        assert_eq!(damage("[00007fbbba3daca3").expected, "]");
        assert_eq!(damage("0 brk(").at, 0);
    }
}
