//! The sections of an ELF file that somebody else wrote: elf(5).

use object::elf::{FileHeader32, FileHeader64, NT_GNU_BUILD_ID, SHF_COMPRESSED};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endian, Endianness, FileKind, ReadRef, pod};

/// No header table, note or link is larger. What the file claims would be allocated.
const MOST_READ: u64 = 16 << 20;

/// A section, as its header has it.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name.
    pub name: Box<[u8]>,
    /// SHT_*.
    pub kind: u32,
    /// Whether its contents begin with a compression header.
    pub compressed: bool,
    /// Where its contents begin, from the file's start.
    pub offset: u64,
    /// Length of its contents in the file.
    pub bytes: u64,
}

/// What the headers of an ELF file say.
#[derive(Clone, Debug)]
pub struct Headers {
    /// ET_*.
    pub kind: u16,
    /// The file header as it is.
    pub file_header: Box<[u8]>,
    /// Where the section headers begin, from the file's start.
    pub table_offset: u64,
    /// The section headers as they are.
    pub table: Box<[u8]>,
    /// The section that holds the names of all.
    pub names: usize,
    /// The sections, in the order of their headers.
    pub sections: Vec<Section>,
    /// What the linker identified the file by.
    pub build_id: Option<Box<[u8]>>,
    /// Name and CRC-32 of the file with its debug information.
    pub debug_link: Option<(Box<[u8]>, u32)>,
}

impl Headers {
    /// Reads them; none where it is no ELF file, or has no sections.
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Option<Headers> {
        let data = Bounded(data);
        match FileKind::parse(data).ok()? {
            FileKind::Elf32 => headers::<FileHeader32<Endianness>, R>(data).ok(),
            FileKind::Elf64 => headers::<FileHeader64<Endianness>, R>(data).ok(),
            _ => None,
        }
    }

    /// Whether there is a section of this name.
    pub fn has(&self, name: &str) -> bool {
        self.sections.iter().any(|section| *section.name == *name.as_bytes())
    }
}

fn headers<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    data: Bounded<R>,
) -> object::Result<Headers> {
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let table = header.sections(endian, data)?;
    let mut found = Headers {
        kind: header.e_type(endian).0,
        file_header: pod::bytes_of(header).into(),
        table_offset: header.e_shoff(endian).into(),
        table: pod::bytes_of_slice(table.iter().as_slice()).into(),
        names: header.section_strings_index(endian, data)?.0,
        sections: Vec::with_capacity(table.len()),
        build_id: None,
        debug_link: None,
    };
    for section in table.iter() {
        found.sections.push(Section {
            name: table.section_name(endian, section).unwrap_or_default().into(),
            kind: section.sh_type(endian).0,
            compressed: section.sh_flags(endian).contains(SHF_COMPRESSED),
            offset: section.sh_offset(endian).into(),
            bytes: section.sh_size(endian).into(),
        });
        if found.build_id.is_none() {
            found.build_id = build_id(section, endian, data);
        }
        if table.section_name(endian, section) == Ok(b".gnu_debuglink") {
            found.debug_link = section.data(endian, data).ok().and_then(|contents| debug_link(contents, endian));
        }
    }
    Ok(found)
}

/// A name that ends with a zero, padding to four bytes, and the checksum.
fn debug_link(contents: &[u8], endian: Endianness) -> Option<(Box<[u8]>, u32)> {
    let length = contents.iter().position(|byte| *byte == 0)?;
    let crc = contents.get((length + 1).next_multiple_of(4)..)?.first_chunk()?;
    Some((contents[..length].into(), endian.read_u32(*crc)))
}

fn build_id<'data, S: SectionHeader<Endian = Endianness>, R: ReadRef<'data>>(
    section: &S,
    endian: Endianness,
    data: Bounded<R>,
) -> Option<Box<[u8]>> {
    let mut notes = section.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"GNU" && note.n_type(endian) == NT_GNU_BUILD_ID {
            return Some(note.desc().into());
        }
    }
    None
}

/// Refuses to read large pieces.
#[derive(Clone, Copy)]
struct Bounded<R>(R);

impl<'data, R: ReadRef<'data>> ReadRef<'data> for Bounded<R> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'data [u8], ()> {
        if size > MOST_READ { Err(()) } else { self.0.read_bytes_at(offset, size) }
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, delimiter: u8) -> Result<&'data [u8], ()> {
        let end = range.end.min(range.start.saturating_add(MOST_READ));
        self.0.read_bytes_at_until(range.start..end, delimiter)
    }
}
