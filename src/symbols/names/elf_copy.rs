//! What of an ELF file names are looked up in, out of the reach of who wrote it.
//!
//! blazesym maps files into memory and follows links that they hold. A mapped file that is truncated kills whoever
//! reads it (SIGBUS, mmap(2)); a link may lead to a FIFO that never opens; a compressed section may claim any size. So
//! the sections that tell names are copied into a memfd, at their places, and the headers of all others are blanked.
//! Files with more debug information than fits are mapped as they are, without it where it is linked or compressed:
//! these can still be truncated while they are read, or nest too deeply.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use object::ReadCache;
use object::elf::{ELFCOMPRESS_ZLIB, ET_DYN, ET_EXEC, SHT_NOBITS};

use super::survey::Sections;
use crate::symbols::elf::{Headers, Section};
use crate::sys;

/// A file of which more is needed is not copied where nobody but root and ourselves can change it, in bytes: the kernel can
/// drop pages of a file, but not of a copy.
const MOST_COPIED: u64 = 64 << 20;

/// What all copies together, and what blazesym inflates of them, may take, in bytes.
pub const BUDGET: u64 = 512 << 20;

/// The sections that tell names: symbols, and what gimli reads for functions and lines.
const NEEDED: [&str; 15] = [
    ".symtab",
    ".strtab",
    ".dynsym",
    ".dynstr",
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_line_str",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_addr",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_aranges",
    ".debug_types",
];

/// Links to other files, which blazesym would open by name; ours are followed when the module is first seen.
const LINKS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

/// A file for blazesym.
#[derive(Debug)]
pub struct Source {
    /// Where to open it. As long as the file that it was made of is open, too.
    path: PathBuf,
    /// Whether its debug information may be read.
    pub debug: bool,
    /// Held open for the path's sake.
    _copy: Option<File>,
}

impl Source {
    /// Prepares a file, and takes what it needs from `budget`. None where it is no program or library.
    pub fn of(file: &File, budget: &mut u64) -> Option<Source> {
        let headers = Headers::read(&ReadCache::new(file))?;
        if headers.kind != ET_EXEC.0 && headers.kind != ET_DYN.0 {
            return None;
        }
        let needed: Vec<&Section> = headers.sections.iter().filter(|section| is_needed(section)).collect();
        let bytes = needed.iter().fold(0_u64, |sum, section| sum.saturating_add(section.bytes));
        let trusted = is_trusted(file);
        // What somebody else could cut off while we have it mapped would end us by SIGBUS: it is copied, or not read.
        if bytes > *budget && !trusted {
            return None;
        }
        if bytes > MOST_COPIED.min(*budget) && trusted {
            let plain = !LINKS.iter().any(|link| headers.has(link)) && !needed.iter().any(|section| section.compressed);
            return Some(Source { path: path_of(file), debug: plain, _copy: None });
        }
        *budget -= bytes;
        let copy = copy(file, &headers, budget).ok()?;
        Some(Source { path: path_of(&copy), debug: is_bearable(&copy), _copy: Some(copy) })
    }

    /// Where blazesym can open it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether nobody but root and ourselves can change the file.
fn is_trusted(file: &File) -> bool {
    let others_write = |mode: u32| mode & 0o022 != 0;
    file.metadata()
        .is_ok_and(|of| (of.uid() == 0 || of.uid() == nix::unistd::geteuid().as_raw()) && !others_write(of.mode()))
}

fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn is_needed(section: &Section) -> bool {
    section.kind != SHT_NOBITS.0 && NEEDED.iter().any(|name| *section.name == *name.as_bytes())
}

fn copy(file: &File, headers: &Headers, budget: &mut u64) -> io::Result<File> {
    let copy = sys::memory_file("vmtrace-symbols")?;
    copy.set_len(file.metadata()?.len())?;
    let keep: Vec<bool> = (headers.sections.iter().enumerate())
        .map(|(number, section)| {
            let names = number == headers.names && section.bytes <= MOST_COPIED;
            (is_needed(section) || names) && copy_section(file, section, &copy).is_ok()
        })
        .collect();
    // The headers come last: sections of a crafted file could lie over them, and bring back what was blanked.
    write_headers(&copy, headers, &keep)?;
    let sound: Vec<bool> = (headers.sections.iter().zip(&keep))
        .map(|(section, keep)| *keep && (!section.compressed || inflates(&copy, headers, section, budget)))
        .collect();
    write_headers(&copy, headers, &sound)?;
    // A blanked header names its section by the first name, which must be none.
    let mut first = [1];
    let names = headers.sections.get(headers.names).ok_or(io::ErrorKind::InvalidData)?;
    copy.read_exact_at(&mut first, names.offset)?;
    if first == [0] { Ok(copy) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn copy_section(file: &File, section: &Section, copy: &File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let end = section.offset.checked_add(section.bytes).ok_or(io::ErrorKind::InvalidData)?;
    if end > copy.metadata()?.len() || section.bytes > BUDGET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut at = section.offset;
    while at < end {
        let chunk = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..chunk], at)?;
        copy.write_all_at(&buffer[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}

fn write_headers(copy: &File, headers: &Headers, keep: &[bool]) -> io::Result<()> {
    let mut table = headers.table.clone();
    let entry = table.len() / headers.sections.len().max(1);
    for (header, keep) in table.chunks_mut(entry.max(1)).zip(keep) {
        if !keep {
            header.fill(0);
        }
    }
    copy.write_all_at(&table, headers.table_offset)?;
    copy.write_all_at(&headers.file_header, 0)
}

/// Whether blazesym can read the debug information without end to its stack or our memory.
fn is_bearable(copy: &File) -> bool {
    let cache = ReadCache::new(copy);
    let Some(headers) = Headers::read(&cache) else { return false };
    let contents = |name: &str| -> Option<Vec<u8>> {
        let section = headers.sections.iter().find(|section| *section.name == *name.as_bytes())?;
        contents(copy, &headers, section).ok()
    };
    let (Some(info), Some(abbreviations)) = (contents(".debug_info"), contents(".debug_abbrev")) else { return true };
    let [lines, ranges, range_lists] =
        [".debug_line", ".debug_ranges", ".debug_rnglists"].map(|name| contents(name).unwrap_or_default());
    Sections { info, abbreviations, lines, ranges, range_lists }.are_bearable()
}

/// What is in a section of a copy, inflated.
fn contents(copy: &File, headers: &Headers, section: &Section) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if section.compressed {
        inflated(copy, headers, section).ok_or(io::ErrorKind::InvalidData)?.1.read_to_end(&mut bytes)?;
    } else {
        bytes.resize(usize::try_from(section.bytes).map_err(io::Error::other)?, 0);
        copy.read_exact_at(&mut bytes, section.offset)?;
    }
    Ok(bytes)
}

/// Whether a compressed section holds what its header claims, and no more than the budget has.
fn inflates(copy: &File, headers: &Headers, section: &Section, budget: &mut u64) -> bool {
    let Some((size, contents)) = inflated(copy, headers, section) else { return false };
    if size > *budget {
        return false;
    }
    *budget -= size;
    io::copy(&mut contents.take(size + 1), &mut io::sink()).is_ok_and(|bytes| bytes == size)
}

/// The size that a compressed section claims, and what it inflates to.
fn inflated(copy: &File, headers: &Headers, section: &Section) -> Option<(u64, impl Read + use<>)> {
    // Elf32_Chdr is three words; in Elf64_Chdr size and alignment are double words, the size at 8.
    let (header, size_at, size_bytes) = if headers.file_header.len() == 52 { (12, 4, 4) } else { (24, 8, 8) };
    let mut bytes = [0; 24];
    copy.read_exact_at(&mut bytes[..header], section.offset).ok()?;
    let mut size = [0; 8];
    size[..size_bytes].copy_from_slice(&bytes[size_at..size_at + size_bytes]);
    let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if kind != ELFCOMPRESS_ZLIB.0 {
        return None;
    }
    let mut file = copy.try_clone().ok()?;
    file.seek(SeekFrom::Start(section.offset + header as u64)).ok()?;
    let compressed = BufReader::new(file).take(section.bytes.checked_sub(header as u64)?);
    Some((u64::from_le_bytes(size), flate2::bufread::ZlibDecoder::new(compressed)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::super::super::elf::tests::{Made, file};
    use super::*;

    /// A file of these sections that nobody else can write to, or that others can.
    fn source(sections: &[Made<'_>], others_write: bool, budget: &mut u64) -> Option<Source> {
        let made = tempfile::tempfile().unwrap();
        made.write_all_at(&file(sections), 0).unwrap();
        // Sections that claim more than there is lie in a file without contents.
        let claimed = sections.iter().filter_map(|one| one.4).max().unwrap_or(0);
        made.set_len(made.metadata().unwrap().len() + claimed).unwrap();
        made.set_permissions(fs::Permissions::from_mode(if others_write { 0o666 } else { 0o600 })).unwrap();
        Source::of(&made, budget)
    }

    /// What is copied comes out of the budget, and what does not fit is not: a file that others can change is not read
    /// then, and another one as it is.
    #[test]
    fn copies_are_bounded() {
        let symbols = |bytes| [Made(".symtab", 2, 0, b"", Some(bytes))];
        for (bytes, others_write, before, read, copied, left) in [
            (100, false, 1000, true, true, 900),
            (100, true, 1000, true, true, 900),
            (1001, false, 1000, true, false, 1000),
            (1001, true, 1000, false, false, 1000),
            (MOST_COPIED + 1, false, BUDGET, true, false, BUDGET),
        ] {
            let mut budget = before;
            let source = source(&symbols(bytes), others_write, &mut budget);
            let found = source.as_ref().map(|source| source._copy.is_some());
            assert_eq!((found, budget), (read.then_some(copied), left), "{bytes} {others_write}");
        }
    }

    /// Compressed sections come out of it by what they claim to be, and are left out where that is too much, or a lie.
    #[test]
    fn compressed_sections_are_bounded() {
        const SHF_COMPRESSED: u64 = 1 << 11;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[0; 100_000]).unwrap();
        let compressed = encoder.finish().unwrap();
        for (claimed, budget, kept) in [(100_000, 200_000, true), (100_000, 99_000, false), (99_999, 200_000, false)] {
            let header = [1_u64, claimed, 1].map(u64::to_le_bytes).concat();
            let section = [&header[..], &compressed].concat();
            let mut left = budget;
            let sections = [Made(".debug_str", 1, SHF_COMPRESSED, &section, None)];
            let source = source(&sections, true, &mut left).unwrap();
            let copy = Headers::read(&ReadCache::new(source._copy.as_ref().unwrap())).unwrap();
            assert_eq!(copy.has(".debug_str"), kept, "{claimed} of {budget}");
            let inflated = if claimed > budget { 0 } else { claimed };
            assert_eq!(left, budget - section.len() as u64 - inflated);
        }
    }
}
