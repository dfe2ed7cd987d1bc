//! Bytes of /proc in, plain data out: proc(5).
//!
//! Files are read whole and parsed leniently: a field that a kernel does not have is none, never a panic.

pub mod limits;
pub mod mapped_file;
pub mod maps;
pub mod memory;
pub mod patience;
pub mod present;
pub mod task;

use std::fs::File;
use std::io::{self, Read};

use crate::units::Tid;

/// Bytes of a file of /proc that are read. Maps of a million lines have a hundred million.
const LARGEST: u64 = 1 << 30;

/// The contents of `/proc/TID/FILE`. Works for any task, also one that is no leader and is not listed in /proc.
pub fn read(tid: Tid, file: &str) -> io::Result<Vec<u8>> {
    read_up_to(tid, file, LARGEST)
}

/// Any bytes as files of /proc, for fuzzing.
pub fn digest(bytes: &[u8]) {
    for vma in maps::parse(bytes) {
        let _ = (vma.range.bytes(), vma.is_file());
    }
    let _ = (task::digest(bytes), limits::digest(bytes));
    let _ = std::str::from_utf8(bytes).map(number_list);
}

/// As much of it as `bytes`: some of these files are as long as their process wants.
fn read_up_to(tid: Tid, file: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(format!("/proc/{tid}/{file}"))?.take(bytes).read_to_end(&mut contents)?;
    Ok(contents)
}

/// The value behind `key:` in a file of such lines (status, meminfo), without its unit.
fn field<'a>(text: &'a [u8], key: &str) -> Option<&'a str> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find(|line| line.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':')))?;
    std::str::from_utf8(&line[key.len() + 1..]).ok().map(str::trim)
}

/// A number behind `key:`.
fn number(text: &[u8], key: &str) -> Option<u64> {
    field(text, key)?.split_ascii_whitespace().next()?.parse().ok()
}

/// A file that holds one number.
fn number_in(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Numbers in a list such as `0-3,8`: cpuset(7), "List format".
pub fn number_list(text: &str) -> Vec<u32> {
    /// No machine has as many processors.
    const MOST: usize = 1 << 16;
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend((first..=last).take(MOST.saturating_sub(numbers.len())));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::{number_list, read, read_up_to};
    use crate::sys::own_tid;

    /// Lists of CPUs have single numbers and ranges; what is neither is passed over.
    #[test]
    fn lists_of_numbers() {
        assert_eq!(number_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(number_list("7"), [7]);
        assert_eq!(number_list(""), [0; 0]);
        assert_eq!(number_list("x,1-y,3"), [3]);
        assert_eq!(number_list("0-4294967295,0-4294967295").len(), 1 << 16);
    }

    /// A file is read as far as is wanted.
    #[test]
    fn files_are_bounded() {
        let (tid, file) = (own_tid(), "limits");
        let whole = read(tid, file).unwrap();
        assert!(whole.len() > 100);
        assert_eq!(read_up_to(tid, file, 100).unwrap(), whole[..100]);
    }
}
