//! Signals from all sides to a program that vmtrace has launched.

use std::fmt::Write;
use std::time::Duration;

use vmtrace::sys;
use vmtrace::units::Pid;

use super::process::Process;
use super::testprogs::testprog;
use super::vmtrace::vmtrace;
use super::{proc, wait_for};

/// Sends real-time signals to the program, to vmtrace, and to the group of both, as `below` chooses, which gives a number below
/// its argument. Fails the test unless the program gets each once.
#[track_caller]
pub fn expect_each_once(options: &[&str], count: usize, below: &mut dyn FnMut(u64) -> u64) {
    const SIGNALS: [i32; 3] = [34, 40, 64];
    let mut followed = vmtrace(options);
    let mut followed = Process::start(followed.args(["-o", "/dev/null", "--", testprog("from_within"), "tally"]));
    followed.await_output("ready");
    let to = [proc::launched_by(followed.pid()), followed.pid(), -followed.pid()];
    let mut sent = [0; SIGNALS.len()];
    for _ in 0..count {
        let (to, which) = (to[below(3) as usize], below(3) as usize);
        sys::kill(Pid(to), SIGNALS[which]).expect("it is ours");
        sent[which] += 1;
        if below(2) == 0 {
            std::thread::sleep(Duration::from_micros([50, 2_000, 20_000, 40_000][below(4) as usize]));
        }
    }
    wait_for("all have arrived", || followed.output().contains(&format!("\n{count} so far\n")));
    followed.close_input();
    let mut expected = String::new();
    for (signal, times) in SIGNALS.iter().zip(sent).filter(|(_, times)| *times > 0) {
        writeln!(expected, "signal {signal}: {times} times").expect("a string takes all");
    }
    let told = followed.end().expect_code(0).output();
    let told = told.rsplit_once("so far\n").map(|(_, told)| told);
    assert_eq!(told, Some(expected.as_str()), "{options:?}");
}
