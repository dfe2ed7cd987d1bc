//! Handles of processes: pidfd_open(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use crate::units::Pid;

/// A handle of a process, which stays its own when the process has ended and its number is another's.
///
/// # Errors
/// ESRCH where there is none, ENOSYS before Linux 5.3.
pub fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: integers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// How a process has ended that has been reaped, as wait(2) tells it: PIDFD_GET_INFO of Linux 6.15, linux/pidfd.h.
///
/// # Errors
/// ENOTTY or EINVAL where the kernel does not know that, ESRCH where the process has not been reaped.
pub fn wait_status(handle: &OwnedFd) -> Result<i32, Errno> {
    const EXIT: u64 = 1 << 3;
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    nix::ioctl_readwrite!(get_info, 0xFF, 11, Info);
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the argument lives through the call and has the size that the request names.
    unsafe { get_info(handle.as_raw_fd(), &raw mut info) }?;
    if info.mask & EXIT == 0 { Err(Errno::ESRCH) } else { Ok(info.exit_code) }
}
