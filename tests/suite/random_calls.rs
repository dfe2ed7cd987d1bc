//! The model against the kernel under random calls: whatever threads do to their mappings, the model agrees with
//! /proc/PID/maps. A failure names the seed; VMTRACE_SEED=N runs the tests with another one.

use crate::common::testprogs::testprog;
use crate::common::vmtrace::{Report, launch};

/// The seed of a test: its own, or one that was asked for.
fn seed(own: u32) -> u32 {
    match std::env::var("VMTRACE_SEED") {
        Ok(seed) => seed.parse().expect("VMTRACE_SEED is a number"),
        Err(_) => own,
    }
}

/// Runs random_calls, or a variant of it, compares at every `every`-th change, and gives the report.
#[track_caller]
fn agree(program: &str, own_seed: u32, arguments: &[&str], every: u32) -> Report {
    let seed = seed(own_seed).to_string();
    let command = [&[testprog(program), &seed], arguments].concat();
    // What threads have left behind when they end may well be possible leaks, by chance of one size that is never unmapped.
    let confidence = if arguments.contains(&"deaths") { "probable" } else { "possible" };
    let launched = launch(&[&format!("--verify={every}"), &format!("--min-confidence={confidence}")], &command);
    let context = format!("{program} with seed {seed} {arguments:?}");
    let launched_errors = launched.ended.errors();
    launched.report.expect_verified(&context, &launched_errors);
    launched.report.expect_clean(&context);
    launched.ended.expect_code(0);
    launched.report
}

/// The same until there have been so many comparisons, with at least so many calls in each run; gives the last report. Where the
/// machine is so busy that calls overtake others, nothing is compared until all have returned.
#[track_caller]
fn agree_often(program: &str, own_seed: u32, arguments: &[&str], every: u32, calls: u64, checks: u64) -> Report {
    const RUNS: u32 = 10;
    let mut checked = 0;
    for run in 0..RUNS {
        let report = agree(program, own_seed + 100 * run, arguments, every);
        let events = report.number("/counts/events");
        assert!(events >= calls, "{events} events of {calls} calls at least");
        checked += report.number("/verify/checks");
        if checked >= checks {
            return report;
        }
    }
    panic!("{checked} comparisons in {RUNS} runs, {checks} at least");
}

/// 20,000 calls of four threads, compared now and then.
#[test]
fn four_threads() {
    agree_often("random_calls", 1, &["20000", "4"], 50, 17_000, 200);
}

/// A smaller number, compared at every change: the call at which the model went wrong is the last one then.
#[test]
fn every_change() {
    agree_often("random_calls", 2, &["4000", "4"], 1, 3_300, 1_300);
}

/// 10,000 calls of the other system call table.
#[test]
fn i386() {
    agree_often("random_calls.i386", 3, &["10000", "4"], 50, 9_000, 100);
}

/// Forks in between: each child begins with the parent's mappings, less what is not to be inherited.
#[test]
fn forks() {
    let report = agree_often("random_calls", 4, &["6000", "4", "fork"], 3, 5_000, 700);
    assert!(report.number("/counts/threads_seen") > 20, "children were forked");
}

/// One thread: what went wrong is the call before.
#[test]
fn one_thread() {
    agree_often("random_calls", 6, &["10000", "1"], 10, 7_500, 600);
}

/// As many threads as the program has room for.
#[test]
fn sixteen_threads() {
    agree_often("random_calls", 7, &["10000", "16"], 20, 7_500, 300);
}

/// vfork's children change the memory of both, and end or execute the program.
#[test]
fn vforks() {
    let report = agree("random_calls", 8, &["6000", "4", "vfork"], 5);
    assert!(report.number("/counts/threads_seen") > 20, "children were made");
}

/// Threads execute the program anew, for the calls that are left.
#[test]
fn execs() {
    agree_often("random_calls", 9, &["8000", "4", "exec"], 10, 5_000, 300);
}

/// Threads end, and others go on in their place.
#[test]
fn deaths() {
    let report = agree("random_calls", 10, &["12000", "4", "deaths"], 10);
    assert!(report.number("/counts/threads_seen") > 15, "threads have ended");
}

/// Another process advises on the memory.
#[test]
fn an_adviser() {
    agree_often("random_calls", 11, &["6000", "4", "adviser"], 10, 4_000, 300);
}

/// All of these together, and by both tables.
#[test]
fn everything() {
    for program in ["random_calls", "random_calls.i386"] {
        let report = agree(program, 12, &["6000", "4", "fork", "vfork", "exec", "deaths", "adviser", "faults"], 10);
        assert!(report.number("/counts/threads_seen") > 40, "children were made");
    }
}

/// Forks of the other table.
#[test]
fn i386_forks() {
    let report = agree("random_calls.i386", 5, &["4000", "3", "fork"], 3);
    assert!(report.number("/counts/threads_seen") > 15, "children were forked");
}

/// The number of pages that had grown unseen, and were taken over: the word `faults` does what it says.
#[track_caller]
fn expect_growth(report: &Report) {
    assert!(report.number("/verify/tolerated/stack-growth") > 0, "nothing has grown");
}

/// The kernel touches pages in between: what grows down grows, and no call tells of it.
#[test]
fn faults() {
    let report = agree_often("random_calls", 205, &["15000", "4", "faults"], 50, 12_500, 150);
    expect_growth(&report);
}

/// One thread whose children get what has grown, or make it grow.
#[test]
fn faults_and_forks() {
    let report = agree("random_calls", 14, &["6000", "1", "fork", "vfork", "faults"], 1);
    assert!(report.number("/counts/threads_seen") > 20, "children were made");
    expect_growth(&report);
}

/// Faults of the other table's programs: one thread, so that what grows is always the same.
#[test]
fn i386_faults() {
    let report = agree_often("random_calls.i386", 14, &["16000", "1", "faults"], 10, 12_000, 1_000);
    expect_growth(&report);
}
