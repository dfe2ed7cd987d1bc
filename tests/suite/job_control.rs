//! A launched program is the job of a shell, or of a terminal, as it is without vmtrace.

use std::time::Duration;

use super::signals::stands;
use super::transparency::WAYS;
use crate::common::process::send;
use crate::common::terminal::Terminal;
use crate::common::testprogs::testprog;
use crate::common::vmtrace::VMTRACE;
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

/// An interactive shell.
fn shell() -> Terminal {
    need("bash");
    let mut shell = Terminal::start("bash", &["--norc", "--noprofile", "-i"]);
    shell.type_in("PS1='prompt''> '; bind 'set enable-bracketed-paste off'\n");
    shell.await_text("prompt> ");
    shell
}

/// The process of a program that a shell has started.
fn launched(shell: &Terminal, program: &str) -> i32 {
    // Other tests run it too, in sessions of their own.
    let ours = proc::session(shell.leader.pid());
    let is_target = |pid: &i32| proc::arguments(*pid).first().is_some_and(|first| first == program);
    ours.into_iter().find(is_target).expect("the program runs")
}

/// A shell that has started a program in the background which leads a group of its own, as vmtrace has seen; and its process.
fn leader_in_background(way: &[&str], perl: &str) -> (Terminal, i32) {
    need("perl");
    let (mut shell, program) = (shell(), testprog("tell_signals"));
    shell.type_in(&format!("{} perl -e 'setpgrp; {perl}exec @ARGV' {program} 5 &\n", way.join(" ")));
    shell.await_text("ready");
    let target = launched(&shell, program);
    if !way.is_empty() {
        let vmtrace = proc::status(target, "PPid").and_then(|pid| pid.parse().ok()).expect("the program runs");
        let is_sentry = |pid: &i32| proc::status(*pid, "Name").as_deref() == Some("stop-sentry");
        wait_for("vmtrace has seen that", || proc::children(vmtrace).iter().any(is_sentry));
    }
    (shell, target)
}

/// SIGSTOP, which nobody can take, is sent to the job, and SIGCONT after it, which is the program's so many-th.
fn stop_and_continue_job(shell: &mut Terminal, target: i32, times: usize) {
    shell.type_in("kill -STOP %1\n");
    wait_for("it is stopped", || stands(target));
    shell.type_in("kill -CONT %1\n");
    shell.await_times("SIGCONT", times);
    wait_for("it runs", || matches!(proc::state(target), Some('S' | 'R')));
}

/// Ends the job, and the shell, which tells the job's status; gives what was shown.
fn end_job(mut shell: Terminal) -> String {
    // In one line: at a prompt the shell may have told of its end, and forgotten it.
    shell.type_in("kill %1; wait %1; echo \"last=$?\"\n");
    shell.await_text("SIGTERM");
    shell.await_text("last=5");
    let screen = shell.screen();
    shell.type_in("exit\n");
    shell.await_end();
    screen
}

/// Natively, and under vmtrace by both engines and after it has left.
const ALL_WAYS: [&[&str]; 4] = [
    WAYS[0],
    WAYS[1],
    &[VMTRACE, "--engine=perf", "-o", "/dev/null", "--"],
    &[VMTRACE, "--for=100ms", "-o", "/dev/null", "--"],
];

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

/// A program that makes itself the leader of a process group is still the shell's job: keys, `kill %1`, `fg` and `bg` reach it, once.
#[test]
fn job_control_of_a_leader() {
    need("perl");
    for way in ALL_WAYS {
        let mut shell = shell();
        let program = testprog("tell_signals");
        shell.type_in(&format!("{} perl -e 'setpgrp; exec @ARGV' {program} 5\n", way.join(" ")));
        shell.await_text("ready");
        let target = launched(&shell, program);
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
        let screen = end_job(shell);
        let told = ["SIGINT", "SIGCONT", "SIGUSR2", "SIGTERM"].map(|name| screen.matches(name).count());
        assert_eq!(told, [2, 3, 1, 1], "{way:?}: {screen}");
    }
}

/// What nobody can take reaches it as well.
#[test]
fn a_stop_of_the_job_is_one_of_its_leader() {
    for way in ALL_WAYS {
        let (mut shell, target) = leader_in_background(way, "");
        for times in 1..=2 {
            stop_and_continue_job(&mut shell, target, times);
        }
        let screen = end_job(shell);
        let told = ["SIGCONT", "SIGTERM"].map(|name| screen.matches(name).count());
        assert_eq!(told, [2, 1], "{way:?}: {screen}");
    }
}

/// A wish that the job stop, which the program has not followed, is out of date once the job has been continued.
#[test]
fn a_stop_after_one_that_was_ignored() {
    for way in ALL_WAYS {
        let (mut shell, target) = leader_in_background(way, "$SIG{TSTP} = qq(IGNORE); ");
        for times in 1..=4 {
            shell.type_in("kill -TSTP %1\n");
            // It has nothing to show.
            std::thread::sleep(Duration::from_millis(200));
            stop_and_continue_job(&mut shell, target, times);
        }
        end_job(shell);
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
    for (seconds, options) in [(50, "--engine=ptrace"), (51, "--engine=perf")] {
        let mut shell = shell();
        let time = format!("{seconds}.{}", std::process::id());
        let script = format!("setsid sleep {time} & exit 3");
        shell.type_in(&format!("{VMTRACE} {options} -o /dev/null -- bash -c '{script}'; echo \"last=$?\"\n"));
        let is_the_program = |pid: &i32| proc::program(*pid).is_some_and(|program| program.ends_with("bash"));
        wait_for("the program has ended, and left one behind", || {
            !proc::with_argument(&time).is_empty() && !proc::with_argument(&script).iter().any(is_the_program)
        });
        // Until vmtrace has seen it as well.
        wait_for("the following has ended", || {
            shell.type_in("\x03");
            std::thread::sleep(Duration::from_millis(200));
            shell.screen().contains("last=3")
        });
        shell.hang_up();
        shell.await_end();
    }
}

/// Where vmtrace leads the session, nobody would continue what ^Z has stopped: natively it stops nothing there. It reaches all who
/// are in the foreground, so the last of them as well.
#[test]
fn a_session_leader_is_not_stopped() {
    need("perl");
    let script =
        "setpgrp; $SIG{INT} = 'IGNORE'; my $child = fork || exec @ARGV; $SIG{TERM} = sub { kill TERM => $child };
        waitpid $child, 0; exit 4";
    for way in ALL_WAYS {
        let words = [way, &["perl", "-e", script, testprog("tell_signals"), "4"]].concat();
        let mut terminal = Terminal::start(words[0], &words[1..]);
        terminal.await_text("ready");
        let leader = terminal.leader.pid();
        let target = if way.is_empty() { leader } else { proc::launched_by(leader) };
        wait_for("it has the terminal", || proc::is_in_foreground(target));
        terminal.type_in("\x1a");
        terminal.type_in("\x03");
        terminal.await_text("SIGINT");
        wait_for("none is stopped", || !stands(target));
        terminal.leader.send(Signal::SIGTERM);
        terminal.await_text("SIGTERM");
        terminal.await_end();
    }
}

/// But the jobs of a shell that it has launched are, for that continues them.
#[test]
fn a_shell_below_a_session_leader() {
    need("bash");
    for way in ALL_WAYS {
        let words = [way, &["bash", "--norc", "--noprofile", "-i"]].concat();
        let mut shell = Terminal::start(words[0], &words[1..]);
        shell.type_in("PS1='prompt''> '\n");
        shell.await_text("prompt> ");
        shell.type_in(&format!("{} 5\n", testprog("tell_signals")));
        shell.await_text("ready");
        shell.type_in("\x1a");
        shell.await_text("Stopped");
        shell.type_in("fg\n");
        shell.await_text("SIGCONT");
        shell.type_in("\x03");
        shell.await_text("SIGINT");
        shell.type_in("\x1a");
        shell.await_times("Stopped", 2);
        shell.type_in("kill %1; fg; echo \"last=$?\"\n");
        shell.await_text("last=5");
        shell.type_in("exit\n");
        shell.await_end();
    }
}
