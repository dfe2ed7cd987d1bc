//! The files whose code the followed processes have mapped, kept open: names are looked up later, when the process may
//! be gone, the file deleted, and the mount namespace that it lay in with it.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use object::elf::{FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache, ReadRef};
use serde::{Deserialize, Serialize};

use super::debug_file::{self, DebugFile};
use super::elf::Bounded;
use crate::event::Vma;
use crate::procfs::mapped_file;
use crate::procfs::patience::{NAMES, patiently};
use crate::procfs::present::LiveMemory;
use crate::units::{Range, Tid};

/// Files are held open up to this number; of further ones only the path is known.
const MOST_OPEN: usize = 512;

/// Modules that are told apart. A program can map files of any number of names; code of further ones is as if it lay in none.
pub const MOST_MODULES: usize = 1 << 16;

/// Segments of a file that count. The kernel takes 64 KiB of their headers, and linkers make ten: `load_elf_phdrs`.
const MOST_SEGMENTS: usize = 1 << 10;

/// The kernel's own little library is two pages, or three.
const VDSO_BYTES: u64 = 64 << 10;

/// Names a module; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ModuleId(u32);

/// A file whose code is mapped, or the vDSO.
#[derive(Debug)]
pub struct Module {
    /// Its path as the process sees it, or `[vdso]`.
    pub path: String,
    /// What can be read of it.
    pub contents: Contents,
    /// Where the parts of the file are to be in memory.
    segments: Vec<Segment>,
    /// Files that may hold its debug information, best first.
    pub debug_files: Vec<DebugFile>,
    /// Length and time of the last change of the file, when it was first seen.
    stamp: Option<(u64, SystemTime)>,
}

/// Where the bytes of a module are.
#[derive(Debug)]
pub enum Contents {
    /// In a file, held open.
    File(File),
    /// Copied from the target's memory: the vDSO has no file.
    Copy(Box<[u8]>),
    /// Out of reach.
    Unreadable,
}

/// A loadable part of an ELF file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
}

impl Module {
    /// The module with these contents, which the task knows by `path`.
    pub(super) fn new(tid: Tid, path: &Path, contents: Contents) -> Module {
        let segments = match &contents {
            Contents::File(file) => segments(&ReadCache::new(file)),
            Contents::Copy(bytes) => segments(&**bytes),
            Contents::Unreadable => Vec::new(),
        };
        let (debug_files, stamp) = match &contents {
            Contents::File(file) => (debug_files(tid, path, file), stamp(file)),
            Contents::Copy(_) | Contents::Unreadable => (Vec::new(), None),
        };
        Module { path: path.to_string_lossy().into_owned(), contents, segments, debug_files, stamp }
    }

    /// The address for which the byte at `offset` of the file was linked: the one that symbol tables use.
    pub fn linked_address(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|one| shifted(offset, one.offset, one.bytes, one.address))
    }

    /// The offset into the file of what was linked for `address`.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|one| shifted(address, one.address, one.bytes, one.offset))
    }

    /// Where in the file its segments are, and how many bytes they have there.
    pub(super) fn file_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().map(|one| (one.offset, one.bytes))
    }

    /// Whether the file still is what was mapped: an installation in place would give its code other names.
    pub fn is_unchanged(&self) -> bool {
        match &self.contents {
            Contents::File(file) => self.stamp.is_some() && self.stamp == stamp(file),
            Contents::Copy(_) | Contents::Unreadable => true,
        }
    }
}

/// What is found in bounded time.
fn debug_files(tid: Tid, path: &Path, file: &File) -> Vec<DebugFile> {
    let (path, file) = (path.to_owned(), file.try_clone());
    let find = move || Some(debug_file::find(tid, &path, &file.ok()?));
    patiently(NAMES, find).flatten().unwrap_or_default()
}

fn stamp(file: &File) -> Option<(u64, SystemTime)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// `value` of the `bytes` from `from` on, counted from `to` instead; none where it is none of these.
fn shifted(value: u64, from: u64, bytes: u64, to: u64) -> Option<u64> {
    let within = value.checked_sub(from).filter(|within| *within < bytes)?;
    to.checked_add(within)
}

/// What a file is known by: a path may name another one tomorrow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Identity {
    device: u32,
    inode: u64,
    path: Box<[u8]>,
}

/// What a recording knows of a module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identified {
    /// Its path as the process saw it.
    pub path: String,
    /// Length and time of the last change of the file, if there was one that could be read.
    pub stamp: Option<(u64, SystemTime)>,
}

/// All modules that were seen.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    modules: Vec<Arc<Module>>,
    by_identity: HashMap<Identity, ModuleId>,
}

impl Modules {
    /// The module behind `vma`, a line of the maps of `tid`; none where it is memory without a file.
    pub fn of(&mut self, tid: Tid, vma: &Vma) -> Option<ModuleId> {
        let vdso = &*vma.name == b"[vdso]";
        if !vma.is_file() && !vdso {
            return None;
        }
        // The vDSO of 32-bit programs is another one than that of 64-bit programs, which have it further up.
        let inode = if vdso { u64::from(vma.range.end().0 <= 1 << 32) } else { vma.inode };
        let identity = Identity { device: vma.device, inode, path: vma.name.clone() };
        if let Some(id) = self.by_identity.get(&identity) {
            return Some(*id);
        }
        if self.modules.len() >= MOST_MODULES {
            return None;
        }
        let contents = match vdso {
            true => copy(tid, vma.range),
            false if self.modules.len() >= MOST_OPEN => Contents::Unreadable,
            false => mapped_file::open(tid, vma).map_or(Contents::Unreadable, Contents::File),
        };
        let name = vma.name.strip_suffix(b" (deleted)").unwrap_or(&vma.name);
        let id = self.add(Module::new(tid, Path::new(OsStr::from_bytes(name)), contents))?;
        self.by_identity.insert(identity, id);
        Some(id)
    }

    /// One more module; none where there are too many.
    pub(super) fn add(&mut self, module: Module) -> Option<ModuleId> {
        let id = ModuleId(u32::try_from(self.modules.len()).ok().filter(|_| self.modules.len() < MOST_MODULES)?);
        self.modules.push(Arc::new(module));
        Some(id)
    }

    /// What a recording is to know of all modules, by number.
    pub fn identified(&self) -> impl Iterator<Item = Identified> {
        self.modules.iter().map(|module| Identified { path: module.path.clone(), stamp: module.stamp })
    }

    /// A module that somebody else has seen, of which nothing is read.
    pub fn add_recorded(&mut self, module: &Identified) {
        let nothing = Contents::Unreadable;
        self.modules.push(Arc::new(Module::new(own(), Path::new(&module.path), nothing)));
    }

    /// Opens those of the recorded modules whose files are here, unchanged, in place of what was added.
    pub fn open_recorded(&mut self, recorded: &[Identified]) {
        for (module, Identified { path, stamp: recorded }) in self.modules.iter_mut().zip(recorded).take(MOST_OPEN) {
            let path = Path::new(path);
            let file = mapped_file::open_regular(path).filter(|file| recorded.is_some() && stamp(file) == *recorded);
            if let Some(file) = file {
                *module = Arc::new(Module::new(own(), path, Contents::File(file)));
            }
        }
    }

    /// A module, if there is one with this number.
    pub fn find(&self, id: ModuleId) -> Option<&Module> {
        self.modules.get(id.0 as usize).map(|module| &**module)
    }

    /// A module.
    pub fn get(&self, id: ModuleId) -> &Module {
        &self.modules[id.0 as usize]
    }
}

/// We ourselves: whose root recorded paths are looked up in.
pub(super) fn own() -> Tid {
    Tid(nix::unistd::getpid().as_raw())
}

fn copy(tid: Tid, range: Range) -> Contents {
    let mut bytes = vec![0; usize::try_from(range.bytes().min(VDSO_BYTES)).unwrap_or(0)];
    match LiveMemory::of(tid).read(range.start(), &mut bytes) {
        Ok(()) => Contents::Copy(bytes.into()),
        Err(_) => Contents::Unreadable,
    }
}

fn segments<'data>(data: impl ReadRef<'data>) -> Vec<Segment> {
    // Nothing but the program headers: the symbols, which a parser of all would read, may be large.
    const MOST_READ: u64 = 16 << 20;
    let left = Cell::new(MOST_READ);
    let data = Bounded::new(data, &left);
    let segments = match FileKind::parse(data) {
        Ok(FileKind::Elf32) => segments_of::<FileHeader32<Endianness>, _>(data),
        Ok(FileKind::Elf64) => segments_of::<FileHeader64<Endianness>, _>(data),
        _ => None,
    };
    segments.unwrap_or_default()
}

fn segments_of<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(data: R) -> Option<Vec<Segment>> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let loaded = header.program_headers(endian, data).ok()?.iter().filter(|one| one.p_type(endian) == PT_LOAD);
    let segment = |one: &Elf::ProgramHeader| {
        let (offset, bytes) = one.file_range(endian);
        Segment { offset, bytes, address: one.p_vaddr(endian).into() }
    };
    Some(loaded.map(segment).take(MOST_SEGMENTS).collect())
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;
    use crate::procfs::maps;

    /// A 64-bit ELF file with these many segments, each of a page, and of linked addresses a thousand pages up.
    fn with_segments(count: usize) -> Vec<u8> {
        let mut bytes = vec![0; 128 + 56 * count];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        bytes[6] = 1;
        bytes[16..24].copy_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        // Program headers behind one section header, which has their number where that is too large for its field.
        bytes[32] = 128;
        bytes[40] = 64;
        let header = [64, 56, count.min(0xffff) as u16, 64, 1, 0].map(u16::to_le_bytes).concat();
        bytes[52..64].copy_from_slice(&header);
        bytes[64 + 44..64 + 48].copy_from_slice(&(count as u32).to_le_bytes());
        for (index, header) in bytes[128..].as_chunks_mut::<56>().0.iter_mut().enumerate().take(2 * MOST_SEGMENTS) {
            header[0] = 1;
            for (at, value) in [(8, index), (16, index + 1000), (32, 1)] {
                header[at..at + 8].copy_from_slice(&(4096 * value as u64).to_le_bytes());
            }
        }
        bytes
    }

    /// Segments beyond those that a program can have do not count, and a table that is too large is none.
    #[test]
    fn segments_are_bounded() {
        let module = |count| {
            let contents = Contents::Copy(with_segments(count).into());
            Module::new(own(), Path::new("/lib/made-up.so"), contents)
        };
        for (count, kept) in [(3, 3), (MOST_SEGMENTS + 5, MOST_SEGMENTS), (400_000, 0)] {
            let module = module(count);
            assert_eq!(module.segments.len(), kept, "of {count}");
            assert_eq!(module.linked_address(0x1010), (kept > 0).then_some(1001 * 0x1000 + 0x10));
        }
    }

    fn none() -> Arc<Module> {
        Arc::new(Module::new(own(), Path::new("/none"), Contents::Unreadable))
    }

    /// Of further files only the path is known, and beyond that nothing.
    #[test]
    fn modules_are_bounded() {
        let maps = maps::read(own()).unwrap();
        let file = maps.iter().find(|vma| vma.is_file() && vma.offset == 0).unwrap();
        for (others, opened) in [(MOST_OPEN - 1, Some(true)), (MOST_OPEN, Some(false)), (MOST_MODULES, None)] {
            let mut modules = Modules { modules: repeat_n(none(), others).collect(), ..Modules::default() };
            let id = modules.of(own(), file);
            let is_open = id.map(|id| matches!(modules.get(id).contents, Contents::File(_)));
            assert_eq!(is_open, opened, "behind {others} others");
            assert_eq!(modules.modules.len(), (others + 1).min(MOST_MODULES));
            let other = Module::new(own(), Path::new("/other"), Contents::Unreadable);
            assert_eq!(modules.add(other).is_some(), others < MOST_MODULES);
        }
    }

    /// Of recorded modules no more files are held open at the same time.
    #[test]
    fn recorded_modules_are_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let recorded = vec![Identified { path, stamp: stamp(file.as_file()) }; MOST_OPEN + 1];
        let mut modules = Modules::default();
        recorded.iter().for_each(|one| modules.add_recorded(one));
        modules.open_recorded(&recorded);
        let is_open = |module: &Arc<Module>| matches!(module.contents, Contents::File(_));
        assert_eq!(modules.modules.iter().filter(|module| is_open(module)).count(), MOST_OPEN);
        assert!(modules.modules.iter().all(|module| module.path == recorded[0].path));
    }
}
