//! The numbers of tracepoints, from tracefs.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::sys::perf::detached_tracefs;

/// tracefs, for as long as numbers are asked for.
#[derive(Debug)]
pub struct Tracefs {
    events: PathBuf,
    /// Where it is mounted nowhere.
    _own: Option<OwnedFd>,
}

impl Tracefs {
    /// Finds it where it is mounted, or mounts it where nobody sees it.
    ///
    /// # Errors
    /// Why neither is possible.
    pub fn find() -> Result<Tracefs, Errno> {
        let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
        let events = mounted.map(|root| PathBuf::from(root).join("events"));
        // Where it is there and may not be read, a mount of our own serves no better.
        if let Some(events) = events.into_iter().find(|events| events.join("syscalls").exists()) {
            return Ok(Tracefs { events, _own: None });
        }
        let own = detached_tracefs()?;
        let events = PathBuf::from(format!("/proc/self/fd/{}/events", own.as_raw_fd()));
        Ok(Tracefs { events, _own: Some(own) })
    }

    /// The number of a tracepoint, such as `syscalls/sys_exit_mmap`; none where the kernel does not have it.
    ///
    /// # Errors
    /// EACCES where it may not be read.
    pub fn number(&self, tracepoint: &str) -> Result<Option<u64>, Errno> {
        match fs::read_to_string(self.events.join(tracepoint).join("id")) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT) | None => Ok(None),
                Some(errno) => Err(errno),
            },
        }
    }
}
