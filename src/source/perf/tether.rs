//! Keeps a launched program from being gone before its memory is held.
//!
//! A program may live for less time than it takes to come to it where the machine is busy. A thread that stops at
//! ptrace's exit event (PTRACE_O_TRACEEXIT) still has its memory. So the child is traced with that event alone until the
//! memory of its program is held, which as a rule is long before it ends; then nobody has stopped. The tracer is a thread
//! of its own, which lets go by ending: the kernel detaches from whatever a thread traces when it ends, without a stop
//! (kernel/ptrace.c, exit_ptrace), also when all of vmtrace is killed.
//!
//! A signal that comes in this time stops its way through the tracer, and goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::attach;
use super::keeper::Seen;
use crate::procfs::task;
use crate::source::ptrace::stop::Stop;
use crate::sys::perf::preempt;
use crate::sys::{self, Restart, Status};
use crate::units::Pid;

/// How often it looks whether the child has stopped, or is to be let go. A thread that stands there is woken, and its memory
/// gone, when another one ends the process.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// The thread that traces the child.
#[derive(Debug)]
pub(super) struct Tether {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    let_go: AtomicBool,
    stops: AtomicU64,
    /// What was seen of the child at its end.
    seen: Mutex<Option<Seen>>,
}

impl Tether {
    /// Traces a child that has not executed its program yet. Where that may not be, or would take from the program what
    /// it may do, nobody is traced.
    pub(super) fn tie(child: Pid) -> Tether {
        let shared = Arc::<Shared>::default();
        // A program with the set-user-ID bit keeps it only if its tracer could trace anybody (capabilities(7)).
        let thread = task::has_capability(task::CAP_SYS_PTRACE).then(|| {
            let shared = Arc::clone(&shared);
            let (tied, is_tied) = mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name("tether".to_owned()).spawn(move || {
                let seized = sys::seize(child.into(), libc::PTRACE_O_TRACEEXIT);
                let _ = tied.send(());
                if seized.is_ok() {
                    hold(child, &shared);
                }
            });
            // Also where the thread could not be had: then nobody sends.
            let _ = is_tied.recv();
            thread.ok()
        });
        Tether { shared, thread: thread.flatten() }
    }

    /// The memory of the program is held: the tracer is not needed any more.
    pub(super) fn let_go(&self) {
        self.shared.let_go.store(true, Ordering::Release);
    }

    /// Lets the child go, and waits until it has: from then on the child's stops are not the tracer's to take.
    pub(super) fn untie(&mut self) {
        self.let_go();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Whether the child may still be traced.
    pub(super) fn is_tied(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What was seen of the child at its end, if it had to be kept from that.
    pub(super) fn take(&self) -> Option<Seen> {
        self.seen().take()
    }

    /// The same, and it stays here.
    pub(super) fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the child has stopped.
    pub(super) fn stops(&self) -> u64 {
        self.shared.stops.load(Ordering::Relaxed)
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        self.untie();
    }
}

/// Until the child is let go, or ends, or job control stops it.
fn hold(child: Pid, shared: &Shared) {
    preempt();
    while !shared.let_go.load(Ordering::Acquire) {
        let status = match sys::peek_status_of(child.into()) {
            Ok(Some(Status::Stopped(status))) => status,
            Ok(None) => {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            Ok(Some(Status::Exited(_) | Status::Killed(_))) | Err(_) => return,
        };
        shared.stops.fetch_add(1, Ordering::Relaxed);
        let signal = match Stop::from_status(status) {
            Stop::Signal(signal) => signal,
            Stop::Exit => {
                let seen = Seen::now(child, attach::is_i386(child.into()), true);
                *shared.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
                return;
            }
            // Who is stopped does not end. Without a tracer it stays so until SIGCONT comes.
            Stop::GroupStop => return,
            _ => 0,
        };
        match sys::restart(child.into(), Restart::Cont, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, ExitStatus, Stdio};

    use super::*;

    /// A child that executes `script` when its input has a line.
    fn waiting(script: &str) -> (Child, Pid) {
        let script = format!("read line; {script}");
        let child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid(child.id() as i32);
        (child, pid)
    }

    fn go_on(child: &mut Child) -> ExitStatus {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        end(child)
    }

    /// To wait for it before that would take its stops from the tracer: both are threads of one process.
    fn end(child: &mut Child) -> ExitStatus {
        while task::status(Pid(child.id() as i32).into()).unwrap().state != 'Z' {
            std::thread::sleep(LOOK_EVERY);
        }
        child.wait().unwrap()
    }

    /// A program that nobody has come to before it was gone: its memory can be read all the same, when it has been reaped.
    #[test]
    fn what_ends_before_it_was_seen() {
        let (mut child, pid) = waiting("exec sleep 0");
        let tether = Tether::tie(pid);
        assert!(go_on(&mut child).success());
        let seen = tether.take().expect("it stopped at its end");
        assert_eq!((seen.pid, tether.stops()), (pid, 1));
        let maps = seen.image.new.maps;
        assert!(maps.iter().any(|vma| vma.name.ends_with(b"/sleep")), "of the program that it executed: {maps:?}");
        let kept = seen.kept.expect("its memory is held");
        let mut magic = [0; 4];
        kept.memory().read(maps[0].range.start(), &mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
    }

    /// Who is let go has never stopped.
    #[test]
    fn who_is_let_go_never_stops() {
        let (mut child, pid) = waiting("exit 3");
        let tether = Tether::tie(pid);
        assert!(tether.is_tied() && task::status(pid.into()).unwrap().tracer.is_some());
        tether.let_go();
        while task::status(pid.into()).unwrap().tracer.is_some() {
            std::thread::sleep(LOOK_EVERY);
        }
        assert_eq!(go_on(&mut child).code(), Some(3));
        assert_eq!(tether.stops(), 0);
        assert!(tether.take().is_none());
    }

    /// A signal goes on to the program, and one that is to end it does.
    #[test]
    fn signals_pass() {
        use std::os::unix::process::ExitStatusExt;
        for (script, signal) in [("kill -TERM $$", Some(15)), ("trap 'exit 7' USR1; kill -USR1 $$; sleep 60", None)] {
            let (mut child, pid) = waiting(script);
            let _tether = Tether::tie(pid);
            let status = go_on(&mut child);
            assert_eq!((status.signal(), status.code()), (signal, signal.is_none().then_some(7)), "{script}");
        }
    }

    /// Whom job control stops stays stopped, without a tracer, and goes on when it is told to.
    #[test]
    fn job_control() {
        let (mut child, pid) = waiting("kill -STOP $$; exit 5");
        let tether = Tether::tie(pid);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let is_free = || task::status(pid.into()).is_ok_and(|status| status.tracer.is_none() && status.state == 'T');
        while !is_free() {
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(!tether.is_tied());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.0), nix::sys::signal::Signal::SIGCONT).unwrap();
        assert_eq!(end(&mut child).code(), Some(5));
    }
}
