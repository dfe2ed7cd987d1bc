//! Launching a program under the filter.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use thiserror::Error;

use super::{Phase, Ptrace, filter};
use crate::event::Exit;
use crate::source::control::Control;
use crate::sys::{self, Child, ChildReport, Status};

/// Why a program could not be launched.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// It is not there, or not executable.
    #[error("cannot run {program}: {}", errno.desc())]
    NotExecuted {
        /// What was to be run.
        program: String,
        /// Why not.
        errno: Errno,
    },
    /// Its name or an argument cannot be passed on.
    #[error("cannot run the program: an argument holds a zero byte")]
    ZeroByte,
    /// No child could be made.
    #[error("cannot launch a program: {0}: {desc}", desc = .0.desc())]
    Fork(Errno),
    /// The child could not be traced.
    #[error(
        "cannot trace the launched program: {0}: ptrace needs to be allowed here (in a container: --cap-add=SYS_PTRACE)"
    )]
    Trace(Errno),
}

/// Whether the target may be left to itself later on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leash {
    /// A filter picks the calls; the program cannot live without us.
    Filter,
    /// Every call stops; the program can be left alone at any time.
    None,
}

/// A child on its way to its program.
#[derive(Debug)]
pub struct Launching {
    child: Child,
    filtered: bool,
    /// Why there is no filter, though one was wanted.
    pub unfiltered: Option<Errno>,
}

impl Launching {
    /// The program runs: whether a filter picks the calls that stop.
    pub fn program_runs(&mut self) -> bool {
        self.filtered
    }
}

impl Ptrace {
    /// Launches `command`, and follows it from its first instruction on.
    ///
    /// `mask` is the signal mask that it is to start with. No other thread may exist yet.
    pub fn launch(command: &[OsString], leash: Leash, mask: &SigSet) -> Result<Ptrace, LaunchError> {
        let argv: Vec<CString> = command
            .iter()
            .map(|arg| CString::new(arg.clone().into_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| LaunchError::ZeroByte)?;
        let program = filter::program();
        let wanted = (leash == Leash::Filter).then_some(&*program);
        let child = sys::fork_child(&argv, wanted, mask).map_err(LaunchError::Fork)?;
        let kill = if wanted.is_some() { sys::EXITKILL } else { 0 };
        sys::seize(child.pid.into(), sys::TRACE_OPTIONS | kill).map_err(LaunchError::Trace)?;
        child.go().map_err(LaunchError::Fork)?;
        let report = child.report();
        let unfiltered = match report {
            Some(ChildReport::Unfiltered(errno)) if wanted.is_some() => Some(errno),
            _ => None,
        };
        let pid = child.pid;
        let filtered = report == Some(ChildReport::Filtered);
        let launching = Launching { child, filtered, unfiltered };
        let mut source = Ptrace::new(pid, true, Phase::Launching(launching));
        source.add_child(pid.into(), pid, None);
        Ok(source)
    }

    /// Why a launched program runs without a filter, so that every call of it stops.
    pub fn unfiltered(&self) -> Option<Errno> {
        match &self.phase {
            Phase::Launching(launching) => launching.unfiltered,
            _ => None,
        }
    }

    /// Waits for the end of the launched process, which may have been left to itself before.
    ///
    /// # Errors
    /// When somebody else has taken its status.
    pub fn wait_for_main(&self, control: &Control) -> Result<Exit, Errno> {
        let main = self.main.pid;
        if let Some(exit) = self.main.exit {
            return Ok(exit);
        }
        loop {
            for signal in control.take().signals() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(main.0),
                    nix::sys::signal::Signal::try_from(signal).ok(),
                );
            }
            match sys::wait_for(main) {
                Ok(Status::Exited(code)) => return Ok(Exit::Code(code)),
                Ok(Status::Killed(signal)) => return Ok(Exit::Signal(signal)),
                Ok(Status::Stopped(_)) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Why the child has ended without running its program; to be asked when no task is left.
    pub fn not_executed(&self) -> Option<Errno> {
        let Phase::Launching(launching) = &self.phase else {
            return None;
        };
        match launching.child.report() {
            Some(ChildReport::ExecFailed(errno)) => Some(errno),
            _ => None,
        }
    }
}
