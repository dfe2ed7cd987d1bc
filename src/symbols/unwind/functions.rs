//! Where the functions of a file are, as far as its symbols and its own calls tell.

use super::elf::CodeSections;

/// Functions of a file, at linked addresses.
#[derive(Debug, Default)]
pub struct Functions {
    /// Named ones in order, from start to end; aliases overlap.
    named: Box<[Span]>,
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
    /// Those of a file.
    pub fn of(sections: &CodeSections) -> Functions {
        let named = sections.functions.iter().filter(|(_, size)| *size != 0);
        let mut named: Vec<Span> =
            named.map(|(start, size)| Span { start: *start, end: start.saturating_add(*size) }).collect();
        named.sort_unstable_by_key(|span| (span.start, span.end));
        let is_code = |target: u64| {
            sections.code.iter().any(|section| {
                target.checked_sub(section.address).is_some_and(|offset| offset < section.bytes.len() as u64)
            })
        };
        let code = || sections.code.iter().flat_map(|section| references(section.address, &section.bytes));
        let starts = sections.functions.iter().map(|(start, _)| *start);
        let called = code().filter(|reference| reference.kind == Kind::Entry).map(|reference| reference.to);
        let mut functions = Functions { named: named.into(), ..Functions::default() };
        functions.called = in_order(starts.chain(called).filter(|target| is_code(*target)).take(MOST).collect());
        let jumps = code().filter(|reference| reference.kind == Kind::Jump && is_code(reference.to));
        let leaves = jumps.filter(|jump| functions.at(jump.from).is_some_and(|span| !span.contains(jump.to)));
        functions.jumps = in_order(leaves.map(|jump| (jump.from, jump.to)).take(MOST).collect());
        // What is jumped to from another function is a function, too.
        let starts = functions.called.iter().copied().chain(functions.jumps.iter().map(|(_, to)| *to));
        functions.called = in_order(starts.collect());
        functions
    }

    /// How many of them there are: what they cost.
    pub fn len(&self) -> usize {
        self.named.len() + self.called.len() + self.jumps.len()
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
        let first = self.jumps.partition_point(|(from, _)| span.is_none_or(|span| *from < span.start));
        let jumps =
            self.jumps[first..].iter().take_while(move |(from, _)| span.is_some_and(|span| span.contains(*from)));
        jumps.map(|(_, to)| *to)
    }

    /// The function at an address; none where that is not known.
    ///
    /// A function without a name reaches from where something calls it to the next one.
    pub fn at(&self, address: u64) -> Option<Span> {
        let behind = self.named.partition_point(|span| span.start <= address);
        let before = self.named[..behind].iter().rev().take(MOST_OVERLAPPING);
        if let Some(named) = before.clone().find(|span| span.contains(address)) {
            return Some(*named);
        }
        let gap_start = before.map(|span| span.end).max().unwrap_or(0);
        let behind = self.called.partition_point(|start| *start <= address);
        let start = *self.called.get(behind.checked_sub(1)?)?;
        let end = self.called.get(behind).copied().unwrap_or(u64::MAX);
        (start >= gap_start).then_some(Span { start, end })
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
