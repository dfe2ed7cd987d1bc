//! Runs over a stand-in for vmtrace, a shell script that executes the program and hands out a prepared report.

use super::*;
use crate::cli::manifest::Manifest;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const STAND_IN: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -o) out=$2; shift ;;
    -p) echo "not permitted"; exit 125 ;;
    --) shift; break ;;
  esac
  shift
done
"$@"
cp report.json "$out"
"#;

const REPORT: &str = r#"{
  "target": {"exit": {"code": 0}}, "verify": {"checks": 9, "mismatches": 0},
  "findings": [{"rule": "orphaned-stack", "reason": "unjoined", "confidence": "definite", "regions": 15,
                "region_bytes": 40960, "pid": 7, "thread_function": null}],
  "notes": [{"kind": "stack-cache", "regions": 1, "virtual_bytes": 4096, "text": "kept"}]
}"#;

/// A folder with the stand-in, a report and a manifest of these cases.
fn folder(report: &str, cases: &str) -> (TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let vmtrace = folder.path().join("vmtrace");
    fs::write(&vmtrace, STAND_IN).unwrap();
    fs::set_permissions(&vmtrace, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("report.json"), report).unwrap();
    let manifest = folder.path().join("cases.toml");
    fs::write(&manifest, cases).unwrap();
    let manifest = Manifest::read(&manifest).unwrap();
    (folder, manifest)
}

fn runner(manifest: &Manifest) -> Runner<'_> {
    Runner {
        vmtrace: manifest.folder.join("vmtrace"),
        folder: &manifest.folder,
        scratch: Scratch::new().unwrap(),
        interrupt: Interrupt::catch().unwrap(),
        builds: Mutex::default(),
        replay: false,
    }
}

/// What is wrong with the first case.
fn problems(report: &str, case: &str) -> Vec<String> {
    let (_folder, manifest) = folder(report, &format!("[[case]]\nname = 'a'\n{case}"));
    runner(&manifest)
        .run(&manifest.cases[0], Way { mode: manifest.cases[0].modes[0], by: By::Ptrace })
        .unwrap()
        .problems
}

/// A report that is as expected passes, notes among others included.
#[test]
fn as_expected() {
    assert_eq!(
        problems(REPORT, "run = 'true'\nexpect = [{ regions = 15 }]\nnotes = [{ kind = 'stack-cache' }]"),
        [""; 0]
    );
}

/// Everything that is wrong is told at once.
#[test]
fn all_that_is_wrong() {
    let report = REPORT.replace("\"mismatches\": 0", "\"mismatches\": 2");
    insta::assert_snapshot!(problems(&report, "run = 'true'\nexit = 3\nnotes = [{ kind = 'limit-hit' }]\nexpect = [{ regions = 14, reason = 'unjoined' }, {}]").join("\n"), @r#"
    finding 1: expected {"reason":"unjoined","regions":14}, found none
    note: expected {"kind":"limit-hit"}, found stack-cache
    exit: expected {"code":3}, found {"code":0}
    verify: the model differed from the kernel's maps in 2 of 9 comparisons
    "#);
    insta::assert_snapshot!(problems(REPORT, "run = 'true'\nverify = false\nexit = 139").join("\n"), @r#"
    not expected: orphaned-stack unjoined (definite): 15 of 40960 bytes in process 7
    exit: expected {"code":139}, found {"code":0}
    "#);
}

/// A program that dies does not pass, though nothing was expected of it; where its end is unseen, nothing is said.
#[test]
fn the_end_counts() {
    let ended = |exit: &str| {
        let report = format!(r#"{{"target": {{"exit": {exit}}}, "verify": null, "findings": [], "notes": []}}"#);
        move |case: &str| problems(&report, &format!("run = 'true'\nverify = false\n{case}"))
    };
    assert_eq!(ended(r#"{"signal": "SIGSEGV"}"#)(""), [r#"exit: expected {"code":0}, found {"signal":"SIGSEGV"}"#]);
    assert_eq!(ended(r#"{"signal": "SIGSEGV"}"#)("exit = 139"), [""; 0]);
    assert_eq!(ended(r#"{"signal": "SIGSEGV"}"#)("exit = 'SIGSEGV'"), [""; 0]);
    assert_eq!(ended(r#"{"code": 139}"#)("exit = 139"), [""; 0]);
    assert_eq!(ended("null")(""), [""; 0]);
    assert_eq!(ended("null")("exit = 0"), [r#"exit: expected {"code":0}, found null"#]);
}

/// A model that was never compared is no proof.
#[test]
fn verification_must_happen() {
    let report = REPORT.replace("\"checks\": 9", "\"checks\": 0");
    assert_eq!(
        problems(&report, "run = 'true'\nexpect = [{}]"),
        ["verify: the model was not compared with the kernel's maps"]
    );
}

/// Without a report there is nothing to judge.
#[test]
fn no_report_is_a_failure() {
    assert_eq!(problems("{", "run = 'true'").len(), 1);
    assert_eq!(problems("{}", "run = 'true'"), ["the report has no findings array"]);
    assert_eq!(
        problems(REPORT, "run = 'true'\nmodes = ['attach']"),
        ["vmtrace ended before it had attached (exit status: 125)"]
    );
    assert_eq!(
        problems(REPORT, "build = 'rm report.json'\nrun = 'true'"),
        ["vmtrace wrote no report (exit status: 1)"]
    );
}

/// A program that hangs is ended, and its case fails.
#[test]
fn a_hanging_program_fails() {
    assert_eq!(problems(REPORT, "run = 'sleep 1000'\ntimeout = '200ms'"), ["did not end within 200 ms"]);
}

/// A build is run once for all that need it, and its failure is theirs.
#[test]
fn builds_are_shared() {
    let case = |name: &str| {
        format!("[[case]]\nname = '{name}'\nbuild = 'echo built >> log; echo oops; false'\nrun = 'true'\n")
    };
    let (folder, manifest) = folder(REPORT, &(case("a") + &case("b")));
    let runner = runner(&manifest);
    for case in &manifest.cases {
        let outcome = runner.run(case, Way { mode: Mode::Launch, by: By::Ptrace }).unwrap();
        assert_eq!(outcome.problems, ["build failed (exit status: 1): sh -c echo built >> log; echo oops; false"]);
        assert_eq!(outcome.output, ["oops"]);
    }
    assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), "built\n");
}

/// The whole of what a user sees.
#[test]
fn the_table() {
    let cases = "
        [[case]]
        name = 'clean'
        run = 'true'
        [[case]]
        name = 'unjoined-fifteen'
        run = ['sh', '-c', 'sleep 0.2; echo started 15 threads']
        expect = [{ regions = 15 }]
        [[case]]
        name = 'unjoined'
        run = ['printf', 'made 14\\033[31m threads\\n']
        expect = [{ regions = 14, thread_function = { symbol = 'minute_job' } }]
    ";
    let (_folder, manifest) = folder(REPORT, cases);
    let runs = super::super::runs(&manifest.cases.iter().collect::<Vec<_>>(), &[By::Ptrace]);
    let mut out = Vec::new();
    let jobs = std::num::NonZeroUsize::new(2).unwrap();
    let outcome = super::super::run_all(&runner(&manifest), &runs, jobs, &mut out).unwrap();
    assert_eq!((outcome.passed, outcome.failed), (1, 2));
    let text = String::from_utf8(out).unwrap();
    // Durations, in the last column, differ from run to run.
    let mut lines: Vec<&str> = text.lines().collect();
    let last_column = lines[0].len() - "time".len();
    lines[1..4].iter_mut().for_each(|row| *row = row[..last_column - 6].trim_end());
    insta::assert_snapshot!(lines.join("\n"), @r#"
    case              mode    verdict  findings        time
    clean             launch  FAIL            1
    unjoined-fifteen  launch  ok              1
    unjoined          launch  FAIL            1

    FAIL  clean (launch)
      not expected: orphaned-stack unjoined (definite): 15 of 40960 bytes in process 7

    FAIL  unjoined (launch)
      finding 1: regions: expected 14, found 15
      finding 1: thread_function: expected {"symbol":"minute_job"}, found null
      the last that was written:
        | made 14\x1b[31m threads

    1 passed, 2 failed
    "#);
}

/// By perf events a run in which a process was gone too soon is tried again, not for ever, and no other.
#[test]
fn those_that_came_too_late_are_run_again() {
    let gone = "\"alone: the process was gone before its memory could be read\"";
    let late = REPORT.replace("\"kept\"", gone).replace("stack-cache", "incomplete");
    let wrong = late.replace("definite", "probable");
    let case = "[[case]]\nname = 'a'\nverify = false\nexpect = [{ confidence = 'definite' }]\n";
    let lost = r#""counts": {"lost": 3}, "findings""#;
    let counted = format!("{case}run = ['sh', '-c', 'echo run >> runs']");
    for (report, by, expected) in [
        (&wrong, By::Perf, MOST_RUNS),
        (&REPORT.replace("definite", "probable").replace("\"findings\"", lost), By::Perf, MOST_RUNS),
        (&wrong, By::Ptrace, 1),
        (&late, By::Perf, 1),
        (&REPORT.replace("definite", "probable"), By::Perf, 1),
    ] {
        let (folder, manifest) = folder(report, &counted);
        let outcome = runner(&manifest).run(&manifest.cases[0], Way { mode: Mode::Launch, by }).unwrap();
        assert_eq!(outcome.problems.is_empty(), report.contains("definite"), "{:?}", outcome.problems);
        let says_why =
            outcome.problems.iter().any(|problem| problem.starts_with("the report says: alone: the process was gone"));
        assert_eq!(says_why, report == &wrong);
        assert_eq!(fs::read_to_string(folder.path().join("runs")).unwrap().lines().count(), expected);
    }
    let again = format!("{case}run = ['sh', '-c', 'test -e once && cp right.json report.json; touch once']");
    let (folder, manifest) = folder(&wrong, &again);
    fs::write(folder.path().join("right.json"), REPORT).unwrap();
    let outcome = runner(&manifest).run(&manifest.cases[0], Way { mode: Mode::Launch, by: By::Perf }).unwrap();
    assert_eq!(outcome.problems, [""; 0]);
}
