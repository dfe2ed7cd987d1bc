//! Who watches a launched program while this one is stopped by job control: nobody here runs then, and a traced program that
//! somebody continues waits for its tracer.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork, getpid, getppid, read};

use crate::procfs::task;
use crate::units::Pid;

/// How often it looks.
static EVERY: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The last of them.
static LAST: AtomicI32 = AtomicI32::new(0);

/// Whether this is the number of the last lookout, which may have ended: whose SIGCONT is for us.
pub fn is_last(pid: Pid) -> bool {
    pid.0 != 0 && LAST.load(Ordering::Acquire) == pid.0
}

/// A child that continues us when the program goes on, or is gone.
#[derive(Debug)]
pub struct Lookout(nix::unistd::Pid);

impl Lookout {
    /// Watches over a process. To be dropped as soon as this one goes on.
    ///
    /// # Errors
    /// When no child could be made.
    pub fn over(pid: Pid) -> Result<Lookout, Errno> {
        // The first thread may have ended.
        let tid = task::living(pid).map_or(pid.into(), |(tid, _)| tid);
        let status = CString::new(format!("/proc/{tid}/status")).map_err(|_| Errno::EINVAL)?;
        let parent = getpid();
        // SAFETY: this process has several threads, so that the child does nothing but system calls (signal-safety(7)).
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                LAST.store(child.as_raw(), Ordering::Release);
                Ok(Lookout(child))
            }
            ForkResult::Child => look_out(&status, parent),
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

/// Closes what this child has of its parent's, and takes no signals.
pub(super) fn keep_out() {
    // SAFETY: nothing here is used but what follows; the set lives through the calls.
    unsafe {
        // Other people's pipes must not stay open because of us; and what is sent to the job is the job's.
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

fn look_out(status: &CStr, parent: nix::unistd::Pid) -> ! {
    keep_out();
    while getppid() == parent {
        let mut text = [0; 4096];
        let told = open(status, OFlag::O_RDONLY, Mode::empty()).and_then(|file| read(&file, &mut text));
        if told.is_err() || told.is_ok_and(|length| is_continued(&text[..length])) {
            // Again and again: it may not have stopped yet.
            // SAFETY: integers only.
            unsafe { libc::kill(parent.as_raw(), libc::SIGCONT) };
        }
        // SAFETY: the time lives through the call.
        unsafe { libc::nanosleep(&raw const EVERY, std::ptr::null_mut()) };
    }
    // SAFETY: ends the process without running the parent's destructors.
    unsafe { libc::_exit(0) }
}

/// Whether a process is stopped, and nothing that would continue it is on its way.
pub fn stands(pid: Pid) -> bool {
    let Some((tid, _)) = task::living(pid) else { return false };
    std::fs::read(format!("/proc/{tid}/status")).is_ok_and(|status| !is_continued(&status))
}

/// Whether a process that was stopped is so no more, or would not be but for its tracer, by its /proc/PID/status.
fn is_continued(status: &[u8]) -> bool {
    const CONTINUED: u64 = 1 << (libc::SIGCONT - 1);
    let line = |name: &[u8]| {
        let mut lines = status.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
    };
    let is_pending = |name| {
        let set = line(name).and_then(|set| u64::from_str_radix(std::str::from_utf8(set).ok()?, 16).ok());
        set.is_some_and(|set| set & CONTINUED != 0)
    };
    let is_stopped = line(b"State:").is_some_and(|state| matches!(state.first(), Some(b'T' | b't')));
    !is_stopped || is_pending(b"SigPnd:") || is_pending(b"ShdPnd:")
}

#[cfg(test)]
mod tests {
    use super::is_continued;

    #[test]
    fn stopped_and_continued() {
        let status = |state: &str, own: u64, shared: u64| {
            format!(
                "Name:\tState: R\nState:\t{state}\nTgid:\t7\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t0\n"
            )
        };
        const CONT: u64 = 1 << 17;
        for (state, own, shared, continued) in [
            ("T (stopped)", 0, 0, false),
            ("t (tracing stop)", 0, 1 << 14, false),
            ("t (tracing stop)", 0, CONT, true),
            ("T (stopped)", CONT, 0, true),
            ("S (sleeping)", 0, 0, true),
            ("Z (zombie)", 0, 0, true),
        ] {
            let text = status(state, own, shared);
            assert_eq!(is_continued(text.as_bytes()), continued, "{text}");
        }
        assert!(is_continued(b""), "a process that is gone");
    }
}
