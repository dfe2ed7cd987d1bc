//! What the thread library knows about a stack: glibc's own lists of used, cached and user-given stacks.
//!
//! A stack on the list of used ones whose task the kernel does not have belongs to a thread that has ended and was never
//! joined. A stack on the list of cached ones is kept for reuse. No system call tells these two apart.

mod digest;
pub mod elf;
pub mod glibc;
mod libraries;
pub mod musl;

pub use digest::digest;
pub use libraries::{Libraries, Reader, are_settled};

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{LibraryStack, ThreadLibrary};
use crate::procfs::memory::HeldMemory;
use crate::procfs::present::LiveMemory;
use crate::units::{Addr, Range, Tid};

/// The lists of one process, by thread descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ThreadLists {
    /// Whose they are. musl has no lists: what it would have on that of used ones is found otherwise.
    pub library: ThreadLibrary,
    /// The threads on the lists.
    pub threads: Vec<ListedThread>,
    /// Whether no task can have been moving a stack between lists, or from one to munmap: then a stack that is on none
    /// of them is none of the library's.
    pub settled: bool,
}

/// A thread as the library has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedThread {
    /// Where its descriptor (struct pthread) is: at the upper end of its stack.
    pub descriptor: Addr,
    /// Which list it is on.
    pub list: List,
    /// What the descriptor says its number is; 0 or −1 once the thread has ended, depending on the version.
    pub tid: Tid,
    /// The function that it runs, or ran.
    pub start_routine: Addr,
    /// How far its life has come.
    pub stage: Stage,
    /// Its stack, guard and descriptor included; none for the main thread's.
    pub stack: Option<StackBlock>,
    /// The live task that it is; none where it has ended, or is only just being created.
    pub task: Option<Tid>,
}

impl ThreadLists {
    /// Finds out which threads live. `tasks` are all live tasks of the process, each with an address in its stack.
    ///
    /// The number in a descriptor does not tell: it is that of the process's own PID namespace, and stays behind.
    pub fn find_tasks(&mut self, tasks: impl Iterator<Item = (Tid, Option<Addr>)>) {
        let (mut anchored, mut others) = (BTreeMap::new(), HashSet::new());
        for (tid, anchor) in tasks {
            match anchor {
                Some(anchor) => drop(anchored.insert(anchor, tid)),
                None => drop(others.insert(tid)),
            }
        }
        for thread in &mut self.threads {
            let within = || {
                let range = thread.stack?.range;
                anchored.range(range.start()..range.end()).next().map(|(_, tid)| *tid)
            };
            let numbered = || others.get(&thread.tid).copied();
            thread.task = anchored.get(&thread.descriptor).copied().or_else(within).or_else(numbered);
        }
    }

    /// The stacks that the library has mapped.
    pub fn library_stacks(&self) -> Box<[LibraryStack]> {
        let made = self.threads.iter().filter(|thread| thread.list != List::User);
        let stack = |thread: &ListedThread| {
            let StackBlock { range, guard_bytes } = thread.stack?;
            Some(LibraryStack { library: self.library, range, guard_bytes, task: thread.task })
        };
        made.filter_map(stack).collect()
    }
}

/// How far a thread's life has come, by what is left in its descriptor.
///
/// A thread is on the list of used stacks before its task exists, so that "no task" alone does not tell one that has
/// ended from one that is about to begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// It is being created, and has not run yet.
    Starting,
    /// It has run. Nobody joins it, and it is not detached.
    Started,
    /// Somebody joins it, it is detached, or (glibc 2.43 and later) it has not ended.
    Claimed,
    /// The descriptor does not look as expected.
    Unknown,
}

impl ListedThread {
    /// Whether its stack is about to change hands, so that neither "leaked" nor "free" would be right.
    ///
    /// Where the stage cannot be read, a joined thread's −1 is in its number until the next one has its stack (glibc up to
    /// 2.42).
    pub fn is_on_its_way(&self) -> bool {
        self.list == List::Used && (matches!(self.stage, Stage::Starting | Stage::Claimed) || self.tid.0 < 0)
    }
}

/// A stack as the descriptor has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StackBlock {
    /// All of it.
    pub range: Range,
    /// The guard at its lower end, in bytes.
    pub guard_bytes: u64,
}

/// glibc's lists (nptl/descr.h, nptl/allocatestack.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum List {
    /// Stacks that glibc made, of threads that live or have not been joined.
    Used,
    /// Stacks that glibc made, of threads that are done with; to be used again.
    Cached,
    /// Stacks that the program gave, and the main thread's.
    User,
}

/// Why the lists cannot be had. System calls are then the only evidence.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum Unavailable {
    /// Another C library, or one that is linked in without symbols.
    #[error("no glibc with readable thread lists is in this process")]
    NoGlibc,
    /// A symbol is missing.
    #[error("{file} has no symbol {symbol}")]
    NoSymbol {
        /// The library's path.
        file: String,
        /// What was looked for.
        symbol: Cow<'static, str>,
    },
    /// A file could not be read.
    #[error("{file} cannot be read")]
    NoFile {
        /// Its path.
        file: String,
    },
    /// The memory of the target could not be read.
    #[error("the memory of the process cannot be read")]
    NoMemory,
    /// A list was never seen whole.
    #[error("the thread lists were being changed, or are damaged, each time that they were looked at")]
    Inconsistent,
    /// Whoever was to be asked had ended.
    #[error("the process was gone before its memory could be read")]
    Gone,
}

/// The memory of a process, as far as the lists need it.
pub trait Memory {
    /// Fills `buffer` from `addr`, or fails.
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable>;
}

impl Memory for LiveMemory {
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
        LiveMemory::read(self, addr, buffer).map_err(|_| Unavailable::NoMemory)
    }
}

impl Memory for HeldMemory {
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
        HeldMemory::read(self, addr, buffer).map_err(|_| Unavailable::NoMemory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE;

    /// Threads are found by where their storage or their stack is; by number only where neither is known, since
    /// numbers are those of the process's own PID namespace.
    #[test]
    fn live_tasks_are_found_by_address() {
        let thread = |number: u64| {
            let range = Range::of_len(Addr(number << 16), 16 * PAGE).unwrap();
            ListedThread {
                descriptor: Addr(range.end().0 - 0x900),
                list: List::Used,
                tid: Tid(number as i32),
                start_routine: Addr(0),
                stage: Stage::Unknown,
                stack: Some(StackBlock { range, guard_bytes: PAGE }),
                task: None,
            }
        };
        let mut lists = ThreadLists { threads: [1, 2, 3, 4].map(thread).into(), ..ThreadLists::default() };
        let tasks = [(Tid(101), Some(lists.threads[0].descriptor)), (Tid(102), Some(Addr(0x2_8000))), (Tid(3), None)];
        lists.find_tasks(tasks.into_iter().chain([(Tid(4), Some(Addr(0x9_0000)))]));
        let found: Vec<_> = lists.threads.iter().map(|thread| thread.task).collect();
        assert_eq!(found, [Some(Tid(101)), Some(Tid(102)), Some(Tid(3)), None]);
    }
}
