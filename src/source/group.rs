//! The process group of a launched program, as a shell's job control sees it.
//!
//! A shell puts us into a group of our own and knows of no other; the program is in it as well. Without us it would lead that
//! group, so that one which makes itself a leader (`setpgid(0, 0)`, as timeout(1) does) would change nothing by it. With us it
//! leaves the group that the shell signals and gives the terminal to: then it gets from us what is meant for the job.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::unistd::{self, getpgid, getpgrp, getpid, getppid, getsid, tcgetpgrp, tcsetpgrp};

use crate::procfs::task::{self, Activity};
use crate::sys;
use crate::units::{Pid, Tid};

/// How often it is looked whether the program stands.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// In so many looks, one after the other, without having run it stands for longer than somebody means who slows it down by SIGSTOP
/// and SIGCONT. Looks, not time: we may have been stopped as well.
const STANDS_FOR: u32 = 10;

/// Who asks the terminal as soon as the program has a group of its own, may do so before that is seen. After this nobody is
/// stopped for that any more.
const ASKED_EARLY: Duration = Duration::from_millis(100);

/// The launched program, seen from outside.
#[derive(Debug)]
pub struct ProgramGroup {
    main: unistd::Pid,
    own: unistd::Pid,
    /// Whether the job's group is ours, and would be the program's without us.
    leads: bool,
    /// Whether the session is, which would be the program's.
    leads_session: bool,
    /// The terminal, once the program has a group of its own.
    terminal: Option<File>,
    /// Whether others of our group would lose the terminal.
    is_shared: bool,
    /// When the program got the terminal first.
    given: Option<Instant>,
    next_look: Instant,
    /// In so many looks it has stood, and what it had done before.
    stands: Option<(u32, Tid, Activity)>,
}

impl ProgramGroup {
    /// Of the launched process `main`.
    pub fn of(main: Pid) -> ProgramGroup {
        let (main, own) = (unistd::Pid::from_raw(main.0), getpgrp());
        let leads = own == getpid();
        let leads_session = getsid(None) == Ok(getpid());
        let now = Instant::now();
        let (terminal, given, stands) = (None, None, None);
        ProgramGroup { main, own, leads, leads_session, terminal, is_shared: false, given, next_look: now, stands }
    }

    /// Its first process.
    pub fn main(&self) -> Pid {
        Pid(self.main.as_raw())
    }

    /// Whether the program leads another group than ours, of our session, although we lead ours.
    pub fn is_elsewhere(&self) -> bool {
        self.leads && getpgid(Some(self.main)) == Ok(self.main) && getsid(Some(self.main)) == getsid(None)
    }

    /// Does for the program what the shell's job control would do without us. Gives whether it has stood for a while, by its state
    /// alone, where a shell wants to know when its job stops. To be called all the time.
    pub fn look_after(&mut self) -> bool {
        self.share_terminal();
        let now = Instant::now();
        let is_time = now >= self.next_look;
        if is_time {
            self.next_look = now + LOOK_EVERY;
        }
        self.continue_stopped_by_us(is_time);
        is_time && self.has_stood()
    }

    /// Gives the program the terminal where the shell has given it to us and the program has a group of its own, and takes it back
    /// when the program has ended. Not where the job is a pipeline, of which others would lose it.
    fn share_terminal(&mut self) {
        if self.terminal.is_none() && self.is_elsewhere() {
            self.terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        }
        let Some(terminal) = &self.terminal else { return };
        let Ok(foreground) = tcgetpgrp(terminal) else { return };
        let has_ended = self.living().is_none();
        if foreground == self.main && has_ended {
            // We hold off the signal for those who do this from the background.
            let _ = tcsetpgrp(terminal, self.own);
        } else if foreground != self.own {
            self.is_shared = false;
        } else if !self.is_shared && !has_ended && self.is_elsewhere() {
            self.is_shared = has_others(self.own);
            if !self.is_shared && tcsetpgrp(terminal, self.main).is_ok() {
                self.given.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Lets those go on who are stopped because we are there, and whom nobody traces: who has asked for the terminal before the
    /// program was given it, and whom job control would not stop. Each by its own signal: a key stops all of them one after the
    /// other. On kernels that tell it of no one else, the first process alone.
    fn continue_stopped_by_us(&self, is_time: bool) {
        use nix::libc::{SIGTSTP, SIGTTIN, SIGTTOU};
        let without_us: &[i32] = if self.given.is_some_and(|given| given.elapsed() <= ASKED_EARLY) {
            &[SIGTTIN, SIGTTOU]
        } else if is_time && self.is_orphaned_without_us() {
            &[SIGTSTP, SIGTTIN, SIGTTOU]
        } else {
            return;
        };
        let main = self.main();
        for pid in members(self.main) {
            // One of ours that stands because of a signal that it is still to get ('t') is no one's to continue.
            let is_stopped = task::status(pid.into()).is_ok_and(|status| status.state == 'T');
            let of_child = || if pid == main { sys::stopped_by(main) } else { None };
            let signal = if is_stopped { task::stop_signal(pid).or_else(of_child) } else { None };
            if signal.is_some_and(|signal| without_us.contains(&signal)) {
                let _ = sys::kill(pid, nix::libc::SIGCONT);
            }
        }
    }

    /// Whether the program's group would be the session leader's, which has no shell to continue it, so that a terminal does not stop
    /// it (setpgid(2), "orphaned process group").
    fn is_orphaned_without_us(&self) -> bool {
        self.leads_session && self.is_elsewhere()
    }

    /// Whether the terminal's wish that the job stop would mean nothing to a task: it is of the program's group, which nothing
    /// stops, and has not asked for the signal. Another group, as a shell makes them, has the program to continue it.
    pub fn is_never_stopped(&self, tid: Tid) -> bool {
        let is_in_group = getpgid(Some(unistd::Pid::from_raw(tid.0))) == Ok(self.main);
        is_in_group && self.is_orphaned_without_us() && !task::handles(tid, nix::libc::SIGTSTP)
    }

    /// Whether a task that is about to be stopped because it has asked for the terminal may have it: it did so before the terminal
    /// was given to its group.
    pub fn has_terminal(&mut self, tid: Tid) -> bool {
        self.share_terminal();
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        foreground == Some(self.main) && getpgid(Some(unistd::Pid::from_raw(tid.0))) == Ok(self.main)
    }

    /// Whether the program has stood in so many looks.
    fn has_stood(&mut self) -> bool {
        let standing = self.living().filter(|(_, state)| matches!(state, 'T' | 't'));
        let seen = standing.and_then(|(tid, _)| Some((tid, task::activity(tid)?)));
        let looks =
            self.stands.filter(|(_, tid, activity)| seen == Some((*tid, *activity))).map_or(0, |(looks, ..)| looks);
        let is_long = looks >= STANDS_FOR;
        self.stands = seen.map(|(tid, activity)| (if is_long { 0 } else { looks + 1 }, tid, activity));
        is_long && is_watched()
    }

    fn living(&self) -> Option<(Tid, char)> {
        task::living(self.main())
    }
}

/// Whether our process group has members that we have not made.
fn has_others(group: unistd::Pid) -> bool {
    let own = Pid(getpid().as_raw());
    let is_other = |pid: Pid| pid != own && task::status(pid.into()).is_ok_and(|status| status.parent != own);
    members(group).into_iter().any(is_other)
}

/// The processes of a group.
fn members(group: unistd::Pid) -> Vec<Pid> {
    let is_member = |pid: &Pid| getpgid(Some(unistd::Pid::from_raw(pid.0))) == Ok(group);
    task::processes().map_or(Vec::new(), |pids| pids.into_iter().filter(is_member).collect())
}

/// Whether our parent does job control: it is of our session, and has made us a job.
fn is_watched() -> bool {
    let parent = Some(getppid());
    getsid(parent) == getsid(None) && getpgid(parent).is_ok_and(|group| group != getpgrp())
}
