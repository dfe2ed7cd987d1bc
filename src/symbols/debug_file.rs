//! Separate debug information: what distributions strip off their programs, found by build-id or by name and checksum,
//! in the places where gdb looks ("Debugging Information in Separate Files").

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::ReadCache;

use super::elf::Headers;
use crate::procfs::mapped_file::{open_in_root, open_regular};
use crate::procfs::patience::answering;
use crate::units::Tid;

/// Where debug information is installed.
const DEBUG_ROOT: &str = "/usr/lib/debug";

/// So many files of the right name are kept for the checksum to decide.
const MOST_CANDIDATES: usize = 3;

/// A file that may hold the debug information of a module, held open.
#[derive(Debug)]
pub struct DebugFile {
    /// The file.
    pub file: File,
    /// What its CRC-32 must be; none where the build-id has proven already that it belongs to the module.
    crc: Option<u32>,
}

impl DebugFile {
    /// Whether it is the module's. Reads all of it where a checksum must tell.
    pub fn is_right(&self) -> bool {
        self.crc.is_none_or(|expected| checksum(&self.file) == Some(expected))
    }
}

/// The files that may hold the debug information of `module`, which the task knows by `path`; best first, and none
/// where it has its own. A few calls of open, in the task's root and in ours: nothing large is read, but for copies of
/// what a program serves.
pub fn find(tid: Tid, path: &Path, module: &File) -> Vec<DebugFile> {
    let Some(headers) = Headers::read(&ReadCache::new(module)) else { return Vec::new() };
    if headers.has(".debug_info") {
        return Vec::new();
    }
    let by_build_id = headers.build_id.as_deref().and_then(|id| by_build_id(tid, id));
    if let Some(file) = by_build_id.and_then(answering) {
        return vec![DebugFile { file, crc: None }];
    }
    let Some((name, crc)) = &headers.debug_link else { return Vec::new() };
    let inode = module.metadata().map(|of| (of.dev(), of.ino())).ok();
    let mut found = Vec::new();
    for place in beside(path, name) {
        for file in [open_in_root(tid, &place), open_regular(&place)].into_iter().flatten() {
            let itself = file.metadata().map(|of| (of.dev(), of.ino())).ok() == inode;
            if !itself && found.len() < MOST_CANDIDATES && may_belong(&file, headers.build_id.as_deref()) {
                found.extend(answering(file).map(|file| DebugFile { file, crc: Some(*crc) }));
            }
        }
    }
    found
}

fn by_build_id(tid: Tid, id: &[u8]) -> Option<File> {
    // Twenty bytes is usual; the file's name is made of them.
    let (first, rest) = id.split_first().filter(|(_, rest)| (1..=64).contains(&rest.len()))?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    let place = PathBuf::from(format!("{DEBUG_ROOT}/.build-id/{first:02x}/{rest}.debug"));
    let files = [open_in_root(tid, &place), open_regular(&place)].into_iter().flatten();
    files.into_iter().find(|file| headers_of(file).is_some_and(|of| of.build_id.as_deref() == Some(id)))
}

/// Where a debug link's file may lie.
fn beside(path: &Path, name: &[u8]) -> Vec<PathBuf> {
    let plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    let (Some(directory), true) = (path.parent().filter(|_| path.is_absolute()), plain) else { return Vec::new() };
    let name = std::ffi::OsStr::from_bytes(name);
    let installed = Path::new(DEBUG_ROOT).join(directory.strip_prefix("/").unwrap_or(directory));
    [directory.to_owned(), directory.join(".debug"), installed].map(|directory| directory.join(name)).into()
}

/// Whether it is an ELF file, and not of another build.
fn may_belong(file: &File, id: Option<&[u8]>) -> bool {
    headers_of(file).is_some_and(|of| id.is_none() || of.build_id.is_none() || of.build_id.as_deref() == id)
}

fn headers_of(file: &File) -> Option<Headers> {
    Headers::read(&ReadCache::new(file))
}

/// CRC-32 of a file from its start.
fn checksum(file: &File) -> Option<u32> {
    use std::io::Seek;
    let mut file = file;
    file.rewind().ok()?;
    let mut file = file.take(crate::procfs::mapped_file::LARGEST);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
