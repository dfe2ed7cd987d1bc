//! The C programs of testprogs/, built once.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::need;
use super::process::{Process, command};

/// The folder of the programs' sources and of cases.toml.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testprogs");

/// The path of a program, which has been built. It lasts as long as the tests do, so that it can be part of any command.
#[track_caller]
pub fn testprog(name: &str) -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    let path = format!("{FOLDER}/build/{name}");
    assert!(Path::new(&path).is_file(), "there is no test program {name}");
    path.leak()
}

/// Starts a program that waits for the end of its input, and waits until it says that it is ready.
#[track_caller]
pub fn start(name: &str, arguments: &[&str]) -> Process {
    let process = Process::start(&mut command(testprog(name), arguments));
    process.await_output("ready");
    process
}

fn build() {
    for tool in ["make", "gcc", "musl-gcc"] {
        need(tool);
    }
    let folder = format!("{FOLDER}/build");
    fs::create_dir_all(&folder).expect("testprogs/ can be written to");
    // Test files run at the same time may not build into the same folder at the same time.
    let lock = File::create(format!("{folder}/.lock")).expect("testprogs/build/ can be written to");
    lock.lock().expect("a lock can be taken");
    let built = Command::new("make").args(["-s", "-j2", "-C", FOLDER]).output().expect("make can be run");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "testprogs cannot be built (./scripts/test installs what that needs):\n{errors}");
}
