//! Keeps the memory of a process readable a little beyond its end, without stopping it.
//!
//! While a process_vm_readv(2) is under way, the kernel keeps the address space that it reads from (mm_access in
//! kernel/fork.c takes a reference, and its end, exit_mmap, comes when the last is given back). One that is to write to
//! a page of ours that a userfaultfd(2) watches is under way until we say so. A /proc/PID/mem that was opened before can
//! then be read even when the process has been reaped. To the process this makes no difference: it ends as it would,
//! and its pages go a moment later.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::units::{Addr, PAGE, Tid};

/// An address space that is kept.
#[derive(Debug)]
pub struct Grip {
    /// The thread's number, for the scheduler.
    holder: Tid,
    /// Given back first: whoever waits for the page goes on.
    watch: Option<OwnedFd>,
    let_go: Arc<AtomicBool>,
}

/// A page of ours that is not there.
#[derive(Debug)]
struct Page(NonNull<libc::c_void>);

// SAFETY: the page is never touched by this program, only handed to the kernel.
unsafe impl Send for Page {}

impl Page {
    fn new() -> Result<Page, Errno> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let length = std::num::NonZeroUsize::MIN.saturating_add(PAGE as usize - 1);
        // SAFETY: a fresh mapping.
        unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }
            .map(Page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr(), PAGE as usize) };
    }
}

impl Grip {
    /// Takes hold of the address space of a live task, of which something can be read at `readable`.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_PTRACE, ENOSYS where the kernel has no userfaultfd, ESRCH where the task is gone.
    pub fn take(tid: Tid, readable: Addr) -> Result<Grip, Errno> {
        let page = Page::new()?;
        let watch = watch(&page)?;
        let (done_read, done_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let let_go = Arc::new(AtomicBool::new(false));
        let holder = Arc::new(AtomicI32::new(0));
        // Nobody waits for its end: it frees the memory, which takes as long as it takes, and is not in the way.
        let thread = std::thread::Builder::new().name("grip".to_owned()).spawn({
            let (let_go, holder) = (Arc::clone(&let_go), Arc::clone(&holder));
            move || {
                holder.store(super::own_tid().0, Ordering::Release);
                hold(tid, readable, &page, &let_go);
                drop(done_write);
            }
        });
        thread.map_err(|_| Errno::EAGAIN)?;
        // Either somebody waits for the page, which is the hold, or the thread gives up.
        let mut files =
            [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(done_read.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut files, PollTimeout::from(1000u16));
        let held = files[0].any() == Some(true);
        let holder = Tid(holder.load(Ordering::Acquire));
        // It was to be there at once. From here on it has nothing to do; but where this program is stopped it never stands
        // still (see `hold`), and is to be in nobody's way.
        if held {
            let _ = super::set_policy(holder, super::Policy::Idle);
        }
        let grip = Grip { holder, watch: Some(watch), let_go };
        if held { Ok(grip) } else { Err(Errno::ESRCH) }
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        self.let_go.store(true, Ordering::Release);
        // It may have to free that memory now, and is to come to an end.
        let _ = super::set_policy(self.holder, super::Policy::Normal);
        // Closing it lets whoever waits go on, with an empty page.
        drop(self.watch.take());
    }
}

/// A userfaultfd for the page.
fn watch(page: &Page) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }
    #[repr(C)]
    struct Register {
        start: u64,
        len: u64,
        mode: u64,
        ioctls: u64,
    }
    nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, Api);
    nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, Register);
    const UFFD_API: u64 = 0xAA;
    const MODE_MISSING: u64 = 1;
    // SAFETY: integers only. Without UFFD_USER_MODE_ONLY, since it is the kernel that will touch the page.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
    let mut register = Register { start: page.0.as_ptr() as u64, len: PAGE, mode: MODE_MISSING, ioctls: 0 };
    // SAFETY: both arguments live through the calls and have the sizes that the requests name.
    unsafe {
        uffdio_api(fd.as_raw_fd(), &raw mut api)?;
        uffdio_register(fd.as_raw_fd(), &raw mut register)?;
    }
    Ok(fd)
}

/// Reads a byte into the page until it is let go.
///
/// A signal that stops this program does not stop this thread: the fault of a system call is retried until the page is there
/// (fault_signal_pending in include/linux/sched/signal.h), and whoever waits for this program's stop waits in vain. So a grip
/// is not to be held where this program stops itself. Where the call is interrupted nevertheless, it is made again.
fn hold(tid: Tid, readable: Addr, page: &Page, let_go: &AtomicBool) {
    let _ = nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_BLOCK,
        Some(&nix::sys::signal::SigSet::all()),
        None,
    );
    while !let_go.load(Ordering::Acquire) {
        let local = libc::iovec { iov_base: page.0.as_ptr(), iov_len: 1 };
        let remote = libc::iovec { iov_base: readable.0 as *mut libc::c_void, iov_len: 1 };
        // SAFETY: the kernel writes one byte to the page, which this program does not use otherwise.
        let read = unsafe { libc::process_vm_readv(tid.0, &raw const local, 1, &raw const remote, 1, 0) };
        if let_go.load(Ordering::Acquire) || read == 1 {
            return;
        }
        match Errno::last() {
            // Interrupted: the page is still not there.
            Errno::EFAULT | Errno::EINTR if read == -1 => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(tid.0), None).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;
    use crate::procfs;

    /// What was in a process's memory can be read after it has been killed and reaped, and no longer when it is let go.
    #[test]
    fn memory_outlives_its_process_while_it_is_held() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        let stack = loop {
            let maps = procfs::maps::read(tid).unwrap();
            let is_sleep =
                procfs::task::command_line(crate::units::Pid(tid.0)).first().is_some_and(|name| name == "sleep");
            if let Some(stack) = maps.iter().find(|vma| is_sleep && &*vma.name == b"[stack]") {
                break stack.range;
            }
        };
        let mem = std::fs::File::open(format!("/proc/{tid}/mem")).unwrap();
        let at = stack.end().0 - 64;
        let mut before = [0; 64];
        mem.read_exact_at(&mut before, at).unwrap();
        let grip = Grip::take(tid, Addr(at)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut after = [0; 64];
        mem.read_exact_at(&mut after, at).unwrap();
        assert_eq!(before, after);
        drop(grip);
        // Not at once: a thread frees it.
        while mem.read_at(&mut after, at).unwrap() > 0 {
            std::thread::yield_now();
        }
    }

    /// Of a process that is gone nothing can be held.
    #[test]
    fn what_is_gone_cannot_be_held() {
        let mut child = Command::new("true").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        child.wait().unwrap();
        assert_eq!(Grip::take(tid, Addr(PAGE)).unwrap_err(), Errno::ESRCH);
    }
}
