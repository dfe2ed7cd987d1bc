//! Numbers of the kernel's interface that the model and the reports have to know: `include/uapi` of Linux.
//!
//! They are the same on every host, so that a log of one machine can be read on another.

pub mod names;

/// Advice for madvise(2).
#[allow(missing_docs)] // names are the manual page's
pub mod madv {
    pub const DONTNEED: i32 = 4;
    pub const DONTFORK: i32 = 10;
    pub const DOFORK: i32 = 11;
    pub const GUARD_INSTALL: i32 = 102;
    pub const GUARD_REMOVE: i32 = 103;
}

/// Flags of mmap(2).
#[allow(missing_docs)]
pub mod map {
    pub const SHARED: u32 = 0x01;
    pub const PRIVATE: u32 = 0x02;
    pub const SHARED_VALIDATE: u32 = 0x03;
    pub const TYPE: u32 = 0x0f;
    pub const FIXED: u32 = 0x10;
    pub const ANONYMOUS: u32 = 0x20;
    pub const GROWSDOWN: u32 = 0x100;
    pub const NORESERVE: u32 = 0x4000;
    pub const STACK: u32 = 0x20000;
    pub const HUGETLB: u32 = 0x40000;
    pub const HUGE_SHIFT: u32 = 26;
    pub const FIXED_NOREPLACE: u32 = 0x10_0000;
    /// The smaller of x86-64's huge pages, in bytes.
    pub const HUGE_PAGE: u64 = 2 << 20;
    /// The larger one, in bytes.
    pub const GIGANTIC_PAGE: u64 = 1 << 30;
}

/// Rights of mprotect(2), and their modifiers.
#[allow(missing_docs)]
pub mod prot {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const EXEC: u32 = 4;
    pub const SEM: u32 = 8;
    pub const GROWSDOWN: u32 = 0x0100_0000;
    pub const GROWSUP: u32 = 0x0200_0000;
}

/// Flags of mremap(2).
#[allow(missing_docs)]
pub mod mremap {
    pub const MAYMOVE: u32 = 1;
    pub const FIXED: u32 = 2;
    pub const DONTUNMAP: u32 = 4;
}

/// shmat(2): takes the place of what lies there.
pub const SHM_REMAP: i32 = 0o40000;

/// Flags of clone(2).
#[allow(missing_docs)]
pub mod clone {
    pub const VM: u64 = 0x100;
    pub const VFORK: u64 = 0x4000;
    pub const THREAD: u64 = 0x1_0000;
    /// The child is not to be traced by the parent's tracer.
    pub const UNTRACED: u64 = 0x80_0000;
    pub const SETTLS: u64 = 0x8_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    /// Ignored by the kernel since 2.6; musl's pthread_create still passes it, glibc never does.
    pub const DETACHED: u64 = 0x40_0000;
}

/// prctl(2) that changes the bounds in an address space's description, and what it changes.
#[allow(missing_docs)]
pub mod set_mm {
    pub const PR_SET_MM: i32 = 35;
    pub const START_BRK: u64 = 6;
    pub const BRK: u64 = 7;
    pub const MAP: u64 = 14;
}

/// Persona of personality(2): PROT_READ implies PROT_EXEC.
pub const READ_IMPLIES_EXEC: u32 = 0x40_0000;
