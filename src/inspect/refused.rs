//! Why a process cannot be inspected. One line: what, why, what to do.

use std::io;

use thiserror::Error;

use crate::procfs::task::{self, TaskStatus};
use crate::units::{Pid, Tid};

/// Why a process cannot be inspected.
#[derive(Debug, Error)]
pub enum InspectError {
    /// There is none.
    #[error("no such process: {0}; `ps -e` lists those that there are")]
    NoSuchProcess(Pid),
    /// The number is that of a thread.
    #[error("{tid} is a thread of process {pid}: inspect the process with -p {pid}")]
    IsThread {
        /// What was asked for.
        tid: Tid,
        /// Its process.
        pid: Pid,
    },
    /// It has ended and waits for its parent.
    #[error("process {0} is a zombie: it has ended, and there is nothing left to look at")]
    Zombie(Pid),
    /// It has no user memory.
    #[error("process {0} is a kernel thread, which has no address space: name another process")]
    KernelThread(Pid),
    /// It ended while it was looked at.
    #[error("process {0} has ended, or executed another program, while vmtrace looked at it")]
    Vanished(Pid),
    /// It is another user's.
    #[error(
        "not permitted to look into process {pid}: it runs as uid {target}, vmtrace as uid {own}; run vmtrace as that user or as root"
    )]
    OtherUser {
        /// The target.
        pid: Pid,
        /// Its user.
        target: u32,
        /// Our user.
        own: u32,
    },
    /// Yama forbids it.
    #[error(
        "not permitted to look into process {pid}: Yama's kernel.yama.ptrace_scope is {scope}; run vmtrace as root"
    )]
    Yama {
        /// The target.
        pid: Pid,
        /// The setting.
        scope: u64,
    },
    /// Something else forbids it.
    #[error(
        "not permitted to look into process {0}: it has capabilities or is not dumpable, or this container lacks CAP_SYS_PTRACE; run vmtrace as root with that capability"
    )]
    NotPermitted(Pid),
    /// The kernel said something else.
    #[error("cannot read the memory map of process {pid}: {error}")]
    Unreadable {
        /// The target.
        pid: Pid,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Finds out why the kernel refused, as a person would.
pub fn explain(pid: Pid, status: TaskStatus, error: io::Error) -> InspectError {
    match error.kind() {
        io::ErrorKind::NotFound => return InspectError::Vanished(pid),
        io::ErrorKind::PermissionDenied => {}
        _ if error.raw_os_error() == Some(nix::libc::ESRCH) => return InspectError::Vanished(pid),
        _ => return InspectError::Unreadable { pid, error },
    }
    let own = nix::unistd::geteuid().as_raw();
    if own != 0 && own != status.uid {
        return InspectError::OtherUser { pid, target: status.uid, own };
    }
    match task::ptrace_scope() {
        Some(scope) if scope > 0 && own != 0 => InspectError::Yama { pid, scope },
        _ => InspectError::NotPermitted(pid),
    }
}
