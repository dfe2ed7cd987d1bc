//! A launched program gets every signal once, whoever sends it to whom, and stops and goes on with its job.

use std::path::PathBuf;
use std::time::Duration;

use super::transparency::{WAYS, expect_same};
use crate::common::process::{Process, command, run, send};
use crate::common::terminal::Terminal;
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{VMTRACE, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;

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

/// Fails the test unless a job that a process stops stands, and goes on when it is continued after this time.
#[track_caller]
fn stop_job(options: &[&str], stop: Signal, stands_for: Duration) {
    let program = ["-o", "/dev/null", "--", testprog("from_within"), "count", "10"];
    let followed = Process::start(vmtrace(options).args(program));
    followed.await_output("ready");
    let target = *proc::children(followed.pid()).last().expect("the program runs");
    let group = -followed.pid();
    send(group, stop);
    wait_for("both are stopped", || stands(target) && proc::state(followed.pid()) == Some('T'));
    std::thread::sleep(stands_for);
    send(group, Signal::SIGCONT);
    wait_for("it goes on", || !stands(target));
    send(target, Signal::SIGUSR1);
    followed.end().expect_code(0);
}

/// A job that stands for longer than anything of a signal's sending is remembered.
#[test]
fn a_job_that_is_stopped_for_long() {
    for options in [&["--engine=ptrace"][..], &["--engine=perf"], &["--for=1ms"]] {
        for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
            stop_job(options, signal, Duration::from_millis(1200));
        }
    }
}

/// A job that is stopped at the moment at which its program is left.
#[test]
fn a_job_that_is_stopped_when_it_is_left() {
    for _ in 0..20 {
        stop_job(&["--for=1ms"], Signal::SIGTSTP, Duration::ZERO);
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

/// The first process of a PID namespace is not stopped from inside.
#[test]
fn the_first_of_a_namespace_is_not_stopped() {
    assert_eq!(expect_same(&["env"], &[testprog("from_within"), "init"]), "the first process has ended well\n");
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
