//! Symbols of a file that a process has mapped.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Read;

use object::elf::{FileHeader32, FileHeader64, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, FileKind, ReadCache, ReadRef};

use super::Unavailable;
use crate::event::{Prot, Sharing, Vma};
use crate::procfs::mapped_file;
use crate::symbols::elf::Bounded;
use crate::units::{Addr, PAGE, Range, Tid};

/// Files up to this size, in bytes, are read whole: that is faster than one name after the other. Of programs with debug
/// information, which are larger, most is never read.
const WHOLE: u64 = 16 << 20;

/// Of one file, all tables together. A program whose symbols are more has no lists, as if it were stripped.
const MOST_READ: u64 = 256 << 20;

/// No name that is wanted is as long.
const LONGEST_NAME: usize = 64;

/// A mapped ELF file: addresses of some of its symbols in the process.
#[derive(Clone, Debug)]
pub struct MappedSymbols {
    /// Path as in the maps.
    pub file: String,
    /// Bytes in a pointer.
    pub word: usize,
    addresses: HashMap<&'static str, Addr>,
}

impl MappedSymbols {
    /// Reads the file behind `vma`, the first mapping of it, and looks up those of `wanted` that it defines.
    ///
    /// # Errors
    /// When the file cannot be read, or is no ELF file.
    pub fn read(tid: Tid, vma: &Vma, wanted: &[&'static str]) -> Result<MappedSymbols, Unavailable> {
        let path = String::from_utf8_lossy(&vma.name).into_owned();
        let unreadable = || Unavailable::NoFile { file: path.clone() };
        let file = mapped_file::open(tid, vma).ok_or_else(unreadable)?;
        let mut bytes = Vec::new();
        if file.metadata().is_ok_and(|of| of.len() <= WHOLE) {
            file.take(WHOLE).read_to_end(&mut bytes).map_err(|_| unreadable())?;
            MappedSymbols::of(&*bytes, path.clone(), vma, wanted).ok_or_else(unreadable)
        } else {
            MappedSymbols::of(&ReadCache::new(file), path.clone(), vma, wanted).ok_or_else(unreadable)
        }
    }

    fn of<'data>(data: impl ReadRef<'data>, file: String, vma: &Vma, wanted: &[&'static str]) -> Option<MappedSymbols> {
        let left = Cell::new(MOST_READ);
        let data = Bounded::new(data, &left);
        let (word, Found { lowest, symbols }) = match FileKind::parse(data).ok()? {
            FileKind::Elf64 => (8, Found::of::<FileHeader64<Endianness>, _>(data, wanted)?),
            FileKind::Elf32 => (4, Found::of::<FileHeader32<Endianness>, _>(data, wanted)?),
            _ => return None,
        };
        let bias = vma.range.start().0.wrapping_sub(lowest / PAGE * PAGE);
        let addresses = symbols.into_iter().map(|(name, address)| (name, Addr(bias.wrapping_add(address)))).collect();
        Some(MappedSymbols { file, word, addresses })
    }

    /// Any bytes as the file, for fuzzing.
    pub fn digest(bytes: &[u8]) {
        let _ = MappedSymbols::of(bytes, String::new(), &any_mapping(), &["main", "_rtld_global"]);
    }

    /// Where a symbol is.
    ///
    /// # Errors
    /// When the file does not define it.
    pub fn address(&self, symbol: &'static str) -> Result<Addr, Unavailable> {
        let address = self.addresses.get(symbol).copied();
        address.ok_or_else(|| Unavailable::NoSymbol { file: self.file.clone(), symbol: symbol.into() })
    }
}

/// A mapping of a file's first page.
fn any_mapping() -> Vma {
    Vma {
        range: Range::of_len(Addr(PAGE), PAGE).expect("a page is a range"),
        prot: Prot::READ,
        sharing: Sharing::Private,
        offset: 0,
        inode: 1,
        device: 1,
        name: Box::default(),
    }
}

/// What is found in a file, at linked addresses.
struct Found {
    /// Where the lowest segment is to be.
    lowest: u64,
    symbols: HashMap<&'static str, u64>,
}

impl Found {
    fn of<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
        data: R,
        wanted: &[&'static str],
    ) -> Option<Found> {
        let header = Elf::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let loaded = header.program_headers(endian, data).ok()?.iter().filter(|one| one.p_type(endian) == PT_LOAD);
        let lowest = loaded.map(|one| one.p_vaddr(endian).into()).min().unwrap_or(0);
        let sections = header.sections(endian, data).ok()?;
        let mut symbols = HashMap::new();
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let Ok(table) = sections.symbols(endian, data, kind) else { continue };
            // All names in one go: one by one, those without an end would be looked through again and again.
            let names = sections.section(table.string_section()).and_then(|names| names.data(endian, data));
            let Ok(names) = names else { continue };
            for symbol in table.iter().filter(|symbol| !symbol.is_undefined(endian)) {
                let start = symbol.st_name(endian) as usize;
                let end = start.saturating_add(LONGEST_NAME).min(names.len());
                let name = names.get(start..end).unwrap_or_default();
                // A versioned name of .symtab has its version behind it.
                let name = name.split(|byte| matches!(byte, 0 | b'@')).next().unwrap_or_default();
                if let Some(wanted) = wanted.iter().find(|wanted| wanted.as_bytes() == name) {
                    symbols.insert(*wanted, symbol.st_value(endian).into());
                }
            }
        }
        Some(Found { lowest, symbols })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::elf::tests::{Made, file};

    /// A file whose symbols and their names are more than is read has none.
    #[test]
    fn tables_are_bounded() {
        // The null symbol, and one whose name begins at byte 1.
        let symbol = [&[1, 0, 0, 0, 0, 0, 1, 0][..], &0x1234_u64.to_le_bytes(), &[0; 8]].concat();
        let symbols = [vec![0; 24], symbol].concat();
        for (claimed, found) in [(MOST_READ / 2, true), (MOST_READ, false)] {
            let tables = [Made(".symtab", 2, 0, &symbols, None), Made(".strtab", 3, 0, b"\0main\0", Some(claimed))];
            let mut head = file(&tables);
            // The symbols' names are those of section 2.
            head[64 * 2 + 40] = 2;
            // What is never looked at costs nothing.
            let mut bytes = vec![0; head.len() + claimed as usize];
            bytes[..head.len()].copy_from_slice(&head);
            let symbols = MappedSymbols::of(&*bytes, String::new(), &any_mapping(), &["main"]).unwrap();
            let expected = found.then_some(Addr(PAGE + 0x1234));
            assert_eq!(symbols.address("main").ok(), expected, "{claimed} bytes of names");
        }
    }
}
