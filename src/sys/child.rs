//! A child that is to run a program: forked, and held until its tracer is ready.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;

use crate::units::Pid;

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
        SIGPIPE_IGNORED.store(crate::sys::is_ignored(libc::SIGPIPE), Ordering::Relaxed);
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
    // Of a child whose end is ignored nobody would tell how it has ended (wait(2)).
    let ends_are_ignored = super::is_ignored(libc::SIGCHLD);
    // SAFETY: there is no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
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
                if ends_are_ignored {
                    // SAFETY: there is no handler.
                    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                }
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
