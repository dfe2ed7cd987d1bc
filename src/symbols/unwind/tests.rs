//! Made-up files, stacks and rows: the hostile, and the shapes that compilers do not make.

use gimli::{BaseAddresses, EhFrame, EndianSlice, LittleEndian, UnwindContext, UnwindSection};

use super::cfi::CallFrameInformation;
use super::elf::{CodeSections, FrameSections, Section};
use super::functions::{Functions, Span};
use super::memory::Memory;
use super::row::Above;
use super::*;
use crate::units::Range;

/// Memory of words from an address on; all that was asked for is counted.
struct Words {
    start: u64,
    words: Vec<u64>,
    reads: usize,
}

impl Words {
    fn new(start: u64, words: &[u64]) -> Words {
        Words { start, words: words.into(), reads: 0 }
    }
}

impl Memory for Words {
    fn read(&mut self, addr: Addr, buffer: &mut [u8]) -> Option<()> {
        self.reads += 1;
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let offset = usize::try_from(addr.0.checked_sub(self.start)?).ok()?;
        buffer.copy_from_slice(bytes.get(offset..offset.checked_add(buffer.len())?)?);
        Some(())
    }
}

/// A section `.eh_frame` at address 0 with one function of 0x100 bytes at 0x1000, and these instructions.
pub fn eh_frame(augmentation: &[u8], instructions: &[u8]) -> Vec<u8> {
    // Version 1; code alignment 1, data alignment -8, return address in column 16; pointers are absolute.
    let header = [&[0, 0, 0, 0, 1], augmentation, &[0, 1, 0x78, 16, 1, 0x00]].concat();
    let mut bytes = with_length(&header);
    let back = bytes.len() as u32 + 4;
    let entry = [&back.to_le_bytes()[..], &0x1000u64.to_le_bytes(), &0x100u64.to_le_bytes(), &[0], instructions];
    bytes.extend(with_length(&entry.concat()));
    bytes.extend([0; 4]);
    bytes
}

pub fn with_length(entry: &[u8]) -> Vec<u8> {
    let padded = entry.len().next_multiple_of(4);
    let mut bytes = (padded as u32).to_le_bytes().to_vec();
    bytes.extend(entry);
    bytes.resize(padded + 4, 0);
    bytes
}

fn information(eh_frame: Vec<u8>) -> CallFrameInformation {
    let eh_frame = Some(Section { address: 0, bytes: eh_frame.into() });
    CallFrameInformation::new(FrameSections { word: 8, eh_frame, ..FrameSections::default() })
}

fn frame(sp: u64) -> Registers {
    let mut registers = Registers::unknown(Machine::X86_64);
    registers.set_sp(sp);
    registers.set_pc(0x1010);
    registers
}

/// What the instructions make of a frame with the stack pointer 0x8000.
fn above(augmentation: &[u8], instructions: &[u8], memory: &mut Words) -> Option<Above> {
    let row = information(eh_frame(augmentation, instructions)).row(0x1010, &mut UnwindContext::new())?;
    Some(row.caller(&frame(0x8000), memory))
}

/// The usual row: DW_CFA_def_cfa rsp+16, the return address right below.
pub const USUAL: [u8; 5] = [0x0c, 7, 16, 0x80 | 16, 1];

/// The stack pointer is where it was before the call, and what functions do not preserve is not known.
#[test]
fn usual_row() {
    let mut memory = Words::new(0x8000, &[1, 0x4242]);
    let Some(Above::Caller(caller)) = above(b"zR", &USUAL, &mut memory) else { panic!("no caller") };
    assert_eq!((caller.sp(), caller.pc(), caller.get(0)), (Some(0x8010), Some(Addr(0x4242)), None));
}

/// An undefined return address is the end of the stack, and one that cannot be read is not.
#[test]
fn outermost_and_unreadable() {
    assert_eq!(above(b"zR", &[0x0c, 7, 16, 0x07, 16], &mut Words::new(0, &[])), Some(Above::Nothing));
    assert_eq!(above(b"zR", &USUAL, &mut Words::new(0, &[])), Some(Above::Unknown));
}

/// An expression that loops for ever is given up: DW_CFA_def_cfa_expression with DW_OP_skip to itself.
#[test]
fn endless_expression() {
    let instructions = [0x0f, 3, 0x2f, 0xfd, 0xff, 0x80 | 16, 1];
    assert_eq!(above(b"zR", &instructions, &mut Words::new(0x8000, &[1, 2])), Some(Above::Unknown));
}

/// An expression that reads memory without end reads it a bounded number of times.
#[test]
fn endless_reads() {
    // DW_OP_breg7 0, DW_OP_deref, and back to the latter.
    let instructions = [0x0f, 6, 0x77, 0, 0x06, 0x2f, 0xfc, 0xff, 0x80 | 16, 1];
    let mut memory = Words::new(0x8000, &[0x8000]);
    assert_eq!(above(b"zR", &instructions, &mut memory), Some(Above::Unknown));
    assert!(memory.reads <= 1000, "{}", memory.reads);
}

/// Expressions are kept up to a length, and no rules for registers that a frame has not: rows of one file may be many.
#[test]
fn rows_are_small() {
    let row = |instructions: &[u8]| {
        information(eh_frame(b"zR", &[&USUAL[..], instructions].concat())).row(0x1010, &mut UnwindContext::new())
    };
    // DW_CFA_val_expression with so many DW_OP_nop.
    let rule = |register: u8, length: usize| {
        let bytes = [0x80 | (length & 0x7f) as u8, (length >> 7) as u8];
        [&[0x16, register][..], &bytes, &vec![0x96; length]].concat()
    };
    let usual = row(&[]).unwrap().bytes();
    let of_longest = row(&rule(3, 512)).unwrap().bytes();
    assert!((usual + 512..usual + 600).contains(&of_longest), "{of_longest}");
    assert!(row(&rule(3, 513)).is_none());
    let foreign: Vec<u8> = (17..100).flat_map(|register| rule(register, 512)).collect();
    assert_eq!(row(&foreign).unwrap().bytes(), usual);
}

/// Any cut-off or changed section gives a row or none, and never a panic.
#[test]
fn damaged_sections() {
    let whole = eh_frame(b"zRS", &[&USUAL[..], &[0x0f, 3, 0x77, 8, 0x06, 0x16, 16, 2, 0x77, 0]].concat());
    let mut context = UnwindContext::new();
    for length in 0..whole.len() {
        let _ = information(whole[..length].to_vec()).row(0x1010, &mut context);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Some(row) = information(bytes).row(0x1010, &mut context) {
                let _ = row.caller(&frame(0x8000), &mut Words::new(0x8000, &[1, 2, 3, 4]));
            }
        }
    }
}

/// A table of `.eh_frame_hdr` that lies about its length or about where entries are yields no row, or the right one.
#[test]
fn damaged_tables() {
    let table = |count: u32, start: i32, entry: i32| {
        let header = [1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0];
        [&header[..], &count.to_le_bytes(), &start.to_le_bytes(), &entry.to_le_bytes()].concat()
    };
    let bytes = eh_frame(b"zR", &USUAL);
    let entry = 4 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as i32;
    let is_found = |table: Vec<u8>| {
        let section = |bytes: Vec<u8>| Some(Section { address: 0, bytes: bytes.into() });
        let (eh_frame, eh_frame_hdr) = (section(bytes.clone()), section(table));
        let sections = FrameSections { word: 8, eh_frame, eh_frame_hdr, debug_frame: None };
        CallFrameInformation::new(sections).row(0x1010, &mut UnwindContext::new()).is_some()
    };
    assert!(is_found(table(1, 0x1000, entry)));
    // The entries themselves are read where there is no table that can be.
    assert!(is_found(table(u32::MAX, 0x1000, entry)));
    assert!(is_found(table(0, 0x1000, entry)));
    for wrong in [-1, 0, 1, entry + 1, i32::MAX, i32::MIN] {
        assert!(!is_found(table(1, 0x1000, wrong)));
    }
    assert!(!is_found(table(1, 0x1011, entry)));
}

/// The made-up section is one that gimli reads as meant.
#[test]
fn made_up_section_is_valid() {
    let bytes = eh_frame(b"zR", &USUAL);
    let frames = EhFrame::from(EndianSlice::new(&bytes, LittleEndian));
    let found = frames.fde_for_address(&BaseAddresses::default(), 0x1010, EhFrame::cie_from_offset);
    assert_eq!(found.unwrap().len(), 0x100);
}

/// Code that a program has made has no rows: where frame pointers lead nowhere that a call returns to, nothing is made
/// up, also where they lead in a circle.
#[test]
fn made_up_frame_pointers() {
    let code = Range::new(Addr(0x10_0000), Addr(0x10_1000)).unwrap();
    let map = CodeMap::of_region(code, None);
    let mut registers = Registers::unknown(Machine::X86_64);
    registers.set_sp(0x8000);
    registers.set(Machine::X86_64.bp(), 0x8000);
    registers.set_pc(0x10_0010);
    let mut memory = Words::new(0x8000, &[0x8000, 0x10_0010, 0x8000, 0x10_0010]);
    let stack = Unwinder::default().unwind(&registers, &mut memory, &map, &Modules::default());
    assert_eq!(stack, Stack { places: vec![Place::Anonymous(Addr(0x10_000f))], end: End::Lost });
}

/// A program counter outside of all code is said to be so.
#[test]
fn no_code() {
    let stack =
        Unwinder::default().unwind(&frame(0x8000), &mut Words::new(0, &[]), &CodeMap::default(), &Modules::default());
    assert_eq!(stack, Stack { places: Vec::new(), end: End::NoCode(Addr(0x1010)) });
}

/// A function without a name is known where something calls it, and a jump out of a function leads to another one.
#[test]
fn functions_by_their_calls() {
    let mut bytes = vec![0x90; 0x100];
    // At 0x1000 a call of 0x1040; there a jump to 0x1080, outside of the function.
    bytes[..5].copy_from_slice(&[0xe8, 0x3b, 0, 0, 0]);
    bytes[5..10].copy_from_slice(&[0xe8, 0x76, 0, 0, 0]);
    bytes[0x40..0x45].copy_from_slice(&[0xe9, 0x3b, 0, 0, 0]);
    let code = vec![Section { address: 0x1000, bytes: bytes.into() }];
    let sections = CodeSections { code, functions: vec![(0x1000, 0x20)] };
    let mut functions = Functions::named(&sections.functions);
    assert_eq!((functions.at(0x1008), functions.at(0x1044)), (Some(Span { start: 0x1000, end: 0x1020 }), None));
    functions.search(&sections);
    assert_eq!(functions.at(0x1008), Some(Span { start: 0x1000, end: 0x1020 }));
    assert_eq!(functions.at(0x1044), Some(Span { start: 0x1040, end: 0x1080 }));
    assert_eq!(functions.at(0x1030), None);
    assert!(functions.jumps(0x1040, 0x1080) && !functions.jumps(0x1000, 0x1080));
}

/// Code without a file at this address, with a call of what %rax says every 16 bytes, and a stack.
const CODE: u64 = 0x10_0000;

/// The registers and the stack of a thread in that code, whose frames link to each other, as many as `frames`.
fn linked_frames(frames: u64) -> (Registers, Words, CodeMap) {
    let map = CodeMap::of_region(Range::new(Addr(CODE), Addr(CODE + 0x1000)).unwrap(), None);
    let stack = CODE + 0x1000;
    let code = std::iter::repeat_n([0, u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0xff, 0xd0])], 256).flatten();
    let link = |number| [stack + 16 * (number + 1), CODE + 16 * (number % 200 + 2)];
    let words: Vec<u64> = code.chain((0..frames).flat_map(link)).chain([0, 0]).collect();
    let mut registers = Registers::unknown(Machine::X86_64);
    registers.set_sp(stack - 8);
    registers.set(Machine::X86_64.bp(), stack);
    registers.set_pc(CODE + 16);
    (registers, Words::new(CODE, &words), map)
}

/// Of a stack that is too deep the innermost frames are told, and that there are more.
#[test]
fn frames_are_bounded() {
    for (frames, kept, too_deep) in [(20, 21, false), (MOST_FRAMES as u64 + 20, MOST_FRAMES, true)] {
        let (registers, mut memory, map) = linked_frames(frames);
        // The innermost frame is at a call, too: of the kernel.
        memory.words[1] = u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0x0f, 0x05]);
        let stack = Unwinder::default().unwind(&registers, &mut memory, &map, &Modules::default());
        assert_eq!((stack.places.len(), stack.end == End::TooDeep), (kept, too_deep), "{:?}", stack.end);
        assert_eq!(stack.places[5], Place::Anonymous(Addr(CODE + 16 * 6 - 1)));
    }
}

/// When enough call frame information is held, that of further files is as if it were not there.
#[test]
fn what_is_held_is_bounded() {
    use crate::symbols::elf::tests::{Made, file};
    use crate::symbols::module::{Contents, Module, own};
    let section = eh_frame(b"zR", &USUAL);
    let bytes = file(&[Made(".eh_frame", 1, 0, &section, None)]);
    let mut modules = Modules::default();
    let module = Module::new(own(), std::path::Path::new("/made-up"), Contents::Copy(bytes.into()));
    let id = modules.add(module).unwrap();
    let map = CodeMap::of_region(Range::new(Addr(CODE), Addr(CODE + 0x2000)).unwrap(), Some(id));
    let code = Code { map: &map, modules: &modules };
    for (held, known) in [(0, true), (MOST_BYTES - section.len() as u64, true), (MOST_BYTES, false)] {
        let mut unwinder = Unwinder { held, ..Unwinder::default() };
        assert_eq!(unwinder.row(code, Machine::X86_64, Addr(CODE + 0x1010)).is_some(), known, "{held}");
        assert_eq!(unwinder.held, held + section.len() as u64);
    }
}

/// A frame that is said to be huge is not searched whole for the frame pointer.
#[test]
fn the_search_for_a_saved_frame_pointer_is_bounded() {
    let below = 0x1000;
    let mut memory = Words::new(below, &[0; 1000]);
    let registers = frame(below + 8 * 1000);
    let frame = Frame { registers: &registers, lookup: Addr(0x1010), reached: Reached::Returning };
    let (map, modules) = (CodeMap::default(), Modules::default());
    let code = Code { map: &map, modules: &modules };
    let above = Unwinder::default().above_by_saved_frame_pointer(&frame, below, &mut memory, code);
    assert!(matches!(above, Above::Unknown));
    assert_eq!(memory.reads, MOST_SAVED);
}
