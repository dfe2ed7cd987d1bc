//! Any bytes as the memory of a process, for fuzzing.

use super::glibc::Located;
use super::{Memory, Unavailable, musl};
use crate::event::{Prot, Sharing, Vma};
use crate::inspect::arenas;
use crate::units::{Addr, PAGE, Range};

/// Where the memory begins.
const BASE: u64 = 0x10_0000;

/// Memory that holds these bytes, and cannot be read elsewhere.
struct Bytes<'a>(&'a [u8]);

impl Memory for Bytes<'_> {
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
        let start = addr.0.checked_sub(BASE).and_then(|start| usize::try_from(start).ok());
        let found = start.and_then(|start| self.0.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(found.ok_or(Unavailable::NoMemory)?);
        Ok(())
    }
}

/// Reads the thread lists of both libraries, and the arenas of malloc, in a process whose memory `bytes` are. The first
/// bytes say how glibc's are laid out.
pub fn digest(bytes: &[u8]) {
    let Some((layout, memory)) = bytes.split_first_chunk::<8>() else { return };
    let memory = Bytes(memory);
    let located = Located::of_layout(*layout, Addr(BASE));
    if let Ok(lists) = located.read_once(&memory) {
        let mut lists = lists;
        let tasks = lists.threads.iter().map(|thread| (thread.tid, Some(thread.descriptor))).collect::<Vec<_>>();
        lists.find_tasks(tasks.into_iter());
        let _ = lists.library_stacks();
    }
    for word in (0..memory.0.len() as u64).step_by(64).take(64) {
        let at = Addr(BASE + word);
        let _ = (located.start_routine_of(&memory, at), located.stack_of(&memory, at), located.number_of(&memory, at));
        let _ = (musl::is_here(&memory, at), musl::stack_of(&memory, at));
    }
    let line = |start, len: u64, prot| {
        Range::of_len(Addr(start), len).map(|range| Vma {
            range,
            prot,
            sharing: Sharing::Private,
            offset: 0,
            inode: 0,
            device: 0,
            name: Box::default(),
        })
    };
    let read_write = Prot::READ.with(Prot::WRITE);
    let maps: Vec<Vma> = [line(BASE - PAGE, PAGE, Prot::NONE), line(BASE, memory.0.len() as u64, read_write)]
        .into_iter()
        .flatten()
        .collect();
    let _ = musl::read(&memory, &maps, [Addr(BASE), Addr(BASE + 0x800)].into_iter(), |range| vec![range]);
    for word in [4, 8] {
        let _ = arenas::find(&memory, &maps, word, |_| true);
    }
}
