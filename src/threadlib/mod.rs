//! What the thread library knows about a stack: glibc's own lists of used, cached and user-given stacks.
//!
//! A stack on the list of used ones whose task the kernel does not have belongs to a thread that has ended and was never
//! joined. A stack on the list of cached ones is kept for reuse. No system call tells these two apart.

pub mod elf;
pub mod glibc;
mod libraries;

pub use libraries::Libraries;

use thiserror::Error;

use crate::sys;
use crate::units::{Addr, Range, Tid};

/// The lists of one process, by thread descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ThreadLists {
    /// The threads on the lists.
    pub threads: Vec<ListedThread>,
}

/// A thread as the library has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
}

/// How far a thread's life has come, by what is left in its descriptor.
///
/// A thread is on the list of used stacks before its task exists, so that "no task" alone does not tell one that has
/// ended from one that is about to begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// A stack as the descriptor has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackBlock {
    /// All of it.
    pub range: Range,
    /// The guard at its lower end, in bytes.
    pub guard_bytes: u64,
}

/// glibc's lists (nptl/descr.h, nptl/allocatestack.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// Stacks that glibc made, of threads that live or have not been joined.
    Used,
    /// Stacks that glibc made, of threads that are done with; to be used again.
    Cached,
    /// Stacks that the program gave, and the main thread's.
    User,
}

/// Why the lists cannot be had. System calls are then the only evidence.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
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
        symbol: &'static str,
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
}

/// The memory of a process, as far as the lists need it.
pub trait Memory {
    /// Fills `buffer` from `addr`, or fails.
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable>;
}

/// The memory of a live task, stopped or running.
#[derive(Clone, Copy, Debug)]
pub struct TaskMemory(pub Tid);

impl Memory for TaskMemory {
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
        sys::read_memory(self.0, addr, buffer).map_err(|_| Unavailable::NoMemory)
    }
}
