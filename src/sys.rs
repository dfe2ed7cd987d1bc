//! All of the crate's `unsafe`: thin wrappers around calls for which no safe crate serves.
//!
//! Every wrapper passes pointers to live, correctly sized local buffers only.
#![allow(unsafe_code)]

mod child;
pub mod grip;
pub mod handle;
pub mod lookout;
pub mod perf;
mod ptrace;
pub mod sentry;
pub mod witness;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;

use crate::units::{Addr, PAGE, Pid, Range, Tid, page_down};

pub use child::{Child, ChildReport, fork_child};
pub(crate) use ptrace::count_read;
pub use ptrace::{
    FILTER_OPTIONS, Restart, Status, SyscallStop, TRACE_OPTIONS, Wait, event_message, interrupt, peek_memory,
    peek_status, peek_status_of, reads, registers, restart, seize, set_registers, signal_sender, stopped_by,
    syscall_info, take_status, write_word,
};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("vmtrace reads the registers of x86-64 Linux; other machines are not supported yet");

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

/// Whether a process has such a task, be it a zombie: tgkill(2) without a signal.
pub fn is_task_of(pid: Pid, tid: Tid) -> bool {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid.0, tid.0, 0) }) != Err(Errno::ESRCH)
}

/// Gives memory that is free, and that the allocator keeps for later, back to the system: malloc_trim(3). Where the C library
/// has no such function, as musl, which keeps little, nothing is done.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers are passed; what is in use is not touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether two tasks share an address space: kcmp(2) with KCMP_VM.
pub fn share_memory(a: Tid, b: Tid) -> Result<bool, Errno> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_VM, 0, 0) }).map(|order| order == 0)
}

/// Reads the target's memory, all of `buffer` or nothing, and waits for whoever supplies it: process_vm_readv(2).
pub fn read_memory(tid: Tid, addr: Addr, buffer: &mut [u8]) -> Result<(), Errno> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    ptrace::count_read();
    let remote = RemoteIoVec { base: addr.0 as usize, len: buffer.len() };
    let wanted = buffer.len();
    let local = &mut [std::io::IoSliceMut::new(buffer)];
    let read = process_vm_readv(nix::unistd::Pid::from_raw(tid.0), local, &[remote])?;
    if read == wanted { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Whether a task's memory could be read; asked where nothing is, so that nobody has to supply it.
///
/// # Errors
/// ESRCH when it has none any more, EPERM without the right to trace it.
pub fn may_read_memory(tid: Tid) -> Result<(), Errno> {
    const NOWHERE: Addr = Addr(u64::MAX - 0xfff);
    match read_memory(tid, NOWHERE, &mut [0]) {
        Err(Errno::EFAULT) => Ok(()),
        other => other,
    }
}

/// Reads the target's memory up to where it cannot be read; returns how many bytes were read.
///
/// process_vm_readv(2) returns short only between the elements that it is given, so each page is one.
pub fn read_memory_up_to(tid: Tid, addr: Addr, buffer: &mut [u8]) -> Result<usize, Errno> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    ptrace::count_read();
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

/// A file in memory, which is for data alone: memfd_create(2). Since Linux 6.3 that can be said, and may have to be
/// (vm.memfd_noexec).
pub fn memory_file(name: &str) -> Result<File, Errno> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    /// MFD_NOEXEC_SEAL
    const DATA: MFdFlags = MFdFlags::from_bits_retain(8);
    let create = |flags| memfd_create(name, MFdFlags::MFD_CLOEXEC | flags);
    create(DATA).or_else(|_| create(MFdFlags::empty())).map(File::from)
}

/// A signal that was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The process that sent it; none where the kernel did (a terminal does).
    pub sender: Option<Pid>,
    /// What came with it, where it was queued: sigqueue(3).
    pub value: Option<usize>,
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
    // SAFETY: where a process has sent it, its number is there (SI_USER, SI_TKILL, SI_QUEUE).
    let sender = (info.si_code <= 0).then(|| Pid(unsafe { info.si_pid() }));
    // SAFETY: and what it has sent with it.
    let value = (info.si_code == libc::SI_QUEUE).then(|| unsafe { info.si_value() }.sival_ptr as usize);
    (signal > 0).then_some(Received { signal, sender, value })
}

/// The signals with these numbers, real-time ones too.
pub fn signal_set(signals: impl IntoIterator<Item = i32>) -> SigSet {
    // SAFETY: zeroes are a value, which sigemptyset makes the right one; numbers that are none are left out.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// SIGRTMIN of the kernel: from here on each signal is queued (signal(7)).
pub const REAL_TIME: i32 = 32;

/// kill(2), by number: nix knows no real-time signals.
pub fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::kill(pid.0, signal) }).map(drop)
}

/// sigqueue(3).
pub fn queue_signal(pid: Pid, signal: i32, value: usize) -> Result<(), Errno> {
    let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
    // SAFETY: the value is passed on as it is; nobody here follows it.
    Errno::result(unsafe { libc::sigqueue(pid.0, signal, value) }).map(drop)
}

/// Ends this process by a signal that it has held off.
pub fn end_by(signal: i32) {
    let own = signal_set([signal]);
    // SAFETY: no handler is installed, and the set lives through the call.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, own.as_ref(), std::ptr::null_mut());
    }
}

/// The same, and leaves no core file: whose end it was has left its own.
pub fn end_without_dump(signal: i32) {
    let _ = nix::sys::prctl::set_dumpable(false);
    end_by(signal);
}

/// Ignores a signal from here on.
pub fn ignore(signal: nix::sys::signal::Signal) {
    use nix::sys::signal::{SigHandler, signal as set_handler};
    // SAFETY: there is no handler.
    let _ = unsafe { set_handler(signal, SigHandler::SigIgn) };
}

/// Whether a signal is ignored, as nohup(1) has it for SIGHUP.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: zeroes are a value of sigaction, and the call only fills it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
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

/// Lets a command's program start with this signal mask, rather than with the one of the thread that starts it.
pub fn with_mask(command: &mut std::process::Command, mask: SigSet) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: sigprocmask(2) may be called between fork and execve (signal-safety(7)), and nothing else is.
    unsafe { command.pre_exec(move || Ok(mask.thread_set_mask()?)) }
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
    /// The first one that holds the address or lies above it.
    Next,
    /// The first executable one that does.
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
            MapsQuery::Next => COVERING_OR_NEXT_VMA,
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
