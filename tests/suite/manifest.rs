//! `vmtrace check`: the reproducer programs of testprogs/, and what is said of a manifest that does not hold.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::process::{Ended, Process, run};
use crate::common::testprogs::{FOLDER, testprog};
use crate::common::vmtrace::vmtrace;
use crate::common::{proc, wait_for};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Every case of cases.toml passes in all its modes, and the replay of its recording says the same.
#[test]
fn all_cases_pass() {
    testprog("unjoined");
    let manifest = format!("{FOLDER}/cases.toml");
    let expected = runs_in(&manifest);
    // Most of the programs' time is spent asleep.
    let ended = run(&mut vmtrace(["check", "-j", "6", "--replay", &manifest])).expect_code(0);
    let (output, last) = (ended.output(), format!("\n\n{expected} passed, 0 failed\n"));
    assert!(output.ends_with(&last), "{output}");
    assert_eq!(output.lines().filter(|line| line.contains("  ok  ")).count(), expected, "{output}");
    assert_eq!(ended.errors(), "");
}

/// Of every case that can be launched a log of strace shows what the manifest says that it shows.
#[test]
fn all_cases_pass_by_their_logs() {
    crate::common::need("strace");
    testprog("unjoined");
    let manifest = format!("{FOLDER}/cases.toml");
    let ended = run(&mut vmtrace(["check", "-j", "4", "--by", "strace-log", &manifest])).expect_code(0);
    let output = ended.output();
    let passed = output.lines().filter(|line| line.contains("launch strace-log") && line.contains("  ok  ")).count();
    assert_eq!(passed, shown_by_logs(&manifest), "{output}");
    assert!(output.ends_with(&format!("\n\n{passed} passed, 0 failed\n")), "{output}");
}

/// By perf events nobody waits for vmtrace: what programs of milliseconds leave is found all the same. These are the cases
/// in which that is lost first when vmtrace is late.
#[test]
fn cases_of_milliseconds_pass_by_perf() {
    const CASES: &[&str] = &[
        "unjoined_once",
        "joined_on_demand",
        "two_sites",
        "two_sites.nosymbols",
        "call_stacks",
        "alive_at_attach",
        "raw_clone_once",
        "orphaned_mapping_left",
        "cpp_threads.leaked",
        "rust_threads.leaked",
        "leader_exits_first_exit_group",
        "leak_in_child",
        "fork_after_leak",
        "exec_after_leak_leader",
        "exec_after_leak_thread",
    ];
    testprog("unjoined");
    let manifest = format!("{FOLDER}/cases.toml");
    let ended = run(vmtrace(["check", "-j", "4", "--by", "perf", &manifest]).args(CASES)).expect_code(0);
    let output = ended.output();
    let passed = output.lines().filter(|line| line.contains(" perf ") && line.contains("  ok  ")).count();
    assert!(passed >= CASES.len() && output.ends_with(&format!("\n\n{passed} passed, 0 failed\n")), "{output}");
}

/// Cases that can be launched and of which a log can show something.
fn shown_by_logs(manifest: &str) -> usize {
    let manifest: toml::Table = fs::read_to_string(manifest).expect("a text").parse().expect("TOML");
    let cannot = |case: &&toml::Value| case.get("by").and_then(|by| by.get("strace-log")?.get("cannot")).is_some();
    let launched = |case: &&toml::Value| {
        let modes = case.get("modes").and_then(toml::Value::as_array);
        modes.is_none_or(|modes| modes.iter().any(|mode| mode.as_str() == Some("launch")))
    };
    manifest["case"].as_array().expect("cases").iter().filter(launched).filter(|case| !cannot(case)).count()
}

/// Runs that a manifest asks for: each case once in each of its modes.
fn runs_in(manifest: &str) -> usize {
    let manifest: toml::Table = fs::read_to_string(manifest).expect("a text").parse().expect("TOML");
    let cases = manifest["case"].as_array().expect("cases are an array");
    let modes = |case: &toml::Value| case.get("modes").and_then(|modes| Some(modes.as_array()?.len())).unwrap_or(1);
    cases.iter().map(modes).sum()
}

/// Every test program has a case, so that none is a dead letter.
#[test]
fn every_program_has_a_case() {
    let cases = fs::read_to_string(format!("{FOLDER}/cases.toml")).expect("a text");
    let sources = fs::read_dir(FOLDER).expect("a folder").map(|entry| entry.expect("an entry").path());
    let programs = sources
        .filter(|path| path.extension().is_some_and(|extension| ["c", "cpp", "rs"].iter().any(|of| extension == *of)));
    for path in programs {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let runs = [format!("build/{name}\""), format!("build/{name} ")];
        assert!(runs.iter().any(|run| cases.contains(run)), "no case runs {name}");
    }
}

/// A manifest in a folder of its own.
struct Manifest {
    path: PathBuf,
    _folder: TempDir,
}

impl Manifest {
    fn new(text: &str) -> Manifest {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("some.toml");
        fs::write(&path, text).expect("a file can be written");
        Manifest { path, _folder: folder }
    }

    /// A manifest whose one case runs the documented reproducer, with further keys.
    fn of_raw_clone(keys: &str) -> Manifest {
        Manifest::new(&format!("[[case]]\nname = \"leak\"\nrun = \"{}\"\n{keys}\n", testprog("raw_clone")))
    }

    fn check(&self) -> Ended {
        check(&self.path, &[])
    }
}

fn check(manifest: &Path, names: &[&str]) -> Ended {
    run(vmtrace(["check"]).arg(manifest).args(names))
}

const RIGHT: &str = "expect = [{ reason = \"unmanaged\", confidence = \"definite\", regions = 5 }]";

/// A wrong expectation gives status 1, and shows side by side what was expected and what was found.
#[test]
fn wrong_expectations() {
    Manifest::of_raw_clone(RIGHT).check().expect_code(0);
    let wrong = [
        ("expect = [{ regions = 7 }]", "regions: expected 7, found 5"),
        ("expect = [{ reason = \"unjoined\" }]", "reason: expected \"unjoined\", found \"unmanaged\""),
        ("expect = [{ regions = 5 }, { regions = 4 }]", "expected {\"regions\":4}, found none"),
        ("expect = []", "not expected: "),
        (&format!("{RIGHT}\nnotes = [{{ kind = \"stack-cache\" }}]"), "note: expected {\"kind\":\"stack-cache\"}"),
        (&format!("{RIGHT}\nexit = 3"), "exit: expected {\"code\":3}, found {\"code\":0}"),
        (&format!("{RIGHT}\nexit = \"SIGTERM\""), "exit: expected {\"signal\":\"SIGTERM\"}, found {\"code\":0}"),
        (&format!("{RIGHT}\nbuild = \"echo no such thing >&2; exit 9\""), "build failed"),
    ];
    for (keys, told) in wrong {
        let ended = Manifest::of_raw_clone(keys).check().expect_code(1);
        let output = ended.output();
        // The text may be broken between lines.
        let joined = output.split_whitespace().collect::<Vec<&str>>().join(" ");
        assert!(joined.contains(told), "{keys}: no {told:?} in\n{output}");
        assert!(output.contains("FAIL") && output.ends_with("\n0 passed, 1 failed\n"), "{output}");
        assert!(output.lines().all(|line| line.chars().count() <= 100), "{output}");
    }
}

/// A failing case does not keep the others from running.
#[test]
fn others_still_run() {
    let program = testprog("raw_clone");
    let case = |name: &str, keys: &str| format!("[[case]]\nname = \"{name}\"\nrun = \"{program}\"\n{keys}\n");
    let text = [case("first", RIGHT), case("second", "expect = []"), case("third", RIGHT)].concat();
    let manifest = Manifest::new(&text);
    assert!(check(&manifest.path, &[]).expect_code(1).output().ends_with("\n2 passed, 1 failed\n"));
    let ended = check(&manifest.path, &["third", "first"]).expect_code(0);
    assert!(ended.output().ends_with("\n2 passed, 0 failed\n"), "{}", ended.output());
    assert!(!ended.output().contains("second"));
}

/// A program that hangs is ended after its time, with all that it has started, and counts as failed.
#[test]
fn a_hanging_program_is_ended() {
    let mark = format!("98765.{}", std::process::id());
    for mode in ["launch", "attach"] {
        let keys = format!(
            "run = [\"sh\", \"-c\", \"sleep {mark} & sleep {mark}\"]\nmodes = [\"{mode}\"]\ntimeout = \"700ms\""
        );
        let ended = Manifest::new(&format!("[[case]]\nname = \"hang\"\n{keys}\n")).check().expect_code(1);
        assert!(ended.output().contains("did not end within 700 ms"), "{}", ended.output());
        wait_for("nothing of the case is left", || proc::with_argument(&mark).is_empty());
    }
}

/// SIGINT ends a check, and leaves nothing running.
#[test]
fn an_interrupted_check_leaves_nothing() {
    let mark = format!("87654.{}", std::process::id());
    let manifest = Manifest::new(&format!("[[case]]\nname = \"long\"\nrun = \"sleep {mark}\"\n"));
    let check = Process::start(vmtrace(["check"]).arg(&manifest.path));
    wait_for("the case runs", || {
        proc::with_argument(&mark).iter().any(|pid| proc::arguments(*pid).first().is_some_and(|first| first == "sleep"))
    });
    check.send(Signal::SIGINT);
    let ended = check.end().expect_code(125);
    assert_eq!(ended.errors(), "vmtrace: interrupted\n");
    wait_for("nothing of the case is left", || proc::with_argument(&mark).is_empty());
}

/// What is wrong with a manifest, or with the names, is told in one line that names it, with status 2.
#[test]
fn a_wrong_manifest_is_wrong_usage() {
    let one = "[[case]]\nname = \"a\"\nrun = \"true\"\n";
    let wrong = [
        ("[[case]]\nname = \"a\"\nrun = \"true\"\nexpct = []\n", "some.toml:4: unknown field `expct`"),
        ("[[kase]]\nname = \"a\"\nrun = \"true\"\n", "some.toml:1: unknown field `kase`"),
        ("[[case]]\nname = \"a\"\nrun = \"true\"\nmodes = [\"lunch\"]\n", "some.toml:4: unknown variant `lunch`"),
        ("[[case]]\nname = \"a\"\n", "some.toml:1: missing field `run`"),
        ("# nothing\n", "some.toml: no [[case]] in it"),
        ("[[case]\n", "some.toml:1: "),
        (&format!("{one}{one}"), "a second case is named a"),
    ];
    for (text, told) in wrong {
        expect_usage_error(Manifest::new(text).check(), told);
    }
    let manifest = Manifest::new(one);
    expect_usage_error(check(&manifest.path, &["a", "b"]), "no case is named b; there are: a");
    expect_usage_error(check(&manifest.path.with_file_name("other.toml"), &[]), "other.toml: No such file");
}

#[track_caller]
fn expect_usage_error(ended: Ended, told: &str) {
    let ended = ended.expect_code(2);
    let errors = ended.errors();
    assert!(errors.starts_with("vmtrace: ") && errors.contains(told), "no {told:?} in {errors}");
    assert_eq!((errors.lines().count(), ended.output().as_str()), (1, ""), "{errors}");
}
