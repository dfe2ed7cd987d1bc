//! Programs that are followed, and those that follow them. To compare with another one, add a line to a list here.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// vmtrace itself, as it is released.
pub const VMTRACE: &str = env!("CARGO_BIN_EXE_vmtrace");

/// How long each run takes. An attached one has the start of its follower in it, which is to be no more than a few percent.
const SECONDS: &str = "0.5";
const SECONDS_ATTACHED: &str = "3";

/// perf's events for what vmtrace follows.
const PERF_EVENTS: &str = "syscalls:sys_enter_mmap,syscalls:sys_exit_mmap,syscalls:sys_enter_munmap,\
    syscalls:sys_exit_munmap,syscalls:sys_enter_mprotect,syscalls:sys_exit_mprotect,syscalls:sys_enter_madvise,\
    syscalls:sys_exit_madvise,sched:sched_process_fork,sched:sched_process_exit";

/// Whoever follows a program.
pub struct Contender {
    /// As it stands in the table.
    pub name: &'static str,
    /// The program and its arguments, before the followed program's or its number.
    command: &'static [&'static str],
}

/// Follow a program that they launch. `minimal` is built here.
pub const LAUNCHING: &[Contender] = &[
    Contender { name: "native", command: &[] },
    Contender { name: "minimal ptrace loop", command: &["minimal"] },
    Contender { name: "the same, on one CPU", command: &["minimal", "-1"] },
    Contender {
        name: "strace -f --seccomp-bpf",
        command: &["strace", "-f", "--seccomp-bpf", "-e", "trace=%memory,%process", "-o", "/dev/null"],
    },
    Contender { name: "perf record", command: &["perf", "record", "-q", "-o", "/dev/null", "-e", PERF_EVENTS, "--"] },
    Contender { name: "vmtrace", command: &[VMTRACE, "-o", "/dev/null", "--"] },
    Contender { name: "vmtrace --follow threads", command: &[VMTRACE, "-o", "/dev/null", "--follow", "threads", "--"] },
];

/// Follow a program that runs.
pub const ATTACHING: &[Contender] = &[
    Contender { name: "native", command: &[] },
    Contender {
        name: "strace -f",
        command: &["strace", "-f", "-e", "trace=%memory,%process", "-o", "/dev/null", "-p"],
    },
    Contender { name: "perf record", command: &["perf", "record", "-q", "-o", "/dev/null", "-e", PERF_EVENTS, "-p"] },
    Contender { name: "vmtrace --engine perf", command: &[VMTRACE, "-o", "/dev/null", "--engine", "perf", "-p"] },
    Contender { name: "vmtrace --engine ptrace", command: &[VMTRACE, "-o", "/dev/null", "--engine", "ptrace", "-p"] },
    Contender {
        name: "vmtrace --follow threads",
        command: &[VMTRACE, "-o", "/dev/null", "--follow", "threads", "--engine", "ptrace", "-p"],
    },
];

/// Follow redis, after one that shows how much runs without any differ.
pub const FOLLOWING_REDIS: &[Contender] = &[
    Contender { name: "native", command: &[] },
    Contender { name: "native, once more", command: &[] },
    Contender {
        name: "vmtrace --follow threads",
        command: &[VMTRACE, "-o", "/dev/null", "--follow", "threads", "--engine", "ptrace", "-p"],
    },
    Contender { name: "vmtrace --engine perf", command: &[VMTRACE, "-o", "/dev/null", "--engine", "perf", "-p"] },
];

/// The folder of the programs in benches/programs, which have been built.
pub struct Programs(PathBuf);

/// Builds all programs.
pub fn build() -> Programs {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&folder).expect("the target folder can be written to");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/programs");
    for source in std::fs::read_dir(sources).expect("benches/programs is there").flatten() {
        let program = folder.join(source.path().file_stem().expect("a name"));
        let built = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(program).arg(source.path()).status();
        assert!(built.expect("cc can be run").success(), "{} cannot be built", source.path().display());
    }
    Programs(folder)
}

impl Programs {
    /// A program that was built here, or one that is in PATH.
    pub fn command(&self, program: &str) -> Command {
        let here = self.0.join(program);
        Command::new(if here.exists() { here.as_os_str() } else { OsStr::new(program) })
    }

    /// The command of a follower, which lacks what it is to follow; none for none.
    pub fn follower(&self, contender: &Contender) -> Option<Command> {
        let (program, arguments) = contender.command.split_first()?;
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Some(command)
    }

    /// What `program` prints, a rate, when it is launched by `contender`. None where that cannot be run.
    pub fn launched(&self, contender: &Contender, program: &str, threads: &str) -> Option<f64> {
        let mut command = self.follower(contender).unwrap_or_else(|| Command::new("env"));
        let output = command.arg(self.0.join(program)).args([SECONDS, threads]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    }

    /// The same, when `contender` attaches to it.
    pub fn attached(&self, contender: &Contender, program: &str, threads: &str) -> Option<f64> {
        let mut target = self.command(program).args([SECONDS_ATTACHED, threads]).stdout(Stdio::piped()).spawn().ok()?;
        std::thread::sleep(Duration::from_millis(20));
        let follower = self.follower(contender).map(|mut command| command.arg(target.id().to_string()).spawn());
        let mut rate = String::new();
        target.stdout.take()?.read_to_string(&mut rate).ok()?;
        target.wait().ok()?;
        if let Some(follower) = follower {
            end(follower.ok()?);
        }
        rate.trim().parse().ok()
    }
}

/// Waits for a follower whose target has ended, or stops it.
pub fn end(mut follower: Child) {
    for _ in 0..100 {
        if let Ok(Some(_)) = follower.try_wait() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    stop(follower);
}

/// Ends a follower by ^C.
pub fn stop(mut follower: Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(follower.id()).expect("a process's number"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    let _ = follower.wait();
}
