//! Symbols of a file that a process has mapped.

use std::collections::HashMap;
use std::io::Read;

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef};

use super::Unavailable;
use crate::event::Vma;
use crate::procfs::mapped_file;
use crate::units::{Addr, PAGE, Tid};

/// Files up to this size, in bytes, are read whole: that is faster than one name after the other. Of programs with debug
/// information, which are larger, most is never read.
const WHOLE: u64 = 16 << 20;

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
        let mut file = mapped_file::open(tid, vma).ok_or_else(unreadable)?;
        let mut bytes = Vec::new();
        if file.metadata().is_ok_and(|of| of.len() <= WHOLE) {
            file.read_to_end(&mut bytes).map_err(|_| unreadable())?;
            MappedSymbols::of(&*bytes, path.clone(), vma, wanted).ok_or_else(unreadable)
        } else {
            MappedSymbols::of(&ReadCache::new(file), path.clone(), vma, wanted).ok_or_else(unreadable)
        }
    }

    fn of<'data>(data: impl ReadRef<'data>, file: String, vma: &Vma, wanted: &[&'static str]) -> Option<MappedSymbols> {
        let elf = object::File::parse(data).ok()?;
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
        Some(MappedSymbols { file, word, addresses })
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
