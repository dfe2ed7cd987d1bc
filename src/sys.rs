//! All of the crate's `unsafe`: thin wrappers around calls for which no safe crate serves.
//!
//! nix's ptrace and wait are not used, because its wait fails on real-time signals after it has consumed the status,
//! and its restarts cannot pass one on. Every wrapper passes pointers to live, correctly sized local buffers only.
#![allow(unsafe_code)]

pub mod grip;
pub mod perf;

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;

use crate::units::{Addr, PAGE, Pid, Range, Tid, page_down};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("vmtrace reads the registers of x86-64 Linux; other machines are not supported yet");

/// `PTRACE_O_*` of every tracee: events of births, ends and execve, and syscall stops that are told from SIGTRAP.
pub const TRACE_OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEEXIT
    | libc::PTRACE_O_TRACESECCOMP;

/// A launched program cannot live without its tracer: the filter's calls would fail with ENOSYS.
pub const EXITKILL: libc::c_int = libc::PTRACE_O_EXITKILL;

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
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::uninit();
    ptrace(libc::PTRACE_GETREGS, tid, 0, registers.as_mut_ptr() as usize)?;
    // SAFETY: PTRACE_GETREGS has filled the whole structure.
    Ok(unsafe { registers.assume_init() })
}

/// Sets the general registers of a stopped task.
pub fn set_registers(tid: Tid, registers: &libc::user_regs_struct) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, std::ptr::from_ref(registers) as usize).map(drop)
}

/// PTRACE_POKEDATA: writes a word of a stopped task's memory.
pub fn write_word(tid: Tid, at: Addr, word: u64) -> Result<(), Errno> {
    ptrace(libc::PTRACE_POKEDATA, tid, at.0 as usize, word as usize).map(drop)
}

/// PTRACE_GETEVENTMSG: what belongs to the event: a child's tid, an exit status, a filter's data.
pub fn event_message(tid: Tid) -> Result<u64, Errno> {
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
    /// It is no syscall stop. If the task is in a call all the same, it is one of this AUDIT_ARCH_*.
    Other {
        /// AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386.
        arch: u32,
    },
}

/// PTRACE_GET_SYSCALL_INFO.
pub fn syscall_info(tid: Tid) -> Result<SyscallStop, Errno> {
    // SAFETY: the structure is plain integers, for which zeroes are a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of_val(&info);
    ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, (&raw mut info) as usize)?;
    Ok(match info.op {
        // SAFETY: for this `op` the kernel has filled this member of the union.
        libc::PTRACE_SYSCALL_INFO_ENTRY => SyscallStop::Entry { arch: info.arch, nr: unsafe { info.u.entry.nr } },
        libc::PTRACE_SYSCALL_INFO_EXIT => SyscallStop::Exit,
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

/// How the scheduler treats a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// SCHED_OTHER.
    Normal,
    /// SCHED_IDLE; threads that it creates are normal ones.
    Idle,
}

/// sched_setscheduler(2) for a thread of this process.
pub fn set_policy(tid: Tid, policy: Policy) -> Result<(), Errno> {
    let policy = match policy {
        Policy::Normal => libc::SCHED_OTHER,
        Policy::Idle => libc::SCHED_IDLE | libc::SCHED_RESET_ON_FORK,
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call.
    Errno::result(unsafe { libc::sched_setscheduler(tid.0, policy, &raw const parameters) }).map(drop)
}

/// The number of the calling thread.
pub fn own_tid() -> Tid {
    Tid(nix::unistd::gettid().as_raw())
}

/// Whether two tasks share an address space: kcmp(2) with KCMP_VM.
pub fn share_memory(a: Tid, b: Tid) -> Result<bool, Errno> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_VM, 0, 0) }).map(|order| order == 0)
}

/// Reads the target's memory, all of `buffer` or nothing.
pub fn read_memory(tid: Tid, addr: Addr, buffer: &mut [u8]) -> Result<(), Errno> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let remote = RemoteIoVec { base: addr.0 as usize, len: buffer.len() };
    let wanted = buffer.len();
    let local = &mut [std::io::IoSliceMut::new(buffer)];
    let read = process_vm_readv(nix::unistd::Pid::from_raw(tid.0), local, &[remote])?;
    if read == wanted { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads the target's memory up to where it cannot be read; returns how many bytes were read.
///
/// process_vm_readv(2) returns short only between the elements that it is given, so each page is one.
pub fn read_memory_up_to(tid: Tid, addr: Addr, buffer: &mut [u8]) -> Result<usize, Errno> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let mut remote = Vec::with_capacity(buffer.len() / PAGE as usize + 2);
    let mut base = addr.0;
    let end = addr.0.saturating_add(buffer.len() as u64);
    while base < end {
        let next = (page_down(base).saturating_add(PAGE)).min(end);
        remote.push(RemoteIoVec { base: base as usize, len: (next - base) as usize });
        base = next;
    }
    let local = &mut [std::io::IoSliceMut::new(buffer)];
    process_vm_readv(nix::unistd::Pid::from_raw(tid.0), local, &remote)
}

/// A signal that was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel sent it (a terminal does), rather than a process.
    pub from_kernel: bool,
}

/// Waits for one of the signals in `set`, which the caller has blocked. None when the time is over.
pub fn wait_signal(set: &SigSet, timeout: Duration) -> Option<Received> {
    // SAFETY: siginfo_t is plain data, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: all three live through the call.
    let signal = unsafe { libc::sigtimedwait(set.as_ref(), &raw mut info, &raw const timeout) };
    (signal > 0).then_some(Received { signal, from_kernel: info.si_code > 0 })
}

/// Whether a signal is ignored, as nohup(1) has it for SIGHUP.
pub fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    // SAFETY: zeroes are a value of sigaction, and the call only fills it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Installs a handler that does nothing, so that `signal` makes a blocked call return with EINTR.
pub fn interrupt_calls_on(signal: nix::sys::signal::Signal) -> Result<(), Errno> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler touches nothing.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// A thread of this process that can be sent signals.
#[derive(Clone, Copy, Debug)]
pub struct ThisThread(libc::pthread_t);

impl ThisThread {
    /// The calling thread.
    pub fn current() -> ThisThread {
        // SAFETY: no arguments.
        ThisThread(unsafe { libc::pthread_self() })
    }

    /// Sends it a signal. The thread must be alive, which it is by construction: it outlives whom it hands this to.
    pub fn send(self, signal: nix::sys::signal::Signal) {
        // SAFETY: the thread is alive; a failure means that there was nobody to wake.
        unsafe { libc::pthread_kill(self.0, signal as libc::c_int) };
    }
}

/// What a launched child tells its parent before its program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildReport {
    /// The filter is installed.
    Filtered,
    /// There is no filter, for this reason; the program runs without.
    Unfiltered(Errno),
    /// The program could not be executed.
    ExecFailed(Errno),
}

/// A child that waits for permission to run its program.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: Pid,
    go: OwnedFd,
    reports: OwnedFd,
}

impl Child {
    /// Lets the child install its filter and execute its program.
    pub fn go(&self) -> Result<(), Errno> {
        nix::unistd::write(&self.go, &[1]).map(drop)
    }

    /// The next report of the child; none once its program runs. Waits for it.
    pub fn report(&self) -> Option<ChildReport> {
        let mut bytes = [0u8; 5];
        let read = nix::unistd::read(&self.reports, &mut bytes).ok()?;
        let [kind, errno @ ..] = bytes;
        let errno = Errno::from_raw(i32::from_ne_bytes(errno));
        match (read, kind) {
            (5, b'F') => Some(ChildReport::Filtered),
            (5, b'U') => Some(ChildReport::Unfiltered(errno)),
            (5, b'E') => Some(ChildReport::ExecFailed(errno)),
            _ => None,
        }
    }
}

/// Rust's runtime ignores SIGPIPE and opens /dev/null where a standard file is closed, both before `main`. A launched
/// program is to find them as they were.
mod before_runtime {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::libc;

    static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
    static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

    /// Run by the dynamic loader, see elf(5).
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        SIGPIPE_IGNORED.store(super::is_ignored(nix::sys::signal::Signal::SIGPIPE), Ordering::Relaxed);
        for (fd, closed) in (0..).zip(&CLOSED) {
            // SAFETY: only looks.
            closed.store(unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1, Ordering::Relaxed);
        }
    }

    /// Puts both back, in a child that is about to execute a program.
    pub fn restore() {
        let sigpipe = if SIGPIPE_IGNORED.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: nobody writes to a pipe or uses the standard files from here on but the program.
        unsafe {
            libc::signal(libc::SIGPIPE, sigpipe);
            for (fd, closed) in (0..).zip(&CLOSED) {
                if closed.load(Ordering::Relaxed) {
                    libc::close(fd);
                }
            }
        }
    }
}

/// Forks a child that will run `argv`, searched for in PATH, with the signal mask `mask` and the given filter.
pub fn fork_child(argv: &[CString], filter: Option<&[libc::sock_filter]>, mask: &SigSet) -> Result<Child, Errno> {
    let (go_read, go_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (reports_read, reports_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: this process has one thread yet, so that the child may do all that a process may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => {
            Ok(Child { pid: Pid(child.as_raw()), go: go_write, reports: reports_read })
        }
        nix::unistd::ForkResult::Child => {
            drop(go_write);
            let mut byte = [0u8];
            // The parent's death closes the pipe: nothing is to be run then.
            if nix::unistd::read(&go_read, &mut byte) == Ok(1) {
                run_child(&pointers, filter, mask, &reports_write);
            }
            // SAFETY: ends the process without running the parent's destructors.
            unsafe { libc::_exit(127) }
        }
    }
}

fn run_child(argv: &[*const libc::c_char], filter: Option<&[libc::sock_filter]>, mask: &SigSet, reports: &OwnedFd) {
    let tell = |kind: u8, errno: Errno| {
        let mut bytes = [kind, 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&(errno as i32).to_ne_bytes());
        let _ = nix::unistd::write(reports, &bytes);
    };
    // SAFETY: a plain call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), std::ptr::null_mut()) };
    before_runtime::restore();
    match filter.map_or(Err(Errno::UnknownErrno), install_filter) {
        Ok(()) => tell(b'F', Errno::UnknownErrno),
        Err(errno) => tell(b'U', errno),
    }
    // SAFETY: argv is null-terminated and its strings live in the parent's copy.
    unsafe { libc::execvp(argv[0], argv.as_ptr()) };
    tell(b'E', Errno::last());
}

/// Installs a seccomp filter for this process. Unprivileged processes must give up new privileges first (seccomp(2)).
fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    let install = || {
        // SAFETY: the program outlives the call, which only reads it.
        Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
    };
    match install() {
        Err(Errno::EACCES) => {
            // SAFETY: integers only.
            Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
            install().map(drop)
        }
        result => result.map(drop),
    }
}

/// Bytes in physical memory in `range` of a process: PAGEMAP_SCAN (Linux 6.7) on its /proc/PID/pagemap.
pub fn resident_bytes(pagemap: BorrowedFd<'_>, range: Range) -> Result<u64, Errno> {
    let mut resident = 0;
    resident_ranges(pagemap, range, &mut |range| resident += range.bytes())?;
    Ok(resident)
}

/// Tells of all pages in `range` of a process that lie in physical memory, as ranges from the lowest to the highest:
/// PAGEMAP_SCAN (Linux 6.7) on its /proc/PID/pagemap. Two that adjoin may be told one by one.
pub fn resident_ranges(pagemap: BorrowedFd<'_>, range: Range, tell: &mut dyn FnMut(Range)) -> Result<(), Errno> {
    const PAGE_IS_PRESENT: u64 = 1 << 3;
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct PageRegion {
        start: u64,
        end: u64,
        categories: u64,
    }
    #[repr(C)]
    struct PmScanArg {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        vec: u64,
        vec_len: u64,
        max_pages: u64,
        category_inverted: u64,
        category_mask: u64,
        category_anyof_mask: u64,
        return_mask: u64,
    }
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, PmScanArg);
    let mut regions = [PageRegion::default(); 512];
    let mut start = range.start().0;
    while start < range.end().0 {
        let mut arg = PmScanArg {
            size: std::mem::size_of::<PmScanArg>() as u64,
            flags: 0,
            start,
            end: range.end().0,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_PRESENT,
            category_anyof_mask: 0,
            return_mask: PAGE_IS_PRESENT,
        };
        // SAFETY: the argument and the vector it points to live through the call and have the stated lengths.
        let found = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut arg) }?;
        let found = usize::try_from(found).unwrap_or(0).min(regions.len());
        regions[..found].iter().filter_map(|one| Range::new(Addr(one.start), Addr(one.end))).for_each(&mut *tell);
        if arg.walk_end <= start {
            break;
        }
        start = arg.walk_end;
    }
    Ok(())
}

/// A line of maps, as PROCMAP_QUERY tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapsLine {
    /// First address, and first address behind it.
    pub bounds: [u64; 2],
    /// Readable, writable, executable, shared, as the bits 1, 2, 4 and 8.
    pub flags: u64,
    /// Offset into the file in bytes.
    pub offset: u64,
    /// Number of the file, 0 without one.
    pub inode: u64,
    /// Major and minor number of the file's device.
    pub device: [u32; 2],
    /// Path, or a name in brackets, or nothing.
    pub name: Box<[u8]>,
}

/// Which line PROCMAP_QUERY is to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapsQuery {
    /// That which holds the address.
    At,
    /// The first executable one that holds the address or lies above it.
    NextExecutable,
}

/// One line of an open /proc/PID/maps: PROCMAP_QUERY (Linux 6.11). None where there is no such line.
///
/// # Errors
/// ENOTTY where the kernel is older.
pub fn query_maps(maps: BorrowedFd<'_>, query: MapsQuery, addr: Addr) -> Result<Option<MapsLine>, Errno> {
    const EXECUTABLE: u64 = 4;
    const COVERING_OR_NEXT_VMA: u64 = 0x10;
    #[repr(C)]
    #[derive(Default)]
    struct ProcmapQuery {
        size: u64,
        query_flags: u64,
        query_addr: u64,
        vma_start: u64,
        vma_end: u64,
        vma_flags: u64,
        vma_page_size: u64,
        vma_offset: u64,
        inode: u64,
        dev_major: u32,
        dev_minor: u32,
        vma_name_size: u32,
        build_id_size: u32,
        vma_name_addr: u64,
        build_id_addr: u64,
    }
    nix::ioctl_readwrite!(procmap_query, b'f', 17, ProcmapQuery);
    let mut name = [0u8; libc::PATH_MAX as usize];
    let mut arg = ProcmapQuery {
        size: std::mem::size_of::<ProcmapQuery>() as u64,
        query_flags: match query {
            MapsQuery::At => 0,
            MapsQuery::NextExecutable => EXECUTABLE | COVERING_OR_NEXT_VMA,
        },
        query_addr: addr.0,
        vma_name_size: name.len() as u32,
        vma_name_addr: name.as_mut_ptr() as u64,
        ..ProcmapQuery::default()
    };
    // SAFETY: the argument and the buffer that it points to live through the call and have the stated lengths.
    match unsafe { procmap_query(maps.as_raw_fd(), &raw mut arg) } {
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
        Ok(_) => {
            // The length counts the zero byte at the end.
            let length = usize::try_from(arg.vma_name_size).unwrap_or(0).saturating_sub(1).min(name.len());
            Ok(Some(MapsLine {
                bounds: [arg.vma_start, arg.vma_end],
                flags: arg.vma_flags,
                offset: arg.vma_offset,
                inode: arg.inode,
                device: [arg.dev_major, arg.dev_minor],
                name: name[..length].into(),
            }))
        }
    }
}

/// A task made by [`clone_on_new_stack`].
#[derive(Debug)]
pub struct RawTask(nix::unistd::Pid);

impl RawTask {
    /// Waits for its end.
    pub fn reap(self) -> Result<(), Errno> {
        use nix::sys::wait::{WaitPidFlag, waitpid};
        waitpid(self.0, Some(WaitPidFlag::__WALL)).map(drop)
    }
}

/// Maps a stack and creates a task on it that sleeps for `lives` and ends. The stack is never unmapped: this is the
/// leak that vmtrace demonstrates.
///
/// Not by nix: its clone keeps what the child is to do in the parent's stack frame, which is gone when it returns.
pub fn clone_on_new_stack(bytes: std::num::NonZeroUsize, lives: Duration) -> Result<RawTask, Errno> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    /// The child shares the parent's thread-local storage, so it does nothing but a system call that cannot fail.
    extern "C" fn sleep(time: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the time lies at the lower end of the child's own stack, which is never unmapped.
        unsafe { libc::syscall(libc::SYS_nanosleep, time, std::ptr::null_mut::<libc::timespec>()) };
        0
    }
    let time = libc::timespec {
        tv_sec: lives.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: lives.subsec_nanos().into(),
    };
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
    // SAFETY: a fresh mapping of at least a page, page-aligned and so fit for a timespec, which this process does not
    // touch again; its end is a stack pointer aligned as the ABI wants it.
    let tid = unsafe {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let stack = mmap_anonymous(None, bytes, prot, MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK)?.as_ptr();
        stack.cast::<libc::timespec>().write(time);
        libc::clone(sleep, stack.byte_add(bytes.get()), flags, stack)
    };
    Errno::result(tid).map(|tid| RawTask(nix::unistd::Pid::from_raw(tid)))
}
