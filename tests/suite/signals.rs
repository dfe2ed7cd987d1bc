//! A launched program gets every signal once, whoever sends it to whom, and stops and goes on with vmtrace.

use std::time::Duration;

use super::transparency::{WAYS, expect_same};
use crate::common::process::{Process, command, run, send};
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{VMTRACE, vmtrace};
use crate::common::{need, proc, sides, wait_for};
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
pub(super) fn stands(pid: i32) -> bool {
    proc::threads(pid).iter().all(|tid| matches!(proc::state(*tid), Some('T' | 't')))
}
