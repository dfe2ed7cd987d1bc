//! Kernels and containers that lack something: each thing that may be missing has its way round, or its message.
//!
//! What is missing is taken away from vmtrace by a seccomp filter (testprogs/without.c): a simulation, since a kernel that
//! lacks it is not at hand.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::process::{Process, command, run, send};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, VMTRACE, reports};
use crate::common::{proc, wait_for};

/// What an old kernel, or one that was built without it, may lack.
const THINGS: &[&str] = &[
    "syscall_info",
    "procmap_query",
    "pagemap_scan",
    "perf",
    "kcmp",
    "process_vm_readv",
    "userfaultfd",
    "openat2",
    "execveat",
];

/// vmtrace without a thing; with all of them where none is named.
fn vmtrace_without(thing: Option<&str>, arguments: &[&str]) -> Command {
    let words = ["--", VMTRACE].into_iter().chain(arguments.iter().copied());
    command(testprog("without"), thing.into_iter().chain(words))
}

/// What matters of a report: each finding's kind, reason, size and origin.
fn findings(report: &Report) -> Vec<[Value; 6]> {
    let keys = ["kind", "reason", "regions", "bytes", "resident_bytes", "thread_function"];
    let of = |finding: &Value| keys.map(|key| finding[key].clone());
    report.findings().iter().map(of).collect()
}

#[track_caller]
fn launched(thing: Option<&str>, options: &[&str]) -> Report {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let path = file.path().to_str().expect("a path of text");
    let program = testprog("raw_clone_together");
    let arguments = [&["--format=json", "--verify=1", "-o", path], options, &["--", program]].concat();
    let ended = run(&mut vmtrace_without(thing, &arguments)).expect_code(0);
    assert_eq!(ended.errors(), "", "without {thing:?}");
    let text = std::fs::read_to_string(file.path()).expect("the report is a text file");
    reports(&text).pop().unwrap_or_else(|| panic!("no report without {thing:?}"))
}

/// A launched program's leak is found, whatever is missing.
#[test]
fn launching() {
    let whole = findings(&launched(None, &[]));
    assert!(!whole.is_empty(), "there is something to be found");
    for thing in THINGS {
        let report = launched(Some(thing), &[]);
        report.expect_verified(thing, "");
        assert_eq!(findings(&report), whole, "without {thing}");
    }
}

/// A command in a PID namespace in which files in memory cannot be executed, nor made without saying that they are not to be.
fn without_programs_in_memory(arguments: &[&str]) -> Command {
    let script = "echo 2 > /proc/sys/vm/memfd_noexec && exec \"$@\"";
    let words = ["--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", VMTRACE];
    command("unshare", words.into_iter().chain(arguments.iter().copied()))
}

/// Where no program can be executed that lies in memory, nobody tells what the process group is sent: what vmtrace is sent is
/// passed on all the same.
#[test]
fn signals_without_a_witness() {
    let arguments = ["-o", "/dev/null", "--", testprog("from_within"), "count", "12"];
    let ways = [(vmtrace_without(Some("execveat"), &arguments), false), (without_programs_in_memory(&arguments), true)];
    for (mut command, in_namespace) in ways {
        let followed = Process::start(&mut command);
        followed.await_output("ready");
        let vmtrace = if in_namespace { proc::launched_by(followed.pid()) } else { followed.pid() };
        send(vmtrace, Signal::SIGUSR2);
        let told = followed.end().expect_code(0).output();
        assert!(told.ends_with("signal 12: 1 times\n"), "{command:?}: {told}");
    }
}

/// Findings have their names, also where files in memory have to be data.
#[test]
fn names_without_programs_in_memory() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let path = file.path().to_str().expect("a path of text");
    let arguments = ["--format=json", "-o", path, "--", testprog("raw_clone_together")];
    run(&mut without_programs_in_memory(&arguments)).expect_code(0);
    let text = std::fs::read_to_string(file.path()).expect("the report is a text file");
    assert_eq!(findings(&reports(&text)[0]), findings(&launched(None, &[])));
}

/// The same by thread lifecycles alone, which needs less.
#[test]
fn thread_lifecycles_alone() {
    let options = ["--follow=threads"];
    let whole = findings(&launched_by_threads(None, &options));
    assert!(!whole.is_empty(), "there is something to be found");
    for thing in THINGS {
        assert_eq!(findings(&launched_by_threads(Some(thing), &options)), whole, "without {thing}");
    }
}

#[track_caller]
fn launched_by_threads(thing: Option<&str>, options: &[&str]) -> Report {
    let program = testprog("raw_clone_together");
    let arguments = [&["--format=json"], options, &["--", program]].concat();
    let ended = run(&mut vmtrace_without(thing, &arguments)).expect_code(0);
    reports(&ended.errors()).pop().unwrap_or_else(|| panic!("no report without {thing:?}: {}", ended.errors()))
}

/// vmtrace without a thing, attached by ptrace to a process that leaves threads behind, until that ends.
#[track_caller]
fn attached(thing: &str) -> (Report, String) {
    let target = start("attach_loop", &["0", "3", "30"]);
    let pid = target.pid().to_string();
    let options = ["--engine=ptrace", "--max-overhead=100", "--format=json", "-p", &pid];
    let vmtrace = Process::start(&mut vmtrace_without(Some(thing), &options));
    wait_for("vmtrace has attached", || {
        assert!(!vmtrace.has_ended(), "without {thing}: {vmtrace:?}");
        proc::is_traced_by(target.pid(), vmtrace.pid())
    });
    target.end().expect_code(0);
    let ended = vmtrace.end().expect_code(0);
    (reports(&ended.output()).pop().expect("a report"), ended.errors())
}

/// An attach finds what is left behind, whatever is missing.
#[test]
fn attaching() {
    let test = |thing: &str| {
        let (report, errors) = attached(thing);
        assert_eq!(errors, "", "without {thing}");
        assert_eq!(report.at("/findings/0/reason"), "unjoined", "without {thing}");
        assert_eq!(report.at("/target/follow"), "memory", "without {thing}");
    };
    // Most of the time is spent waiting.
    let things = THINGS.iter().filter(|thing| **thing != "syscall_info");
    std::thread::scope(|scope| things.for_each(|thing| drop(scope.spawn(|| test(thing)))));
}

/// Where the entry of a call cannot be told from its exit, thread lifecycles alone are followed, and that is said.
#[test]
fn calls_that_cannot_be_told_apart() {
    let (report, errors) = attached("syscall_info");
    assert!(errors.contains("Linux 5.3") && errors.lines().count() == 1, "{errors}");
    assert!(report.at("/notes").to_string().contains("Linux 5.3"), "{:#}", report.at("/notes"));
    assert_eq!(report.at("/findings/0/reason"), "unjoined");
}

/// Without perf events an attach takes ptrace of its own accord, and by name is refused in one line.
#[test]
fn attaching_without_perf_events() {
    let target = start("crowd", &["3", "1"]);
    let pid = target.pid().to_string();
    let by_itself = ["--format=json", "--max-overhead=100", "--for=200ms", "-p", &pid];
    let ended = run(&mut vmtrace_without(Some("perf"), &by_itself)).expect_code(0);
    assert_eq!(reports(&ended.output()).pop().expect("a report").at("/target/engine"), "ptrace");
    let ended = run(&mut vmtrace_without(Some("perf"), &["--engine=perf", "-p", &pid])).expect_code(125);
    let errors = ended.errors();
    assert!(errors.contains("--engine ptrace") && errors.lines().count() == 1, "{errors}");
    target.end().expect_code(0);
}

/// Beside a process that has made all threads that may be, vmtrace does with those that it gets, or says what it lacks.
#[test]
fn no_room_for_threads() {
    const SCRIPT: &str = "
        echo 310 >/proc/sys/kernel/pid_max && mkfifo \"$1/in\" \"$1/out\" || exit 99
        \"$2\" \"$3\" <\"$1/in\" >\"$1/out\" & target=$!
        exec 8>\"$1/in\"
        read -r line <\"$1/out\"
        exec \"$4\" \"$5\" --for=100ms -o \"$1/report\" -p $target";
    for engine in ["--engine=ptrace", "--engine=perf", "--follow=threads"] {
        let attached = |spare: &str| {
            let folder = tempfile::tempdir().expect("a folder can be made");
            let path = folder.path().to_str().expect("a path of text");
            let words = ["--pid", "--fork", "--mount-proc", "bash", "-c", SCRIPT, "bash", path];
            let mut command = command("unshare", words);
            let ended = run(command.args([testprog("no_room"), spare, VMTRACE, engine]));
            let errors = ended.errors();
            assert!(!errors.contains("panicked"), "{engine}, room for {spare}: {errors}");
            if ended.code() == 125 {
                assert!(
                    errors.starts_with("vmtrace: cannot start a thread: ") && errors.lines().count() == 1,
                    "{errors}"
                );
            } else {
                assert_eq!((ended.code(), folder.path().join("report").exists()), (0, true), "{errors}");
            }
            ended.code()
        };
        assert_eq!(["0", "1", "2", "3", "8"].map(attached), [125, 0, 0, 0, 0], "{engine}");
    }
}

/// In a container whose filter forbids ptrace, it is said which capability that takes.
#[test]
fn a_container_without_ptrace() {
    let target = start("crowd", &["3", "1"]);
    let pid = target.pid().to_string();
    for words in [&["--engine=ptrace", "-p", &pid][..], &["--", testprog("joined")]] {
        let ended = run(&mut vmtrace_without(Some("ptrace"), words)).expect_code(125);
        let errors = ended.errors();
        assert!(errors.contains("SYS_PTRACE") && errors.lines().count() == 1, "{errors}");
    }
    target.end().expect_code(0);
}
