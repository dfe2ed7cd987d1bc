//! Children of a test: their output is collected, and they end with the test, whatever comes of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::wait_for;

/// A child that leads a group, which is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Collector,
    errors: Collector,
}

/// How a child has ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
}

impl Ended {
    /// The exit status as a shell sees it: 128 + signal where it was killed.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).expect("it has ended")
    }

    /// What it wrote to stdout, as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// What it wrote to stderr, as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors).into_owned()
    }

    /// Fails the test unless it has ended with this status.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ended {
        let found = self.code();
        assert_eq!(found, code, "exit status\nstdout:\n{}\nstderr:\n{}", self.output(), self.errors());
        self
    }
}

/// A command with arguments of any kind.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command to its end, without input.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    command.stdin(Stdio::null());
    Process::start_as_it_is(command).end()
}

impl Process {
    /// Starts a command whose input is a pipe.
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        Process::start_as_it_is(command.stdin(Stdio::piped()))
    }

    /// Starts a command, and collects its outputs unless they are sent elsewhere already.
    #[track_caller]
    pub fn start_as_it_is(command: &mut Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start_redirected(command.process_group(0))
    }

    /// Starts a command whose files the caller has chosen, and which is going to lead a group.
    #[track_caller]
    pub fn start_redirected(command: &mut Command) -> Process {
        let name = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Process { name, child, input, output: Collector::new(output), errors: Collector::new(errors) }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers of Linux fit")
    }

    /// What has come on stdout so far.
    pub fn output(&self) -> String {
        self.output.so_far()
    }

    /// What has come on stderr so far.
    pub fn errors(&self) -> String {
        self.errors.so_far()
    }

    /// Sends it a signal.
    pub fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Writes to its stdin.
    pub fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(bytes).and_then(|()| input.flush()).expect("it reads its input");
    }

    /// Ends its stdin.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until it has written this to stdout.
    #[track_caller]
    pub fn await_output(&self, text: &str) {
        wait_for(&format!("{} writes {text:?}", self.name), || {
            let written = self.output().contains(text);
            assert!(written || !self.has_ended() || self.output().contains(text), "ended before {text:?}: {self:?}");
            written
        });
    }

    /// How it has ended, if it has. It is not reaped, so that its number stays its own.
    pub fn status(&self) -> WaitStatus {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(self.pid())), flags).expect("it is our child")
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.status() != WaitStatus::StillAlive
    }

    /// Ends its input and waits until it has ended, and nobody holds its outputs any more.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        self.close_input();
        wait_for(&format!("{} ends: {self:?}", self.name), || self.has_ended());
        wait_for(&format!("all have closed the outputs of {}", self.name), || {
            self.output.is_complete() && self.errors.is_complete()
        });
        let status = self.child.wait().expect("it is our child");
        Ended { status, output: self.output.take(), errors: self.errors.take() }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nstdout:\n{}\nstderr:\n{}", self.name, self.output(), self.errors())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until it is reaped, its number and its group's cannot be given to others.
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Reads a pipe to its end in the background.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collector {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Collector {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let reader = pipe.map(|pipe| {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || collect(pipe, &bytes))
        });
        Collector { bytes, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no reader panics")).into_owned()
    }

    fn is_complete(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().expect("no reader panics"))
    }
}

/// Reads until the end.
fn collect(mut from: impl Read, bytes: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        bytes.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
    }
}

/// Sends a signal to a process, or to a process group by its negative number.
#[track_caller]
pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|errno| panic!("{signal} to {pid}: {errno}"));
}
