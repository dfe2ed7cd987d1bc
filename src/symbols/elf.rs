//! The sections of an ELF file that somebody else wrote: elf(5).

use std::cell::Cell;

use object::elf::{FileHeader32, FileHeader64, NT_GNU_BUILD_ID, SHF_COMPRESSED};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endian, Endianness, FileKind, ReadRef, pod};

/// No file has more header tables, notes, links and names of sections, all together. What it claims would be allocated.
const MOST_READ: u64 = 16 << 20;

/// Longer names, in bytes, are none.
const LONGEST_NAME: u64 = 4096;

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
        let left = Cell::new(MOST_READ);
        let data = Bounded::new(data, &left);
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
    data: Bounded<'_, R>,
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
    data: Bounded<'_, R>,
) -> Option<Box<[u8]>> {
    let mut notes = section.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"GNU" && note.n_type(endian) == NT_GNU_BUILD_ID {
            return Some(note.desc().into());
        }
    }
    None
}

/// A file of which a bounded amount is read, whatever its headers claim: all that is read is held, or looked through.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a, R> {
    data: R,
    left: &'a Cell<u64>,
}

impl<'a, R> Bounded<'a, R> {
    /// As many bytes of `data` as are `left`.
    pub fn new(data: R, left: &'a Cell<u64>) -> Bounded<'a, R> {
        Bounded { data, left }
    }

    fn take(&self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'data, R: ReadRef<'data>> ReadRef<'data> for Bounded<'_, R> {
    fn len(self) -> Result<u64, ()> {
        self.data.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'data [u8], ()> {
        self.take(size)?;
        self.data.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, delimiter: u8) -> Result<&'data [u8], ()> {
        let end = range.end.min(range.start.saturating_add(LONGEST_NAME));
        // So much may be read before a name turns out to be longer, or to be there already.
        let found = self.data.read_bytes_at_until(range.start..end, delimiter);
        self.take(found.map_or(LONGEST_NAME, |name| name.len() as u64 + 1))?;
        found
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A section of a made-up file: name, SHT_*, SHF_*, and what its header claims for its size, if that is not the truth.
    pub struct Made<'a>(pub &'a str, pub u32, pub u64, pub &'a [u8], pub Option<u64>);

    /// A 64-bit ELF file of these sections, each linked for the address of its place in the file, as all of it is; the
    /// table of sections comes first, and a section of names last.
    pub fn file(sections: &[Made<'_>]) -> Vec<u8> {
        let names: Vec<u8> =
            sections.iter().flat_map(|one| [one.0.as_bytes(), b"\0"].concat()).chain(*b".shstrtab\0").collect();
        let names = [b"\0", &*names].concat();
        let last = Made(".shstrtab", 3, 0, &names, None);
        let mut contents = vec![0; 64 * (sections.len() + 3)];
        let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        contents[..16].copy_from_slice(&ident);
        // ET_DYN, EM_X86_64, version 1; section headers from byte 64 on, 64 bytes each.
        contents[16..24].copy_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        contents[40] = 64;
        // One segment, of which more may be said than there is.
        let segment_at = contents.len() as u64;
        contents[32..40].copy_from_slice(&segment_at.to_le_bytes());
        contents.extend([5 << 32 | 1, 0, 0, 0, 1 << 30, 1 << 30, 4096_u64].iter().flat_map(|word| word.to_le_bytes()));
        let number = |value: usize| (value as u16).to_le_bytes();
        let counts = [64, 56, 1, 64, sections.len() + 2, sections.len() + 1].map(number).concat();
        contents[52..64].copy_from_slice(&counts);
        let mut name = 1;
        for (index, Made(text, kind, flags, bytes, claimed)) in sections.iter().chain([&last]).enumerate() {
            let at = contents.len() as u64;
            let words = [*flags, at, at, claimed.unwrap_or(bytes.len() as u64)].map(u64::to_le_bytes).concat();
            let header = [&(name as u32).to_le_bytes()[..], &kind.to_le_bytes(), &words].concat();
            let header_at = 64 * (index + 2);
            contents[header_at..header_at + header.len()].copy_from_slice(&header);
            contents[header_at + 48] = 1;
            contents.extend_from_slice(bytes);
            contents.resize(contents.len().next_multiple_of(8), 0);
            name += text.len() + 1;
        }
        contents
    }

    /// Notes larger than all that is read of headers are passed over, and what comes behind is there.
    #[test]
    fn headers_are_bounded() {
        const SHT_NOTE: u32 = 7;
        let note = b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";
        for (padding, expected) in [(1000, Some(&b"\xab\xcd"[..])), (MOST_READ as usize, None)] {
            let notes = [&note[..], &vec![0; padding]].concat();
            let file = file(&[Made(".note", SHT_NOTE, 0, &notes, None), Made(".debug_info", 1, 0, b"x", None)]);
            let headers = Headers::read(&*file).unwrap();
            assert_eq!(headers.build_id.as_deref(), expected);
            assert!(headers.has(".debug_info"));
        }
    }

    /// A section header table in which many sections lie over the same bytes does not have them read again and again.
    #[test]
    fn what_is_read_is_bounded() {
        let bytes = vec![1; 1000];
        let left = Cell::new(1500);
        let data = Bounded::new(&*bytes, &left);
        assert_eq!(data.read_bytes_at(0, 1000).map(<[u8]>::len), Ok(1000));
        assert_eq!(data.read_bytes_at(0, 501), Err(()));
        assert_eq!(data.read_bytes_at(0, 500).map(<[u8]>::len), Ok(500));
        assert_eq!(data.read_bytes_at(0, 1), Err(()));
    }

    /// Names without an end cost no more than the longest name, and these add up too.
    #[test]
    fn names_are_bounded() {
        let mut bytes = vec![b'x'; 100_000];
        bytes.push(0);
        let left = Cell::new(4 * LONGEST_NAME);
        let data = Bounded::new(&*bytes, &left);
        for _ in 0..4 {
            assert_eq!(data.read_bytes_at_until(0..100_001, 0), Err(()));
        }
        assert_eq!(data.read_bytes_at_until(99_990..100_001, 0), Err(()), "nothing more is read");
    }
}
