//! glibc's lists of thread descriptors, found as libthread_db finds them: by the `_thread_db_*` descriptors, which tell
//! where in struct pthread a field is, and are symbols also of a stripped libc (nptl_db/structs.def).
//!
//! | glibc | lists | where |
//! |---|---|---|
//! | 2.34 and later | `_dl_stack_used`, `_dl_stack_user`, `_dl_stack_cache`, one behind the other | in ld.so's `_rtld_global` |
//! | up to 2.33 | `stack_used`, `__stack_user`, `stack_cache` | libpthread.so.0, .symtab |
//! | static | `_dl_stack_used` (or `stack_used`), … | the program, .symtab |

use std::collections::HashSet;
use std::time::Duration;

use super::elf::MappedSymbols;
use super::{List, ListedThread, Memory, StackBlock, ThreadLists, Unavailable};
use crate::event::{ThreadLibrary, Vma};
use crate::units::{Addr, PAGE, Range, Tid};

/// A list that is longer is a damaged one, which never ends.
const LONGEST: usize = 1 << 20;

/// How often a list that is being changed is looked at again, and how long after.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_micros(500);

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
    /// Bytes in a descriptor.
    size: usize,
}

const PTHREAD_LIST: &str = "_thread_db_pthread_list";
const PTHREAD_TID: &str = "_thread_db_pthread_tid";
const PTHREAD_START_ROUTINE: &str = "_thread_db_pthread_start_routine";
const SIZEOF_PTHREAD: &str = "_thread_db_sizeof_pthread";
const RTLD_STACK_USED: &str = "_thread_db_rtld_global__dl_stack_used";
const RTLD_STACK_USER: &str = "_thread_db_rtld_global__dl_stack_user";
const RTLD_GLOBAL: &str = "_rtld_global";

const WANTED: &[&str] = &[
    PTHREAD_LIST,
    PTHREAD_TID,
    PTHREAD_START_ROUTINE,
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
pub fn locate(tid: Tid, maps: &[Vma]) -> Result<Located, Unavailable> {
    let memory = super::TaskMemory(tid);
    if let Some(libpthread) = first_of(maps, |name| is_library(name, "libpthread")) {
        let symbols = MappedSymbols::read(tid, libpthread, WANTED)?;
        // From 2.34 on it is an empty shell.
        if symbols.address(PTHREAD_LIST).is_ok() {
            return located(&memory, &symbols, named_heads(&symbols)?);
        }
    }
    if let Some(libc) = first_of(maps, |name| is_library(name, "libc")) {
        let symbols = MappedSymbols::read(tid, libc, WANTED)?;
        let loader = first_of(maps, |name| is_library(name, "ld")).ok_or(Unavailable::NoGlibc)?;
        let loader = MappedSymbols::read(tid, loader, WANTED)?;
        let global = loader.address(RTLD_GLOBAL)?;
        let offset = |symbol| field(&memory, &symbols, symbol);
        let used = at(global, offset(RTLD_STACK_USED)?);
        let user = at(global, offset(RTLD_STACK_USER)?);
        // Not exported, but right behind (struct rtld_global: GL(dl_stack_cache) follows GL(dl_stack_user)).
        let cache = at(user, 2 * symbols.word as u64);
        return located(&memory, &symbols, [(List::Used, used), (List::User, user), (List::Cached, cache)]);
    }
    let program = first_of(maps, |name| name.starts_with(b"/")).ok_or(Unavailable::NoGlibc)?;
    let symbols = MappedSymbols::read(tid, program, WANTED)?;
    located(&memory, &symbols, named_heads(&symbols)?).map_err(|_| Unavailable::NoGlibc)
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
    const SIZES: std::ops::RangeInclusive<usize> = 256..=65_536;
    let mut size = [0u8; 4];
    memory.read(symbols.address(SIZEOF_PTHREAD)?, &mut size)?;
    let size = u32::from_ne_bytes(size) as usize;
    let word = symbols.word;
    let (tid, start_routine) = (field(memory, symbols, PTHREAD_TID)?, field(memory, symbols, PTHREAD_START_ROUTINE)?);
    let (tid, start_routine) = (tid as usize, start_routine as usize);
    if !SIZES.contains(&size) || tid + 4 > size || start_routine + word > size {
        return Err(Unavailable::Inconsistent);
    }
    Ok(Located { heads, word, node: field(memory, symbols, PTHREAD_LIST)?, tid, start_routine, size })
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
    /// Reads the lists. A change in between shows, and they are read again.
    ///
    /// # Errors
    /// When the memory cannot be read, or no picture of it is whole.
    pub fn read(&self, memory: &dyn Memory) -> Result<ThreadLists, Unavailable> {
        for attempt in 0..TRIES {
            match self.read_once(memory) {
                Err(Unavailable::Inconsistent | Unavailable::NoMemory) if attempt + 1 < TRIES => {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                result => return result,
            }
        }
        Err(Unavailable::Inconsistent)
    }

    fn read_once(&self, memory: &dyn Memory) -> Result<ThreadLists, Unavailable> {
        let mut threads = Vec::new();
        let mut seen = HashSet::new();
        for (list, head) in self.heads {
            let (first, last) = self.links(memory, head)?;
            let (mut previous, mut node) = (head, first);
            // Until the program's first thread the heads are not set up.
            if first.0 == 0 && last.0 == 0 {
                continue;
            }
            while node != head {
                let (next, back) = self.links(memory, node)?;
                if back != previous || !seen.insert(node) || seen.len() > LONGEST {
                    return Err(Unavailable::Inconsistent);
                }
                threads.push(self.thread(memory, list, node)?);
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

    /// Finds out which threads are only just being created where a task's end clears a word of its own and not its number,
    /// from 2.43 on (`joinstate` of struct pthread): pthread_create sets it before its thread exists. `cleared` is its
    /// offset.
    pub fn find_created(&self, memory: &dyn Memory, cleared: u64, lists: &mut ThreadLists) {
        /// `THREAD_STATE_JOINABLE` and `THREAD_STATE_DETACHED`; ended threads have 0, those that are ending 1.
        const BEFORE_ITS_END: [u32; 2] = [2, 3];
        let without_task = |thread: &&mut ListedThread| thread.list == List::Used && thread.task.is_none();
        for thread in lists.threads.iter_mut().filter(without_task).filter(|thread| thread.tid.0 == 0) {
            let mut state = [0u8; 4];
            let known = cleared != self.tid as u64 && memory.read(at(thread.descriptor, cleared), &mut state).is_ok();
            thread.being_created = known && BEFORE_ITS_END.contains(&u32::from_ne_bytes(state));
        }
    }

    /// Both pointers of a node: next and previous.
    fn links(&self, memory: &dyn Memory, node: Addr) -> Result<(Addr, Addr), Unavailable> {
        let mut bytes = [0u8; 16];
        memory.read(node, &mut bytes[..2 * self.word])?;
        Ok((self.pointer(&bytes[..self.word]), self.pointer(&bytes[self.word..2 * self.word])))
    }

    /// Reads a descriptor, in one go.
    fn thread(&self, memory: &dyn Memory, list: List, node: Addr) -> Result<ListedThread, Unavailable> {
        let descriptor = Addr(node.0.wrapping_sub(self.node));
        let mut bytes = vec![0u8; self.size];
        memory.read(descriptor, &mut bytes)?;
        let words: Vec<u64> = bytes.chunks_exact(self.word).map(|word| self.pointer(word).0).collect();
        // The third word of the thread's control block points to the block itself, on both machines (tcbhead_t).
        if words.get(2) != Some(&descriptor.0) {
            return Err(Unavailable::Inconsistent);
        }
        let mut tid = [0u8; 4];
        tid.copy_from_slice(&bytes[self.tid..self.tid + 4]);
        let tid = Tid(i32::from_ne_bytes(tid));
        Ok(ListedThread {
            descriptor,
            list,
            tid,
            start_routine: self.pointer(&bytes[self.start_routine..self.start_routine + self.word]),
            stack: words.windows(3).find_map(|words| stack_block(words, descriptor)),
            task: None,
            // Up to 2.42 a joined thread leaves −1 till then.
            being_created: list == List::Used && tid.0 < 0,
        })
    }

    fn pointer(&self, bytes: &[u8]) -> Addr {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Addr(u64::from_ne_bytes(word))
    }
}

/// Three words of a descriptor, if they are stackblock, stackblock_size and guardsize: the descriptor lies at the upper
/// end of the block that they name.
fn stack_block(words: &[u64], descriptor: Addr) -> Option<StackBlock> {
    let &[start, bytes, guard_bytes] = words else { return None };
    let aligned = bytes.is_multiple_of(PAGE) && guard_bytes.is_multiple_of(PAGE) && guard_bytes < bytes;
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
        Located { heads, word: 8, node: 0x40, tid: 0x50, start_routine: 0x58, size: 0x80 }
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

    /// With 2.43 a thread without a task whose word has not been cleared is being created; up to 2.42 its number says so.
    #[test]
    fn threads_that_are_being_created() {
        let mut words = memory(&[(USED, &[0x1f000, 0x2f000, 0x3f000]), (USER, &[]), (CACHE, &[])]);
        words.0.extend([(0x1f050, 0), (0x2f050, 0), (0x3f050, u64::from(u32::MAX))]);
        words.0.extend([(0x1f078, 2), (0x2f078, 0), (0x3f078, 0)]);
        let mut lists = layout().read_once(&words).unwrap();
        let created =
            |lists: &ThreadLists| lists.threads.iter().map(|thread| thread.being_created).collect::<Vec<bool>>();
        assert_eq!(created(&lists), [false, false, true]);
        layout().find_created(&words, 0x78, &mut lists);
        assert_eq!(created(&lists), [true, false, true]);
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
