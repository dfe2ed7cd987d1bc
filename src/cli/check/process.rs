//! Processes of a case: each in a group of its own, which ends with it, and no other process is ever signalled.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::report::layout::{COLUMNS, printable};
use crate::sys;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Of a case's output this much of the end is read, and so many lines are shown.
const OUTPUT_BYTES: u64 = 64 << 10;
const OUTPUT_LINES: usize = 20;

/// Why waiting came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The time was up.
    #[error("timed out")]
    TimedOut,
    /// SIGINT, SIGTERM or SIGHUP: the user wants no more.
    #[error("interrupted")]
    Interrupted,
    /// The system refused.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// A process and its group. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    /// Until the leader is reaped its number, and with it the group's, cannot be given to others.
    reaped: bool,
}

impl Group {
    /// Starts `arguments` in `folder` as the leader of a new group, with both outputs going to `output`, and with the signal
    /// mask `mask`: a program of a case is not to find blocked what we have blocked for ourselves.
    pub fn start(arguments: &[String], folder: &Path, output: &File, mask: SigSet) -> io::Result<Group> {
        let (program, rest) =
            arguments.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "nothing to execute"))?;
        let mut command = Command::new(program);
        command
            .args(rest)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0);
        let child = sys::with_mask(&mut command, mask).spawn()?;
        Ok(Group { child, reaped: false })
    }

    /// The leader, whose number is the group's.
    pub fn pid(&self) -> Pid {
        // Process numbers of Linux fit: the highest is 2^22.
        Pid::from_raw(self.child.id() as i32)
    }

    /// Whether the leader has ended. It is not reaped, so that its number stays its own.
    pub fn has_ended(&self) -> io::Result<bool> {
        if self.reaped {
            return Ok(true);
        }
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid()), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the leader's end, then kills what it left behind in its group.
    pub fn wait(&mut self, watch: &Watch<'_>) -> Result<ExitStatus, Stopped> {
        while !self.has_ended()? {
            watch.pause()?;
        }
        Ok(self.finish()?)
    }

    /// Kills what is left of the group and reaps the leader.
    pub fn finish(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            // ESRCH: everyone has gone already.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            self.reaped = true;
        }
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// How long there is still to wait.
pub(super) struct Watch<'a> {
    end: Instant,
    interrupt: &'a Interrupt,
}

impl<'a> Watch<'a> {
    /// From now on for `duration`.
    pub fn new(duration: Duration, interrupt: &'a Interrupt) -> Watch<'a> {
        let now = Instant::now();
        Watch { end: now.checked_add(duration).unwrap_or(now), interrupt }
    }

    /// Sleeps for a moment, unless there is none left.
    pub fn pause(&self) -> Result<(), Stopped> {
        if self.interrupt.is_asked()? {
            return Err(Stopped::Interrupted);
        }
        if Instant::now() >= self.end {
            return Err(Stopped::TimedOut);
        }
        std::thread::sleep(LOOK);
        Ok(())
    }
}

/// Catches the signals that end a command, so that no process of a case outlives it: they are in groups of their own,
/// which the terminal does not reach.
pub(super) struct Interrupt {
    signals: SignalFd,
    asked: AtomicBool,
    /// The mask that was before, and that the programs of cases start with.
    pub before: SigSet,
}

impl Interrupt {
    /// From here on, in this thread and those that it makes.
    pub fn catch() -> io::Result<Interrupt> {
        let ending = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let before = SigSet::thread_get_mask()?;
        ending.thread_block()?;
        let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Interrupt { signals, asked: AtomicBool::new(false), before })
    }

    /// Whether such a signal has come.
    pub fn is_asked(&self) -> io::Result<bool> {
        if self.signals.read_signal()?.is_some() {
            self.asked.store(true, Ordering::Relaxed);
        }
        Ok(self.asked.load(Ordering::Relaxed))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// A folder for reports and outputs, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    files: AtomicU64,
}

impl Scratch {
    /// A new folder that nobody else can write to.
    pub fn new() -> io::Result<Scratch> {
        let base = std::env::temp_dir();
        for attempt in 0_u32.. {
            let folder = base.join(format!("vmtrace-check-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    return Ok(Scratch { folder, files: AtomicU64::new(0) });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 10_000 => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A path for one more file.
    pub fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.files.fetch_add(1, Ordering::Relaxed)))
    }

    /// An empty file for the output of processes.
    pub fn output(&self) -> io::Result<Output> {
        let path = self.path("output");
        let file = File::options().create_new(true).append(true).open(&path)?;
        Ok(Output { file, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What processes have written.
#[derive(Debug)]
pub(super) struct Output {
    /// Where they write to, all at its end.
    pub file: File,
    path: PathBuf,
}

impl Output {
    /// The last lines, safe for a terminal.
    pub fn tail(&self) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(OUTPUT_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(OUTPUT_LINES)..].iter().map(|line| printable(line, COLUMNS)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Vec<String> {
        ["sh", "-c", line].map(str::to_owned).into()
    }

    fn start(line: &str) -> (Scratch, Output, Group) {
        let scratch = Scratch::new().unwrap();
        let output = scratch.output().unwrap();
        let group = Group::start(&shell(line), Path::new("/"), &output.file, SigSet::empty()).unwrap();
        (scratch, output, group)
    }

    /// What is blocked here is not in the program of a case.
    #[test]
    fn the_mask_is_ours_alone() {
        let interrupt = Interrupt::catch().unwrap();
        let (_scratch, output, mut group) = start("kill -TERM $$; echo blocked");
        let status = group.wait(&Watch::new(Duration::from_secs(20), &interrupt)).unwrap();
        assert_eq!((std::os::unix::process::ExitStatusExt::signal(&status), output.tail().len()), (Some(15), 0));
    }

    /// Both outputs are kept in order, of long ones the end.
    #[test]
    fn output_is_kept() {
        let interrupt = Interrupt::catch().unwrap();
        let (_scratch, output, mut group) = start("for i in $(seq 30); do echo out $i; echo err $i >&2; done; exit 3");
        let status = group.wait(&Watch::new(Duration::from_secs(20), &interrupt)).unwrap();
        assert_eq!(status.code(), Some(3));
        let tail = output.tail();
        assert_eq!((tail.len(), tail[0].as_str(), tail[19].as_str()), (20, "out 21", "err 30"));
    }

    /// When the time is up the whole group goes, children of children included, and the folder with it.
    #[test]
    fn a_timeout_ends_the_group() {
        let interrupt = Interrupt::catch().unwrap();
        let (scratch, output, mut group) = start("sleep 1000 & echo $!; wait");
        let stopped = group.wait(&Watch::new(Duration::from_millis(300), &interrupt)).unwrap_err();
        assert!(matches!(stopped, Stopped::TimedOut));
        let sleeper: i32 = output.tail()[0].parse().unwrap();
        drop(group);
        let gone = || {
            // A zombie that init has not reaped yet has ended too.
            fs::read_to_string(format!("/proc/{sleeper}/stat")).map_or(true, |stat| stat.contains(") Z"))
        };
        let until = Instant::now() + Duration::from_secs(5);
        while !gone() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        assert!(gone());
        let folder = scratch.folder.clone();
        drop(scratch);
        assert!(!folder.exists());
    }

    /// A process left in the background does not hold the run up, and does not outlive it.
    #[test]
    fn what_is_left_behind_is_ended() {
        let interrupt = Interrupt::catch().unwrap();
        let (_scratch, _output, mut group) = start("sleep 1000 & exit 0");
        let before = Instant::now();
        let status = group.wait(&Watch::new(Duration::from_secs(20), &interrupt)).unwrap();
        assert!(status.success() && before.elapsed() < Duration::from_secs(10));
        assert!(group.has_ended().unwrap());
    }

    /// Of output without end, in one line or in many, the end is read.
    #[test]
    fn output_is_bounded() {
        let scratch = Scratch::new().unwrap();
        let output = scratch.output().unwrap();
        let line = "x".repeat(OUTPUT_BYTES as usize);
        fs::write(&output.path, format!("first\n{line}\nlast\n")).unwrap();
        let tail = output.tail();
        assert_eq!((tail.len(), tail[1].as_str()), (2, "last"));
        assert!(tail[0].starts_with('x') && tail[0].len() <= 2 * COLUMNS, "{}", tail[0].len());
    }
}
