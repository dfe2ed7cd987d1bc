//! Names of code that was made at run time, as just-in-time compilers write them down for perf: one line
//! `START SIZE name` each, in hexadecimal, in /tmp/perf-PID.map (tools/perf/Documentation/jit-interface.txt).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::procfs::patience::{NAMES, patiently};
use crate::procfs::{self, mapped_file};
use crate::units::{Addr, Pid, Tid};

/// Larger maps are not read, in bytes.
const LARGEST: u64 = 64 << 20;

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
    text: String,
    entries: Vec<Entry>,
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

/// What is in a map, if it is this user's and not what it was before.
fn changed(file: File, uid: u32, before: Option<Stamp>) -> Option<(Option<Stamp>, Vec<u8>)> {
    let metadata = file.metadata().ok()?;
    if metadata.len() > LARGEST || (metadata.uid() != 0 && metadata.uid() != uid) {
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

/// One line: a range of addresses, and where its name lies in the text.
#[derive(Debug)]
struct Entry {
    start: u64,
    bytes: u64,
    name: std::ops::Range<u32>,
}

impl PerfMap {
    /// Reads the map again where it has changed. What was read before stays where there is none any more.
    ///
    /// `writer` is known of a process that has been seen alive. After its end our own /tmp is looked into, and a file
    /// of unknown origin is believed if it is ours or root's. Its lines are shown: a link would have others' files read.
    pub fn refresh(&mut self, pid: Pid, writer: Option<Writer>) {
        let number = writer.map_or(pid.0, |writer| writer.number);
        let uid = writer.map_or_else(|| nix::unistd::geteuid().as_raw(), |writer| writer.uid);
        let stamp = self.stamp;
        // Anything may be mounted there.
        let changed = patiently(NAMES, move || changed(open(pid, number)?, uid, stamp)).flatten();
        if let Some((stamp, bytes)) = changed {
            *self = PerfMap { stamp, ..PerfMap::parse(&bytes) };
        }
    }

    /// Any bytes as such a map, for fuzzing.
    pub fn digest(bytes: &[u8]) {
        let map = PerfMap::parse(bytes);
        for addr in [0, 0x1000, u64::MAX] {
            let _ = map.name(Addr(addr)).map(super::demangle);
        }
    }

    /// Lines that are none are passed over.
    fn parse(bytes: &[u8]) -> PerfMap {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut parts = line.trim_start().splitn(3, ' ');
            let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok();
            let (Some(start), Some(bytes)) = (parts.next().and_then(number), parts.next().and_then(number)) else {
                continue;
            };
            let Some(name) = parts.next().map(str::trim).filter(|name| !name.is_empty()) else { continue };
            let at = name.as_ptr().addr() - text.as_ptr().addr();
            let (Ok(from), Ok(to)) = (u32::try_from(at), u32::try_from(at + name.len())) else { break };
            entries.push(Entry { start, bytes, name: from..to });
        }
        PerfMap { text, entries, stamp: None }
    }

    /// The name of the code at an address: that of the latest line, for compilers use memory again.
    pub fn name(&self, addr: Addr) -> Option<&str> {
        let holds = |entry: &&Entry| addr.0.checked_sub(entry.start).is_some_and(|offset| offset < entry.bytes);
        let name = &self.entries.iter().rev().find(holds)?.name;
        self.text.get(name.start as usize..name.end as usize)
    }
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
              10000000000000000 1 too large\n7000 10 unfinished",
        );
        let name = |addr| map.name(Addr(addr));
        assert_eq!(name(0x1000), Some("LazyCompile:~job /srv/app.js:12"));
        assert_eq!(name(0x1080), Some("later"));
        assert_eq!(name(0x1090), Some("LazyCompile:~job /srv/app.js:12"));
        assert_eq!(name(0x1100), None);
        assert_eq!(name(0x2005), Some("hexadecimal"));
        assert_eq!(name(0x3000), None);
        assert_eq!(name(0x4000), None);
        assert_eq!(name(0x5000), None);
        assert_eq!(name(u64::MAX), Some("last"));
        assert_eq!(name(0x6000), Some("\u{fffd}\u{1b}[31m"));
        assert_eq!(name(0x7001), Some("unfinished"));
        assert_eq!(name(0), None);
    }
}
