//! What /proc tells of processes and threads.

use std::fs;
use std::path::PathBuf;

use vmtrace::units::Pid;

/// All threads of a process; none when it is gone.
pub fn threads(pid: i32) -> Vec<i32> {
    let threads = vmtrace::procfs::task::threads(Pid(pid)).unwrap_or_default();
    threads.into_iter().map(|tid| tid.0).collect()
}

/// A field of /proc/TID/status; none when there is no such task.
pub fn status(tid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The state letter: R, S, D, T (stopped), t (stopped by a tracer), Z; none when there is no such task.
pub fn state(tid: i32) -> Option<char> {
    status(tid, "State")?.chars().next()
}

/// Who traces a task: 0 for nobody; none when there is no such task.
pub fn tracer(tid: i32) -> Option<i32> {
    status(tid, "TracerPid")?.parse().ok()
}

/// Whether all threads of a process are traced by this one.
pub fn is_traced_by(pid: i32, by: i32) -> bool {
    let threads = threads(pid);
    !threads.is_empty() && threads.iter().all(|tid| tracer(*tid).is_none_or(|tracer| tracer == by))
}

/// Whether all threads of a process are left alone: without a tracer, and not in a tracing stop.
pub fn is_free(pid: i32) -> bool {
    threads(pid).iter().all(|tid| tracer(*tid).is_none_or(|tracer| tracer == 0) && state(*tid) != Some('t'))
}

/// Whether all threads of a process are stopped by job control.
pub fn is_stopped(pid: i32) -> bool {
    let threads = threads(pid);
    !threads.is_empty() && threads.iter().all(|tid| state(*tid) == Some('T'))
}

/// Virtual size of a process, in KiB; 0 when it is gone.
pub fn virtual_kib(pid: i32) -> u64 {
    let text = status(pid, "VmSize").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let lists =
        threads(pid).into_iter().filter_map(|tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// All processes of a session.
pub fn session(leader: i32) -> Vec<i32> {
    all().into_iter().filter(|pid| job(*pid).is_some_and(|[_, session, _]| session == leader)).collect()
}

/// All processes of a process group.
#[allow(dead_code)] // but for the soak
pub fn group(leader: i32) -> Vec<i32> {
    all().into_iter().filter(|pid| job(*pid).is_some_and(|[group, ..]| group == leader)).collect()
}

/// The file that a process executes; none when it has ended.
pub fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Whether a process is in the foreground of its terminal.
pub fn is_in_foreground(pid: i32) -> bool {
    job(pid).is_some_and(|[group, _, foreground]| group == foreground)
}

/// The group and session of a process, and the foreground group of its terminal.
fn job(pid: i32) -> Option<[i32; 3]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name in brackets: state, parent, group, session, terminal, foreground group.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some([fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?, fields.get(5)?.parse().ok()?])
}

/// Arguments of a process.
pub fn arguments(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).split_terminator('\0').map(str::to_owned).collect()
}

/// All processes one of whose arguments is this one.
pub fn with_argument(argument: &str) -> Vec<i32> {
    all().into_iter().filter(|pid| arguments(*pid).iter().any(|found| found == argument)).collect()
}

/// All processes.
fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The program that vmtrace has launched: the first child of its first thread.
#[track_caller]
pub fn launched_by(vmtrace: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{vmtrace}/task/{vmtrace}/children")).expect("vmtrace lives");
    children.split_whitespace().next().and_then(|child| child.parse().ok()).expect("the program runs")
}
