//! One mapping: what is left of one successful mapping call, and whose stack it was.

use serde::{Deserialize, Serialize};

use super::sites::SiteKey;
use crate::abi::map;
use crate::event::{Call, CloneArgs, Exit, Prot};
use crate::units::{CallStackId, CodeId, Tid, Time};

slotmap::new_key_type! {
    /// Names a mapping of one address space; never reused.
    pub struct MappingId;
}

/// What is left of one successful mapping call.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// What kind of memory it is.
    pub kind: Kind,
    /// The call that made it; none where it was there before us, or the kernel made it.
    pub made: Option<Made>,
    /// The mprotect or madvise that set its guard, while it was no stack yet.
    pub guarded: Option<Box<Made>>,
    /// What is still mapped, in bytes.
    pub bytes: u64,
    /// What was mapped in the first place, in bytes.
    pub made_bytes: u64,
    /// Whether a part of it has been unmapped, ever.
    pub trimmed: bool,
    /// Whether it came from the parent by fork, and no task of this process has used it as a stack.
    pub inherited: bool,
    /// Whether it holds stacks of which neither end is known.
    pub holds_several: bool,
    /// Its life as a stack, once a task was created on it.
    pub stack: Option<Box<Stack>>,
}

/// What kind of memory a mapping is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// mmap with MAP_ANONYMOUS.
    Anonymous,
    /// A file, or shared anonymous memory.
    File,
    /// Grown by brk(2).
    Heap,
    /// shmat(2) of the segment with this inode.
    Shm {
        /// Number of the segment's file.
        inode: u64,
    },
    /// The ring of io_setup(2).
    AioRing,
    /// A main thread's stack.
    MainStack,
}

/// A call that made something.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Made {
    /// When it returned.
    pub at: Time,
    /// Who called.
    pub tid: Tid,
    /// The call.
    pub call: Call,
    /// What it returned.
    pub result: u64,
    /// Where in the program it was made, if that was captured.
    pub call_stack: Option<CallStackId>,
}

impl Mapping {
    /// A mapping of `bytes` bytes.
    pub fn new(kind: Kind, made: Option<Made>) -> Mapping {
        Mapping {
            kind,
            made,
            guarded: None,
            bytes: 0,
            made_bytes: 0,
            trimmed: false,
            inherited: false,
            holds_several: false,
            stack: None,
        }
    }

    /// The flags and protection that mmap was called with.
    pub fn mmap_arguments(&self) -> Option<(u32, Prot, u64)> {
        match self.made?.call {
            Call::Mmap { len, prot, flags, .. } => Some((flags, Prot::from_bits(prot), len)),
            _ => None,
        }
    }

    /// Whether it looks like the reserve of a malloc arena: glibc's arena.c maps 128 MiB (or, at a hint, 64 MiB)
    /// without access and without reserve, and trims it to 64 MiB, aligned. i386 has heaps of 1 MiB.
    pub fn is_malloc_arena(&self) -> bool {
        const HEAP_MAX: [u64; 2] = [64 << 20, 1 << 20];
        self.mmap_arguments().is_some_and(|(flags, prot, len)| {
            prot == Prot::NONE
                && flags & map::NORESERVE != 0
                && HEAP_MAX.iter().any(|&heap| len == heap || len == 2 * heap)
        })
    }

    /// Whether it was there before us, so that neighbours may have merged with it, and nobody has told its bounds since.
    pub fn is_unbounded(&self) -> bool {
        let told = self.stack.as_deref().is_some_and(|stack| !matches!(stack.maker, Maker::Unknown | Maker::Unsettled));
        self.made.is_none() && self.kind == Kind::Anonymous && !self.inherited && !told
    }

    /// The stack, if its last owner has ended and no live task uses it.
    pub fn idle_stack(&self) -> Option<(&Stack, Ended)> {
        let stack = self.stack.as_deref()?;
        let ended = stack.last.ended?;
        (stack.live == 0).then_some((stack, ended))
    }
}

/// A mapping's life as a stack.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Who made the mapping, and so has to free it.
    pub maker: Maker,
    /// Size when its first owner was created, in bytes: trims before that are alignment, later ones are damage.
    pub region_bytes: u64,
    /// What of this was no-access, in bytes.
    pub guard_bytes: u64,
    /// Whether a part was unmapped since its first owner was created.
    pub cut: bool,
    /// How many tasks have had it.
    pub owners: u32,
    /// How many live tasks have it now.
    pub live: u32,
    /// The latest task to have it.
    pub last: Owner,
    /// When a fresh stack was mapped that this one, idle, would have served for.
    pub passed_over: Option<Time>,
    /// What its last owner left in it, where mapping calls are not told.
    pub imprint: Option<Imprint>,
}

/// A hash of what lies in an idle stack, if that is not all zeroes. As long as it stays, the stack has not been unmapped,
/// used again or given to something else: a fresh mapping in its place would be zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Imprint(pub u64);

/// Who made a stack's mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maker {
    /// glibc's pthread_create.
    Glibc,
    /// musl's pthread_create.
    Musl,
    /// The program, which gave it to clone or to pthread_attr_setstack.
    Program,
    /// pthread_create was given a mapping that could be its own or the program's; the owner's end will tell
    /// (nptl/allocatestack.c: `advise_stack_range` for its own ones alone).
    Unsettled,
    /// The stack was there before us and its bounds are not known.
    Unknown,
}

/// A task that has, or had, a stack.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Owner {
    /// The task.
    pub tid: Tid,
    /// The birth; none for tasks that were there before us.
    pub born: Option<Born>,
    /// The end.
    pub ended: Option<Ended>,
    /// Whether it gave its own stack's pages back (MADV_DONTNEED), as glibc does just before exit.
    pub released: bool,
}

/// How an owner came into being.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Born {
    /// When.
    pub at: Time,
    /// By whom.
    pub creator: Tid,
    /// How.
    pub args: CloneArgs,
    /// Where in the program, if that was captured.
    pub call_stack: Option<CallStackId>,
    /// To run what, if that could be seen.
    pub function: Option<CodeId>,
}

/// How an owner ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ended {
    /// When.
    pub at: Time,
    /// With what.
    pub exit: Exit,
}

impl Stack {
    /// A stack at the birth of its first owner.
    pub fn new(maker: Maker, region_bytes: u64, guard_bytes: u64, owner: Owner) -> Stack {
        Stack {
            maker,
            region_bytes,
            guard_bytes,
            cut: false,
            owners: 1,
            live: 1,
            last: owner,
            passed_over: None,
            imprint: None,
        }
    }

    /// Where its last owner came from.
    pub fn site(&self) -> SiteKey {
        SiteKey { region_bytes: self.region_bytes, call_stack: self.last.born.and_then(|born| born.call_stack) }
    }

    /// What its last owner, now ended, tells about the maker.
    ///
    /// glibc gives the pages of its own stacks back, and leaves the program's alone; it does not bother where less
    /// than PTHREAD_STACK_MIN would be freed, so nothing follows from its silence there.
    pub fn settle(&mut self) {
        const SURELY_RELEASED: u64 = 64 << 10;
        let usable = self.region_bytes.saturating_sub(self.guard_bytes);
        self.maker = match self.maker {
            Maker::Glibc | Maker::Unsettled if self.last.released => Maker::Glibc,
            Maker::Glibc | Maker::Unsettled if usable >= SURELY_RELEASED && self.ended_by_itself() => Maker::Program,
            Maker::Unsettled => Maker::Glibc,
            maker => maker,
        };
    }

    fn ended_by_itself(&self) -> bool {
        matches!(self.last.ended, Some(Ended { exit: Exit::Code(_), .. }))
    }
}
