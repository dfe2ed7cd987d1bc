//! musl's thread descriptors (src/internal/pthread_impl.h, src/thread/pthread_create.c of 1.2). Where the stacks of its live
//! threads are, and which threads have ended and were not joined.
//!
//! Live threads are a circle. A joinable one leaves it when it ends: its descriptor says so, links to itself alone, and
//! stays at the top of its stack until pthread_join unmaps both. A detached one unmaps its stack itself. So the
//! descriptor of an ended thread that is still there is that of one which nobody has joined.
//!
//! Nothing points to such a descriptor but itself: it is looked for above the guards that the kernel's maps show. It is
//! believed when it points to itself three times over, says that it has ended and has no number, and when the words that
//! tell the stack's bounds agree with each other and with where it lies.

use super::{List, ListedThread, Memory, StackBlock, Stage, ThreadLists};
use crate::event::{Prot, Sharing, ThreadLibrary, Vma};
use crate::units::{Addr, PAGE, Range, Tid};

/// Words of a descriptor, of 8 bytes: x86-64 alone.
const SELF: usize = 0;
const PREV: usize = 2;
const NEXT: usize = 3;
const TID: usize = 6;
const DETACH_STATE: usize = 7;
/// `map_base`, `map_size`, `stack`, `stack_size`, `guard_size`.
const BOUNDS: usize = 9;
/// The thread's own values (pthread_getspecific), with which the mapping ends.
const TSD: usize = 16;
const WORDS: usize = TSD + 1;

/// Bytes of these, at most: a static program may have none.
const LARGEST_TSD: u64 = 1024;

/// `DT_EXITED`.
const EXITED: u32 = 0;

/// `struct start_args`, right below `stack`: the function first.
const START_ARGS_BYTES: u64 = 32;

/// Larger regions hold something else than a stack.
const LARGEST: u64 = 1 << 30;

/// So much memory is searched, all regions together: half a million stacks as musl makes them have less.
const MOST_MAPPED: u64 = 1 << 40;
/// And so much of what has been written to.
const MOST_WRITTEN: u64 = 8 << 30;

/// Threads that are listed: memory can be filled with what looks like them.
const MOST_THREADS: usize = 1 << 20;

/// Whether this thread's descriptor, at the base of its thread-local storage, is musl's: one of a circle.
pub fn is_here(memory: &dyn Memory, thread: Addr) -> bool {
    let next = Descriptor::read(memory, thread).and_then(|descriptor| {
        let next = Descriptor::read(memory, Addr(descriptor.words[NEXT]))?;
        Some(next.words[PREV])
    });
    next == Some(thread.0)
}

/// The threads that there are: the live ones, whose descriptors are at `live`, and those that have ended and were not
/// joined. `touched` tells which pages of a range have ever been written to.
pub fn read(
    memory: &dyn Memory,
    maps: &[Vma],
    live: impl Iterator<Item = Addr>,
    touched: impl Fn(Range) -> Vec<Range>,
) -> ThreadLists {
    read_at_most(MOST_THREADS, memory, maps, live, touched)
}

/// The same of so many threads at most.
fn read_at_most(
    most: usize,
    memory: &dyn Memory,
    maps: &[Vma],
    live: impl Iterator<Item = Addr>,
    touched: impl Fn(Range) -> Vec<Range>,
) -> ThreadLists {
    let live = live.filter_map(|thread| Descriptor::read(memory, thread));
    // A process can touch terabytes at little cost, for all its pages of zeroes are one. What is beyond is not looked at.
    let (mut mapped, mut written) = (0, 0);
    let searched = above_guards(maps).take_while(|stack| {
        mapped += stack.bytes();
        mapped <= MOST_MAPPED
    });
    let pages = searched.flat_map(touched).take_while(|pages| {
        written += pages.bytes();
        written <= MOST_WRITTEN
    });
    let pages = pages.flat_map(|pages| (pages.start().0..pages.end().0).step_by(PAGE as usize));
    let ended = pages.flat_map(|page| ended_within(memory, page));
    let threads = live.chain(ended).filter_map(|descriptor| descriptor.listed(memory)).take(most).collect();
    ThreadLists { library: ThreadLibrary::Musl, threads, settled: false }
}

/// The stack that a descriptor names, guard included.
pub fn stack_of(memory: &dyn Memory, descriptor: Addr) -> Option<Range> {
    let (stack, _) = Descriptor::read(memory, descriptor)?.stack()?;
    Some(stack.range)
}

/// Anonymous memory right above such as cannot be accessed: stacks begin so.
fn above_guards(maps: &[Vma]) -> impl Iterator<Item = Range> {
    let is_plain = |vma: &Vma| !vma.is_file() && vma.name.is_empty() && vma.sharing == Sharing::Private;
    maps.windows(2).filter_map(move |pair| {
        let [guard, stack] = pair else { return None };
        let guarded = guard.prot == Prot::NONE && guard.range.end() == stack.range.start() && is_plain(guard);
        let writable = stack.prot.contains(Prot::WRITE) && is_plain(stack) && stack.range.bytes() <= LARGEST;
        (guarded && writable).then_some(stack.range)
    })
}

/// The descriptors in this page of threads that have ended.
fn ended_within(memory: &dyn Memory, page: u64) -> Vec<Descriptor> {
    let mut found = Vec::new();
    let mut bytes = [0u8; PAGE as usize];
    if memory.read(Addr(page), &mut bytes).is_err() {
        return found;
    }
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        let here = page + 8 * index as u64;
        if word == here.to_ne_bytes() {
            found.extend(Descriptor::read(memory, Addr(here)).filter(Descriptor::has_ended));
        }
    }
    found
}

/// A descriptor (`struct pthread`), as far as it is of interest here.
struct Descriptor {
    at: Addr,
    words: [u64; WORDS],
}

impl Descriptor {
    /// What is at `at`, if it points to itself.
    fn read(memory: &dyn Memory, at: Addr) -> Option<Descriptor> {
        let mut bytes = [0u8; 8 * WORDS];
        memory.read(at, &mut bytes).ok()?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        (words[SELF] == at.0).then_some(Descriptor { at, words })
    }

    fn has_ended(&self) -> bool {
        let alone = self.words[PREV] == self.at.0 && self.words[NEXT] == self.at.0;
        alone && self.words[DETACH_STATE] as u32 == EXITED && self.words[TID] as u32 == 0
    }

    /// The stack and where its thread's own part begins; none for the main thread's, and for one that the program gave.
    fn stack(&self) -> Option<(StackBlock, Addr)> {
        let [start, bytes, top, stack_bytes, guard_bytes] = *self.words[BOUNDS..BOUNDS + 5].as_array()?;
        let range = Range::of_len(Addr(start), bytes)?;
        let aligned = start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && guard_bytes.is_multiple_of(PAGE);
        let agrees = start.checked_add(guard_bytes)?.checked_add(stack_bytes) == Some(top);
        let within = range.contains(Addr(top)) && range.contains(self.at) && top <= self.at.0;
        let ends = range.end().0.checked_sub(self.words[TSD]).is_some_and(|tsd_bytes| tsd_bytes <= LARGEST_TSD);
        (aligned && agrees && within && ends).then_some((StackBlock { range, guard_bytes }, Addr(top)))
    }

    fn listed(&self, memory: &dyn Memory) -> Option<ListedThread> {
        let (stack, top) = self.stack()?;
        let mut start_routine = [0u8; 8];
        let start_args = Addr((top.0 & !7).checked_sub(START_ARGS_BYTES)?);
        memory.read(start_args, &mut start_routine).ok()?;
        Some(ListedThread {
            stage: Stage::Unknown,
            descriptor: self.at,
            list: List::Used,
            tid: Tid(self.words[TID] as i32),
            start_routine: Addr(u64::from_ne_bytes(start_routine)),
            stack: Some(stack),
            task: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Unavailable;
    use super::*;

    /// Memory that is 0 but for some words.
    struct Words(HashMap<u64, u64>);

    impl Memory for Words {
        fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
            for (index, chunk) in buffer.chunks_mut(8).enumerate() {
                let word = self.0.get(&(addr.0 + 8 * index as u64)).copied().unwrap_or_default();
                chunk.copy_from_slice(&word.to_ne_bytes()[..chunk.len()]);
            }
            Ok(())
        }
    }

    const BASE: u64 = 0x7000_0000;
    const BYTES: u64 = 64 * PAGE;
    const TOP: u64 = BASE + BYTES - 0x600;
    const DESCRIPTOR: u64 = TOP + 0x80;
    const JOINABLE: u64 = 2;

    /// A thread that has ended unjoined: where each word is, and what it is.
    fn ended() -> HashMap<u64, u64> {
        let bounds = [BASE, BYTES, TOP, TOP - BASE - PAGE, PAGE];
        let bounds = bounds.into_iter().enumerate().map(|(index, word)| (BOUNDS + index, word));
        let words = [(SELF, DESCRIPTOR), (PREV, DESCRIPTOR), (NEXT, DESCRIPTOR), (TSD, BASE + BYTES - 1024)];
        let words = words.into_iter().chain(bounds);
        let words = words.map(|(index, word)| (DESCRIPTOR + 8 * index as u64, word));
        words.chain([(TOP - START_ARGS_BYTES, 0xc0de)]).collect()
    }

    /// A page of private memory.
    fn line(prot: Prot) -> Vma {
        Vma {
            range: Range::of_len(Addr(BASE), PAGE).unwrap(),
            prot,
            sharing: Sharing::Private,
            offset: 0,
            inode: 0,
            device: 0,
            name: Box::default(),
        }
    }

    fn found(words: HashMap<u64, u64>) -> Vec<ListedThread> {
        let line = |start, bytes, prot| Vma { range: Range::of_len(Addr(start), bytes).unwrap(), ..line(prot) };
        let read_write = Prot::READ.with(Prot::WRITE);
        let maps = [line(BASE, PAGE, Prot::NONE), line(BASE + PAGE, BYTES - PAGE, read_write)];
        let top_page = |range: Range| vec![Range::new(Addr(range.end().0 - PAGE), range.end()).unwrap()];
        read(&Words(words), &maps, std::iter::empty(), top_page).threads
    }

    /// A thread that has ended unjoined is found, with its stack and its function.
    #[test]
    fn an_ended_thread() {
        let threads = found(ended());
        let [thread] = threads.as_slice() else { panic!("{threads:?}") };
        assert_eq!((thread.descriptor.0, thread.start_routine.0, thread.list), (DESCRIPTOR, 0xc0de, List::Used));
        let stack = thread.stack.unwrap();
        assert_eq!((stack.range.start().0, stack.range.bytes(), stack.guard_bytes), (BASE, BYTES, PAGE));
    }

    /// Words that do not fit together, or tell of a thread that lives, are not believed.
    #[test]
    fn one_wrong_word_is_enough() {
        for index in [SELF, PREV, NEXT, TID, DETACH_STATE].into_iter().chain(BOUNDS..BOUNDS + 5).chain([TSD]) {
            for wrong in [JOINABLE, BASE + PAGE, u64::MAX] {
                let mut words = ended();
                words.insert(DESCRIPTOR + 8 * index as u64, wrong);
                assert_eq!(found(words), [], "{wrong:#x} as word {index}");
            }
        }
    }

    /// However much memory there is, and whatever it is filled with, a part of it is searched: the lowest regions.
    #[test]
    fn the_search_is_bounded() {
        use std::cell::RefCell;
        struct Nothing(RefCell<Vec<u64>>);
        impl Memory for Nothing {
            fn read(&self, addr: Addr, _: &mut [u8]) -> Result<(), Unavailable> {
                self.0.borrow_mut().push(addr.0);
                Err(Unavailable::NoMemory)
            }
        }
        let line = |start, bytes, prot| Vma { range: Range::of_len(Addr(start), bytes).unwrap(), ..line(prot) };
        let read_write = Prot::READ.with(Prot::WRITE);
        // A page of each region has been written to, and of those behind the first two as much as it may seem.
        let search = |bytes: u64, regions: u64, written: u64| {
            let region = |number| {
                let start = BASE + number * (PAGE + bytes);
                [line(start, PAGE, Prot::NONE), line(start + PAGE, bytes, read_write)]
            };
            let maps: Vec<Vma> = (0..regions).flat_map(region).collect();
            let memory = Nothing(RefCell::default());
            let looked_at = RefCell::new(0);
            let touched = |range: Range| {
                *looked_at.borrow_mut() += 1;
                let written = if *looked_at.borrow() <= 2 { PAGE } else { written };
                vec![Range::of_len(range.start(), written).unwrap()]
            };
            read(&memory, &maps, std::iter::empty(), touched);
            (looked_at.into_inner(), memory.0.into_inner().len() as u64)
        };
        assert_eq!(search(LARGEST, 5, PAGE), (5, 5));
        assert_eq!(search(LARGEST + PAGE, 5, PAGE), (0, 0));
        let most = MOST_MAPPED / LARGEST;
        assert_eq!(search(LARGEST, most + 5, PAGE), (most, most));
        assert_eq!(search(64 * PAGE, 9, MOST_WRITTEN - PAGE), (3, 2));
    }

    /// Memory full of what looks like threads that have ended has no more than so many.
    #[test]
    fn threads_are_bounded() {
        let live = std::iter::repeat_n(Addr(DESCRIPTOR), 9);
        let lists = read_at_most(3, &Words(ended()), &[], live, |_| Vec::new());
        assert_eq!(lists.threads.len(), 3);
    }

    /// musl is there if a thread's descriptor is one of a circle, be it of one. glibc's third word points to itself too,
    /// but the fourth is no pointer.
    #[test]
    fn a_circle_of_threads() {
        assert!(is_here(&Words(ended()), Addr(DESCRIPTOR)));
        assert!(!is_here(&Words(ended()), Addr(DESCRIPTOR + 8)));
        let glibc = HashMap::from([(DESCRIPTOR, DESCRIPTOR), (DESCRIPTOR + 16, DESCRIPTOR), (DESCRIPTOR + 24, 1)]);
        assert!(!is_here(&Words(glibc), Addr(DESCRIPTOR)));
    }
}
