//! Leaving a process as it was, whatever happens meanwhile, and the ends of those that end first.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use super::attach::expect_left_alive;
use crate::common::process::{Process, command};
use crate::common::testprogs::start;
use crate::common::vmtrace::{VMTRACE, attach, reports, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;

/// --for ends the following after its time, with a report, and the target goes on.
#[test]
fn for_a_while() {
    let target = start("crowd", &["3", "2"]);
    let report = attach(target.pid(), &["--verify=20", "--for=1s"]).end();
    expect_left_alive(&report);
    report.expect_clean("for a while");
    let seconds = report.at("/span/seconds").as_f64().expect("a number");
    assert!(seconds >= 1.0, "{seconds}");
    assert!(proc::is_free(target.pid()) && !target.has_ended());
    target.end().expect_code(0);
}

/// Each signal that asks a program to end makes vmtrace report and let go, and none of it reaches the target.
#[test]
fn signals_end_the_following() {
    let target = start("tell_signals", &["7"]);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP] {
        let report = attach(target.pid(), &["--verify=1"]).await_following().stop(signal);
        expect_left_alive(&report);
    }
    target.send(Signal::SIGTERM);
    assert_eq!(target.end().expect_code(7).output(), "ready\nSIGTERM\n");
}

/// Under nohup the end of the session does not end the following.
#[test]
fn nohup() {
    need("nohup");
    let target = start("crowd", &["3", "2"]);
    let words = [VMTRACE, "--engine=ptrace", "--format=json", "-p", &target.pid().to_string()];
    let followed = Process::start(&mut command("nohup", words));
    wait_for("vmtrace has attached", || proc::is_traced_by(target.pid(), followed.pid()));
    followed.send(Signal::SIGHUP);
    followed.send(Signal::SIGUSR1);
    // The signals are looked at in turn; SIGHUP has the lower number.
    wait_for("a report as of now comes", || !reports(&followed.output()).is_empty());
    assert!(!followed.has_ended() && proc::is_traced_by(target.pid(), followed.pid()), "{followed:?}");
    followed.send(Signal::SIGINT);
    assert_eq!(reports(&followed.end().expect_code(0).output()).len(), 2);
    target.end().expect_code(0);
}

/// A target that ends by itself ends the following, and its exit is told.
#[test]
fn the_target_ends() {
    let target = start("tell_signals", &["7"]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    target.send(Signal::SIGTERM);
    assert_eq!(attached.end().at("/target/exit/code"), 7);
    target.end().expect_code(7);
}

/// A target that is killed ends the following, and the signal is told; its threads, killed too, have left nothing.
#[test]
fn the_target_is_killed() {
    let target = start("crowd", &["50", "0"]);
    let attached = attach(target.pid(), &["--verify=10"]).await_following();
    target.send(Signal::SIGKILL);
    let report = attached.end();
    assert_eq!(report.at("/target/exit/signal"), "SIGKILL");
    report.expect_clean("threads that are killed");
    assert_eq!(target.end().code(), 137);
}

/// A target that is killed while threads come and go does not keep vmtrace waiting for any of them.
#[test]
fn the_target_is_killed_in_a_storm() {
    for number in 0..10 {
        let target = start("crowd", &["10", "6"]);
        let attached = attach(target.pid(), &["--verify=10"]);
        some_moment(number);
        target.send(Signal::SIGKILL);
        let report = attached.end();
        assert_eq!(report.at("/target/exit/signal"), "SIGKILL");
        assert_eq!(report.number("/verify/mismatches"), 0);
        assert_eq!(target.end().code(), 137);
    }
}

/// A process that job control has stopped stays stopped, is left stopped, and goes on when it is told to.
#[test]
fn a_stopped_process() {
    let target = start("crowd", &["5", "2"]);
    target.send(Signal::SIGSTOP);
    wait_for("it is stopped", || proc::is_stopped(target.pid()));
    for _ in 0..3 {
        let attached = attach(target.pid(), &["--verify=1"]).await_following();
        let events = [attached.report_now(), attached.report_now()].map(|report| report.number("/counts/events"));
        assert_eq!(events, [0, 0], "it stands still");
        expect_left_alive(&attached.stop(Signal::SIGINT));
        wait_for("it is stopped by job control again", || proc::is_stopped(target.pid()));
    }
    target.send(Signal::SIGCONT);
    wait_for("it goes on", || !proc::is_stopped(target.pid()));
    target.end().expect_code(0);
}

/// Stops and continuations while it is followed, and an end of the following in between.
#[test]
fn stopped_while_followed() {
    let target = start("crowd", &["5", "2"]);
    let attached = attach(target.pid(), &["--verify=10"]).await_following();
    let events = || attached.report_now().number("/counts/events");
    let stands = || proc::threads(target.pid()).iter().all(|tid| proc::state(*tid) == Some('t'));
    for _ in 0..3 {
        target.send(Signal::SIGSTOP);
        wait_for("it stands still", || stands() && events() == events());
        let before = events();
        target.send(Signal::SIGCONT);
        wait_for("it goes on", || events() > before);
    }
    target.send(Signal::SIGSTOP);
    wait_for("it stands still", || stands() && events() == events());
    expect_left_alive(&attached.stop(Signal::SIGTERM));
    wait_for("it is stopped by job control", || proc::is_stopped(target.pid()));
    target.send(Signal::SIGCONT);
    target.end().expect_code(0);
}

/// A parent that vfork keeps waiting, uninterruptibly, does not keep vmtrace from following, nor from leaving.
#[test]
fn inside_vfork() {
    let target = start("vfork_blocked", &[]);
    wait_for("the parent waits", || proc::state(target.pid()) == Some('D'));
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    wait_for("the other thread is followed", || attached.report_now().number("/counts/events") > 10);
    let report = attached.report_now();
    assert_eq!(report.number("/counts/threads_live"), 3, "two threads and the child, which shares their memory");
    expect_left_alive(&attached.stop(Signal::SIGINT));
    assert_eq!(proc::state(target.pid()), Some('D'));

    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    let ended = target.end().expect_code(0);
    assert_eq!(ended.errors(), "");
    assert_eq!(attached.end().at("/target/exit/code"), 0);
}

/// Reports that nobody reads, until the pipe is full and beyond, do not keep the target waiting.
#[test]
fn reports_that_nobody_reads() {
    let target = start("rust_threads", &["pools"]);
    let rounds = || target.output().matches("finished").count();
    let (reports, writer) = std::io::pipe().expect("a pipe can be made");
    let mut command = vmtrace(["--every=5ms", "--format=json", "-p", &target.pid().to_string()]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).process_group(0);
    let vmtrace = Process::start_redirected(&mut command);
    drop(command);
    wait_for("a report has to wait for its reader", || vmtrace.errors().contains("a report is left out"));
    let before = rounds();
    wait_for("the target works on", || rounds() >= before + 5);
    vmtrace.send(Signal::SIGINT);
    wait_for("the target is left alone", || proc::is_free(target.pid()));
    drop(reports);
    vmtrace.end().expect_code(0);
    target.end().expect_code(0);
}

/// A moment, another one for each number, in which nothing in particular happens.
fn some_moment(number: u64) {
    std::thread::sleep(Duration::from_micros(number.wrapping_mul(2_654_435_761) % 40_000));
}

/// Attached to and left twenty times, at any moment, while threads come and go: none is lost or left stopped.
#[test]
fn left_during_a_storm() {
    let target = start("crowd", &["20", "6"]);
    for number in 0..20 {
        let attached = attach(target.pid(), &["--verify=50"]);
        some_moment(number);
        let report = attached.stop(Signal::SIGINT);
        assert!(report.at("/target/exit").is_null());
        assert!(report.at("/verify/mismatches") == 0, "{:#}", report.at("/verify"));
        report.expect_clean("a storm");
    }
    target.end().expect_code(0);
}

/// vmtrace is killed twenty times at any moment while signals pour in: each arrives exactly once.
#[test]
fn vmtrace_is_killed() {
    let target = start("count_signals", &[]);
    for number in 0..20 {
        let attached = attach(target.pid(), &[]);
        some_moment(number);
        attached.process.send(Signal::SIGKILL);
        assert_eq!(attached.process.end().code(), 137);
        wait_for("the kernel has let the target go", || proc::is_free(target.pid()));
    }
    let ended = target.end().expect_code(0);
    let count: u32 = ended.output().lines().last().expect("a line").parse().expect("a number");
    assert!(count > 2000, "{count} signals");
}

/// Signals pour in while vmtrace comes and goes: each arrives exactly once.
#[test]
fn signals_while_coming_and_going() {
    let target = start("count_signals", &[]);
    for number in 0..10 {
        let attached = attach(target.pid(), &["--verify=1"]);
        some_moment(number);
        assert!(attached.stop(Signal::SIGINT).at("/target/exit").is_null());
    }
    target.end().expect_code(0);
}

/// A vmtrace that is killed while its target is stopped leaves it stopped.
#[test]
fn vmtrace_is_killed_while_the_target_is_stopped() {
    let target = start("crowd", &["5", "2"]);
    let attached = attach(target.pid(), &[]).await_following();
    target.send(Signal::SIGSTOP);
    let stands = || proc::threads(target.pid()).iter().all(|tid| proc::state(*tid) == Some('t'));
    wait_for("it stands still", || stands() && attached.report_now().0["counts"] == attached.report_now().0["counts"]);
    attached.process.send(Signal::SIGKILL);
    wait_for("it is stopped by job control", || proc::is_stopped(target.pid()) && proc::is_free(target.pid()));
    target.send(Signal::SIGCONT);
    target.end().expect_code(0);
}

/// To come and to go wakes a target, but ends no call of its that would go on without vmtrace.
#[test]
fn calls_go_on() {
    for options in [&[][..], &["--follow=threads"]] {
        let target = start("from_within", &["wait"]);
        target.await_output("ready");
        attach(target.pid(), &[options, &["--for=300ms"]].concat()).end();
        let told = target.end().expect_code(0).output();
        assert_eq!(told.lines().filter(|line| line.contains("Interrupted")).count(), 0, "{told}");
    }
}

/// A stop that the terminal sends does not stop who follows: the target would wait for it.
#[test]
fn a_stop_of_the_terminal_holds_nobody() {
    let target = start("from_within", &["count", "10"]);
    let attached = attach(target.pid(), &[]).await_following();
    let pid = attached.process.pid();
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        attached.process.send(signal);
    }
    wait_for("vmtrace has taken the signals", || proc::status(pid, "ShdPnd").as_deref() == Some("0000000000000000"));
    target.send(Signal::SIGUSR1);
    target.end().expect_code(0);
    attached.end();
}
