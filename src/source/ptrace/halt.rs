//! A stop of all threads of a process, for the moment of one look.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::attach::leave;
use super::take;
use crate::procfs::task;
use crate::sys::{self, Status};
use crate::units::{Pid, Tid};

/// How long threads are waited for: those that sleep uninterruptibly do not stop.
const WITHIN: Duration = Duration::from_millis(100);

/// How long is waited before a thread is asked again whether it has stopped.
const BETWEEN: Duration = Duration::from_micros(20);

/// Stops all threads of `pids`, which share their memory, calls `look`, and lets them go on as if nothing had been.
///
/// No status is taken while a signal may be in it, so that nothing is lost also when we are killed meanwhile: the kernel
/// then lets them go.
///
/// # Errors
/// EPERM when a thread may not be traced, or is traced already; ETIMEDOUT when one does not stop.
pub fn halted<T>(pids: &[Pid], look: impl FnOnce() -> T) -> Result<T, Errno> {
    let mut halt = Halt { statuses: HashMap::new() };
    halt.all(pids, Instant::now() + WITHIN).map(|()| look())
}

/// Threads that have been seized: the status with which each has stopped, as far as it has.
struct Halt {
    statuses: HashMap<Tid, Option<i32>>,
}

impl Halt {
    /// Stops threads until there are none that are not stopped. One that is stopped makes no new ones.
    fn all(&mut self, pids: &[Pid], until: Instant) -> Result<(), Errno> {
        loop {
            let threads = pids.iter().flat_map(|pid| task::threads(*pid).unwrap_or_default());
            let new: Vec<Tid> = threads.filter(|tid| !self.statuses.contains_key(tid)).collect();
            for tid in &new {
                match sys::seize(*tid, 0).and_then(|()| sys::interrupt(*tid)) {
                    Ok(()) => self.statuses.insert(*tid, None),
                    Err(Errno::ESRCH) => continue,
                    Err(_) if task::status(*tid).map_or(true, |status| matches!(status.state, 'Z' | 'X')) => continue,
                    Err(errno) => return Err(errno),
                };
            }
            let has_new = new.iter().any(|tid| self.statuses.contains_key(tid));
            if !has_new {
                return Ok(());
            }
            self.wait(until)?;
        }
    }

    /// Waits until all have stopped or ended.
    fn wait(&mut self, until: Instant) -> Result<(), Errno> {
        let running: Vec<Tid> =
            self.statuses.iter().filter(|(_, status)| status.is_none()).map(|(tid, _)| *tid).collect();
        for tid in running {
            loop {
                match sys::peek_status_of(tid) {
                    Ok(Some(Status::Stopped(status))) => {
                        self.statuses.insert(tid, Some(status));
                        break;
                    }
                    Ok(Some(_)) => {
                        take(tid);
                        self.statuses.remove(&tid);
                        break;
                    }
                    Ok(None) if Instant::now() < until => std::thread::sleep(BETWEEN),
                    Ok(None) => return Err(Errno::ETIMEDOUT),
                    Err(_) => {
                        self.statuses.remove(&tid);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Halt {
    fn drop(&mut self) {
        // Whoever has not stopped yet may do so at any time, and is waited for as long again. What has not stopped then
        // is let go by the kernel when we end.
        let _ = self.wait(Instant::now() + WITHIN);
        for (tid, status) in self.statuses.drain() {
            if let Some(status) = status {
                leave(tid, status);
            }
        }
    }
}
