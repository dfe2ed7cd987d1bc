//! Running vmtrace, and reading its reports.

use std::ffi::OsStr;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Deserializer, Value};

use super::process::{Ended, Process, command};
use super::{proc, wait_for};

/// The program under test.
pub const VMTRACE: &str = env!("CARGO_BIN_EXE_vmtrace");

/// vmtrace with arguments.
pub fn vmtrace<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    command(VMTRACE, arguments)
}

/// A program that was launched and followed to its end.
pub struct Launched {
    pub ended: Ended,
    pub report: Report,
}

/// Launches a program, follows it to its end, and reads the report, which goes to a file.
#[track_caller]
pub fn launch<S: AsRef<str>>(options: &[&str], program: &[S]) -> Launched {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let mut command = vmtrace(["--format=json", "-o"]);
    command.arg(file.path()).args(options).arg("--").args(program.iter().map(AsRef::as_ref));
    let ended = super::process::run(&mut command);
    let text = std::fs::read_to_string(file.path()).expect("the report is a text file");
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("no report: {error}\nstatus {}\n{}", ended.code(), ended.errors()));
    Launched { ended, report: Report(report) }
}

/// What `vmtrace inspect` says of a process.
#[track_caller]
pub fn inspect(target: i32, options: &[&str]) -> Report {
    let mut command = vmtrace(["inspect", "--format=json", "--min-confidence=possible", "-p", &target.to_string()]);
    let ended = super::process::run(command.args(options)).expect_code(0);
    assert_eq!(ended.errors(), "", "vmtrace has something to complain about");
    reports(&ended.output()).pop().expect("a report")
}

/// vmtrace, attached to a process.
#[derive(Debug)]
pub struct Attached {
    pub process: Process,
    target: i32,
}

/// Attaches to a process by ptrace, and waits until vmtrace has all its threads.
#[track_caller]
pub fn attach(target: i32, options: &[&str]) -> Attached {
    // However much it costs: nothing is to be said of that.
    let options = [&["--engine=ptrace", "--max-overhead=100"], options].concat();
    let mut command = vmtrace(["--format=json", "-p", &target.to_string()]);
    let process = Process::start(command.args(&options));
    let vmtrace = process.pid();
    wait_for("vmtrace has attached to all threads", || {
        assert!(!process.has_ended(), "vmtrace has ended early: {process:?}");
        proc::is_traced_by(target, vmtrace)
    });
    Attached { process, target }
}

impl Attached {
    /// Asks for a report as of now, which comes as one more on stdout.
    #[track_caller]
    pub fn report_now(&self) -> Report {
        let before = reports(&self.process.output()).len();
        self.process.send(Signal::SIGUSR1);
        wait_for("a report as of now comes", || reports(&self.process.output()).len() > before);
        reports(&self.process.output()).swap_remove(before)
    }

    /// Waits until events flow: all threads are followed.
    #[track_caller]
    pub fn await_following(self) -> Attached {
        wait_for("following has begun", || self.report_now().number("/counts/threads_seen") > 0);
        self
    }

    /// Ends the following by a signal; gives the last report.
    #[track_caller]
    pub fn stop(self, signal: Signal) -> Report {
        self.process.send(signal);
        self.end()
    }

    /// Waits for the end of the following, which is not up to us; gives the last report.
    #[track_caller]
    pub fn end(self) -> Report {
        let target = self.target;
        let ended = self.process.end().expect_code(0);
        assert_eq!(ended.errors(), "", "vmtrace has something to complain about");
        wait_for("the target is left alone", || proc::is_free(target));
        reports(&ended.output()).pop().expect("a report at the end")
    }
}

/// The reports in a stream: those that are complete.
pub fn reports(text: &str) -> Vec<Report> {
    Deserializer::from_str(text).into_iter::<Value>().map_while(Result::ok).map(Report).collect()
}

/// A report of schema vmtrace.report/1.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

impl Report {
    /// What stands at this JSON pointer.
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {:#}", self.0))
    }

    /// The number at this JSON pointer.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        self.at(pointer).as_u64().unwrap_or_else(|| panic!("{pointer} is no count in {:#}", self.0))
    }

    /// The findings.
    #[track_caller]
    pub fn findings(&self) -> &[Value] {
        self.at("/findings").as_array().expect("findings are an array")
    }

    /// Fails the test unless the model was compared with the kernel, and never differed.
    #[track_caller]
    pub fn expect_verified(&self, context: &str, errors: &str) {
        let (checks, mismatches) = (self.number("/verify/checks"), self.number("/verify/mismatches"));
        assert!(checks > 0, "{context}: the model was never compared with the kernel");
        assert_eq!(mismatches, 0, "{context}: the model differed from the kernel in {checks} comparisons:\n{errors}");
    }

    /// Fails the test if there is a finding.
    #[track_caller]
    pub fn expect_clean(&self, context: &str) {
        assert!(self.findings().is_empty(), "{context}: there is no leak, but: {:#}", self.at("/findings"));
    }
}
