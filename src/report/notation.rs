//! System calls in strace's notation, as strace 6 writes them with `-a1` (one blank before the equals sign).
//!
//! What an event does not carry is written as strace does where it cannot read the target's memory: the path of an
//! execve is an address. Newer names (MADV_GUARD_INSTALL) are names here also where an older strace shows a number.

mod flags;

use std::fmt::{self, Display, Formatter};

use nix::sys::signal::Signal;
use syscalls::Errno;

use super::Clock;
use crate::abi::{clone, mremap};
use crate::diagnose::finding::EvidenceCall;
use crate::event::{Call, CloneArgs, CloneCall, Event, EventKind, Exit, ExitScope, Exiting, Limits, Syscall};
use crate::units::{Addr, Tid};

/// A call and what it returned: `munmap(0x7f6891825000, 4096) = 0`.
#[derive(Clone, Copy, Debug)]
pub struct Returned<'a> {
    call: &'a Call,
    result: Result<u64, Errno>,
    /// The handle that io_setup stored, when it is known.
    stored: Option<Addr>,
}

/// A call that returned `result`.
pub fn returned(call: &Call, result: Result<u64, Errno>) -> Returned<'_> {
    Returned { call, result, stored: None }
}

/// A system call as it was followed.
pub fn syscall(syscall: &Syscall) -> Returned<'_> {
    let stored = syscall.mapped.as_ref().map(|vma| vma.range.start());
    Returned { call: &syscall.call, result: syscall.result, stored }
}

impl Display for Returned<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt_call(f)?;
        f.write_str(" = ")?;
        match self.result {
            Err(errno) => fmt_error(f, errno),
            Ok(value) => self.fmt_value(f, value),
        }
    }
}

impl Returned<'_> {
    fn fmt_call(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self.call {
            Call::Mmap { addr, len, prot, flags, fd, offset } => {
                write!(f, "mmap({}, {len}, ", Pointer(addr))?;
                flags::prot(f, prot)?;
                f.write_str(", ")?;
                flags::map(f, flags)?;
                write!(f, ", {fd}, {})", Hex(offset))
            }
            Call::Munmap { addr, len } => write!(f, "munmap({}, {len})", Pointer(addr)),
            Call::Mprotect { addr, len, prot } => {
                write!(f, "mprotect({}, {len}, ", Pointer(addr))?;
                flags::prot(f, prot)?;
                f.write_str(")")
            }
            Call::PkeyMprotect { addr, len, prot, pkey } => {
                write!(f, "pkey_mprotect({}, {len}, ", Pointer(addr))?;
                flags::prot(f, prot)?;
                write!(f, ", {pkey})")
            }
            Call::Mremap { old, old_len, new_len, flags, new } => {
                write!(f, "mremap({}, {old_len}, {new_len}, ", Pointer(old))?;
                flags::mremap(f, flags)?;
                // The kernel refuses both without MREMAP_MAYMOVE and does not look at the address.
                if flags & (mremap::FIXED | mremap::DONTUNMAP) != 0 && flags & mremap::MAYMOVE != 0 {
                    write!(f, ", {}", Pointer(new))?;
                }
                f.write_str(")")
            }
            Call::Madvise { addr, len, advice } => {
                write!(f, "madvise({}, {len}, ", Pointer(addr))?;
                flags::advice(f, advice)?;
                f.write_str(")")
            }
            Call::Brk { addr } => write!(f, "brk({})", Pointer(addr)),
            Call::Shmat { id, addr, flags } => {
                write!(f, "shmat({id}, {}, ", Pointer(addr))?;
                flags::shm(f, flags)?;
                f.write_str(")")
            }
            Call::Shmdt { addr } => write!(f, "shmdt({})", Pointer(addr)),
            Call::RemapFilePages { addr, len, prot, pgoff, flags } => {
                write!(f, "remap_file_pages({}, {len}, ", Pointer(addr))?;
                flags::prot(f, prot)?;
                write!(f, ", {pgoff}, ")?;
                flags::map(f, flags)?;
                f.write_str(")")
            }
            Call::IoSetup { nr_events, ctxp } => match self.stored {
                Some(handle) if self.result.is_ok() => {
                    write!(f, "io_setup({nr_events}, [{}])", Pointer(handle))
                }
                _ => write!(f, "io_setup({nr_events}, {})", Pointer(ctxp)),
            },
            Call::IoDestroy { ctx } => write!(f, "io_destroy({})", Pointer(ctx)),
            Call::MapShadowStack { addr, len, flags } => {
                write!(f, "map_shadow_stack({}, {len}, ", Pointer(addr))?;
                flags::shadow_stack(f, flags)?;
                f.write_str(")")
            }
            Call::Prctl { option, arg2, arg3, arg4, arg5 } => {
                f.write_str("prctl(")?;
                flags::prctl(f, option, arg2)?;
                write!(f, ", {}, {}, {})", Hex(arg3), Hex(arg4), Hex(arg5))
            }
            Call::ProcessMadvise { pidfd, iovec, vlen, advice, flags } => {
                write!(f, "process_madvise({pidfd}, {}, {vlen}, ", Pointer(iovec))?;
                flags::advice(f, advice)?;
                write!(f, ", {})", Hex(flags.into()))
            }
            Call::Mseal { addr, len, flags } => write!(f, "mseal({}, {len}, {})", Pointer(addr), Hex(flags)),
            Call::IoUringSetup { entries, params } => write!(f, "io_uring_setup({entries}, {})", Pointer(params)),
            Call::Personality { persona } => {
                f.write_str("personality(")?;
                flags::persona(f, persona)?;
                f.write_str(")")
            }
            Call::Clone(ref args) => self.fmt_clone(f, args),
            Call::Execve { path, argv, envp } => {
                write!(f, "execve({}, {}, {})", Pointer(path), Pointer(argv), Pointer(envp))
            }
            Call::Execveat { dirfd, path, argv, envp, flags } => {
                match dirfd {
                    libc::AT_FDCWD => f.write_str("execveat(AT_FDCWD, ")?,
                    fd => write!(f, "execveat({fd}, ")?,
                }
                write!(f, "{}, {}, {}, ", Pointer(path), Pointer(argv), Pointer(envp))?;
                flags::execveat(f, flags)?;
                f.write_str(")")
            }
        }
    }

    fn fmt_clone(&self, f: &mut Formatter<'_>, args: &CloneArgs) -> fmt::Result {
        match args.call {
            CloneCall::Fork => f.write_str("fork()"),
            CloneCall::Vfork => f.write_str("vfork()"),
            CloneCall::Clone => self.fmt_clone2(f, args),
            CloneCall::Clone3 => self.fmt_clone3(f, args),
        }
    }

    fn fmt_clone2(&self, f: &mut Formatter<'_>, args: &CloneArgs) -> fmt::Result {
        let has = |flags| args.flags & flags != 0;
        write!(f, "clone(child_stack={}, flags=", Pointer(args.stack))?;
        match (args.flags, args.exit_signal) {
            (0, signal) => write!(f, "{}", signal_argument(signal))?,
            (bits, 0) => flags::clone(f, bits)?,
            (bits, signal) => {
                flags::clone(f, bits)?;
                write!(f, "|{}", signal_argument(signal))?;
            }
        }
        if has(clone_bits::PARENT_SETTID) {
            // The kernel has stored there what it returned.
            match self.result {
                Ok(tid) => write!(f, ", parent_tid=[{tid}]")?,
                Err(_) => write!(f, ", parent_tid={}", Pointer(args.parent_tid))?,
            }
        } else if has(clone_bits::PIDFD) {
            write!(f, ", parent_tid={}", Pointer(args.parent_tid))?;
        }
        if has(clone::SETTLS) {
            write!(f, ", tls={}", Pointer(args.tls))?;
        }
        if has(clone_bits::CHILD_SETTID | clone::CHILD_CLEARTID) {
            write!(f, ", child_tidptr={}", Pointer(args.child_tid))?;
        }
        f.write_str(")")
    }

    fn fmt_clone3(&self, f: &mut Formatter<'_>, args: &CloneArgs) -> fmt::Result {
        let has = |flags| args.flags & flags != 0;
        f.write_str("clone3({flags=")?;
        flags::clone3(f, args.flags)?;
        if has(clone_bits::CHILD_SETTID | clone::CHILD_CLEARTID) {
            write!(f, ", child_tid={}", Pointer(args.child_tid))?;
        }
        if has(clone_bits::PARENT_SETTID) {
            write!(f, ", parent_tid={}", Pointer(args.parent_tid))?;
        }
        let signal = signal_argument(args.exit_signal);
        write!(f, ", exit_signal={signal}, stack={}, stack_size={}", Pointer(args.stack), Hex(args.stack_size))?;
        if has(clone::SETTLS) {
            write!(f, ", tls={}", Pointer(args.tls))?;
        }
        f.write_str("}")?;
        if let (true, Ok(tid)) = (has(clone_bits::PARENT_SETTID), self.result) {
            write!(f, " => {{parent_tid=[{tid}]}}")?;
        }
        // The size of clone_args since Linux 5.7; the event does not carry the caller's.
        f.write_str(", 88)")
    }

    fn fmt_value(&self, f: &mut Formatter<'_>, value: u64) -> fmt::Result {
        match self.call {
            Call::Mmap { .. }
            | Call::Mremap { .. }
            | Call::Brk { .. }
            | Call::Shmat { .. }
            | Call::MapShadowStack { .. } => write!(f, "{}", Hex(value)),
            Call::Personality { .. } => {
                write!(f, "{} (", Hex(value))?;
                flags::persona(f, value as u32)?;
                f.write_str(")")
            }
            _ => write!(f, "{value}"),
        }
    }
}

/// Flags of clone that only their notation needs.
mod clone_bits {
    pub const PIDFD: u64 = 0x1000;
    pub const PARENT_SETTID: u64 = 0x10_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
}

/// An address, as strace writes one: NULL or a hex number.
struct Pointer(Addr);

impl Display for Pointer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.0 == 0 { f.write_str("NULL") } else { self.0.fmt(f) }
    }
}

/// A hex number with 0 written as 0.
struct Hex(u64);

impl Display for Hex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}

/// What stands behind the equals sign of a call that failed.
fn fmt_error(f: &mut Formatter<'_>, errno: Errno) -> fmt::Result {
    match errno {
        Errno::ERESTARTSYS => f.write_str("? ERESTARTSYS (To be restarted if SA_RESTART is set)"),
        Errno::ERESTARTNOINTR => f.write_str("? ERESTARTNOINTR (To be restarted)"),
        Errno::ERESTARTNOHAND => f.write_str("? ERESTARTNOHAND (To be restarted if no handler)"),
        Errno::ERESTART_RESTARTBLOCK => f.write_str("? ERESTART_RESTARTBLOCK (Interrupted by signal)"),
        _ => match errno.name_and_description() {
            Some((name, description)) => write!(f, "-1 {name} ({})", glibc_text(errno).unwrap_or(description)),
            None => write!(f, "-1 (errno {})", errno.into_raw()),
        },
    }
}

/// The texts of glibc's strerror(3) where they differ from the kernel's comments, for errors of these calls.
fn glibc_text(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EIO => "Input/output error",
        Errno::EBADF => "Bad file descriptor",
        Errno::EAGAIN => "Resource temporarily unavailable",
        Errno::ENOMEM => "Cannot allocate memory",
        Errno::EXDEV => "Invalid cross-device link",
        Errno::ENFILE => "Too many open files in system",
        Errno::EDEADLK => "Resource deadlock avoided",
        Errno::ENOSYS => "Function not implemented",
        Errno::ELOOP => "Too many levels of symbolic links",
        Errno::EOPNOTSUPP => "Operation not supported",
        Errno::EDQUOT => "Disk quota exceeded",
        _ => return None,
    })
}

/// The name of a signal: `SIGTERM`, or `SIGRT_2` for real-time signals, counted from the kernel's first (32).
pub fn signal_name(number: i32) -> String {
    match (Signal::try_from(number), number) {
        (Ok(signal), _) => signal.as_str().to_owned(),
        (Err(_), 32) => "SIGRTMIN".to_owned(),
        (Err(_), 33..=64) => format!("SIGRT_{}", number - 32),
        (Err(_), _) => number.to_string(),
    }
}

/// An exit signal as an argument, where 0 says that there is none.
fn signal_argument(signal: u32) -> String {
    i32::try_from(signal).map_or_else(|_| signal.to_string(), signal_name)
}

/// How a task's end is written: `+++ exited with 0 +++`.
pub fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("+++ exited with {code} +++"),
        Exit::Signal(signal) => format!("+++ killed by {} +++", signal_name(signal)),
    }
}

/// A line of evidence, without time and thread.
pub fn evidence(what: &EvidenceCall) -> String {
    match what {
        EvidenceCall::Returned { call, result } => returned(call, Ok(*result)).to_string(),
        EvidenceCall::Ended(exit) => ended(*exit),
    }
}

/// A line of evidence for a narrow place: of a clone only what tells which stack it used.
pub fn evidence_in_short(what: &EvidenceCall) -> String {
    let EvidenceCall::Returned { call: Call::Clone(args), result } = what else {
        return evidence(what);
    };
    let (first, more) = (flags::first_of_clone(args.flags), if args.flags.count_ones() > 1 { "|…" } else { "" });
    let stack = Pointer(args.stack);
    match args.call {
        CloneCall::Clone => format!("clone(child_stack={stack}, flags={first}{more}) = {result}"),
        CloneCall::Clone3 => {
            let size = Hex(args.stack_size);
            format!("clone3({{…, stack={stack}, stack_size={size}}}) = {result}")
        }
        CloneCall::Fork | CloneCall::Vfork => evidence(what),
    }
}

/// An event in one line: `23:01:00.000137 31151  munmap(0x7f6891825000, 4096) = 0`, in the clock's time zone.
pub fn event(event: &Event, clock: &Clock) -> String {
    format!("{}{}  {}", clock.label(event.at, 6), event.tid, happened(&event.kind, event.tid))
}

/// What happened to `tid`.
fn happened(kind: &EventKind, tid: Tid) -> String {
    match kind {
        EventKind::Syscall(call) => syscall(call).to_string(),
        EventKind::Exiting(Exiting { scope: ExitScope::Thread, code }) => format!("exit({code}) = ?"),
        EventKind::Exiting(Exiting { scope: ExitScope::Group, code }) => format!("exit_group({code}) = ?"),
        EventKind::LifecyclesAlone => "--- mapping calls are not followed from here on ---".to_owned(),
        EventKind::GroupEnding { .. } => "--- the whole process is about to end ---".to_owned(),
        EventKind::Executing => "--- about to execute a program ---".to_owned(),
        EventKind::Born(birth) => {
            let (child, pid) = (birth.child, birth.pid);
            let shared = if birth.args.shares_memory() { ", in the same address space" } else { "" };
            if child == Tid::from(pid) {
                format!("+++ new process {pid}{shared} +++")
            } else {
                format!("+++ new thread {child} of process {pid} +++")
            }
        }
        EventKind::Ended(exit) => ended(*exit),
        EventKind::Superseded => "+++ superseded by execve of another thread +++".to_owned(),
        EventKind::Exec(exec) if exec.former == tid => {
            format!("--- new program, {} mappings ---", exec.maps.len())
        }
        EventKind::Exec(exec) => {
            format!("--- new program, {} mappings; thread {} is now {tid} ---", exec.maps.len(), exec.former)
        }
        EventKind::Attached(attached) => {
            let (tasks, maps) = (attached.tasks.len(), attached.maps.len());
            format!("--- attached to process {}: {tasks} tasks, {maps} mappings ---", attached.pid)
        }
        EventKind::Noticed(pid) => format!("--- noticed: a task of process {pid} ---"),
        EventKind::Opaque => "--- its system calls cannot be seen from here on ---".to_owned(),
        EventKind::OrderLost => "--- calls were missed, or their order is not known ---".to_owned(),
        EventKind::Maps(maps) => format!("--- {} mappings ---", maps.len()),
        EventKind::LibraryStacks(stacks) => format!("--- {} stacks of the thread library ---", stacks.len()),
        EventKind::Limits(limits) => format!("--- {} ---", limits_in_use(limits)),
    }
}

/// What is used of each limit that is known.
fn limits_in_use(limits: &Limits) -> String {
    let named = [
        ("mappings", limits.vmas),
        ("bytes of address space", limits.address_space),
        ("bytes of data", limits.data),
        ("tasks of the user", limits.user_tasks),
        ("tasks of the control group", limits.cgroup_tasks),
        ("tasks of the system", limits.system_tasks),
        ("bytes promised", limits.commit),
    ];
    let known: Vec<String> = named
        .into_iter()
        .filter_map(|(name, usage)| usage.map(|usage| format!("{} of {} {name}", usage.used, usage.limit)))
        .collect();
    if known.is_empty() { "no limit is known".to_owned() } else { format!("in use: {}", known.join(", ")) }
}

#[cfg(test)]
mod tests;
