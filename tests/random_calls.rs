//! The model against the kernel under random calls: whatever four threads do to their mappings, the model agrees with
//! /proc/PID/maps. A failure names the seed; VMTRACE_SEED=N runs the tests with another one.

mod common;

use common::testprogs::testprog;
use common::vmtrace::{Report, launch};

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
    let launched = launch(&[&format!("--verify={every}"), "--min-confidence=possible"], &command);
    let context = format!("{program} with seed {seed} {arguments:?}");
    let launched_errors = launched.ended.errors();
    launched.report.expect_verified(&context, &launched_errors);
    launched.report.expect_clean(&context);
    launched.ended.expect_code(0);
    launched.report
}

/// Fails the test unless so much was called and compared as its name promises.
#[track_caller]
fn expect_at_least(report: &Report, calls: u64, checks: u64) {
    let (events, checked) = (report.number("/counts/events"), report.number("/verify/checks"));
    assert!(events >= calls, "{events} events of {calls} calls at least");
    assert!(checked >= checks, "{checked} comparisons, {checks} at least");
}

/// 80,000 calls of four threads, compared now and then.
#[test]
fn four_threads() {
    expect_at_least(&agree("random_calls", 1, &["80000", "4"], 50), 70_000, 800);
}

/// A smaller number, compared at every change: the call at which the model went wrong is the last one then.
#[test]
fn every_change() {
    expect_at_least(&agree("random_calls", 2, &["6000", "4"], 1), 5_000, 2_000);
}

/// 20,000 calls of the other system call table.
#[test]
fn i386() {
    expect_at_least(&agree("random_calls.i386", 3, &["20000", "4"], 50), 18_000, 200);
}

/// Forks in between: each child begins with the parent's mappings, less what is not to be inherited.
#[test]
fn forks() {
    let report = agree("random_calls", 4, &["6000", "4", "fork"], 3);
    expect_at_least(&report, 5_000, 700);
    assert!(report.number("/counts/threads_seen") > 20, "children were forked");
}

/// Forks of the other table.
#[test]
fn i386_forks() {
    let report = agree("random_calls.i386", 5, &["4000", "3", "fork"], 3);
    assert!(report.number("/counts/threads_seen") > 15, "children were forked");
}
