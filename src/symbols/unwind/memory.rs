//! The memory that a stack is unwound from.

use std::sync::Arc;

use crate::procfs::memory::HeldMemory;
use crate::procfs::present::LiveMemory;
use crate::units::{Addr, Range, Tid};

use super::registers::Machine;

/// Memory of a stopped thread: the live one, or a copy that was made of its stack.
pub trait Memory {
    /// Fills `buffer` with what lies at `addr`; none where it cannot be had, all of it.
    fn read(&mut self, addr: Addr, buffer: &mut [u8]) -> Option<()>;
}

/// A number of 1 to 8 bytes.
pub fn number(memory: &mut dyn Memory, addr: u64, bytes: u8) -> Option<u64> {
    let mut buffer = [0; 8];
    memory.read(Addr(addr), buffer.get_mut(..bytes.into())?)?;
    Some(u64::from_le_bytes(buffer))
}

/// A pointer.
pub fn word(memory: &mut dyn Memory, machine: Machine, addr: u64) -> Option<u64> {
    number(memory, machine.truncate(addr), machine.word())
}

/// Most stacks are shallower; of others more is read when it is wanted.
const FIRST_READ: usize = 16 << 10;

/// Further reads are of this size: another stack, the deep end of a large one, a few words of a table.
const LATER_READ: usize = 4 << 10;

/// Further reads that one stack may cost.
const MOST_LATER_READS: usize = 64;

/// What the ABI lets a function use below the stack pointer.
const RED_ZONE: u64 = 128;

/// The memory of a stopped task, of which little is read: a piece from its stack pointer on, in one go.
#[derive(Debug, Default)]
pub struct TaskMemory {
    /// The address space that was looked at last, by its number.
    live: Option<(u64, LiveMemory)>,
    held: Option<Arc<HeldMemory>>,
    /// The main stack, where what was read first is a copy that was made earlier.
    main_stack: Option<Range>,
    /// The buffers are kept for the next stack; of each, what was read, and from where.
    windows: Vec<Window>,
    used: usize,
}

#[derive(Debug)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl TaskMemory {
    /// Reads the stack of a task above its stack pointer, and forgets what was read before. The task's address space goes by
    /// the number `space`, which never means another one.
    pub fn begin(&mut self, tid: Tid, space: u64, sp: u64) {
        self.turn_to(tid, space);
        (self.held, self.main_stack) = (None, None);
        self.used = 0;
        self.read_window(sp.saturating_sub(RED_ZONE), FIRST_READ);
    }

    /// Takes `stack`, a copy of what lay from the stack pointer of a task on, and forgets what was read before. What lies
    /// elsewhere is read as it is now.
    pub fn begin_with(&mut self, task: (Tid, u64), held: Option<&Arc<HeldMemory>>, sp: u64, stack: &[u8]) {
        self.turn_to(task.0, task.1);
        self.held = held.map(Arc::clone);
        let maps = held.map(|held| held.maps());
        let main_stack = maps.as_ref().and_then(|maps| maps.iter().find(|vma| &*vma.name == b"[stack]"));
        self.main_stack = main_stack.map(|vma| vma.range);
        self.used = 0;
        let window = self.next_window();
        window.start = sp;
        window.bytes.clear();
        window.bytes.extend_from_slice(stack);
    }

    fn turn_to(&mut self, tid: Tid, space: u64) {
        let known = self.live.as_ref().filter(|(of, _)| *of == space);
        self.live = Some((space, known.map_or_else(|| LiveMemory::of(tid), |(_, memory)| memory.through(tid))));
    }

    /// A buffer that is not in use yet, and is from now on.
    fn next_window(&mut self) -> &mut Window {
        if self.used == self.windows.len() {
            self.windows.push(Window { start: 0, bytes: Vec::new() });
        }
        self.used += 1;
        &mut self.windows[self.used - 1]
    }

    /// Reads up to `length` bytes, up to where the readable memory ends.
    fn read_window(&mut self, start: u64, length: usize) {
        self.next_window();
        let window = &mut self.windows[self.used - 1];
        window.start = start;
        window.bytes.resize(length, 0);
        let read = match (&self.held, &self.live) {
            (Some(held), _) => held.read_up_to(Addr(start), &mut window.bytes),
            (None, Some((_, live))) => live.read_up_to(Addr(start), &mut window.bytes),
            (None, None) => 0,
        };
        window.bytes.truncate(read);
    }

    /// Whether a place is on the main stack, and the copy is of another one: of a signal's. Its thread has run on: what called
    /// the function that runs now is still as it was, most likely, but the stack that the signal had interrupted is not.
    fn is_elsewhere(&self, addr: Addr) -> bool {
        let copied = self.windows.first().map(|window| Addr(window.start));
        self.main_stack
            .is_some_and(|stack| stack.contains(addr) && copied.is_some_and(|copied| !stack.contains(copied)))
    }

    fn copied(&self, addr: Addr, buffer: &mut [u8]) -> Option<()> {
        self.windows[..self.used].iter().find_map(|window| {
            let offset = usize::try_from(addr.0.checked_sub(window.start)?).ok()?;
            let bytes = window.bytes.get(offset..offset.checked_add(buffer.len())?)?;
            buffer.copy_from_slice(bytes);
            Some(())
        })
    }
}

impl Memory for TaskMemory {
    fn read(&mut self, addr: Addr, buffer: &mut [u8]) -> Option<()> {
        if self.copied(addr, buffer).is_none() {
            if self.used > MOST_LATER_READS || buffer.len() > LATER_READ || self.is_elsewhere(addr) {
                return None;
            }
            self.read_window(addr.0, LATER_READ);
            self.copied(addr, buffer)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack may lead anywhere, and is followed to so many places. What has been read can be read again.
    #[test]
    fn later_reads_are_bounded() {
        let places: Vec<u64> = (0..2 * MOST_LATER_READS as u64 * 1024).collect();
        let at = |number: usize| (&raw const places[1024 * number]).addr() as u64;
        let mut memory = TaskMemory::default();
        memory.begin_with((crate::symbols::module::own(), 1), None, at(0), &7_u64.to_le_bytes());
        let read = |memory: &mut TaskMemory, number| word(memory, Machine::X86_64, at(number));
        assert_eq!(read(&mut memory, 0), Some(7));
        for _ in 0..2 {
            let found: Vec<usize> = (1..100).filter(|number| read(&mut memory, *number).is_some()).collect();
            assert_eq!(found, (1..=MOST_LATER_READS).collect::<Vec<_>>());
        }
        assert_eq!(read(&mut memory, 64), Some(64 * 1024));
        assert!(memory.read(Addr(at(1)), &mut [0; LATER_READ + 1]).is_none());
        memory.begin_with((crate::symbols::module::own(), 1), None, at(0), &[]);
        assert_eq!(read(&mut memory, 70), Some(70 * 1024), "of another stack");
    }
}
