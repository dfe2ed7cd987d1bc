//! The one vocabulary: what happened, when, to which task. Plain data.
//!
//! Every source speaks it and the model understands nothing else. Arguments are as the program gave them
//! (lengths unrounded, flags undecoded), because the kernel's rules for them are the model's business.

use serde::{Deserialize, Serialize};
use syscalls::Errno;

use crate::units::{Addr, CallStackId, CodeId, Pid, Range, Tid, Time};

/// Something that happened to one task.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// When.
    pub at: Time,
    /// To which task: for a system call the caller, for a birth the parent.
    pub tid: Tid,
    /// Where in the program that task stood, when that was worth capturing: at births, and at some mapping calls.
    pub call_stack: Option<CallStackId>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum EventKind {
    /// The process was attached to: these tasks share this address space.
    Attached(Box<Attached>),
    /// A system call returned.
    Syscall(Syscall),
    /// The task called exit(2) or exit_group(2), which do not return. All its siblings still live.
    Exiting(Exiting),
    /// From here on mapping calls are not told, of any task: births and ends alone.
    LifecyclesAlone,
    /// The task's whole process is about to end, by a call of exit_group(2), a signal, or a sibling's execve(2). All its
    /// tasks still count as alive. Told by sources that do not see these calls.
    GroupEnding {
        /// Whether it is this task that called exit_group(2).
        by_call: bool,
    },
    /// The task calls execve(2) or execveat(2). All its siblings still live. Whether the call succeeds, its return tells.
    Executing,
    /// The task made another one. Comes before anything that the child does.
    Born(Birth),
    /// The task is gone. Comes before its memory is.
    Ended(Exit),
    /// The task is gone because a sibling's execve replaces the whole process.
    Superseded,
    /// execve succeeded: the process has a new address space and one thread.
    Exec(Box<Exec>),
    /// A look at the kernel's own picture of the address space, which is right where the model differs.
    Maps(Box<[Vma]>),
    /// What the thread library says of its own stacks.
    LibraryStacks(Box<[LibraryStack]>),
    /// What the kernel allows and what is used of it, seen after a call had failed for lack of something.
    Limits(Box<Limits>),
    /// A task that was there before us is noticed only now: it is one of this process, and uses its address space.
    Noticed(Pid),
    /// What the tasks of this address space do to it cannot be seen, from its beginning on: nothing can be said of it.
    Opaque,
    /// Calls on this address space have been missed, or told in another order than that in which they were done: what maps
    /// do not show, the break of brk(2), is not known any more.
    OrderLost,
}

/// A process at the moment when all its threads had been attached to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// The process that was asked for.
    pub pid: Pid,
    /// All tasks that use its address space.
    pub tasks: Vec<AttachedTask>,
    /// The address space.
    pub maps: Box<[Vma]>,
    /// Where the C library's break starts: `start_brk` of proc_pid_stat(5).
    pub start_brk: Option<Addr>,
    /// Whether PROT_READ implies PROT_EXEC, see personality(2).
    pub read_implies_exec: bool,
}

/// A task that was alive before we came.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct AttachedTask {
    /// Its number.
    pub tid: Tid,
    /// Its thread group.
    pub pid: Pid,
    /// Stack pointer, if it could be read.
    pub sp: Option<Addr>,
    /// Base of thread-local storage (FS or GS base), if it could be read and is set.
    pub tls: Option<Addr>,
}

/// The new image of a process after execve(2).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The thread that called execve; it goes on as the leader, under the leader's number.
    pub former: Tid,
    /// The new address space.
    pub maps: Box<[Vma]>,
    /// Where the break starts.
    pub start_brk: Option<Addr>,
    /// Whether PROT_READ implies PROT_EXEC, see personality(2).
    pub read_implies_exec: bool,
}

/// A completed system call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Syscall {
    /// The call with its arguments.
    pub call: Call,
    /// What it returned.
    #[serde(with = "returned")]
    pub result: Result<u64, Errno>,
    /// What the kernel's maps say it mapped, for calls whose arguments do not tell: shmat, io_setup, and mmap of files
    /// that may have pages of a size of their own, or drivers that do as they like.
    pub mapped: Option<Vma>,
}

/// A followed system call. Names and arguments are those of the manual pages.
///
/// Of prctl, PR_SET_MM alone. i386's mmap2 and old mmap arrive as `Mmap` with the offset in bytes, its ipc(2) as `Shmat`
/// or `Shmdt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // fields are the manual page's arguments, by its names
pub enum Call {
    Mmap { addr: Addr, len: u64, prot: u32, flags: u32, fd: i32, offset: u64 },
    Munmap { addr: Addr, len: u64 },
    Mprotect { addr: Addr, len: u64, prot: u32 },
    PkeyMprotect { addr: Addr, len: u64, prot: u32, pkey: i32 },
    Mremap { old: Addr, old_len: u64, new_len: u64, flags: u32, new: Addr },
    Madvise { addr: Addr, len: u64, advice: i32 },
    Brk { addr: Addr },
    Shmat { id: i32, addr: Addr, flags: i32 },
    Shmdt { addr: Addr },
    RemapFilePages { addr: Addr, len: u64, prot: u32, pgoff: u64, flags: u32 },
    IoSetup { nr_events: u32, ctxp: Addr },
    IoDestroy { ctx: Addr },
    MapShadowStack { addr: Addr, len: u64, flags: u32 },
    Personality { persona: u32 },
    Clone(CloneArgs),
    Execve { path: Addr, argv: Addr, envp: Addr },
    Execveat { dirfd: i32, path: Addr, argv: Addr, envp: Addr, flags: u32 },
    Prctl { option: i32, arg2: u64, arg3: u64, arg4: u64, arg5: u64 },
    ProcessMadvise { pidfd: i32, iovec: Addr, vlen: u64, advice: i32, flags: u32 },
    Mseal { addr: Addr, len: u64, flags: u64 },
    IoUringSetup { entries: u32, params: Addr },
}

impl Call {
    /// Whether a success changes which pages are mapped how.
    ///
    /// Such calls of one address space must be seen in the kernel's order. Advice that leaves the mappings alone
    /// (MADV_DONTNEED above all, which every ending thread gives) is none of them.
    pub fn changes_mappings(&self) -> bool {
        use crate::abi::madv;
        match self {
            Call::Madvise { advice, .. } | Call::ProcessMadvise { advice, .. } => {
                matches!(*advice, madv::DONTFORK | madv::DOFORK | madv::GUARD_INSTALL | madv::GUARD_REMOVE)
            }
            Call::Personality { .. } | Call::Execve { .. } | Call::Execveat { .. } | Call::IoUringSetup { .. } => false,
            // A fork copies the mappings, so it must not overlap with a change either.
            Call::Clone(args) => !args.shares_memory(),
            _ => true,
        }
    }
}

/// Which of the four calls made a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CloneCall {
    /// clone(2)
    Clone,
    /// clone3(2)
    Clone3,
    /// fork(2)
    Fork,
    /// vfork(2)
    Vfork,
}

/// The arguments of clone(2) or clone3(2); fork and vfork as the flags that they stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloneArgs {
    /// Which call.
    pub call: CloneCall,
    /// CLONE_* flags, without the exit signal.
    pub flags: u64,
    /// The signal to the parent at the end, 0 for none.
    pub exit_signal: u32,
    /// The stack as given: clone's top (the stack grows down from it), clone3's lowest address; 0 for the parent's own.
    pub stack: Addr,
    /// clone3's size of the stack.
    pub stack_size: u64,
    /// Base of the child's thread-local storage, with CLONE_SETTLS.
    pub tls: Addr,
    /// Where the parent finds the child's number, with CLONE_PARENT_SETTID.
    pub parent_tid: Addr,
    /// Where the child's number is stored or cleared, with CLONE_CHILD_SETTID or CLONE_CHILD_CLEARTID.
    pub child_tid: Addr,
}

impl CloneArgs {
    /// Such a call with these CLONE_* flags, and zeroes for the rest.
    pub fn bare(call: CloneCall, flags: u64) -> CloneArgs {
        CloneArgs {
            call,
            flags,
            exit_signal: 0,
            stack: Addr(0),
            stack_size: 0,
            tls: Addr(0),
            parent_tid: Addr(0),
            child_tid: Addr(0),
        }
    }

    /// Whether the child uses the parent's address space.
    pub fn shares_memory(&self) -> bool {
        self.flags & crate::abi::clone::VM != 0
    }

    /// Whether the child is a thread of the parent's process.
    pub fn is_thread(&self) -> bool {
        self.flags & crate::abi::clone::THREAD != 0
    }

    /// Where the child's stack begins to grow down from, or none if it goes on with the parent's.
    pub fn stack_top(&self) -> Option<Addr> {
        match self.call {
            CloneCall::Clone3 if self.stack.0 != 0 => self.stack.checked_add(self.stack_size),
            CloneCall::Clone if self.stack.0 != 0 => Some(self.stack),
            _ => None,
        }
    }
}

/// A task came into being.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Birth {
    /// The new task.
    pub child: Tid,
    /// Its process: the parent's, or a new one.
    pub pid: Pid,
    /// How it was made.
    pub args: CloneArgs,
    /// The function that it was made to run, if that could be seen.
    pub function: Option<CodeId>,
}

/// A call that ends the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exiting {
    /// What ends.
    pub scope: ExitScope,
    /// The argument of the call.
    pub code: i32,
}

/// What a call of exit or exit_group ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitScope {
    /// exit(2): the calling thread.
    Thread,
    /// exit_group(2): all threads of the process.
    Group,
}

/// How a task or a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// With this code, 0 to 255.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// A result as it is stored: the number of the error.
mod returned {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use syscalls::Errno;

    pub fn serialize<S: Serializer>(result: &Result<u64, Errno>, serializer: S) -> Result<S::Ok, S::Error> {
        result.map_err(Errno::into_raw).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<u64, Errno>, D::Error> {
        Ok(Result::<u64, i32>::deserialize(deserializer)?.map_err(Errno::new))
    }
}

/// Access rights of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Prot(u8);

impl Prot {
    /// No access.
    pub const NONE: Prot = Prot(0);
    /// PROT_READ
    pub const READ: Prot = Prot(1);
    /// PROT_WRITE
    pub const WRITE: Prot = Prot(2);
    /// PROT_EXEC
    pub const EXEC: Prot = Prot(4);

    /// The rights in the `prot` argument of mmap(2), without PROT_GROWSDOWN and other modifiers.
    pub const fn from_bits(prot: u32) -> Prot {
        Prot(prot as u8 & 7)
    }

    /// Whether all rights of `other` are among these.
    pub const fn contains(self, other: Prot) -> bool {
        self.0 & other.0 == other.0
    }

    /// These rights and those of `other`.
    pub const fn with(self, other: Prot) -> Prot {
        Prot(self.0 | other.0)
    }
}

impl std::fmt::Debug for Prot {
    /// As in /proc/PID/maps: `rw-`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flag = |right, letter| if self.contains(right) { letter } else { '-' };
        write!(f, "{}{}{}", flag(Prot::READ, 'r'), flag(Prot::WRITE, 'w'), flag(Prot::EXEC, 'x'))
    }
}

/// Whether writes reach others: MAP_SHARED or MAP_PRIVATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Sharing {
    /// Copy on write.
    Private,
    /// Common.
    Shared,
}

/// One line of /proc/PID/maps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vma {
    /// Its pages.
    pub range: Range,
    /// Its rights.
    pub prot: Prot,
    /// Shared or private.
    pub sharing: Sharing,
    /// Offset into the file in bytes; 0 without one.
    pub offset: u64,
    /// The file's number, 0 where there is none: anonymous memory.
    pub inode: u64,
    /// Device of the file, as major << 20 | minor.
    pub device: u32,
    /// Path, or a name in brackets, or nothing. Bytes, for a path need not be text.
    pub name: Box<[u8]>,
}

impl Vma {
    /// Whether a file (also the kernel's own, behind shared memory) lies behind it.
    pub fn is_file(&self) -> bool {
        self.inode != 0 || self.device != 0
    }
}

/// Who makes threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ThreadLibrary {
    /// glibc
    #[default]
    Glibc,
    /// musl
    Musl,
}

/// A stack that the thread library has mapped, as its descriptor has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LibraryStack {
    /// Which library.
    pub library: ThreadLibrary,
    /// All of it.
    pub range: Range,
    /// The guard at its lower end, in bytes.
    pub guard_bytes: u64,
    /// The live task that has it.
    pub task: Option<Tid>,
}

/// Where a new task's stack lies, looked up at its birth by sources that do not see mapping calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StackRegion {
    /// The line of maps that holds its upper end. Neighbours may be part of it.
    pub line: Vma,
    /// The line right below, which may be the guard.
    pub below: Option<Vma>,
    /// The bounds that the thread library's descriptor names.
    pub block: Option<Range>,
}

/// What the kernel allows, and what is used of it. None where it could not be read, or is not limited.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Regions in use by the process, and `vm.max_map_count`.
    pub vmas: Option<Usage>,
    /// Bytes of address space in use, and RLIMIT_AS.
    pub address_space: Option<Usage>,
    /// Bytes of private writable memory in use, and RLIMIT_DATA.
    pub data: Option<Usage>,
    /// Tasks of the user, and RLIMIT_NPROC.
    pub user_tasks: Option<Usage>,
    /// Tasks of the control group, and `pids.max`.
    pub cgroup_tasks: Option<Usage>,
    /// Tasks of the system, and the smaller of `kernel.threads-max` and `kernel.pid_max`.
    pub system_tasks: Option<Usage>,
    /// Bytes promised by the system, and its limit, where overcommit is forbidden (`vm.overcommit_memory` 2).
    pub commit: Option<Usage>,
}

/// How much of a limit is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// At most.
    pub limit: u64,
}
