//! A launched program and vmtrace are one job of the shell: what is sent to one of them, and how both are stopped and continued.

use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};

use super::control::{Control, Requests, Sent, stops_job};
use crate::procfs::task;
use crate::sys;
use crate::sys::lookout::{self, Lookout};
use crate::units::Pid;

/// Passes on the signals that were sent to us and are the program's, to processes that live or have not been waited for.
pub fn pass_on(requests: &Requests, to: &[Pid]) {
    // Who is not known to have been left out has gone on by itself.
    let is_needed =
        |sent: &Sent, pid: Pid| sent.signal != Signal::SIGCONT as i32 || sent.is_ours_alone || lookout::stands(pid);
    for (sent, pid) in requests.signals.iter().flat_map(|sent| to.iter().map(move |pid| (sent, *pid))) {
        if !is_needed(sent, pid) {
            continue;
        }
        // It may have ended this moment; then there is nobody to pass the signal on to.
        let _ = match sent.value {
            Some(value) => sys::queue_signal(pid, sent.signal, value),
            None => sys::kill(pid, sent.signal),
        };
    }
}

/// How long the terminal's wish to stop the job is remembered, until the program has done so.
const SUSPEND_WITHIN: Duration = Duration::from_secs(5);

/// The wish of the terminal that the job stop, until the program has done so, or does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suspension {
    until: Option<Instant>,
}

impl Suspension {
    /// Takes the wish down, if there is one.
    pub fn hear(&mut self, requests: &Requests) {
        if requests.suspend {
            self.until = Some(Instant::now() + SUSPEND_WITHIN);
        }
    }

    /// Whether a signal is to be passed on: one that stops the job only as long as it has not stopped. Whoever continues it takes
    /// such signals back, also that which we have not looked at yet.
    pub fn admits(&self, sent: &Sent) -> bool {
        self.until.is_some() || !stops_job(sent.signal)
    }

    /// Whether to stop now: the program has stopped. Only once.
    pub fn is_due(&mut self, has_stopped: impl FnOnce() -> bool) -> bool {
        let Some(until) = self.until else { return false };
        let is_due = has_stopped();
        if is_due || Instant::now() > until {
            self.until = None;
        }
        is_due
    }
}

/// Waits for the end of a program that nobody traces any more, and stops with it when the terminal wants that.
pub struct Aftermath<'a> {
    control: &'a Control,
    main: Pid,
    suspension: Suspension,
}

impl Aftermath<'_> {
    /// Of the process `main`, with what is asked by `control`, and the wish that was heard while it was traced.
    pub fn of(main: Pid, control: &Control, suspension: Suspension) -> Aftermath<'_> {
        Aftermath { control, main, suspension }
    }

    /// Does what was asked from outside.
    pub fn answer(&mut self) {
        let mut requests = self.control.take();
        self.suspension.hear(&requests);
        requests.signals.retain(|sent| self.suspension.admits(sent));
        pass_on(&requests, &[self.main]);
        let main = self.main;
        if self.suspension.is_due(|| task::status(main.into()).is_ok_and(|status| status.state == 'T')) {
            stop_with(main);
        }
    }
}

/// Stops this program by SIGSTOP, so that the shell sees the job stopped; comes back when it goes on, as it does also when somebody
/// continues `main` alone, which would wait for us.
pub fn stop_with(main: Pid) {
    // Where there is none, it has to be continued as a job.
    let _lookout = Lookout::over(main);
    let _ = signal::raise(Signal::SIGSTOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once the job has stopped, a signal that stops it is out of date, and others are not.
    #[test]
    fn what_stops_the_job_is_passed_on_until_it_has_stopped() {
        let sent = |signal: Signal| Sent { signal: signal as i32, sender: None, value: None, is_ours_alone: false };
        let mut suspension = Suspension::default();
        suspension.hear(&Requests { suspend: true, ..Requests::default() });
        assert!(!suspension.is_due(|| false));
        assert!(suspension.admits(&sent(Signal::SIGTSTP)) && suspension.admits(&sent(Signal::SIGTERM)));
        assert!(suspension.is_due(|| true) && !suspension.is_due(|| true));
        assert!(!suspension.admits(&sent(Signal::SIGTSTP)) && suspension.admits(&sent(Signal::SIGTERM)));
    }
}
