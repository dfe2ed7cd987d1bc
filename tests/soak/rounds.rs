//! The kinds of rounds.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::process::{Ended, Process, command, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, launch, reports, vmtrace};
use crate::common::{proc, sides, wait_for};
use crate::tally::{Random, Tally};

type Round = fn(&mut Random, &mut Tally);

pub const KINDS: &[(&str, Round)] = &[
    ("vmtrace is killed", killed),
    ("vmtrace leaves", left),
    ("a stopped target", stopped),
    ("the target ends", target_ends),
    ("vmtrace is killed while it launches", launch_killed),
    ("in the middle of a life", middle_of_life),
    ("random calls", random_calls),
    ("a recording is cut off", recording_cut),
    ("signals from all sides", signals_from_all_sides),
];

/// Programs that check themselves what they get, until their input ends.
const TARGETS: &[(&str, &[&str])] = &[
    ("crowd", &["20", "4"]),
    ("crowd", &["2", "1"]),
    ("count_signals", &[]),
    ("mixed_signals", &[]),
    ("spawn_storm", &[]),
    ("vfork_blocked", &[]),
];

/// Programs that come to an end, and how many threads' stacks they never let go of, which is known at their end whenever vmtrace
/// came.
const LEAVERS: &[(&str, &[&str], u64)] = &[
    ("unjoined", &[], 6),
    ("unjoined.static", &[], 6),
    ("unjoined.musl", &[], 6),
    ("unjoined_once", &[], 1),
    ("unjoined_once.musl", &[], 1),
    ("alive_at_attach", &["0"], 3),
    ("alive_at_attach.musl", &["4096"], 3),
    ("alive_at_attach.oldest", &["4096"], 3),
    ("mixed", &[], 5),
    ("mixed_one_size", &[], 3),
    ("no_guard", &[], 4),
    ("two_sites", &[], 9),
    ("two_sites.musl", &[], 9),
    ("plugins", &[], 4),
    ("leaked_many", &["100"], 100),
    ("joined", &[], 0),
    ("joined.musl", &[], 0),
    ("detached", &[], 0),
    ("detached.musl", &[], 0),
];

const ENGINES: &[&[&str]] = &[&["--engine=ptrace", "--max-overhead=100"], &["--engine=perf"], &["--follow=threads"]];

/// The time in which vmtrace starts, attaches and follows for a while.
const MOST_PAUSE: Duration = Duration::from_millis(250);

/// vmtrace, about to follow a process.
fn follow(pid: i32, options: &[&str]) -> Command {
    let mut command = vmtrace(["--format=json", "-p", &pid.to_string()]);
    command.args(options);
    command
}

fn some_target(random: &mut Random) -> Process {
    let (name, arguments) = random.one_of(TARGETS);
    start(name, arguments)
}

/// Ends a target, which then says whether all was as it should be.
fn expect_unharmed(target: Process, tally: &mut Tally) {
    let ended = target.end().expect_code(0);
    let counted = ended.output().lines().last().and_then(|line| line.parse().ok());
    tally.add("signals, threads and programs that a target has counted", counted.unwrap_or(0));
    tally.add("targets that went on unharmed to their end", 1);
}

fn expect_free(target: &Process) {
    wait_for("the target is left alone", || proc::is_free(target.pid()));
    assert!(!target.has_ended(), "the target is gone: {target:?}");
}

/// The last report; none only where a signal came before vmtrace was ready for it.
fn last_report(ended: &Ended) -> Option<Report> {
    if ended.status.code().is_none() {
        return None;
    }
    assert_eq!(ended.code(), 0, "{}", ended.errors());
    assert!(!ended.errors().contains("panicked"), "{}", ended.errors());
    Some(reports(&ended.output()).pop().unwrap_or_else(|| panic!("no report: {}", ended.errors())))
}

fn expect_verified(report: &Report, context: &str) {
    assert_eq!(report.at("/verify/mismatches"), 0, "{context}");
    report.expect_clean(context);
}

/// vmtrace is killed at any moment from its start on: the target does not notice.
fn killed(random: &mut Random, tally: &mut Tally) {
    let target = some_target(random);
    for _ in 0..10 {
        let vmtrace = Process::start(&mut follow(target.pid(), random.one_of(ENGINES)));
        random.pause(MOST_PAUSE);
        vmtrace.send(Signal::SIGKILL);
        assert_eq!(vmtrace.end().code(), 137);
        tally.add("vmtrace killed while attached, or on its way", 1);
        expect_free(&target);
    }
    expect_unharmed(target, tally);
}

/// vmtrace is asked to end at any moment, or ends of its own accord: there is a report, and the target does not notice.
fn left(random: &mut Random, tally: &mut Tally) {
    let target = some_target(random);
    for _ in 0..6 {
        let engine = random.one_of(ENGINES);
        let threads = engine == ["--follow=threads"];
        let mut command = follow(target.pid(), engine);
        if !threads {
            command.arg("--verify=20");
        }
        if random.below(2) == 0 {
            command.arg(format!("--for={}ms", 1 + random.below(200)));
        }
        let vmtrace = Process::start(&mut command);
        random.pause(MOST_PAUSE);
        vmtrace.send(random.one_of(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]));
        let ended = vmtrace.end();
        let context = format!("{command:?} on {target:?}\n{}", ended.errors());
        match last_report(&ended) {
            Some(report) if threads => report.expect_clean(&context),
            Some(report) => {
                expect_verified(&report, &context);
                tally.add(
                    "comparisons of the model with the kernel, without a difference",
                    report.number("/verify/checks"),
                );
            }
            None => tally.add("vmtrace ended by a signal before it followed", 1),
        }
        tally.add("vmtrace left its target", 1);
        expect_free(&target);
    }
    expect_unharmed(target, tally);
}

/// The target is stopped by job control, before or while it is followed: it stays so, whatever becomes of vmtrace.
fn stopped(random: &mut Random, tally: &mut Tally) {
    let target = start("crowd", &["5", "2"]);
    for _ in 0..4 {
        let stop_first = random.below(2) == 0;
        if stop_first {
            target.send(Signal::SIGSTOP);
        }
        let vmtrace = Process::start(&mut follow(target.pid(), random.one_of(ENGINES)));
        random.pause(MOST_PAUSE);
        if !stop_first {
            target.send(Signal::SIGSTOP);
            random.pause(MOST_PAUSE);
        }
        vmtrace.send(random.one_of(&[Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM]));
        vmtrace.end();
        wait_for("it is stopped by job control, and by nobody else", || {
            proc::is_stopped(target.pid()) && proc::is_free(target.pid())
        });
        tally.add("targets left stopped by job control", 1);
        target.send(Signal::SIGCONT);
        wait_for("it runs", || !proc::threads(target.pid()).iter().any(|tid| proc::state(*tid) == Some('T')));
    }
    expect_unharmed(target, tally);
}

/// The target ends at any moment, in its own way or killed: the report says how.
fn target_ends(random: &mut Random, tally: &mut Tally) {
    for _ in 0..4 {
        let mut target = some_target(random);
        let vmtrace = Process::start(&mut follow(target.pid(), random.one_of(ENGINES)));
        random.pause(MOST_PAUSE);
        let killed = random.below(2) == 0;
        if killed {
            target.send(Signal::SIGKILL);
        }
        // A child of it may live on until then.
        target.close_input();
        let ended = vmtrace.end();
        let was_gone = ended.code() == 125;
        if was_gone {
            assert!(ended.errors().starts_with("vmtrace: "), "{}", ended.errors());
            tally.add("targets that had ended before vmtrace came", 1);
        } else {
            let report = last_report(&ended).expect("nobody has killed vmtrace");
            let exit = report.at("/target/exit");
            assert_eq!((&exit["code"], &exit["signal"]) == (&0.into(), &().into()), !killed, "{exit}");
            tally.add("targets that ended while followed", 1);
        }
        target.end().expect_code(if killed { 137 } else { 0 });
    }
}

/// vmtrace is killed while it launches or follows a program: that does not outlive it under ptrace, whose filter would make
/// its calls fail; by perf it goes on, as if nobody had been there.
fn launch_killed(random: &mut Random, tally: &mut Tally) {
    for _ in 0..5 {
        let seed = random.below(1 << 31).to_string();
        let by_perf = random.below(3) == 0;
        let mut command = vmtrace(by_perf.then_some("--engine=perf"));
        let vmtrace = Process::start(command.arg("--").args([testprog("random_calls"), &seed, "100000000", "4"]));
        random.pause(MOST_PAUSE);
        vmtrace.send(Signal::SIGKILL);
        wait_for("vmtrace has ended", || vmtrace.has_ended());
        // What it is called by /proc it changes itself.
        let programs = || -> Vec<i32> {
            let program = Some(Path::new(testprog("random_calls")));
            proc::group(vmtrace.pid()).into_iter().filter(|pid| proc::program(*pid).as_deref() == program).collect()
        };
        if by_perf {
            for pid in programs() {
                assert!(proc::is_free(pid));
                kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs on");
                tally.add("programs that ran on when a vmtrace that followed by perf was killed", 1);
            }
        } else {
            wait_for("its program has ended with it", || {
                programs().iter().all(|pid| matches!(proc::state(*pid), None | Some('Z')))
            });
            tally.add("vmtrace killed while launching, and the program with it", 1);
        }
    }
}

/// Signals to a launched program, to vmtrace, and to the group of both: the program gets each once.
fn signals_from_all_sides(random: &mut Random, tally: &mut Tally) {
    const WAYS: &[&[&str]] = &[&["--engine=ptrace"], &["--engine=perf"], &["--for=1ms"], &["--follow=threads"]];
    const AT_ONCE: usize = 200;
    let options = random.one_of(WAYS);
    sides::expect_each_once(options, AT_ONCE, &mut |limit| random.below(limit));
    tally.add("signals to a program, to vmtrace or to both, each of which arrived once", AT_ONCE as u64);
}

/// vmtrace comes at any moment of a program's life, and follows it to its end: all that it has left is found.
fn middle_of_life(random: &mut Random, tally: &mut Tally) {
    for _ in 0..5 {
        let (name, arguments, left) = random.one_of(LEAVERS);
        let mut target = Process::start(&mut command(testprog(name), arguments));
        target.close_input();
        random.pause(Duration::from_millis(150));
        // So that it does not end meanwhile.
        target.send(Signal::SIGSTOP);
        wait_for("it has stopped", || target.has_ended() || proc::is_stopped(target.pid()));
        if target.has_ended() {
            tally.add("programs that had ended before vmtrace could come", 1);
            target.end().expect_code(0);
            continue;
        }
        let by_perf = random.below(2) == 0;
        let engine: &[&str] = match random.below(2) {
            _ if by_perf => &[],
            0 => &["--engine=ptrace", "--max-overhead=100"],
            _ => &["--follow=threads"],
        };
        let vmtrace = Process::start(follow(target.pid(), engine).arg("-v"));
        wait_for("vmtrace follows", || match by_perf {
            // It says what it has taken of its own accord once it follows.
            true => vmtrace.errors().contains("vmtrace: perf: "),
            false => proc::is_traced_by(target.pid(), vmtrace.pid()),
        });
        target.send(Signal::SIGCONT);
        target.end().expect_code(0);
        let ended = vmtrace.end();
        let report = last_report(&ended).expect("it has followed");
        let of = |finding: &Value| (finding["reason"] == "unjoined").then(|| finding["regions"].as_u64()).flatten();
        let found: Option<Vec<u64>> = report.findings().iter().map(of).collect();
        let context = || format!("{name} {engine:?}: {:#}\n{:#}", report.at("/findings"), report.at("/notes"));
        assert_eq!(found.map(|found| found.iter().sum::<u64>()), Some(left), "{}", context());
        tally.add("programs followed from the middle of their life on, and just what they left was found", 1);
    }
}

/// Random calls of random threads: the model agrees with the kernel.
fn random_calls(random: &mut Random, tally: &mut Tally) {
    let (threads, every) = (random.one_of(&["1", "4", "16"]), random.one_of(&[1, 7, 50]));
    let calls = if every == 1 { "3000" } else { "30000" };
    let seed = random.below(1 << 31).to_string();
    let program = random.one_of(&["random_calls", "random_calls", "random_calls.i386"]);
    let mut words = vec![testprog(program), &seed, calls, threads];
    for word in ["fork", "faults"] {
        if random.below(2) == 0 {
            words.push(word);
        }
    }
    let launched = launch(&[&format!("--verify={every}"), "--min-confidence=possible"], &words);
    let errors = launched.ended.errors();
    launched.report.expect_verified(&format!("{words:?}"), &errors);
    launched.report.expect_clean(&format!("{words:?}"));
    launched.ended.expect_code(0);
    tally.add("random mapping calls and other events", launched.report.number("/counts/events"));
    tally.add(
        "comparisons of the model with the kernel, without a difference",
        launched.report.number("/verify/checks"),
    );
}

/// vmtrace is killed while it records: what was written can be replayed, or is said to be too little.
fn recording_cut(random: &mut Random, tally: &mut Tally) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("cut");
    let target = start("crowd", &["3", "2"]);
    for _ in 0..3 {
        let mut command = follow(target.pid(), random.one_of(ENGINES));
        let vmtrace = Process::start(command.arg("--record").arg(&file));
        random.pause(4 * MOST_PAUSE);
        vmtrace.send(Signal::SIGKILL);
        vmtrace.end();
        if file.exists() {
            replayed(&file);
            tally.add("recordings cut off and replayed", 1);
        }
        expect_free(&target);
    }
    expect_unharmed(target, tally);
}

fn replayed(file: &Path) {
    let ended =
        run(&mut command(crate::common::vmtrace::VMTRACE, ["replay", "--format=json"].map(Path::new)).arg(file));
    match ended.code() {
        0 => reports(&ended.output()).pop().expect("a report").expect_clean("a program without a leak"),
        125 => assert!(
            ended.errors().starts_with("vmtrace: ") && ended.errors().lines().count() == 1,
            "{}",
            ended.errors()
        ),
        code => panic!("exit status {code}: {}", ended.errors()),
    }
}
