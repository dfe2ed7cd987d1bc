//! malloc's arenas in a process, found by what glibc writes at their beginning.

use crate::event::{Prot, Sharing, Vma};
use crate::threadlib::Memory;
use crate::units::{Addr, PAGE, Range};

/// glibc's arenas apart from the main one: each heap of one is aligned to its largest size (malloc/arena.c, HEAP_MAX_SIZE),
/// of which the first part may be accessed. `word` is the size of a pointer in bytes.
///
/// Go's heap looks the same from outside, so the `heap_info` at the beginning decides. It is read only where `is_written` says
/// that a page has contents: for one that has none the kernel would make the tables that lead to it, in the target, and a
/// sanitizer's shadow has terabytes of such.
pub fn find(memory: &dyn Memory, maps: &[Vma], word: usize, is_written: impl Fn(Addr) -> bool) -> Vec<Range> {
    let largest = if word == 8 { 64 << 20 } else { 1 << 20 };
    let is_plain = |vma: &Vma| vma.sharing == Sharing::Private && !vma.is_file();
    let mut found: Vec<Range> = Vec::new();
    for vma in maps.iter().filter(|vma| is_plain(vma) && vma.prot.contains(Prot::READ.with(Prot::WRITE))) {
        // Neighbours that are used up are one line.
        let mut next = vma.range.start().0.checked_next_multiple_of(largest);
        while let Some(start) = next.filter(|start| *start < vma.range.end().0) {
            if let Some(range) = Range::of_len(Addr(start), largest)
                && is_written(range.start())
                && is_heap(memory, range, word)
            {
                found.push(range);
            }
            next = start.checked_add(largest);
        }
    }
    found
}

/// `struct heap_info { mstate ar_ptr; heap_info *prev; size_t size; size_t mprotect_size; … }`.
fn is_heap(memory: &dyn Memory, range: Range, word: usize) -> bool {
    let mut bytes = [0u8; 32];
    if memory.read(range.start(), &mut bytes[..4 * word]).is_err() {
        return false;
    }
    let value = |index: usize| {
        let bytes = &bytes[index * word..(index + 1) * word];
        bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let [arena, previous, size, accessible] = [0, 1, 2, 3].map(value);
    let largest = range.bytes();
    let sizes = size.is_multiple_of(PAGE) && size > 0 && size <= accessible && accessible <= largest;
    // An arena lies behind the heap_info of its first heap; that of a later heap names the one before.
    let own = arena > range.start().0 && arena < range.start().0 + 256;
    let later = previous != 0 && previous.is_multiple_of(largest) && arena % largest < 256 && arena % largest > 0;
    sizes && accessible.is_multiple_of(PAGE) && (if previous == 0 { own } else { later })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::maps::parse;
    use crate::threadlib::Unavailable;

    /// Memory in which the given words lie at an address, and nothing elsewhere.
    struct At(u64, [u64; 4]);

    impl Memory for At {
        fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
            if addr.0 != self.0 {
                return Err(Unavailable::NoMemory);
            }
            for (chunk, word) in buffer.chunks_mut(8).zip(self.1) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            Ok(())
        }
    }

    /// The first heap of an arena is one; Go's, whose beginning holds something else, is none.
    #[test]
    fn heaps_and_what_looks_like_them() {
        let maps = parse(
            b"7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n7f0000021000-7f0004000000 ---p 00000000 00:00 0 \n",
        );
        let start = 0x7f00_0000_0000;
        let heap = At(start, [start + 0x30, 0, 0x21000, 0x21000]);
        let find = |memory: &At| find(memory, &maps, 8, |_| true);
        assert_eq!(find(&heap), [Range::of_len(Addr(start), 64 << 20).unwrap()]);
        for words in [[0; 4], [start + 0x30, 0, 0x21000, 0x20000], [start + 0x5000, 0, 0x21000, 0x21000]] {
            assert_eq!(find(&At(start, words)), []);
        }
        let second = At(start, [start - (64 << 20) + 0x30, start - (64 << 20), 0x1000, 0x21000]);
        assert_eq!(find(&second).len(), 1);
    }
}
