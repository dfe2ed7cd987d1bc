//! Names of code that was made at run time, as just-in-time compilers write them down for perf: one line
//! `START SIZE name` each, in hexadecimal, in /tmp/perf-PID.map (tools/perf/Documentation/jit-interface.txt).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::procfs::patience::{NAMES, patiently};
use crate::procfs::{self, mapped_file};
use crate::units::{Addr, Pid, Tid};

/// Larger maps are not read, in bytes.
const LARGEST: u64 = 64 << 20;

/// So many lines count: the latest ones.
const MOST_LINES: usize = 1 << 20;

/// Who a process is in its own eyes, and whose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer {
    /// Its number in the innermost PID namespace: the one that it knows, and writes into the map's name.
    pub number: i32,
    /// Its effective user.
    pub uid: u32,
}

impl Writer {
    /// Of a process that lives.
    pub fn of(pid: Pid) -> Option<Writer> {
        let status = procfs::read(Tid::from(pid), "status").ok()?;
        let line = |key: &str| {
            let text = std::str::from_utf8(&status).ok()?;
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        };
        Some(Writer {
            number: line("NSpid")?.split_ascii_whitespace().last()?.parse().ok()?,
            uid: line("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        })
    }
}

/// The map of one process.
#[derive(Debug, Default)]
pub struct PerfMap {
    text: Vec<u8>,
    /// In order of address, none over another.
    pieces: Vec<Piece>,
    /// Of what was read.
    stamp: Option<Stamp>,
}

/// Inode, length and time of the last change.
type Stamp = (u64, u64, SystemTime);

/// The map of a process that goes by this number in its own eyes.
fn open(pid: Pid, number: i32) -> Option<File> {
    let path = format!("/tmp/perf-{number}.map");
    mapped_file::open_unlinked_in_root(Tid::from(pid), Path::new(&path)).or_else(|| {
        // In our own /tmp a number of another PID namespace would be another process's.
        mapped_file::open_unlinked(Path::new(&format!("/tmp/perf-{pid}.map")))
    })
}

/// What is in a map, if it is this user's, not what it was before, and no larger than `room`, in bytes.
fn changed(file: File, uid: u32, before: Option<Stamp>, room: u64) -> Option<(Option<Stamp>, Vec<u8>)> {
    let metadata = file.metadata().ok()?;
    if metadata.len() > LARGEST.min(room) || (metadata.uid() != 0 && metadata.uid() != uid) {
        return None;
    }
    let stamp = metadata.modified().ok().map(|time| (metadata.ino(), metadata.len(), time));
    if stamp.is_some() && stamp == before {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some((stamp, bytes))
}

/// A range of addresses, and where its name lies in the text.
#[derive(Clone, Debug)]
struct Piece {
    start: u64,
    end: u64,
    name: Range<u32>,
}

impl PerfMap {
    /// Reads the map again where it has changed. What was read before stays where there is none any more.
    ///
    /// `writer` is known of a process that has been seen alive. After its end our own /tmp is looked into, and a file
    /// of unknown origin is believed if it is ours or root's. Its lines are shown: a link would have others' files read.
    /// What is larger than `room`, in bytes, is not read.
    pub fn refresh(&mut self, pid: Pid, writer: Option<Writer>, room: u64) {
        let number = writer.map_or(pid.0, |writer| writer.number);
        let uid = writer.map_or_else(|| nix::unistd::geteuid().as_raw(), |writer| writer.uid);
        let stamp = self.stamp;
        // Anything may be mounted there.
        let changed = patiently(NAMES, move || changed(open(pid, number)?, uid, stamp, room)).flatten();
        if let Some((stamp, bytes)) = changed {
            *self = PerfMap { stamp, ..PerfMap::parse(bytes) };
        }
    }

    /// Any bytes as such a map, for fuzzing.
    pub fn digest(bytes: &[u8]) {
        let map = PerfMap::parse(bytes.to_vec());
        for addr in [0, 0x1000, u64::MAX] {
            let _ = map.name(Addr(addr)).map(|name| super::demangle(&name));
        }
    }

    /// Lines that are none are passed over, and those before the last [`MOST_LINES`].
    fn parse(text: Vec<u8>) -> PerfMap {
        PerfMap { pieces: pieces(&lines(&text, MOST_LINES)), text, stamp: None }
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        (self.text.len() + size_of_val(&*self.pieces)) as u64
    }

    /// The name of the code at an address: that of the latest line, for compilers use memory again.
    pub fn name(&self, addr: Addr) -> Option<Cow<'_, str>> {
        let piece = self.pieces.get(self.pieces.partition_point(|piece| piece.end <= addr.0))?;
        let name = self.text.get(piece.name.start as usize..piece.name.end as usize)?;
        (piece.start <= addr.0).then(|| String::from_utf8_lossy(name))
    }
}

/// What the last `most` lines say, the latest first.
fn lines(text: &[u8], most: usize) -> Vec<Piece> {
    let line = |line: &[u8]| {
        let mut parts = line.trim_ascii_start().splitn(3, |byte| *byte == b' ');
        let mut number = || {
            let word = std::str::from_utf8(parts.next()?).ok()?;
            u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
        };
        let (start, bytes) = (number()?, number()?);
        let name = parts.next().map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())?;
        let at = name.as_ptr().addr() - text.as_ptr().addr();
        let name = u32::try_from(at).ok()?..u32::try_from(at + name.len()).ok()?;
        Some(Piece { start, end: start.saturating_add(bytes), name })
    };
    text.rsplit(|byte| *byte == b'\n').filter_map(line).filter(|piece| piece.start < piece.end).take(most).collect()
}

/// Which line holds where: the first of those that speak of a place. A map may have a million that all do.
fn pieces(lines: &[Piece]) -> Vec<Piece> {
    let mut bounds: Vec<u64> = lines.iter().flat_map(|line| [line.start, line.end]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut by_start: Vec<usize> = (0..lines.len()).collect();
    by_start.sort_unstable_by_key(|line| lines[*line].start);
    let mut by_start = by_start.into_iter().peekable();
    let mut open = BinaryHeap::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for bound in bounds.windows(2) {
        let (start, end) = (bound[0], bound[1]);
        open.extend(std::iter::from_fn(|| by_start.next_if(|line| lines[*line].start <= start)).map(Reverse));
        while open.peek().is_some_and(|Reverse(line)| lines[*line].end <= start) {
            open.pop();
        }
        let Some(Reverse(line)) = open.peek() else { continue };
        let name = &lines[*line].name;
        match pieces.last_mut().filter(|last| last.end == start && last.name == *name) {
            Some(last) => last.end = end,
            None => pieces.push(Piece { start, end, name: name.clone() }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names may hold blanks; malformed lines are passed over; the latest of several wins.
    #[test]
    fn lines_are_read_leniently() {
        let map = PerfMap::parse(
            b"1000 100 LazyCompile:~job /srv/app.js:12\n0x2000 0x10 hexadecimal\n\n3000\nzz 10 no number\n4000 10\n\
              4000 10   \nffffffffffffff00 1000 last\n-5 10 negative\n1080 10 later\n5000 0 empty\n6000 10 \xff\x1b[31m\n\
              10000000000000000 1 too large\n7000 10 unfinished"
                .to_vec(),
        );
        let name = |addr| map.name(Addr(addr));
        assert_eq!(name(0x1000).as_deref(), Some("LazyCompile:~job /srv/app.js:12"));
        assert_eq!(name(0x1080).as_deref(), Some("later"));
        assert_eq!(name(0x1090).as_deref(), Some("LazyCompile:~job /srv/app.js:12"));
        assert_eq!(name(0x1100).as_deref(), None);
        assert_eq!(name(0x2005).as_deref(), Some("hexadecimal"));
        assert_eq!(name(0x3000).as_deref(), None);
        assert_eq!(name(0x4000).as_deref(), None);
        assert_eq!(name(0x5000).as_deref(), None);
        assert_eq!(name(u64::MAX - 1).as_deref(), Some("last"));
        assert_eq!(name(0x6000).as_deref(), Some("\u{fffd}\u{1b}[31m"));
        assert_eq!(name(0x7001).as_deref(), Some("unfinished"));
        assert_eq!(name(0).as_deref(), None);
    }

    /// Where lines overlap in any way, each place has the name of the latest line that speaks of it.
    #[test]
    fn the_latest_line_holds() {
        let ranges: Vec<(u64, u64)> = (0..200_u64).map(|n| (n * 7919 % 97, n * 31 % 40)).collect();
        let text: String =
            ranges.iter().enumerate().map(|(n, (start, bytes))| format!("{start:x} {bytes:x} f{n}\n")).collect();
        let map = PerfMap::parse(text.into_bytes());
        for addr in 0..150 {
            let holds = |(start, bytes): &(u64, u64)| (*start..start + bytes).contains(&addr);
            let expected = ranges.iter().rposition(holds).map(|n| format!("f{n}"));
            assert_eq!(map.name(Addr(addr)).as_deref(), expected.as_deref(), "{addr}");
        }
        assert!(map.pieces.is_sorted_by(|one, other| one.end <= other.start));
    }

    /// A map of which each line speaks of the same place takes no more than its lines: neither time nor memory.
    #[test]
    fn lines_over_each_other() {
        let map = PerfMap::parse("1000 1000 f\n".repeat(1000).into_bytes());
        assert_eq!(map.pieces.len(), 1);
        let nested: String = (1..1000).map(|n| format!("{n:x} {:x} f{n}\n", 4000 - 2 * n)).collect();
        assert!(PerfMap::parse(nested.into_bytes()).pieces.len() <= 2000);
    }

    /// Of too many lines the latest count; a file that is too large, or does not fit, is as if it had not changed.
    #[test]
    fn maps_are_bounded() {
        let latest = lines(b"1000 10 a\n2000 10 b\n3000 10 c\n", 2);
        assert_eq!(latest.iter().map(|line| line.start).collect::<Vec<_>>(), [0x3000, 0x2000]);
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, "1000 10 a\n").unwrap();
        let file = || File::options().read(true).write(true).open(&path).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let read = |before, room| changed(file(), uid, before, room);
        assert!(read(None, 9).is_none());
        let (stamp, bytes) = read(None, 10).unwrap();
        assert!(read(stamp, 10).is_none(), "it is as it was");
        file().set_len(LARGEST + 1).unwrap();
        assert!(read(stamp, u64::MAX).is_none());
        let map = PerfMap::parse(bytes);
        assert_eq!(map.name(Addr(0x1000)).as_deref(), Some("a"));
        assert!(map.bytes() > 10);
    }
}
