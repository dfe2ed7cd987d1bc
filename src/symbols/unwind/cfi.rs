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
                let index = self.eh_frame_index.get_or_insert_with(|| Index::of(&frames, &bases));
                index.entry(address)?
            }
        };
        let offset = gimli::EhFrameOffset(usize::try_from(offset).ok()?);
        let entry = frames.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).ok()?;
        row(&entry, &frames, &bases, address, context)
    }

    fn row_of_debug_frame(&mut self, address: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
        let section = self.sections.debug_frame.as_ref()?;
        let mut frames = DebugFrame::new(&section.bytes, LittleEndian);
        frames.set_address_size(self.sections.word);
        let bases = BaseAddresses::default();
        let index = self.debug_frame_index.get_or_insert_with(|| Index::of(&frames, &bases));
        let offset = gimli::DebugFrameOffset(usize::try_from(index.entry(address)?).ok()?);
        let entry = frames.fde_from_offset(&bases, offset, DebugFrame::cie_from_offset).ok()?;
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
    let longest = entry.entry_len().max(entry.cie().entry_len());
    if longest > LONGEST_ENTRY || !entry.contains(address) {
        return None;
    }
    let row = entry.unwind_info_for_address(frames, bases, context, address).ok()?;
    Row::new(row, frames, entry)
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
    fn of<'data, Frames>(frames: &Frames, bases: &BaseAddresses) -> Index
    where
        Frames: UnwindSection<Bytes<'data>>,
        Frames::Offset: UnwindOffset<usize>,
    {
        let mut headers: HashMap<usize, CommonInformationEntry<Bytes<'data>>> = HashMap::new();
        let mut header = |frames: &Frames, bases: &BaseAddresses, offset: Frames::Offset| {
            let at: usize = UnwindOffset::into(offset);
            if let Some(known) = headers.get(&at) {
                return Ok(known.clone());
            }
            if headers.len() >= MOST_HEADERS {
                return Err(gimli::Error::NotCieId(at as u64));
            }
            let header = frames.cie_from_offset(bases, offset)?;
            headers.insert(at, header.clone());
            Ok(header)
        };
        let mut indexed = Vec::new();
        let mut entries = frames.entries(bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let Ok(fde) = partial.parse(&mut header) else { continue };
            let Ok(offset) = u32::try_from(fde.offset()) else { break };
            if indexed.len() == MOST_ENTRIES {
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
