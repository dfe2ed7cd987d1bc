//! The quantities that everything else is written in: addresses, ranges, task numbers, time.
//!
//! Each is a type of its own, so that a length cannot be passed for an address, or a thread for a process.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes in a page. All of x86-64 and i386 have pages of 4 KiB.
pub const PAGE: u64 = 4096;

/// Rounds up to a whole number of pages; saturates at the last whole page below 2^64.
pub const fn page_up(bytes: u64) -> u64 {
    bytes.saturating_add(PAGE - 1) & !(PAGE - 1)
}

/// Rounds down to a whole number of pages.
pub const fn page_down(bytes: u64) -> u64 {
    bytes & !(PAGE - 1)
}

/// A virtual address in the target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

impl Addr {
    /// The address `bytes` further on, or none past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Addr> {
        self.0.checked_add(bytes).map(Addr)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Hexadecimal text where people read it, a number in a recording.
impl Serialize for Addr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

/// The number of a recording.
impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Addr, D::Error> {
        u64::deserialize(deserializer).map(Addr)
    }
}

/// A place in the code of a followed program, stored once and known by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CodeId(pub u32);

/// A call stack, stored once and known by its number: equal numbers, equal stacks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CallStackId(pub u32);

/// Whole pages of an address space, from `start` up to but not including `end`; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(Addr, u64)", try_from = "(Addr, u64)")]
pub struct Range {
    start: u64,
    end: u64,
}

/// Start and length in bytes, the shape in which it is stored.
impl From<Range> for (Addr, u64) {
    fn from(range: Range) -> Self {
        (range.start(), range.bytes())
    }
}

impl TryFrom<(Addr, u64)> for Range {
    type Error = &'static str;

    fn try_from((start, bytes): (Addr, u64)) -> Result<Range, Self::Error> {
        let end = start.checked_add(bytes).ok_or("past the end of the address space")?;
        Range::new(start, end).ok_or("no range of pages")
    }
}

impl Range {
    /// The pages touched by `len` bytes from `start`, which the kernel wants page-aligned.
    ///
    /// None where that is empty, unaligned, or runs past the end of the address space: what the kernel refuses too.
    pub fn of_len(start: Addr, len: u64) -> Option<Range> {
        Range::new(start, Addr(start.0.checked_add(page_up(len))?))
    }

    /// From `start` to `end`, both page-aligned; none where that is empty or unaligned.
    pub fn new(start: Addr, end: Addr) -> Option<Range> {
        let aligned = start.0.is_multiple_of(PAGE) && end.0.is_multiple_of(PAGE);
        (aligned && start < end).then_some(Range { start: start.0, end: end.0 })
    }

    /// The smallest range of whole pages around the bytes from `start` to `end`; none where that is empty.
    pub fn around(start: Addr, end: Addr) -> Option<Range> {
        Range::new(Addr(page_down(start.0)), Addr(page_up(end.0)))
    }

    /// First address.
    pub fn start(self) -> Addr {
        Addr(self.start)
    }

    /// First address behind it.
    pub fn end(self) -> Addr {
        Addr(self.end)
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: Addr) -> bool {
        (self.start..self.end).contains(&addr.0)
    }

    /// Whether all of `other` lies in it.
    pub fn covers(self, other: Range) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both have in common.
    pub fn intersection(self, other: Range) -> Option<Range> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Range { start, end })
    }

    /// The same number of pages, moved from where `from` lies to where `to` lies.
    ///
    /// None where that leaves the address space.
    pub fn moved(self, from: Addr, to: Addr) -> Option<Range> {
        let shift = to.0.wrapping_sub(from.0);
        Range::new(Addr(self.start.wrapping_add(shift)), Addr(self.end.wrapping_add(shift)))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.end)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Number of a task (the kernel's name for a thread), as `gettid(2)` has it. 0 where a log does not tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Tid(pub i32);

/// What is not known is null.
fn serialize_number<S: serde::Serializer>(number: i32, serializer: S) -> Result<S::Ok, S::Error> {
    if number == 0 { serializer.serialize_none() } else { serializer.serialize_i32(number) }
}

impl Serialize for Pid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_number(self.0, serializer)
    }
}

impl Serialize for Tid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_number(self.0, serializer)
    }
}

/// Number of a process: the tid of the thread group's leader, as `getpid(2)` has it. 0 where a log does not tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

impl From<Pid> for Tid {
    /// The leader of the thread group.
    fn from(pid: Pid) -> Tid {
        Tid(pid.0)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A map by task, process or size: by a number that nobody chooses to do harm.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// A set of such numbers.
pub type NumberSet<K> = HashSet<K, BuildHasherDefault<NumberHasher>>;

/// Hashes numbers that need no protection against collisions made on purpose, in a nanosecond.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number.cast_unsigned()));
    }

    fn write_u64(&mut self, number: u64) {
        // The high bits of a product depend on all bits of its factors, and the table uses both ends.
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

/// A moment, counted from the start of following. A source gives it; the wall clock is the report's affair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub Duration);

impl Time {
    /// How long after `earlier` this is; zero where it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths arrive unrounded from system calls, and the kernel rounds them up.
    #[test]
    fn a_length_is_rounded_up_to_pages() {
        let range = Range::of_len(Addr(0x1000), 16_048).unwrap();
        assert_eq!(range.to_string(), "1000-5000");
        assert_eq!(range.bytes(), 4 * PAGE);
    }

    /// What the kernel answers with EINVAL is no range.
    #[test]
    fn empty_unaligned_and_wrapping_ranges_do_not_exist() {
        assert_eq!(Range::of_len(Addr(0x1000), 0), None);
        assert_eq!(Range::of_len(Addr(0x1001), 1), None);
        assert_eq!(Range::of_len(Addr(u64::MAX - 0xfff), 0x1000), None);
        assert_eq!(Range::of_len(Addr(0x1000), u64::MAX), None);
    }

    #[test]
    fn moving_keeps_the_length_and_the_distance() {
        let piece = Range::of_len(Addr(0x5000), PAGE).unwrap();
        let moved = piece.moved(Addr(0x4000), Addr(0x1000)).unwrap();
        assert_eq!(moved.to_string(), "2000-3000");
    }
}
