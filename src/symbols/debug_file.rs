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
    /// Whether it is the module's. Reads all of it where a checksum must tell, and takes that from `left`, the bytes that
    /// may still be read so; where these are too few it is not.
    pub fn is_right(&self, left: &mut u64) -> bool {
        let Some(expected) = self.crc else { return true };
        let Ok(metadata) = self.file.metadata() else { return false };
        let Some(rest) = left.checked_sub(metadata.len()) else { return false };
        *left = rest;
        checksum(&self.file, metadata.len()) == Some(expected)
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

/// CRC-32 of the first so many bytes of a file.
fn checksum(file: &File, bytes: u64) -> Option<u32> {
    use std::io::Seek;
    let mut file = file;
    file.rewind().ok()?;
    let mut file = file.take(bytes);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::elf::tests::{Made, file};
    use super::*;
    use crate::symbols::module::own;

    /// Checksums are taken of no more than what may be read for all of them.
    #[test]
    fn checksums_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prog.debug");
        fs::write(&path, "123456789").unwrap();
        // The check value of this CRC.
        let [right, wrong] = [0xcbf4_3926, 7].map(|crc| DebugFile { file: File::open(&path).unwrap(), crc: Some(crc) });
        let mut left = 30;
        assert_eq!((right.is_right(&mut left), left), (true, 21));
        assert_eq!((wrong.is_right(&mut left), left), (false, 12));
        assert_eq!((right.is_right(&mut left), left), (true, 3));
        assert_eq!((right.is_right(&mut left), left), (false, 3));
        let proven = DebugFile { file: File::open(&path).unwrap(), crc: None };
        assert!(proven.is_right(&mut left));
    }

    /// Of the files of the right name a few are held open.
    #[test]
    fn candidates_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".debug")).unwrap();
        let program = file(&[Made(".gnu_debuglink", 1, 0, b"x.debug\0\x01\x02\x03\x04", None)]);
        let path = folder.path().join("prog");
        for place in ["prog", "x.debug", ".debug/x.debug"] {
            fs::write(folder.path().join(place), &program).unwrap();
        }
        // Each is found in the task's root and in ours.
        let found = find(own(), &path, &File::open(&path).unwrap());
        assert_eq!(found.len(), MOST_CANDIDATES);
        assert!(found.iter().all(|one| one.crc == Some(0x0403_0201)));
    }
}
