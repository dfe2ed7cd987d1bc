//! `--follow threads`: thread lifecycles alone, without a stop at any system call.

use crate::common::process::run;
use crate::common::testprogs::{FOLDER, testprog};
use crate::common::vmtrace::{attach, launch, vmtrace};
use nix::sys::signal::Signal;

/// Every case of cases.toml, launched and attached: what must be found without mapping calls is found, what shows by them
/// alone is not, and nothing else ever is.
#[test]
fn all_cases_without_mapping_calls() {
    testprog("unjoined");
    let output = run(&mut vmtrace(["check", "--by", "threads", "-j", "6", &format!("{FOLDER}/cases.toml")]));
    let output = output.expect_code(0).output();
    assert!(output.ends_with(" passed, 0 failed\n") && output.contains("attach threads  ok"), "{output}");
}

/// A task stops at its birth, at those that it gives, and at its end, whatever calls it makes; and the report says what it
/// does not know.
#[test]
fn no_system_call_stops() {
    let launched = launch(&["--follow=threads"], &[testprog("random_calls"), "1", "2000"]);
    launched.report.expect_clean("random_calls");
    let threads = launched.report.number("/counts/threads_seen");
    assert!(launched.report.number("/counts/stops") <= 3 * threads + 2, "{:#}", launched.report.0);
    assert_eq!(launched.report.at("/target/follow"), "threads");
    let leaky = launch(&["--follow=threads"], &[testprog("unjoined")]);
    for member in leaky.report.findings()[0]["members"].as_array().expect("members") {
        assert!(member["mapped_at"].is_null() && !member["exited_at"].is_null(), "{member:#}");
        let calls = member["evidence"].as_array().expect("evidence").iter();
        let calls: Vec<&str> = calls.map(|evidence| evidence["call"].as_str().expect("a call")).collect();
        assert!(calls[0].starts_with("clone") && calls[1].starts_with("+++ exited") && calls.len() == 2, "{calls:?}");
    }
}

/// In a process that goes on, threads that nobody joins are found as they end, and those from before as well; and it
/// is left as it was.
#[test]
fn attached_to_a_living_process() {
    let target = crate::common::testprogs::start("attach_loop", &["0", "2", "100"]);
    let vmtrace = attach(target.pid(), &["--follow=threads"]).await_following();
    crate::common::wait_for("a leak is found that happened since", || {
        let report = vmtrace.report_now();
        report.findings().iter().any(|finding| finding["created"].as_u64().is_some_and(|created| created > 0))
    });
    let report = vmtrace.stop(Signal::SIGTERM);
    assert!(report.findings().iter().all(|finding| finding["reason"] == "unjoined"), "{:#}", report.0);
    assert!(!target.has_ended());
}

/// Where every call stops and that costs more than it may, thread lifecycles alone are followed from then on; the report
/// says since when, and what has been left is found all the same.
#[test]
fn a_budget_that_is_exceeded() {
    let target = crate::common::testprogs::start("attach_loop", &["0", "2", "50"]);
    let mut command =
        vmtrace(["--format=json", "--max-overhead=0.5", "--engine=ptrace", "-p", &target.pid().to_string()]);
    let vmtrace = crate::common::process::Process::start(&mut command);
    crate::common::wait_for("it costs too much", || vmtrace.errors().contains("--max-overhead"));
    crate::common::wait_for("a leak is found since", || {
        vmtrace.send(Signal::SIGUSR1);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let reports = crate::common::vmtrace::reports(&vmtrace.output());
        let last = reports.last().filter(|report| report.at("/target/follow") == "threads");
        last.is_some_and(|report| report.findings().iter().any(|finding| finding["regions"].as_u64() > Some(20)))
    });
    vmtrace.send(Signal::SIGTERM);
    let ended = vmtrace.end().expect_code(0);
    let report = crate::common::vmtrace::reports(&ended.output()).pop().expect("a report");
    let notes = report.at("/notes").as_array().expect("notes").iter();
    assert!(notes.filter_map(|note| note["text"].as_str()).any(|text| text.contains("thread lifecycles alone")));
    assert!(report.findings().iter().all(|finding| finding["reason"] == "unjoined"), "{:#}", report.0);
    assert!(!target.has_ended());
}

/// A recording has all that was looked up.
#[test]
fn recorded_and_replayed() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("recording").into_os_string().into_string().expect("a path in UTF-8");
    for program in ["unjoined", "raw_clone_together", "exec_after_leak"] {
        let arguments = [testprog(program), "leader"];
        let made =
            launch(&["--follow=threads", "--record", &file], &arguments[..1 + usize::from(program.contains("exec"))]);
        let replayed = run(&mut vmtrace(["replay", "--format=json", &file])).expect_code(0);
        let replayed = crate::common::vmtrace::reports(&replayed.output()).pop().expect("a report");
        assert!(!made.report.findings().is_empty(), "{:#}", made.report.0);
        assert_eq!(made.report.findings(), replayed.findings());
        assert_eq!(replayed.at("/target/follow"), "threads");
    }
}

/// What is asked for and cannot be done is wrong usage.
#[test]
fn options_that_contradict() {
    let ended = run(vmtrace(["--verify", "--follow=threads"]).args(["--", "true"])).expect_code(2);
    assert!(ended.errors().contains("--follow"), "{}", ended.errors());
}
