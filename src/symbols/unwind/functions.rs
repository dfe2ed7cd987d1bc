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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
        let is_code = |target: u64| {
            sections.code.iter().any(|section| {
                target.checked_sub(section.address).is_some_and(|offset| offset < section.bytes.len() as u64)
            })
        };
        let code = || sections.code.iter().flat_map(|section| references(section.address, &section.bytes));
        let starts = sections.functions.iter().map(|(start, _)| *start);
        let called = code().filter(|reference| reference.kind == Kind::Entry).map(|reference| reference.to);
        let called = in_order(starts.chain(called).filter(|target| is_code(*target)).take(MOST).collect());
        self.searched = Some(Searched { called, ..Searched::default() });
        let jumps = code().filter(|reference| reference.kind == Kind::Jump && is_code(reference.to));
        let leaves = jumps.filter(|jump| self.at(jump.from).is_some_and(|span| !span.contains(jump.to)));
        let jumps = in_order(leaves.map(|jump| (jump.from, jump.to)).take(MOST).collect());
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
