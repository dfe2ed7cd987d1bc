//! Call stacks by call frame information, evaluated on a copy of a stopped thread's stack.
//!
//! What the target has mapped is believed nowhere: a file may hold any row, and a stack any word. So frames are
//! counted, the stack must move up, and the files' sections and the rows kept of them are bounded.

mod calls;
mod cfi;
mod code_map;
mod digest;
mod elf;
mod functions;
mod memory;
mod registers;
mod row;
mod signal_frame;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use gimli::UnwindContext;

use crate::units::Addr;

use super::module::{ModuleId, Modules};
use super::places::Place;

pub use code_map::CodeMap;
pub use digest::{digest, digest_module};
pub use memory::{Memory, TaskMemory};
pub use registers::{Machine, Registers};

use calls::Calls;
use cfi::CallFrameInformation;
use row::{Above, Row, Rows};

/// Frames of a stack that are kept: the innermost ones.
const MOST_FRAMES: usize = 128;

/// Words in which a saved frame pointer is looked for.
const MOST_SAVED: usize = 256;

/// Bytes of call frame information that are held. A browser has 40 MB, most programs have less than one.
const MOST_BYTES: u64 = 256 << 20;

/// The call stack of a thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stack {
    /// Where each frame is, innermost first: its call instruction, or the instruction that a signal has interrupted.
    pub places: Vec<Place>,
    /// Why there are no more.
    pub end: End,
}

/// Why a call stack has no more frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The outermost frame was reached.
    Outermost,
    /// There are too many.
    TooDeep,
    /// A program counter at which there is no code, as far as the map of code knows.
    NoCode(Addr),
    /// The caller of the last frame could not be found.
    Lost,
}

/// How an address in code was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// The thread is there: between two instructions.
    Innermost,
    /// A signal has interrupted it there.
    Interrupted,
    /// A call will return there: what matters is the call, which ends right before.
    Returning,
}

impl Reached {
    /// The address whose row holds.
    fn lookup(self, pc: Addr) -> Addr {
        match self {
            Reached::Innermost | Reached::Interrupted => pc,
            Reached::Returning => before(pc),
        }
    }
}

fn before(pc: Addr) -> Addr {
    Addr(pc.0.saturating_sub(1))
}

/// A frame whose caller is to be found.
struct Frame<'a> {
    registers: &'a Registers,
    /// The address that stands for the frame's place in code.
    lookup: Addr,
    reached: Reached,
}

impl Frame<'_> {
    /// Whether the thread is within a call, of another function or of the kernel.
    fn is_at_call(&self) -> bool {
        match self.reached {
            Reached::Returning => true,
            Reached::Innermost => self.registers.pc().is_some_and(|pc| self.lookup < pc),
            Reached::Interrupted => false,
        }
    }
}

/// Where things are in the address space that is looked at.
#[derive(Clone, Copy)]
struct Code<'a> {
    map: &'a CodeMap,
    modules: &'a Modules,
}

impl Code<'_> {
    /// The file of an address, and the address for which that was linked.
    fn linked(self, addr: Addr) -> Option<(ModuleId, u64)> {
        match self.map.locate(addr)? {
            Place::Module { module, offset } => Some((module, self.modules.get(module).linked_address(offset)?)),
            Place::Anonymous(_) => None,
        }
    }
}

/// Finds call stacks, and keeps what it has learnt of each file.
#[derive(Debug, Default)]
pub struct Unwinder {
    frames: HashMap<ModuleId, CallFrameInformation>,
    /// Bytes in `frames`.
    held: u64,
    /// The row of a linked address, none where there is none.
    rows: Rows<(ModuleId, u64)>,
    context: UnwindContext<usize>,
    calls: Calls,
}

impl Unwinder {
    /// The function that a task runs which was made by clone(2) with the stack `top`, by what it has left there.
    pub fn started_on(&mut self, top: Addr, memory: &mut dyn Memory, map: &CodeMap, modules: &Modules) -> Option<Addr> {
        self.calls.begin();
        self.calls.started_on(top, memory, Code { map, modules })
    }

    /// The call stack of a stopped thread with these registers and this memory.
    pub fn unwind(
        &mut self,
        registers: &Registers,
        memory: &mut dyn Memory,
        map: &CodeMap,
        modules: &Modules,
    ) -> Stack {
        let code = Code { map, modules };
        self.calls.begin();
        let mut registers = registers.clone();
        let mut reached = Reached::Innermost;
        let mut places = Vec::new();
        // The stack pointer of the frame before: what that has saved lies above it.
        let mut below = 0;
        let end = loop {
            let Some(pc) = registers.pc() else { break End::Lost };
            let lookup = reached.lookup(pc);
            if pc.0 == 0 && reached != Reached::Innermost {
                break End::Outermost;
            }
            let Some(place) = map.locate(lookup) else { break End::NoCode(pc) };
            if places.len() == MOST_FRAMES {
                break End::TooDeep;
            }
            let frame = Frame { registers: &registers, lookup, reached };
            let row = self.row(code, registers.machine(), lookup);
            // In a trampoline the thread is not at a call, but where the signal handler returns to.
            let is_trampoline = match row {
                Some(row) => row.is_signal_frame,
                None => reached == Reached::Returning && calls::is_signal_return(pc, memory, code),
            };
            let is_entry = |row: &Row| code.linked(pc).is_some_and(|(_, linked)| linked == row.function);
            let at_entry = reached == Reached::Innermost && row.is_some_and(is_entry);
            places.push(match reached {
                Reached::Innermost if !at_entry => map.locate(before(pc)).unwrap_or(place),
                Reached::Returning if is_trampoline => map.locate(pc).unwrap_or(place),
                _ => place,
            });
            let doubts = row.is_some_and(|row| {
                let bp = registers.machine().bp();
                registers.is_doubtful(bp) && row.rests_on(bp)
            });
            let above = match row {
                Some(row) => row.caller(&registers, memory),
                None if is_trampoline => signal_frame::caller(&registers, memory),
                None => self.above_without_row(&frame, memory, code),
            };
            let above = match above {
                Above::Caller(caller) if !doubts || self.is_credible(&caller, &frame, memory, code) => {
                    Above::Caller(caller)
                }
                _ if doubts => self.above_by_saved_frame_pointer(&frame, below, memory, code),
                above => above,
            };
            let caller = match above {
                Above::Nothing => break End::Outermost,
                Above::Unknown => break End::Lost,
                Above::Caller(caller) => caller,
            };
            if !is_trampoline && caller.sp() <= registers.sp() {
                break End::Lost;
            }
            below = registers.sp().unwrap_or(0);
            reached = if is_trampoline { Reached::Interrupted } else { Reached::Returning };
            registers = caller;
        };
        Stack { places, end }
    }

    /// The row that holds at an address.
    fn row(&mut self, code: Code<'_>, machine: Machine, addr: Addr) -> Option<&Row> {
        let key = code.linked(addr)?;
        let Unwinder { frames, held, rows, context, .. } = self;
        rows.get(key, || {
            let (module, linked) = key;
            let of_module = frames.entry(module).or_insert_with(|| {
                let sections = elf::frame_sections(code.modules.get(module), machine);
                *held += sections.bytes();
                // What would be too much is as if it were not there; the count stays, so that it is not read again.
                let sections = if *held > MOST_BYTES { elf::FrameSections::default() } else { sections };
                CallFrameInformation::new(sections)
            });
            of_module.row(linked, context)
        })
    }

    /// What lies above a frame of which no row tells.
    fn above_without_row(&mut self, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> Above {
        let syscall = frame.registers.pc().and_then(|pc| pc.0.checked_sub(calls::SYSCALL_BYTES)).map(Addr);
        let caller = match syscall {
            Some(syscall) if frame.reached == Reached::Innermost && calls::is_syscall(syscall, memory, code) => {
                // The function is that of the call, also where that is its last instruction.
                let frame = Frame { lookup: syscall, ..*frame };
                let caller = self.caller_by_row_before(syscall, &frame, memory, code);
                caller.or_else(|| self.calls.caller(&frame, memory, code))
            }
            _ => self.calls.caller(frame, memory, code),
        };
        caller.map_or(Above::Unknown, Above::Caller)
    }

    /// The caller of a function whose rows end where it enters the kernel.
    ///
    /// So do glibc's clone and clone3 (sysdeps/unix/sysv/linux/x86_64/clone.S: "End FDE now, because in the child the
    /// unwind info will be wrong"). The kernel leaves the stack as it was, so that the last row still holds in the
    /// parent. Checked by what it yields: the return address must lie behind a call.
    fn caller_by_row_before(
        &mut self,
        syscall: Addr,
        frame: &Frame<'_>,
        memory: &mut dyn Memory,
        code: Code<'_>,
    ) -> Option<Registers> {
        let row = self.row(code, frame.registers.machine(), before(syscall))?;
        let Above::Caller(caller) = row.caller(frame.registers, memory) else { return None };
        self.is_credible(&caller, frame, memory, code).then_some(caller)
    }

    /// Whether what was found with doubtful means can be the frame's caller.
    fn is_credible(&mut self, caller: &Registers, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> bool {
        let moves_up = caller.sp() > frame.registers.sp();
        moves_up && caller.pc().is_some_and(|pc| self.calls.may_return_to(pc, frame, memory, code))
    }

    /// The caller of a frame that rests on its frame pointer, which the function that it has called, one without call
    /// frame information, may have saved anywhere between `below` and the frame's own part of the stack.
    fn above_by_saved_frame_pointer(
        &mut self,
        frame: &Frame<'_>,
        below: u64,
        memory: &mut dyn Memory,
        code: Code<'_>,
    ) -> Above {
        let machine = frame.registers.machine();
        let (sp, word) = (frame.registers.sp().unwrap_or(0), u64::from(machine.word()));
        for slot in (below..sp).step_by(word as usize).take(MOST_SAVED) {
            let Some(saved) = memory::word(memory, machine, slot) else { break };
            if saved < sp || saved % word != 0 {
                continue;
            }
            let mut registers = frame.registers.clone();
            registers.set(machine.bp(), saved);
            let above = self.row(code, machine, frame.lookup).map(|row| row.caller(&registers, memory));
            if let Some(Above::Caller(caller)) = above
                && self.is_credible(&caller, frame, memory, code)
            {
                return Above::Caller(caller);
            }
        }
        Above::Unknown
    }
}
