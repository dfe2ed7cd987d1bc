//! perf_event_open(2), its ring buffers, and tracefs without a mount point.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::units::PAGE;

/// `struct perf_event_attr` of linux/perf_event.h up to PERF_ATTR_SIZE_VER4 (Linux 4.1, which added `clockid`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EventAttr {
    /// PERF_TYPE_*.
    pub kind: u32,
    size: u32,
    /// Which event of that type.
    pub config: u64,
    sample_period: u64,
    /// PERF_SAMPLE_*.
    pub sample_type: u64,
    read_format: u64,
    /// The bit field that follows `read_format`.
    pub flags: u64,
    /// Wake the reader when so many bytes are there (if `watermark` is set).
    pub wakeup_watermark: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    /// Which registers PERF_SAMPLE_REGS_USER writes, as bits.
    pub sample_regs_user: u64,
    /// How many bytes of the stack PERF_SAMPLE_STACK_USER writes, a multiple of 8.
    pub sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<EventAttr>() == 112);

impl EventAttr {
    /// Wakes the reader at each record of this event.
    pub fn wake_at_once(&mut self) {
        /// `watermark`; without it the number is one of records.
        const WATERMARK: u64 = 1 << 14;
        self.flags &= !WATERMARK;
        self.wakeup_watermark = 1;
    }

    /// Every occurrence of an event, with times of CLOCK_MONOTONIC, which are the same on all CPUs. Disabled at first.
    pub fn every(kind: u32, config: u64) -> EventAttr {
        /// `disabled`, `sample_id_all`, `use_clockid`, `watermark`.
        const FLAGS: u64 = 1 | 1 << 18 | 1 << 25 | 1 << 14;
        EventAttr {
            kind,
            size: size_of::<EventAttr>() as u32,
            config,
            sample_period: 1,
            flags: FLAGS,
            clockid: libc::CLOCK_MONOTONIC,
            ..EventAttr::default()
        }
    }
}

/// An event of one CPU, whatever runs there.
#[derive(Debug)]
pub struct CpuEvent(OwnedFd);

impl CpuEvent {
    /// Opens it.
    ///
    /// # Errors
    /// EACCES or EPERM without CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), ENODEV where the CPU is offline, EMFILE when
    /// there are too many files.
    pub fn open(attr: &EventAttr, cpu: u32) -> Result<CpuEvent, Errno> {
        const ANY_TASK: libc::pid_t = -1;
        const NO_GROUP: libc::c_int = -1;
        const FD_CLOEXEC: libc::c_ulong = 8;
        let cpu = libc::c_int::try_from(cpu).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the attributes live through the call, which only reads them, as many bytes as they say.
        let fd = Errno::result(unsafe {
            let attr = std::ptr::from_ref(attr);
            libc::syscall(libc::SYS_perf_event_open, attr, ANY_TASK, cpu, NO_GROUP, FD_CLOEXEC)
        })?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(CpuEvent(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Writes into the ring of `other`, which must be an event of the same CPU.
    pub fn write_to(&self, other: &CpuEvent) -> Result<(), Errno> {
        const SET_OUTPUT: libc::c_ulong = 0x2405;
        // SAFETY: integers only.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), SET_OUTPUT, other.0.as_raw_fd()) }).map(drop)
    }

    /// Counts only what `filter`, of the tracepoint's own fields, lets through. Only once for each event.
    pub fn set_filter(&self, filter: &CStr) -> Result<(), Errno> {
        const SET_FILTER: libc::c_ulong = 0x4008_2406;
        // SAFETY: a terminated string that lives through the call.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FILTER, filter.as_ptr()) }).map(drop)
    }

    /// Lets it count.
    pub fn enable(&self) -> Result<(), Errno> {
        const ENABLE: libc::c_ulong = 0x2400;
        // SAFETY: integers only.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), ENABLE, 0) }).map(drop)
    }

    /// The number that its records bear.
    pub fn id(&self) -> Result<u64, Errno> {
        const ID: libc::c_ulong = 0x8008_2407;
        let mut id = 0u64;
        // SAFETY: the kernel writes 8 bytes to `id`, which lives through the call.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), ID, &raw mut id) })?;
        Ok(id)
    }

    /// To be polled: readable when there is much in its ring.
    pub fn as_raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The ring buffer of an event: the kernel writes records, we read them.
#[derive(Debug)]
pub struct Ring {
    /// The control page, with the data behind it.
    base: NonNull<u8>,
    data_bytes: usize,
    /// A record that goes over the ring's end, put together.
    whole: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone, and is not tied to the thread that made it.
unsafe impl Send for Ring {}

/// Where `data_head` and `data_tail` are in `struct perf_event_mmap_page`.
const HEAD: usize = 1024;
const TAIL: usize = 1032;

/// A record begins with `struct perf_event_header`: type (4 bytes), misc (2), size (2).
pub const HEADER_BYTES: usize = 8;

impl Ring {
    /// Maps the ring of `event`, of `data_bytes`, a power of two of at least a page.
    ///
    /// # Errors
    /// EPERM where that is more than may be locked in memory.
    pub fn map(event: &CpuEvent, data_bytes: usize) -> Result<Ring, Errno> {
        if !data_bytes.is_power_of_two() || !(data_bytes as u64).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let length = data_bytes + PAGE as usize;
        // SAFETY: a new mapping of a file; no memory of ours is touched.
        let base = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), length, prot, libc::MAP_SHARED, event.as_raw(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let base = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Ring { base, data_bytes, whole: Vec::new() })
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both words lie in the control page, are aligned, and are shared with the kernel as atomics.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Passes every record that is there to `each`, header included, and gives its room back.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let head = self.position(HEAD).load(Ordering::Acquire);
        let mut tail = self.position(TAIL).load(Ordering::Relaxed);
        while tail < head {
            let (mut size, mut header) = (0, [0; HEADER_BYTES]);
            if head - tail >= HEADER_BYTES as u64 {
                self.copy(tail, &mut header);
                size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            }
            if size < HEADER_BYTES || size as u64 > head - tail {
                // Never seen; nothing behind it could be made out.
                tail = head;
                break;
            }
            let offset = (tail % self.data_bytes as u64) as usize;
            if offset + size <= self.data_bytes {
                // SAFETY: within the data, between tail and head, where the kernel does not write before we move the tail.
                each(unsafe { std::slice::from_raw_parts(self.data().add(offset), size) });
            } else {
                let mut whole = std::mem::take(&mut self.whole);
                whole.resize(size, 0);
                self.copy(tail, &mut whole);
                each(&whole);
                self.whole = whole;
            }
            tail += size as u64;
        }
        self.position(TAIL).store(tail, Ordering::Release);
    }

    fn data(&self) -> *const u8 {
        // SAFETY: the data follows the control page within the mapping.
        unsafe { self.base.as_ptr().add(PAGE as usize) }
    }

    /// Copies what was written from position `from` on; the ring goes round.
    fn copy(&self, from: u64, into: &mut [u8]) {
        let offset = (from % self.data_bytes as u64) as usize;
        let first = into.len().min(self.data_bytes - offset);
        // SAFETY: both parts lie within the data, and `into` does not.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data().add(offset), into.as_mut_ptr(), first);
            std::ptr::copy_nonoverlapping(self.data(), into.as_mut_ptr().add(first), into.len() - first);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this length.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.data_bytes + PAGE as usize) };
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, in which events are timed.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call. CLOCK_MONOTONIC is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets the calling thread run before others: who reads a ring must be faster than those who fill it. Where that is not
/// permitted, nothing changes.
pub fn hurry() {
    const NICE: libc::c_int = -10;
    // SAFETY: integers only; 0 means the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Lets the calling thread, and those that it makes, run before all that are not real-time ones: whoever has to be there
/// before a program of milliseconds is gone. For little work. Where that is not permitted, it hurries.
pub fn preempt() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call; 0 means the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) } != 0 {
        hurry();
    }
}

/// Waits until one of the files is readable, a signal arrives, or the time is over.
pub fn wait_readable(files: &[RawFd], timeout: Duration) {
    let mut polled: Vec<libc::pollfd> =
        files.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: all of it lives through the call. Whatever comes of it, the caller looks for itself.
    unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) };
}

/// tracefs, mounted nowhere: fsopen(2), fsconfig(2) and fsmount(2) of Linux 5.2. It is gone when the file is closed.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENODEV where the kernel has no tracefs.
pub fn detached_tracefs() -> Result<OwnedFd, Errno> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const CMD_CREATE: libc::c_uint = 6;
    const NOTHING: *const libc::c_char = std::ptr::null();
    let owned = |fd: libc::c_long| {
        // SAFETY: a new descriptor that nobody else owns.
        Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    // SAFETY: a terminated string.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let fd = context.as_raw_fd();
    // SAFETY: neither key nor value belongs to this command.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, fd, CMD_CREATE, NOTHING, NOTHING, 0) })?;
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0) })
}
