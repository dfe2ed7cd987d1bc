//! Who hands on to a launched program that its job is stopped by SIGSTOP, where it has left the job's process group: nobody can
//! take that signal, and who is stopped by it can do nothing.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid as Number, fork, getpid, getppid, read};

use super::lookout::keep_out;
use crate::procfs::task;
use crate::units::Pid;

/// How often it looks. Rarely, for it does so as long as the program is followed.
static EVERY: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How it is called.
const NAME: &CStr = c"stop-sentry";

/// A child of the thread that has posted it, in a session of its own; it ends when that does, or with this.
#[derive(Debug)]
pub struct Sentry(Number);

impl Sentry {
    /// From now on the process group of `group`, a child of this process, is stopped when this process is, and `witness` with it,
    /// which is stopped only with all of our group. What continues it is to be handed on by who has been stopped.
    ///
    /// # Errors
    /// When no child could be made.
    pub fn post(witness: Pid, group: Pid) -> Result<Sentry, Errno> {
        let parent = getpid();
        let path = |pid, name| CString::new(format!("/proc/{pid}/{name}")).map_err(|_| Errno::EINVAL);
        let own = Pid(parent.as_raw());
        let (stats, turns) =
            ([path(own, "stat")?, path(witness, "stat")?, path(group, "stat")?], path(own, "schedstat")?);
        // SAFETY: this process has several threads, so that the child does nothing but system calls (signal-safety(7)).
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Sentry(child)),
            ForkResult::Child => stand(&stats, &turns, parent, group),
        }
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

fn stand(stats: &[CString; 3], turns: &CStr, parent: Number, group: Pid) -> ! {
    keep_out();
    // SAFETY: the name lives through the call; the others take integers only.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    let [ours, witness, main] = stats;
    let is_in = |stat: &CStr, states: &[&str]| has(&beginning(stat), 3, |state| states.contains(&state));
    // Its number is another's once nobody of its group is left, and it has been waited for.
    let is_there = || has(&beginning(main), 4, |its_parent| its_parent.parse() == Ok(parent.as_raw()));
    let stop = || {
        let stands = is_in(ours, &["T"]) && is_in(witness, &["T"]) && is_there();
        // Who has run since is stopped anew.
        stands.then(|| beginning(turns))
    };
    let (mut told, mut was_late) = (None, false);
    while getppid() == parent {
        if was_late && is_there() && is_in(main, &["T", "t"]) {
            // What was to continue it has come first, and is lost.
            // SAFETY: integers only.
            unsafe { libc::kill(-group.0, libc::SIGCONT) };
        }
        let now = stop();
        was_late = now.is_some() && now != told && {
            // SAFETY: integers only.
            unsafe { libc::kill(-group.0, libc::SIGSTOP) };
            stop() != now
        };
        told = now;
        // SAFETY: the time lives through the call.
        unsafe { libc::nanosleep(&raw const EVERY, std::ptr::null_mut()) };
    }
    // SAFETY: ends the process without running the parent's destructors.
    unsafe { libc::_exit(0) }
}

/// The beginning of a file of /proc, and zeroes behind it.
fn beginning(path: &CStr) -> [u8; 64] {
    let mut text = [0; 64];
    // What cannot be read says nothing.
    let _ = open(path, OFlag::O_RDONLY, Mode::empty()).and_then(|file| read(&file, &mut text));
    text
}

/// Whether a field of /proc/PID/stat is as it should be.
fn has(stat: &[u8], number: usize, is_so: impl FnOnce(&str) -> bool) -> bool {
    task::stat_field(stat, number).is_some_and(is_so)
}
