//! The call frame information of one file: which row holds at an address.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry,
    LittleEndian, UnwindContext, UnwindOffset, UnwindSection,
};

use super::elf::{FrameSections, Section};
use super::row::Row;

type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// Entries that an own index may have.
const MOST_ENTRIES: usize = 1 << 20;

/// Different headers (CIEs) of entries; real files have some tens.
const MOST_HEADERS: usize = 1024;

/// A longer entry is not evaluated. Large generated functions have some ten thousand bytes.
const LONGEST_ENTRY: usize = 64 << 10;

/// What unwinding needs of one file.
#[derive(Debug, Default)]
pub struct CallFrameInformation {
    sections: FrameSections,
    /// The entries of `.eh_frame`, where there is no table in `.eh_frame_hdr`; made at the first question.
    eh_frame_index: Option<Index>,
    /// The entries of `.debug_frame`; made at the first question that `.eh_frame` has no answer to.
    debug_frame_index: Option<Index>,
}

impl CallFrameInformation {
    /// Of these sections.
    pub fn new(sections: FrameSections) -> CallFrameInformation {
        CallFrameInformation { sections, ..CallFrameInformation::default() }
    }

    /// The row that holds at an address, the one for which the file was linked.
    pub fn row(&mut self, address: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
        self.row_of_eh_frame(address, context).or_else(|| self.row_of_debug_frame(address, context))
    }

    fn row_of_eh_frame(&mut self, address: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
        let section = self.sections.eh_frame.as_ref()?;
        let mut frames = EhFrame::new(&section.bytes, LittleEndian);
        frames.set_address_size(self.sections.word);
        let header = self.sections.eh_frame_hdr.as_ref();
        let mut bases = BaseAddresses::default().set_eh_frame(section.address);
        if let Some(header) = header {
            bases = bases.set_eh_frame_hdr(header.address);
        }
        let offset = match header.and_then(Table::of) {
            Some(table) => table.entry(address)?.checked_sub(section.address)?,
            None => {
                let index = self.eh_frame_index.get_or_insert_with(|| Index::of(&frames, &section.bytes, &bases));
                index.entry(address)?
            }
        };
        let offset = gimli::EhFrameOffset(usize::try_from(offset).ok()?);
        let header = |frames: &_, bases: &_, offset| short_header(frames, &section.bytes, bases, offset);
        let entry = frames.fde_from_offset(&bases, offset, header).ok()?;
        row(&entry, &frames, &bases, address, context)
    }

    fn row_of_debug_frame(&mut self, address: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
        let section = self.sections.debug_frame.as_ref()?;
        let mut frames = DebugFrame::new(&section.bytes, LittleEndian);
        frames.set_address_size(self.sections.word);
        let bases = BaseAddresses::default();
        let index = self.debug_frame_index.get_or_insert_with(|| Index::of(&frames, &section.bytes, &bases));
        let offset = gimli::DebugFrameOffset(usize::try_from(index.entry(address)?).ok()?);
        let header = |frames: &_, bases: &_, offset| short_header(frames, &section.bytes, bases, offset);
        let entry = frames.fde_from_offset(&bases, offset, header).ok()?;
        row(&entry, &frames, &bases, address, context)
    }
}

fn row<'data, Frames: UnwindSection<Bytes<'data>>>(
    entry: &FrameDescriptionEntry<Bytes<'data>>,
    frames: &Frames,
    bases: &BaseAddresses,
    address: u64,
    context: &mut UnwindContext<usize>,
) -> Option<Row> {
    if entry.entry_len() > LONGEST_ENTRY || !entry.contains(address) {
        return None;
    }
    let row = entry.unwind_info_for_address(frames, bases, context, address).ok()?;
    Row::new(row, frames, entry)
}

/// The header (CIE) of an entry, unless it is too long: a text in it is looked through to its end before any of it counts,
/// and as many entries as there are may speak of it.
fn short_header<'data, Frames: UnwindSection<Bytes<'data>>>(
    frames: &Frames,
    section: &[u8],
    bases: &BaseAddresses,
    offset: Frames::Offset,
) -> gimli::Result<CommonInformationEntry<Bytes<'data>>> {
    let at: usize = UnwindOffset::into(offset);
    match entry_length(section, at) {
        Some(length) if length <= LONGEST_ENTRY as u64 => frames.cie_from_offset(bases, offset),
        _ => Err(gimli::Error::NotCieId(at as u64)),
    }
}

/// The length with which an entry begins: 32 bits, or these all ones and 64 more.
fn entry_length(section: &[u8], at: usize) -> Option<u64> {
    let (length, rest) = section.get(at..)?.split_first_chunk()?;
    match u32::from_le_bytes(*length) {
        u32::MAX => rest.first_chunk().map(|length| u64::from_le_bytes(*length)),
        length => Some(length.into()),
    }
}

/// The headers that entries have spoken of so far, also those that could not be read.
#[derive(Debug)]
struct Headers<T>(HashMap<usize, Option<T>>);

impl<T: Clone> Headers<T> {
    /// The header at `at`, which `read` reads where that has not been done yet; none beyond [`MOST_HEADERS`].
    fn get(&mut self, at: usize, read: impl FnOnce() -> gimli::Result<T>) -> gimli::Result<T> {
        let known = match self.0.get(&at) {
            Some(known) => known.clone(),
            None if self.0.len() >= MOST_HEADERS => None,
            None => {
                let header = read().ok();
                self.0.insert(at, header.clone());
                header
            }
        };
        known.ok_or(gimli::Error::NotCieId(at as u64))
    }
}

/// The table of `.eh_frame_hdr`, in the one form that linkers write it in: pairs of 32-bit distances from the section's
/// start, to a function and to its entry. Linux Standard Base, "DWARF Extensions", 10.6.2.
struct Table<'data> {
    address: u64,
    pairs: &'data [[u8; 8]],
}

impl<'data> Table<'data> {
    fn of(header: &'data Section) -> Option<Table<'data>> {
        /// Version 1; the pointer to .eh_frame in 32 bits, whatever it counts from; udata4; datarel | sdata4.
        const POINTER_SIZE: u8 = 0x0f;
        const SDATA4: u8 = 0x0b;
        let [1, pointer, 0x03, 0x3b, _, _, _, _, a, b, c, d, table @ ..] = &*header.bytes else { return None };
        let count = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
        let pairs = table.as_chunks().0;
        (pointer & POINTER_SIZE == SDATA4 && count != 0)
            .then_some(Table { address: header.address, pairs: pairs.get(..count)? })
    }

    /// The address of the entry that may be about this address.
    fn entry(&self, address: u64) -> Option<u64> {
        let [start, entry] = [0, 4].map(|at| {
            move |pair: &[u8; 8]| {
                let distance = i32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
                self.address.wrapping_add_signed(distance.into())
            }
        });
        let behind = self.pairs.partition_point(|pair| start(pair) <= address);
        self.pairs.get(behind.checked_sub(1)?).map(entry)
    }
}

/// Where the entries of a section are, in order of the addresses that they are about.
#[derive(Debug)]
struct Index(Box<[Indexed]>);

#[derive(Clone, Copy, Debug)]
struct Indexed {
    start: u64,
    end: u64,
    offset: u32,
}

impl Index {
    /// Reads a whole section, up to what cannot be read.
    fn of<'data, Frames>(frames: &Frames, section: &[u8], bases: &BaseAddresses) -> Index
    where
        Frames: UnwindSection<Bytes<'data>>,
        Frames::Offset: UnwindOffset<usize>,
    {
        Index::of_first(MOST_ENTRIES, frames, section, bases)
    }

    /// The same of so many entries at most.
    fn of_first<'data, Frames>(most: usize, frames: &Frames, section: &[u8], bases: &BaseAddresses) -> Index
    where
        Frames: UnwindSection<Bytes<'data>>,
        Frames::Offset: UnwindOffset<usize>,
    {
        let mut headers = Headers(HashMap::new());
        let mut header = |frames: &Frames, bases: &BaseAddresses, offset: Frames::Offset| {
            headers.get(UnwindOffset::into(offset), || short_header(frames, section, bases, offset))
        };
        let mut indexed = Vec::new();
        let mut entries = frames.entries(bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let Ok(fde) = partial.parse(&mut header) else { continue };
            let Ok(offset) = u32::try_from(fde.offset()) else { break };
            if indexed.len() == most {
                break;
            }
            indexed.push(Indexed { start: fde.initial_address(), end: fde.end_address(), offset });
        }
        indexed.sort_by_key(|one| one.start);
        Index(indexed.into())
    }

    /// The offset of the entry that is about this address.
    fn entry(&self, address: u64) -> Option<u64> {
        let behind = self.0.partition_point(|one| one.start <= address);
        let one = self.0.get(behind.checked_sub(1)?)?;
        (address < one.end).then_some(one.offset.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{USUAL, eh_frame, with_length};
    use super::*;

    /// Headers are read once each, also those that cannot be, and no more than so many.
    #[test]
    fn headers_are_bounded() {
        let mut headers = Headers(HashMap::new());
        let mut read = Vec::new();
        for round in 0..3 {
            for at in 0..MOST_HEADERS + 100 {
                let found = headers.get(at, || {
                    read.push(at);
                    if at % 2 == 0 { Ok(at) } else { Err(gimli::Error::NotCieId(0)) }
                });
                assert_eq!(found.ok(), (at % 2 == 0 && at < MOST_HEADERS).then_some(at), "round {round}");
            }
        }
        assert!(read.iter().copied().eq(0..MOST_HEADERS));
    }

    /// Whether there is a row where a header and an entry have so many instructions that do nothing.
    fn has_row(in_header: usize, in_entry: usize) -> bool {
        let header = [&[0, 0, 0, 0, 1][..], b"zR", &[0, 1, 0x78, 16, 1, 0x00], &vec![0; in_header]].concat();
        let mut bytes = with_length(&header);
        let back = bytes.len() as u32 + 4;
        let start = [&back.to_le_bytes()[..], &0x1000_u64.to_le_bytes(), &0x100_u64.to_le_bytes(), &[0]].concat();
        bytes.extend(with_length(&[&start[..], &USUAL, &vec![0; in_entry]].concat()));
        let eh_frame = Some(Section { address: 0, bytes: bytes.into() });
        let sections = FrameSections { word: 8, eh_frame, ..FrameSections::default() };
        CallFrameInformation::new(sections).row(0x1010, &mut UnwindContext::new()).is_some()
    }

    /// An entry that is too long has no row, and neither has one whose header is.
    #[test]
    fn entries_are_bounded() {
        let near = LONGEST_ENTRY - 100;
        let found = [(0, 0), (near, near), (LONGEST_ENTRY, 0), (0, LONGEST_ENTRY)].map(|(a, b)| has_row(a, b));
        assert_eq!(found, [true, true, false, false]);
    }

    /// The length may be written in 32 bits or in 64, or be cut off.
    #[test]
    fn lengths_of_entries() {
        let long = [&[0xff; 4][..], &(1_u64 << 40).to_le_bytes()].concat();
        assert_eq!(entry_length(&[1, 2, 0, 0], 0), Some(0x201));
        assert_eq!(entry_length(&long, 0), Some(1 << 40));
        assert_eq!([entry_length(&long, 10), entry_length(&long, 20), entry_length(&long[..8], 0)], [None; 3]);
    }

    /// Of more entries than an index may have the first are in it.
    #[test]
    fn an_index_is_bounded() {
        let one = eh_frame(b"zR", &USUAL);
        // Without the end that the section has.
        let bytes = one[..one.len() - 4].repeat(5);
        let mut frames = EhFrame::new(&bytes, LittleEndian);
        frames.set_address_size(8);
        let entries = |most| Index::of_first(most, &frames, &bytes, &BaseAddresses::default()).0.len();
        assert_eq!([3, 5, 100].map(entries), [3, 5, 5]);
    }
}
