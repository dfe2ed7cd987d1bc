//! Why a process cannot be attached to, as a person would find out.

use nix::errno::Errno;
use thiserror::Error;

use crate::procfs::{self, task};
use crate::units::{Pid, Tid};

/// Why a process cannot be attached to. One line: what, why, what to do.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is none.
    #[error("no such process: {0}; `ps -e` lists those that there are")]
    NoSuchProcess(Pid),
    /// The number is that of a thread.
    #[error("{tid} is a thread of process {pid}: attach to the process with -p {pid}")]
    IsThread {
        /// What was asked for.
        tid: Tid,
        /// Its process.
        pid: Pid,
    },
    /// It has ended and waits for its parent.
    #[error("process {0} is a zombie: it has ended, and there is nothing left to look at")]
    Zombie(Pid),
    /// Somebody else traces it.
    #[error(
        "process {pid} is already traced by process {tracer} ({name}): a process can have one tracer; end that one first"
    )]
    AlreadyTraced {
        /// The target.
        pid: Pid,
        /// Its tracer.
        tracer: Pid,
        /// The tracer's command.
        name: String,
    },
    /// A process does not trace itself or its tracer.
    #[error("process {0} is this vmtrace itself: name another process")]
    Itself(Pid),
    /// It is a kernel thread.
    #[error("process {0} is a kernel thread, which has no address space: name another process")]
    KernelThread(Pid),
    /// The target is another user's.
    #[error(
        "not permitted to trace process {pid}: it runs as uid {target}, vmtrace as uid {own}; run vmtrace as that user or as root"
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
    #[error("not permitted to trace process {pid}: Yama's kernel.yama.ptrace_scope is {scope}{}", yama_help(*scope))]
    Yama {
        /// The target.
        pid: Pid,
        /// The setting.
        scope: u64,
    },
    /// Something else forbids it.
    #[error(
        "not permitted to trace process {pid}: it has capabilities or is not dumpable, or this container lacks CAP_SYS_PTRACE; run vmtrace as root with that capability"
    )]
    NotPermitted {
        /// The target.
        pid: Pid,
    },
    /// It ended while it was attached to.
    #[error("process {0} has ended while vmtrace attached to it")]
    Vanished(Pid),
    /// The kernel said something else.
    #[error("cannot attach to process {pid}: {errno}")]
    Other {
        /// The target.
        pid: Pid,
        /// What the kernel said.
        errno: Errno,
    },
}

fn yama_help(scope: u64) -> &'static str {
    match scope {
        1 => " (only ancestors may trace): run vmtrace as root, launch the program with vmtrace, or set it to 0",
        2 => " (only CAP_SYS_PTRACE may trace): run vmtrace as root",
        _ => " (nobody may trace until the next boot)",
    }
}

/// What /proc says of a process that can be followed, whoever does it.
///
/// # Errors
/// Why there is nothing to be followed.
pub fn followable(pid: Pid) -> Result<task::TaskStatus, AttachError> {
    let status = task::status(pid.into()).map_err(|_| AttachError::NoSuchProcess(pid))?;
    if status.pid != pid {
        return Err(AttachError::IsThread { tid: pid.into(), pid: status.pid });
    }
    if status.state == 'Z' && task::threads(pid).is_ok_and(|threads| threads.len() <= 1) {
        return Err(AttachError::Zombie(pid));
    }
    if std::process::id() == pid.0 as u32 {
        return Err(AttachError::Itself(pid));
    }
    Ok(status)
}

/// Finds out why the kernel refused, as a person would.
pub(in crate::source) fn explain(pid: Pid, status: task::TaskStatus, errno: Errno) -> AttachError {
    if errno != Errno::EPERM {
        return AttachError::Other { pid, errno };
    }
    if let Some(tracer) = status.tracer {
        return AttachError::AlreadyTraced { pid, tracer, name: task::program_name(tracer) };
    }
    if task::size(pid.into()) == Some((0, 0)) && procfs::read(pid.into(), "cmdline").is_ok_and(|line| line.is_empty()) {
        return AttachError::KernelThread(pid);
    }
    let own = nix::unistd::geteuid().as_raw();
    if own != 0 && own != status.uid {
        return AttachError::OtherUser { pid, target: status.uid, own };
    }
    match task::ptrace_scope() {
        Some(scope) if scope > 0 && own != 0 || scope == 3 => AttachError::Yama { pid, scope },
        _ => AttachError::NotPermitted { pid },
    }
}
