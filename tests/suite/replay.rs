//! `vmtrace replay` on logs of strace: the documented case, every option of the strace that is installed, and sets of files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::common::need;
use crate::common::process::run;
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{Report, reports, vmtrace};
use serde_json::{Value, json};

const DOCUMENTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/app_server.strace");
const GREPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/app_server.grep.strace");

#[track_caller]
fn replay(file: impl AsRef<Path>) -> Report {
    replay_of(vmtrace(["replay", "--format=json", "--min-confidence=possible"]).arg(file.as_ref()))
}

#[track_caller]
fn replay_of(command: &mut Command) -> Report {
    let ended = run(command).expect_code(0);
    assert_eq!(ended.errors(), "", "vmtrace has something to complain about");
    let report = reports(&ended.output()).pop().expect("a report");
    assert_eq!(crate::common::schema::violations(&report.0), [""; 0], "the report breaks the contract");
    report
}

/// Runs a program under strace, with these options, into `log`.
#[track_caller]
fn strace(options: &str, log: &Path, program: &[&str]) {
    need("strace");
    let mut command = Command::new("strace");
    command.args(options.split_whitespace()).arg("-o").arg(log).arg("--").args(program);
    run(&mut command).expect_code(0);
}

/// What a finding says of itself, without times and numbers of tasks.
fn shape(finding: &Value) -> Value {
    let keys = ["rule", "reason", "confidence", "recurrence", "regions", "created", "virtual_bytes", "guard_bytes"];
    keys.iter().map(|key| ((*key).to_owned(), finding[*key].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn notes(report: &Report) -> Vec<&str> {
    report.at("/notes").as_array().unwrap().iter().filter_map(|note| note["text"].as_str()).collect()
}

/// The production case: 15 stacks, one a minute, of threads that nobody joined.
#[test]
fn the_documented_case() {
    let report = replay(DOCUMENTED);
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    for (key, expected) in [
        ("rule", json!("orphaned-stack")),
        ("reason", json!("unjoined")),
        ("confidence", json!("definite")),
        ("recurrence", json!("recurrent")),
        ("regions", json!(15)),
        ("virtual_bytes", json!(157_347_840)),
        ("guard_bytes", json!(4096)),
        ("period_seconds", json!(60.0)),
        ("resident_bytes", json!(null)),
    ] {
        assert_eq!(finding[key], expected, "{key}");
    }
    let target = report.at("/target");
    assert_eq!(
        *target,
        json!({"pid": 31108, "command": [], "mode": "replay", "engine": "strace-log", "follow": "memory", "exit": null})
    );
    assert_eq!(report.at("/span/seconds"), 900.0);
    assert!(notes(&report).is_empty(), "{:?}", notes(&report));
}

/// What grep has left of it proves nothing, and says what it lacks and what it still shows.
#[test]
fn the_documented_case_after_grep() {
    let report = replay(GREPPED);
    report.expect_clean("after grep");
    let notes = notes(&report);
    assert!(notes[0].starts_with("the log shows no results of calls, no creation of tasks"), "{notes:?}");
    assert!(notes[1].contains("15 requests for 10,489,856 bytes of memory (mmap), one every 60.0 s"), "{notes:?}");
    let text = run(vmtrace(["replay"]).arg(GREPPED)).expect_code(0).output();
    assert!(text.contains("Nothing can be proven from this log: see the warnings."), "{text}");
    assert!(!text.contains("No leak found") && !text.contains("every mapping call"), "{text}");
}

/// Compressed, through a pipe, and told from what it is not by its first bytes.
#[test]
fn packed_and_piped() {
    let expected = shape(&replay(DOCUMENTED).findings()[0]);
    let folder = tempfile::tempdir().unwrap();
    let log = fs::read(DOCUMENTED).unwrap();
    let packed = folder.path().join("log.gz");
    let mut gzip = flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    // Two members, as `cat a.gz b.gz` makes them.
    gzip.write_all(&log[..5000]).unwrap();
    let mut file = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
    gzip.write_all(&log[5000..]).unwrap();
    gzip.finish().unwrap();
    assert_eq!(shape(&replay(&packed).findings()[0]), expected);

    let zst = folder.path().join("log");
    let frames = [&log[..5000], &log[5000..]]
        .map(|part| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest));
    fs::write(&zst, frames.concat()).unwrap();
    assert_eq!(shape(&replay(&zst).findings()[0]), expected);

    let piped = format!("cat {} | {} replay --format=json -", packed.display(), crate::common::vmtrace::VMTRACE);
    assert_eq!(shape(&replay_of(Command::new("sh").args(["-c", &piped])).findings()[0]), expected);
}

/// What is no log is refused in one line, which says where it is none.
#[test]
fn no_logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let refuse = |contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        let ended = run(vmtrace(["replay"]).arg(&path));
        assert_eq!(ended.code(), 125);
        assert_eq!(ended.output(), "");
        let errors = ended.errors();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors.replace(&path.display().to_string(), "FILE")
    };
    let help = "strace -f -tt -o FILE PROGRAM";
    assert_eq!(
        refuse(b"\nHello, world\nint main(void) { return 0; }\n"),
        format!(
            "vmtrace: FILE:2:1: this is no log of strace: expected a call: its name and (, found \"Hello, world\"; {help} writes one\n"
        )
    );
    assert_eq!(
        refuse(b"main(argc, argv);\n"),
        format!(
            "vmtrace: FILE:1:1: this is no log of strace: expected a system call and what it returned, found \"main(argc, argv);\"; {help} writes one\n"
        )
    );
    assert!(
        refuse(b"1234 99:61:00 brk(NULL) = 0\n")
            .starts_with("vmtrace: FILE:1:6: this is no log of strace: expected a time")
    );
    assert_eq!(refuse(b""), format!("vmtrace: FILE is empty: there is nothing to replay; {help} writes a log\n"));
    assert!(refuse(&[0x1f, 0x8b, 8, 0, 1, 2, 3]).starts_with("vmtrace: cannot read FILE: "));
    assert!(refuse(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]).starts_with("vmtrace: cannot read FILE: "));
    let missing = run(&mut vmtrace(["replay", "/no/such/file"])).expect_code(125).errors();
    assert!(missing.starts_with("vmtrace: cannot read /no/such/file: "), "{missing}");
    let empty_folder = run(vmtrace(["replay"]).arg(tempfile::tempdir().unwrap().path())).expect_code(125).errors();
    assert!(
        empty_folder.contains("a folder without files NAME.PID, as strace -ff -o NAME writes them"),
        "{empty_folder}"
    );
}

/// Whatever strace is asked to write, the log shows the same leak.
#[test]
fn every_option() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let program = testprog("raw_clone");
    let with_times = [
        "-f -tt",
        "-f -ttt",
        "-f -r",
        "-f -tt -T",
        "-f -tt -i -n",
        "-f -tt -yy -Y",
        "-f -tt -v -s 1000 -xx",
        "-f -tt -X raw",
        "-f -tt -X verbose",
        "-f -ttt -e raw=mmap,munmap,mprotect,madvise",
        "-f -tt -a 1",
        "-f -tt -C",
        "-f --absolute-timestamps=format:unix,precision:ns",
        "-f --relative-timestamps=us",
        "-f --seccomp-bpf -tt -e trace=memory,process",
        "-f -tt -e trace=mmap,munmap,clone,exit,exit_group -qq",
    ];
    let expected = json!({
        "rule": "orphaned-stack", "reason": "unmanaged", "confidence": "definite", "recurrence": "recurrent", "regions": 5,
        "created": 5, "virtual_bytes": 204_800, "guard_bytes": 0,
    });
    for options in with_times {
        strace(options, &log, &[program]);
        let report = replay(&log);
        let shapes: Vec<Value> = report.findings().iter().map(shape).collect();
        assert_eq!(shapes, std::slice::from_ref(&expected), "{options}: {:?}", notes(&report));
        // Where execve is filtered out nobody knows it.
        let command = report.at("/target/command")[0].as_str().unwrap_or_default();
        assert!(program.starts_with(command.trim_end_matches('…')), "{options}: {command}");
        assert_eq!(report.at("/target/exit"), &json!({"code": 0}), "{options}");
    }
}

/// Without times nothing is claimed that rests on them, and no time is given.
#[test]
fn without_times() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    strace("-f", &log, &[testprog("raw_clone")]);
    let report = replay(&log);
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    assert_eq!((&finding["reason"], &finding["confidence"]), (&json!("unmanaged"), &json!("probable")));
    for key in ["period_seconds", "growth_bytes_per_second", "idle_seconds"] {
        assert_eq!(finding[key], Value::Null, "{key}");
    }
    assert_eq!(
        (&finding["members"][0]["mapped_at"], &finding["members"][0]["evidence"][0]["at"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(report.at("/span"), &json!({"start": null, "seconds": null}));
    assert!(notes(&report).iter().any(|note| note.starts_with("the log has no times")), "{:?}", notes(&report));
    let text = run(vmtrace(["replay"]).arg(&log)).expect_code(0).output();
    assert!(text.contains("replayed an strace log until it exited with 0"), "{text}");
    assert!(!text.contains("  idle ") && !text.contains("  lived ") && !text.contains(".000 "), "{text}");
}

/// strace writes to a terminal: numbers come and go, and its own messages cut lines in two.
#[test]
fn as_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let redirected = format!("strace -f -tt {} 2>{} >/dev/null", testprog("raw_clone"), log.display());
    need("strace");
    run(Command::new("sh").args(["-c", &redirected])).expect_code(0);
    let report = replay(&log);
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    assert_eq!((&finding["regions"], &finding["confidence"]), (&json!(5), &json!("definite")));
    assert!(notes(&report).is_empty(), "{:?}", notes(&report));
}

/// A file of each task: by the name that all begin with, by one of them, or by their folder.
#[test]
fn a_file_of_each_task() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("log");
    strace("-ff -tt", &prefix, &[testprog("raw_clone")]);
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 6, "{files:?}");
    for name in [&prefix, &files[0], &files[5], folder.path()].map(Path::new) {
        let report = replay(name);
        let [finding] = report.findings() else { panic!("{}: {:#}", name.display(), report.0) };
        assert_eq!(
            (&finding["regions"], &finding["confidence"]),
            (&json!(5), &json!("definite")),
            "{}",
            name.display()
        );
        assert_eq!(report.number("/counts/threads_seen"), 6);
        assert!(notes(&report).is_empty(), "{:?}", notes(&report));
    }

    fs::write(folder.path().join("other.17"), "brk(NULL) = 0x1000\n").unwrap();
    let several = run(vmtrace(["replay"]).arg(folder.path())).expect_code(125).errors();
    assert!(several.contains("a folder with the files of several logs: name one"), "{several}");
}

/// Of two tasks' files the times tell when calls began, and with -T when they ended: what one task maps where another one
/// unmaps came after that, although it was called before.
#[test]
fn files_of_calls_that_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let mapped = |at: &str, took: &str| {
        format!("10:00:00.{at} mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000 <{took}>\n")
    };
    let unmapped = "10:00:00.000030 munmap(0x10000, 8192) = 0 <0.000005>\n";
    fs::write(folder.path().join("log.7"), mapped("000010", "0.000002") + unmapped).unwrap();
    fs::write(folder.path().join("log.8"), mapped("000020", "0.000030")).unwrap();
    let report = replay(folder.path());
    assert_eq!((report.number("/counts/mappings_live"), report.number("/counts/threads_live")), (1, 2));
    assert!(!notes(&report).iter().any(|note| note.contains("something else still was")), "{:?}", notes(&report));
}

/// A log that ends while its process lives is judged as of its last line; without times that says less.
#[test]
fn a_log_that_breaks_off() {
    let stack = |number: u64| {
        let at = number * 0x10000;
        format!(
            "7  mmap(NULL, 40960, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {at:#x}\n\
             7  clone(child_stack={:#x}, flags=CLONE_VM|SIGCHLD) = {tid}\n{tid}  exit(0) = ?\n{tid}  +++ exited with 0 +++\n",
            at + 40960,
            tid = 100 + number,
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let calls = (1..4).map(stack).collect::<String>() + "7  munmap(0x900000, 4096) = 0\n";
    fs::write(&log, &calls).unwrap();
    let report = replay(&log);
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    assert_eq!((&finding["regions"], &finding["confidence"]), (&json!(3), &json!("possible")));
    let timed: String = (10..)
        .zip(calls.lines())
        .map(|(second, line)| line.replacen("  ", &format!(" 23:00:{second} "), 1) + "\n")
        .collect();
    fs::write(&log, timed).unwrap();
    let report = replay(&log);
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    assert_eq!((&finding["regions"], &finding["confidence"]), (&json!(3), &json!("definite")));
}

/// Without times nobody knows how the files of several tasks belong together.
#[test]
fn files_without_times() {
    let folder = tempfile::tempdir().unwrap();
    strace("-ff", &folder.path().join("log"), &[testprog("raw_clone")]);
    let report = replay(folder.path());
    let [finding] = report.findings() else { panic!("{:#}", report.0) };
    assert_eq!((&finding["regions"], &finding["confidence"]), (&json!(5), &json!("possible")));
    assert!(
        notes(&report).iter().any(|note| note.starts_with("the tasks' files have no times")),
        "{:?}",
        notes(&report)
    );
}

/// The calls in order, in one notation, whatever the log's.
#[test]
fn events_in_order() {
    let ended = run(vmtrace(["replay", "--events=-", "-o/dev/null"]).arg(DOCUMENTED)).expect_code(0);
    let lines = ended.output();
    let first: Vec<&str> = lines.lines().take(4).map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        first,
        [
            "31108  --- attached to process 31108: 18 tasks, 0 mappings ---",
            "31152  mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa94c5c1000",
            "31152  mprotect(0x7fa94c5c1000, 4096, PROT_NONE) = 0",
            "31152  +++ new thread 20603 of process 31108 +++",
        ]
    );
    assert_eq!(lines.lines().filter(|line| line.contains(" clone(")).count(), 15);
}
