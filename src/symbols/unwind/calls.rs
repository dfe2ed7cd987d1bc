//! Callers of functions without call frame information, found by their calls.
//!
//! musl has none, nor has code made at run time. What is above such a frame is not guessed: a word of the stack is
//! believed to be its return address only if the instruction before the place that it points to calls this very
//! function, or if the frame pointers say so and it lies behind a call.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use crate::symbols::module::{Contents, Module, ModuleId};
use crate::symbols::places::Place;
use crate::units::Addr;

use super::functions::{Functions, Span};
use super::memory::{self, Memory};
use super::registers::{Machine, Registers};
use super::{Code, Frame, elf};

/// Bytes of `syscall`, `sysenter` and `int $0x80`.
pub const SYSCALL_BYTES: u64 = 2;

/// Words of the stack that are looked at for a return address. musl's largest frames of interest, those of its
/// formatted output, are some kilobytes.
const MOST_WORDS: u64 = 2048;

/// How far up a frame pointer may point: the largest frame.
const LARGEST_FRAME: u64 = 1 << 20;

/// Instructions that are remembered; when there are more, all are forgotten.
const MOST_REMEMBERED: usize = 1 << 16;

/// Functions and bytes of code that are looked through, of all files. A file has less than a hundred thousand functions.
const MOST_WORK: usize = 64 << 20;

/// Words of one stack, of all its frames together, that are looked at as return addresses.
const MOST_VERDICTS: u32 = 1 << 14;

/// The longest call instruction: `call *disp32(base,index,scale)`.
const LONGEST_CALL: usize = 7;

/// The longest stub of a procedure linkage table, up to its jump: `endbr64; bnd jmp *slot(%rip)`.
const LONGEST_STUB: usize = 11;

/// A call instruction, by where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    /// `call rel32`: so far from its end.
    Direct(i32),
    /// `call *slot`: the address in memory, so far from its end (x86-64) or from zero (i386).
    Slot(i32),
    /// To what a register says.
    Indirect,
}

/// Whether a word is this function's return address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The call before it calls this function.
    Is,
    /// It may: the call's target is not known.
    MayBe,
    /// There is no call before it, or one of another function.
    IsNot,
}

/// What is known of the code of the files.
#[derive(Debug, Default)]
pub struct Calls {
    /// The call that ends at an offset of a file.
    calls: HashMap<(ModuleId, u64), Option<Call>>,
    /// The linkage stub at an offset of a file.
    stubs: HashMap<(ModuleId, u64), Option<Stub>>,
    functions: HashMap<ModuleId, Functions>,
    /// Of `MOST_WORK`, what is done.
    work: usize,
    /// Of `MOST_VERDICTS`, what is left.
    verdicts_left: u32,
}

impl Calls {
    /// Another stack is to be looked at.
    pub fn begin(&mut self) {
        self.verdicts_left = MOST_VERDICTS;
    }

    /// The caller of a frame, with those of its registers that are known.
    pub fn caller(&mut self, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> Option<Registers> {
        let linked = self.by_frame_pointer(frame, memory, code);
        if let Some((Verdict::Is, caller)) = linked {
            return Some(caller);
        }
        // A frame that the frame pointers tell of, if they do, ends there.
        let limit = linked.as_ref().and_then(|(_, caller)| caller.sp());
        if let Some(caller) = self.by_scan(frame, limit, memory, code) {
            return Some(caller);
        }
        let (_, caller) = linked?;
        self.keeps_frame_pointer(frame, code).then_some(caller)
    }

    /// Whether `pc` can be where the frame's function returns to: behind a call, and not one of another function.
    pub fn may_return_to(&mut self, pc: Addr, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> bool {
        self.calls_close_by(pc, frame, memory, code) || self.verdict(pc, frame, memory, code) != Verdict::IsNot
    }

    /// Whether the call before `pc` leads to where the frame is, or little before: to the entry of a short function such as
    /// glibc's clone3, for which no symbol stands. That spares the search for it.
    fn calls_close_by(&mut self, pc: Addr, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> bool {
        /// glibc's system calls are made within so many bytes of the entry.
        const CLOSE: u64 = 96;
        let Some(Call::Direct(distance)) = self.call_before(pc, memory, code) else { return false };
        let target = frame.registers.machine().truncate(pc.0.wrapping_add_signed(distance.into()));
        frame.lookup.0.checked_sub(target).is_some_and(|into| into < CLOSE)
    }

    /// What the frame pointer says: the caller's frame pointer lies where it points, the return address above.
    fn by_frame_pointer(
        &mut self,
        frame: &Frame<'_>,
        memory: &mut dyn Memory,
        code: Code<'_>,
    ) -> Option<(Verdict, Registers)> {
        // In a prologue or an epilogue the frame pointer is the caller's.
        if !frame.is_at_call() {
            return None;
        }
        let machine = frame.registers.machine();
        let word = u64::from(machine.word());
        let (sp, bp) = (frame.registers.sp()?, frame.registers.get(machine.bp())?);
        if bp < sp || bp - sp > LARGEST_FRAME || bp % word != 0 {
            return None;
        }
        let [saved, pc] = [0, word].map(|offset| memory::word(memory, machine, bp.wrapping_add(offset)));
        let verdict = self.verdict(Addr(pc?), frame, memory, code);
        if verdict == Verdict::IsNot {
            return None;
        }
        let mut caller = Registers::unknown(machine);
        caller.set(machine.bp(), saved?);
        caller.set_sp(bp.wrapping_add(2 * word));
        caller.set_pc(pc?);
        Some((verdict, caller))
    }

    /// The lowest word of the stack, below `limit`, that is a return address of this function.
    fn by_scan(
        &mut self,
        frame: &Frame<'_>,
        limit: Option<u64>,
        memory: &mut dyn Memory,
        code: Code<'_>,
    ) -> Option<Registers> {
        self.function_at(frame.lookup, frame.registers.machine(), code)?;
        let machine = frame.registers.machine();
        let word = u64::from(machine.word());
        let sp = frame.registers.sp()?.checked_next_multiple_of(word)?;
        for slot in (0..MOST_WORDS).map(|index| sp.wrapping_add(index * word)) {
            if limit.is_some_and(|limit| slot >= limit) {
                return None;
            }
            let pc = memory::word(memory, machine, slot)?;
            let verdict = self.verdict(Addr(pc), frame, memory, code);
            // What may be the return address, but cannot be proven to, may be it indeed: nothing above it counts.
            if verdict == Verdict::MayBe {
                return None;
            }
            if verdict == Verdict::Is {
                let mut caller = Registers::unknown(machine);
                // Whether the function has saved registers and where is not known. Its caller's are believed only if
                // what follows from them is checked, by the unwinder.
                if let Some(bp) = frame.registers.get(machine.bp()) {
                    caller.set_doubtful(machine.bp(), bp);
                }
                caller.set_sp(slot.wrapping_add(word));
                caller.set_pc(pc);
                return Some(caller);
            }
        }
        None
    }

    /// Whether `pc` is a return address of the frame's function.
    fn verdict(&mut self, pc: Addr, frame: &Frame<'_>, memory: &mut dyn Memory, code: Code<'_>) -> Verdict {
        let machine = frame.registers.machine();
        let Some(left) = self.verdicts_left.checked_sub(1) else { return Verdict::IsNot };
        self.verdicts_left = left;
        let Some(call) = self.call_before(pc, memory, code) else { return Verdict::IsNot };
        let target = match call {
            Call::Indirect => None,
            Call::Direct(distance) => Some(machine.truncate(pc.0.wrapping_add_signed(distance.into()))),
            Call::Slot(distance) => {
                slot_address(pc.0, distance, machine).and_then(|slot| memory::word(memory, machine, slot))
            }
        };
        let Some(target) = target else { return Verdict::MayBe };
        let Some(target) = self.behind_stub(Addr(target), machine, memory, code) else { return Verdict::MayBe };
        if code.map.locate(target).is_none() {
            return Verdict::IsNot;
        }
        let Some((module, own)) = self.function_at(frame.lookup, machine, code) else { return Verdict::MayBe };
        match code.linked(target) {
            Some((of, target)) if of == module && self.leads_to(module, target, own, machine, code) => Verdict::Is,
            _ => Verdict::IsNot,
        }
    }

    /// Whether a call of `target` may be in `function`: it is its entry, or jumps there at its end.
    fn leads_to(&mut self, module: ModuleId, target: u64, function: Span, machine: Machine, code: Code<'_>) -> bool {
        function.contains(target) || self.searched(module, machine, code).jumps(target, function.start)
    }

    /// Where a stub of a procedure linkage table leads, or the address itself where there is none. None where a register of
    /// the caller would have to be known.
    fn behind_stub(&mut self, at: Addr, machine: Machine, memory: &mut dyn Memory, code: Code<'_>) -> Option<Addr> {
        let key = match code.map.locate(at) {
            Some(Place::Module { module, offset }) => (module, offset),
            _ => return Some(at),
        };
        if self.stubs.len() >= MOST_REMEMBERED {
            self.stubs.clear();
        }
        let stub = *self.stubs.entry(key).or_insert_with(|| {
            let mut bytes = [0; LONGEST_STUB];
            read_code(at, &mut bytes, memory, code)?;
            stub(&bytes, machine)
        });
        match stub {
            Some(Stub::Relative) => None,
            Some(Stub::Slot { distance, length }) => {
                let slot = at.0.checked_add(length).and_then(|end| slot_address(end, distance, machine));
                Some(slot.and_then(|slot| memory::word(memory, machine, slot)).map_or(at, Addr))
            }
            None => Some(at),
        }
    }

    /// The function that a task runs which was made by glibc's clone(2) with the stack `top`, by what it has left there: its
    /// return address, which replaced its argument, and below that the first address that it is to be returned to itself
    /// (sysdeps/unix/sysv/linux/x86_64/clone.S). Where it has not run yet, the function itself is there.
    pub fn started_on(&mut self, top: Addr, memory: &mut dyn Memory, code: Code<'_>) -> Option<Addr> {
        /// Locals of that function are hardly more words.
        const MOST_WORDS: u64 = 256;
        const WORD: u64 = 8;
        let machine = Machine::X86_64;
        let first = memory::word(memory, machine, top.0)?;
        let above = Addr(memory::word(memory, machine, top.0.checked_add(WORD)?)?);
        if self.call_before(above, memory, code) != Some(Call::Indirect) {
            return code.linked(Addr(first)).map(|_| Addr(first));
        }
        let slots = (0..MOST_WORDS).map_while(|word| top.0.checked_sub(word * WORD));
        for slot in slots {
            let pc = Addr(memory::word(memory, machine, slot)?);
            if self.call_before(pc, memory, code).is_some()
                && let Some((_, linked)) = code.linked(pc)
                && let Some((_, function)) = self.function_at(pc, machine, code)
            {
                return pc.0.checked_sub(linked.checked_sub(function.start)?).map(Addr);
            }
        }
        None
    }

    /// The call that ends right before `pc`.
    fn call_before(&mut self, pc: Addr, memory: &mut dyn Memory, code: Code<'_>) -> Option<Call> {
        let start = Addr(pc.0.checked_sub(LONGEST_CALL as u64)?);
        let read = |memory: &mut dyn Memory| {
            let mut bytes = [0; LONGEST_CALL];
            read_code(start, &mut bytes, memory, code)?;
            call(&bytes)
        };
        match code.map.locate(pc)? {
            Place::Module { module, offset } => {
                if self.calls.len() >= MOST_REMEMBERED {
                    self.calls.clear();
                }
                *self.calls.entry((module, offset)).or_insert_with(|| read(memory))
            }
            Place::Anonymous(_) => read(memory),
        }
    }

    /// The function at an address.
    fn function_at(&mut self, at: Addr, machine: Machine, code: Code<'_>) -> Option<(ModuleId, Span)> {
        let (module, linked) = code.linked(at)?;
        let named = self.named(module, machine, code).named_at(linked);
        Some((module, named.or_else(|| self.searched(module, machine, code).at(linked))?))
    }

    /// The functions of a file, at least those with names.
    fn named(&mut self, module: ModuleId, machine: Machine, code: Code<'_>) -> &mut Functions {
        let Calls { functions, work, .. } = self;
        functions.entry(module).or_insert_with(|| {
            if *work > MOST_WORK {
                return Functions::default();
            }
            let functions = Functions::named(&elf::function_symbols(code.modules.get(module), machine));
            *work += functions.len();
            functions
        })
    }

    /// All functions of a file that can be found.
    fn searched(&mut self, module: ModuleId, machine: Machine, code: Code<'_>) -> &Functions {
        let is_new = !self.named(module, machine, code).is_searched() && self.work <= MOST_WORK;
        if is_new {
            let sections = elf::code_sections(code.modules.get(module), machine);
            let functions = self.named(module, machine, code);
            functions.search(&sections);
            let found = functions.len();
            self.work += found + sections.code.iter().map(|section| section.bytes.len()).sum::<usize>();
        }
        self.named(module, machine, code)
    }

    /// Whether the frame's function sets up a frame pointer, as far as can be seen: code without a file is believed to.
    fn keeps_frame_pointer(&mut self, frame: &Frame<'_>, code: Code<'_>) -> bool {
        /// Within so much of the entry; Go checks the stack's size first.
        const PROLOGUE: u64 = 64;
        let machine = frame.registers.machine();
        match code.map.locate(frame.lookup) {
            Some(Place::Anonymous(_)) => true,
            Some(Place::Module { module, .. }) => {
                let linked = code.linked(frame.lookup).map(|(_, linked)| linked);
                let function = self.function_at(frame.lookup, machine, code).map(|(_, function)| function.start);
                let (Some(linked), Some(start)) = (linked, function) else { return false };
                let module = code.modules.get(module);
                let mut bytes = [0; PROLOGUE as usize];
                let length = linked.saturating_sub(start).min(PROLOGUE) as usize;
                let read = module.file_offset(start);
                let read = read.and_then(|offset| read_file(module, offset, &mut bytes[..length]));
                read.is_some() && sets_frame_pointer(&bytes, machine)
            }
            None => false,
        }
    }
}

/// Whether there is `push %rbp; mov %rsp,%rbp` in it, or what Go before 1.21 has: `mov %rbp,disp(%rsp)` followed by
/// `lea disp(%rsp),%rbp`.
fn sets_frame_pointer(prologue: &[u8], machine: Machine) -> bool {
    let forms: [&[u8]; 2] = match machine {
        Machine::X86_64 => [&[0x55, 0x48, 0x89, 0xe5], &[0x55, 0x48, 0x8b, 0xec]],
        Machine::I386 => [&[0x55, 0x89, 0xe5], &[0x55, 0x8b, 0xec]],
    };
    let pushes = forms.iter().any(|form| prologue.windows(form.len()).any(|bytes| bytes == *form));
    let stores = machine == Machine::X86_64
        && prologue.windows(16).any(|bytes| match *bytes {
            [0x48, 0x89, 0x6c, 0x24, a, 0x48, 0x8d, 0x6c, 0x24, b, ..] => a == b,
            [0x48, 0x89, 0xac, 0x24, a, b, c, d, 0x48, 0x8d, 0xac, 0x24, e, f, g, h] => [a, b, c, d] == [e, f, g, h],
            _ => false,
        });
    pushes || stores
}

/// The address in memory that an instruction ending at `end` speaks of.
fn slot_address(end: u64, distance: i32, machine: Machine) -> Option<u64> {
    Some(match machine {
        Machine::X86_64 => end.checked_add_signed(distance.into())?,
        Machine::I386 => u64::from(distance as u32),
    })
}

/// The call that these bytes end with: Intel's manual, volume 2, CALL.
fn call(bytes: &[u8; LONGEST_CALL]) -> Option<Call> {
    let distance = |bytes: [u8; 4]| i32::from_le_bytes(bytes);
    match *bytes {
        [_, _, 0xe8, a, b, c, d] => return Some(Call::Direct(distance([a, b, c, d]))),
        [_, 0xff, 0x15, a, b, c, d] => return Some(Call::Slot(distance([a, b, c, d]))),
        _ => {}
    }
    // The opcode's extension 2 in the middle of the ModRM byte; a SIB byte where its lower part is 4.
    let is_call = |modrm: u8, mode: u8| modrm >> 6 == mode && modrm >> 3 & 7 == 2;
    let indirect = match *bytes {
        [.., 0xff, modrm] if is_call(modrm, 3) => true,
        [.., 0xff, modrm] if is_call(modrm, 0) => !matches!(modrm & 7, 4 | 5),
        [.., 0xff, modrm, _] if is_call(modrm, 1) => modrm & 7 != 4,
        [.., 0xff, modrm, _] if is_call(modrm, 0) => modrm & 7 == 4,
        [.., 0xff, modrm, _, _] if is_call(modrm, 1) => modrm & 7 == 4,
        [.., 0xff, modrm, _, _, _, _] if is_call(modrm, 2) => modrm & 7 != 4,
        [0xff, modrm, _, _, _, _, _] if is_call(modrm, 2) || is_call(modrm, 0) => modrm & 7 == 4,
        _ => false,
    };
    indirect.then_some(Call::Indirect)
}

/// A stub of a procedure linkage table.
#[derive(Clone, Copy, Debug)]
enum Stub {
    /// `[endbr64] [bnd] jmp *slot`: where the slot is, as the instruction has it, and the stub's length.
    Slot { distance: i32, length: u64 },
    /// `[endbr32] jmp *slot(%ebx)`, of position-independent i386 code.
    Relative,
}

fn stub(bytes: &[u8], machine: Machine) -> Option<Stub> {
    let rest = match bytes {
        [0xf3, 0x0f, 0x1e, 0xfa | 0xfb, rest @ ..] => rest,
        _ => bytes,
    };
    let rest = rest.strip_prefix(&[0xf2]).unwrap_or(rest);
    match rest {
        [0xff, 0x25, a, b, c, d, rest @ ..] => {
            let length = (bytes.len() - rest.len()) as u64;
            Some(Stub::Slot { distance: i32::from_le_bytes([*a, *b, *c, *d]), length })
        }
        [0xff, 0xa3, ..] if machine == Machine::I386 => Some(Stub::Relative),
        _ => None,
    }
}

/// Whether there is an instruction at `at` that enters the kernel.
pub fn is_syscall(at: Addr, memory: &mut dyn Memory, code: Code<'_>) -> bool {
    let mut bytes = [0; SYSCALL_BYTES as usize];
    let read = read_code(at, &mut bytes, memory, code);
    read.is_some() && matches!(bytes, [0x0f, 0x05 | 0x34] | [0xcd, 0x80])
}

/// Whether what a signal handler returns to is at `pc`: `mov $15,%rax; syscall`, musl's `__restore_rt`, of x86-64.
pub fn is_signal_return(pc: Addr, memory: &mut dyn Memory, code: Code<'_>) -> bool {
    let mut bytes = [0; 9];
    let read = read_code(pc, &mut bytes, memory, code);
    read.is_some() && bytes == [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]
}

/// Reads instructions: from the file where there is one.
fn read_code(at: Addr, buffer: &mut [u8], memory: &mut dyn Memory, code: Code<'_>) -> Option<()> {
    match code.map.locate(at)? {
        Place::Module { module, offset } => read_file(code.modules.get(module), offset, buffer),
        Place::Anonymous(at) => memory.read(at, buffer),
    }
}

fn read_file(module: &Module, offset: u64, buffer: &mut [u8]) -> Option<()> {
    match &module.contents {
        Contents::File(file) => file.read_exact_at(buffer, offset).ok(),
        Contents::Copy(bytes) => {
            let start = usize::try_from(offset).ok()?;
            buffer.copy_from_slice(bytes.get(start..start.checked_add(buffer.len())?)?);
            Some(())
        }
        Contents::Unreadable => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::CodeMap;
    use super::*;
    use crate::symbols::elf::tests::{Made, file};
    use crate::symbols::module::{Modules, own};
    use crate::symbols::unwind::Reached;
    use crate::units::Range;

    /// Memory of which each word is the same.
    struct Everywhere {
        word: u64,
        reads: u64,
    }

    impl Memory for Everywhere {
        fn read(&mut self, _: Addr, buffer: &mut [u8]) -> Option<()> {
            self.reads += 1;
            buffer.copy_from_slice(&self.word.to_le_bytes()[..buffer.len()]);
            Some(())
        }
    }

    const START: u64 = 0x40_0000;

    /// A module with a function of 256 bytes at its address 4096, and where it is mapped.
    fn made() -> (Modules, CodeMap, ModuleId) {
        let words = [0x1_0002_u64 << 32, 4096, 256].map(u64::to_le_bytes).concat();
        let symbols = [vec![0; 24], words].concat();
        let bytes = file(&[Made(".symtab", 2, 0, &symbols, None)]);
        let mut modules = Modules::default();
        let module = Module::new(own(), Path::new("/made-up"), Contents::Copy(bytes.into()));
        let id = modules.add(module).unwrap();
        let map = CodeMap::of_region(Range::new(Addr(START), Addr(START + 0x2000)).unwrap(), Some(id));
        (modules, map, id)
    }

    const HERE: Addr = Addr(START + 4096 + 16);

    fn frame(registers: &Registers) -> Frame<'_> {
        Frame { registers, lookup: HERE, reached: Reached::Returning }
    }

    fn registers() -> Registers {
        let mut registers = Registers::unknown(Machine::X86_64);
        registers.set_sp(0x8000);
        registers.set_pc(HERE.0);
        registers
    }

    /// When enough has been looked through, functions of further files are not known, named or not.
    #[test]
    fn the_work_is_bounded() {
        let (modules, map, module) = made();
        let code = Code { map: &map, modules: &modules };
        for (work, known) in [(0, true), (MOST_WORK, true), (MOST_WORK + 1, false)] {
            let mut calls = Calls { work, ..Calls::default() };
            assert_eq!(calls.function_at(HERE, Machine::X86_64, code).is_some(), known, "{work}");
            calls.searched(module, Machine::X86_64, code);
            assert_eq!(calls.functions[&module].is_searched(), work == 0);
        }
    }

    /// A stack without a return address is looked through up to a number of words; so are all frames of one together.
    #[test]
    fn words_are_bounded() {
        let (modules, map, _) = made();
        let code = Code { map: &map, modules: &modules };
        let registers = registers();
        let mut memory = Everywhere { word: 0, reads: 0 };
        let mut calls = Calls::default();
        calls.begin();
        let mut scan = |calls: &mut Calls| calls.by_scan(&frame(&registers), None, &mut memory, code).is_some();
        assert!(!scan(&mut calls));
        assert_eq!(calls.verdicts_left, MOST_VERDICTS - MOST_WORDS as u32);
        calls.verdicts_left = 7;
        assert!(!scan(&mut calls));
        assert_eq!(calls.verdicts_left, 0);
        assert_eq!(memory.reads, 2 * MOST_WORDS);
    }

    /// A frame pointer that leads too far up is none.
    #[test]
    fn frames_are_bounded() {
        let (code_at, up) = (START + 0x1000, |distance| 0x8000 + distance);
        let map = CodeMap::of_region(Range::new(Addr(START), Addr(START + 0x2000)).unwrap(), None);
        let modules = Modules::default();
        let code = Code { map: &map, modules: &modules };
        // Behind what may be a call, all words lead to the code.
        let mut caller = |bp| {
            let mut registers = registers();
            registers.set(Machine::X86_64.bp(), bp);
            let mut memory = Everywhere { word: code_at, reads: 0 };
            let mut calls = Calls::default();
            calls.begin();
            _ = calls.by_frame_pointer(&frame(&registers), &mut memory, code);
            memory.reads > 0
        };
        let found = [up(0), up(LARGEST_FRAME), up(LARGEST_FRAME + 8), up(1), 0x7ff8].map(&mut caller);
        assert_eq!(found, [true, true, false, false, false]);
    }

    /// What is remembered of instructions is forgotten when it is too much, and found again.
    #[test]
    fn what_is_remembered_is_bounded() {
        let (modules, map, module) = made();
        let code = Code { map: &map, modules: &modules };
        let mut calls = Calls::default();
        calls.calls.extend((0..MOST_REMEMBERED as u64).map(|offset| ((module, offset + 0x10_0000), None)));
        calls.stubs.extend((0..MOST_REMEMBERED as u64).map(|offset| ((module, offset + 0x10_0000), None)));
        let mut memory = Everywhere { word: 0, reads: 0 };
        assert_eq!(calls.call_before(HERE, &mut memory, code), None);
        assert_eq!(calls.behind_stub(HERE, Machine::X86_64, &mut memory, code), Some(HERE));
        assert_eq!((calls.calls.len(), calls.stubs.len()), (1, 1));
    }
}
