//! A process in our process group that tells what it is sent.
//!
//! A launched program and we are in one group, and nothing in a signal that reaches us says whom else it was sent to: what was for
//! the whole group the program has got itself, what was for us alone is to be passed on. A process that nobody has in mind gets
//! the one and not the other, needs no rights for it, and sees it also when nobody traces the program, or it takes its signals
//! without being stopped for them (sigwait(3), signalfd(2)).
//!
//! Names must not lead to it, or `kill $(pidof vmtrace)` would be taken for a signal to the group: so it executes a program of
//! its own, of some twenty instructions, which lies in memory alone. The program's arguments are among its own, for whoever looks
//! for them (`pkill -f`) finds us by them as well as the program.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, fork, getpid, getppid, pipe2, read};

use super::Received;
use crate::procfs::task;
use crate::units::Pid;

/// How it is called.
const NAME: &str = "signal-witness";

/// What it is asked by. It takes what waits in the order of the numbers, so that all that was sent before is told before this is.
const ASK: i32 = 64;

/// How long an answer may take on a machine that is busy.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Where the program finds what it needs.
const SIGNALS: RawFd = 0;
const REPORTS: RawFd = 1;
const IMAGE: RawFd = 2;

/// Room for what it tells between two looks: what it cannot tell it does not take, and what waits counts against the user's limit
/// (RLIMIT_SIGPENDING).
const PIPE_BYTES: i32 = 1 << 20;

const RECORD_BYTES: usize = size_of::<libc::signalfd_siginfo>();

// The program, as an ELF file (elf(5)): writes what it reads of a signalfd, until nobody is there to read it.
core::arch::global_asm!(
    ".pushsection .rodata.vmtrace_witness, \"a\"",
    ".balign 8",
    "vmtrace_witness_begin:",
    ".byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".2byte {et_exec}, {em_x86_64}",
    ".4byte 1",
    ".quad {base} + vmtrace_witness_entry - vmtrace_witness_begin",
    ".quad 64, 0",
    ".4byte 0",
    ".2byte 64, 56, 1, 0, 0, 0",
    ".4byte {pt_load}, {readable} + {executable}",
    ".quad 0, {base}, {base}",
    ".quad vmtrace_witness_end - vmtrace_witness_begin, vmtrace_witness_end - vmtrace_witness_begin, 4096",
    "vmtrace_witness_entry:",
    "mov eax, {prctl}",
    "mov edi, {set_name}",
    "lea rsi, [rip + vmtrace_witness_name]",
    "syscall",
    // An execve for which our effective user is not the real one has cleared it.
    "mov eax, {prctl}",
    "mov edi, {set_pdeathsig}",
    "mov esi, {sigkill}",
    "syscall",
    "sub rsp, {record_bytes}",
    "mov rsi, rsp",
    "mov edx, {record_bytes}",
    "vmtrace_witness_next:",
    "mov eax, {read}",
    "mov edi, {signals}",
    "syscall",
    "cmp rax, {record_bytes}",
    "jne vmtrace_witness_over",
    "mov eax, {write}",
    "mov edi, {reports}",
    "syscall",
    "cmp rax, {record_bytes}",
    "je vmtrace_witness_next",
    "vmtrace_witness_over:",
    "mov eax, {exit}",
    "xor edi, edi",
    "syscall",
    "vmtrace_witness_name:",
    ".asciz \"signal-witness\"",
    "vmtrace_witness_end:",
    ".popsection",
    et_exec = const libc::ET_EXEC,
    em_x86_64 = const libc::EM_X86_64,
    pt_load = const libc::PT_LOAD,
    readable = const libc::PF_R,
    executable = const libc::PF_X,
    base = const 0x40_0000,
    prctl = const libc::SYS_prctl,
    set_name = const libc::PR_SET_NAME,
    set_pdeathsig = const libc::PR_SET_PDEATHSIG,
    sigkill = const libc::SIGKILL,
    read = const libc::SYS_read,
    write = const libc::SYS_write,
    exit = const libc::SYS_exit,
    signals = const SIGNALS,
    reports = const REPORTS,
    record_bytes = const RECORD_BYTES,
);

unsafe extern "C" {
    static vmtrace_witness_begin: u8;
    static vmtrace_witness_end: u8;
}

fn image() -> &'static [u8] {
    let (begin, end) = (&raw const vmtrace_witness_begin, &raw const vmtrace_witness_end);
    // SAFETY: both are in the section above, which holds no more than what lies between them.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
}

/// The process, a child of the thread that has made it; it ends when that does, or with this.
#[derive(Debug)]
pub struct Witness {
    pid: Pid,
    reports: OwnedFd,
    asked: usize,
}

impl Witness {
    /// From when this returns on all that the process group is sent is told. `command` is that of the launched program.
    ///
    /// # Errors
    /// When there can be no further process. That the kernel executes nothing that lies in memory shows later.
    pub fn start(command: &[OsString]) -> Result<Witness, Errno> {
        let terminated = command.iter().filter_map(|arg| CString::new(arg.clone().into_vec()).ok());
        let argv: Vec<CString> = CString::new(NAME).into_iter().chain(terminated).collect();
        let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let program = program()?;
        let (reports, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Without, it has less room.
        let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        // Who writes waits until there is room.
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
        let parent = getpid();
        // What comes early waits until it is looked at, instead of ending the child.
        let before = set_mask(u64::MAX);
        // SAFETY: this process has several threads, so that the child does nothing but system calls (signal-safety(7)).
        let child = match unsafe { fork() } {
            Ok(ForkResult::Child) => become_witness(&pointers, program.as_raw_fd(), writer.as_raw_fd(), parent),
            Ok(ForkResult::Parent { child }) => Ok(child),
            Err(errno) => Err(errno),
        };
        set_mask(before);
        Ok(Witness { pid: Pid(child?.as_raw()), reports, asked: 0 })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What has been sent to the process group since this was last asked, all that was sent before the call included. None when
    /// there is no witness any more.
    pub fn hear(&mut self) -> Option<Vec<Received>> {
        if task::status(self.pid.into()).is_ok_and(|status| status.state == 'T') {
            // It was stopped with the job, and what has continued us was not for the group, or it would not be.
            let _ = super::kill(self.pid, libc::SIGCONT);
        }
        self.asked += 1;
        let is_asked = super::queue_signal(self.pid, ASK, self.asked).is_ok();
        self.listen(is_asked.then(|| Instant::now() + ANSWERS_WITHIN))
    }

    /// What it has told since this was last asked. None when there is no witness any more.
    pub fn heard(&mut self) -> Option<Vec<Received>> {
        self.listen(None)
    }

    /// What it tells up to its answer, for which this waits until then; without, what it has told.
    fn listen(&self, answered_by: Option<Instant>) -> Option<Vec<Received>> {
        let own = Pid(getpid().as_raw());
        let mut heard = Vec::new();
        loop {
            match self.next() {
                Ok(Some(told)) if told.sender == Some(own) => {
                    // It may be an answer that came too late.
                    if answered_by.is_some() && told.signal == ASK && told.value == Some(self.asked) {
                        return Some(heard);
                    }
                }
                Ok(Some(told)) => heard.push(told),
                Err(Errno::EAGAIN) if answered_by.is_some_and(|by| Instant::now() < by) => self.wait(),
                Err(Errno::EAGAIN) => return Some(heard),
                Err(Errno::EINTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// What it tells next; none when it has ended.
    fn next(&self) -> Result<Option<Received>, Errno> {
        let mut bytes = [0; RECORD_BYTES];
        if read(&self.reports, &mut bytes)? < RECORD_BYTES {
            return Ok(None);
        }
        // SAFETY: so many bytes are there, and any are a value.
        let told: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        Ok(Some(Received {
            signal: told.ssi_signo as i32,
            sender: (told.ssi_code <= 0).then_some(Pid(told.ssi_pid as i32)),
            value: (told.ssi_code == libc::SI_QUEUE).then_some(told.ssi_ptr as usize),
        }))
    }

    fn wait(&self) {
        let _ = poll(&mut [PollFd::new(self.reports.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100u8));
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = super::kill(self.pid, libc::SIGKILL);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid.0), None);
    }
}

/// The program as a file that can be executed and has no place.
fn program() -> Result<OwnedFd, Errno> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    /// MFD_EXEC, since Linux 6.3.
    const EXECUTABLE: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let create = |flags| memfd_create(NAME, MFdFlags::MFD_CLOEXEC | flags);
    let file = create(EXECUTABLE).or_else(|_| create(MFdFlags::empty()))?;
    let written = nix::unistd::write(&file, image())?;
    if written == image().len() { Ok(file) } else { Err(Errno::ENOSPC) }
}

/// Blocks these signals for the calling thread, and no others; also those two that the C library keeps to itself. Returns the mask
/// as it was.
fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (how, new) = (libc::SIG_SETMASK, &raw const mask);
    // SAFETY: both masks live through the call, and have the length that it is told.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, &raw mut before, size_of::<u64>()) };
    before
}

fn become_witness(argv: &[*const libc::c_char], program: RawFd, reports: RawFd, parent: nix::unistd::Pid) -> ! {
    static ALL: u64 = u64::MAX;
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: system calls alone, with what lives through them; descriptors that the caller has given us are not below 3, since
    // the standard files are open.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let signals = libc::syscall(libc::SYS_signalfd4, -1, &raw const ALL, size_of_val(&ALL), 0);
        // It may have ended before that.
        if getppid() == parent && signals >= 0 {
            libc::dup2(signals as RawFd, SIGNALS);
            libc::dup2(reports, REPORTS);
            libc::dup3(program, IMAGE, libc::O_CLOEXEC);
            // Other people's pipes must not stay open because of it.
            libc::syscall(libc::SYS_close_range, IMAGE + 1, libc::c_uint::MAX, 0);
            let (name, argv) = (c"".as_ptr(), argv.as_ptr());
            libc::syscall(libc::SYS_execveat, IMAGE, name, argv, environment.as_ptr(), libc::AT_EMPTY_PATH);
        }
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(witness: &Witness, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", witness.pid)).unwrap()
    }

    /// Sends by another process.
    fn send(witness: &Witness, signal: i32) -> Pid {
        let script = format!("kill -{signal} {}; echo $$", witness.pid);
        let told = std::process::Command::new("bash").args(["-c", &script]).output().unwrap().stdout;
        Pid(String::from_utf8(told).unwrap().trim().parse().unwrap())
    }

    /// All is told once, and in time, stopped or not.
    #[test]
    fn tells_what_it_is_sent() {
        let mut witness = Witness::start(&[]).unwrap();
        assert_eq!(witness.hear(), Some(Vec::new()));
        let told = |signal, sender| Received { signal, sender: Some(sender), value: None };
        for signal in [15, 1, 20, 18, 32, 33, 40, 64] {
            let sender = send(&witness, signal);
            assert_eq!(witness.hear(), Some(vec![told(signal, sender)]));
        }
        send(&witness, libc::SIGSTOP);
        let sender = send(&witness, 10);
        assert_eq!(witness.hear(), Some(vec![told(10, sender)]));
        assert_eq!(witness.hear(), Some(Vec::new()));
    }

    /// Neither its name, nor its file, nor its first argument are those of anybody else.
    #[test]
    fn goes_by_its_own_name() {
        let mut witness = Witness::start(&["program".into(), "argument".into()]).unwrap();
        assert_eq!(witness.hear(), Some(Vec::new()));
        assert_eq!(proc(&witness, "comm"), "signal-witness\n");
        assert_eq!(proc(&witness, "cmdline"), "signal-witness\0program\0argument\0");
        let file = std::fs::read_link(format!("/proc/{}/exe", witness.pid)).unwrap();
        assert_eq!(file.to_str(), Some("/memfd:signal-witness (deleted)"));
        let files = std::fs::read_dir(format!("/proc/{}/fd", witness.pid)).unwrap();
        assert_eq!(files.count(), 2, "what it reads and what it writes");
    }

    /// A witness that is gone says nothing, and is none.
    #[test]
    fn its_end_shows() {
        let mut witness = Witness::start(&[]).unwrap();
        super::super::kill(witness.pid, libc::SIGKILL).unwrap();
        assert_eq!(witness.hear(), None);
    }

    /// It does not outlive the thread that has made it.
    #[test]
    fn it_ends_with_its_thread() {
        let made = std::thread::spawn(|| {
            let mut witness = std::mem::ManuallyDrop::new(Witness::start(&[]).unwrap());
            assert_eq!(witness.hear(), Some(Vec::new()));
            witness.pid
        });
        let made = made.join().unwrap();
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(made.0), None).unwrap();
        assert!(
            matches!(ended, nix::sys::wait::WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _)),
            "{ended:?}"
        );
    }
}
