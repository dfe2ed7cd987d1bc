//! The model against the kernel, case by case: each rule of the manual pages about mappings, and each error that this
//! kernel gives, is made to happen (testprogs/conformance/), and after every call the model has to agree with
//! /proc/PID/maps.

use crate::common::testprogs::testprog;
use crate::common::vmtrace::{Launched, launch};

/// How many cases there are at least: fewer have been lost.
const CASES: u64 = 260;

/// Follows all cases of a program; they hold, there is nothing to find, and the model is the kernel's all the time.
#[track_caller]
fn conform(program: &str, options: &[&str], checks: u64) {
    let options = [&["--verify=1", "--min-confidence=possible"], options].concat();
    let Launched { ended, report } = launch(&options, &[testprog(program)]);
    let ended = ended.expect_code(0);
    let (output, errors) = (ended.output(), ended.errors());
    let cases = output.lines().rev().find_map(|line| line.strip_suffix(" cases, 0 failed"));
    let cases: u64 = cases.and_then(|cases| cases.parse().ok()).unwrap_or_else(|| panic!("{output}\n{errors}"));
    assert!(cases >= CASES, "{cases} cases");
    report.expect_verified(program, &errors);
    report.expect_clean(program);
    let checked = report.number("/verify/checks");
    assert!(checked >= checks, "{checked} comparisons, {checks} at least");
}

/// All cases, launched.
#[test]
fn launched() {
    conform("conformance", &["--engine=ptrace"], 1_500);
}

/// All cases by the other table of system calls.
#[test]
fn i386() {
    conform("conformance.i386", &["--engine=ptrace"], 1_500);
}

/// Stopped at every call, as an attached process is: without the filter of a launched one.
#[test]
fn without_a_filter() {
    conform("conformance", &["--engine=ptrace", "--for=1h"], 1_500);
}

/// What the kernel does without a call is counted by its name.
#[test]
fn what_is_tolerated_has_a_name() {
    let cases = [("stacks_grow", "stack-growth"), ("vdso_once_more", "vdso")];
    for (case, name) in cases {
        let Launched { ended, report } = launch(&["--verify=1"], &[testprog("conformance"), case]);
        report.expect_verified(case, &ended.expect_code(0).errors());
        assert!(report.number(&format!("/verify/tolerated/{name}")) > 0, "{case}");
    }
    let Launched { ended, report } = launch(&["--verify=1"], &[testprog("conformance"), "munmap_middle"]);
    report.expect_verified("munmap_middle", &ended.expect_code(0).errors());
    assert_eq!(report.number("/verify/tolerated/vdso"), 0);
}
