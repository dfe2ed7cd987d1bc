//! The process group of a launched program, as a shell's job control sees it.
//!
//! A shell puts us into a group of our own and knows of no other; the program is in it as well. Without us it would lead that
//! group, so that one which makes itself a leader (`setpgid(0, 0)`, as timeout(1) does) would change nothing by it. With us it
//! leaves the group that the shell signals and gives the terminal to: then it gets from us what is meant for the job.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::unistd::{self, getpgid, getpgrp, getpid, getppid, getsid, tcgetpgrp, tcsetpgrp};

use crate::procfs::task;
use crate::units::{Pid, Tid};

/// How often it is looked whether the program stands.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// In so many looks, one after the other, it stands for longer than somebody means who slows it down by SIGSTOP and SIGCONT.
const STANDS_FOR: u32 = 3;

/// The launched program, seen from outside.
#[derive(Debug)]
pub struct ProgramGroup {
    main: unistd::Pid,
    own: unistd::Pid,
    /// Whether the job's group is ours, and would be the program's without us.
    leads: bool,
    /// The terminal, once the program has a group of its own.
    terminal: Option<File>,
    /// Whether others of our group would lose the terminal.
    is_shared: bool,
    next_look: Instant,
    /// In so many looks it has stood.
    stood: u32,
}

impl ProgramGroup {
    /// Of the launched process `main`.
    pub fn of(main: Pid) -> ProgramGroup {
        let (main, own) = (unistd::Pid::from_raw(main.0), getpgrp());
        let leads = own == getpid();
        ProgramGroup { main, own, leads, terminal: None, is_shared: false, next_look: Instant::now(), stood: 0 }
    }

    /// Whether the program leads another group than ours, of our session, although we lead ours.
    pub fn is_elsewhere(&self) -> bool {
        self.leads && getpgid(Some(self.main)) == Ok(self.main) && getsid(Some(self.main)) == getsid(None)
    }

    /// Gives the program the terminal where the shell has given it to us and the program has a group of its own, and takes it back
    /// when the program has ended. Not where the job is a pipeline, of which others would lose it.
    pub fn share_terminal(&mut self) {
        if self.terminal.is_none() && self.is_elsewhere() {
            self.terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        }
        let Some(terminal) = &self.terminal else { return };
        let Ok(foreground) = tcgetpgrp(terminal) else { return };
        let has_ended = matches!(self.state(), None | Some('Z' | 'X'));
        if foreground == self.main && has_ended {
            // We hold off the signal for those who do this from the background.
            let _ = tcsetpgrp(terminal, self.own);
        } else if foreground != self.own {
            self.is_shared = false;
        } else if !self.is_shared && !has_ended && self.is_elsewhere() {
            self.is_shared = has_others(self.own);
            if !self.is_shared {
                let _ = tcsetpgrp(terminal, self.main);
            }
        }
    }

    /// Whether a task that is about to be stopped because it has asked for the terminal may have it: it did so before the terminal
    /// was given to its group.
    pub fn has_terminal(&mut self, tid: Tid) -> bool {
        self.share_terminal();
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        foreground == Some(self.main) && getpgid(Some(unistd::Pid::from_raw(tid.0))) == Ok(self.main)
    }

    /// Whether the program has stood for a while, by its state alone, where a shell wants to know when its job stops.
    pub fn seems_stopped(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next_look {
            return false;
        }
        self.next_look = now + LOOK_EVERY;
        let stands = matches!(self.state(), Some('T' | 't'));
        self.stood = if stands { self.stood + 1 } else { 0 };
        let is_long = self.stood >= STANDS_FOR;
        if is_long {
            self.stood = 0;
        }
        is_long && is_watched()
    }

    fn state(&self) -> Option<char> {
        task::status(Pid(self.main.as_raw()).into()).ok().map(|status| status.state)
    }
}

/// Whether our process group has members that we have not made.
fn has_others(group: unistd::Pid) -> bool {
    let own = Pid(getpid().as_raw());
    let is_in_group = |pid: &Pid| getpgid(Some(unistd::Pid::from_raw(pid.0))) == Ok(group);
    let is_other = |pid: Pid| pid != own && task::status(pid.into()).is_ok_and(|status| status.parent != own);
    task::processes().is_ok_and(|pids| pids.into_iter().filter(is_in_group).any(is_other))
}

/// Whether our parent does job control: it is of our session, and has made us a job.
fn is_watched() -> bool {
    let parent = Some(getppid());
    getsid(parent) == getsid(None) && getpgid(parent).is_ok_and(|group| group != getpgrp())
}
