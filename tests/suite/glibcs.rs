//! The thread library's lists with other glibcs than this machine's: what is found is the same with all of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::process::{Process, command, run};
use crate::common::testprogs::{FOLDER, testprog};
use crate::common::vmtrace::{Report, attach, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use toml::Table;

/// Debian 11, with glibc 2.31: the lists are libpthread's.
const BULLSEYE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/glibc/bullseye");

/// Debian unstable, with glibc 2.42 or later: guards are made by madvise.
const SID: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/glibc/sid");

/// The cases of cases.toml that rest on the lists.
const CASES: [&str; 8] = [
    "unjoined",
    "unjoined_once",
    "joined",
    "joined_late",
    "detached",
    "mixed_one_size",
    "setstack_leaked",
    "setstack_freed",
];

/// Debian 11's glibc, its programs in a root of their own.
#[test]
fn bullseye_in_a_root() {
    expect_the_same(BULLSEYE, |program, name| in_root(BULLSEYE, program, name));
}

/// The same, its loader being the program that is executed.
#[test]
fn bullseye_by_its_loader() {
    expect_the_same(BULLSEYE, |program, _| by_loader(BULLSEYE, program));
}

/// Debian unstable's glibc, its programs in a root of their own.
#[test]
fn sid_in_a_root() {
    expect_the_same(SID, |program, name| in_root(SID, program, name));
}

/// The same, its loader being the program that is executed.
#[test]
fn sid_by_its_loader() {
    expect_the_same(SID, |program, _| by_loader(SID, program));
}

/// In the middle of a program's life, Debian 11's lists tell what was left behind before, and what since.
#[test]
fn bullseye_in_the_middle_of_its_life() {
    expect_leak_in_the_middle(BULLSEYE);
}

/// In the middle of a program's life, Debian unstable's lists tell what was left behind before, and what since.
#[test]
fn sid_in_the_middle_of_its_life() {
    expect_leak_in_the_middle(SID);
}

/// Guards made by madvise do not show in the kernel's maps: that the stacks lie in one line keeps none from being found.
#[test]
fn sid_with_stacks_in_one_line() {
    need_root(SID);
    let words = in_root(SID, testprog("alive_at_attach.oldest"), "alive_at_attach");
    let mut target = Process::start(command(&words[0], &words[1..]).arg("4096"));
    target.await_output("ready");
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    attached.report_now().expect_clean("all threads live");
    target.close_input();
    let report = attached.end();
    let [finding] = report.findings() else {
        panic!("one finding, but {:#}", report.at("/findings"));
    };
    let facts = ["reason", "confidence", "regions", "region_bytes", "guard_bytes"].map(|key| finding[key].clone());
    assert_eq!(facts, ["unjoined".into(), "definite".into(), 3.into(), 1_052_672.into(), Value::from(4096)]);
    target.end().expect_code(0);
}

/// Runs the cases as cases.toml has them, but for the command, which `words` makes of a program and its name.
#[track_caller]
fn expect_the_same(root: &str, words: impl Fn(&str, &str) -> Vec<String>) {
    need_root(root);
    let text = fs::read_to_string(format!("{FOLDER}/cases.toml")).expect("a text");
    let mut manifest: Table = text.parse().expect("TOML");
    let cases = manifest["case"].as_array_mut().expect("cases are an array");
    cases.retain(|case| CASES.contains(&case["name"].as_str().expect("a name")));
    assert_eq!(cases.len(), CASES.len());
    for case in cases.iter_mut().map(|case| case.as_table_mut().expect("a case is a table")) {
        case.remove("build");
        let run = case["run"].as_str().expect("a command").to_owned();
        let mut run = run.split(' ');
        let name = run.next().and_then(|path| path.strip_prefix("build/")).expect("a test program");
        let command = words(testprog(&format!("{name}.oldest")), name).into_iter();
        let command = command.chain(run.map(str::to_owned)).map(toml::Value::from);
        case.insert("run".to_owned(), toml::Value::Array(command.collect()));
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(file.path(), manifest.to_string()).expect("a file can be written");
    let ended = run(vmtrace(["check", "-j", "2"]).arg(file.path()));
    assert_eq!(ended.code(), 0, "{}\n{}", ended.output(), ended.errors());
    assert!(ended.output().ends_with(&format!("\n\n{} passed, 0 failed\n", 2 * CASES.len())), "{}", ended.output());
}

#[track_caller]
fn expect_leak_in_the_middle(root: &str) {
    need_root(root);
    let words = in_root(root, testprog("attach_loop.oldest"), "attach_loop");
    let target = Process::start(command(&words[0], &words[1..]).args(["0", "3", "30"]));
    target.await_output("ready");
    let size = proc::virtual_kib(target.pid());
    wait_for("some are left behind before the attach", || proc::virtual_kib(target.pid()) >= size + 3 * 1024);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    wait_for("three have been left behind since", || members(&attached.report_now(), |seen| seen) >= 3);
    let report = attached.stop(Signal::SIGINT);
    report.expect_verified(root, "");
    for finding in report.findings() {
        let facts = ["reason", "confidence"].map(|key| finding[key].as_str().expect("a word"));
        assert_eq!(facts, ["unjoined", "definite"], "{finding:#}");
        assert_eq!((&finding["region_bytes"], &finding["guard_bytes"]), (&1_052_672.into(), &4096.into()));
    }
    assert!(members(&report, |seen| seen) >= 3 && members(&report, |seen| !seen) >= 2, "{:#}", report.at("/findings"));
    target.end().expect_code(0);
}

/// How many regions there are that were seen being mapped, or were not.
fn members(report: &Report, wanted: impl Fn(bool) -> bool) -> usize {
    let members = report.findings().iter().flat_map(|finding| finding["members"].as_array().expect("an array"));
    members.filter(|member| wanted(!member["mapped_at"].is_null())).count()
}

/// The roots are unpacked when the test programs are built; without the package mirror that fails.
#[track_caller]
fn need_root(root: &str) {
    testprog("unjoined.oldest");
    assert!(Path::new(root).join("lib64/ld-linux-x86-64.so.2").exists(), "./scripts/other-glibcs unpacks {root}");
}

/// The command for a program in a root of its own, where it is the only one.
#[track_caller]
fn in_root(root: &str, program: &str, name: &str) -> Vec<String> {
    let inside = PathBuf::from(format!("{root}/testprogs/{name}"));
    place(Path::new(program), &inside);
    let inside = format!("/testprogs/{name}");
    let words: &[&str] = if nix::unistd::geteuid().is_root() {
        need("chroot");
        &["chroot", root, &inside]
    } else {
        need("unshare");
        &["unshare", "--map-root-user", "--root", root, &inside]
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The command for a program that this root's loader loads, in our own root.
fn by_loader(root: &str, program: &str) -> Vec<String> {
    let (loader, libraries) = (format!("{root}/lib64/ld-linux-x86-64.so.2"), format!("{root}/lib/x86_64-linux-gnu"));
    [&loader, "--library-path", &libraries, program].map(str::to_owned).to_vec()
}

/// Makes the program appear at `inside`; whoever runs what was there before is not disturbed.
#[track_caller]
fn place(program: &Path, inside: &Path) {
    let newer = |file: &Path| file.metadata().map(|file| (file.mtime(), file.mtime_nsec())).ok();
    if newer(inside) >= newer(program) {
        return;
    }
    let folder = inside.parent().expect("a folder");
    fs::create_dir_all(folder).expect("the root can be written to");
    let new = tempfile::NamedTempFile::new_in(folder).expect("the root can be written to");
    fs::copy(program, new.path()).expect("a program can be copied");
    new.into_temp_path().persist(inside).expect("a file can be renamed");
}
