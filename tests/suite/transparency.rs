//! The program does not notice: what it sees, what it gets and how it ends is as without vmtrace.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::process::{Ended, Process, command, run};
use crate::common::terminal::Terminal;
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{VMTRACE, launch, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;

/// Ways to start a program: as it is, and under vmtrace, with its report out of the way.
const WAYS: [&[&str]; 2] = [&[], &[VMTRACE, "-o", "/dev/null", "--"]];

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
fn expect_same(before: &[&str], program: &[&str]) -> String {
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
    for way in WAYS {
        let words = [&["env", "--ignore-signal=CHLD"], way, &["bash", "-c", "exit 3"]].concat();
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

/// What a program sends to its process group, where vmtrace is too, it gets once, whatever signal it is, and vmtrace lives on.
#[test]
fn signals_to_the_own_group_arrive_once() {
    for signal in ["1", "2", "3", "10", "12", "14", "15", "27", "29", "34", "64"] {
        let told = expect_same(&["setsid", "-w"], &[testprog("from_within"), "group", signal]);
        assert_eq!(told, format!("signal {signal}: 1 times\n"));
    }
}

/// What somebody else sends to vmtrace the program gets, and what is sent to the group, as shells end jobs, it gets once: also when
/// `--for` is over.
#[test]
fn signals_of_others_arrive_once() {
    let (during, after) = ("--every=1h", "--for=1ms");
    let handled = ["2", "12", "15", "40"];
    let by_ptrace = handled.into_iter().flat_map(|signal| [(during, "count", signal), (after, "count", signal)]);
    let taken = [(during, "take", "15"), (during, "take", "40")];
    let by_ptrace = by_ptrace.chain(taken).map(|case| ("--engine=ptrace", case));
    let by_perf = [(during, "count", "2"), (after, "take", "40")].map(|case| ("--engine=perf", case));
    let cases = by_ptrace.chain(by_perf).flat_map(|case| [(case, false), (case, true)]);
    for ((engine, (until, how, signal)), to_group) in cases {
        let case = format!("{engine} {until}, {how} signal {signal}, to the group: {to_group}");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let report = folder.path().join("report");
        let mut followed = vmtrace([engine, until, "-o"]);
        let followed = Process::start(followed.arg(&report).args(["--", testprog("from_within"), how, signal]));
        followed.await_output("ready");
        if until == after {
            wait_for("the report is there", || report.exists());
        } else if how == "take" {
            await_watch(followed.pid());
        }
        let to = if to_group { -followed.pid() } else { followed.pid() };
        run(&mut command("bash", ["-c", &format!("kill -{signal} -- {to}")])).expect_code(0);
        let told = followed.end().expect_code(0).output();
        assert!(told.ends_with(&format!("signal {signal}: 1 times\n")), "{case}: {told}");
    }
}

/// Waits until vmtrace sees what is sent: its thread for signals has opened events, and waits for signals again.
#[track_caller]
fn await_watch(vmtrace: i32) {
    let is_event = |link: PathBuf| link.to_string_lossy().contains("perf_event");
    wait_for("the sending of signals is watched", || {
        let mut open = std::fs::read_dir(format!("/proc/{vmtrace}/fd")).expect("it lives").flatten();
        open.any(|file| std::fs::read_link(file.path()).is_ok_and(is_event))
    });
    let of_task = |tid: i32, file: &str| std::fs::read_to_string(format!("/proc/{vmtrace}/task/{tid}/{file}"));
    let is_control = |tid: &i32| of_task(*tid, "comm").is_ok_and(|name| name.trim() == "control");
    let control = proc::threads(vmtrace).into_iter().find(is_control).expect("there is such a thread");
    // rt_sigtimedwait
    let waits = || of_task(control, "syscall").is_ok_and(|call| call.starts_with("128 "));
    wait_for("it waits for signals", waits);
}

/// What is sent to the program, and then to vmtrace alone by the same process, are two.
#[test]
fn signals_that_are_sent_one_by_one_are_not_one() {
    let mut followed = vmtrace(["-o", "/dev/null", "--", testprog("from_within"), "take", "40"]);
    let followed = Process::start(&mut followed);
    followed.await_output("ready");
    await_watch(followed.pid());
    let target = *proc::children(followed.pid()).last().expect("the program runs");
    let script = format!("kill -40 {target}; sleep 0.05; kill -40 {}", followed.pid());
    run(&mut command("bash", ["-c", &script])).expect_code(0);
    let told = followed.end().expect_code(0).output();
    assert!(told.ends_with("signal 40: 2 times\n"), "{told}");
}

/// A job that a process stops, and continues after longer than a moment, runs on.
#[test]
fn a_job_that_is_stopped_for_long() {
    for options in [&["--engine=ptrace"][..], &["--engine=perf"], &["--for=1ms"]] {
        for signal in ["TSTP", "STOP"] {
            let mut followed = vmtrace(options);
            followed.args(["-o", "/dev/null", "--", testprog("from_within"), "count", "10"]);
            let followed = Process::start(&mut followed);
            followed.await_output("ready");
            let target = *proc::children(followed.pid()).last().expect("the program runs");
            let send_to_group = |signal: &str| {
                run(&mut command("bash", ["-c", &format!("kill -{signal} -- -{}", followed.pid())])).expect_code(0);
            };
            send_to_group(signal);
            wait_for("all are stopped", || stands(target) && proc::state(followed.pid()) == Some('T'));
            // Longer than anything of a signal's sending is remembered.
            std::thread::sleep(Duration::from_millis(1200));
            send_to_group("CONT");
            wait_for("it goes on", || !stands(target));
            send(target, Signal::SIGUSR1);
            followed.end().expect_code(0);
        }
    }
}

/// A job that is stopped at the moment at which its program is left.
#[test]
fn a_job_that_is_stopped_when_it_is_left() {
    for _ in 0..20 {
        let mut followed = vmtrace(["--for=1ms", "-o", "/dev/null", "--", testprog("from_within"), "count", "10"]);
        let followed = Process::start(&mut followed);
        followed.await_output("ready");
        let target = *proc::children(followed.pid()).last().expect("the program runs");
        let group = -followed.pid();
        send(group, Signal::SIGTSTP);
        wait_for("both are stopped", || stands(target) && proc::state(followed.pid()) == Some('T'));
        send(group, Signal::SIGCONT);
        wait_for("it goes on", || !stands(target));
        send(target, Signal::SIGUSR1);
        followed.end().expect_code(0);
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

/// What comes with a signal that is passed on goes with it.
#[test]
fn queued_signals_that_are_passed_on() {
    let followed = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("from_within"), "count", "40"]));
    followed.await_output("ready");
    run(&mut command("/bin/kill", ["-q", "4242", "-s", "40", &followed.pid().to_string()])).expect_code(0);
    let told = followed.end().expect_code(0).output();
    assert!(told.ends_with("signal 40: 1 times, with 4242\n"), "{told}");
}

/// Whoever stops vmtrace as a terminal does stops the job.
#[test]
fn a_stop_that_is_sent_to_vmtrace_alone() {
    for engine in ["--engine=ptrace", "--engine=perf"] {
        let mut followed = vmtrace([engine, "-o", "/dev/null", "--", testprog("from_within"), "count", "10"]);
        let followed = Process::start(&mut followed);
        followed.await_output("ready");
        let target = *proc::children(followed.pid()).last().expect("the program runs");
        followed.send(Signal::SIGTSTP);
        wait_for("both are stopped", || stands(target) && proc::state(followed.pid()) == Some('T'));
        followed.send(Signal::SIGCONT);
        wait_for("it goes on", || !stands(target));
        send(target, Signal::SIGUSR1);
        followed.end().expect_code(0);
    }
}

/// Signals that nobody wants end no call that would go on without vmtrace.
#[test]
fn ignored_signals_end_no_call() {
    assert_eq!(expect_same(&["env"], &[testprog("from_within"), "ignored"]), "epoll_wait: well\nsemtimedop: well\n");
}

/// Whoever a pidfd says has ended can be waited for at once, though its status was vmtrace's to take as well.
#[test]
fn the_ended_can_be_waited_for() {
    let told = expect_same(&["env"], &[testprog("from_within"), "reap"]);
    assert_eq!(told, "200 of 200 were there when their pidfd said so\n");
}

/// The first process of a PID namespace is not stopped from inside.
#[test]
fn the_first_of_a_namespace_is_not_stopped() {
    assert_eq!(expect_same(&["env"], &[testprog("from_within"), "init"]), "the first process has ended well\n");
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
    let target = *proc::children(following.pid()).first().expect("the program runs");
    send(target, Signal::SIGTERM);
    // Its memory is given back after its program cannot be named any more.
    wait_for("the program has ended", || matches!(proc::state(target), None | Some('Z')));
    assert!(!is_there(), "segment {segment} lives on; vmtrace has ended: {}", following.has_ended());
    following.end().expect_code(128 + Signal::SIGTERM as i32);
}

/// When the program has ended, whose number may be another's by now, signals are for those that it has left behind.
#[test]
fn signals_for_those_left_behind() {
    let followed = Process::start(&mut vmtrace(["--format=json", "--", testprog("from_within"), "leave"]));
    followed.await_output("left");
    wait_for("the program has ended", || {
        let children = proc::children(followed.pid());
        children.iter().all(|child| proc::program(*child).is_none())
    });
    followed.send(Signal::SIGTERM);
    let ended = followed.end().expect_code(3);
    assert!(ended.output().ends_with("child: SIGTERM\n"), "{}", ended.output());
}

/// Limits that are the program's do not end vmtrace: it tells what it could not write.
#[test]
fn limits_are_the_programs() {
    let events = format!("{}/limited_events", env!("CARGO_TARGET_TMPDIR"));
    let words = format!("ulimit -f 1; exec {VMTRACE} --events {events} -- {} 1 0", testprog("crowd"));
    let ended = run(&mut command("bash", ["-c", &words])).expect_code(0);
    assert!(ended.errors().contains("No leak found"), "{}", ended.errors());
}

/// Thousands of real-time signals from another process arrive once each, with their payload.
#[test]
fn queued_signals() {
    let mut counting = vmtrace(["-o", "/dev/null", "--", testprog("count_signals")]);
    let counting = Process::start(&mut counting);
    counting.await_output("ready");
    let ended = counting.end().expect_code(0);
    let count: u32 = ended.output().lines().last().expect("a line").parse().expect("a number");
    assert!(count >= 1000);
}

/// Signals that a process sends to vmtrace are the program's: it gets each, may live on, and its exit status counts.
#[test]
fn signals_to_vmtrace_are_passed_on() {
    let told = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("tell_signals"), "9"]));
    told.await_output("ready\n");
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        told.send(signal);
        told.await_output(&format!("{signal}\n"));
    }
    assert_eq!(told.end().expect_code(9).output(), "ready\nSIGHUP\nSIGINT\nSIGQUIT\nSIGTERM\n");
}

/// A program that dies of the signal passed on is reported so, and so is its status.
#[test]
fn a_signal_passed_on_kills() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let mut command = vmtrace(["--format=json", "-o"]);
    let sleeping = Process::start(command.arg(file.path()).args(["--", "bash", "-c", "echo ready; exec sleep 1000"]));
    sleeping.await_output("ready");
    sleeping.send(Signal::SIGTERM);
    sleeping.end().expect_code(143);
    let report = std::fs::read_to_string(file.path()).expect("a report");
    let report = crate::common::vmtrace::reports(&report).pop().expect("a report");
    assert_eq!(report.at("/target/exit/signal"), "SIGTERM");
}

/// SIGUSR1 to vmtrace asks for a report, and is not the program's.
#[test]
fn sigusr1_is_not_passed_on() {
    let told = Process::start(&mut vmtrace(["--format=json", "--", testprog("tell_signals")]));
    told.await_output("ready\n");
    told.send(Signal::SIGUSR1);
    wait_for("a report comes", || crate::common::vmtrace::reports(&told.errors()).len() == 1);
    told.send(Signal::SIGTERM);
    told.await_output("SIGTERM\n");
    assert_eq!(told.end().expect_code(0).output(), "ready\nSIGTERM\n");
}

/// The program under vmtrace, or natively, in a terminal.
fn in_terminal(way: &[&str], arguments: &[&str]) -> Terminal {
    let words = [way, &[testprog("tell_signals")], arguments].concat();
    let terminal = Terminal::start(words[0], &words[1..]);
    terminal.await_text("ready");
    terminal
}

/// ^C and ^\ at a terminal reach the program once each, although they are sent to vmtrace as well.
#[test]
fn keys_that_interrupt_arrive_once() {
    for way in WAYS {
        let mut terminal = in_terminal(way, &["4"]);
        for times in 1..=3 {
            terminal.type_in("\x03");
            terminal.await_times("SIGINT", times);
        }
        terminal.type_in("\x1c");
        terminal.await_text("SIGQUIT");
        // Whatever vmtrace passes on goes through in order: after this nothing of the above is still to come.
        terminal.leader.send(Signal::SIGTERM);
        terminal.await_text("SIGTERM");
        terminal.await_end();
        let screen = terminal.screen();
        let told = ["SIGINT", "SIGQUIT", "SIGTERM"].map(|name| screen.matches(name).count());
        assert_eq!(told, [3, 1, 1], "{way:?}: {screen}");
    }
}

/// A terminal that goes away is told to the program once, and it may live on.
#[test]
fn hangup_arrives_once() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    const SCRIPT: &str = "
        exec 3>>\"$1\"
        trap 'echo hup >&3' HUP
        trap 'echo term >&3; exit' TERM
        echo ready
        while :; do sleep 0.01; done";
    for (number, way) in WAYS.iter().enumerate() {
        let log = folder.path().join(number.to_string());
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        let words = [way, &["bash", "-c", SCRIPT, "bash", log.to_str().expect("a text")][..]].concat();
        let mut terminal = Terminal::start(words[0], &words[1..]);
        terminal.await_text("ready");
        terminal.hang_up();
        wait_for("it is told", || told() == "hup\n");
        terminal.leader.send(Signal::SIGTERM);
        terminal.await_end();
        assert_eq!(told(), "hup\nterm\n", "{way:?}");
    }
}

/// A program in a session of its own is not reached by ^C, but by a signal that vmtrace is sent.
#[test]
fn a_session_of_its_own() {
    let words = [WAYS[1], &["setsid", "--wait", testprog("tell_signals"), "4"]].concat();
    let mut terminal = Terminal::start(words[0], &words[1..]);
    terminal.await_text("ready");
    let child = proc::children(terminal.leader.pid()).pop().expect("vmtrace has a child");
    assert!(proc::session(child).contains(&child), "it leads a session");
    terminal.type_in("\x03");
    terminal.leader.send(Signal::SIGHUP);
    terminal.await_text("SIGHUP");
    terminal.leader.send(Signal::SIGTERM);
    terminal.await_text("SIGTERM");
    terminal.await_end();
    assert!(!terminal.screen().contains("SIGINT"), "{}", terminal.screen());
}

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
}

/// ^Z at a shell stops the job, vmtrace and program alike, `fg` lets it go on, `bg` as well, and its status arrives.
#[test]
fn job_control() {
    need("bash");
    // By perf events other threads of vmtrace have to stop as well.
    let by_perf: &[&str] = &[VMTRACE, "--engine=perf", "-o", "/dev/null", "--"];
    // That is over soon, and vmtrace waits for the program's end.
    let for_a_while: &[&str] = &[VMTRACE, "--for=100ms", "-o", "/dev/null", "--"];
    for way in [WAYS[0], WAYS[1], by_perf, for_a_while] {
        let mut shell = Terminal::start("bash", &["--norc", "--noprofile", "-i"]);
        shell.type_in("PS1='prompt''> '; bind 'set enable-bracketed-paste off'\n");
        shell.await_text("prompt> ");
        let program = testprog("tell_signals");
        shell.type_in(&format!("{} {program} 5; echo \"status=$?\"\n", way.join(" ")));
        shell.await_text("ready");
        // Other tests run it too, in sessions of their own.
        let ours = proc::session(shell.leader.pid());
        let pids: Vec<i32> = proc::with_argument(program).into_iter().filter(|pid| ours.contains(pid)).collect();
        let target = *pids.last().expect("the program runs");
        for times in 1..=2 {
            shell.type_in("\x1a");
            shell.await_times("Stopped", times);
            wait_for("it is stopped", || stands(target));
            shell.type_in("fg\n");
            shell.await_times("SIGCONT", times);
            wait_for("it runs", || matches!(proc::state(target), Some('S' | 'R')));
        }
        // Somebody continues the program alone: vmtrace, which may have stopped its every way out, is not waited for.
        shell.type_in("\x1a");
        shell.await_times("Stopped", 3);
        wait_for("it is stopped", || stands(target));
        send(target, Signal::SIGCONT);
        shell.await_times("SIGCONT", 3);
        wait_for("all run", || pids.iter().all(|pid| matches!(proc::state(*pid), Some('S' | 'R'))));
        shell.type_in("fg\n");
        wait_for("it is in the foreground", || proc::is_in_foreground(target));
        shell.type_in("\x1a");
        shell.await_times("Stopped", 4);
        wait_for("it is stopped", || stands(target));
        shell.type_in("bg\n");
        shell.await_times("SIGCONT", 4);
        assert!(!proc::is_in_foreground(target));
        shell.type_in("fg\n");
        wait_for("it is in the foreground", || proc::is_in_foreground(target));
        shell.type_in("\x03");
        shell.await_text("SIGINT");
        send(target, Signal::SIGTERM);
        shell.await_text("SIGTERM");
        shell.type_in("echo \"last=$?\"\n");
        shell.await_text("last=5");
        assert_eq!(shell.screen().matches("SIGINT").count(), 1, "{way:?}: {}", shell.screen());
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// SIGSTOP and SIGCONT to the program stop it and let it go on; vmtrace does not stand in the way.
#[test]
fn stop_and_continue() {
    let followed = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("crowd"), "3", "2"]));
    followed.await_output("ready");
    let target = proc::children(followed.pid()).pop().expect("vmtrace has a child");
    let target = nix::unistd::Pid::from_raw(target);
    for _ in 0..5 {
        nix::sys::signal::kill(target, Signal::SIGSTOP).expect("it is ours");
        wait_for("it is stopped", || stands(target.as_raw()));
        nix::sys::signal::kill(target, Signal::SIGCONT).expect("it is ours");
        wait_for("it goes on", || !stands(target.as_raw()));
    }
    followed.end().expect_code(0);
}

/// Whether all threads are stopped, be it by job control or for their tracer.
fn stands(pid: i32) -> bool {
    proc::threads(pid).iter().all(|tid| matches!(proc::state(*tid), Some('T' | 't')))
}

/// A program that vmtrace follows dies with it, for it could not live without: its system calls would fail.
#[test]
fn a_launched_program_does_not_outlive_a_killed_vmtrace() {
    let followed = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("crowd"), "3", "2"]));
    followed.await_output("ready");
    let target = proc::children(followed.pid()).pop().expect("vmtrace has a child");
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
    let target = proc::children(followed.pid()).pop().expect("vmtrace has a child");
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
