//! What is leaked already, seen from outside: each stack for what it is, never a wrong one, and the target left alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::process::{Process, command, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, attach, reports, vmtrace};
use crate::common::{need, proc, python, wait_for};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::Value;
use vmtrace::source::ptrace::halt::halted;
use vmtrace::units::Pid;

/// Inspects a process; gives the report, of which everything is listed.
#[track_caller]
fn inspect(pid: i32, options: &[&str]) -> Report {
    let words = ["inspect", "--format=json", "--min-confidence=possible", "-p", &pid.to_string()];
    let ended = run(vmtrace(words).args(options)).expect_code(0);
    assert_eq!(ended.errors(), "");
    let report = reports(&ended.output()).pop().expect("a report");
    assert_eq!(crate::common::schema::violations(&report.0), Vec::<String>::new());
    assert_eq!(crate::common::schema::contradictions(&report.0), Vec::<String>::new());
    assert_eq!((report.at("/target/mode"), report.at("/target/engine")), (&"inspect".into(), &"procfs".into()));
    assert_eq!(report.number("/counts/events"), 0);
    if notes(&report, "paused").is_empty() {
        assert_eq!(report.number("/counts/stops"), 0);
    }
    report
}

/// What vmtrace says when it cannot inspect a process.
#[track_caller]
fn refused(pid: i32) -> String {
    let errors = run(&mut vmtrace(["inspect", "-p", &pid.to_string()])).expect_code(125).errors();
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

/// Reason, confidence, regions and size of each finding.
fn summary(report: &Report) -> Vec<String> {
    let line = |finding: &Value| {
        let text = |key: &str| finding[key].to_string().trim_matches('"').to_owned();
        ["reason", "confidence", "regions", "region_bytes", "guard_bytes"].map(text).join(" ")
    };
    report.findings().iter().map(line).collect()
}

/// Regions and bytes of a kind in the breakdown of VIRT; none where there is none.
#[track_caller]
fn share(report: &Report, kind: &str) -> Option<(u64, u64)> {
    let shares = report.at("/memory/breakdown").as_array().expect("a list");
    let share = shares.iter().find(|share| share["kind"] == kind)?;
    Some((share["regions"].as_u64()?, share["virtual_bytes"].as_u64()?))
}

/// Notes of a kind.
fn notes<'a>(report: &'a Report, kind: &str) -> Vec<&'a Value> {
    report.at("/notes").as_array().expect("a list").iter().filter(|note| note["kind"] == kind).collect()
}

const UNJOINED: &str = "unjoined definite 3 1052672 4096";

/// Never joined, cached, live, given by the program, raw: side by side, each is what it is, whatever glibc it is.
#[test]
fn all_kinds_side_by_side() {
    for program in ["side_by_side", "side_by_side.static", "side_by_side.i386"] {
        let target = start(program, &["raw"]);
        let report = inspect(target.pid(), &[]);
        assert_eq!(summary(&report), [UNJOINED, "unmanaged possible 4 135168 4096"], "{program}");
        assert_eq!(share(&report, "orphaned-stacks"), Some((3, 3 * 1_052_672)), "{program}");
        assert_eq!(share(&report, "cached-stacks").map(|(regions, _)| regions), Some(2), "{program}");
        assert_eq!(share(&report, "live-stacks").map(|(regions, _)| regions), Some(4), "{program}");
        assert_eq!(share(&report, "program-stacks"), Some((1, 512 << 10)), "{program}");
        assert_eq!(share(&report, "main-stack").map(|(regions, _)| regions), Some(1), "{program}");
        assert_eq!(notes(&report, "stack-cache")[0]["regions"], 2, "{program}");
        let function = &report.findings()[0]["thread_function"];
        assert!(function["module"].as_str().is_some_and(|module| module.ends_with(program)), "{program}: {function}");
        assert!(function["offset"].as_u64().is_some_and(|offset| offset > 0), "{program}: {function}");
        assert_eq!(function["symbol"], "tell_tid", "{program}: {function}");
        assert!(report.number("/findings/0/resident_bytes") > 0, "the descriptors are resident");
        assert!(report.at("/findings/0/idle_seconds").is_null() && report.at("/findings/0/created").is_null());
        assert!(report.at("/findings/0/members/0/owner_tid").is_null());
        target.end().expect_code(0);
    }
}

/// What is joined late was a leak so far, and is none then, to a look from outside as to who follows.
#[test]
fn joined_late() {
    let mut target = start("joined_on_demand", &[]);
    let attached = attach(target.pid(), &["--min-confidence=possible"]).await_following();
    let unjoined = "unjoined definite 3 266240 4096";
    wait_for("they have been idle long enough", || summary(&attached.report_now()) == [unjoined]);
    assert_eq!(attached.report_now().at("/findings/0/thread_function/symbol"), "tell_tid");
    target.write(b"\n");
    target.await_output("joined");
    let report = attached.report_now();
    assert_eq!(summary(&report), [""; 0]);
    assert_eq!(notes(&report, "stack-cache")[0]["regions"], 3);
    attached.stop(Signal::SIGINT);
    assert_eq!(summary(&inspect(target.pid(), &[])), [""; 0]);
    target.end().expect_code(0);

    let target = start("joined_on_demand", &[]);
    assert_eq!(summary(&inspect(target.pid(), &[])), [unjoined]);
    target.end().expect_code(0);
}

/// Lists that change faster than they can be walked are looked at while all threads stand still, for a moment each time;
/// then the target goes on as it was. (On a busy machine the target may stand still by itself.)
#[test]
fn lists_that_never_stand_still() {
    let target = start("moving_lists", &[]);
    for _ in 0..3 {
        let report = inspect(target.pid(), &[]);
        assert_eq!(summary(&report), ["unjoined definite 40 69632 4096"]);
        let paused = notes(&report, "paused").first().map_or(0, |note| note["regions"].as_u64().expect("a number"));
        assert_eq!(report.number("/counts/stops"), paused);
        assert!(proc::is_free(target.pid()) && !proc::is_stopped(target.pid()));
    }
    target.end().expect_code(0);
}

/// What is seen while all threads stand still. Where the machine is too busy for that, those that have not stopped are left
/// alone for good when the thread that waited for them ends, and it is tried again.
#[track_caller]
fn while_halted<T: Send>(pid: i32, look: impl Fn() -> T + Sync) -> T {
    let mut seen = None;
    wait_for("all threads stand still", || {
        let halted = || halted(&[Pid(pid)], &look);
        match std::thread::scope(|scope| scope.spawn(halted).join().expect("it does not panic")) {
            Err(Errno::ETIMEDOUT) => wait_for("all are let go", || proc::is_free(pid)),
            result => seen = Some(result.expect("it is ours")),
        }
        seen.is_some()
    });
    seen.expect("it has been waited for")
}

/// In a brief stop all threads stand still, also in a storm; afterwards all go on, and no signal was lost or came twice.
#[test]
fn brief_stops() {
    let is_still = |pid| proc::threads(pid).iter().all(|tid| matches!(proc::state(*tid), Some('t' | 'Z' | 'X') | None));
    for (program, arguments) in [("crowd", &["20", "3"][..]), ("count_signals", &[])] {
        let target = start(program, arguments);
        for _ in 0..100 {
            assert!(while_halted(target.pid(), || (0..3).all(|_| is_still(target.pid()))), "{program}");
            assert!(proc::is_free(target.pid()));
        }
        target.end().expect_code(0);
    }
}

/// A process that job control has stopped stays so after a brief stop.
#[test]
fn a_brief_stop_of_a_stopped_process() {
    let target = start("crowd", &["3", "1"]);
    target.send(Signal::SIGSTOP);
    wait_for("it is stopped", || proc::is_stopped(target.pid()));
    while_halted(target.pid(), || ());
    wait_for("it is stopped again", || proc::is_stopped(target.pid()));
    target.send(Signal::SIGCONT);
    target.end().expect_code(0);
}

/// Joined threads leave nothing; the clean bill says at what was looked.
#[test]
fn a_clean_bill() {
    let target = start("crowd", &["3", "0"]);
    assert_eq!(summary(&inspect(target.pid(), &[])), [""; 0]);
    let text = run(&mut vmtrace(["inspect", "-p", &target.pid().to_string()])).expect_code(0).output();
    assert!(text.contains("No leaked thread stack found") && text.contains("4 live threads"), "{text}");
    assert!(text.contains("stacks of live threads") && !text.contains("event"), "{text}");
    target.end().expect_code(0);
}

/// The options of every report hold here too.
#[test]
fn options_of_every_report() {
    let target = start("side_by_side", &["raw"]);
    let pid = target.pid().to_string();
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let mut words = vmtrace(["inspect", "-p", &pid, "--error-exitcode=9", "--color=never", "-o"]);
    assert_eq!(run(words.arg(file.path())).expect_code(9).output(), "");
    let text = std::fs::read_to_string(file.path()).expect("a text");
    assert!(text.starts_with("vmtrace: side_by_side (pid "), "{text}");
    assert!(
        text.contains("LEAK  3 thread stacks were never unmapped so far") && text.contains("looked at in"),
        "{text}"
    );
    assert!(text.contains("is less than probable and not listed"), "{text}");
    assert!(text.contains("stacks of threads that ended and were never joined"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let definite = run(&mut vmtrace(["inspect", "-p", &pid, "--min-confidence=definite", "--color=always"]));
    assert!(definite.output().contains("\u{1b}["));
    run(&mut vmtrace(["inspect"])).expect_code(2);
    run(&mut vmtrace(["inspect", "-p", "0"])).expect_code(2);
    target.end().expect_code(0);
}

/// A process that job control has stopped can be inspected, and stays stopped.
#[test]
fn a_stopped_process() {
    let target = start("side_by_side", &[]);
    target.send(Signal::SIGSTOP);
    wait_for("it is stopped", || proc::is_stopped(target.pid()));
    for _ in 0..3 {
        assert_eq!(summary(&inspect(target.pid(), &[])), [UNJOINED]);
        assert!(proc::is_stopped(target.pid()));
    }
    target.send(Signal::SIGCONT);
    target.end().expect_code(0);
}

/// Nobody traces or stops the target at any time.
#[test]
fn the_target_is_left_alone() {
    let target = start("thread_storm", &["2", "3"]);
    let (pid, done) = (target.pid(), AtomicBool::new(false));
    let disturbed = |tid: &i32| {
        proc::tracer(*tid).is_some_and(|tracer| tracer != 0) || matches!(proc::state(*tid), Some('t' | 'T'))
    };
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut looks, mut seen) = (0_u32, 0_u32);
            while !done.load(Ordering::Acquire) {
                looks += 1;
                seen += u32::from(proc::threads(pid).iter().any(disturbed));
            }
            (looks, seen)
        });
        for _ in 0..10 {
            inspect(pid, &[]);
        }
        done.store(true, Ordering::Release);
        watcher.join().expect("it does not panic")
    });
    assert!(seen.0 > 100 && seen.1 == 0, "{seen:?}");
    target.end().expect_code(0);
}

/// While threads are made, joined and detached as fast as they can be, exactly those are found that nobody joins: two
/// hundred times in a row.
#[test]
fn never_wrong_in_a_storm() {
    let target = start("thread_storm", &["4", "5"]);
    for round in 0..40 {
        let words = ["inspect", "--format=json", "-p", &target.pid().to_string()];
        let ended = run(&mut vmtrace(words)).expect_code(0);
        let report = reports(&ended.output()).pop().expect("a report");
        assert_eq!(summary(&report), ["unjoined definite 5 266240 4096"], "round {round}: {:#}", report.0);
    }
    target.end().expect_code(0);
}

/// Threads that are joined or detached some time after their end are not taken for left ones by looks that always find
/// the program asleep, each time with other threads on the same stacks.
#[test]
fn late_joins_in_rounds() {
    for pause in ["50", "150"] {
        let target = start("late_rounds", &[pause]);
        for round in 0..10 {
            let report = inspect(target.pid(), &[]);
            assert_eq!(summary(&report), [""; 0], "a pause of {pause} ms, round {round}: {:#}", report.0);
        }
        target.end().expect_code(0);
    }
}

/// Thirty thousand stacks, near the limit of mappings, are found one and all.
#[test]
fn thirty_thousand() {
    let target = start("leaked_many", &["30000"]);
    let report = inspect(target.pid(), &[]);
    assert_eq!(summary(&report), ["unjoined definite 30000 20480 4096"]);
    assert!(report.number("/memory/vmas") > 60_000);
    target.end().expect_code(0);
}

/// Without lists that can be read nothing is claimed, and it is said why.
#[test]
fn other_libraries() {
    for program in ["side_by_side.musl", "side_by_side.stripped"] {
        let target = start(program, &[]);
        let report = inspect(target.pid(), &[]);
        assert_eq!(summary(&report), [""; 0], "{program}");
        let text = notes(&report, "incomplete")[0]["text"].to_string();
        assert!(text.contains("no glibc with readable thread lists"), "{text}");
        let pid = target.pid().to_string();
        let text = run(&mut vmtrace(["inspect", "-p", &pid])).expect_code(0).output();
        assert!(text.contains("not all could be seen") || text.contains("could not be judged"), "{text}");
        target.end().expect_code(0);
    }
}

/// Tasks that share the memory without being threads count as live, whichever of them is named.
#[test]
fn raw_clones() {
    let target = start("raw_family", &["5"]);
    let children = proc::children(target.pid());
    for pid in [target.pid(), children[0]] {
        let report = inspect(pid, &[]);
        assert_eq!(report.number("/counts/threads_live"), 6);
        assert_eq!(summary(&report), [""; 0]);
    }
    target.end().expect_code(0);
}

/// A process whose first thread has ended is read through another one.
#[test]
fn the_first_thread_has_ended() {
    let target = start("leaderless", &[]);
    wait_for("the first thread has ended", || proc::state(target.pid()) == Some('Z'));
    assert_eq!(summary(&inspect(target.pid(), &[])), ["unjoined definite 2 1052672 4096"]);
    target.end().expect_code(0);
}

/// In a PID namespace of its own, a process knows its threads by other numbers.
#[test]
fn another_pid_namespace() {
    need("unshare");
    let words = ["--user", "--map-root-user", "--pid", "--fork", testprog("side_by_side")];
    let outer = Process::start(&mut command("unshare", words));
    outer.await_output("ready");
    let [inner] = proc::children(outer.pid())[..] else { panic!("one child") };
    let report = inspect(inner, &[]);
    assert_eq!(summary(&report), [UNJOINED]);
    assert_eq!(report.number("/counts/threads_live"), 6);
    outer.end().expect_code(0);
}

/// What cannot be inspected: one line that says what, why, and what to do.
#[test]
fn refusals() {
    assert!(refused(i32::MAX).contains("no such process"));
    let target = start("crowd", &["1", "0"]);
    let thread = proc::threads(target.pid()).into_iter().find(|tid| *tid != target.pid()).expect("a thread");
    assert!(refused(thread).contains(&format!("inspect the process with -p {}", target.pid())));
    let kernel = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd");
    assert!(!kernel || refused(2).contains("kernel thread"));
    target.send(Signal::SIGKILL);
    wait_for("it has ended", || target.has_ended());
    assert!(refused(target.pid()).contains("zombie"));
}

/// Another user's process is refused, with both users named.
#[test]
fn another_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    need("setpriv");
    let target = start("crowd", &["1", "0"]);
    let words = [
        "--reuid=65534",
        "--clear-groups",
        crate::common::vmtrace::VMTRACE,
        "inspect",
        "-p",
        &target.pid().to_string(),
    ];
    let ended = run(&mut command("setpriv", words));
    // The folder of the tests may be closed to others; then there is nothing to be seen.
    if ended.code() == 125 {
        assert!(ended.errors().contains("runs as uid 0, vmtrace as uid 65534"), "{}", ended.errors());
    }
    target.end().expect_code(0);
}

/// A target that is killed at any moment of the look gives a report or one line, and nothing hangs.
#[test]
fn the_target_ends_meanwhile() {
    for number in 0..10_u64 {
        let target = start("thread_storm", &["3", "2"]);
        let looking = Process::start(&mut vmtrace(["inspect", "--format=json", "-p", &target.pid().to_string()]));
        std::thread::sleep(Duration::from_micros(number * 15_000));
        target.send(Signal::SIGKILL);
        let ended = looking.end();
        match ended.code() {
            0 => assert_eq!(reports(&ended.output()).len(), 1),
            125 => assert_eq!(ended.errors().lines().count(), 1, "{}", ended.errors()),
            code => panic!("status {code}: {}", ended.errors()),
        }
    }
}

/// Memory that a process has reserved and never touched stays so: a sanitizer's shadow has terabytes, and to read in it would
/// make the kernel fill the target's page tables.
#[test]
fn what_is_untouched_stays_so() {
    // MAP_NORESERVE has a name in later versions of Python alone.
    let script = "import mmap, sys\nflags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000\n\
                  reserved = mmap.mmap(-1, 1 << 40, flags=flags)\nprint('ready', flush=True)\nsys.stdin.read()";
    let target = Process::start(&mut command(python(), ["-I", "-c", script]));
    target.await_output("ready");
    let page_tables = || -> u64 {
        let value = proc::status(target.pid(), "VmPTE").expect("the kernel counts page tables");
        value.trim_end_matches("kB").trim().parse().expect("a number of KiB")
    };
    let before = page_tables();
    let report = inspect(target.pid(), &[]);
    assert!(report.number("/memory/virtual_bytes") > 1 << 40);
    // What is read of the libraries may be new to the process. A page in each 64 MiB of what is reserved would be 64 MiB.
    let grown = page_tables() - before;
    assert!(grown < 1024, "page tables have grown by {grown} KiB");
    target.end().expect_code(0);
}

/// Programs that people run have nothing to hide, not even at the lowest confidence.
#[test]
fn real_programs() {
    let python = python();
    let script = "import sys, threading\nfor _ in range(9): threading.Thread(target=sys.stdin.read).start()\nprint('ready', flush=True)";
    let interpreter = Process::start(&mut command(&python, ["-I", "-c", script]));
    interpreter.await_output("ready");
    assert_eq!(summary(&inspect(interpreter.pid(), &[])), [""; 0]);
    interpreter.end().expect_code(0);

    need("redis-server");
    let socket = tempfile::tempdir().expect("a folder can be made");
    let path = socket.path().join("redis").to_str().expect("a text").to_owned();
    let words = ["--port", "0", "--unixsocket", &path, "--save", "", "--appendonly", "no"];
    let redis = Process::start(command("redis-server", words).current_dir(socket.path()));
    wait_for("redis listens", || std::fs::exists(&path).unwrap_or(false) && proc::threads(redis.pid()).len() > 3);
    let report = inspect(redis.pid(), &[]);
    assert_eq!(summary(&report), [""; 0]);
    assert!(share(&report, "live-stacks").is_some_and(|(regions, _)| regions >= 3));
    redis.send(Signal::SIGTERM);
    redis.end().expect_code(0);
}
