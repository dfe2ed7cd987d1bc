//! What a signal that is sent to us means: for us, or for the launched program.

use nix::sys::signal::{SigSet, Signal};

use super::{FORWARD, Manners, REPORT, STOP, SUSPEND, WAKE};
use crate::procfs::task;
use crate::sys::lookout;
use crate::sys::{self, Received};
use crate::units::Pid;

/// Launched, all that may be the program's. A fault of our own ends us also where its signal is blocked (kernel/signal.c,
/// force_sig_info_to_task). Attached, those that we act on, and all others that would end us: whoever wants to outlive the
/// session, or something else, says so by ignoring it, as nohup(1) has it.
pub(super) fn collected(manners: Manners) -> SigSet {
    use Signal::{SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1};
    const LAST: i32 = 64;
    let ours = [SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1].map(|signal| signal as i32);
    let others = (1..=LAST).filter(|signal| match manners {
        Manners::Launched => !is_out_of_reach(*signal),
        Manners::Attached => !is_out_of_reach(*signal) && !is_left_alone(*signal) && !sys::is_ignored(*signal),
    });
    sys::signal_set(ours.into_iter().chain(others))
}

/// Whether a signal cannot be held off, or comes all the time: for each stop of a task, and to wake us.
fn is_out_of_reach(signal: i32) -> bool {
    use Signal::{SIGCHLD, SIGKILL, SIGSTOP};
    Signal::try_from(signal).is_ok_and(|signal| [SIGCHLD, SIGKILL, SIGSTOP, WAKE].contains(&signal))
}

/// Whether a signal ends nobody by default, tells of a fault of our own, or is dealt with elsewhere (SIGPIPE, and those of
/// resource limits).
pub(super) fn is_left_alone(signal: i32) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGWINCH, SIGXCPU, SIGXFSZ};
    let all = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGWINCH, SIGXCPU, SIGXFSZ];
    Signal::try_from(signal).is_ok_and(|signal| all.contains(&signal))
}

/// Whether a collected signal has no meaning of its own for us.
pub(super) fn ends_us(signal: i32) -> bool {
    let is_harmless = matches!(Signal::try_from(signal), Ok(Signal::SIGCONT | Signal::SIGUSR1));
    !is_harmless && !stops_job(signal) && !is_left_alone(signal)
}

/// Whether a signal is that of a key which interrupts the job.
pub(super) fn interrupts(signal: i32) -> bool {
    matches!(Signal::try_from(signal), Ok(Signal::SIGINT | Signal::SIGQUIT))
}

/// Whether a signal is for job control to stop the job, by a terminal's leave.
pub fn stops_job(signal: i32) -> bool {
    matches!(Signal::try_from(signal), Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))
}

/// What it asks for: flags.
pub(super) fn meaning(received: Received, manners: Manners) -> u32 {
    use Signal::{SIGALRM, SIGCONT, SIGHUP, SIGUSR1};
    let signal = Signal::try_from(received.signal);
    let stops_job = stops_job(received.signal);
    match manners {
        _ if signal == Ok(SIGUSR1) => REPORT,
        // Whoever is attached to would wait for us.
        Manners::Attached if stops_job || signal == Ok(SIGCONT) => 0,
        Manners::Attached => STOP,
        Manners::Launched => {
            // What the terminal sends the program has got as well. Only of its going away it tells the session's leader alone
            // (drivers/tty, __tty_hangup). A timer may be from before our own execve (alarm(2)).
            let is_for_us = match (received.sender, signal) {
                (None, Ok(SIGHUP | SIGCONT)) => leads_session(),
                (None, signal) => signal == Ok(SIGALRM),
                (Some(_), _) => !is_of_lookout(received),
            };
            (if stops_job { SUSPEND } else { 0 }) | (if is_for_us { FORWARD } else { 0 })
        }
    }
}

/// Whether a signal is from who has watched over the program while we were stopped.
pub(super) fn is_of_lookout(received: Received) -> bool {
    received.sender.is_some_and(lookout::is_last)
}

/// Whether a signal is from the program itself, for its parent, whose place we have taken.
pub(super) fn is_own(sender: Pid) -> bool {
    task::status(sender.into()).is_ok_and(|status| status.parent == Pid(std::process::id() as i32))
}

/// Whether a process was made by us, or by one that was: what it sends to its process group it has got itself.
pub(super) fn is_descendant(sender: Pid) -> bool {
    let own = std::process::id() as i32;
    const DEEPEST: usize = 100;
    let mut pid = sender;
    for _ in 0..DEEPEST {
        let Ok(status) = task::status(pid.into()) else { return false };
        if [Some(status.parent), status.tracer].contains(&Some(Pid(own))) {
            return true;
        }
        pid = status.parent;
    }
    false
}

fn leads_session() -> bool {
    nix::unistd::getsid(None) == Ok(nix::unistd::getpid())
}
