//! Symbols of a file that a process has mapped.

use std::collections::HashMap;

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache};

use super::Unavailable;
use crate::event::Vma;
use crate::procfs::mapped_file;
use crate::units::{Addr, PAGE, Tid};

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
        let file = String::from_utf8_lossy(&vma.name).into_owned();
        let unreadable = || Unavailable::NoFile { file: file.clone() };
        // Of a program with debug information most is never read.
        let contents = ReadCache::new(mapped_file::open(tid, vma).ok_or_else(unreadable)?);
        let elf = object::File::parse(&contents).map_err(|_| unreadable())?;
        let lowest = elf.segments().map(|segment| segment.address()).min().unwrap_or(0);
        let bias = vma.range.start().0.wrapping_sub(lowest / PAGE * PAGE);
        let mut addresses = HashMap::new();
        for symbol in elf.dynamic_symbols().chain(elf.symbols()).filter(|symbol| symbol.is_definition()) {
            // A versioned name of .symtab has its version behind it.
            let name = symbol.name().unwrap_or_default().split('@').next().unwrap_or_default();
            if let Some(wanted) = wanted.iter().find(|wanted| **wanted == name) {
                addresses.insert(*wanted, Addr(bias.wrapping_add(symbol.address())));
            }
        }
        let word = if elf.is_64() { 8 } else { 4 };
        Ok(MappedSymbols { file, word, addresses })
    }

    /// Where a symbol is.
    ///
    /// # Errors
    /// When the file does not define it.
    pub fn address(&self, symbol: &'static str) -> Result<Addr, Unavailable> {
        let address = self.addresses.get(symbol).copied();
        address.ok_or_else(|| Unavailable::NoSymbol { file: self.file.clone(), symbol })
    }
}
