//! Launching a program under the filter.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use thiserror::Error;

use super::attach::leave;
use super::{Phase, Ptrace, filter, take};
use crate::event::Exit;
use crate::procfs::task;
use crate::source::control::Control;
use crate::source::job::{Aftermath, Suspension};
use crate::source::{Follow, Launched};
use crate::sys::{self, Child, ChildReport, Status, Wait};
use crate::units::Pid;

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
    /// Whoever traces this vmtrace has followed it into its child, and a process has one tracer.
    #[error(
        "cannot trace the launched program: vmtrace itself is traced, with its children, by process {tracer} ({name}), and a process can have one tracer; `--engine perf` follows it nevertheless"
    )]
    AlreadyTraced {
        /// Who traces.
        tracer: Pid,
        /// The tracer's command.
        name: String,
    },
}

impl LaunchError {
    /// Why `child` could not be traced.
    pub(in crate::source) fn refused(child: Pid, errno: Errno) -> LaunchError {
        match task::status(child.into()).ok().and_then(|status| status.tracer) {
            Some(tracer) => LaunchError::AlreadyTraced { tracer, name: task::program_name(tracer) },
            None => LaunchError::Trace(errno),
        }
    }
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
    /// Whether a filter was wanted.
    wanted: bool,
}

impl Launching {
    /// The program runs, so that its child has told: whether a filter picks the calls that stop, or why none does.
    ///
    /// Not to be asked before: a signal may stop the child on its way, and only the wait loop lets it go on.
    pub fn program_runs(&self) -> Result<(), Option<Errno>> {
        match self.child.report() {
            Some(ChildReport::Filtered) => Ok(()),
            Some(ChildReport::Unfiltered(errno)) if self.wanted => Err(Some(errno)),
            _ => Err(None),
        }
    }
}

/// The arguments as the kernel wants them.
///
/// # Errors
/// Where one holds a zero byte.
pub(in crate::source) fn arguments(command: &[OsString]) -> Result<Vec<CString>, LaunchError> {
    let terminated = command.iter().map(|arg| CString::new(arg.clone().into_vec()));
    terminated.collect::<Result<_, _>>().map_err(|_| LaunchError::ZeroByte)
}

impl Ptrace {
    /// Launches `command`, and follows it from its first instruction on. It runs from [`Launched::go`] on.
    ///
    /// `mask` is the signal mask that it is to start with. No other thread may exist yet.
    pub fn launch(command: &[OsString], leash: Leash, follow: Follow, mask: &SigSet) -> Result<Ptrace, LaunchError> {
        let argv = arguments(command)?;
        let program = filter::program();
        let wanted = (leash == Leash::Filter && follow == Follow::Memory).then_some(&*program);
        let child = sys::fork_child(&argv, wanted, mask).map_err(LaunchError::Fork)?;
        let options = if wanted.is_some() { sys::FILTER_OPTIONS } else { sys::TRACE_OPTIONS };
        let pid = child.pid;
        sys::seize(pid.into(), options).map_err(|errno| LaunchError::refused(pid, errno))?;
        let launching = Launching { child, wanted: wanted.is_some() };
        let mut source = Ptrace::new(pid, true, follow, Phase::Launching(launching));
        source.add_child(pid.into(), pid, None);
        Ok(source)
    }
}

impl Launched for Ptrace {
    fn go(&mut self) -> Result<(), LaunchError> {
        match &self.phase {
            Phase::Launching(launching) => launching.child.go().map_err(LaunchError::Fork),
            _ => Ok(()),
        }
    }

    fn wait_for_main(&mut self, control: &Control, suspension: Suspension) -> Result<Exit, Errno> {
        let main = self.main.pid;
        if let Some(exit) = self.main.exit {
            return Ok(exit);
        }
        let mut aftermath = Aftermath::of(main, control, suspension);
        loop {
            aftermath.answer(!self.stragglers.is_empty());
            match sys::peek_status(Wait::Block) {
                // It could not be left before, and has woken up.
                Ok(Some((tid, Status::Stopped(status)))) if self.stragglers.remove(&tid) => {
                    self.stragglers.extend(leave(tid, status));
                }
                Ok(Some((tid, status))) => {
                    take(tid);
                    match status {
                        Status::Exited(code) if tid == main.into() => return Ok(Exit::Code(code)),
                        Status::Killed(signal) if tid == main.into() => return Ok(Exit::Signal(signal)),
                        _ => {}
                    }
                }
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn not_executed(&self) -> Option<Errno> {
        let Phase::Launching(launching) = &self.phase else {
            return None;
        };
        std::iter::from_fn(|| launching.child.report()).find_map(|report| match report {
            ChildReport::ExecFailed(errno) => Some(errno),
            ChildReport::Filtered | ChildReport::Unfiltered(_) => None,
        })
    }
}
