//! glibc's lists of thread descriptors, found as libthread_db finds them: by the `_thread_db_*` descriptors, which tell
//! where in struct pthread a field is, and are symbols also of a stripped libc (nptl_db/structs.def).
//!
//! | glibc | lists | where |
//! |---|---|---|
//! | 2.34 and later | `_dl_stack_used`, `_dl_stack_user`, `_dl_stack_cache`, one behind the other | in ld.so's `_rtld_global` |
//! | up to 2.33 | `stack_used`, `__stack_user`, `stack_cache` | libpthread.so.0, .symtab |
//! | static | `_dl_stack_used` (or `stack_used`), … | the program, .symtab |

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::elf::MappedSymbols;
use super::{List, ListedThread, Memory, StackBlock, Stage, ThreadLists, Unavailable};
use crate::event::{ThreadLibrary, Vma};
use crate::units::{Addr, PAGE, Range, Tid};

/// A list that is longer is a damaged one, which never ends.
const LONGEST: usize = 1 << 20;

/// How often a list that is being changed is looked at again, and how long after.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_micros(500);

/// When so much time has gone into it, it is not: a list of a million threads takes some seconds.
const TRIED_FOR: Duration = Duration::from_secs(1);

/// Where a process has its lists, and what a descriptor looks like.
#[derive(Clone, Debug)]
pub struct Located {
    heads: [(List, Addr); 3],
    /// Bytes in a pointer.
    word: usize,
    /// Offset of the list's node in a descriptor.
    node: u64,
    tid: usize,
    start_routine: usize,
    /// Where a thread's stage is written; none where the descriptor is not laid out as expected.
    stage: Option<StageFields>,
    /// Bytes in a descriptor.
    size: usize,
}

/// Offsets in a descriptor (nptl/descr.h). All of glibc 2.17 to 2.43 has, in this order: `setxid_futex`, `joinid` (since
/// 2.43 `joinstate`), `result`, `schedparam`. Before 2.36 an unused number of eight bytes stands between the first two.
#[derive(Clone, Copy, Debug)]
struct StageFields {
    cancelhandling: usize,
    /// One of these is `setxid_futex`, the other a part of that number, or `setup_failed`: neither is ever negative.
    setxid_futex: [usize; 2],
    joinid: usize,
}

/// Bit of `cancelhandling`: joined, or detached and at its end; the stack is about to leave the list.
const TERMINATED: u32 = 1 << 5;

const PTHREAD_LIST: &str = "_thread_db_pthread_list";
const PTHREAD_TID: &str = "_thread_db_pthread_tid";
const PTHREAD_START_ROUTINE: &str = "_thread_db_pthread_start_routine";
const PTHREAD_CANCELHANDLING: &str = "_thread_db_pthread_cancelhandling";
const PTHREAD_SCHEDPARAM: &str = "_thread_db_pthread_schedparam_sched_priority";
const PTHREAD_REPORT_EVENTS: &str = "_thread_db_pthread_report_events";
const SIZEOF_PTHREAD: &str = "_thread_db_sizeof_pthread";
const RTLD_STACK_USED: &str = "_thread_db_rtld_global__dl_stack_used";
const RTLD_STACK_USER: &str = "_thread_db_rtld_global__dl_stack_user";
const RTLD_GLOBAL: &str = "_rtld_global";

const WANTED: &[&str] = &[
    PTHREAD_LIST,
    PTHREAD_TID,
    PTHREAD_START_ROUTINE,
    PTHREAD_CANCELHANDLING,
    PTHREAD_SCHEDPARAM,
    PTHREAD_REPORT_EVENTS,
    SIZEOF_PTHREAD,
    RTLD_STACK_USED,
    RTLD_STACK_USER,
    RTLD_GLOBAL,
    "_dl_stack_used",
    "_dl_stack_user",
    "_dl_stack_cache",
    "stack_used",
    "__stack_user",
    "stack_cache",
];

/// Finds the lists of the process that has these maps.
///
/// # Errors
/// Why it has none that can be read.
pub fn locate(tid: Tid, maps: &[Vma], memory: &dyn Memory) -> Result<Located, Unavailable> {
    if let Some(libpthread) = first_of(maps, |name| is_library(name, "libpthread")) {
        let symbols = MappedSymbols::read(tid, libpthread, WANTED)?;
        // From 2.34 on it is an empty shell.
        if symbols.address(PTHREAD_LIST).is_ok() {
            return located(memory, &symbols, named_heads(&symbols)?);
        }
    }
    if let Some(libc) = first_of(maps, |name| is_library(name, "libc")) {
        let symbols = MappedSymbols::read(tid, libc, WANTED)?;
        let loader = first_of(maps, |name| is_library(name, "ld")).ok_or(Unavailable::NoGlibc)?;
        let loader = MappedSymbols::read(tid, loader, WANTED)?;
        let global = loader.address(RTLD_GLOBAL)?;
        let offset = |symbol| field(memory, &symbols, symbol);
        let used = at(global, offset(RTLD_STACK_USED)?);
        let user = at(global, offset(RTLD_STACK_USER)?);
        // Not exported, but right behind (struct rtld_global: GL(dl_stack_cache) follows GL(dl_stack_user)).
        let cache = at(user, 2 * symbols.word as u64);
        return located(memory, &symbols, [(List::Used, used), (List::User, user), (List::Cached, cache)]);
    }
    let program = first_of(maps, |name| name.starts_with(b"/")).ok_or(Unavailable::NoGlibc)?;
    let symbols = MappedSymbols::read(tid, program, WANTED)?;
    named_heads(&symbols).and_then(|heads| located(memory, &symbols, heads)).map_err(|_| Unavailable::NoGlibc)
}

/// The first mapping of a file whose name satisfies `is_it`: that with the ELF header.
fn first_of(maps: &[Vma], is_it: impl Fn(&[u8]) -> bool) -> Option<&Vma> {
    maps.iter().find(|vma| vma.offset == 0 && vma.is_file() && is_it(&vma.name))
}

/// Whether a path ends in `NAME.so…` or `NAME-2.31.so`, as glibc's files are called (`libc.so.6`, `ld-2.31.so`,
/// `ld-linux-x86-64.so.2`).
fn is_library(path: &[u8], name: &str) -> bool {
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(rest) = file.strip_prefix(name.as_bytes()) else { return false };
    let versioned = rest.starts_with(b"-2.") && rest.ends_with(b".so");
    let loader = name == "ld" && rest.starts_with(b"-linux") && rest.windows(4).any(|part| part == b".so.");
    rest.starts_with(b".so.") || versioned || loader
}

fn named_heads(symbols: &MappedSymbols) -> Result<[(List, Addr); 3], Unavailable> {
    let either = |new, old| symbols.address(new).or_else(|_| symbols.address(old));
    Ok([
        (List::Used, either("_dl_stack_used", "stack_used")?),
        (List::User, either("_dl_stack_user", "__stack_user")?),
        (List::Cached, either("_dl_stack_cache", "stack_cache")?),
    ])
}

fn located(memory: &dyn Memory, symbols: &MappedSymbols, heads: [(List, Addr); 3]) -> Result<Located, Unavailable> {
    // struct pthread is some 2,300 bytes; what is not between these bounds is none.
    const SIZES: std::ops::RangeInclusive<usize> = 256..=8192;
    let mut size = [0u8; 4];
    memory.read(symbols.address(SIZEOF_PTHREAD)?, &mut size)?;
    let size = u32::from_ne_bytes(size) as usize;
    let word = symbols.word;
    let (tid, start_routine) = (field(memory, symbols, PTHREAD_TID)?, field(memory, symbols, PTHREAD_START_ROUTINE)?);
    let (tid, start_routine) = (tid as usize, start_routine as usize);
    if !SIZES.contains(&size) || tid + 4 > size || start_routine + word > size {
        return Err(Unavailable::Inconsistent);
    }
    let stage =
        stage_fields(memory, symbols).filter(|stage| stage.joinid + word <= size && stage.cancelhandling + 4 <= size);
    Ok(Located { heads, word, node: field(memory, symbols, PTHREAD_LIST)?, tid, start_routine, stage, size })
}

/// Where a thread's stage is written, counted back from the field behind `result`.
fn stage_fields(memory: &dyn Memory, symbols: &MappedSymbols) -> Option<StageFields> {
    let offset = |symbol| usize::try_from(field(memory, symbols, symbol).ok()?).ok();
    let joinid = offset(PTHREAD_SCHEDPARAM)?.checked_sub(2 * symbols.word)?;
    let setxid_futex = [joinid.checked_sub(4)?, joinid.checked_sub(12)?];
    // report_events and other flags, in four bytes, are the last fields before them that may have any value.
    let first = offset(PTHREAD_REPORT_EVENTS)?;
    let is_near = first + 2 < setxid_futex[1] && joinid - first <= 32;
    is_near.then_some(StageFields { cancelhandling: offset(PTHREAD_CANCELHANDLING)?, setxid_futex, joinid })
}

/// The offset in a `_thread_db_*` descriptor: `{ u32 bits, u32 count, u32 offset }`.
fn field(memory: &dyn Memory, symbols: &MappedSymbols, symbol: &'static str) -> Result<u64, Unavailable> {
    let mut bytes = [0u8; 12];
    memory.read(symbols.address(symbol)?, &mut bytes)?;
    Ok(u64::from(u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])))
}

fn at(base: Addr, offset: u64) -> Addr {
    Addr(base.0.wrapping_add(offset))
}

impl Located {
    /// Any layout that [`locate`] may yield, with the lists' heads at the beginning of a memory, for fuzzing.
    pub(super) fn of_layout(layout: [u8; 8], memory: Addr) -> Located {
        let [word, node, tid, start_routine, joinid, cancelhandling, size, near] = layout.map(usize::from);
        let (word, size) = (if word & 1 == 0 { 8 } else { 4 }, 256 + 8 * size);
        let within = |offset: usize, bytes: usize| (8 * offset).min(size - bytes);
        let joinid = within(joinid, word).max(12);
        let setxid_futex = [joinid - 4, joinid - 12];
        let stage = StageFields { cancelhandling: within(cancelhandling, 4), setxid_futex, joinid };
        let head = |number: u64| at(memory, 2 * word as u64 * number);
        Located {
            heads: [(List::Used, head(0)), (List::User, head(1)), (List::Cached, head(2))],
            word,
            node: 8 * node as u64,
            tid: within(tid, 4),
            start_routine: within(start_routine, word),
            stage: (near & 1 == 0).then_some(stage),
            size,
        }
    }

    /// Reads the lists. A change in between shows, and they are read again.
    ///
    /// # Errors
    /// When the memory cannot be read, or no picture of it is whole.
    pub fn read(&self, memory: &dyn Memory) -> Result<ThreadLists, Unavailable> {
        let began = Instant::now();
        for attempt in 0..TRIES {
            match self.read_once(memory) {
                Err(Unavailable::Inconsistent | Unavailable::NoMemory)
                    if attempt + 1 < TRIES && began.elapsed() < TRIED_FOR =>
                {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                result => return result,
            }
        }
        Err(Unavailable::Inconsistent)
    }

    /// The same by a single look, for a target that stands still.
    ///
    /// # Errors
    /// When the memory cannot be read, or the picture is not whole.
    pub fn read_once(&self, memory: &dyn Memory) -> Result<ThreadLists, Unavailable> {
        self.read_at_most(LONGEST, memory)
    }

    /// The same of lists that have at most so many threads together.
    fn read_at_most(&self, most: usize, memory: &dyn Memory) -> Result<ThreadLists, Unavailable> {
        let mut threads = Vec::new();
        let mut seen = HashSet::new();
        let mut bytes = vec![0u8; self.size];
        for (list, head) in self.heads {
            let [first, last] = self.links(memory, head)?;
            let (mut previous, mut node) = (head, first);
            // Until the program's first thread the heads are not set up.
            if first.0 == 0 && last.0 == 0 {
                continue;
            }
            while node != head {
                let (thread, [next, back]) = self.thread(memory, list, node, &mut bytes)?;
                if back != previous || !seen.insert(node) || seen.len() > most {
                    return Err(Unavailable::Inconsistent);
                }
                threads.push(thread);
                (previous, node) = (node, next);
            }
            if last != previous {
                return Err(Unavailable::Inconsistent);
            }
        }
        Ok(ThreadLists { library: ThreadLibrary::Glibc, threads, settled: false })
    }

    /// The function that the thread with this descriptor runs, be it on a list or about to be created.
    pub fn start_routine_of(&self, memory: &dyn Memory, descriptor: Addr) -> Option<Addr> {
        let mut word = [0u8; 8];
        memory.read(at(descriptor, self.start_routine as u64), &mut word[..self.word]).ok()?;
        Some(self.pointer(&word[..self.word]))
    }

    /// The stack that a descriptor names, guard included.
    pub fn stack_of(&self, memory: &dyn Memory, descriptor: Addr) -> Option<Range> {
        let mut bytes = vec![0u8; self.size];
        let (thread, _) = self.thread(memory, List::Used, at(descriptor, self.node), &mut bytes).ok()?;
        Some(thread.stack?.range)
    }

    /// The number of the thread that has this descriptor.
    pub fn number_of(&self, memory: &dyn Memory, descriptor: Addr) -> Option<Tid> {
        let mut number = [0u8; 4];
        memory.read(at(descriptor, self.tid as u64), &mut number).ok()?;
        Some(Tid(i32::from_ne_bytes(number)))
    }

    /// Both pointers of a node: next and previous.
    fn links(&self, memory: &dyn Memory, node: Addr) -> Result<[Addr; 2], Unavailable> {
        let mut bytes = [0u8; 16];
        memory.read(node, &mut bytes[..2 * self.word])?;
        Ok(self.pointers(&bytes))
    }

    /// Next and previous, as they stand in a node.
    fn pointers(&self, node: &[u8]) -> [Addr; 2] {
        [0, self.word].map(|at| self.pointer(&node[at..at + self.word]))
    }

    /// Reads a descriptor and the node in it, in one go. `bytes` are as many as it has.
    fn thread(
        &self,
        memory: &dyn Memory,
        list: List,
        node: Addr,
        bytes: &mut [u8],
    ) -> Result<(ListedThread, [Addr; 2]), Unavailable> {
        let descriptor = Addr(node.0.wrapping_sub(self.node));
        memory.read(descriptor, bytes)?;
        let links = usize::try_from(self.node).ok().and_then(|node| bytes.get(node..node + 2 * self.word));
        let links = links.map(|node| self.pointers(node)).ok_or(Unavailable::Inconsistent)?;
        let word = |index: usize| self.pointer(&bytes[index * self.word..(index + 1) * self.word]).0;
        let words = bytes.len() / self.word;
        // The third word of the thread's control block points to the block itself, on both machines (tcbhead_t).
        if words < 3 || word(2) != descriptor.0 {
            return Err(Unavailable::Inconsistent);
        }
        let mut tid = [0u8; 4];
        tid.copy_from_slice(&bytes[self.tid..self.tid + 4]);
        // The block lies behind the function, in all versions.
        let mut triples =
            (self.start_routine / self.word..words.saturating_sub(2)).map(|at| [0, 1, 2].map(|next| word(at + next)));
        let thread = ListedThread {
            descriptor,
            list,
            tid: Tid(i32::from_ne_bytes(tid)),
            start_routine: self.pointer(&bytes[self.start_routine..self.start_routine + self.word]),
            stage: self.stage.map_or(Stage::Unknown, |fields| self.stage(fields, bytes)),
            stack: triples.find_map(|words| stack_block(words, descriptor)),
            task: None,
        };
        Ok((thread, links))
    }

    /// glibc sets `setxid_futex` to −1 before it puts a stack on the list of used ones (allocate_stack and
    /// get_cached_stack), a call of setxid may make that −2, and the new thread itself sets it to 0 (start_thread).
    fn stage(&self, fields: StageFields, bytes: &[u8]) -> Stage {
        let number = |offset: usize| {
            bytes[offset..offset + 4].iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte))
        };
        let setxid = fields.setxid_futex.map(number);
        if setxid.iter().any(|value| (-2..=-1).contains(&value.cast_signed())) {
            return Stage::Starting;
        }
        if !setxid.iter().all(|value| matches!(value, 0 | 1)) {
            return Stage::Unknown;
        }
        let claimed = self.pointer(&bytes[fields.joinid..fields.joinid + self.word]).0 != 0;
        if claimed || number(fields.cancelhandling) & TERMINATED != 0 { Stage::Claimed } else { Stage::Started }
    }

    fn pointer(&self, bytes: &[u8]) -> Addr {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Addr(u64::from_ne_bytes(word))
    }
}

/// Three words of a descriptor, if they are stackblock, stackblock_size and guardsize: the descriptor lies at the upper
/// end of the block that they name.
fn stack_block(words: [u64; 3], descriptor: Addr) -> Option<StackBlock> {
    let [start, bytes, guard_bytes] = words;
    let aligned = start.is_multiple_of(PAGE) && guard_bytes.is_multiple_of(PAGE) && guard_bytes < bytes;
    // It passes the size that it was asked for on to mmap and munmap, which round it up.
    let bytes = bytes.checked_next_multiple_of(PAGE)?;
    let range = Range::of_len(Addr(start), bytes).filter(|range| aligned && range.contains(descriptor))?;
    // Above the descriptor there is less than two pages: its own rest, and padding.
    (range.end().0 - descriptor.0 < 4 * PAGE).then_some(StackBlock { range, guard_bytes })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Memory made of words; what is not there cannot be read.
    #[derive(Default)]
    struct Words(HashMap<u64, u64>);

    impl Memory for Words {
        fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
            for (index, chunk) in buffer.chunks_mut(8).enumerate() {
                let word = self.0.get(&(addr.0 + 8 * index as u64)).ok_or(Unavailable::NoMemory)?;
                let length = chunk.len();
                chunk.copy_from_slice(&word.to_ne_bytes()[..length]);
            }
            Ok(())
        }
    }

    const USED: u64 = 0x100;
    const USER: u64 = 0x110;
    const CACHE: u64 = 0x120;

    fn layout() -> Located {
        let heads = [(List::Used, Addr(USED)), (List::User, Addr(USER)), (List::Cached, Addr(CACHE))];
        Located { heads, word: 8, node: 0x40, tid: 0x50, start_routine: 0x58, stage: None, size: 0x80 }
    }

    /// Lists of descriptors, each linked into a circle behind its head.
    fn memory(lists: &[(u64, &[u64])]) -> Words {
        let mut words = Words::default();
        for (head, descriptors) in lists {
            let nodes: Vec<u64> =
                std::iter::once(*head).chain(descriptors.iter().map(|descriptor| descriptor + 0x40)).collect();
            for (index, node) in nodes.iter().enumerate() {
                words.0.insert(*node, nodes[(index + 1) % nodes.len()]);
                words.0.insert(node + 8, nodes[(index + nodes.len() - 1) % nodes.len()]);
            }
            for descriptor in *descriptors {
                for word in (0..0x80).step_by(8) {
                    words.0.entry(descriptor + word).or_insert(0);
                }
                words.0.insert(descriptor + 0x60, descriptor & !0xffff);
                words.0.insert(descriptor + 0x68, 0x10000);
                words.0.insert(descriptor + 0x70, 0x1000);
                words.0.insert(descriptor + 0x10, *descriptor);
                words.0.insert(descriptor + 0x50, descriptor / 0x10000);
                words.0.insert(descriptor + 0x58, 0xc0de);
            }
        }
        words
    }

    /// Each thread is found on its list, with its number and its function.
    #[test]
    fn threads_of_all_lists() {
        let words = memory(&[(USED, &[0x1f000, 0x2f000]), (USER, &[0x3f000]), (CACHE, &[])]);
        let lists = layout().read_once(&words).unwrap();
        let found: Vec<(List, u64, i32)> =
            lists.threads.iter().map(|thread| (thread.list, thread.descriptor.0, thread.tid.0)).collect();
        assert_eq!(found, [(List::Used, 0x1f000, 1), (List::Used, 0x2f000, 2), (List::User, 0x3f000, 3)]);
        assert!(lists.threads.iter().all(|thread| thread.start_routine == Addr(0xc0de)));
        let stack = lists.threads[0].stack.unwrap();
        assert_eq!((stack.range.to_string(), stack.guard_bytes), ("10000-20000".to_owned(), PAGE));
    }

    /// A list that was caught half-changed, runs in a circle, or leads into the wild is not believed.
    #[test]
    fn damaged_lists_are_not_believed() {
        let whole = || memory(&[(USED, &[0x1f000, 0x2f000]), (USER, &[]), (CACHE, &[])]);
        let mut half_linked = whole();
        half_linked.0.insert(0x2f048, USED);
        assert_eq!(layout().read_once(&half_linked), Err(Unavailable::Inconsistent));
        let mut circle = whole();
        circle.0.insert(0x2f040, 0x1f040);
        assert_eq!(layout().read_once(&circle), Err(Unavailable::Inconsistent));
        let mut wild = whole();
        wild.0.insert(0x2f040, 0xdead_0000);
        assert_eq!(layout().read_once(&wild), Err(Unavailable::NoMemory));
        let mut no_thread = whole();
        no_thread.0.insert(0x1f010, 0);
        assert_eq!(layout().read_once(&no_thread), Err(Unavailable::Inconsistent));
    }

    /// A list that does not end is given up.
    #[test]
    fn lists_are_bounded() {
        let words = memory(&[(USED, &[0x1f000, 0x2f000]), (USER, &[0x3f000]), (CACHE, &[])]);
        let threads = |most| layout().read_at_most(most, &words).map(|lists| lists.threads.len());
        assert_eq!([2, 3].map(threads), [Err(Unavailable::Inconsistent), Ok(3)]);
    }

    /// A thread that has not run yet, one that has, one that is joined: told apart with and without the number that glibc
    /// before 2.36 has between the fields; nothing is made of values that they cannot have.
    #[test]
    fn stages_of_a_life() {
        let layout = layout();
        let stage = |setxid_futex: usize, setxid: i32, joinid: u8, cancelhandling: u8| {
            let mut bytes = vec![0u8; layout.size];
            bytes[setxid_futex..setxid_futex + 4].copy_from_slice(&setxid.to_ne_bytes());
            (bytes[0x30], bytes[0x10]) = (joinid, cancelhandling);
            layout.stage(StageFields { cancelhandling: 0x10, setxid_futex: [0x2c, 0x24], joinid: 0x30 }, &bytes)
        };
        for setxid_futex in [0x2c, 0x24] {
            assert_eq!([-1, -2].map(|setxid| stage(setxid_futex, setxid, 0, 0)), [Stage::Starting; 2]);
            assert_eq!([0, 1].map(|setxid| stage(setxid_futex, setxid, 0, 0x10)), [Stage::Started; 2]);
            assert_eq!(stage(setxid_futex, 77, 0, 0), Stage::Unknown);
            assert_eq!(
                stage(setxid_futex, -1, 1, 0x20),
                Stage::Starting,
                "what is left of its former life does not count"
            );
        }
        assert_eq!([stage(0x2c, 0, 1, 0x10), stage(0x2c, 0, 0, 0x30)], [Stage::Claimed; 2]);
    }

    /// glibc's files by their names in several distributions; others' are not taken for them.
    #[test]
    fn names_of_libraries() {
        assert!(is_library(b"/usr/lib/x86_64-linux-gnu/libc.so.6", "libc"));
        assert!(is_library(b"/lib/x86_64-linux-gnu/libc-2.31.so", "libc"));
        assert!(is_library(b"/lib/x86_64-linux-gnu/libpthread-2.31.so", "libpthread"));
        assert!(is_library(b"/lib64/ld-linux-x86-64.so.2", "ld"));
        assert!(is_library(b"/lib/ld-linux.so.2", "ld"));
        assert!(!is_library(b"/usr/lib/libcrypt.so.1", "libc"));
        assert!(!is_library(b"/usr/lib/libc++.so.1", "libc"));
        assert!(!is_library(b"/lib/ld-musl-x86_64.so.1", "ld"));
    }
}
