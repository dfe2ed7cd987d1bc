//! Many of everything: threads made for long at an even pace, a tree of processes, tens of thousands of mappings.
//!
//! `./scripts/scale SECONDS` runs the same for longer and prints figures; see RELIABILITY.md.

#[allow(dead_code)] // the suite uses all of it
mod common;

use std::time::{Duration, Instant};

use common::process::Process;
use common::testprogs::{start, testprog};
use common::vmtrace::{Report, launch, reports, vmtrace};
use common::{proc, wait_for};
use nix::sys::signal::Signal;

/// Memory that vmtrace may need, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

/// How long threads are made: as long as is asked for, or a moment.
fn duration() -> Duration {
    let seconds = std::env::var("VMTRACE_SCALE_SECONDS");
    Duration::from_secs(seconds.map_or(2, |text| text.parse().expect("VMTRACE_SCALE_SECONDS is a number")))
}

/// vmtrace, following a process by these means from the moment that this returns.
#[track_caller]
fn attach(target: i32, options: &[&str]) -> Process {
    let process = Process::start(vmtrace(["--format=json", "-p", &target.to_string()]).args(options));
    wait_for("vmtrace expects signals", || expects(process.pid(), Signal::SIGUSR1));
    wait_for("vmtrace follows", || {
        process.send(Signal::SIGUSR1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!process.has_ended(), "vmtrace has ended early: {process:?}");
        reports(&process.output()).last().is_some_and(|report| report.number("/counts/threads_seen") > 0)
    });
    process
}

/// Whether a process blocks or handles a signal, so that it does not end by it.
fn expects(pid: i32, signal: Signal) -> bool {
    let bits = |key| u64::from_str_radix(&proc::status(pid, key).unwrap_or_default(), 16).unwrap_or(0);
    (bits("SigBlk") | bits("SigCgt")) >> (signal as i32 - 1) & 1 == 1
}

#[track_caller]
fn last_report(vmtrace: Process) -> Report {
    let ended = vmtrace.end().expect_code(0);
    reports(&ended.output()).pop().expect("a report at the end")
}

/// Resident memory of a process that lives, in KiB.
fn resident(pid: i32) -> u64 {
    let text = proc::status(pid, "VmRSS").expect("it lives");
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// A thousand threads a second, of which some are forgotten: each of those is found, no event is lost, and vmtrace's memory
/// stays what it was.
#[track_caller]
fn follow_steadily(options: &[&str]) {
    // In a short run more of them, so that there are some.
    let forgotten_every = if duration() < Duration::from_secs(60) { "20" } else { "1000" };
    let mut target = start("steady", &["1000", forgotten_every]);
    let vmtrace = attach(target.pid(), options);
    let begin = Instant::now();
    let until = |end: Duration| std::thread::sleep(end.saturating_sub(begin.elapsed()));
    until(duration() / 4);
    let early = resident(vmtrace.pid());
    until(duration());
    let late = resident(vmtrace.pid());
    target.close_input();
    let report = last_report(vmtrace);
    let forgotten: u64 = target.end().expect_code(0).output().lines().last().unwrap().parse().expect("a number");
    let context = format!("{options:?}: {:#}", report.0);
    assert!(report.findings().iter().all(|finding| finding["reason"] == "unjoined"), "{context}");
    let found: u64 = report.findings().iter().filter_map(|finding| finding["regions"].as_u64()).sum();
    assert_eq!(found, forgotten, "{context}");
    assert_eq!(report.at("/counts/lost"), 0, "{context}");
    assert!(late < MOST_MEMORY, "{late} KiB: {context}");
    // A few bytes for each thread would make more in the minutes of a long run.
    assert!(late < early + 4096, "{early} KiB have become {late} KiB: {context}");
    println!(
        "{options:?}: {} threads in {:.0} s, {forgotten} forgotten and found; {early} KiB after a quarter, {late} KiB at the end",
        report.number("/counts/threads_seen"),
        begin.elapsed().as_secs_f64(),
    );
}

#[test]
fn a_thousand_threads_a_second() {
    let means: [&[&str]; 3] = [&["--engine=ptrace", "--max-overhead=100"], &["--engine=perf"], &["--follow=threads"]];
    std::thread::scope(|scope| {
        for options in means {
            scope.spawn(move || follow_steadily(options));
        }
    });
}

/// Each of 500 processes has left a thread.
#[track_caller]
fn expect_family(report: &Report) {
    let mut pids: Vec<i64> = report.findings().iter().filter_map(|finding| finding["pid"].as_i64()).collect();
    pids.sort_unstable();
    pids.dedup();
    let notes: Vec<_> = report.at("/notes").as_array().into_iter().flatten().map(|note| &note["text"]).collect();
    assert_eq!((report.findings().len(), pids.len()), (500, 500), "{} {notes:?}", report.at("/counts"));
    assert!(report.findings().iter().all(|finding| finding["reason"] == "unjoined" && finding["regions"] == 1));
    assert_eq!(report.at("/counts/lost"), 0);
}

/// A tree of 500 processes, followed from its start to its end.
#[test]
fn a_tree_of_500_launched() {
    let launched = launch(&["--verify"], &[testprog("family"), "500"]);
    launched.ended.expect_code(0);
    expect_family(&launched.report);
    launched.report.expect_verified("a tree", "");
}

/// A tree of 500 processes that grows while it is followed, and lives on.
#[test]
fn a_tree_of_500_attached() {
    let means: [&[&str]; 3] = [&["--engine=ptrace", "--max-overhead=100"], &["--engine=perf"], &["--follow=threads"]];
    for options in means {
        let mut target = start("family", &["500"]);
        let vmtrace = attach(target.pid(), options);
        target.write(b"\n");
        target.await_output("grown");
        // Of a process that lives on, what has ended within the last second is nobody's leak yet.
        std::thread::sleep(Duration::from_millis(1500));
        vmtrace.send(Signal::SIGINT);
        let report = last_report(vmtrace);
        expect_family(&report);
        wait_for("all are left alone", || proc::session(target.pid()).into_iter().all(proc::is_free));
        target.end().expect_code(0);
    }
}

/// Changes among 60,000 mappings: the model stays the kernel's, and none of it costs what all of them would.
#[test]
fn sixty_thousand_mappings() {
    let launched =
        launch(&["--verify=2000", "--min-confidence=possible"], &[testprog("many_mappings"), "60000", "6000"]);
    launched.ended.expect_code(0);
    let report = launched.report;
    report.expect_verified("many mappings", "");
    report.expect_clean("many mappings");
    assert!(report.number("/counts/events") > 35_000);
    assert!(report.number("/memory/vmas") > 50_000);
}
