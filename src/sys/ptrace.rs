//! ptrace(2), and waitid(2) for its stops.
//!
//! nix's are not used, because its wait fails on real-time signals after it has consumed the status, and its restarts
//! cannot pass one on.

use std::cell::Cell;

use nix::errno::Errno;
use nix::libc;

use crate::units::{Addr, Pid, Tid};

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has read something of a tracee: registers, an event's message, what kind of syscall stop it is,
/// memory. Waiting is not counted.
pub fn reads() -> u64 {
    READS.get()
}

/// Counts one more.
pub(crate) fn count_read() {
    READS.set(READS.get() + 1);
}

/// `PTRACE_O_*` of every tracee: events of births, ends and execve, and syscall stops that are told from SIGTRAP.
pub const TRACE_OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEEXIT;

/// The same of a program that is launched with a filter: its stops, and that it cannot live without its tracer, for the filter's
/// calls would fail with ENOSYS.
///
/// Without the first one, so fail those that a filter of the program's own wants a tracer to see, as they do when there is none.
pub const FILTER_OPTIONS: libc::c_int = TRACE_OPTIONS | libc::PTRACE_O_TRACESECCOMP | libc::PTRACE_O_EXITKILL;

/// How a stopped task goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// To the next event or signal.
    Cont,
    /// To the next system call's entry or exit, too.
    Syscall,
    /// Stays in its group-stop, as job control wants it, and reports what happens next.
    Listen,
    /// Without a tracer.
    Detach,
}

fn ptrace(request: libc::c_uint, tid: Tid, addr: usize, data: usize) -> Result<libc::c_long, Errno> {
    // SAFETY: callers pass integers, or pointers to buffers of the request's size that outlive the call.
    Errno::result(unsafe { libc::ptrace(request as _, tid.0, addr, data) })
}

/// PTRACE_SEIZE: attaches without stopping.
pub fn seize(tid: Tid, options: libc::c_int) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize).map(drop)
}

/// PTRACE_INTERRUPT: the task will stop with PTRACE_EVENT_STOP, unless something else stops it first.
pub fn interrupt(tid: Tid) -> Result<(), Errno> {
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped task go on, with `signal` delivered if it is not 0 (any number, real-time ones too).
pub fn restart(tid: Tid, how: Restart, signal: i32) -> Result<(), Errno> {
    let request = match how {
        Restart::Cont => libc::PTRACE_CONT,
        Restart::Syscall => libc::PTRACE_SYSCALL,
        Restart::Listen => libc::PTRACE_LISTEN,
        Restart::Detach => libc::PTRACE_DETACH,
    };
    ptrace(request, tid, 0, signal as usize).map(drop)
}

/// The general registers of a stopped task.
pub fn registers(tid: Tid) -> Result<libc::user_regs_struct, Errno> {
    count_read();
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::uninit();
    ptrace(libc::PTRACE_GETREGS, tid, 0, registers.as_mut_ptr() as usize)?;
    // SAFETY: PTRACE_GETREGS has filled the whole structure.
    Ok(unsafe { registers.assume_init() })
}

/// Sets the general registers of a stopped task.
pub fn set_registers(tid: Tid, registers: &libc::user_regs_struct) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, std::ptr::from_ref(registers) as usize).map(drop)
}

/// PTRACE_PEEKDATA: reads a stopped task's memory, all of `buffer` or nothing. Unlike process_vm_readv(2) it does not wait for
/// a userfaultfd: EIO.
pub fn peek_memory(tid: Tid, addr: Addr, buffer: &mut [u8]) -> Result<(), Errno> {
    count_read();
    let end = addr.0.checked_add(buffer.len() as u64).ok_or(Errno::EIO)?;
    // By whole words in their places, none of which lies in two pages.
    for at in (addr.0 & !7..end).step_by(8) {
        let word = peek(tid, at)?.to_ne_bytes();
        let (from, to) = (at.max(addr.0), at.saturating_add(8).min(end));
        buffer[(from - addr.0) as usize..(to - addr.0) as usize]
            .copy_from_slice(&word[(from - at) as usize..(to - at) as usize]);
    }
    Ok(())
}

fn peek(tid: Tid, at: u64) -> Result<u64, Errno> {
    Errno::clear();
    // SAFETY: integers only. The word is what is returned, so errno alone tells of an error: ptrace(2).
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKDATA as _, tid.0, at as usize, 0usize) };
    match Errno::last() {
        Errno::UnknownErrno => Ok(word as u64),
        errno => Err(errno),
    }
}

/// PTRACE_POKEDATA: writes a word of a stopped task's memory.
pub fn write_word(tid: Tid, at: Addr, word: u64) -> Result<(), Errno> {
    ptrace(libc::PTRACE_POKEDATA, tid, at.0 as usize, word as usize).map(drop)
}

/// PTRACE_GETSIGINFO: the process that has sent the signal for which a task has stopped, by its number in the task's PID
/// namespace, 0 if it has none there. None where the kernel has sent it.
pub fn signal_sender(tid: Tid) -> Result<Option<i32>, Errno> {
    count_read();
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    ptrace(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize)?;
    // SAFETY: PTRACE_GETSIGINFO has filled the whole structure; who sends a signal is in it (SI_USER, SI_TKILL, SI_QUEUE).
    unsafe {
        let info = info.assume_init();
        Ok((info.si_code <= 0).then(|| info.si_pid()))
    }
}

/// PTRACE_GETEVENTMSG: what belongs to the event: a child's tid, an exit status, a filter's data.
pub fn event_message(tid: Tid) -> Result<u64, Errno> {
    count_read();
    let mut message: libc::c_ulong = 0;
    ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message) as usize)?;
    Ok(message)
}

/// What PTRACE_GET_SYSCALL_INFO (Linux 5.3) says of a syscall stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyscallStop {
    /// The call with this number, of this AUDIT_ARCH_*, is about to be made.
    Entry {
        /// AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386.
        arch: u32,
        /// Number of the call.
        nr: u64,
    },
    /// A call has returned.
    Exit,
    /// A filter wants the call with this number to be seen.
    Seccomp {
        /// AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386.
        arch: u32,
        /// Number of the call.
        nr: u64,
        /// What the filter has to say, 16 bits.
        message: u64,
    },
    /// It is no syscall stop. If the task is in a call all the same, it is one of this AUDIT_ARCH_*.
    Other {
        /// AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386.
        arch: u32,
    },
}

/// PTRACE_GET_SYSCALL_INFO.
pub fn syscall_info(tid: Tid) -> Result<SyscallStop, Errno> {
    count_read();
    // SAFETY: the structure is plain integers, for which zeroes are a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of_val(&info);
    ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, (&raw mut info) as usize)?;
    Ok(match info.op {
        // SAFETY: for this `op` the kernel has filled this member of the union.
        libc::PTRACE_SYSCALL_INFO_ENTRY => SyscallStop::Entry { arch: info.arch, nr: unsafe { info.u.entry.nr } },
        libc::PTRACE_SYSCALL_INFO_EXIT => SyscallStop::Exit,
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: as above.
            let seccomp = unsafe { info.u.seccomp };
            SyscallStop::Seccomp { arch: info.arch, nr: seccomp.nr, message: seccomp.ret_data.into() }
        }
        _ => SyscallStop::Other { arch: info.arch },
    })
}

/// What wait tells of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Ended with a code.
    Exited(i32),
    /// Killed by a signal.
    Killed(i32),
    /// Stopped under ptrace, or by job control: signal in the low byte, event above it.
    Stopped(i32),
}

/// Whether to wait for something to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until it happens, or a signal arrives.
    Block,
    /// Only what has happened already.
    Poll,
}

/// Looks at the next status of any task of this thread, and leaves it in place.
///
/// Only so is a signal safe that stops a task on its way: the kernel keeps it in the status, and delivers it if the
/// tracer dies; a status that has been taken takes the signal with it. The next restart replaces the status.
/// None when nothing is to be told. EINTR when a signal came, ECHILD when there is no task left.
pub fn peek_status(wait: Wait) -> Result<Option<(Tid, Status)>, Errno> {
    let poll = if wait == Wait::Poll { libc::WNOHANG } else { 0 };
    waitid(libc::P_ALL, 0, libc::WNOWAIT | poll)
}

/// Looks at the status of one task, and leaves it in place. None when it has none.
pub fn peek_status_of(tid: Tid) -> Result<Option<Status>, Errno> {
    let status = waitid(libc::P_PID, tid.0 as libc::id_t, libc::WNOWAIT | libc::WNOHANG)?;
    Ok(status.map(|(_, status)| status))
}

/// Takes the status of one task, so that it is not told again. None when it has none.
pub fn take_status(tid: Tid) -> Result<Option<Status>, Errno> {
    Ok(waitid(libc::P_PID, tid.0 as libc::id_t, libc::WNOHANG)?.map(|(_, status)| status))
}

/// The signal by which a child of ours, of whatever thread, is stopped, and is left so. None where it is not.
pub fn stopped_by(pid: Pid) -> Option<i32> {
    match waitid_with(libc::P_PID, pid.0 as libc::id_t, libc::WSTOPPED | libc::WNOWAIT | libc::WNOHANG) {
        Ok(Some((_, Status::Stopped(signal)))) => Some(signal),
        _ => None,
    }
}

fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> Result<Option<(Tid, Status)>, Errno> {
    waitid_with(kind, id, libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD | flags)
}

fn waitid_with(kind: libc::idtype_t, id: libc::id_t, options: i32) -> Result<Option<(Tid, Status)>, Errno> {
    // SAFETY: siginfo_t is plain data, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` lives through the call.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, options) })?;
    // SAFETY: waitid fills si_pid and si_status, or leaves zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then(|| {
        let status = match info.si_code {
            libc::CLD_EXITED => Status::Exited(status),
            libc::CLD_KILLED | libc::CLD_DUMPED => Status::Killed(status),
            _ => Status::Stopped(status),
        };
        (Tid(pid), status)
    }))
}
