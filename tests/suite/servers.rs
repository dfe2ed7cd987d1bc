//! Servers and runtimes with threads of their own making, at work: attached to and inspected, none has a leak.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::process::{Process, command, run};
use crate::common::testprogs::testprog;
use crate::common::vmtrace::{attach, inspect};
use crate::common::{need, proc, wait_for};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User, chown};

/// Inspects the process, follows it while `work` makes it work, and inspects it again: nothing is found.
#[track_caller]
fn expect_nothing(name: &str, pid: i32, work: impl FnOnce()) {
    inspect(pid, &[]).expect_clean(name);
    let attached = attach(pid, &["--verify=20"]).await_following();
    work();
    let report = attached.stop(Signal::SIGINT);
    report.expect_verified(name, "");
    report.expect_clean(name);
    inspect(pid, &[]).expect_clean(name);
}

/// The same for a program that says `ready`, and then `finished` again and again, until its input ends.
#[track_caller]
fn expect_nothing_of_pool(name: &str, mut pool: Process) {
    pool.await_output("ready");
    let rounds = |pool: &Process| pool.output().matches("finished").count();
    wait_for("it works", || rounds(&pool) >= 3);
    expect_nothing(name, pool.pid(), || {
        let before = rounds(&pool);
        wait_for("it works while it is followed", || rounds(&pool) >= before + 3);
    });
    pool.close_input();
    pool.end().expect_code(0);
}

fn source(name: &str) -> String {
    format!("{}/tests/suite/servers/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn node() {
    need("node");
    expect_nothing_of_pool("node", Process::start(&mut command("node", [source("pool.js")])));
}

#[test]
fn jvm() {
    need("java");
    expect_nothing_of_pool("java", Process::start(&mut command("java", [source("Pool.java")])));
}

#[test]
fn go() {
    need("go");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("pool");
    let arguments = ["build", "-o", program.to_str().expect("a text"), &source("pool.go")];
    run(command("go", arguments).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod").current_dir(folder.path()))
        .expect_code(0);
    expect_nothing_of_pool("go", Process::start(&mut command(&program, [""; 0])));
}

#[test]
fn rust_pool() {
    expect_nothing_of_pool("rust", Process::start(&mut command(testprog("rust_threads"), ["pools"])));
}

/// What a web server answers to a request for its only file.
fn fetch(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A web server whose workers read files by threads.
#[test]
fn nginx() {
    let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).is_file());
    let nginx = nginx.expect("this test needs nginx, which is not installed: ./scripts/test installs it");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_str().expect("a text");
    fs::write(folder.path().join("file"), "x".repeat(1 << 20)).expect("a file can be made");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let user = if Uid::effective().is_root() { "user root;" } else { "" };
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {path};"));
    let configuration = format!(
        "{user} daemon off; worker_processes 1; pid {path}/pid; error_log stderr; events {{}}\n\
         http {{ access_log off; {} aio threads; server {{ listen 127.0.0.1:{port}; root {path}; }} }}\n",
        temporary.concat()
    );
    let configured = folder.path().join("nginx.conf");
    fs::write(&configured, configuration).expect("a file can be made");
    let server = Process::start(&mut command(nginx, ["-c", configured.to_str().expect("a text")]));
    let answers = || fetch(port).is_some_and(|answer| answer.ends_with(&"x".repeat(1 << 20)));
    wait_for("nginx answers or ends", || answers() || server.has_ended());
    assert!(!server.has_ended(), "nginx has ended: {server:?}");
    let worker = proc::children(server.pid()).pop().expect("it has a worker");
    assert!(proc::threads(worker).len() > 8, "its threads have been made");
    expect_nothing("nginx", worker, || (0..100).for_each(|_| assert!(answers())));
    server.send(Signal::SIGQUIT);
    server.end().expect_code(0);
}

/// The folder with the programs of a database server.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let programs = versions.map(|version| version.path().join("bin")).find(|folder| folder.join("initdb").is_file());
    programs.expect("this test needs postgresql, which is not installed: ./scripts/test installs it")
}

/// A database server, whose processes come and go with its clients.
#[test]
fn postgres() {
    let programs = postgres_programs();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_str().expect("a text");
    // The server refuses to run as root.
    let mut before: Vec<&str> = Vec::new();
    if Uid::effective().is_root() {
        let user = User::from_name("postgres").expect("users can be read").expect("its package makes a user");
        chown(folder.path(), Some(user.uid), Some(user.gid)).expect("root may");
        before = vec!["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
    }
    let program = |name: &str, arguments: &[&str]| {
        let program = programs.join(name).to_str().expect("a text").to_owned();
        let words = [&before[..], &[&program], arguments].concat();
        let mut command = command(words[0], &words[1..]);
        command.current_dir(folder.path());
        command
    };
    let data = format!("{path}/data");
    run(&mut program("initdb", &["-D", &data, "-U", "tester", "-A", "trust", "--no-sync"])).expect_code(0);
    let server = Process::start(&mut program("postgres", &["-D", &data, "-k", path, "-c", "listen_addresses="]));
    let ask = |query: &str| run(&mut program("psql", &["-h", path, "-U", "tester", "-d", "postgres", "-Atc", query]));
    wait_for("postgres answers or ends", || ask("select 1").code() == 0 || server.has_ended());
    assert!(!server.has_ended(), "postgres has ended: {server:?}");
    let query = "select sum(length(md5(n::text))) from generate_series(1, 50000) as n";
    expect_nothing("postgres", server.pid(), || {
        (0..5).for_each(|_| assert_eq!(ask(query).expect_code(0).output(), "1600000\n"));
    });
    server.send(Signal::SIGINT);
    server.end().expect_code(0);
}
