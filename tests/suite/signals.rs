//! A launched program gets every signal once, whoever sends it to whom, and stops and goes on with its job.

use std::time::Duration;

use super::transparency::{WAYS, expect_same};
use crate::common::process::{Process, command, run, send};
use crate::common::terminal::Terminal;
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{VMTRACE, vmtrace};
use crate::common::{need, proc, sides, wait_for};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

/// What a program sends to its process group, where vmtrace is too, it gets once, whatever signal it is, and vmtrace lives on.
#[test]
fn signals_to_the_own_group_arrive_once() {
    for signal in ["1", "2", "3", "10", "12", "14", "15", "27", "29", "34", "64"] {
        let told = expect_same(&["setsid", "-w"], &[testprog("from_within"), "group", signal]);
        assert_eq!(told, format!("signal {signal}: 1 times\n"));
    }
}

/// What somebody else sends to vmtrace the program gets, and what is sent to the group, as shells end jobs, it gets once: also when
/// `--for` is over, and when it takes its signals without being stopped for them.
#[test]
fn signals_of_others_arrive_once() {
    let (during, after) = ("--every=1h", "--for=1ms");
    let ways = [(during, "count"), (during, "take"), (after, "count"), (after, "take")];
    let of_way = |way| ["2", "12", "15", "40"].map(|signal| (way, signal));
    let by_ptrace = ways.into_iter().flat_map(of_way).map(|case| ("--engine=ptrace", case));
    let by_perf = [(ways[0], "2"), (ways[1], "40"), (ways[3], "15")].map(|case| ("--engine=perf", case));
    let cases = by_ptrace.chain(by_perf).flat_map(|case| [(case, false), (case, true)]);
    for ((engine, ((until, how), signal)), to_group) in cases {
        let case = format!("{engine} {until}, {how} signal {signal}, to the group: {to_group}");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let report = folder.path().join("report");
        let mut followed = vmtrace([engine, until, "-o"]);
        let followed = Process::start(followed.arg(&report).args(["--", testprog("from_within"), how, signal]));
        followed.await_output("ready");
        if until == after {
            wait_for("the report is there", || report.exists());
        }
        let to = if to_group { -followed.pid() } else { followed.pid() };
        run(&mut command("bash", ["-c", &format!("kill -{signal} -- {to}")])).expect_code(0);
        let told = followed.end().expect_code(0).output();
        assert!(told.ends_with(&format!("signal {signal}: 1 times\n")), "{case}: {told}");
    }
}

/// However they are mixed, each arrives once: those to the program, to vmtrace, and to both.
#[test]
fn signals_from_all_sides_arrive_once() {
    let mut state = 2026u64;
    let mut below = |limit| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for options in [&["--engine=ptrace"][..], &["--for=1ms"], &["--engine=perf"], &["--follow=threads"]] {
        sides::expect_each_once(options, 150, &mut below);
    }
}

/// A thousand that come at once, to the group or to vmtrace alone, arrive once each.
#[test]
fn signals_that_come_at_once_arrive_once() {
    let mut turn = 0;
    // To the group, four times of five.
    let mut below = |limit| {
        turn += 1;
        match limit {
            2 => 1,
            _ if turn % 3 != 1 => 1,
            _ => 2 - u64::from(turn % 15 == 1),
        }
    };
    sides::expect_each_once(&["--for=1ms"], 1000, &mut below);
}

/// A stream to the group, which does not end while it is found out what was for whom.
#[test]
fn a_stream_of_signals_arrives_once() {
    for options in [&["--engine=ptrace"][..], &["--engine=perf"]] {
        // To the group; a little later the next.
        let mut below = |limit| if limit == 3 { 2 } else { 0 };
        sides::expect_each_once(options, 3000, &mut below);
    }
}

/// Signals that are no program's to send as a rule, and those that a process of the program sends to vmtrace, which stands for it
/// where somebody knows the number that the shell was told.
#[test]
fn signals_of_every_kind_and_sender_are_passed_on() {
    for signal in ["6", "4", "8", "11", "13", "24", "25", "28", "31"] {
        let followed =
            Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("from_within"), "count", signal]));
        followed.await_output("ready");
        run(&mut command("bash", ["-c", &format!("kill -{signal} {}", followed.pid())])).expect_code(0);
        let told = followed.end().expect_code(0).output();
        assert!(told.ends_with(&format!("signal {signal}: 1 times\n")), "{told}");
    }
    let by_child = "trap 'exit 5' TERM; /bin/kill -TERM $PPID & while :; do sleep 0.01; done";
    run(&mut vmtrace(["-o", "/dev/null", "--", "bash", "-c", by_child])).expect_code(5);
}

/// A timer that was set before vmtrace was executed, as alarm(2) has it, is the program's.
#[test]
fn a_timer_from_before() {
    need("perl");
    for way in WAYS {
        let words = [&["perl", "-e", "alarm 1; exec @ARGV"], way, &["sleep", "60"]].concat();
        assert_eq!(run(&mut command(words[0], &words[1..])).code(), 128 + 14, "{way:?}");
    }
}

/// Whoever continues a stopped program alone continues it once.
#[test]
fn a_program_is_continued_once() {
    const TIMES: usize = 10;
    for options in [&["--engine=ptrace"][..], &["--engine=perf"], &["--for=1ms"]] {
        let mut followed = vmtrace(options);
        let followed = Process::start(followed.args(["-o", "/dev/null", "--", testprog("tell_signals"), "5"]));
        followed.await_output("ready");
        let target = proc::launched_by(followed.pid());
        for times in 1..=TIMES {
            send(-followed.pid(), Signal::SIGTSTP);
            wait_for("both are stopped", || stands(target) && proc::state(followed.pid()) == Some('T'));
            send(target, Signal::SIGCONT);
            wait_for("it goes on", || followed.output().matches("SIGCONT").count() >= times);
            wait_for("vmtrace too", || proc::state(followed.pid()) != Some('T'));
        }
        send(target, Signal::SIGTERM);
        assert_eq!(followed.end().expect_code(5).output().matches("SIGCONT").count(), TIMES, "{options:?}");
    }
}

/// Who goes by names finds vmtrace alone, or the program too, which gets the signal once either way.
#[test]
fn signals_by_name_arrive_once() {
    for tool in ["pkill", "pidof"] {
        need(tool);
    }
    // Names that nobody else has.
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder can be made"));
    let [own, program] = [0, 1].map(|index| folders[index].path().join("by-name"));
    std::fs::copy(VMTRACE, &own).expect("it can be copied");
    std::fs::copy(testprog("from_within"), &program).expect("it can be copied");
    let [own, program] = [&own, &program].map(|path| path.to_str().expect("it is text"));
    let by_name: [fn(&str, &str); 3] = [
        |own, _| drop(run(&mut command("pkill", ["-12", "-f", own])).expect_code(0)),
        |_, program| drop(run(&mut command("pkill", ["-12", "-f", program])).expect_code(0)),
        |own, _| {
            let pids = run(&mut command("pidof", [own])).expect_code(0).output();
            run(&mut command("bash", ["-c", &format!("kill -12 {pids}")])).expect_code(0);
        },
    ];
    for (number, send) in by_name.into_iter().enumerate() {
        let followed = Process::start(&mut command(own, ["-o", "/dev/null", "--", program, "count", "12"]));
        followed.await_output("ready");
        send(own, program);
        let told = followed.end().expect_code(0).output();
        assert!(told.ends_with("signal 12: 1 times\n"), "{number}: {told}");
    }
}

/// What is sent to the program, and then to vmtrace alone by the same process, are two.
#[test]
fn signals_that_are_sent_one_by_one_are_not_one() {
    let mut followed = vmtrace(["-o", "/dev/null", "--", testprog("from_within"), "take", "40"]);
    let followed = Process::start(&mut followed);
    followed.await_output("ready");
    let target = proc::launched_by(followed.pid());
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
    let target = proc::launched_by(followed.pid());
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
        let target = proc::launched_by(followed.pid());
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
        let programs: Vec<_> = children.into_iter().filter_map(proc::program).collect();
        programs.iter().all(|program| program.to_string_lossy().contains("signal-witness"))
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

/// A terminal that has gone away, with the reports that were to be read there, leaves the program's status as it is.
#[test]
fn reports_to_a_terminal_that_has_gone_away() {
    for options in [&[][..], &["--every=50ms"]] {
        // Which writes nothing from then on.
        let program = ["--", "bash", "-c", "echo ready; exec sleep 600"];
        let mut terminal = Terminal::start(VMTRACE, &[options, &program].concat());
        terminal.await_text("ready");
        terminal.hang_up();
        terminal.await_end();
        assert!(
            matches!(terminal.leader.status(), WaitStatus::Exited(_, 129)),
            "{options:?}: {:?}",
            terminal.leader.status()
        );
    }
}

/// A program in a session of its own is not reached by ^C, but by a signal that vmtrace is sent.
#[test]
fn a_session_of_its_own() {
    let words = [WAYS[1], &["setsid", "--wait", testprog("tell_signals"), "4"]].concat();
    let mut terminal = Terminal::start(words[0], &words[1..]);
    terminal.await_text("ready");
    let child = proc::launched_by(terminal.leader.pid());
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
    for way in ALL_WAYS {
        let mut shell = shell();
        let program = testprog("tell_signals");
        shell.type_in(&format!("{} {program} 5; echo \"status=$?\"\n", way.join(" ")));
        shell.await_text("ready");
        // Other tests run it too, in sessions of their own.
        let ours = proc::session(shell.leader.pid());
        let pids: Vec<i32> = proc::with_argument(program).into_iter().filter(|pid| ours.contains(pid)).collect();
        let is_target = |pid: &i32| proc::arguments(*pid).first().is_some_and(|first| first == program);
        let target = pids.iter().copied().find(is_target).expect("the program runs");
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

/// An interactive shell.
fn shell() -> Terminal {
    need("bash");
    let mut shell = Terminal::start("bash", &["--norc", "--noprofile", "-i"]);
    shell.type_in("PS1='prompt''> '; bind 'set enable-bracketed-paste off'\n");
    shell.await_text("prompt> ");
    shell
}

/// Natively, and under vmtrace by both engines and after it has left.
const ALL_WAYS: [&[&str]; 4] = [
    WAYS[0],
    WAYS[1],
    &[VMTRACE, "--engine=perf", "-o", "/dev/null", "--"],
    &[VMTRACE, "--for=100ms", "-o", "/dev/null", "--"],
];

/// A program that makes itself the leader of a process group is still the shell's job: keys, `kill %1`, `fg` and `bg` reach it, once.
#[test]
fn job_control_of_a_leader() {
    need("perl");
    for way in ALL_WAYS {
        let mut shell = shell();
        let program = testprog("tell_signals");
        shell.type_in(&format!("{} perl -e 'setpgrp; exec @ARGV' {program} 5\n", way.join(" ")));
        shell.await_text("ready");
        let ours = proc::session(shell.leader.pid());
        let is_target = |pid: &i32| proc::arguments(*pid).first().is_some_and(|first| first == program);
        let target = ours.into_iter().find(is_target).expect("the program runs");
        wait_for("it has the terminal", || proc::is_in_foreground(target));
        for times in 1..=2 {
            shell.type_in("\x03");
            shell.await_times("SIGINT", times);
            shell.type_in("\x1a");
            shell.await_times("Stopped", times);
            wait_for("it is stopped", || stands(target));
            shell.type_in("fg\n");
            shell.await_times("SIGCONT", times);
            wait_for("it is in the foreground", || proc::is_in_foreground(target));
        }
        shell.type_in("\x1a");
        shell.await_times("Stopped", 3);
        shell.type_in("bg\n");
        shell.await_times("SIGCONT", 3);
        assert!(!proc::is_in_foreground(target));
        shell.type_in("kill -USR2 %1\n");
        shell.await_text("SIGUSR2");
        // In one line: at a prompt the shell may have told of its end, and forgotten it.
        shell.type_in("kill %1; wait %1; echo \"last=$?\"\n");
        shell.await_text("SIGTERM");
        shell.await_text("last=5");
        let screen = shell.screen();
        let told = ["SIGINT", "SIGCONT", "SIGUSR2", "SIGTERM"].map(|name| screen.matches(name).count());
        assert_eq!(told, [2, 3, 1, 1], "{way:?}: {screen}");
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// And it may read from the terminal, also what it starts: at once.
#[test]
fn a_leader_has_the_terminal() {
    need("timeout");
    for way in ALL_WAYS {
        let mut shell = shell();
        shell.type_in(&format!("{} timeout 50 cat; echo \"status=$?\"\n", way.join(" ")));
        let is_cat = |pid: i32| proc::arguments(pid) == ["cat"];
        wait_for("it runs", || proc::session(shell.leader.pid()).into_iter().any(is_cat));
        shell.type_in("words\n");
        shell.await_times("words", 2);
        shell.type_in("\x04");
        shell.await_text("status=0");
        shell.type_in("exit\n");
        shell.await_end();
        assert!(!shell.screen().contains("Stopped"), "{way:?}: {}", shell.screen());
    }
    need("perl");
    let reads = "$| = 1; setpgrp; print qq(read: $_) while <STDIN>; print qq(over\\n)";
    for way in [WAYS[0], WAYS[1]] {
        let mut shell = shell();
        shell.type_in(&format!("{} perl -e '{reads}'\n", way.join(" ")));
        for line in ["one", "other"] {
            shell.type_in(&format!("{line}\n"));
            shell.await_text(&format!("read: {line}"));
        }
        shell.type_in("\x04");
        shell.await_text("\nover");
        shell.type_in("exit\n");
        shell.await_end();
        assert!(!shell.screen().contains("Stopped"), "{way:?}: {}", shell.screen());
    }
}

/// But not at the expense of those that the shell has put into one pipeline with it.
#[test]
fn a_leader_in_a_pipeline() {
    need("perl");
    let reads = "$| = 1; open(T, qq(/dev/tty)); print qq(asked: ), scalar <T>; 1 while <STDIN>";
    for way in [WAYS[0], WAYS[1]] {
        let mut shell = shell();
        let way = way.join(" ");
        shell.type_in(&format!("{way} perl -e 'setpgrp; print qq(line\\n); sleep 1' | perl -e '{reads}'\n"));
        // By when the terminal would have been given away.
        std::thread::sleep(Duration::from_millis(500));
        shell.type_in("answer\n");
        shell.await_text("asked: answer");
        shell.type_in("exit\n");
        shell.await_end();
        assert!(!shell.screen().contains("Stopped"), "{way}: {}", shell.screen());
    }
}

/// The shell is told when a program is stopped that nobody else of its job is stopped with.
#[test]
fn a_stop_of_the_program_alone_stops_the_job() {
    for (way, signal) in ALL_WAYS.into_iter().flat_map(|way| [(way, "STOP"), (way, "TSTP")]) {
        let mut shell = shell();
        shell.type_in(&format!("{} bash -c 'kill -{signal} $$; echo goes\" \"on; exit 6'\n", way.join(" ")));
        shell.await_text("Stopped");
        shell.type_in("fg\n");
        shell.await_text("goes on");
        shell.type_in("echo \"last=$?\"\n");
        shell.await_text("last=6");
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// Who is to continue the program is not kept from it.
#[test]
fn a_program_that_its_child_continues() {
    for way in ALL_WAYS {
        let mut shell = shell();
        let script = "(sleep 1.5; kill -CONT $$) & kill -STOP $$; echo goes\" \"on";
        shell.type_in(&format!("{} bash -c '{script}'\n", way.join(" ")));
        shell.await_text("goes on");
        // The shell may take it for stopped yet.
        shell.type_in("\nexit\nexit\n");
        shell.await_end();
    }
}

/// ^Z stops a job whose first thread has ended, and `fg` continues it.
#[test]
fn a_stop_after_the_end_of_the_first_thread() {
    for way in ALL_WAYS {
        let mut shell = shell();
        let program = testprog("from_within");
        shell.type_in(&format!("{} {program} remain; echo \"status=$?\"\n", way.join(" ")));
        shell.await_text("ready");
        for times in 1..=2 {
            shell.type_in("\x1a");
            shell.await_times("Stopped", times);
            shell.type_in("fg\n");
            shell.await_times("SIGCONT", times);
        }
        shell.type_in("\x03");
        shell.await_times("prompt> ", 4);
        shell.type_in("echo \"last=$?\"\n");
        shell.await_text("last=130");
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// What has ended the job by a key ends a loop of the shell's as well.
#[test]
fn a_key_ends_the_shells_loop() {
    for way in ALL_WAYS {
        let mut shell = shell();
        shell.type_in(&format!("for i in 1 2 3; do echo turn\" \"$i; {} sleep 50; done\n", way.join(" ")));
        shell.await_text("turn 1");
        wait_for("it sleeps", || {
            let ours = proc::session(shell.leader.pid());
            ours.into_iter().any(|pid| proc::arguments(pid).first().is_some_and(|first| first == "sleep"))
        });
        // By when it has left.
        std::thread::sleep(Duration::from_millis(200));
        shell.type_in("\x03");
        // What is typed before that may be thrown away.
        shell.await_times("prompt> ", 2);
        shell.type_in("echo \"last=$?\"\n");
        shell.await_text("last=130");
        assert!(!shell.screen().contains("turn 2"), "{way:?}: {}", shell.screen());
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// When the program has ended, ^C ends the following of what it has left behind.
#[test]
fn a_key_after_the_programs_end() {
    for options in ["--engine=ptrace", "--engine=perf"] {
        let mut shell = shell();
        let script = "setsid sleep 50 & exit 3";
        shell.type_in(&format!("{VMTRACE} {options} -o /dev/null -- bash -c '{script}'; echo \"last=$?\"\n"));
        // By when the program has ended.
        std::thread::sleep(Duration::from_millis(500));
        shell.type_in("\x03");
        shell.await_text("last=3");
        shell.type_in("exit\n");
        shell.await_end();
    }
}

/// Where vmtrace leads the session, nobody would continue what ^Z has stopped: natively it stops nothing there.
#[test]
fn a_session_leader_is_not_stopped() {
    need("perl");
    let program = ["perl", "-e", "setpgrp; exec @ARGV", testprog("tell_signals"), "4"];
    let mut terminal = Terminal::start(VMTRACE, &[&["-o", "/dev/null", "--"], &program[..]].concat());
    terminal.await_text("ready");
    let target = proc::launched_by(terminal.leader.pid());
    wait_for("it has the terminal", || proc::is_in_foreground(target));
    terminal.type_in("\x1a");
    terminal.type_in("\x03");
    terminal.await_text("SIGINT");
    terminal.leader.send(Signal::SIGTERM);
    terminal.await_text("SIGTERM");
    terminal.await_end();
}

/// SIGSTOP and SIGCONT to the program stop it and let it go on; vmtrace does not stand in the way.
#[test]
fn stop_and_continue() {
    let followed = Process::start(&mut vmtrace(["-o", "/dev/null", "--", testprog("crowd"), "3", "2"]));
    followed.await_output("ready");
    let target = proc::launched_by(followed.pid());
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
