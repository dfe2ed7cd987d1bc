//! Bytes of /proc in, plain data out: proc(5).
//!
//! Files are read whole and parsed leniently: a field that a kernel does not have is none, never a panic.

pub mod limits;
pub mod mapped_file;
pub mod maps;
pub mod memory;
pub mod task;

use std::io;

use crate::units::Tid;

/// The contents of `/proc/TID/FILE`. Works for any task, also one that is no leader and is not listed in /proc.
pub fn read(tid: Tid, file: &str) -> io::Result<Vec<u8>> {
    std::fs::read(format!("/proc/{tid}/{file}"))
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
