//! The program does not notice: what it sees, what it gets and how it ends is as without vmtrace.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::common::process::{Ended, Process, command, run, send};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{VMTRACE, launch, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;

/// Ways to start a program: as it is, and under vmtrace, with its report out of the way.
pub(super) const WAYS: [&[&str]; 2] = [&[], &[VMTRACE, "-o", "/dev/null", "--"]];

/// Runs a program natively and under vmtrace, behind the same words, and gives both ends.
#[track_caller]
fn both_ways(before: &[&str], program: &[&str]) -> [Ended; 2] {
    WAYS.map(|way| {
        let words = [before, way, program].concat();
        run(command(words[0], &words[1..]).env_clear().envs([("PATH", "/usr/bin:/bin"), ("SOME", "thing")]))
    })
}

/// Fails the test unless a program writes and ends natively and under vmtrace in the same way; gives what it writes.
#[track_caller]
pub(super) fn expect_same(before: &[&str], program: &[&str]) -> String {
    let [native, followed] = both_ways(before, program);
    let (ours, theirs) = (followed.output(), native.output());
    let different: Vec<_> = theirs.lines().zip(ours.lines()).filter(|(native, followed)| native != followed).collect();
    assert!(different.is_empty(), "{before:?} {program:?}: natively, and under vmtrace: {different:?}");
    assert_eq!(theirs, ours, "{before:?} {program:?}: natively, and under vmtrace");
    assert_eq!(native.errors(), followed.errors(), "{before:?} {program:?}: natively, and under vmtrace");
    assert_eq!(native.code(), followed.code(), "{before:?} {program:?}: natively, and under vmtrace");
    theirs
}

/// Runs its arguments in a child, so that they lead no group: natively, too, the program is the child of one that waits.
/// The shell's `_`, the path of what it executes, is no part of what is compared.
const CHILD: [&str; 4] = ["bash", "-c", "env -u _ \"$@\"; exit $?", "bash"];

/// Arguments, environment, signals, open files, limits, folder, group and session are those that a shell would give.
#[test]
fn what_a_program_sees_of_its_start() {
    let facts = testprog("facts");
    let seen = expect_same(&CHILD, &[facts, "", "two words", "line\nbreak", "--help", "-p", "1", "--"]);
    assert!(seen.contains("argument 7: --\n") && seen.contains("status SigBlk:"), "{seen}");
}

/// Bytes that are no text arrive in arguments and environment as they are.
#[test]
fn bytes_that_are_no_text() {
    let bytes = OsString::from_vec(b"\xff\xfe\x01".to_vec());
    let seen = WAYS.map(|way| {
        let words = [&CHILD[..], way, &[testprog("facts")]].concat();
        let mut command = command(words[0], &words[1..]);
        run(command.arg(&bytes).env("BYTES", &bytes)).expect_code(0).output
    });
    let has = |text: &[u8]| seen[0].windows(text.len()).any(|window| window == text);
    assert!(has(b"argument 1: \xff\xfe\x01\n") && has(b"BYTES=\xff\xfe\x01\n"), "the program tells them");
    assert!(seen[0] == seen[1], "natively, and under vmtrace");
}

/// Signals that are ignored or blocked for the program stay so: for vmtrace as for any program of a shell.
#[test]
fn signal_dispositions_and_mask() {
    let facts = testprog("facts");
    for signals in
        ["--ignore-signal=HUP,INT,QUIT,USR1,USR2,TERM,URG,TTOU", "--ignore-signal=PIPE", "--ignore-signal=CHLD"]
    {
        let seen = expect_same(&[&CHILD[..], &["env", signals]].concat(), &[facts]);
        assert!(seen.contains(": ignored"), "{signals}: {seen}");
    }
    for signals in ["--block-signal=USR1,TERM,INT,TSTP,URG,RTMIN", "--block-signal=CHLD,ALRM,PIPE", "--block-signal"] {
        let seen = expect_same(&[&CHILD[..], &["env", signals]].concat(), &[facts]);
        assert!(!seen.contains("SigBlk:\t0000000000000000"), "{signals}: {seen}");
    }
}

/// An ignored SIGCHLD, which lets children vanish without a word, does not hide the program's exit status.
#[test]
fn exit_status_with_sigchld_ignored() {
    let others = ["--engine=perf", "--for=1ms"].map(|option| [VMTRACE, option, "-o", "/dev/null", "--"]);
    for way in WAYS.into_iter().chain(others.iter().map(|way| &way[..])) {
        let words = [&["env", "--ignore-signal=CHLD"], way, &["bash", "-c", "sleep 0.2; exit 3"]].concat();
        run(&mut command(words[0], &words[1..])).expect_code(3);
    }
}

/// Files that the caller has left open are open, and none besides.
#[test]
fn open_files() {
    let script = "exec 7</dev/null 9>>/dev/null 0<&-; \"$@\"; exit $?";
    let seen = expect_same(&[&["bash", "-c", script, "bash"], &CHILD[..]].concat(), &[testprog("facts")]);
    assert!(seen.contains("file 7: ") && seen.contains("file 9: ") && !seen.contains("file 0: "), "{seen}");
}

/// The scheduling class, limits and the personality are handed on.
#[test]
fn limits_and_scheduling() {
    let facts = testprog("facts");
    let script = "ulimit -n 99; ulimit -s 1024; ulimit -c 0; umask 027; cd /; exec nice -n 5 setarch -R \"$@\"";
    need("setarch");
    let seen = expect_same(&[&["bash", "-c", script, "bash"], &CHILD[..]].concat(), &[facts]);
    let all = ["limit 7: 99 99", "Umask:\t0027", "folder /\n", "nice 5", "personality 0x40000"];
    assert!(all.iter().all(|text| seen.contains(text)), "{seen}");
}

/// Megabytes go in and out through pipes as they are, and the end of the input arrives.
#[test]
fn large_pipes() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut cat = Process::start(&mut vmtrace(["-o", "/dev/null", "--", "bash", "-c", "cat; echo end >&2; exit 6"]));
    cat.write(&bytes);
    let ended = cat.end().expect_code(6);
    assert!(ended.output == bytes, "{} bytes of {}", ended.output.len(), bytes.len());
    assert_eq!(ended.errors(), "end\n");
}

/// A reader that goes away early kills the writer by SIGPIPE, as in any pipeline.
#[test]
fn broken_pipes() {
    let script = "\"$@\" yes | head -n 1; echo ${PIPESTATUS[0]}";
    for way in WAYS {
        let words = [&["bash", "-c", script, "bash"], way].concat();
        assert_eq!(run(&mut command(words[0], &words[1..])).output(), "y\n141\n");
    }
}

/// Programs that test signals, stops and ends from within pass, and at every change the model holds.
#[test]
fn programs_that_look_closely() {
    for (program, status) in [("signals", 0), ("stop_continue", 0), ("count_signals", 0), ("killed", 137)] {
        let launched = launch(&["--verify=1"], &[testprog(program)]);
        let ended = launched.ended.expect_code(status);
        assert!(!ended.errors().contains(".c:"), "{program}: {}", ended.errors());
        launched.report.expect_clean(program);
    }
}

/// The status of a program that ends at the moment at which it is left, or with that of another thread than its first.
#[test]
fn status_of_a_program_that_outlives_its_first_thread() {
    for options in
        [&["--engine=ptrace"][..], &["--engine=perf"], &["--for=300ms"], &["--for=300ms", "--follow=threads"]]
    {
        let mut followed = vmtrace(options);
        followed.args(["-o", "/dev/null", "--", testprog("from_within"), "outlive"]);
        run(&mut followed).expect_code(7);
    }
}

/// Whoever a pidfd says has ended can be waited for at once, though its status was vmtrace's to take as well.
#[test]
fn the_ended_can_be_waited_for() {
    let told = expect_same(&["env"], &[testprog("from_within"), "reap"]);
    assert_eq!(told, "200 of 200 were there when their pidfd said so\n");
}

/// What a program has mapped is let go with it as soon as nobody follows any more, though by perf events vmtrace itself ends later.
#[test]
fn nothing_is_kept_of_whom_nobody_follows() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let report = folder.path().join("report");
    let mut following = vmtrace(["--engine=perf", "--for=100ms", "-o"]);
    let following = Process::start(following.arg(&report).args(["--", testprog("from_within"), "segment"]));
    following.await_output("segment ");
    let segment = following.output().trim().trim_start_matches("segment ").to_owned();
    let is_there = || {
        let listed = std::fs::read_to_string("/proc/sysvipc/shm").expect("System V segments can be listed");
        listed.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment))
    };
    wait_for("the report is there", || report.exists());
    assert!(is_there());
    let target = proc::launched_by(following.pid());
    send(target, Signal::SIGTERM);
    // Its memory is given back after its program cannot be named any more.
    wait_for("the program has ended", || matches!(proc::state(target), None | Some('Z')));
    assert!(!is_there(), "segment {segment} lives on; vmtrace has ended: {}", following.has_ended());
    following.end().expect_code(128 + Signal::SIGTERM as i32);
}

/// Limits that are the program's do not end vmtrace: it tells what it could not write.
#[test]
fn limits_are_the_programs() {
    let events = format!("{}/limited_events", env!("CARGO_TARGET_TMPDIR"));
    let words = format!("ulimit -f 1; exec {VMTRACE} --events {events} -- {} 1 0", testprog("crowd"));
    let ended = run(&mut command("bash", ["-c", &words])).expect_code(0);
    assert!(ended.errors().contains("No leak found"), "{}", ended.errors());
}

/// A program that vmtrace follows dies with it, for it could not live without: its system calls would fail.
#[test]
fn a_launched_program_does_not_outlive_a_killed_vmtrace() {
    let followed = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("crowd"), "3", "2"]));
    followed.await_output("ready");
    let target = proc::launched_by(followed.pid());
    followed.send(Signal::SIGKILL);
    assert_eq!(followed.end().code(), 137);
    wait_for("the program is gone", || proc::state(target).is_none_or(|state| state == 'Z'));
}

/// With --for the program is left to itself after that time, lives on, and its own status counts.
#[test]
fn a_program_that_is_left_to_itself_lives_on() {
    let mut followed = vmtrace(["--format=json", "--for=200ms", "--", testprog("count_signals")]);
    let followed = Process::start(&mut followed);
    followed.await_output("ready");
    let target = proc::launched_by(followed.pid());
    wait_for("the report comes", || crate::common::vmtrace::reports(&followed.errors()).len() == 1);
    wait_for("the program is left alone", || proc::is_free(target));
    let report = crate::common::vmtrace::reports(&followed.errors()).remove(0);
    assert!(report.at("/target/exit").is_null() && report.at("/span/seconds").as_f64() >= Some(0.2));
    let seccomp = proc::status(target, "Seccomp").expect("it lives");
    assert_eq!(seccomp, "0", "no filter is left in it");
    followed.end().expect_code(0);
}

/// A crash is a crash: with the signal, and natively the same status.
#[test]
fn crashes() {
    for script in ["kill -ABRT $$", "kill -BUS $$", "ulimit -t 1; while :; do :; done"] {
        let [native, followed] = both_ways(&CHILD, &["bash", "-c", script]);
        assert!(native.code() > 128);
        assert_eq!(native.code(), followed.code(), "{script}");
    }
}

/// A program started without vmtrace is not changed by what it does beside one that is followed.
#[test]
fn strangers_are_left_alone() {
    let stranger = start("crowd", &["2", "1"]);
    let mut followed = vmtrace(["-o", "/dev/null", "--", testprog("crowd"), "2", "1"]);
    let followed = Process::start(&mut followed);
    followed.await_output("ready");
    assert!(proc::is_free(stranger.pid()));
    followed.end().expect_code(0);
    stranger.end().expect_code(0);
}
