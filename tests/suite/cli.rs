//! The command line as its users meet it: exit statuses, where reports go, and errors of one line.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::process::{Ended, Process, run};
use crate::common::testprogs::{start, testprog};
use crate::common::vmtrace::{Report, VMTRACE, attach, launch, reports, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;

/// Launches a shell script under vmtrace, with its report out of the way.
fn launch_script(script: &str) -> Ended {
    run(&mut vmtrace(["-o", "/dev/null", "--", "bash", "-c", script]))
}

/// The exit status is the program's own, or 128 + the signal that killed it, as in a shell.
#[test]
fn exit_status_of_the_program() {
    let statuses = [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
        ("kill -RTMIN $$", 128 + 34),
        ("kill -RTMAX $$", 128 + 64),
    ];
    for (script, status) in statuses {
        let errors = launch_script(script).expect_code(status).errors();
        assert_eq!(errors, "", "{script}");
    }
    // A child that goes on does not hold vmtrace's word on the program back.
    launch_script("(exit 3) & wait; exit 4").expect_code(4);
}

/// --error-exitcode tells of a finding that is listed, and of nothing else.
#[test]
fn error_exitcode() {
    let with = |options: &[&str], program: &[&str]| launch(options, program).ended.code();
    let (leak, lone) = (testprog("raw_clone"), testprog("raw_clone_once"));
    assert_eq!(with(&[], &[leak]), 0);
    assert_eq!(with(&["--error-exitcode=9"], &[leak]), 9);
    assert_eq!(with(&["--error-exitcode=9"], &["sh", "-c", "exit 4"]), 4);
    assert_eq!(with(&["--error-exitcode=9"], &["true"]), 0);
    assert_eq!(with(&["--error-exitcode=9"], &["sh", "-c", &format!("{leak}; exit 4")]), 9);
    assert_eq!(with(&["--error-exitcode=9"], &[lone]), 0, "a finding that is not sure enough");
    assert_eq!(with(&["--error-exitcode=9", "--min-confidence=possible"], &[lone]), 9);
    assert_eq!(with(&["--error-exitcode=9", "--min-confidence=definite"], &[leak]), 9);
}

/// Wrong usage is status 2, and says what is wrong with what.
#[test]
fn wrong_usage() {
    let wrong: &[(&[&str], &str)] = &[
        (&[], "nothing to follow"),
        (&["--verify"], "nothing to follow"),
        (&["-p", "1", "--", "true"], "not both"),
        (&["-p", "x"], "'x'"),
        (&["-p", "0"], "'0'"),
        (&["-p", "-5"], "-5"),
        (&["--nonsense", "--", "true"], "--nonsense"),
        (&["true"], "true"),
        (&["--error-exitcode=0", "--", "true"], "'0'"),
        (&["--error-exitcode=256", "--", "true"], "'256'"),
        (&["--verify=0", "--", "true"], "'0'"),
        (&["--verify=many", "--", "true"], "'many'"),
        (&["--format=xml", "--", "true"], "'xml'"),
        (&["--min-confidence=high", "--", "true"], "'high'"),
        (&["check"], "<MANIFEST>"),
        (&["check", "-j0", "x.toml"], "'0'"),
    ];
    for (arguments, told) in wrong {
        let ended = run(&mut vmtrace(*arguments)).expect_code(2);
        assert!(ended.errors().contains(told), "{arguments:?}: no {told:?} in {}", ended.errors());
        assert_eq!(ended.output(), "", "{arguments:?}");
    }
}

/// A duration that is none is wrong usage, and the error says how durations are written.
#[test]
fn bad_durations() {
    for option in ["--for", "--every"] {
        for duration in
            ["", "5", "s", "-1s", "5 parsecs", "1d", "1e3s", "0s", "0.0m", "1.2.3s", "99999999999999999999h"]
        {
            let ended = run(&mut vmtrace([&format!("{option}={duration}"), "--", "true"])).expect_code(2);
            let errors = ended.errors();
            assert!(errors.contains(&format!("'{duration}'")), "{duration:?}: {errors}");
            let says_how = errors.contains("500ms, 30s, 2m or 1h") || errors.contains("above 0") || duration.is_empty();
            assert!(says_how, "{duration:?}: {errors}");
        }
    }
    run(&mut vmtrace(["--for=1.5m", "-o", "/dev/null", "--", "true"])).expect_code(0);
}

/// A program that cannot be executed is status 126, one that is not found 127; nothing else is said than why.
#[test]
fn programs_that_cannot_be_run() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("no-program");
    fs::write(&file, "text").expect("a file can be written");
    let file = file.to_str().expect("a text");
    let missing = format!("{file}-at-all");
    let cases = [
        (file, 126),
        (folder.path().to_str().expect("a text"), 126),
        (&missing, 127),
        ("no-such-program", 127),
        ("", 127),
    ];
    for (program, status) in cases {
        let ended = run(&mut vmtrace(["--", program, "argument"])).expect_code(status);
        let errors = ended.errors();
        assert!(errors.starts_with(&format!("vmtrace: cannot run {program}: ")), "{errors}");
        assert_eq!((errors.lines().count(), ended.output().as_str()), (1, ""), "{errors}");
    }
}

/// In launch mode stdout is the program's alone, to the byte, and the report goes to stderr.
#[test]
fn the_report_of_a_launch_is_on_stderr() {
    let ended = run(&mut vmtrace(["--", "printf", r"a\0b\377\n\n"])).expect_code(0);
    assert_eq!(ended.output, b"a\0b\xff\n\n");
    let errors = ended.errors();
    assert!(errors.starts_with("vmtrace: printf (pid ") && errors.contains("No leak found"), "{errors}");

    let ended = run(&mut vmtrace(["--format=json", "--", testprog("raw_clone")])).expect_code(0);
    assert_eq!(ended.output(), "");
    assert_eq!(reports(&ended.errors()).len(), 1, "{}", ended.errors());
}

/// In attach mode the report goes to stdout, and stderr stays empty.
#[test]
fn the_report_of_an_attach_is_on_stdout() {
    let target = start("crowd", &["2", "1"]);
    let ended = run(&mut vmtrace(["-p", &target.pid().to_string(), "--for=100ms"])).expect_code(0);
    assert_eq!(ended.errors(), "");
    assert!(ended.output().starts_with(&format!("vmtrace: crowd (pid {})", target.pid())), "{}", ended.output());
    target.end().expect_code(0);
}

/// -o replaces a file by a complete report when there is one, and not before; nothing else is left beside it.
#[test]
fn a_file_is_replaced_by_a_complete_report() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("report");
    fs::write(&file, "the old one").expect("a file can be written");
    let content = || fs::read_to_string(&file).expect("the file is there");

    let target = start("crowd", &["2", "1"]);
    let attached = attach(target.pid(), &["-o", file.to_str().expect("a text")]);
    assert_eq!(content(), "the old one");
    // As of now, and at the end: each complete.
    attached.process.send(Signal::SIGUSR1);
    wait_for("the file is replaced", || content() != "the old one");
    let first = reports(&content()).pop().expect("a complete report");
    assert!(first.at("/target/exit").is_null());
    attached.process.send(Signal::SIGINT);
    attached.process.end().expect_code(0);
    let last = reports(&content());
    assert_eq!(last.len(), 1, "one report, not appended to another");
    assert!(last[0].at("/span/seconds").as_f64() >= first.at("/span/seconds").as_f64());
    let left: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["report"]);
}

/// -o writes what is no regular file in place: /dev/null stays a device, and a fifo gets the report through.
#[test]
fn devices_and_pipes_are_written_in_place() {
    run(&mut vmtrace(["-o", "/dev/null", "--", "true"])).expect_code(0);
    assert!(fs::metadata("/dev/null").expect("it is there").file_type().is_char_device());

    let folder = tempfile::tempdir().expect("a folder can be made");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo can be made");
    let path = fifo.clone();
    let reader = std::thread::spawn(move || fs::read_to_string(path).expect("it can be read"));
    let ended = run(vmtrace(["--format=json", "-o"]).arg(&fifo).args(["--", "true"])).expect_code(0);
    assert_eq!(ended.errors(), "");
    assert_eq!(reports(&reader.join().expect("it was read")).len(), 1);
    assert!(fs::metadata(&fifo).expect("it is there").file_type().is_fifo());
}

/// A report that nobody reads keeps vmtrace waiting, but not from being ended.
#[test]
fn a_report_without_a_reader_can_be_given_up() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo can be made");
    let mut options = File::options();
    let mut reader =
        options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).expect("it can be opened");
    let mut command = vmtrace(["--format=json", "--min-confidence=possible", "-o"]);
    command.arg(&fifo).args(["--", testprog("leaked_many"), "400"]);
    let vmtrace = Process::start_as_it_is(command.stdin(Stdio::null()));
    wait_for("the report is being written", || reader.read(&mut [0]).is_ok_and(|bytes| bytes == 1));
    wait_for("vmtrace is ended", || {
        vmtrace.send(Signal::SIGTERM);
        vmtrace.has_ended()
    });
    assert_eq!(vmtrace.end().code(), 128 + Signal::SIGTERM as i32);
}

/// What -o names by a link stays a link, a stream is written to and not replaced, and a file keeps its rights.
#[test]
fn output_through_links() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
    fs::write(&file, "before").expect("it can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    symlink("file", &link).expect("a link can be made");
    run(vmtrace(["--format=json", "-o"]).arg(&link).args(["--", "true"])).expect_code(0);
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert_eq!(reports(&fs::read_to_string(&file).expect("it is there")).len(), 1);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o640);

    let stream = folder.path().join("stream");
    symlink("/proc/self/fd/1", &stream).expect("a link can be made");
    let output = File::create(folder.path().join("output")).expect("it can be made");
    let mut command = vmtrace(["--format=json", "-o"]);
    command.arg(&stream).args(["--", "echo", "its own"]).stdout(output);
    Process::start_redirected(command.stdin(Stdio::null()).stderr(Stdio::piped())).end().expect_code(0);
    assert!(fs::symlink_metadata(&stream).expect("it is there").is_symlink());
    let text = fs::read_to_string(folder.path().join("output")).expect("it is there");
    let report = text.strip_prefix("its own\n").expect("the program's output comes first");
    assert_eq!(reports(report).len(), 1);
}

/// Two options do not write to the same file.
#[test]
fn one_file_for_two_options() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("file");
    for options in [["-o", "--record"], ["-o", "--events"], ["--record", "--events"]] {
        let mut command = vmtrace([options[0]]);
        let ended = run(command.arg(&file).arg(options[1]).arg(folder.path().join("./file")).args(["--", "true"]));
        let errors = ended.expect_code(2).errors();
        assert!(errors.contains("name the same file"), "{errors}");
        assert!(!file.exists());
    }
}

/// A file that cannot be written is told before anything is run.
#[test]
fn an_impossible_output_is_told_first() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mark = folder.path().join("ran");
    for output in ["/no/such/folder/report", "/proc/report", "/dev"] {
        let mut command = vmtrace(["-o", output, "--", "touch"]);
        let errors = run(command.arg(&mark)).expect_code(125).errors();
        assert!(errors.starts_with(&format!("vmtrace: cannot write to {output}: ")), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(!mark.exists(), "the program has run");
    }
}

/// A reader that has gone away is no error.
#[test]
fn a_closed_pipe_is_no_error() {
    let target = start("crowd", &["2", "0"]);
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = vmtrace(["-p", &target.pid().to_string(), "--for=50ms"]);
    let vmtrace = Process::start_redirected(command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()));
    drop(command);
    assert_eq!(vmtrace.end().expect_code(0).errors(), "");
    target.end().expect_code(0);
}

/// A full disk is told, with the report on stderr, for it may be all there is.
#[test]
fn a_full_disk_does_not_lose_the_report() {
    let target = start("crowd", &["2", "0"]);
    let pid = target.pid().to_string();
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full is there");
    let mut to_stdout = vmtrace(["--format=json", "-p", &pid, "--for=50ms"]);
    to_stdout.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped());
    let mut to_file = vmtrace(["--format=json", "-p", &pid, "--for=50ms", "-o", "/dev/full"]);
    to_file.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for command in [&mut to_stdout, &mut to_file] {
        let errors = Process::start_redirected(command).end().expect_code(125).errors();
        assert_eq!(reports(&errors).len(), 1, "{errors}");
        let told = errors.lines().last().expect("a line");
        assert!(told.starts_with("vmtrace: cannot write the report to ") && told.contains("No space left"), "{errors}");
    }
    target.end().expect_code(0);
}

/// Where nobody can be told how it is done, it is done all the same.
#[test]
fn verbose_to_a_full_disk() {
    let mut verbose = vmtrace(["-v", "-o", "/dev/null", "--", "true"]);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full is there");
    verbose.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
    Process::start_redirected(&mut verbose).end().expect_code(0);
}

/// --help lists the options and commands that the contract promises and that exist, and fits a terminal.
#[test]
fn help() {
    let options = ["--pid", "--for", "--every", "--engine", "--verify", "--events", "--format", "--output"];
    let more = ["--min-confidence", "--error-exitcode", "--color", "--help", "--version", "demo", "check"];
    for argument in ["--help", "-h"] {
        let ended = run(&mut vmtrace([argument])).expect_code(0);
        let help = ended.output();
        for name in options.iter().chain(&more) {
            assert!(help.contains(name), "no {name} in {help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
        assert_eq!(ended.errors(), "");
    }
    for command in ["check", "demo"] {
        assert!(run(&mut vmtrace([command, "--help"])).expect_code(0).output().contains("Usage: vmtrace "));
    }
    let version = format!("vmtrace {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&mut vmtrace(["--version"])).expect_code(0).output(), version);
}

/// The demo finds the leak that it makes, and says so on stdout.
#[test]
fn demo() {
    let ended = run(&mut vmtrace(["demo", "--format=json"])).expect_code(0);
    let found = reports(&ended.output()).pop().expect("a report");
    assert_eq!(found.findings().len(), 1, "{}", found.0);
    assert_eq!((found.number("/findings/0/regions"), found.number("/findings/0/region_bytes")), (8, 40_960));
    assert_eq!(found.findings()[0]["confidence"], "definite");
    found.expect_verified("demo", &ended.errors());
    run(&mut vmtrace(["demo", "--error-exitcode=3"])).expect_code(3);
}

/// --color dresses the text, or not; by itself only a terminal is coloured.
#[test]
fn colour() {
    let leak = testprog("raw_clone");
    let errors = |arguments: &[&str]| run(vmtrace(arguments).args(["--", leak])).expect_code(0).errors();
    assert!(errors(&["--color=always"]).contains('\x1b'));
    assert!(!errors(&["--color=never"]).contains('\x1b'));
    assert!(!errors(&[]).contains('\x1b'));
    let plain = errors(&["--color=never"]);
    assert!(plain.contains("LEAK  5 thread stacks"), "{plain}");
}

/// The text fits in 100 columns, whatever it has to say.
#[test]
fn text_fits_its_columns() {
    let long = "an-argument-that-is-long ".repeat(40);
    let programs: &[&[&str]] = &[
        &[testprog("raw_clone"), &long],
        &[testprog("unjoined")],
        &[testprog("guard_left")],
        &[testprog("mixed")],
        &[testprog("rlimit_as")],
        &[testprog("raw_clone_once")],
        &["sh", "-c", "exit 3"],
    ];
    for program in programs {
        for options in [&["--verify=1"][..], &["--min-confidence=possible"]] {
            let ended = run(vmtrace(options).arg("--").args(*program));
            let report = ended.errors();
            assert!(report.starts_with("vmtrace: "), "{program:?}: {report}");
            for line in report.lines() {
                assert!(line.chars().count() <= 100, "{program:?}: {line}");
                assert_eq!(line, line.trim_end(), "{program:?}: blanks at the end");
            }
        }
    }
}

/// What is below --min-confidence is counted in one line, not listed.
#[test]
fn unlisted_findings_are_counted() {
    let lone = testprog("raw_clone_once");
    let errors = run(&mut vmtrace(["--", lone])).expect_code(0).errors();
    assert!(
        errors.contains("1 finding (64 KiB) is less than probable and not listed; --min-confidence possible"),
        "{errors}"
    );
    let report = launch(&[], &[lone]).report;
    assert_eq!((report.findings().len(), report.number("/memory/leaked_virtual_bytes")), (0, 0));
    let report = launch(&["--min-confidence=possible"], &[lone]).report;
    assert_eq!((report.findings().len(), report.number("/memory/leaked_virtual_bytes")), (1, 65_536));
}

/// Copies vmtrace to where anybody may execute it.
fn copy_for_all(folder: &Path) -> String {
    let copy = folder.join("vmtrace");
    fs::copy(VMTRACE, &copy).expect("it can be copied");
    for path in [folder, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("they are ours");
    }
    copy.to_str().expect("a text").to_owned()
}

/// Fails the test unless vmtrace itself has failed, with one line that says all this.
#[track_caller]
fn expect_one_line(command: &mut Command, told: &[&str]) {
    let ended = run(command).expect_code(125);
    let errors = ended.errors();
    assert!(errors.starts_with("vmtrace: ") && errors.lines().count() == 1, "{errors}");
    assert_eq!(ended.output(), "", "{errors}");
    for text in told {
        assert!(errors.contains(text), "no {text:?} in {errors}");
    }
}

/// A vmtrace that is traced with its children cannot trace these, and says by whom, and what goes nevertheless.
#[test]
fn launched_under_a_tracer() {
    need("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=none", "-o", "/dev/null", VMTRACE, "--", "true"]);
    expect_one_line(&mut strace, &["vmtrace itself is traced", "strace", "--engine perf"]);
}

/// A process that cannot be attached to is told in one line: what, why, and what to do.
#[test]
fn processes_that_cannot_be_attached_to() {
    let attach_to = |pid: i32| vmtrace(["-p".to_owned(), pid.to_string(), "--for=1s".to_owned()]);
    let gone = start("tell_signals", &[]).pid();
    expect_one_line(&mut attach_to(gone), &[&format!("no such process: {gone}"), "ps -e"]);
    expect_one_line(&mut attach_to(i32::MAX), &["no such process"]);

    let target = start("crowd", &["3", "0"]);
    let pid = target.pid();
    let thread = proc::threads(pid).into_iter().find(|tid| *tid != pid).expect("it has threads");
    expect_one_line(&mut attach_to(thread), &[&format!("{thread} is a thread of process {pid}"), &format!("-p {pid}")]);

    let zombie = Process::start(&mut Command::new("true"));
    wait_for("it is a zombie", || proc::state(zombie.pid()) == Some('Z'));
    expect_one_line(&mut attach_to(zombie.pid()), &[&zombie.pid().to_string(), "ended"]);

    let itself = run(Command::new("bash").args(["-c", "exec \"$0\" -p $$", VMTRACE])).expect_code(125).errors();
    assert!(itself.contains("this vmtrace itself") && itself.lines().count() == 1, "{itself}");

    need("strace");
    let strace = Process::start(Command::new("strace").args(["-f", "-e", "trace=none", "-p", &pid.to_string()]));
    wait_for("strace has attached", || proc::is_traced_by(pid, strace.pid()));
    let words = ["--engine=ptrace".to_owned(), "-p".to_owned(), pid.to_string()];
    expect_one_line(&mut vmtrace(words), &["already traced", &format!("process {} (strace)", strace.pid())]);
    drop(strace);
    wait_for("strace has let it go", || proc::is_free(pid));
    target.end().expect_code(0);
}

/// Another user's process is told in one line that names both users. Launching is anybody's right, filter and all.
#[test]
fn without_privileges() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let copy = copy_for_all(folder.path());
    let target = start("crowd", &["2", "0"]);
    let (victim, mut unprivileged) = if nix::unistd::geteuid().is_root() {
        need("setpriv");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &copy]);
        (target.pid(), command)
    } else {
        (1, Command::new(&copy))
    };
    let options = unprivileged.current_dir("/");
    let mut launching = Command::new(options.get_program());
    launching.args(options.get_args()).args(["--format=json", "--", "sh", "-c", "exit 5"]).current_dir("/");
    let own = if nix::unistd::geteuid().is_root() { 65_534 } else { nix::unistd::geteuid().as_raw() };
    let told = [&format!("not permitted to trace process {victim}"), "uid 0", &format!("uid {own}"), "root"];
    expect_one_line(options.args(["-p", &victim.to_string()]), &told);
    assert!(proc::is_free(target.pid()));

    let ended = run(&mut launching).expect_code(5);
    let report = reports(&ended.errors()).pop().expect("a report, and no complaint about filters");
    assert_eq!(report.at("/target/exit/code"), 5);
    target.end().expect_code(0);
}

/// Everything of the contract, of reports of every kind.
#[test]
fn json_keeps_its_contract() {
    let launched = |options: &[&str], program: &[&str]| launch(options, program).report;
    let mut target = start("attach_loop", &["0", "2", "50"]);
    let attached = attach(target.pid(), &["--verify=1"]).await_following();
    let as_of_now = attached.report_now();
    target.close_input();
    let at_its_end = attached.end();
    target.end().expect_code(0);
    let all: [(&str, Report); 8] = [
        ("leak", launched(&["--verify"], &[testprog("raw_clone")])),
        ("leak of the library", launched(&[], &[testprog("unjoined")])),
        ("parts", launched(&[], &[testprog("guard_left")])),
        ("mappings", launched(&["--min-confidence=possible"], &[testprog("orphaned_mapping"), "left"])),
        ("a limit", launched(&[], &[testprog("rlimit_as")])),
        ("killed", launched(&[], &[testprog("killed")])),
        ("as of now", as_of_now),
        ("attached", at_its_end),
    ];
    for (name, report) in &all {
        let violations = crate::common::schema::violations(&report.0);
        assert!(violations.is_empty(), "{name}: {violations:?}\n{:#}", report.0);
        let contradictions = crate::common::schema::contradictions(&report.0);
        assert!(contradictions.is_empty(), "{name}: {contradictions:?}\n{:#}", report.0);
    }
    let [leak, _, _, mappings, limit, killed, now, end] = all.map(|(_, report)| report);
    assert_eq!(leak.at("/target/mode"), "launch");
    assert_eq!(leak.at("/target/exit/code"), 0);
    assert_eq!(leak.at("/target/command/0").as_str(), Some(testprog("raw_clone")));
    assert!(!leak.at("/verify").is_null() && limit.at("/verify").is_null());
    assert_eq!(mappings.at("/findings/0/rule"), "orphaned-mapping");
    assert_eq!(
        limit.at("/notes").as_array().expect("notes").iter().filter(|note| note["kind"] == "limit-hit").count(),
        1
    );
    assert_eq!(killed.at("/target/exit/signal"), "SIGKILL");
    assert!(now.at("/target/exit").is_null() && now.at("/target/mode") == "attach");
    assert_eq!(end.at("/target/exit/code"), 0);
}
