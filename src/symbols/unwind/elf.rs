//! The parts of an ELF file that unwinding needs: elf(5). Files are hostile: sizes are bounded before anything is read,
//! and nothing is mapped, since a file that is truncated later would cost us a SIGBUS.

use std::cell::Cell;

use object::elf::{FileHeader32, FileHeader64, SHF_COMPRESSED, SHF_EXECINSTR, SHT_DYNSYM, SHT_SYMTAB};
use object::elf::{STT_FUNC, STT_GNU_IFUNC, SectionType};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use object::{Endianness, ReadCache, ReadRef};

use crate::symbols::elf::Bounded;
use crate::symbols::module::{Contents, Module};

use super::registers::Machine;

/// Linked files have some forty sections.
const MOST_SECTIONS: u32 = 4096;

/// A larger section is not read. The call frame information of the largest browsers has some 30 MB.
const LARGEST_SECTION: u64 = 64 << 20;

/// More code is not looked through for calls: that would take a second. A program as large has symbols, or call frame
/// information; musl has half a megabyte.
const LARGEST_CODE: u64 = 8 << 20;

/// Of one file, everything together. What lies in several sections counts as often.
const MOST_READ: u64 = 256 << 20;

/// A piece of a file, and the address for which it was linked.
#[derive(Debug)]
pub struct Section {
    /// Where it starts in memory, before relocation.
    pub address: u64,
    /// What is in it.
    pub bytes: Box<[u8]>,
}

/// The call frame information of a file.
#[derive(Debug, Default)]
pub struct FrameSections {
    /// Bytes in a pointer: 4 or 8.
    pub word: u8,
    /// `.eh_frame`
    pub eh_frame: Option<Section>,
    /// `.eh_frame_hdr`, with a sorted table of what is in `.eh_frame`.
    pub eh_frame_hdr: Option<Section>,
    /// `.debug_frame`
    pub debug_frame: Option<Section>,
}

impl FrameSections {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let sections = [&self.eh_frame, &self.eh_frame_hdr, &self.debug_frame];
        sections.into_iter().flatten().map(|section| section.bytes.len() as u64).sum()
    }
}

/// The code of a file, and where its functions are.
#[derive(Debug, Default)]
pub struct CodeSections {
    /// Executable sections; none where they are too large.
    pub code: Vec<Section>,
    /// Address and size of each function that a symbol names.
    pub functions: Vec<(u64, u64)>,
}

/// The call frame information of a module; none of it where the file cannot be read, or is for another machine.
pub fn frame_sections(module: &Module, machine: Machine) -> FrameSections {
    match &module.contents {
        Contents::File(file) => frames_of(&ReadCache::new(file), machine),
        Contents::Copy(bytes) => frames_of(&**bytes, machine),
        Contents::Unreadable => None,
    }
    .unwrap_or_default()
}

/// Address and size of each function that a symbol of the module names.
pub fn function_symbols(module: &Module, machine: Machine) -> Vec<(u64, u64)> {
    match &module.contents {
        Contents::File(file) => symbols_of(&ReadCache::new(file), machine),
        Contents::Copy(bytes) => symbols_of(&**bytes, machine),
        Contents::Unreadable => None,
    }
    .unwrap_or_default()
}

/// The code of a module; none of it where the file cannot be read, or is for another machine.
pub fn code_sections(module: &Module, machine: Machine) -> CodeSections {
    match &module.contents {
        Contents::File(file) => code_of(&ReadCache::new(file), machine),
        Contents::Copy(bytes) => code_of(&**bytes, machine),
        Contents::Unreadable => None,
    }
    .unwrap_or_default()
}

fn frames_of<'data>(data: impl ReadRef<'data>, machine: Machine) -> Option<FrameSections> {
    let left = Cell::new(MOST_READ);
    let data = Bounded::new(data, &left);
    match machine {
        Machine::X86_64 => Elf::<FileHeader64<Endianness>, _>::parse(data)?.frames(machine),
        Machine::I386 => Elf::<FileHeader32<Endianness>, _>::parse(data)?.frames(machine),
    }
}

fn symbols_of<'data>(data: impl ReadRef<'data>, machine: Machine) -> Option<Vec<(u64, u64)>> {
    let left = Cell::new(MOST_READ);
    let data = Bounded::new(data, &left);
    match machine {
        Machine::X86_64 => Some(Elf::<FileHeader64<Endianness>, _>::parse(data)?.function_symbols()),
        Machine::I386 => Some(Elf::<FileHeader32<Endianness>, _>::parse(data)?.function_symbols()),
    }
}

fn code_of<'data>(data: impl ReadRef<'data>, machine: Machine) -> Option<CodeSections> {
    let left = Cell::new(MOST_READ);
    let data = Bounded::new(data, &left);
    match machine {
        Machine::X86_64 => Some(Elf::<FileHeader64<Endianness>, _>::parse(data)?.code()),
        Machine::I386 => Some(Elf::<FileHeader32<Endianness>, _>::parse(data)?.code()),
    }
}

/// A file with its table of sections.
struct Elf<'data, Header: FileHeader, Data: ReadRef<'data>> {
    data: Data,
    endian: Header::Endian,
    sections: SectionTable<'data, Header, Data>,
}

impl<'data, Header: FileHeader<Endian = Endianness>, Data: ReadRef<'data>> Elf<'data, Header, Data> {
    fn parse(data: Data) -> Option<Self> {
        let header = Header::parse(data).ok()?;
        let endian = header.endian().ok().filter(|endian| *endian == Endianness::Little)?;
        if header.shnum(endian, data).ok()? > MOST_SECTIONS {
            return None;
        }
        Some(Elf { data, endian, sections: header.sections(endian, data).ok()? })
    }

    fn frames(&self, machine: Machine) -> Option<FrameSections> {
        let named = |name: &[u8]| {
            let section = self.sections.section_by_name(self.endian, name)?.1;
            self.read(section)
        };
        let eh_frame = named(b".eh_frame");
        Some(FrameSections {
            word: machine.word(),
            eh_frame_hdr: eh_frame.as_ref().and_then(|_| named(b".eh_frame_hdr")),
            eh_frame,
            debug_frame: named(b".debug_frame"),
        })
    }

    fn code(&self) -> CodeSections {
        let executable = || {
            let sections = self.sections.iter();
            sections.filter(|section| section.sh_flags(self.endian).contains(SHF_EXECINSTR))
        };
        let sizes = executable().filter_map(|section| section.file_range(self.endian));
        let bytes = sizes.fold(0, |sum: u64, (_, size)| sum.saturating_add(size));
        let code = match bytes <= LARGEST_CODE {
            true => executable().filter_map(|section| self.read(section)).collect(),
            false => Vec::new(),
        };
        CodeSections { code, functions: self.function_symbols() }
    }

    fn function_symbols(&self) -> Vec<(u64, u64)> {
        [SHT_DYNSYM, SHT_SYMTAB].into_iter().flat_map(|kind| self.functions(kind)).collect()
    }

    fn read(&self, section: &Header::SectionHeader) -> Option<Section> {
        let (_, size) = section.file_range(self.endian)?;
        if size > LARGEST_SECTION || section.sh_flags(self.endian).contains(SHF_COMPRESSED) {
            return None;
        }
        let bytes = section.data(self.endian, self.data).ok()?;
        Some(Section { address: section.sh_addr(self.endian).into(), bytes: bytes.into() })
    }

    fn functions(&self, kind: SectionType) -> Vec<(u64, u64)> {
        let table = self.sections.iter().find(|section| section.sh_type(self.endian) == kind);
        if table.is_none_or(|table| table.sh_size(self.endian).into() > LARGEST_SECTION) {
            return Vec::new();
        }
        let Ok(symbols) = self.sections.symbols(self.endian, self.data, kind) else { return Vec::new() };
        let functions = symbols
            .iter()
            .filter(|symbol| matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC) && !symbol.is_undefined(self.endian));
        functions.map(|symbol| (symbol.st_value(self.endian).into(), symbol.st_size(self.endian).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use object::elf::SHT_PROGBITS;

    use super::super::super::elf::tests::{Made, file};
    use super::super::super::module::own;
    use super::*;

    const EXECUTABLE: u64 = SHF_EXECINSTR.0;

    /// A module of these sections. What they claim beyond what they have is there, without contents.
    fn module(sections: &[Made<'_>]) -> Module {
        let made = tempfile::tempfile().unwrap();
        made.write_all_at(&file(sections), 0).unwrap();
        let claimed = sections.iter().filter_map(|one| one.4).sum::<u64>();
        made.set_len(made.metadata().unwrap().len() + claimed).unwrap();
        Module::new(own(), Path::new("/made-up"), Contents::File(made))
    }

    /// Of a section that is too large nothing is read, and all of one that is not.
    #[test]
    fn sections_are_bounded() {
        let frames = |claimed| {
            let sections =
                [Made(".eh_frame", SHT_PROGBITS.0, 0, b"", Some(claimed)), Made(".debug_frame", 1, 0, b"abc", None)];
            let frames = frame_sections(&module(&sections), Machine::X86_64);
            (frames.eh_frame.map(|section| section.bytes.len()), frames.debug_frame.map(|section| section.bytes.len()))
        };
        assert_eq!(frames(1 << 20), (Some(1 << 20), Some(3)));
        assert_eq!(frames(LARGEST_SECTION + 1), (None, Some(3)));
    }

    /// A file with too many sections has none.
    #[test]
    fn the_number_of_sections_is_bounded() {
        for (others, found) in [(10, true), (MOST_SECTIONS as usize, false)] {
            let made = repeat_with(|| Made("", 1, 0, b"", None)).take(others);
            let sections: Vec<Made<'_>> = made.chain([Made(".eh_frame", 1, 0, b"abc", None)]).collect();
            assert_eq!(frame_sections(&module(&sections), Machine::X86_64).eh_frame.is_some(), found, "{others}");
        }
    }

    /// More code than is looked through, in one section or in several, is not; the names of functions are there all the same.
    #[test]
    fn code_is_bounded() {
        let function = [&[0; 4][..], &[2, 0, 1, 0], &7_u64.to_le_bytes(), &9_u64.to_le_bytes()].concat();
        let symbols = [vec![0; 24], function].concat();
        for (parts, kept) in
            [([100, 200], vec![100, 200]), ([LARGEST_CODE, 1], vec![]), ([1, LARGEST_CODE + 1], vec![])]
        {
            let [one, other] = parts.map(|bytes| Made(".text", 1, EXECUTABLE, b"", Some(bytes)));
            let code = code_sections(&module(&[one, other, Made(".symtab", 2, 0, &symbols, None)]), Machine::X86_64);
            assert_eq!(code.code.iter().map(|section| section.bytes.len()).collect::<Vec<_>>(), kept);
            assert_eq!(code.functions, [(7, 9)]);
        }
    }

    /// What all sections together may cost is no more than that, however often they are the same bytes.
    #[test]
    fn a_file_is_bounded() {
        let left = Cell::new(2000);
        let bytes = file(&[Made(".eh_frame", 1, 0, &[0; 1000], None), Made(".debug_frame", 1, 0, &[0; 1000], None)]);
        let data = Bounded::new(&*bytes, &left);
        let frames = Elf::<FileHeader64<Endianness>, _>::parse(data).unwrap().frames(Machine::X86_64).unwrap();
        assert_eq!((frames.bytes(), left.get() < 1000), (1000, true));
    }
}
