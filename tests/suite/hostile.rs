//! Programs that mean ill: each is launched, attached to and looked at, and each time there is a report in bounded time,
//! a status as documented, and nothing that a terminal would obey.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::process::{Ended, Process, command, run};
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{VMTRACE, launch, reports, vmtrace};
use crate::common::{need, proc, wait_for};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use vmtrace::event::Prot;
use vmtrace::procfs;
use vmtrace::sys::{self, Status};
use vmtrace::units::{Addr, Tid};

/// Sets a terminal's title, breaks the line, and rubs out.
const NAME: &str = "\x1b]0;x\x07\n\x7f\x08";

/// Fails the test if vmtrace has panicked, ended with another status, or written what a terminal would obey.
#[track_caller]
fn expect_sober(what: &str, ended: &Ended, code: i32) {
    let (output, errors) = (ended.output(), ended.errors());
    let context = format!("{what}\nstdout:\n{output:?}\nstderr:\n{errors:?}");
    assert_eq!(ended.code(), code, "{context}");
    assert!(!errors.contains("panicked") && !output.contains("panicked"), "{context}");
    let is_raw = |character: char| character.is_control() && character != '\n';
    assert!(!output.contains(is_raw) && !errors.contains(is_raw), "{context}");
    let longest = output.lines().filter(|line| !line.trim_start().starts_with('"')).map(str::len).max();
    assert!(longest.unwrap_or(0) < 1000, "{context}");
}

/// Launches the program, attaches to it by each engine, and looks at it from outside.
#[track_caller]
fn expect_reports(program: &str, arguments: &[&str]) {
    expect_launched(program, arguments);
    expect_followed(&|| start(program, arguments));
}

#[track_caller]
fn expect_launched(program: &str, arguments: &[&str]) {
    let mut launched = vmtrace(["--min-confidence=possible", "--", program]);
    let ended = run(launched.args(arguments));
    // The program's own line is all that there is on stdout.
    assert!(ended.output().contains("ready"), "{ended:?}");
    expect_sober(&format!("{program} {arguments:?} launched"), &ended, 0);
    expect_report("--format=text", &ended.errors());
}

#[track_caller]
fn expect_followed(start: &dyn Fn() -> Process) {
    let target = start();
    expect_seen(target.pid());
    target.end().expect_code(0);
}

/// Attaches to a process by each engine, and looks at it from outside.
#[track_caller]
fn expect_seen(target: i32) {
    let pid = target.to_string();
    let inspect: &[&str] = &["inspect"];
    let by_ptrace: &[&str] = &["--engine=ptrace", "--for=100ms", "--max-overhead=100"];
    // Without the privilege there would be less to see, and nothing to test.
    let by_perf: &[&str] = &["--engine=perf", "--for=100ms"];
    let lifecycles: &[&str] = &["--engine=ptrace", "--follow=threads", "--for=100ms"];
    let (text, json) = ("--format=text", "--format=json");
    for (words, format) in [(inspect, text), (by_ptrace, text), (by_perf, json), (lifecycles, json)] {
        let ended = run(vmtrace(words).args([format, "--min-confidence=possible", "-p", &pid]));
        expect_sober(&format!("{target}: {words:?}"), &ended, 0);
        expect_report(format, &ended.output());
    }
}

#[track_caller]
fn expect_report(format: &str, text: &str) {
    match format {
        "--format=text" => assert!(text.contains("vmtrace: "), "no report in {text}"),
        _ => {
            let start = text.find('{').unwrap_or_else(|| panic!("no report in {text}"));
            assert_eq!(reports(&text[start..]).len(), 1, "{text}");
        }
    }
}

#[track_caller]
fn expect_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root, as continuous integration has it");
}

fn start(program: &str, arguments: &[&str]) -> Process {
    let process = Process::start(&mut command(program, arguments));
    process.await_output("ready");
    process
}

/// A copy of the program, which may be replaced, under this name.
fn copy(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    fs::copy(testprog("hostile"), &path).expect("a copy can be made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path.to_str().expect("it is text").to_owned()
}

/// Most of the time is spent waiting. Fails if one of them does.
fn at_the_same_time(kinds: &[&str], test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| kinds.iter().for_each(|kind| drop(scope.spawn(|| test(kind)))));
}

/// A process can do without the stack that the kernel gave it, and a thread without any.
#[test]
fn stacks_that_are_gone() {
    for how in ["stackless", "sawn-off"] {
        expect_reports(testprog("hostile"), &[how]);
    }
}

/// Lists that lead in a circle, into the wild, to odd addresses or nowhere are not believed, and not followed for ever.
#[test]
fn damaged_thread_lists() {
    at_the_same_time(&["cycle", "wild", "unaligned", "huge", "zero"], |how| {
        expect_reports(testprog("hostile"), &[how])
    });
}

/// Memory that is mapped but supplied by nobody is not waited for, and what lies behind it is found all the same.
#[test]
fn memory_that_nobody_supplies() {
    expect_root();
    at_the_same_time(&["deep", "raw", "lists", "library", "lowest", "clone3"], |what| {
        expect_reports(testprog("withheld"), &[what]);
        for how in ["--follow=threads", "--engine=perf"] {
            let ended = run(&mut vmtrace([how, "--", testprog("withheld"), what]));
            expect_sober(&format!("{what}, {how}"), &ended, 0);
            expect_report("--format=text", &ended.errors());
        }
    });
    let report = launch(&["--min-confidence=possible"], &[testprog("withheld"), "deep"]).report;
    let sites = report.0["findings"].to_string();
    assert!(sites.contains("run_raw_thread") && sites.contains("run_in_the_deep"), "{sites}");
}

/// What a stopped task's call was given can be asked for, be it there or not; where we begin and end in it does not matter.
#[test]
fn arguments_that_nobody_supplies() {
    expect_root();
    let target = start(testprog("withheld"), &["lowest"]);
    let tid = Tid(target.pid());
    let maps = procfs::maps::read(tid).expect("it lives");
    let [lowest, vdso] = [
        maps.first().expect("something is mapped"),
        maps.iter().find(|vma| &*vma.name == b"[vdso]").expect("it has a vDSO"),
    ]
    .map(|vma| vma.range.start());
    sys::seize(tid, 0).expect("it is ours");
    sys::interrupt(tid).expect("it is traced");
    wait_for("it has stopped", || matches!(sys::peek_status_of(tid), Ok(Some(Status::Stopped(_)))));

    assert_eq!(sys::peek_memory(tid, lowest, &mut [0; 64]), Err(Errno::EIO));
    assert_eq!(sys::peek_memory(tid, Addr(0), &mut [0]), Err(Errno::EIO));
    let mut whole = [0; 64];
    sys::read_memory(tid, vdso, &mut whole).expect("the vDSO is there");
    for (from, to) in [(0, 64), (0, 4), (3, 5), (7, 9), (8, 16), (5, 30)] {
        let mut part = vec![0; to - from];
        sys::peek_memory(tid, Addr(vdso.0 + from as u64), &mut part).expect("the vDSO is there");
        assert_eq!(part, whole[from..to]);
    }

    sys::restart(tid, sys::Restart::Detach, 0).expect("it is traced");
    target.end().expect_code(0);
}

/// No part of a mapping is left out of what is read, however often another thread splits it meanwhile. Of Linux 6.18's text
/// of the maps, one in some ten thousand readings lacks its upper half.
#[test]
fn a_mapping_that_is_split_while_it_is_read() {
    const READINGS: u32 = 100_000;
    // Few other lines: the more often this one is read.
    let target = start(testprog("split_mapping.static"), &[]);
    let output = target.output();
    let bounds = output.lines().next().expect("it tells where the mapping lies");
    let bounds = bounds.split(' ').map(|bound| u64::from_str_radix(bound.trim_start_matches("0x"), 16));
    let [start, end] = bounds.map(|bound| bound.expect("an address")).collect::<Vec<_>>()[..] else {
        panic!("a mapping has a start and an end: {output}")
    };
    let mut split = 0;
    for reading in 0..READINGS {
        let maps = procfs::maps::read(Tid(target.pid())).expect("it lives");
        let parts: Vec<_> =
            maps.iter().map(|vma| vma.range).filter(|range| (start..end).contains(&range.start().0)).collect();
        let bytes: u64 = parts.iter().map(|range| range.bytes()).sum();
        assert_eq!(bytes, end - start, "reading {reading}: {parts:x?} of {start:x}-{end:x}");
        split += u32::from(parts.len() > 1);
    }
    assert!((1..READINGS).contains(&split), "it was split in {split} of {READINGS} readings");
    target.end().expect_code(0);
}

/// A program on a file system that is served by another program, in a namespace of its own: that answers.
fn start_served(folder: &Path) -> (Process, i32) {
    let folder = folder.to_str().expect("it is text");
    let server = start(testprog("fuse"), &[folder, testprog("hostile"), "leave"]);
    let children = proc::children(server.pid());
    let [program] = children[..] else { panic!("it has one child, not {children:?}") };
    (server, program)
}

/// Files of a file system that answers are read; of one that does not they are not waited for: be it that we have stopped who
/// serves it, which is followed with its child, or somebody else has.
#[test]
fn a_file_system_that_does_not_answer() {
    expect_root();
    assert!(
        Path::new("/dev/fuse").exists(),
        "this test needs /dev/fuse: `modprobe fuse`, or a kernel with CONFIG_FUSE_FS"
    );
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    let (server, program) = start_served(folder);
    let named = run(&mut vmtrace(["inspect", "--format=json", "-p", &program.to_string()])).expect_code(0);
    let report = reports(&named.output()).pop().expect("a report");
    assert_eq!(report.0["findings"][0]["thread_function"]["symbol"], "left", "{}", named.output());

    server.send(Signal::SIGUSR1);
    wait_for("the server has stopped", || proc::is_stopped(server.pid()));
    expect_seen(program);
    server.send(Signal::SIGCONT);
    server.end().expect_code(0);

    expect_launched(testprog("fuse"), &[folder.to_str().expect("it is text"), testprog("hostile"), "leave"]);
}

/// A user whose program leaves no room for another thread is told the names in it all the same.
#[test]
fn a_user_who_may_have_no_more_threads() {
    expect_root();
    need("setpriv");
    need("prlimit");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let folder = tempfile::tempdir().expect("a folder can be made");
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody).expect("it is ours");
    let own = folder.path().join("vmtrace");
    fs::copy(VMTRACE, &own).expect("a copy can be made");
    let target = start("setpriv", &[&nobody[..], &[&copy(folder.path(), "program"), "leave"]].concat());
    let mut inspect = command("setpriv", nobody);
    inspect.args(["prlimit", "--nproc=1"]).arg(&own).current_dir("/");
    let ended = run(inspect.args(["inspect", "--format=json", "-p", &target.pid().to_string()])).expect_code(0);
    let report = reports(&ended.output()).pop().expect("a report");
    assert_eq!(report.0["findings"][0]["thread_function"]["symbol"], "left", "{}", ended.output());
    target.end().expect_code(0);
}

/// Names of threads, mapped files and programs are no means to write to the terminal.
#[test]
fn names_for_a_terminal() {
    expect_reports(testprog("hostile"), &["names"]);
    let folder = tempfile::tempdir().expect("a folder can be made");
    expect_reports(&copy(folder.path(), NAME), &["leave", NAME]);
    expect_reports(testprog("hostile"), &["memfd"]);
}

/// A program under a path that is longer than a system call takes, or the kernel answers when it is asked for single lines.
#[test]
fn a_path_that_is_too_long() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut deepest = File::open(folder.path()).expect("it is there");
    let in_the = |folder: &File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd()));
    const NAME_BYTES: usize = 200;
    for _ in 0..=libc::PATH_MAX as usize / NAME_BYTES {
        let deeper = in_the(&deepest).join("d".repeat(NAME_BYTES));
        fs::create_dir(&deeper).expect("a folder can be made");
        deepest = File::open(&deeper).expect("it is there");
    }
    let program = copy(&in_the(&deepest), "program");
    let target = start(&program, &["leave"]);
    for read in [procfs::maps::read, procfs::maps::executable] {
        let maps = read(Tid(target.pid())).expect("it lives");
        let is_program = |name: &[u8]| name.len() > libc::PATH_MAX as usize && name.ends_with(b"/program");
        assert!(maps.iter().any(|vma| vma.prot.contains(Prot::EXEC) && is_program(&vma.name)));
    }
    target.end().expect_code(0);
    expect_reports(&program, &["leave"]);
}

/// A FIFO in the place of the program does not make us wait, and what ran before is still read.
#[test]
fn a_fifo_for_a_program() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let fresh = || {
        let _ = fs::remove_file(folder.path().join("program"));
        copy(folder.path(), "program")
    };
    for format in ["--format=text", "--format=json"] {
        let program = fresh();
        let ended = run(&mut vmtrace([format, "--", &program, "fifo"]));
        expect_sober(format, &ended, 0);
        expect_report(format, &ended.errors());
    }
    expect_followed(&|| start(&fresh(), &["fifo"]));
}

/// The same under another root, where the program's path means a FIFO. Only root may change the root.
#[test]
fn a_fifo_under_another_root() {
    expect_root();
    let folders = [tempfile::tempdir(), tempfile::tempdir()].map(|folder| folder.expect("a folder can be made"));
    let program = copy(folders[0].path(), "program");
    let root = || {
        let root = folders[1].path().join("root");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("a folder can be made");
        root.to_str().expect("it is text").to_owned()
    };
    let ended = run(&mut vmtrace(["--", &program, "root", &root()]));
    expect_sober("launched", &ended, 0);
    expect_followed(&|| start(&program, &["root", &root()]));
}

/// What changes all the time is reported all the same.
#[test]
fn a_moving_target() {
    expect_followed(&|| start(testprog("hostile"), &["changing"]));
    let ended = run(&mut vmtrace(["--", testprog("hostile"), "changing"]));
    expect_sober("launched", &ended, 0);
}

/// Functions whose names are a hundred thousand letters long, or sequences for a terminal, in symbols alone.
#[test]
fn symbols_for_a_terminal() {
    need("objcopy");
    let folder = tempfile::tempdir().expect("a folder can be made");
    for name in [format!("{NAME}left"), "x".repeat(100_000), format!("_Z{}", "P".repeat(50_000))] {
        let program = PathBuf::from(copy(folder.path(), "program"));
        let mut rename = command("objcopy", ["--strip-debug"]);
        let ended = run(rename.arg(format!("--redefine-sym=left={name}")).arg(&program));
        ended.expect_code(0);
        let program = program.to_str().expect("it is text");
        expect_reports(program, &["leave"]);
        let report = run(&mut vmtrace(["--format=json", "--min-confidence=possible", "--", program, "leave"])).errors();
        assert!(report.contains("xxxxxxxxxxxxxxxx") || report.contains("u001b]0;x") || report.contains("_ZPPP"));
    }
}

/// Neither arguments nor what files say, nor their names, reach the terminal raw.
#[test]
fn messages_about_odd_files() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join(format!("{NAME}.toml"));
    let named = path.to_str().expect("it is text");
    fs::write(
        &path,
        format!("[[case]]\nname = \"a\"\nrun = \"true\"\n\"{}\" = 1\n", "\\u001b]0;x\\u0007".repeat(9_000)),
    )
    .expect("a file can be made");
    expect_sober("check", &run(&mut vmtrace(["check", named])), 2);
    fs::write(&path, "[[case]]\nname = \"\\u001b]0;x\\u0007\"\nrun = \"true\"\n").expect("a file can be made");
    expect_sober("select", &run(&mut vmtrace(["check", named, NAME])), 2);
    expect_sober("run", &run(&mut vmtrace(["check", named])), 0);
    expect_sober("replay", &run(&mut vmtrace(["replay", named])), 125);
    expect_sober("program", &run(&mut vmtrace(["--", NAME])), 127);
    expect_sober("option", &run(&mut vmtrace([&format!("--{NAME}")])), 2);
    expect_sober("output", &run(&mut vmtrace(["-o", &format!("/nonexistent/{NAME}"), "--", "true"])), 125);
}

/// A command line can be made as long as memory is: of it the beginning is read.
#[test]
fn an_endless_command_line() {
    let python = crate::common::python();
    let code = "import ctypes, mmap, sys\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        size = 1 << 36\n\
        libc.mmap.restype = ctypes.c_void_p\n\
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n\
        base = libc.mmap(None, size, 1, 0x4022, -1, 0)\n\
        prctl = lambda what, to: libc.prctl(35, what, ctypes.c_ulong(to), 0, 0)\n\
        done = [prctl(9, base + size), prctl(8, base)]\n\
        print('ready', done, flush=True)\n\
        sys.stdin.read()\n";
    let target = Process::start(&mut command(&python, ["-c", code]));
    target.await_output("ready");
    let pid = target.pid().to_string();
    wait_for("it is there", || fs::metadata(format!("/proc/{pid}")).is_ok());
    let ended = run(&mut vmtrace(["inspect", "--format=json", "-p", &pid]));
    assert!(ended.output.len() < 2 << 20, "{} bytes", ended.output.len());
    assert_eq!(ended.code(), 0, "{}", ended.errors());
    target.end().expect_code(0);
}
