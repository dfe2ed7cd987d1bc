//! Symbols of a file that a process has mapped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSegment, ObjectSymbol};

use super::Unavailable;
use crate::event::Vma;
use crate::units::{Addr, PAGE, Tid};

/// Larger files are not read: libc is 2 MB, a static program with debug information some hundred.
const LARGEST: u64 = 512 << 20;

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
        let path = Path::new(std::ffi::OsStr::from_bytes(&vma.name));
        let file = path.to_string_lossy().into_owned();
        let unreadable = || Unavailable::NoFile { file: file.clone() };
        let bytes = contents(tid, vma, path).ok_or_else(unreadable)?;
        let elf = object::File::parse(&*bytes).map_err(|_| unreadable())?;
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

/// The contents of a mapped file, which may lie in another mount namespace or have another root: the one that is taken
/// has the device and the inode that the maps show.
fn contents(tid: Tid, vma: &Vma, path: &Path) -> Option<Vec<u8>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let candidates = [
        PathBuf::from(format!("/proc/{tid}/map_files/{:x}-{:x}", vma.range.start().0, vma.range.end().0)),
        PathBuf::from(format!("/proc/{tid}/root")).join(relative),
        path.to_owned(),
    ];
    candidates.iter().find_map(|candidate| {
        // A target of another user's must not make us wait for a FIFO or touch a device.
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(candidate).ok()?;
        let metadata = file.metadata().ok()?;
        let same = metadata.ino() == vma.inode && metadata.is_file() && metadata.len() <= LARGEST;
        same.then(|| read_all(file)).flatten()
    })
}

fn read_all(file: File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
