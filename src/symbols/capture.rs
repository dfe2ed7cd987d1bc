//! The call stacks of the followed tasks, captured while they are stopped.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::procfs::memory::HeldMemory;
use crate::procfs::present::LiveMemory;
use crate::source::Stand;
use crate::sys;
use crate::units::{Addr, CallStackId, CodeId, Range, Tid};

use super::module::Modules;
use super::places::{Place, Places};
use super::unwind::{CodeMap, End, Registers, Stack, TaskMemory, Unwinder};

/// A task that is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Its number.
    pub tid: Tid,
    /// Its memory, where that is held beyond its end.
    pub held: Option<&'a Arc<HeldMemory>>,
}

impl Task<'_> {
    fn code_map(self, modules: &mut Modules) -> io::Result<CodeMap> {
        match self.held {
            Some(held) => Ok(CodeMap::of(self.tid, &held.maps_through(self.tid), modules)),
            None => CodeMap::read(self.tid, modules),
        }
    }
}

/// All that was captured, and what is known of the code that it is about.
#[derive(Debug, Default)]
pub struct CallStacks {
    /// The files.
    pub modules: Modules,
    /// The places and stacks.
    pub places: Places,
    unwinder: Unwinder,
    spaces: HashMap<u64, Space>,
    /// Buffers, kept from stack to stack.
    memory: TaskMemory,
    frames: Vec<CodeId>,
}

/// What is known of an address space.
#[derive(Debug)]
struct Space {
    map: CodeMap,
    /// Where there was no code although the map had been read anew: it is not read again for these.
    absent: Vec<Addr>,
}

/// So many addresses without code are remembered; if there are more, the map is not read anew for any.
const MOST_ABSENT: usize = 256;

impl CallStacks {
    /// The call stack of `task`, one of the address space that goes by the number `space`, where it stood.
    ///
    /// None where it cannot be had: the task is gone, or there are too many different stacks.
    pub fn capture(&mut self, task: Task<'_>, space: u64, stand: Stand<'_>) -> Option<CallStackId> {
        let stack = self.stack(task, space, stand)?;
        self.frames.clear();
        for place in stack.places {
            self.frames.push(self.places.place(place)?);
        }
        self.places.stack(&self.frames)
    }

    /// The same as frames, and why there are no more; stored nowhere.
    pub fn stack(&mut self, task: Task<'_>, space: u64, stand: Stand<'_>) -> Option<Stack> {
        let tid = task.tid;
        let registers = match stand {
            Stand::Stopped => {
                let registers = Registers::of_task(&sys::registers(tid).ok()?);
                self.memory.begin(tid, space, registers.sp()?);
                registers
            }
            Stand::Copied { registers, stack } => {
                let registers = Registers::of_task(registers);
                self.memory.begin_with((tid, space), task.held, registers.sp()?, stack);
                registers
            }
            Stand::Unknown => return None,
        };
        let stack = self.unwind(task, space, &registers)?;
        match stack.end {
            // What the map does not know may have been mapped since it was read.
            End::NoCode(pc) if pc.0 != 0 && self.read_anew(task, space, pc) => self.unwind(task, space, &registers),
            _ => Some(stack),
        }
    }

    /// The function that a task runs which was made by clone(2) with the stack `top` and has run on since.
    pub fn started_on(&mut self, task: Task<'_>, space: u64, top: Addr) -> Option<CodeId> {
        /// Below the top, and above.
        const BELOW: u64 = 2048;
        const ABOVE: u64 = 16;
        let start = Addr(top.0.checked_sub(BELOW)?);
        let mut bytes = [0; (BELOW + ABOVE) as usize];
        match task.held {
            Some(held) => held.read(start, &mut bytes).ok()?,
            None => LiveMemory::of(task.tid).read(start, &mut bytes).ok()?,
        }
        self.memory.begin_with((task.tid, space), task.held, start.0, &bytes);
        let CallStacks { modules, unwinder, spaces, memory, .. } = self;
        let map = &known(spaces, task, space, modules)?.map;
        let function = unwinder.started_on(top, memory, map, modules)?;
        self.locate(task, space, function)
    }

    /// The place of an address in the code of an address space, of which `task` is one.
    pub fn locate(&mut self, task: Task<'_>, space: u64, addr: Addr) -> Option<CodeId> {
        let mut place = self.place(task, space, addr);
        if place.is_none() && self.read_anew(task, space, addr) {
            place = self.place(task, space, addr);
        }
        self.places.place(place?)
    }

    /// These addresses of the address space were mapped or unmapped: what code was there may be other code now.
    pub fn code_changed(&mut self, space: u64, changed: Range) {
        if self.spaces.get(&space).is_some_and(|known| known.map.overlaps(changed)) {
            self.spaces.remove(&space);
        }
    }

    /// The address space is over.
    pub fn forget(&mut self, space: u64) {
        self.spaces.remove(&space);
    }

    fn unwind(&mut self, task: Task<'_>, space: u64, registers: &Registers) -> Option<Stack> {
        let CallStacks { modules, unwinder, spaces, memory, .. } = self;
        let map = &known(spaces, task, space, modules)?.map;
        Some(unwinder.unwind(registers, memory, map, modules))
    }

    fn place(&mut self, task: Task<'_>, space: u64, addr: Addr) -> Option<Place> {
        known(&mut self.spaces, task, space, &mut self.modules)?.map.locate(addr)
    }

    /// Reads the map of code once more because it has nothing at `wanted`; says whether that is worth another try.
    fn read_anew(&mut self, task: Task<'_>, space: u64, wanted: Addr) -> bool {
        let CallStacks { modules, spaces, .. } = self;
        let Some(of_space) = known(spaces, task, space, modules) else { return false };
        if of_space.absent.len() >= MOST_ABSENT || of_space.absent.contains(&wanted) {
            return false;
        }
        let Ok(map) = task.code_map(modules) else { return false };
        let found = map.locate(wanted).is_some();
        of_space.map = map;
        if !found {
            of_space.absent.push(wanted);
        }
        found
    }
}

fn known<'a>(
    spaces: &'a mut HashMap<u64, Space>,
    task: Task<'_>,
    space: u64,
    modules: &mut Modules,
) -> Option<&'a mut Space> {
    use std::collections::hash_map::Entry;
    Some(match spaces.entry(space) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(Space { map: task.code_map(modules).ok()?, absent: Vec::new() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack in which every address is another one without code does not have the map read anew for each, nor all of them
    /// remembered.
    #[test]
    fn addresses_without_code_are_bounded() {
        let task = Task { tid: sys::own_tid(), held: None };
        let mut stacks = CallStacks::default();
        for number in 0..MOST_ABSENT as u64 + 10 {
            // Nothing can be mapped there (mmap_min_addr).
            assert!(stacks.locate(task, 1, Addr(0x1000 + number)).is_none());
            let expected = (number as usize + 1).min(MOST_ABSENT);
            assert_eq!(stacks.spaces[&1].absent.len(), expected);
        }
    }
}
