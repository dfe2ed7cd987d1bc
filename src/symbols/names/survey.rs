//! Whether debug information can be read at all: what is small in a file may stand for much.
//!
//! Units and functions may all refer to the same list of ranges, table of files or abbreviations, and an entry of one byte
//! may have a million attributes that take none. blazesym keeps what it finds for each of them, and recurses into functions
//! that are inlined. So all that it would come across is counted first, as often as it is referred to.

use gimli::{
    Abbreviations, Attribute, AttributeValue, DebugAbbrev, DebugInfo, DebugRanges, DebugRngLists, DebugRngListsBase,
    DwarfFileType, Encoding, EndianSlice, EntriesRaw, LittleEndian, RangeLists, RangeListsOffset,
};

type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// What compilers write nests some ten levels deep, inlined functions some tens.
const DEEPEST: isize = 500;

/// Attributes, bytes of abbreviations and what else counts, all together. Large programs have some ten million: a second.
const MOST: u64 = 1 << 29;

/// A range counts as so many attributes, and a byte of a line program's header, with its files: they are kept.
const RANGE: u64 = 64;
const HEADER_BYTE: u64 = 16;

/// The sections that the others are referred from, and those that are referred to; empty where there is none.
#[derive(Debug, Default)]
pub struct Sections {
    /// `.debug_info`
    pub info: Vec<u8>,
    /// `.debug_abbrev`
    pub abbreviations: Vec<u8>,
    /// `.debug_line`
    pub lines: Vec<u8>,
    /// `.debug_ranges`, before DWARF 5.
    pub ranges: Vec<u8>,
    /// `.debug_rnglists`
    pub range_lists: Vec<u8>,
}

impl Sections {
    /// Whether they are no more than compilers make, nor nest deeper.
    pub fn are_bearable(&self) -> bool {
        Survey { sections: self, left: MOST }.all().is_some()
    }
}

/// The counting; none of its functions has a result where it has come to an end.
struct Survey<'data> {
    sections: &'data Sections,
    left: u64,
}

/// Where the lists of a unit are.
struct Lists<'data> {
    lists: RangeLists<Bytes<'data>>,
    encoding: Encoding,
    base: DebugRngListsBase,
}

impl<'data> Survey<'data> {
    fn take(&mut self, steps: u64) -> Option<()> {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    fn all(&mut self) -> Option<()> {
        let Sections { info, abbreviations, ranges, range_lists, .. } = self.sections;
        let all = DebugAbbrev::new(abbreviations, LittleEndian);
        let ranges = [ranges, range_lists].map(|section| EndianSlice::new(section, LittleEndian));
        let lists = RangeLists::new(DebugRanges::from(ranges[0]), DebugRngLists::from(ranges[1]));
        // Units of one compiler run may share their table.
        let mut latest: Option<(usize, Abbreviations)> = None;
        let info = DebugInfo::new(info, LittleEndian);
        let mut units = info.units();
        while let Some(unit) = units.next().ok()? {
            let offset = unit.debug_abbrev_offset().0;
            if latest.as_ref().is_none_or(|(of, _)| *of != offset) {
                self.take(table_bytes(abbreviations.get(offset..).unwrap_or_default()))?;
                latest = unit.abbreviations(&all).ok().map(|table| (offset, table));
            }
            self.take(1)?;
            let Some((_, table)) = &latest else { continue };
            let encoding = unit.encoding();
            let base = DebugRngListsBase::default_for_encoding_and_file(encoding, DwarfFileType::Main);
            let entries = unit.entries_raw(table, None).ok()?;
            self.unit(entries, Lists { lists, encoding, base })?;
        }
        Some(())
    }

    fn unit(&mut self, mut entries: EntriesRaw<'_, Bytes<'data>>, mut lists: Lists<'data>) -> Option<()> {
        let mut is_first = true;
        while !entries.is_empty() {
            if entries.next_depth() > DEEPEST {
                return None;
            }
            // Behind what cannot be read nobody gets.
            let Ok(entry) = entries.read_abbreviation() else { break };
            let attributes = entry.map_or(&[][..], |entry| entry.attributes());
            self.take(1 + attributes.len() as u64)?;
            if is_first || attributes.iter().any(|one| one.name() == gimli::DW_AT_ranges) {
                // The lists' base may stand behind what is counted from it.
                let read: Result<Vec<_>, _> = attributes.iter().map(|one| entries.read_attribute(*one)).collect();
                let Ok(read) = read else { break };
                let base = |one: &Attribute<Bytes<'_>>| match one.value() {
                    AttributeValue::DebugRngListsBase(base) => Some(base),
                    _ => None,
                };
                lists.base = read.iter().find_map(base).filter(|_| is_first).unwrap_or(lists.base);
                read.iter().try_for_each(|one| self.attribute(one, &lists))?;
            } else if entries.skip_attributes(attributes).is_err() {
                break;
            }
            is_first = false;
        }
        Some(())
    }

    /// Counts what an attribute refers to.
    fn attribute(&mut self, attribute: &Attribute<Bytes<'_>>, of: &Lists<'data>) -> Option<()> {
        let offset = match attribute.value() {
            AttributeValue::DebugLineRef(offset) => {
                let lines = self.sections.lines.get(offset.0..).unwrap_or_default();
                return self.take(line_header_bytes(lines).unwrap_or(0).saturating_mul(HEADER_BYTE));
            }
            AttributeValue::RangeListsRef(offset) => RangeListsOffset(offset.0),
            AttributeValue::DebugRngListsIndex(index) => match of.lists.get_offset(of.encoding, of.base, index) {
                Ok(offset) => offset,
                Err(_) => return Some(()),
            },
            _ => return Some(()),
        };
        let Ok(mut ranges) = of.lists.raw_ranges(offset, of.encoding) else { return Some(()) };
        while let Ok(Some(_)) = ranges.next() {
            self.take(RANGE)?;
        }
        Some(())
    }
}

/// Length of a table of abbreviations: each has a code, 0 behind the last, a tag, a byte that says whether there are
/// children, and pairs of an attribute and its form, with a value for one form. DWARF 5, section 7.5.3.
fn table_bytes(bytes: &[u8]) -> u64 {
    const IMPLICIT_CONST: u64 = gimli::DW_FORM_implicit_const.0 as u64;
    let mut rest = bytes;
    let mut number = |skip: usize| {
        let length = rest.iter().position(|byte| *byte < 0x80)? + 1;
        let value = rest[..length].iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        rest = rest.get(length + skip..)?;
        Some((value, rest.len()))
    };
    let mut whole = || -> Option<usize> {
        loop {
            let (code, left) = number(0)?;
            if code == 0 {
                return Some(left);
            }
            number(1)?;
            loop {
                let (attribute, form) = (number(0)?.0, number(0)?.0);
                if form == IMPLICIT_CONST {
                    number(0)?;
                }
                if (attribute, form) == (0, 0) {
                    break;
                }
            }
        }
    };
    (bytes.len() - whole().unwrap_or(0)) as u64
}

/// What a line program's header says of its own length. DWARF 5, section 6.2.4.
fn line_header_bytes(section: &[u8]) -> Option<u64> {
    let (length, rest) = section.split_first_chunk()?;
    let is_long = u32::from_le_bytes(*length) == u32::MAX;
    let rest = rest.get(if is_long { 8 } else { 0 }..)?;
    let (version, rest) = rest.split_first_chunk()?;
    let rest = rest.get(if u16::from_le_bytes(*version) >= 5 { 2 } else { 0 }..)?;
    let bytes = match is_long {
        true => u64::from_le_bytes(*rest.first_chunk()?),
        false => u32::from_le_bytes(*rest.first_chunk()?).into(),
    };
    Some(bytes.min(section.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit of 32-bit DWARF 4 with these entries, and the abbreviations at an offset.
    fn unit(abbreviations: u32, entries: &[u8]) -> Vec<u8> {
        let rest = [&4_u16.to_le_bytes()[..], &abbreviations.to_le_bytes(), &[8], entries].concat();
        [&(rest.len() as u32).to_le_bytes()[..], &rest].concat()
    }

    /// Abbreviations: 1 is a unit with children, 2 has ranges and 3 lines, and 4 a hundred flags without contents.
    fn abbreviations() -> Vec<u8> {
        let flags = [0x3f, 0x19].repeat(100);
        let with = |head: [u8; 3], attributes: &[u8]| [&head, attributes, &[0, 0]].concat();
        let all = [
            with([1, 0x11, 1], &[]),
            with([2, 0x2e, 0], &[0x55, 0x17]),
            with([3, 0x11, 0], &[0x10, 0x17]),
            with([4, 0x34, 0], &flags),
        ];
        [all.concat(), vec![0]].concat()
    }

    /// What is used up by these units, and 30 ranges and 500 bytes of a line program's header to refer to.
    fn used(units: &[Vec<u8>]) -> Option<u64> {
        let ranges = [vec![1; 16 * 30], vec![0; 16]].concat();
        let lines = [&1000_u32.to_le_bytes()[..], &4_u16.to_le_bytes(), &500_u32.to_le_bytes(), &[0; 990]].concat();
        let abbreviations = [abbreviations(), abbreviations()].concat();
        let sections = Sections { info: units.concat(), abbreviations, lines, ranges, ..Sections::default() };
        let mut survey = Survey { sections: &sections, left: MOST };
        survey.all().map(|()| MOST - survey.left)
    }

    /// What entries refer to counts as often as they do, and so do tables that units take turns with.
    #[test]
    fn all_that_is_referred_to_counts() {
        let table = abbreviations().len() as u64;
        let second = table as u32;
        let one = unit(0, &[1, 0]);
        let other = unit(second, &[1, 0]);
        assert_eq!(used(&[]), Some(0));
        assert_eq!(used(std::slice::from_ref(&one)), Some(table + 3));
        assert_eq!(used(&[one.clone(), one.clone(), one.clone()]), Some(table + 9));
        assert_eq!(used(&[one.clone(), other.clone(), one, other]), Some(4 * table + 12));
        let with_ranges = unit(0, &[[1].as_slice(), &[2, 0, 0, 0, 0].repeat(3), &[0]].concat());
        assert_eq!(used(&[with_ranges]), Some(table + 1 + 1 + 3 * (2 + 30 * RANGE) + 1));
        let with_lines = unit(0, &[3, 0, 0, 0, 0]);
        assert_eq!(used(&[with_lines.clone(), with_lines]), Some(table + 2 * (1 + 2 + 500 * HEADER_BYTE)));
        let with_flags = unit(0, &[[1].as_slice(), &[4; 50], &[0]].concat());
        assert_eq!(used(&[with_flags]), Some(table + 3 + 50 * 101));
    }

    /// Beyond the bound it is not bearable, and neither are entries that nest too deeply.
    #[test]
    fn the_unbearable() {
        let bearable = |entries: &[u8], left: u64| {
            let sections = Sections { info: unit(0, entries), abbreviations: abbreviations(), ..Sections::default() };
            Survey { sections: &sections, left }.all().is_some()
        };
        assert!(bearable(&[1, 4, 4, 0], MOST) && !bearable(&[1, 4, 4, 0], 250));
        let deep = |levels: usize| [vec![1; levels], vec![0; levels]].concat();
        assert!(bearable(&deep(DEEPEST as usize), MOST) && !bearable(&deep(DEEPEST as usize + 2), MOST));
        assert!(!Sections { info: vec![1, 2], ..Sections::default() }.are_bearable(), "what cannot be read");
    }

    /// Tables and headers that are cut off are as long as what there is of them.
    #[test]
    fn lengths() {
        let table = abbreviations();
        assert_eq!(table_bytes(&[&table[..], &[7; 9]].concat()), table.len() as u64);
        // An attribute whose value stands in the table; numbers of several bytes.
        assert_eq!(table_bytes(&[0x81, 0x01, 0x34, 0, 0x3f, 0x21, 0x80, 0x01, 0, 0, 0, 9]), 11);
        assert_eq!([table_bytes(&[]), table_bytes(&[1, 0x11]), table_bytes(&[0x80; 5])], [0, 2, 5]);
        let header = |length: u32| [&9_u32.to_le_bytes()[..], &[5, 0, 8, 0], &length.to_le_bytes()].concat();
        assert_eq!(line_header_bytes(&header(7)), Some(7));
        assert_eq!(line_header_bytes(&header(u32::MAX)), Some(12));
        assert_eq!(line_header_bytes(&header(7)[..10]), None);
    }
}
