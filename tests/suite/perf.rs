//! The perf engine: attaching and launching without a single stop, losses and what comes of them, and where it cannot be had.
//!
//! These tests need root, as CI has it: without it they fail, and do not pass over what they cannot see.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::common::process::{Process, command, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, VMTRACE, reports, vmtrace};
use crate::common::{proc, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vmtrace::event::EventKind;
use vmtrace::model::Model;
use vmtrace::source::control::{Control, Manners, Timers};
use vmtrace::source::perf::Perf;
use vmtrace::source::{Next, Source};
use vmtrace::units::Pid;

/// One at a time: the events of all CPUs are read, also those of other tests' programs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// vmtrace, following a process by perf events from the moment that this returns.
#[track_caller]
fn attach(target: i32, options: &[&str]) -> Process {
    let mut command = vmtrace(["-v", "--format=json", "-p", &target.to_string()]);
    let process = Process::start(command.args(options));
    wait_for("vmtrace follows", || {
        assert!(!process.has_ended(), "vmtrace has ended early: {process:?}");
        process.errors().contains("vmtrace: perf: ")
    });
    process
}

/// The last report of a vmtrace that has ended well, or is about to.
#[track_caller]
fn last_report(vmtrace: Process) -> Report {
    let ended = vmtrace.end().expect_code(0);
    assert_eq!(ended.errors().lines().count(), 1, "vmtrace has something to complain about: {}", ended.errors());
    reports(&ended.output()).pop().expect("a report at the end")
}

/// Fails the test unless all was seen, and nobody stopped.
#[track_caller]
fn expect_unharmed(report: &Report) {
    assert_eq!(report.at("/target/engine"), "perf");
    assert_eq!([report.number("/counts/stops"), report.number("/counts/lost")], [0, 0]);
}

/// The same of a launched program: it may have been kept from its end until its memory was held, by ptrace's exit event.
#[track_caller]
fn expect_unharmed_launch(report: &Report) {
    assert_eq!(report.at("/target/engine"), "perf");
    assert!(report.number("/counts/stops") <= 1 && report.number("/counts/lost") == 0, "{}", report.at("/counts"));
}

/// A report as of now.
#[track_caller]
fn report_now(vmtrace: &Process) -> Report {
    let before = reports(&vmtrace.output()).len();
    vmtrace.send(Signal::SIGUSR1);
    wait_for("a report as of now comes", || reports(&vmtrace.output()).len() > before);
    reports(&vmtrace.output()).swap_remove(before)
}

/// A program that stops itself before it executes anything of its own.
#[track_caller]
fn held(program: &[&str]) -> Process {
    let words = ["-c", r#"kill -STOP $$; exec "$@""#, "sh"];
    let held = Process::start(&mut command("sh", words.iter().chain(program)));
    wait_for("it is held", || proc::state(held.pid()) == Some('T'));
    held
}

/// Of a process in the middle of its life those threads are found that were left behind before and those that are since; the
/// model agrees with the kernel at the end, no thread has a tracer, and the target notices nothing.
#[test]
fn a_leak_in_the_middle_of_its_life() {
    let _alone = alone();
    let target = start("attach_loop", &["0", "3", "30"]);
    let following = attach(target.pid(), &["--verify"]);
    assert!(proc::is_free(target.pid()));
    let since = |report: &Report| -> usize {
        let members = report.findings().iter().flat_map(|finding| finding["members"].as_array().expect("an array"));
        members.filter(|member| !member["mapped_at"].is_null()).count()
    };
    wait_for("three have been left behind since", || since(&report_now(&following)) >= 3);
    following.send(Signal::SIGINT);
    let report = last_report(following);
    expect_unharmed(&report);
    report.expect_verified("attached", "");
    assert!(report.at("/target/exit").is_null());
    for finding in report.findings() {
        let facts = ["reason", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
        assert_eq!(facts, [Value::from("unjoined"), 1_052_672.into(), 4096.into()]);
    }
    target.end().expect_code(0);
}

/// What a process has left when it ends is told by its thread library, although nobody could stop it there: its memory is
/// read when it is gone. From execve on, with call stacks and functions.
#[test]
fn the_end_of_a_process_that_nobody_stops() {
    let _alone = alone();
    let target = held(&[testprog("unjoined")]);
    let following = attach(target.pid(), &[]);
    target.send(Signal::SIGCONT);
    let report = last_report(following);
    expect_unharmed(&report);
    assert_eq!(report.at("/target/exit"), &json!({"code": 0}));
    let [finding] = report.findings() else { panic!("one finding: {:#}", report.at("/findings")) };
    let facts = ["reason", "confidence", "recurrence", "regions", "created"].map(|key| finding[key].clone());
    assert_eq!(facts, [json!("unjoined"), json!("definite"), json!("recurrent"), json!(6), json!(6)]);
    assert!(finding["resident_bytes"].as_u64() > Some(0), "what was resident could be seen: {finding:#}");
    assert_eq!(finding["thread_function"]["symbol"], "tell_tid");
    let site: Vec<&Value> =
        finding["site"].as_array().expect("a call stack").iter().map(|one| &one["symbol"]).collect();
    assert!(site.contains(&&json!("run_pthread")) && site.contains(&&json!("main")), "{site:?}");
    target.end().expect_code(0);
}

/// Threads of before the attach that end after it, unjoined, just before their process does, are found by the lists in its
/// memory, which is held from the attach on.
#[test]
fn the_end_of_threads_that_were_there() {
    let _alone = alone();
    for (program, guard_bytes, region_bytes) in [
        ("alive_at_attach", 0, 1_048_576),
        ("alive_at_attach", 4096, 1_052_672),
        ("alive_at_attach.musl", 4096, 1_056_768),
    ] {
        let mut target = start(program, &[&guard_bytes.to_string()]);
        let vmtrace = attach(target.pid(), &["--verify"]);
        report_now(&vmtrace).expect_clean("all threads live");
        target.close_input();
        target.end().expect_code(0);
        let report = last_report(vmtrace);
        expect_unharmed(&report);
        let [finding] = report.findings() else {
            panic!("one finding of {program}, but {:#}\n{:#}", report.at("/findings"), report.at("/notes"));
        };
        let facts = ["reason", "confidence", "regions", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
        let expected = ["unjoined".into(), "definite".into(), 3.into(), region_bytes.into(), Value::from(guard_bytes)];
        assert_eq!(facts, expected, "{program}");
    }
}

/// A program's own stacks: what their threads ran, and where they were created and mapped.
#[test]
fn stacks_of_the_programs_own() {
    let _alone = alone();
    let target = held(&[testprog("raw_clone")]);
    let following = attach(target.pid(), &[]);
    target.send(Signal::SIGCONT);
    let report = last_report(following);
    expect_unharmed(&report);
    let [finding] = report.findings() else { panic!("one finding: {:#}", report.at("/findings")) };
    assert_eq!([&finding["reason"], &finding["regions"]], [&json!("unmanaged"), &json!(5)]);
    let named = |key: &str, symbol: &str| {
        let frames = finding[key].as_array().expect("a call stack");
        frames.iter().any(|frame| frame["symbol"] == symbol)
    };
    assert_eq!(finding["thread_function"]["symbol"], "live_briefly");
    assert!(named("site", "start_raw") && named("mapped_site", "map_stack"), "{finding:#}");
    target.end().expect_code(0);
}

/// A launched program runs as by itself: its output and status are its own, and what it leaves is found.
#[test]
fn launching() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("report");
    let ended = run(vmtrace(["--engine=perf", "--format=json", "-o"]).arg(&file).args(["--", testprog("unjoined")]));
    let output = ended.expect_code(0).output();
    let alone = run(&mut Command::new(testprog("unjoined"))).expect_code(0).output();
    assert_eq!(output.lines().count(), alone.lines().count());
    let text = std::fs::read_to_string(&file).expect("there is a report");
    let report = Report(serde_json::from_str(&text).expect("the report is JSON"));
    expect_unharmed_launch(&report);
    assert_eq!(report.at("/target/mode"), "launch");
    assert_eq!(report.at("/findings/0/regions"), 6);
    let status = |program: &[&str]| {
        let mut command = vmtrace(["--engine=perf", "-o", "/dev/null", "--"]);
        run(command.args(program)).code()
    };
    assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(status(&["sh", "-c", "kill -TERM $$"]), 143);
    assert_eq!(status(&["/"]), 126);
    assert_eq!(status(&["/no such program"]), 127);
}

/// The number of files follows the CPUs, not the threads.
#[test]
fn ten_thousand_threads_need_no_more_files() {
    let _alone = alone();
    let target = start("crowd", &["9999", "0"]);
    let following = attach(target.pid(), &["--verify"]);
    let files = std::fs::read_dir(format!("/proc/{}/fd", following.pid())).expect("vmtrace lives").count();
    let cpus = std::thread::available_parallelism().expect("there are CPUs").get();
    assert!(files < 64 * cpus + 64, "{files} files on {cpus} CPUs");
    assert_eq!(report_now(&following).number("/counts/threads_live"), 10_000);
    following.send(Signal::SIGINT);
    let report = last_report(following);
    expect_unharmed(&report);
    report.expect_clean("a crowd");
    report.expect_verified("a crowd", "");
    target.end().expect_code(0);
}

/// Following ends when it is asked to, also where threads are made faster than their records can be told.
#[test]
fn a_storm_of_threads_does_not_keep_it_from_ending() {
    let _alone = alone();
    let target = start("crowd", &["2", "1"]);
    let ended = run(&mut vmtrace(["--engine=perf", "--format=json", "--for=100ms", "-p", &target.pid().to_string()]));
    assert!(!target.has_ended(), "{target:?}");
    let report = reports(&ended.expect_code(0).output()).pop().expect("a report at the end");
    assert_eq!([report.at("/target/engine"), report.at("/target/exit")], [&json!("perf"), &Value::Null]);
    assert_eq!(report.number("/counts/stops"), 0);
    report.expect_clean("a storm");
    target.end().expect_code(0);
}

/// Records that are lost are counted, the model is put right from the kernel's maps, and the report says what that costs.
#[test]
fn losses_are_counted_and_healed() {
    let _alone = alone();
    const SMALLEST_RING: usize = 32 << 10;
    let target = start("attach_loop", &["0", "8", "30"]);
    let mut control = Control::new(Manners::Attached);
    control.start(Timers::default(), None).expect("a thread can be had");
    let pid = Pid(target.pid());
    let mut source = Perf::attach(pid, Some(SMALLEST_RING)).expect("perf events are permitted to root");
    let (mut model, mut healed, mut closed) = (Model::new(), 0, false);
    // Whoever does not read loses.
    wait_for("records are lost, and the model has been put right since", || {
        if source.lost() == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        for _ in 0..1_000 {
            match source.next(&control).expect("following goes on") {
                Next::Event(event) => {
                    healed += u32::from(source.lost() > 0 && matches!(event.kind, EventKind::Maps(_)));
                    model.apply(&event);
                }
                Next::Woken => drop(control.take()),
                Next::Quiet | Next::Finished => panic!("the target lives, and nobody has closed the source"),
            }
            if healed > 0 {
                return true;
            }
        }
        false
    });
    let notes = source.notes();
    assert!(notes.iter().any(|note| note.text.contains("records were lost")), "{notes:?}");
    source.close();
    while !closed {
        match source.next(&control).expect("following goes on") {
            Next::Event(event) => drop(model.apply(&event)),
            Next::Woken => drop(control.take()),
            Next::Quiet => closed = true,
            Next::Finished => panic!("the target lives"),
        }
    }
    let maps = source.maps(pid.into()).expect("the maps have been read");
    let unsure = source.unsure(pid.into()).to_vec();
    let id = model.space_of(pid.into()).expect("the leader is followed");
    let space = model.space_mut(id).expect("it has an address space");
    assert_eq!(space.compare_but(&maps, &unsure), Ok(()));
    drop(source);
    target.send(Signal::SIGKILL);
}

/// 32-bit calls are not seen: whoever asks for perf is told so in a line, and otherwise ptrace is taken.
#[test]
fn programs_that_perf_events_do_not_show() {
    let _alone = alone();
    let target = start("attach_loop.i386", &["0", "1", "30"]);
    let pid = target.pid().to_string();
    let errors = run(&mut vmtrace(["--engine=perf", "-p", &pid])).expect_code(125).errors();
    assert!(errors.contains("32-bit") && errors.contains("--engine ptrace") && errors.lines().count() == 1, "{errors}");
    let ended = run(&mut vmtrace(["-v", "--format=json", "--for=50ms", "-p", &pid])).expect_code(0);
    assert_eq!(reports(&ended.output())[0].at("/target/engine"), "ptrace");
    assert!(ended.errors().starts_with("vmtrace: ptrace: "), "{}", ended.errors());
    target.send(Signal::SIGKILL);
}

/// A process that executes a 32-bit program is not followed any further, and the report says so. What its former program had
/// left is found, of the new one nothing is claimed, and how it ended is right.
#[test]
fn a_32_bit_program_is_executed() {
    let _alone = alone();
    let i386 = testprog("unjoined.i386");
    let ways = [
        held(&["sh", "-c", r#""$1"; "$2"; kill -TERM $$"#, "sh", testprog("unjoined"), i386]),
        held(&["sh", "-c", r#""$1"; exec "$2""#, "sh", testprog("unjoined"), i386]),
    ];
    for (target, exit) in ways.into_iter().zip([json!({"signal": "SIGTERM"}), json!({"code": 0})]) {
        let following = attach(target.pid(), &[]);
        target.send(Signal::SIGCONT);
        let report = last_report(following);
        expect_unharmed(&report);
        assert_eq!(report.at("/target/exit"), &exit);
        let [finding] = report.findings() else { panic!("one finding: {:#}", report.at("/findings")) };
        assert_eq!([&finding["reason"], &finding["regions"]], [&json!("unjoined"), &json!(6)]);
        expect_opaque(&report, i386);
        target.end();
    }
}

/// Fails the test unless the report says that one program could not be followed, and what to do.
#[track_caller]
fn expect_opaque(report: &Report, program: &str) {
    let notes = report.at("/notes").as_array().expect("notes");
    let texts: Vec<&str> = notes.iter().filter_map(|note| note["text"].as_str()).collect();
    let told =
        texts.iter().filter(|text| ["32-bit", program, "--engine ptrace"].iter().all(|part| text.contains(part)));
    assert_eq!(told.count(), 1, "{texts:?}");
}

/// A 32-bit program is not launched by perf events where the file shows what it is; of what a script leads to, the report
/// says that it was not followed, and the status is its own.
#[test]
fn launching_a_32_bit_program() {
    let _alone = alone();
    let i386 = testprog("unjoined.i386");
    let errors = run(&mut vmtrace(["--engine=perf", "--", i386])).expect_code(125).errors();
    assert!(errors.contains(i386) && errors.contains("--engine ptrace") && errors.lines().count() == 1, "{errors}");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (script, file) = (folder.path().join("script"), folder.path().join("report"));
    std::fs::write(&script, format!("#!{i386}\n")).expect("it can be written");
    Command::new("chmod").arg("+x").arg(&script).status().expect("chmod can be run");
    run(vmtrace(["--engine=perf", "--format=json", "--verify", "-o"]).arg(&file).arg("--").arg(&script)).expect_code(0);
    let text = std::fs::read_to_string(&file).expect("there is a report");
    let report = Report(serde_json::from_str(&text).expect("the report is JSON"));
    expect_unharmed(&report);
    report.expect_clean("nothing is known");
    assert_eq!(report.at("/verify/mismatches"), 0);
    assert_eq!(report.at("/target/exit"), &json!({"code": 0}));
    expect_opaque(&report, i386);
}

/// Without the privilege auto takes ptrace, and the reason names what is missing.
#[test]
fn without_the_privilege() {
    let _alone = alone();
    crate::common::need("setpriv");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let copy = folder.path().join("vmtrace");
    std::fs::copy(VMTRACE, &copy).expect("it can be copied");
    Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().expect("chmod can be run");
    let own =
        Process::start(&mut command("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"]));
    wait_for("it sleeps as nobody", || proc::state(own.pid()) == Some('S'));
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut unprivileged = command("setpriv", words);
    unprivileged.arg(&copy).args(["-v", "--for=50ms", "-p", &own.pid().to_string()]).current_dir("/");
    let ended = run(&mut unprivileged);
    let errors = ended.errors();
    assert!(errors.starts_with("vmtrace: ptrace: ") && errors.contains("--engine ptrace"), "{errors}");
    own.send(Signal::SIGKILL);
}

/// What the kernel shows at the end is compared with the model when all that came before has been told, and not at a change
/// on the way there.
#[test]
fn the_last_comparison_comes_last() {
    let _alone = alone();
    let target = start("crowd", &["2", "1"]);
    for _ in 0..2 {
        let pid = target.pid().to_string();
        let options = ["--engine=perf", "--format=json", "--verify=1", "--for=50ms", "-p", &pid];
        let ended = run(&mut vmtrace(options)).expect_code(0);
        assert_eq!(ended.errors(), "", "vmtrace has something to complain about");
        let report = reports(&ended.output()).pop().expect("a report");
        // Records may be lost where telling them is slow: the comparison is right all the same.
        assert_eq!(report.number("/counts/stops"), 0);
        assert!(report.at("/target/exit").is_null(), "it goes on");
        report.expect_verified("a storm of threads", "");
    }
    target.end().expect_code(0);
}
