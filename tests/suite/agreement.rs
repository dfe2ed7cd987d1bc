//! strace agrees: of each followed system call vmtrace sees as many as strace does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::need;
use crate::common::process::{command, run};
use crate::common::testprogs::testprog;
use crate::common::vmtrace::vmtrace;

/// The followed calls of both tables; strace takes a name with a question mark where one table lacks it.
const FOLLOWED: &[&str] = &[
    "mmap",
    "mmap2",
    "munmap",
    "mprotect",
    "pkey_mprotect",
    "mremap",
    "madvise",
    "brk",
    "shmat",
    "shmdt",
    "remap_file_pages",
    "io_setup",
    "io_destroy",
    "personality",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "exit",
    "exit_group",
];

/// How often each call was made.
type Counts = BTreeMap<String, usize>;

/// Counts the calls in a log: lines of `call(…`, behind a prefix that ends with the thread's number and blanks.
fn counts(log: &Path, prefix_words: usize) -> Counts {
    let mut counts = Counts::new();
    for line in fs::read_to_string(log).expect("the log is a text").lines() {
        let Some(call) = line.split_whitespace().nth(prefix_words) else {
            continue;
        };
        // What else there is: +++ ends +++, --- signals ---, and <... second halves of calls.
        let Some((name, _)) = call.split_once('(').filter(|(name, _)| FOLLOWED.contains(name)) else {
            continue;
        };
        let name = if name == "mmap2" { "mmap" } else { name };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

/// The same for both: the program, its folder, and its environment. Its addresses do not vary either.
fn complete(tracer: &mut Command, program: &[&str], folder: &Path) {
    need("setarch");
    tracer.args(["setarch", "-R"]).args(program);
    tracer.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
}

/// Fails the test unless both count the same.
#[track_caller]
fn agree(program: &[&str]) -> Counts {
    need("strace");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (events, log) = (folder.path().join("events"), folder.path().join("log"));

    let mut ours = vmtrace(["-o", "/dev/null", "--events"]);
    complete(ours.arg(&events).arg("--"), program, folder.path());
    run(&mut ours).expect_code(0);

    let names: Vec<String> = FOLLOWED.iter().map(|name| format!("?{name}")).collect();
    let mut theirs = command("strace", ["-f", "-qq", "-e", &format!("trace={}", names.join(",")), "-o"]);
    complete(theirs.arg(&log), program, folder.path());
    run(&mut theirs).expect_code(0);

    let (ours, theirs) = (counts(&events, 2), counts(&log, 1));
    assert_eq!(ours, theirs, "{program:?}: calls that vmtrace saw, and those that strace saw");
    ours
}

/// Calls of each kind, all of them of one thread at a time.
#[test]
fn each_kind_of_call() {
    let mut seen = Counts::new();
    for program in ["mremap", "holes", "map_fixed", "shm", "remap_file_pages", "aio", "dont_fork", "file_mappings"] {
        seen.append(&mut agree(&[testprog(program)]));
    }
    seen.append(&mut agree(&[testprog("vfork"), "exec"]));
    seen.append(&mut agree(&[testprog("posix_spawn")]));
    seen.append(&mut agree(&[testprog("raw_clone")]));
    let never_made = ["mmap2", "pkey_mprotect", "fork", "execveat"];
    for name in FOLLOWED.iter().filter(|name| !never_made.contains(name)) {
        assert!(seen.contains_key(*name), "no program made a call of {name}");
    }
}

/// Calls that are multiplexed, or have other numbers and arguments, in the table of i386.
#[test]
fn i386() {
    for program in ["shm.i386", "unjoined.i386", "raw_clone.i386"] {
        agree(&[testprog(program)]);
    }
    agree(&[testprog("random_calls.i386"), "11", "3000", "1", "fork"]);
}

/// Thousands of calls of every kind, failed ones too, and thousands of four threads at the same time.
#[test]
fn many_calls() {
    for program in [&[testprog("random_calls"), "12", "6000", "1", "fork"][..], &[testprog("storm")]] {
        let counts = agree(program);
        assert!(counts.values().sum::<usize>() > 5_000, "{counts:?}");
    }
}

/// Threads of the thread library: joined, and not.
#[test]
fn threads() {
    for program in ["unjoined", "joined", "unjoined.musl", "mixed"] {
        let counts = agree(&[testprog(program)]);
        assert!(counts.keys().any(|name| name.starts_with("clone")), "{counts:?}");
    }
}

/// An interpreter whose threads run one after the other: the next is made when the kernel has the last no more, so that
/// the thread library finds what it may reuse.
#[test]
fn python() {
    const SCRIPT: &str = "
import os, threading, time
for n in range(20):
    thread = threading.Thread(target=lambda: bytearray(1 << 20))
    thread.start()
    thread.join()
    while len(os.listdir('/proc/self/task')) > 1:
        time.sleep(0.001)
";
    let counts = agree(&[&crate::common::python(), "-I", "-c", SCRIPT]);
    assert_eq!(counts["exit"], 20);
}

/// A compiler: many processes, made by vfork, fork and execve.
#[test]
fn compiler() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let source = folder.path().join("small.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"x\") < 0; }\n")
        .expect("a file can be written");
    let counts = agree(&["gcc", "-O1", "-o", "small", source.to_str().expect("a text")]);
    assert!(counts["execve"] >= 4, "{counts:?}");
}
