//! How processes have ended, where their records do not tell: some were lost, calls pass the tracepoints by, or a signal
//! was delivered as SIGKILL.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::event::Exit;
use crate::procfs::task;
use crate::sys::handle;
use crate::units::Pid;

/// After the record of its last task's end, a process becomes a zombie in less than this.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// So many handles are held.
const MOST: usize = 64;

/// Handles of processes, which know how they have ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    handles: HashMap<Pid, OwnedFd>,
}

impl Ends {
    /// That of this process is of interest.
    pub(super) fn of(pid: Pid) -> Ends {
        let mut ends = Ends::default();
        ends.watch(pid);
        ends
    }

    /// That of this one is, too.
    pub(super) fn watch(&mut self, pid: Pid) {
        if self.handles.len() < MOST && !self.handles.contains_key(&pid) {
            self.handles.extend(handle::open(pid).ok().map(|handle| (pid, handle)));
        }
    }

    /// How a process has ended, whose last task has: none where nobody can know any more.
    pub(super) fn exit_of(&mut self, pid: Pid) -> Option<Exit> {
        let handle = self.handles.remove(&pid);
        let mut waited = Duration::ZERO;
        while task::status(pid.into()).is_ok_and(|status| !matches!(status.state, 'Z' | 'X')) && waited < ENDS_WITHIN {
            std::thread::sleep(LOOK_AGAIN);
            waited += LOOK_AGAIN;
        }
        // As a zombie it shows how it ended in /proc; when it has been reaped, its handle does.
        let wait_status = task::wait_status(pid.into()).or_else(|| handle::wait_status(&handle?).ok())?;
        Some(match wait_status & 0x7f {
            0 => Exit::Code(wait_status >> 8 & 0xff),
            signal => Exit::Signal(signal),
        })
    }
}

/// Whether a process goes on, with any of its threads.
pub(super) fn goes_on(pid: Pid) -> bool {
    task::threads(pid).unwrap_or_default().into_iter().any(task::goes_on)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A process goes on until it is killed, and not as a zombie.
    #[test]
    fn those_that_go_on() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        assert!(goes_on(pid));
        child.kill().unwrap();
        // The signal is taken a moment before the task counts as one that ends.
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        waitid(Id::Pid(nix::unistd::Pid::from_raw(pid.0)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        assert!(!goes_on(pid), "as a zombie");
        child.wait().unwrap();
        assert!(!goes_on(pid));
    }

    /// How a process ended is known of a zombie, and (with Linux 6.15) of one that has been reaped.
    #[test]
    fn of_zombies_and_of_the_reaped() {
        for (script, expected) in [("exit 7", Exit::Code(7)), ("kill -TERM $$", Exit::Signal(15))] {
            for reaped in [false, true] {
                let script = format!("read line; {script}");
                let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
                let mut ends = Ends::of(Pid(child.id() as i32));
                drop(child.stdin.take());
                if reaped {
                    child.wait().unwrap();
                }
                let exit = ends.exit_of(Pid(child.id() as i32));
                // Once more is no harm.
                child.wait().unwrap();
                assert!(exit == Some(expected) || reaped && exit.is_none(), "{script}: {exit:?}");
            }
        }
    }

    /// Beyond the handles that are held there are none more.
    #[test]
    fn handles_are_bounded() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let others = (1..MOST as i32).map(|number| (Pid(-number), null.try_clone().unwrap().into()));
        let mut ends = Ends { handles: others.collect() };
        let own = [std::process::id(), std::os::unix::process::parent_id()].map(|number| Pid(number as i32));
        for pid in own {
            ends.watch(pid);
        }
        assert_eq!(own.map(|pid| ends.handles.contains_key(&pid)), [true, false]);
        assert_eq!(ends.handles.len(), MOST);
    }
}
