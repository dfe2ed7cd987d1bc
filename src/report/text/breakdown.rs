//! What VIRT consists of, as a table.

use std::io;

use colored::Colorize;

use super::{INDENT, Page};
use crate::diagnose::breakdown::{Kind, Share};
use crate::report::words::{count, size};

/// Writes the table, largest share first, with its sum; nothing where that was not looked at.
pub(super) fn write(page: &mut Page<'_>, shares: &[Share]) -> io::Result<()> {
    if shares.is_empty() {
        return Ok(());
    }
    page.blank()?;
    let label = page.paint(&format!("{:<INDENT$}", "VIRT"), |label| label.bold());
    let heads = page.paint(&columns("virtual", "resident", "regions", ""), |heads| heads.dimmed());
    writeln!(page.out, "{label}{}", heads.trim_end())?;
    let sum = |part: fn(&Share) -> u64| shares.iter().map(part).sum::<u64>();
    let row = |virt: u64, resident: u64, regions: u64, what: &str| {
        columns(&size(virt), &size(resident), &count(regions), what)
    };
    for share in shares {
        let line = row(share.virtual_bytes, share.resident_bytes, share.regions, name(share.kind));
        let line = if share.kind == Kind::OrphanedStacks { page.paint(&line, |line| line.red()) } else { line };
        writeln!(page.out, "{:INDENT$}{line}", "")?;
    }
    let line =
        row(sum(|share| share.virtual_bytes), sum(|share| share.resident_bytes), sum(|share| share.regions), "in all");
    let line = page.paint(&line, |line| line.bold());
    writeln!(page.out, "{:INDENT$}{line}", "")
}

fn columns(virt: &str, resident: &str, regions: &str, what: &str) -> String {
    format!("{virt:>11}  {resident:>11}  {regions:>8}  {what}")
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::LiveStacks => "stacks of live threads",
        Kind::OrphanedStacks => "stacks of threads that ended and were never joined",
        Kind::CachedStacks => "stacks that the thread library keeps for reuse",
        Kind::ProgramStacks => "stacks that the program gave to its threads",
        Kind::MainStack => "stack of the first thread",
        Kind::MallocArenas => "malloc's arenas with their reserve",
        Kind::Heap => "heap (brk)",
        Kind::Files => "program, libraries, and other files",
        Kind::SharedMemory => "shared memory",
        Kind::Reserved => "other memory without access: reserved, or guards",
        Kind::Anonymous => "other anonymous memory",
        Kind::Kernel => "the kernel's own (vDSO)",
    }
}
