//! A terminal that a test types at.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;

use super::process::Process;
use super::{need, proc, wait_for};

/// A terminal, and the session that it controls.
pub struct Terminal {
    keyboard: Option<File>,
    screen: Arc<Screen>,
    reader: Option<JoinHandle<()>>,
    /// The leader of its session.
    pub leader: Process,
}

#[derive(Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    is_off: AtomicBool,
}

impl Terminal {
    /// A new session with a terminal, in which a program runs as the foreground job.
    pub fn start(program: &str, arguments: &[&str]) -> Terminal {
        need("setsid");
        let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("there are terminals");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("the terminal is ours");
        let path = ptsname_r(&terminal).expect("the terminal has a name");
        let keyboard = File::from(OwnedFd::from(terminal));
        let session = File::options().read(true).write(true).open(&path).expect("the terminal can be opened");
        keep_output(&session).expect("it is a terminal");
        let end = || Stdio::from(session.try_clone().expect("a file can be duplicated"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", program]).args(arguments).stdin(end()).stdout(end()).stderr(end());
        let leader = Process::start_redirected(&mut command);
        drop((command, session));
        let screen = Arc::<Screen>::default();
        let (shown, from) = (Arc::clone(&screen), keyboard.try_clone().expect("a file can be duplicated"));
        let reader = std::thread::spawn(move || shown.show(from));
        Terminal { keyboard: Some(keyboard), screen, reader: Some(reader), leader }
    }

    /// What has been shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.text.lock().expect("no reader panics")).into_owned()
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().expect("the terminal is there");
        keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Goes away, as a terminal does whose window is closed.
    pub fn hang_up(&mut self) {
        self.screen.is_off.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no reader panics");
        }
        self.keyboard = None;
    }

    /// Waits until the text stands on the screen so many times.
    #[track_caller]
    pub fn await_times(&self, text: &str, times: usize) {
        let begin = std::time::Instant::now();
        while self.screen().matches(text).count() < times {
            assert!(begin.elapsed() < super::BOUND, "no {text:?} {times} times on the screen:\n{}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Waits until the text stands on the screen.
    #[track_caller]
    pub fn await_text(&self, text: &str) {
        self.await_times(text, 1);
    }

    /// Waits until the leader of the session has ended.
    #[track_caller]
    pub fn await_end(&self) {
        wait_for("the session's leader ends", || self.leader.has_ended());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Jobs have groups of their own.
        for pid in proc::session(self.leader.pid()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.screen.is_off.store(true, Ordering::Release);
    }
}

/// Keeps a key that is a signal from throwing away what was written and is not on the screen yet: it would take the program's
/// answer with it when that is quicker than the terminal (drivers/tty/n_tty.c `isig`).
fn keep_output(terminal: &File) -> nix::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    settings.local_flags |= LocalFlags::NOFLSH;
    tcsetattr(terminal, SetArg::TCSANOW, &settings)
}

impl Screen {
    /// Reads what the session writes, until nobody is left that could, or the terminal is off.
    fn show(&self, mut from: File) {
        let mut buffer = [0; 4096];
        while !self.is_off.load(Ordering::Acquire) {
            let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut readable, 20_u8), Ok(1)) {
                continue;
            }
            // EIO: the last has closed its end.
            let Ok(count @ 1..) = from.read(&mut buffer) else {
                return;
            };
            self.text.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
        }
    }
}
