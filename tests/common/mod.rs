//! What the tests share: processes that end with their test, looks into /proc, terminals, and reports.

pub mod proc;
pub mod process;
pub mod schema;
pub mod sides;
pub mod terminal;
pub mod testprogs;
pub mod vmtrace;

use std::time::{Duration, Instant};

/// How long anything may take that should take a moment: a bound, on which no test's outcome rests.
pub const BOUND: Duration = Duration::from_secs(240);

/// Waits until the condition holds, or fails the test.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < BOUND, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes sure that a program which a test rests on is there; a test that cannot be run has not passed.
#[track_caller]
pub fn need(tool: &str) {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(tool).is_file());
    assert!(found, "this test needs {tool}, which is not installed: ./scripts/test installs what the tests need");
}

/// The python3 interpreter itself, without what may stand before it in PATH.
#[track_caller]
pub fn python() -> String {
    need("python3");
    let ended = process::run(&mut process::command("python3", ["-c", "import sys; print(sys.executable)"]));
    ended.expect_code(0).output().trim().to_owned()
}
