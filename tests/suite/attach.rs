//! Attaching to a process in the middle of its life, and leaving it as it was, whatever happens meanwhile.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::common::process::{Process, command, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Attached, Report, attach, reports, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

/// Fails the test unless the report is of an attach that ended while the process lived, and the model held.
#[track_caller]
pub(super) fn expect_left_alive(report: &Report) {
    assert_eq!(report.at("/target/mode"), "attach");
    assert!(report.at("/target/exit").is_null(), "it lives: {:#}", report.at("/target"));
    report.expect_verified("attached", "");
}

/// Threads that are never joined are found, those of before the attach and those since, and the target ends well.
#[test]
fn a_leak_in_the_middle_of_its_life() {
    let target = start("attach_loop", &["0", "3", "30"]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    let since = |report: &Report| -> usize {
        let members = report.findings().iter().flat_map(|finding| finding["members"].as_array().expect("an array"));
        members.filter(|member| !member["mapped_at"].is_null()).count()
    };
    wait_for("three have been left behind since", || since(&attached.report_now()) >= 3);
    let report = attached.stop(Signal::SIGINT);
    expect_left_alive(&report);
    // Where those of before were created is not known, so that they may be a finding of their own.
    for finding in report.findings() {
        let facts = ["rule", "reason", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
        assert_eq!(facts, [Value::from("orphaned-stack"), "unjoined".into(), 1_052_672.into(), 4096.into()]);
    }
    assert!(since(&report) >= 3);
    target.end().expect_code(0);
}

/// A program that is attached to while its libraries are being loaded has its C library only later, and its lists are found
/// then.
#[test]
fn before_the_libraries_are_there() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let fifo = folder.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO can be made");
    for engine in ["ptrace", "auto"] {
        // The dynamic linker waits for whoever would write to it.
        let mut command = command(testprog("unjoined_once"), Vec::<&str>::new());
        let target = Process::start(command.env("LD_PRELOAD", &fifo));
        let pid = target.pid();
        let is_there = || proc::program(pid).is_some_and(|program| program == Path::new(testprog("unjoined_once")));
        wait_for("the dynamic linker waits", || is_there() && proc::state(pid) == Some('S'));
        let mut vmtrace = vmtrace(["-v", "--format=json", "-p", &pid.to_string(), "--engine", engine]);
        let vmtrace = Process::start(vmtrace.arg("--max-overhead=100"));
        // What it has taken by itself it says once it follows.
        wait_for("vmtrace follows", || match engine {
            "ptrace" => proc::is_traced_by(pid, vmtrace.pid()),
            _ => vmtrace.errors().contains("vmtrace: perf: "),
        });
        File::options().write(true).open(&fifo).expect("the dynamic linker has opened it");
        let report = reports(&vmtrace.end().expect_code(0).output()).pop().expect("a report");
        let [finding] = report.findings() else {
            panic!("one finding by {engine}, but {:#}\n{:#}", report.at("/findings"), report.at("/notes"));
        };
        let facts = ["reason", "confidence", "regions"].map(|key| finding[key].clone());
        assert_eq!(facts, ["unjoined".into(), "definite".into(), Value::from(1)], "{engine}");
        target.end().expect_code(0);
    }
}

/// Programs are executed all the time, by children that share the memory until then and by such as do not: whatever the moment
/// of the attach, and of its end, the model is the kernel's and nothing is found.
#[test]
fn programs_are_executed_meanwhile() {
    let target = start("spawn_storm", &[]);
    let pid = target.pid().to_string();
    for ms in 1..=30 {
        let memory: &[&str] = &["--engine=ptrace", "--max-overhead=100", "--verify=20"];
        for means in [memory, &["--follow=threads"]] {
            let duration = format!("--for={ms}ms");
            let ended = run(vmtrace(["--format=json", "-p", &pid, &duration]).args(means)).expect_code(0);
            let context = format!("{means:?} for {ms} ms: {}", ended.errors());
            let report = reports(&ended.output()).pop().expect("a report");
            if means == memory {
                assert_eq!(report.at("/verify/mismatches"), 0, "{context}");
            }
            report.expect_clean(&context);
        }
    }
    target.end().expect_code(0);
}

/// musl has no list of ended threads, and still those are found that ended unjoined before the attach, and those since.
#[test]
fn a_leak_of_musl_threads() {
    for program in ["attach_loop.musl", "attach_loop.musl_static"] {
        let target = start(program, &["0", "3", "30"]);
        let size = proc::virtual_kib(target.pid());
        wait_for("some are left behind before the attach", || proc::virtual_kib(target.pid()) >= size + 3 * 1024);
        let attached = attach(target.pid(), &["--verify=1"]).await_following();
        let members = |report: &Report, since: bool| -> usize {
            let members = report.findings().iter().flat_map(|finding| finding["members"].as_array().expect("an array"));
            members.filter(|member| member["mapped_at"].is_null() != since).count()
        };
        wait_for("three have been left behind since", || members(&attached.report_now(), true) >= 3);
        // What ended before the attach has a grace of a second.
        wait_for("all are definite", || {
            attached.report_now().findings().iter().all(|finding| finding["confidence"] == "definite")
        });
        let report = attached.stop(Signal::SIGINT);
        expect_left_alive(&report);
        let before = members(&report, false);
        assert!(before >= 2 && members(&report, true) >= 3, "{program}: {:#}", report.at("/findings"));
        for finding in report.findings() {
            let facts = ["reason", "confidence", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
            assert_eq!(facts, ["unjoined".into(), "definite".into(), 1_056_768.into(), Value::from(4096)], "{program}");
        }
        target.end().expect_code(0);
    }
}

/// musl's threads that live at the attach and end unjoined after it.
#[test]
fn live_musl_threads() {
    for guard_bytes in [0, 4096_u64] {
        let mut target = start("alive_at_attach.musl", &[&guard_bytes.to_string()]);
        let attached = attach(target.pid(), &["--verify=1"]).await_following();
        attached.report_now().expect_clean("all threads live");
        target.close_input();
        let report = attached.end();
        let [finding] = report.findings() else {
            panic!("one finding, but {:#}", report.at("/findings"));
        };
        let facts = ["reason", "confidence", "regions", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
        let region_bytes = 1_052_672 + guard_bytes;
        assert_eq!(
            facts,
            [Value::from("unjoined"), "definite".into(), 3.into(), region_bytes.into(), guard_bytes.into()]
        );
        target.end().expect_code(0);
    }
}

/// What was there before the attach may grow down by page faults: the kernel's flag says so, and no more is tolerated.
#[test]
fn growth_of_what_was_there() {
    let mut target = start("grows_later", &[]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    for times in 1..=3 {
        target.write(b"\n");
        wait_for("it has grown", || target.output().matches("grown").count() == times);
    }
    target.close_input();
    let report = attached.end();
    report.expect_verified("attached", "");
    // The model learns once that it grows.
    assert_eq!(report.number("/verify/tolerated/stack-growth"), 3, "{:#}", report.at("/verify"));
    target.end().expect_code(0);
}

/// Threads that live at the attach on stacks that the kernel shows as one line, and end unjoined after it, are found one
/// by one: the thread library knows where each stack begins and ends.
#[test]
fn stacks_without_borders() {
    let mut target = start("alive_at_attach", &["0"]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    attached.report_now().expect_clean("all threads live");
    target.close_input();
    let report = attached.end();
    let [finding] = report.findings() else {
        panic!("one finding, but {:#}", report.at("/findings"));
    };
    let facts = ["reason", "confidence", "regions", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
    assert_eq!(facts, ["unjoined".into(), "definite".into(), 3.into(), 1_048_576.into(), Value::from(0)]);
    let members = finding["members"].as_array().expect("an array");
    assert!(members.iter().all(|member| !member["exited_at"].is_null() && member["owner_tid"].as_i64() > Some(0)));
    target.end().expect_code(0);
}

/// In a container's PID namespace descriptors hold other numbers than ours: live threads are live all the same.
#[test]
fn in_a_pid_namespace() {
    need("unshare");
    let words = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", testprog("alive_at_attach"), "0"];
    let mut unshared = Process::start(&mut command("unshare", words));
    unshared.await_output("ready");
    let [target] = proc::children(unshared.pid())[..] else { panic!("one child") };
    let attached = attach(target, &["--verify=1"]).await_following();
    // What ended before the attach would have a grace of a second.
    std::thread::sleep(Duration::from_millis(1200));
    attached.report_now().expect_clean("all threads live");
    unshared.close_input();
    let report = attached.end();
    let [finding] = report.findings() else {
        panic!("one finding, but {:#}", report.at("/findings"));
    };
    assert_eq!((&finding["regions"], &finding["confidence"]), (&3.into(), &"definite".into()));
    unshared.end().expect_code(0);
}

/// Five hundred threads, and more of them coming and going all the time.
#[test]
fn five_hundred_threads() {
    let target = start("crowd", &["500", "4"]);
    let attached = attach(target.pid(), &["--verify=100"]).await_following();
    wait_for("threads have come and gone", || {
        let report = attached.report_now();
        assert!(report.number("/counts/threads_live") >= 505);
        report.number("/counts/threads_seen") > 600
    });
    let report = attached.stop(Signal::SIGINT);
    expect_left_alive(&report);
    report.expect_clean("five hundred threads");
    target.end().expect_code(0);
}

/// Threads of which one is in an unmapping that lasts, and the others have overtaken it, a while ago.
fn overtaken(unmapping: &str) -> (Process, Attached) {
    let mut target = start("overtaken", &[unmapping]);
    let attached = attach(target.pid(), &["--verify=1", "--min-confidence=possible"]).await_following();
    target.write(b"\n");
    target.await_output("overtaken\n");
    (target, attached)
}

#[track_caller]
fn expect_order_lost(report: &Report) {
    let notes = report.at("/notes").to_string();
    assert!(notes.contains("the order of mapping calls was lost"), "{notes}");
}

/// Behind an unmapping that lasts the others go on, in whatever order; when it has returned the order is known again.
#[test]
fn overtaken_for_a_while() {
    let (target, attached) = overtaken("returns");
    let before = attached.report_now();
    wait_for("the order is known", || {
        let checks = |report: &Report| report.number("/verify/checks");
        checks(&attached.report_now()) > checks(&before) + 1000
    });
    target.end().expect_code(0);
    let report = attached.end();
    report.expect_verified("overtaken", "");
    report.expect_clean("overtaken");
    expect_order_lost(&report);
}

/// It does not return before vmtrace leaves, or the program ends: the model is the kernel's then all the same.
#[test]
fn overtaken_until_the_end() {
    let (target, attached) = overtaken("stays");
    let report = attached.stop(Signal::SIGINT);
    expect_left_alive(&report);
    report.expect_clean("left in the middle");
    expect_order_lost(&report);
    target.end().expect_code(0);
    let (target, attached) = overtaken("stays");
    target.end().expect_code(0);
    attached.end().expect_clean("until the end");
}

/// Reports as of now, for SIGUSR1 and at an interval, each complete, and following goes on.
#[test]
fn reports_on_the_way() {
    let target = start("crowd", &["3", "2"]);
    let attached = attach(target.pid(), &["--every=50ms"]);
    let come = |attached: &crate::common::vmtrace::Attached| reports(&attached.process.output());
    wait_for("three reports come", || come(&attached).len() >= 3);
    let all = come(&attached);
    let seconds = |report: &Report| report.at("/span/seconds").as_f64().expect("a number");
    for (number, report) in all.iter().enumerate() {
        let least = 0.05 * (number + 1) as f64;
        assert!(seconds(report) >= least, "report {number} after {} s of {least}", seconds(report));
        assert_eq!(crate::common::schema::violations(&report.0), Vec::<String>::new());
    }
    let last = attached.stop(Signal::SIGINT);
    assert!(seconds(&last) > seconds(&all[2]));

    let attached = attach(target.pid(), &[]).await_following();
    let events: Vec<u64> = (0..3).map(|_| attached.report_now().number("/counts/events")).collect();
    wait_for("following goes on", || attached.report_now().number("/counts/events") > events[2]);
    assert!(events.is_sorted(), "{events:?}");
    attached.stop(Signal::SIGINT);
    target.end().expect_code(0);
}

/// Tasks that share the memory without being threads are part of the address space, and are let go as well.
#[test]
fn raw_clones() {
    let target = start("raw_family", &["5"]);
    let children = proc::children(target.pid());
    assert_eq!(children.len(), 5);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    assert!(children.iter().all(|child| proc::is_traced_by(*child, attached.process.pid())));
    let report = attached.stop(Signal::SIGINT);
    assert_eq!((report.number("/counts/threads_seen"), report.number("/counts/threads_live")), (6, 6));
    wait_for("they are let go", || children.iter().all(|child| proc::is_free(*child)));

    // Attached to one of them, they are the same family.
    let report = attach(children[0], &["--verify=1"]).await_following().stop(Signal::SIGINT);
    assert_eq!(report.number("/counts/threads_seen"), 6);
    wait_for("they are let go", || proc::is_free(target.pid()));
    target.end().expect_code(0);
}

/// Advice that was given before the attach decides what a child inherits all the same.
#[test]
fn advice_from_before() {
    let target = start("dont_fork", &["wait"]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    target.end().expect_code(0);
    let report = attached.end();
    report.expect_verified("a child without what MADV_DONTFORK left out", "");
    assert_eq!(report.number("/counts/threads_seen"), 2);
}

/// Random calls from any moment on: the model that begins with the kernel's maps agrees with them ever after.
#[test]
fn random_calls_in_the_middle() {
    for (program, seed) in [("random_calls", "31"), ("random_calls.i386", "32")] {
        let target = Process::start(&mut command(testprog(program), [seed, "100000000", "4", "fork"]));
        wait_for("its threads run", || proc::threads(target.pid()).len() == 5);
        let attached = attach(target.pid(), &["--verify=20"]).await_following();
        wait_for("it has been compared often", || attached.report_now().number("/verify/checks") > 20);
        expect_left_alive(&attached.stop(Signal::SIGINT));
        wait_for("it is left alone", || proc::is_free(target.pid()));
    }
}

/// A second vmtrace is told who is there, and the first is not disturbed.
#[test]
fn one_at_a_time() {
    let target = start("crowd", &["3", "1"]);
    let first = attach(target.pid(), &["--verify=5"]).await_following();
    let errors = run(&mut vmtrace(["--engine=ptrace", "-p", &target.pid().to_string()])).expect_code(125).errors();
    assert!(errors.contains(&format!("already traced by process {}", first.process.pid())), "{errors}");
    expect_left_alive(&first.stop(Signal::SIGINT));
    target.end().expect_code(0);
}

/// A target that replaces its program goes on being followed, as the new one.
#[test]
fn exec_while_followed() {
    let script = "echo ready; read -r line; exec \"$@\" </dev/null";
    let mut target = Process::start(&mut command("bash", ["-c", script, "bash", testprog("raw_clone")]));
    target.await_output("ready");
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    target.write(b"\n");
    let report = attached.end();
    assert_eq!(report.at("/target/exit/code"), 0);
    assert_eq!(report.number("/findings/0/regions"), 5);
    report.expect_verified("after execve", "");
    target.end().expect_code(0);
}
