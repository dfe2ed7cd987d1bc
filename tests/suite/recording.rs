//! Recordings: replayed, they give the report that was given when they were made, and what is left of one that was cut
//! off gives what it can.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::common::process::{Ended, Process, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, vmtrace};
use crate::common::{proc, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A recording, and what was reported when it was made.
struct Made {
    folder: TempDir,
    text: String,
    report: Report,
}

/// Follows a program and records it, once with each format. Each run is a life of its own, so each has its recording.
fn recorded(options: &[&str], program: &[&str]) -> Made {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = |name: &str| folder.path().join(name);
    for format in ["text", "json"] {
        let mut command = vmtrace(["--format", format, "--record"]);
        command.arg(path(&format!("{format}.rec"))).arg("--events").arg(path(&format!("{format}.events")));
        command.arg("-o").arg(path(format)).args(options).arg("--").args(program);
        run(&mut command).expect_code(0);
    }
    let text = fs::read_to_string(path("text")).expect("a text");
    let json = fs::read_to_string(path("json")).expect("a text");
    Made { text, report: Report(serde_json::from_str(&json).expect("JSON")), folder }
}

fn replay(file: &Path, options: &[&str]) -> Ended {
    run(vmtrace(["replay"]).arg(file).args(options)).expect_code(0)
}

fn replayed(file: &Path) -> Report {
    let ended = replay(file, &["--format=json", "--min-confidence=possible"]);
    assert_eq!(ended.errors(), "");
    Report(serde_json::from_str(&ended.output()).expect("JSON"))
}

/// The report as it would be if nobody said how it came about.
fn without_mode(report: &Report) -> Value {
    let mut value = report.0.clone();
    let target = value["target"].as_object_mut().expect("a target");
    assert!(target.remove("mode").is_some() && target.remove("engine").is_some());
    value
}

#[track_caller]
fn expect_the_same(made: &Made) {
    let path = |name: &str| made.folder.path().join(name);
    let ended = replay(&path("text.rec"), &["--min-confidence=possible"]);
    let followed = made.text.replace("followed for", "replayed").replace("with ptrace", "of a recording");
    let unbroken = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(unbroken(&ended.output()), unbroken(&followed), "apart from where its first line breaks");
    assert_eq!(ended.output().lines().skip(3).collect::<Vec<_>>(), followed.lines().skip(3).collect::<Vec<_>>());
    let again = replayed(&path("json.rec"));
    assert_eq!((again.at("/target/mode"), again.at("/target/engine")), (&json!("replay"), &json!("recording")));
    assert_eq!(without_mode(&again), without_mode(&made.report));
    let events = path("again.events");
    replay(&path("text.rec"), &["-o", "/dev/null", "--events", events.to_str().expect("a text")]);
    assert_eq!(fs::read_to_string(events).unwrap(), fs::read_to_string(path("text.events")).unwrap());
}

/// Whatever the program does and whatever is asked meanwhile, the replay says the same, byte for byte.
#[test]
fn a_replay_says_the_same() {
    for program in ["unjoined", "unjoined.musl", "unjoined.i386", "raw_clone", "mixed", "leak_in_child", "rlimit_as"] {
        let program = testprog(program);
        expect_the_same(&recorded(&["--min-confidence=possible", "--verify=1"], &[program]));
    }
    expect_the_same(&recorded(&["--min-confidence=possible", "--every=10ms"], &[testprog("mixed")]));
    for by in ["leader", "thread"] {
        expect_the_same(&recorded(&["--min-confidence=possible"], &[testprog("exec_threads"), by]));
    }
}

/// Names are those that the report had, whatever has become of the program's file since.
#[test]
fn names_are_recorded() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("leaking");
    fs::copy(testprog("unjoined"), &program).expect("a file can be copied");
    let made = recorded(&["--min-confidence=possible"], &[program.to_str().expect("a text")]);
    fs::remove_file(&program).expect("a file can be removed");
    let again = replayed(&made.folder.path().join("json.rec"));
    assert_eq!(again.at("/findings/0/thread_function/symbol"), "tell_tid");
    assert_eq!(without_mode(&again), without_mode(&made.report));
}

/// vmtrace attached to a process that leaks on demand, recording.
fn attached(target: &Process, file: &Path) -> Process {
    let mut command = vmtrace(["--engine=ptrace", "-p", &target.pid().to_string(), "--record"]);
    let vmtrace = Process::start(command.arg(file));
    wait_for("vmtrace has attached", || proc::is_traced_by(target.pid(), vmtrace.pid()));
    vmtrace
}

/// vmtrace killed: what was recorded up to a second before is there, with names, for the files still are.
#[test]
fn a_killed_vmtrace_leaves_a_recording() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("cut.rec");
    let target = start("attach_loop", &["0", "1", "50"]);
    let vmtrace = attached(&target, &file);
    let findings = || if file.exists() { replayed_if_any(&file) } else { None };
    wait_for("three stacks are in the recording", || {
        findings().is_some_and(|report| report.at("/findings/0/regions").as_u64() >= Some(3))
    });
    vmtrace.send(Signal::SIGKILL);
    wait_for("vmtrace has ended", || vmtrace.has_ended());
    let report = replayed(&file);
    assert!(report.number("/findings/0/regions") >= 3);
    assert_eq!(report.at("/findings/0/thread_function/symbol"), "count_life");
    let notes = report.at("/notes").to_string();
    assert!(notes.contains("the recording is cut off"), "{notes}");
    assert!(!target.has_ended(), "and the target is none the worse for it");
}

fn replayed_if_any(file: &Path) -> Option<Report> {
    let ended = run(vmtrace(["replay", "--format=json", "--min-confidence=possible"]).arg(file));
    let report = Report(serde_json::from_str(&ended.output()).ok()?);
    (!report.findings().is_empty()).then_some(report)
}

/// A full disk costs the recording, and nothing else.
#[test]
fn a_full_disk_costs_the_recording_alone() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (report, pipe) = (folder.path().join("report"), folder.path().join("pipe"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO can be made");
    // A reader that takes the heading and goes: the next write fails.
    let reader =
        Process::start_as_it_is(std::process::Command::new("head").args(["-c", "18"]).arg(&pipe).stdin(Stdio::null()));
    let mut command = vmtrace(["--format=json", "-o"]);
    command.arg(&report).arg("--record").arg(&pipe).arg("--").arg(testprog("unjoined"));
    let ended = run(&mut command).expect_code(0);
    assert!(ended.errors().contains("--record: Broken pipe"), "{}", ended.errors());
    assert_eq!(ended.errors().matches("--record").count(), 1, "{}", ended.errors());
    let report: Value = serde_json::from_str(&fs::read_to_string(report).expect("a report")).expect("JSON");
    assert_eq!(report["findings"][0]["reason"], "unjoined");
    reader.end().expect_code(0);
}

/// From standard input, with the status that was asked for; and what is no recording is refused in one line.
#[test]
fn what_replay_takes() {
    let made = recorded(&[], &[testprog("unjoined")]);
    let file = fs::File::open(made.folder.path().join("json.rec")).expect("a recording");
    let mut command = vmtrace(["replay", "-", "--error-exitcode=9"]);
    let ended = Process::start_as_it_is(command.stdin(file)).end().expect_code(9);
    assert!(ended.output().starts_with("vmtrace: unjoined"), "{}", ended.output());
    let refused = |arguments: &[&str]| run(&mut vmtrace(arguments)).expect_code(125).errors();
    assert!(refused(&["replay", "/nonexistent"]).contains("/nonexistent: No such file"));
    assert!(refused(&["--record=/nonexistent/a", "--", "true"]).contains("cannot record to /nonexistent/a"));
    assert!(refused(&["--record=/dev/full", "--", "true"]).contains("cannot record: No space left"));
}
