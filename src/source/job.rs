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
    for (sent, pid) in requests.signals.iter().flat_map(|sent| to.iter().map(move |pid| (sent, *pid))) {
        // It may have ended this moment; then there is nobody to pass the signal on to.
        let _ = match sent.value {
            _ if !is_needed(sent, pid) => Ok(()),
            _ if sent.is_for_group => sys::kill(Pid(-pid.0), sent.signal),
            Some(value) => sys::queue_signal(pid, sent.signal, value),
            None => sys::kill(pid, sent.signal),
        };
    }
}

/// Whether who is not known to have been left out has not gone on by itself.
fn is_needed(sent: &Sent, pid: Pid) -> bool {
    sent.signal != Signal::SIGCONT as i32 || sent.is_ours_alone || sent.is_for_group || lookout::stands(pid)
}

/// How long the terminal's wish to stop the job is remembered, until the program has done so.
const SUSPEND_WITHIN: Duration = Duration::from_secs(5);

/// The wish of the terminal that the job stop, until the program has done so, or does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suspension {
    until: Option<Instant>,
}

impl Suspension {
    /// Takes the wish down, if there is one. Whoever continues the job takes it back.
    pub fn hear(&mut self, requests: &Requests) {
        if requests.continued {
            self.until = None;
        }
        if requests.suspend {
            self.until = Some(Instant::now() + SUSPEND_WITHIN);
        }
    }

    /// Whether a signal is to be passed on: one that stops the job only as long as it has not stopped. Whoever continues it takes
    /// such signals back, also that which we have not looked at yet.
    pub fn admits(&self, sent: &Sent) -> bool {
        self.until.is_some() || !stops_job(sent.signal)
    }

    /// Whether to stop now: the program has stopped, by the terminal's wish, or somebody else's, and nobody `is_continued` since.
    /// Only once.
    pub fn is_due(
        &mut self,
        seems_stopped: bool,
        has_stopped: impl FnOnce() -> bool,
        is_continued: impl FnOnce() -> bool,
    ) -> bool {
        if self.until.is_none() && !seems_stopped {
            return false;
        }
        let is_due = has_stopped() && !is_continued();
        if is_due || self.until.is_some_and(|until| Instant::now() > until) {
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

    /// Does what was asked from outside. `others_run` says whether tasks do that would wait for this program if it stopped.
    pub fn answer(&mut self, others_run: bool) {
        let mut requests = self.control.take();
        self.suspension.hear(&requests);
        requests.signals.retain(|sent| self.suspension.admits(sent));
        pass_on(&requests, &[self.main]);
        let main = self.main;
        let seems_stopped = requests.seems_stopped && !others_run;
        let is_stopped = || task::living(main).is_some_and(|(_, state)| state == 'T');
        if self.suspension.is_due(seems_stopped, is_stopped, || self.control.is_continued()) {
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
        let sent = |signal: Signal| Sent {
            signal: signal as i32,
            sender: None,
            value: None,
            is_ours_alone: false,
            is_for_group: false,
        };
        let mut suspension = Suspension::default();
        suspension.hear(&Requests { suspend: true, ..Requests::default() });
        assert!(!suspension.is_due(false, || false, || false));
        assert!(suspension.admits(&sent(Signal::SIGTSTP)) && suspension.admits(&sent(Signal::SIGTERM)));
        assert!(suspension.is_due(false, || true, || false) && !suspension.is_due(false, || true, || false));
        assert!(!suspension.admits(&sent(Signal::SIGTSTP)) && suspension.admits(&sent(Signal::SIGTERM)));
    }

    /// What was to stop the job, and has not, is out of date when somebody has continued it: whoever stops it next is to be
    /// continued by us.
    #[test]
    fn who_has_gone_on_does_not_stop_for_what_was_before() {
        let wanted = Requests { suspend: true, ..Requests::default() };
        let mut suspension = Suspension::default();
        suspension.hear(&wanted);
        assert!(!suspension.is_due(false, || true, || true), "it is known before it is heard");
        suspension.hear(&Requests { continued: true, ..Requests::default() });
        assert!(!suspension.is_due(false, || true, || false));
        suspension.hear(&Requests { continued: true, ..wanted });
        assert!(suspension.is_due(false, || true, || false), "the wish came after that");
    }

    /// A program that somebody else has stopped takes us with it, if it has really been stopped.
    #[test]
    fn a_program_that_is_stopped_by_others() {
        let mut suspension = Suspension::default();
        assert!(!suspension.is_due(true, || false, || false) && suspension.is_due(true, || true, || false));
        assert!(!suspension.is_due(false, || true, || false));
    }
}
