//! Programs that people run: followed from their start or in the middle of their work they do it as without vmtrace,
//! the model agrees with the kernel, and no leak is found where there is none.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::process::{Process, command, run};
use crate::common::vmtrace::{Report, VMTRACE, attach, launch, reports};
use crate::common::{need, proc, python, wait_for};
use nix::sys::signal::Signal;

/// Fails the test unless the model held, and there is no finding.
#[track_caller]
fn expect_nothing(report: &Report, context: &str, errors: &str) {
    report.expect_verified(context, errors);
    report.expect_clean(context);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A redis server, launched behind some words.
struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a server that has several threads and answers.
    #[track_caller]
    fn start(before: &[&str]) -> Redis {
        need("redis-server");
        // Another process may take the port in between: then redis ends, and another port is tried.
        for _ in 0..5 {
            let port = free_port();
            let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let port_option = ["--port", &port.to_string()];
            let words = [before, &["redis-server"], &options[..], &port_option].concat();
            let process = Process::start(command(words[0], &words[1..]).current_dir(std::env::temp_dir()));
            let redis = Redis { process, port };
            wait_for("redis answers or ends", || redis.answers() || redis.process.has_ended());
            if !redis.process.has_ended() {
                return redis;
            }
        }
        panic!("redis does not start");
    }

    fn answers(&self) -> bool {
        self.ask("PING\r\n").is_some_and(|answer| answer.starts_with("+PONG"))
    }

    /// Sends one request; gives the beginning of the answer.
    fn ask(&self, request: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..count]).into_owned())
    }

    /// Starts a benchmark of so many requests of each kind; with "-l" it begins again and again.
    fn benchmark(&self, requests: &str, again: &[&str]) -> Process {
        need("redis-benchmark");
        let port = self.port.to_string();
        let options =
            ["-h", "127.0.0.1", "-p", &port, "-n", requests, "-c", "20", "-q", "-t", "set,get,lpush,lrange_100"];
        Process::start(command("redis-benchmark", options).args(again))
    }

    /// Lets the server end by itself.
    fn shut_down(self) -> Process {
        let _ = self.ask("SHUTDOWN NOSAVE\r\n");
        self.process
    }
}

/// Fails the test unless a benchmark has been through all its kinds of requests.
#[track_caller]
fn expect_complete(benchmark: Process) {
    let ended = benchmark.end().expect_code(0);
    let output = ended.output();
    for kind in ["SET: ", "GET: ", "LPUSH: ", "LRANGE_100"] {
        assert!(output.lines().any(|line| line.contains(kind) && line.contains("requests per second")), "{output}");
    }
}

/// A server that is launched under vmtrace serves a benchmark, and ends as it should.
#[test]
fn redis_launched() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let path = file.path().to_str().expect("a text");
    let redis = Redis::start(&[VMTRACE, "--format=json", "--verify=20", "-o", path, "--"]);
    expect_complete(redis.benchmark("20000", &[]));
    redis.shut_down().end().expect_code(0);
    let report = reports(&fs::read_to_string(&file).expect("a text")).pop().expect("a report");
    expect_nothing(&report, "redis", "");
    assert!(report.number("/counts/threads_seen") >= 4, "its threads in the background are seen");
}

/// A server under load is attached to, left, and attached to again; no request is lost.
#[test]
fn redis_attached_under_load() {
    let redis = Redis::start(&[]);
    let pid = redis.process.pid();
    let load = redis.benchmark("1000", &["-l"]);
    for _ in 0..3 {
        let attached = attach(pid, &["--verify=20"]).await_following();
        expect_complete(redis.benchmark("500", &[]));
        let report = attached.stop(Signal::SIGINT);
        expect_nothing(&report, "redis", "");
        assert!(report.number("/counts/threads_live") >= 4);
    }
    expect_complete(redis.benchmark("5000", &[]));
    assert!(!load.has_ended(), "the load has found an error: {load:?}");
    drop(load);
    redis.shut_down().end().expect_code(0);
}

/// An interpreter whose pool of threads computes, allocates, forks and reads files.
const POOL: &str = "
import concurrent.futures, mmap, subprocess, sys, zlib
def work(n):
    area = mmap.mmap(-1, 1 << 20)
    area[:4] = b'data'
    data = bytes(area[:200000]) + bytes([n % 251]) * (n * 1000)
    area.close()
    if n % 20 == 0:
        subprocess.run(['true'], check=True)
    return zlib.crc32(zlib.decompress(zlib.compress(data, 1)))
print('ready', flush=True)
total = 0
for round in range(int(sys.argv[1])):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        total ^= sum(pool.map(work, range(60)))
print(total)
";

/// A pool of threads comes to the same result as without vmtrace.
#[test]
fn python_launched() {
    let python = python();
    let program = [&python, "-I", "-c", POOL, "3"];
    let expected = run(&mut command(program[0], &program[1..])).expect_code(0).output();
    let launched = launch(&["--verify=20"], &program);
    assert_eq!(launched.ended.output(), expected);
    expect_nothing(&launched.report, "python", &launched.ended.errors());
    let ended = launched.ended.expect_code(0);
    assert_eq!(ended.errors(), "");
    assert!(launched.report.number("/counts/threads_seen") > 18, "three pools of six threads, and children");
}

/// A pool of threads that is attached to while it works comes to the same result.
#[test]
fn python_attached_under_load() {
    let python = python();
    let arguments = |rounds| ["-I", "-c", POOL, rounds];
    let expected = run(&mut command(&python, arguments("20"))).expect_code(0).output();
    let target = Process::start(&mut command(&python, arguments("20")));
    target.await_output("ready");
    let attached = attach(target.pid(), &["--verify=20"]).await_following();
    wait_for("threads have come and gone, or it has ended", || {
        attached.process.has_ended() || {
            let seen = target.has_ended() || proc::threads(target.pid()).len() > 1;
            seen && attached.report_now().number("/counts/threads_seen") > 8
        }
    });
    if !attached.process.has_ended() {
        attached.process.send(Signal::SIGINT);
    }
    let report = attached.end();
    expect_nothing(&report, "python", "");
    let ended = target.end().expect_code(0);
    assert_eq!((ended.output(), ended.errors().as_str()), (expected, ""));
}

/// A compiler makes the same file under vmtrace as without.
#[test]
fn gcc_launched() {
    need("gcc");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let source = crate::common::testprogs::FOLDER.to_owned() + "/random_calls.c";
    let built = |name: &str| fs::read(folder.path().join(name)).expect("it was built");
    let program = |name: &str| -> Vec<String> {
        let output = folder.path().join(name).to_str().expect("a text").to_owned();
        ["gcc", "-O2", "-Wall", "-pthread", "-o", &output, &source].map(str::to_owned).to_vec()
    };
    let native = program("native");
    run(&mut command(&native[0], &native[1..])).expect_code(0);
    let launched = launch(&["--verify=20"], &program("followed"));
    expect_nothing(&launched.report, "gcc", &launched.ended.errors());
    launched.ended.expect_code(0);
    assert!(built("native") == built("followed"));
    assert!(launched.report.number("/counts/threads_seen") >= 5, "compiler, assembler, linker");

    // An error of the compiler is its own.
    let launched = launch(&[], &["gcc", "-o", "/dev/null", "/no/such/file.c"]);
    assert!(launched.ended.errors().contains("No such file"));
    launched.ended.expect_code(1);
}

/// A stress test of everything that moves mappings and makes tasks succeeds.
#[test]
fn stress_ng() {
    need("stress-ng");
    let kinds = [
        &["--vm", "1", "--vm-bytes", "16M", "--mmap", "1", "--mmap-bytes", "8M"][..],
        &[
            "--mremap",
            "1",
            "--mremap-bytes",
            "4M",
            "--brk",
            "1",
            "--shm",
            "1",
            "--shm-bytes",
            "2M",
            "--shm-sysv",
            "1",
            "--shm-sysv-bytes",
            "2M",
        ],
        &["--clone", "1", "--clone-max", "20", "--pthread", "1", "--pthread-max", "20", "--fork", "1", "--vfork", "1"],
    ];
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_str().expect("a text");
    for kind in kinds {
        let common = ["stress-ng", "--timeout", "1", "--temp-path", path, "--no-rand-seed", "--oomable"];
        let program = [&common[..], kind].concat();
        let launched = launch(&["--verify=100"], &program);
        let errors = launched.ended.errors();
        expect_nothing(&launched.report, &format!("{kind:?}"), &errors);
        assert!(
            errors.contains("successful run completed") || launched.ended.output().contains("successful run"),
            "{errors}"
        );
        launched.ended.expect_code(0);
    }
}
