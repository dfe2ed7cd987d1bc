//! Launching a program that is followed from its first instruction on, without being stopped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use super::Perf;
use super::attach::FollowError;
use super::rings::Rings;
use super::tether::Tether;
use crate::event::Exit;
use crate::source::Launched;
use crate::source::control::Control;
use crate::source::job::{Aftermath, Suspension};
use crate::source::ptrace::launch::{LaunchError, arguments};
use crate::sys::{self, Child, ChildReport, Status, Wait};
use crate::units::Pid;

/// A launched program.
#[derive(Debug)]
pub(super) struct Launch {
    child: Child,
    pub(super) tether: Tether,
    /// It has executed its program.
    pub(super) runs: bool,
    /// It is stopped by job control, and that has been told.
    pub(super) stop_told: bool,
}

impl Launch {
    /// Whether it is stopped by job control.
    pub(super) fn is_stopped(&self, main: Pid) -> bool {
        // As long as it is traced another stop would show, too; the tracer leaves whom job control has stopped.
        !self.tether.is_tied() && matches!(sys::peek_status_of(main.into()), Ok(Some(Status::Stopped(_))))
    }
}

impl Perf {
    /// Launches `command`, with rings of at most `ring_bytes`. It runs from [`Launched::go`] on.
    ///
    /// `mask` is the signal mask that it is to start with. No other thread may exist yet.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn launch(command: &[OsString], mask: &SigSet, ring_bytes: Option<usize>) -> Result<Perf, FollowError> {
        let argv = arguments(command)?;
        if let Some(program) = command.first().filter(|program| is_i386(program)) {
            return Err(FollowError::I386Program(program.to_string_lossy().into_owned()));
        }
        // First of all, since the limits that we raise for ourselves are not the program's.
        let child = sys::fork_child(&argv, None, mask).map_err(LaunchError::Fork)?;
        let pid = child.pid;
        let mut source = match Rings::open(ring_bytes) {
            Ok(rings) => Perf::new(pid, rings),
            Err(error) => {
                // The child ends when nobody can let it go any more.
                drop(child);
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.0), None);
                return Err(error.into());
            }
        };
        source.enable()?;
        let space = source.stream.new_space();
        source.stream.add(pid.into(), pid, space);
        source.change_mappers();
        let tether = Tether::tie(pid);
        source.launch = Some(Launch { child, tether, runs: false, stop_told: false });
        Ok(source)
    }

    /// Whether job control has stopped the launched program since this was last told.
    pub(super) fn has_news_of_stop(&mut self) -> bool {
        let main = self.main;
        let Some(launch) = &mut self.launch else { return false };
        let is_stopped = launch.is_stopped(main);
        let is_news = is_stopped && !launch.stop_told;
        launch.stop_told = is_stopped;
        is_news
    }
}

/// Whether the file that execvp(3) is going to execute is a 32-bit program. Of a script's interpreter that shows later.
fn is_i386(program: &OsStr) -> bool {
    use nix::unistd::{AccessFlags, access};
    let is_program = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let path = if program.as_bytes().contains(&b'/') {
        Some(PathBuf::from(program))
    } else {
        let paths = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        std::env::split_paths(&paths).map(|folder| folder.join(program)).find(is_program)
    };
    path.filter(is_program).is_some_and(|path| File::open(path).is_ok_and(is_of_class_32))
}

/// Whether a file is a 32-bit program: EI_CLASS of elf(5).
fn is_of_class_32(mut file: File) -> bool {
    use std::io::Read;
    let mut head = [0; 5];
    file.read_exact(&mut head).is_ok() && head == *b"\x7fELF\x01"
}

impl Launched for Perf {
    fn go(&mut self) -> Result<(), LaunchError> {
        self.launch.as_ref().map_or(Ok(()), |launch| launch.child.go().map_err(LaunchError::Fork))
    }

    fn not_executed(&self) -> Option<Errno> {
        let launch = self.launch.as_ref().filter(|launch| !launch.runs)?;
        std::iter::from_fn(|| launch.child.report()).find_map(|report| match report {
            ChildReport::ExecFailed(errno) => Some(errno),
            ChildReport::Filtered | ChildReport::Unfiltered(_) => None,
        })
    }

    fn wait_for_main(&mut self, control: &Control, suspension: Suspension) -> Result<Exit, Errno> {
        let main = self.main;
        if let Some(launch) = &mut self.launch {
            launch.tether.untie();
        }
        let mut aftermath = Aftermath::of(main, control, suspension);
        loop {
            aftermath.answer(false);
            match sys::peek_status(Wait::Block) {
                Ok(Some((tid, status))) => {
                    // ECHILD: somebody else has taken it.
                    let _ = sys::take_status(tid);
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
}
