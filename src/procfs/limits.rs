//! What the kernel allows a process, and what it uses of it: proc_pid_limits(5), cgroups(7), sysctl.

use crate::event::{Limits, Usage};
use crate::units::Tid;

/// Everything that may make a mapping call or clone fail with EAGAIN or ENOMEM.
///
/// Counting a user's tasks looks at every process: this is for after a failure, not for the way of every event.
pub fn look(tid: Tid) -> Limits {
    let limits = super::read(tid, "limits").unwrap_or_default();
    let status = super::read(tid, "status").unwrap_or_default();
    let vmas = super::read(tid, "maps").ok().map(|maps| maps.iter().filter(|byte| **byte == b'\n').count() as u64);
    let kib = |key| super::number(&status, key).map(|kib| kib.saturating_mul(1024));
    let rlimit = |name: &str| soft_limit(&limits, name);
    Limits {
        vmas: usage(vmas, super::number_in("/proc/sys/vm/max_map_count")),
        address_space: usage(kib("VmSize"), rlimit("Max address space")),
        data: usage(kib("VmData"), rlimit("Max data size")),
        user_tasks: usage(uid(&status).and_then(tasks_of_user), rlimit("Max processes")),
        cgroup_tasks: cgroup_tasks(tid),
        system_tasks: usage(
            system_tasks(),
            [super::number_in("/proc/sys/kernel/threads-max"), super::number_in("/proc/sys/kernel/pid_max")]
                .into_iter()
                .flatten()
                .min(),
        ),
        commit: commit(),
    }
}

/// Any bytes as such files, for fuzzing.
pub(super) fn digest(bytes: &[u8]) {
    let _ = (soft_limit(bytes, "Max processes"), super::number(bytes, "VmSize"), uid(bytes));
}

/// How many mappings a process may have: `vm.max_map_count`.
pub fn max_map_count() -> Option<u64> {
    super::number_in("/proc/sys/vm/max_map_count")
}

fn usage(used: Option<u64>, limit: Option<u64>) -> Option<Usage> {
    Some(Usage { used: used?, limit: limit? })
}

/// The soft limit in a line of /proc/PID/limits; none where it is unlimited.
fn soft_limit(limits: &[u8], name: &str) -> Option<u64> {
    let line = limits.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The real user in /proc/PID/status.
fn uid(status: &[u8]) -> Option<u32> {
    super::field(status, "Uid")?.split_ascii_whitespace().next()?.parse().ok()
}

fn tasks_of_user(uid: u32) -> Option<u64> {
    let mut count = 0;
    for pid in super::task::processes().ok()? {
        let status = super::read(pid.into(), "status").unwrap_or_default();
        if self::uid(&status) == Some(uid) {
            count += super::number(&status, "Threads").unwrap_or(0);
        }
    }
    Some(count)
}

/// The tightest `pids.max` on the way from the task's control group to the root.
fn cgroup_tasks(tid: Tid) -> Option<Usage> {
    let text = super::read(tid, "cgroup").ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    std::path::Path::new(path.trim_start_matches('/'))
        .ancestors()
        .filter_map(|group| {
            let file = |name| super::number_in(std::path::Path::new("/sys/fs/cgroup").join(group).join(name).to_str()?);
            usage(file("pids.current"), file("pids.max"))
        })
        .min_by_key(|usage| usage.limit.saturating_sub(usage.used))
}

/// Tasks of the whole system: the second number of /proc/loadavg's `running/all`.
fn system_tasks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Promised memory and its limit, which counts only where overcommit is forbidden.
fn commit() -> Option<Usage> {
    if super::number_in("/proc/sys/vm/overcommit_memory") != Some(2) {
        return None;
    }
    let meminfo = std::fs::read("/proc/meminfo").ok()?;
    let kib = |key| super::number(&meminfo, key).map(|kib| kib.saturating_mul(1024));
    usage(kib("Committed_AS"), kib("CommitLimit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Soft limits are read as numbers, and `unlimited` is no limit.
    #[test]
    fn soft_limits() {
        let text = b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max data size             unlimited            unlimited            bytes     \n\
            Max processes             96551                96552                processes \n\
            Max address space         123456               unlimited            bytes     \n";
        assert_eq!(soft_limit(text, "Max address space"), Some(123_456));
        assert_eq!(soft_limit(text, "Max processes"), Some(96_551));
        assert_eq!(soft_limit(text, "Max data size"), None);
        assert_eq!(soft_limit(text, "Max nonsense"), None);
    }

    /// What this process uses is below what it may use.
    #[test]
    fn own_limits() {
        let limits = look(Tid(std::process::id() as i32));
        let vmas = limits.vmas.unwrap();
        assert!(vmas.used > 0 && vmas.used < vmas.limit);
        assert!(limits.system_tasks.is_some_and(|tasks| tasks.used > 0));
    }
}
