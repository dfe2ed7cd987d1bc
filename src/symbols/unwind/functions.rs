//! Where the functions of a file are, as far as its symbols and its own calls tell.

use super::elf::CodeSections;

/// Functions of a file, at linked addresses.
#[derive(Debug, Default)]
pub struct Functions {
    /// Named ones in order, from start to end; aliases overlap.
    named: Box<[Span]>,
    /// What the code tells, once it has been searched.
    searched: Option<Searched>,
}

/// What the code of a file tells of its functions.
#[derive(Debug, Default)]
struct Searched {
    /// Where the code calls to, in order: functions begin there, named or not.
    called: Box<[u64]>,
    /// Jumps from one function to another one, from where to where, in order.
    jumps: Box<[(u64, u64)]>,
}

/// A function's code, from `start` to before `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// Its entry.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
}

impl Span {
    /// Whether the address lies in it.
    pub fn contains(self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// So many names of one function, or names of parts of it, are looked at.
const MOST_OVERLAPPING: usize = 16;

/// Functions of one file, and jumps between them.
const MOST: usize = 1 << 20;

/// Jumps from function to function in a row.
const LONGEST_CHAIN: usize = 3;

/// Jumps out of functions that are followed at once.
const MOST_JUMPS: usize = 64;

impl Functions {
    /// Those that symbols name, by address and size.
    pub fn named(symbols: &[(u64, u64)]) -> Functions {
        let sized = symbols.iter().filter(|(_, size)| *size != 0);
        let mut named: Vec<Span> =
            sized.map(|(start, size)| Span { start: *start, end: start.saturating_add(*size) }).collect();
        named.sort_unstable_by_key(|span| (span.start, span.end));
        Functions { named: named.into(), searched: None }
    }

    /// Whether the code has been searched for those without names.
    pub fn is_searched(&self) -> bool {
        self.searched.is_some()
    }

    /// Searches the code for functions without names: milliseconds per megabyte, which few call stacks need.
    pub fn search(&mut self, sections: &CodeSections) {
        self.search_for(sections, MOST);
    }

    /// Searches for at most so many functions, and jumps.
    fn search_for(&mut self, sections: &CodeSections, most: usize) {
        let ranges = Ranges::of(sections.code.iter().map(|section| (section.address, section.bytes.len() as u64)));
        let is_code = |target: u64| ranges.contains(target);
        let code = || sections.code.iter().flat_map(|section| references(section.address, &section.bytes));
        let starts = sections.functions.iter().map(|(start, _)| *start);
        let called = code().filter(|reference| reference.kind == Kind::Entry).map(|reference| reference.to);
        let called = in_order(starts.chain(called).filter(|target| is_code(*target)).take(most).collect());
        self.searched = Some(Searched { called, ..Searched::default() });
        let jumps = code().filter(|reference| reference.kind == Kind::Jump && is_code(reference.to));
        let leaves = jumps.filter(|jump| self.at(jump.from).is_some_and(|span| !span.contains(jump.to)));
        let jumps = in_order(leaves.map(|jump| (jump.from, jump.to)).take(most).collect());
        // What is jumped to from another function is a function, too.
        let starts = self.called().iter().copied().chain(jumps.iter().map(|(_, to)| *to));
        self.searched = Some(Searched { called: in_order(starts.collect()), jumps });
    }

    fn called(&self) -> &[u64] {
        self.searched.as_ref().map_or(&[], |searched| &searched.called)
    }

    fn jumps_between(&self) -> &[(u64, u64)] {
        self.searched.as_ref().map_or(&[], |searched| &searched.jumps)
    }

    /// How many of them there are: what they cost.
    pub fn len(&self) -> usize {
        self.named.len() + self.called().len() + self.jumps_between().len()
    }

    /// Whether the function at `from` goes on as the one that starts at `to`: a call in its last place is a jump.
    pub fn jumps(&self, from: u64, to: u64) -> bool {
        let mut at = vec![from];
        for _ in 0..LONGEST_CHAIN {
            let reached: Vec<u64> = at.iter().flat_map(|from| self.jumps_of(*from)).take(MOST_JUMPS).collect();
            if reached.contains(&to) {
                return true;
            }
            at = reached;
        }
        false
    }

    fn jumps_of(&self, function: u64) -> impl Iterator<Item = u64> {
        let span = self.at(function);
        let jumps = self.jumps_between();
        let first = jumps.partition_point(|(from, _)| span.is_none_or(|span| *from < span.start));
        let own = jumps[first..].iter().take_while(move |(from, _)| span.is_some_and(|span| span.contains(*from)));
        own.map(|(_, to)| *to)
    }

    /// The function at an address; none where that is not known.
    ///
    /// A function without a name, for which the code must have been searched, reaches from where something calls it to the
    /// next one.
    pub fn at(&self, address: u64) -> Option<Span> {
        self.named_at(address).or_else(|| {
            let gap_start = self.named_before(address).map(|span| span.end).max().unwrap_or(0);
            let called = self.called();
            let behind = called.partition_point(|start| *start <= address);
            let start = *called.get(behind.checked_sub(1)?)?;
            let end = called.get(behind).copied().unwrap_or(u64::MAX);
            (start >= gap_start).then_some(Span { start, end })
        })
    }

    /// The named function at an address.
    pub fn named_at(&self, address: u64) -> Option<Span> {
        self.named_before(address).find(|span| span.contains(address)).copied()
    }

    fn named_before(&self, address: u64) -> impl Iterator<Item = &Span> {
        let behind = self.named.partition_point(|span| span.start <= address);
        self.named[..behind].iter().rev().take(MOST_OVERLAPPING)
    }
}

/// Addresses in as few ranges as there can be: a file may have thousands of sections, each byte of which is asked about.
#[derive(Debug)]
struct Ranges(Vec<Span>);

impl Ranges {
    /// Those that begin at an address and have so many bytes each.
    fn of(parts: impl Iterator<Item = (u64, u64)>) -> Ranges {
        let spans = parts.map(|(start, bytes)| Span { start, end: start.saturating_add(bytes) });
        let mut ranges: Vec<Span> = Vec::new();
        for span in in_order(spans.filter(|span| span.start < span.end).collect()) {
            match ranges.last_mut().filter(|last| span.start <= last.end) {
                Some(last) => last.end = last.end.max(span.end),
                None => ranges.push(span),
            }
        }
        Ranges(ranges)
    }

    fn contains(&self, address: u64) -> bool {
        let behind = self.0.partition_point(|span| span.end <= address);
        self.0.get(behind).is_some_and(|span| span.contains(address))
    }
}

/// An instruction that speaks of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reference {
    from: u64,
    to: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It calls it, or takes its address: `call rel32`, `lea disp32(%rip)`.
    Entry,
    /// It jumps there: `jmp rel32`.
    Jump,
}

/// What the code at `address` speaks of.
///
/// Every byte is taken for the first of an instruction. What is found so by chance is one border too many, which costs
/// a frame; it never invents one.
fn references(address: u64, code: &[u8]) -> impl Iterator<Item = Reference> {
    code.windows(6).zip(address..).filter_map(|(bytes, from)| {
        let [opcode, a, b, c, d, e] = *bytes.first_chunk()?;
        let (kind, distance, length) = match opcode {
            0xe8 => (Kind::Entry, [a, b, c, d], 5),
            0xe9 => (Kind::Jump, [a, b, c, d], 5),
            0x8d if a & 0xc7 == 0x05 => (Kind::Entry, [b, c, d, e], 6),
            _ => return None,
        };
        let to = from.wrapping_add(length).wrapping_add_signed(i32::from_le_bytes(distance).into());
        Some(Reference { from, to, kind })
    })
}

fn in_order<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

#[cfg(test)]
mod tests {
    use super::super::elf::Section;
    use super::*;

    /// Code at 0x1000 of instructions of five bytes each: opcode, and how many instructions further they lead.
    fn code(instructions: &[(u8, i32)]) -> CodeSections {
        let bytes = instructions.iter().flat_map(|(opcode, distance)| {
            let [a, b, c, d] = (5 * (distance - 1)).to_le_bytes();
            [*opcode, a, b, c, d]
        });
        // A reference is found where another byte follows it.
        let bytes = bytes.chain([0x90]).collect();
        CodeSections { code: vec![Section { address: 0x1000, bytes }], functions: Vec::new() }
    }

    fn at(instruction: u64) -> u64 {
        0x1000 + 5 * instruction
    }

    const CALL: u8 = 0xe8;
    const JUMP: u8 = 0xe9;

    /// Of more functions and jumps than are counted some are known, as they are.
    #[test]
    fn what_is_searched_for_is_bounded() {
        // Five calls of the five jumps behind them, each of which leads to the one after the next.
        let sections = code(&[[(CALL, 5); 5], [(JUMP, 2); 5]].concat());
        let mut functions = Functions::default();
        functions.search_for(&sections, 3);
        assert!(functions.called().len() <= 6 && functions.jumps_between().len() <= 3, "{functions:?}");
        assert!(functions.jumps(at(5), at(7)) && !functions.jumps(at(5), at(6)));
        let mut all = Functions::default();
        all.search_for(&sections, MOST);
        assert!(all.len() > functions.len() && all.jumps(at(5), at(7)), "{all:?}");
    }

    /// Jumps are followed a few times in a row, also where they lead in a circle, and no more than a few of one function.
    #[test]
    fn chains_of_jumps_are_bounded() {
        let named = |sizes: &[u64]| {
            let mut start = 0;
            let next = |size: &u64| {
                start += size;
                (at(start - size), 5 * size)
            };
            Functions::named(&sizes.iter().map(next).collect::<Vec<_>>())
        };
        let mut chain = named(&[1; 6]);
        chain.search(&code(&[(JUMP, 1), (JUMP, 1), (JUMP, 1), (JUMP, 1), (JUMP, -4), (0x90, 0)]));
        let reached: Vec<u64> = (0..6).filter(|to| chain.jumps(at(0), at(*to))).collect();
        assert_eq!(reached, (1..=LONGEST_CHAIN as u64).collect::<Vec<_>>());
        let jumps = MOST_JUMPS + 10;
        let mut many = named(&[&[jumps as u64][..], &vec![1; jumps]].concat());
        many.search(&code(&[vec![(JUMP, jumps as i32); jumps], vec![(0x90, 0); jumps]].concat()));
        let reached = (0..jumps).filter(|to| many.jumps(at(0), at((jumps + to) as u64))).count();
        assert_eq!(reached, MOST_JUMPS);
    }

    /// A place is looked for in the nearest few functions that begin before it.
    #[test]
    fn names_over_each_other_are_bounded() {
        let around = (0x1000, 0x1000);
        let find = |short: usize| {
            let parts = (0..short as u64).map(|number| (0x1100 + number, 1));
            Functions::named(&parts.chain([around]).collect::<Vec<_>>()).named_at(0x1800)
        };
        assert_eq!(find(MOST_OVERLAPPING - 1), Some(Span { start: 0x1000, end: 0x2000 }));
        assert_eq!(find(MOST_OVERLAPPING), None);
    }

    /// Sections that touch or lie over each other are one, however many they are; empty ones are none.
    #[test]
    fn ranges_of_code() {
        let many = (0..4096).map(|number| (0x1000 + 16 * number, 17));
        let ranges = Ranges::of(many.chain([(0x10, 0), (0x20, 4), (0x24, 4), (u64::MAX - 1, 10)]));
        assert_eq!(ranges.0.len(), 3);
        for (address, inside) in
            [(0x10, false), (0x1f, false), (0x20, true), (0x27, true), (0x28, false), (0x1fff, true), (0x1_1001, false)]
        {
            assert_eq!(ranges.contains(address), inside, "{address:#x}");
        }
    }
}
