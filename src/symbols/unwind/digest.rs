//! Any bytes as unwind tables, or as a thread's registers, stack and code, for fuzzing.

use gimli::UnwindContext;

use super::cfi::CallFrameInformation;
use super::elf::{self, FrameSections, Section};
use super::functions::Functions;
use super::registers::{Machine, Registers};
use super::{CodeMap, Memory, Unwinder};
use crate::symbols::module::{Contents, Module, Modules};
use crate::units::{Addr, PAGE, Range};

/// Where the stack begins.
const STACK: u64 = 0x7000_0000;

/// Where the code begins.
const CODE: u64 = 0x40_0000;

/// A stack that holds these bytes.
struct Bytes<'a>(&'a [u8]);

impl Memory for Bytes<'_> {
    fn read(&mut self, addr: Addr, buffer: &mut [u8]) -> Option<()> {
        let start = usize::try_from(addr.0.checked_sub(STACK)?).ok()?;
        buffer.copy_from_slice(self.0.get(start..start.checked_add(buffer.len())?)?);
        Some(())
    }
}

/// Reads what a module has for unwinding.
pub fn digest_module(module: &Module) {
    for machine in [Machine::X86_64, Machine::I386] {
        let frames = elf::frame_sections(module, machine);
        rows(frames, (0..64).map(|step| step * 0x40).chain((0..64).map(|step| CODE + step * 0x40)));
        let mut functions = Functions::named(&elf::function_symbols(module, machine));
        functions.search(&elf::code_sections(module, machine));
        for address in (0..64).map(|step| CODE + step * 0x40) {
            let _ = (functions.at(address), functions.jumps(address, CODE));
        }
    }
}

fn rows(frames: FrameSections, addresses: impl Iterator<Item = u64>) {
    let mut information = CallFrameInformation::new(frames);
    let mut context = UnwindContext::new();
    for address in addresses {
        let mut registers = Registers::unknown(Machine::X86_64);
        (0..16).for_each(|number| registers.set(number, STACK + 8 * u64::from(number)));
        if let Some(row) = information.row(address, &mut context) {
            let _ = row.caller(&registers, &mut Bytes(&[7; 256]));
        }
    }
}

/// Unwinds a thread: the first two bytes say where it stands, and how long its stack is; then comes that, then a section
/// `.eh_frame`, which is also its code.
pub fn digest(bytes: &[u8]) {
    let Some(([at, length, machine], rest)) = bytes.split_first_chunk::<3>() else { return };
    let (stack, code) = rest.split_at(rest.len().min(8 * usize::from(*length)));
    let section = |address| Some(Section { address, bytes: code.into() });
    let addresses = || (0..16).map(|step| CODE + 16 * step);
    let eh = FrameSections { word: 8, eh_frame: section(CODE), ..FrameSections::default() };
    rows(eh, addresses());
    let with_table =
        FrameSections { word: 8, eh_frame: section(CODE), eh_frame_hdr: section(CODE), ..FrameSections::default() };
    rows(with_table, addresses());
    rows(FrameSections { word: 4, debug_frame: section(0), ..FrameSections::default() }, addresses());

    let module = Module::new(crate::symbols::module::own(), std::path::Path::new("/fuzz"), Contents::Copy(code.into()));
    let mut modules = Modules::default();
    let Some(module) = modules.add(module) else { return };
    let Some(range) = Range::of_len(Addr(CODE), (code.len() as u64).max(PAGE)) else { return };
    for module in [Some(module), None] {
        let map = CodeMap::of_region(range, module);
        let machine = if machine & 1 == 0 { Machine::X86_64 } else { Machine::I386 };
        let mut registers = Registers::unknown(machine);
        (0..16).for_each(|number| registers.set(number, STACK + 8 * u64::from(number)));
        registers.set_sp(STACK);
        registers.set_pc(CODE + u64::from(*at));
        let mut unwinder = Unwinder::default();
        let found = unwinder.unwind(&registers, &mut Bytes(stack), &map, &modules);
        assert!(found.places.len() <= super::MOST_FRAMES, "stacks are cut");
        let _ = unwinder.started_on(Addr(STACK + 8 * u64::from(*at)), &mut Bytes(stack), &map, &modules);
    }
}
