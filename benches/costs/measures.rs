//! What is measured: one function each, with a table as its result.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ROUNDS;
use super::contenders::{ATTACHING, Contender, LAUNCHING, Programs, VMTRACE};
use super::model::{self, Places};
use super::redis;
use super::table::Table;

/// Names the measure that this process is to make as a child.
pub const CHILD: &str = "VMTRACE_BENCH_CHILD";

/// Makes a table.
pub type Measure = fn(&Programs) -> Table;

/// All measures.
pub const ALL: &[(&str, Measure)] = &[
    ("launched: cheap calls, 1 % of them mapping calls, one thread", |programs| launched(programs, "cheap_loop", "1")),
    ("launched: the same, two threads", |programs| launched(programs, "cheap_loop", "2")),
    ("launched: nothing but mmap and munmap, one thread", |programs| launched(programs, "mmap_loop", "1")),
    ("launched: the same, two threads", |programs| launched(programs, "mmap_loop", "2")),
    ("attached: cheap calls, 1 % of them mapping calls, two threads", |programs| attached(programs, "cheap_loop")),
    ("attached: nothing but mmap and munmap, two threads", |programs| attached(programs, "mmap_loop")),
    ("redis-server, attached to", redis::requests),
    ("attach to 10,000 threads, and leave them", ten_thousand_threads),
    ("replay of 100 MB of strace -f, against grep -c", replay),
    ("model with 50,000 mappings", model_events),
    ("memory after 10 million events", memory),
];

/// Nanoseconds for each iteration, of all threads together.
fn in_turn(contenders: &[Contender], run: impl Fn(&Contender) -> Option<f64>) -> Table {
    let mut times: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.extend(run(contender).filter(|rate| *rate > 0.0).map(|rate| 1e9 / rate));
        }
    }
    let mut table = Table::new("ns per iteration", "native");
    for (contender, times) in contenders.iter().zip(&mut times) {
        table.add(contender.name, times);
    }
    table
}

fn launched(programs: &Programs, program: &str, threads: &str) -> Table {
    in_turn(LAUNCHING, |contender| programs.launched(contender, program, threads))
}

fn attached(programs: &Programs, program: &str) -> Table {
    in_turn(ATTACHING, |contender| programs.attached(contender, program, "2"))
}

/// Milliseconds from the start of the follower to its end, which is asked for as soon as all threads are attached to.
fn ten_thousand_threads(programs: &Programs) -> Table {
    let mut target = programs
        .command("many_threads")
        .arg("10000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut ready = String::new();
    BufReader::new(target.stdout.take().expect("a pipe")).read_line(&mut ready).expect("a line can be read");
    let pid = target.id().to_string();
    let strace: &[&str] = &["strace", "-f", "-q", "-e", "trace=%memory", "-o", "/dev/null", "-p"];
    let memory: &[&str] = &[VMTRACE, "-o", "/dev/null", "--for", "1ms", "--engine", "ptrace", "-p"];
    let threads: &[&str] =
        &[VMTRACE, "-o", "/dev/null", "--for", "1ms", "--follow", "threads", "--engine", "ptrace", "-p"];
    let contenders = [("strace -f", strace), ("vmtrace", memory), ("vmtrace --follow threads", threads)];
    let mut times = contenders.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, command), times) in contenders.iter().zip(&mut times) {
            let begin = Instant::now();
            let mut command_line = programs.command(command[0]);
            command_line.args(&command[1..]).arg(&pid).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(mut follower) = command_line.spawn() else { continue };
            if command[0] == "strace" {
                await_attached(&pid);
                let _ = kill(Pid::from_raw(i32::try_from(follower.id()).expect("a number")), Signal::SIGINT);
            }
            let _ = follower.wait();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    drop(target.stdin.take());
    let _ = target.wait();
    let mut table = Table::new("ms", "strace -f");
    for ((name, _), times) in contenders.iter().zip(&mut times) {
        table.add(name, times);
    }
    table
}

/// Waits until every hundredth thread has a tracer.
fn await_attached(pid: &str) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the target lives").flatten();
    for task in tasks.step_by(100) {
        let is_free = || {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.contains("TracerPid:\t0\n")
        };
        while is_free() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Milliseconds for a log of 100 MB.
fn replay(_: &Programs) -> Table {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let log = folder.join("strace.log");
    write_log(&log).expect("the target folder can be written to");
    let contenders: [(&str, &[&str]); 2] =
        [("grep -c", &["grep", "-c", "munmap"]), ("vmtrace replay", &[VMTRACE, "replay", "-o", "/dev/null"])];
    let mut times = contenders.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, command), times) in contenders.iter().zip(&mut times) {
            let begin = Instant::now();
            let mut follower = Command::new(command[0]);
            // grep stops at the first line when nobody reads what it finds.
            let output = follower.args(&command[1..]).arg(&log).output();
            if output.is_ok_and(|output| output.status.success()) {
                times.push(begin.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let _ = std::fs::remove_file(log);
    let mut table = Table::new("ms", "grep -c");
    for ((name, _), times) in contenders.iter().zip(&mut times) {
        table.add(name, times);
    }
    table
}

/// What four threads do that map, unmap, wait and read.
fn write_log(path: &std::path::Path) -> std::io::Result<()> {
    const BYTES: usize = 100 << 20;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    let (mut written, mut round) = (0, 0u64);
    while written < BYTES {
        let (tid, at) = (31_000 + round % 4, 0x7f00_0000_0000_u64 + round % 5000 * 0x4000);
        let (second, micros) = (round / 10_000 % 60, round % 10_000 * 100);
        let head = format!("{tid} 12:{:02}:{second:02}.{micros:06} ", round / 600_000 % 60);
        let lines = format!(
            "{head}futex(0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1) = 1\n\
             {head}read(12, \"GET / HTTP/1.1\\r\\n\", 4096) = 16\n\
             {head}mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {at:#x}\n\
             {head}epoll_wait(7, [{{events=EPOLLIN, data={{u32=12, u64=12}}}}], 512, 1000) = 1\n\
             {head}munmap({at:#x}, 8192) = 0\n"
        );
        out.write_all(lines.as_bytes())?;
        written += lines.len();
        round += 1;
    }
    out.flush()
}

/// Nanoseconds of processor time for each event.
fn model_events(_: &Programs) -> Table {
    const EVENTS: u64 = 2_000_000;
    let mut table = Table::new("ns per event", "in order");
    for (name, places) in [("in order", Places::InOrder), ("at random places", Places::AtRandom)] {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| 1e9 / model::events_per_second(places, EVENTS)).collect();
        table.add(name, &mut times);
    }
    table
}

/// MiB that a process of its own has had at most.
fn memory(_: &Programs) -> Table {
    let mut table = Table::new("MiB", "10 million events");
    let child = Command::new(std::env::current_exe().expect("this program")).env(CHILD, "1").output();
    let peak = String::from_utf8(child.expect("this program can be run").stdout).expect("a number");
    table.add("10 million events", &mut [peak.trim().parse().expect("a number")]);
    table
}

/// What the child does: many events, and then it says how much memory that took.
pub fn many_events() {
    model::events_per_second(Places::AtRandom, 10_000_000);
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of that name");
    let kibibytes: f64 = peak.trim().trim_end_matches("kB").trim().parse().expect("a number");
    println!("{}", kibibytes / 1024.0);
}
