//! What /proc tells of one task: its process, its state, its tracer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use indexmap::IndexSet;
use nix::unistd::{SysconfVar, sysconf};

use crate::sys;
use crate::units::{Addr, Pid, Tid};

/// Facts of /proc/TID/status and /proc/TID/stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskStatus {
    /// Thread group.
    pub pid: Pid,
    /// Parent process.
    pub parent: Pid,
    /// Effective user.
    pub uid: u32,
    /// Who traces it.
    pub tracer: Option<Pid>,
    /// State letter: R, S, D, T, t, Z, X.
    pub state: char,
}

/// Facts of a task that exists.
pub fn status(tid: Tid) -> io::Result<TaskStatus> {
    let text = super::read(tid, "status")?;
    parse_status(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/status lacks a field"))
}

fn parse_status(text: &[u8]) -> Option<TaskStatus> {
    let pid = |key| Some(Pid(i32::try_from(super::number(text, key)?).ok()?));
    Some(TaskStatus {
        pid: pid("Tgid")?,
        parent: pid("PPid")?,
        uid: super::field(text, "Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        tracer: pid("TracerPid").filter(|pid| pid.0 != 0),
        state: super::field(text, "State")?.chars().next()?,
    })
}

/// CAP_SYS_PTRACE of capabilities(7).
pub const CAP_SYS_PTRACE: u32 = 19;

/// Whether this program has a capability.
pub fn has_capability(number: u32) -> bool {
    let effective = std::fs::read("/proc/thread-self/status").ok().and_then(|text| effective_capabilities(&text));
    effective.is_some_and(|set| set & 1 << number != 0)
}

fn effective_capabilities(status: &[u8]) -> Option<u64> {
    u64::from_str_radix(super::field(status, "CapEff")?, 16).ok()
}

/// Any bytes as a task's status and stat, for fuzzing.
pub(super) fn digest(bytes: &[u8]) {
    let _ = (parse_status(bytes), effective_capabilities(bytes));
    let _ = (arguments(bytes), stat_field(bytes, 47), stat_field(bytes, 22));
}

/// A field of proc_pid_stat(5) behind the name, by its number, of the text or its beginning. Allocates nothing.
pub fn stat_field(text: &[u8], number: usize) -> Option<&str> {
    // The command's name may hold blanks and parentheses; what follows the last one is field 3.
    let after_name = text.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(&text[after_name + 1..]).ok()?.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// All tasks of a process that are there from the beginning to the end of this call, and others. An error when there is none.
///
/// A listing goes from each task to the next one by their number and place, and where others end meanwhile it passes over some,
/// or breaks off (fs/proc/base.c `proc_task_readdir`). It is whole if there are as many as it tells of, and these are still there.
pub fn threads(pid: Pid) -> io::Result<Vec<Tid>> {
    /// Where thousands begin and end in each second no listing is whole; what several tell lacks little.
    const WITHIN: Duration = Duration::from_millis(50);
    let (began, mut seen) = (Instant::now(), IndexSet::new());
    loop {
        let listed: Vec<Tid> = numbered(&format!("/proc/{pid}/task"))?.map(Tid).collect();
        // Counted before it is asked who is there: so those were there when they were counted.
        if count(pid).is_none_or(|count| count == listed.len()) && listed.iter().all(|tid| sys::is_task_of(pid, *tid)) {
            return Ok(listed);
        }
        seen.extend(listed);
        if began.elapsed() > WITHIN {
            return Ok(seen.into_iter().collect());
        }
    }
}

/// How many tasks a process has. The leader's own stat is not summed up over all of them.
fn count(pid: Pid) -> Option<usize> {
    stat_field(&std::fs::read(format!("/proc/{pid}/task/{pid}/stat")).ok()?, 20)?.parse().ok()
}

/// All processes that /proc lists.
pub fn processes() -> io::Result<Vec<Pid>> {
    Ok(numbered("/proc")?.map(Pid).collect())
}

fn numbered(directory: &str) -> io::Result<impl Iterator<Item = i32>> {
    Ok(std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Arguments of a process, as text: the first 128 KiB, for a process can make it as long as its memory (prctl(2),
/// PR_SET_MM_ARG_END).
pub fn command_line(pid: Pid) -> Vec<String> {
    const MOST: u64 = 128 << 10;
    arguments(&super::read_up_to(pid.into(), "cmdline", MOST).unwrap_or_default())
}

/// The first of a process's arguments: what it was called by.
pub fn program_name(pid: Pid) -> String {
    command_line(pid).into_iter().next().unwrap_or_else(|| "unknown".to_owned())
}

fn arguments(text: &[u8]) -> Vec<String> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// Where the break starts: field 47 of proc_pid_stat(5). Needs the right to trace; 0 without.
pub fn start_brk(tid: Tid) -> Option<Addr> {
    let text = super::read(tid, "stat").ok()?;
    let start = stat_field(&text, 47)?.parse().ok()?;
    (start != 0).then_some(Addr(start))
}

/// How a process has ended, as wait(2) tells it. Needs the right to trace.
pub fn wait_status(tid: Tid) -> Option<i32> {
    exit_code(tid, "Z")
}

/// By what signal a process is stopped, until its parent has waited for that; since Linux 5.17. Needs the right to trace.
pub fn stop_signal(pid: Pid) -> Option<i32> {
    exit_code(pid.into(), "T").filter(|signal| *signal != 0)
}

/// Field 52 of proc_pid_stat(5) of a task in a certain state.
fn exit_code(tid: Tid, state: &str) -> Option<i32> {
    let text = super::read(tid, "stat").ok()?;
    stat_field(&text, 52)?.parse().ok().filter(|_| stat_field(&text, 3) == Some(state))
}

/// When a task was created, in ticks since the boot: field 22 of proc_pid_stat(5). Tells it from a later one of its number.
pub fn start_ticks(tid: Tid) -> Option<u64> {
    let text = super::read(tid, "stat").ok()?;
    stat_field(&text, 22)?.parse().ok()
}

/// Whether the process of this number was made after a time, in nanoseconds of CLOCK_MONOTONIC. Ticks are coarse: false may be
/// wrong by one.
pub fn was_made_after(pid: Pid, time: u64) -> bool {
    use nix::time::{ClockId, clock_gettime};
    let nanoseconds = |clock| clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos());
    // Both clocks run alike but while the machine sleeps, so that this is not less than it was then.
    let ahead = nanoseconds(ClockId::CLOCK_BOOTTIME).saturating_sub(nanoseconds(ClockId::CLOCK_MONOTONIC));
    let tick =
        sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hertz| 1_000_000_000u128.checked_div(hertz as u128));
    let made = start_ticks(pid.into()).zip(tick).map(|(ticks, tick)| u128::from(ticks) * tick);
    made.is_some_and(|made| made > u128::from(time) + ahead)
}

/// The processor that a task runs on, or ran on last: field 39 of proc_pid_stat(5).
///
/// Asked often while a target is followed, so nothing is allocated for what it says.
pub fn last_cpu(tid: Tid) -> Option<usize> {
    let mut path = [0; 32];
    let mut rest = &mut path[..];
    write!(rest, "/proc/{tid}/stat").ok()?;
    let left = rest.len();
    let mut text = [0; 512];
    let path = std::str::from_utf8(&path[..path.len() - left]).ok()?;
    let read = File::open(path).ok()?.read(&mut text).ok()?;
    stat_field(&text[..read], 39)?.parse().ok()
}

/// A task of a process that has not ended, the first one if that lives, and its state. None when all have ended.
pub fn living(pid: Pid) -> Option<(Tid, char)> {
    let living = |tid: Tid| Some((tid, status(tid).ok()?.state)).filter(|(_, state)| !matches!(state, 'Z' | 'X'));
    living(pid.into()).or_else(|| threads(pid).ok()?.into_iter().find_map(living))
}

/// Whether a process has a handler for a signal: SigCgt of proc_pid_status(5).
pub fn handles(tid: Tid, signal: i32) -> bool {
    let handled = || u64::from_str_radix(super::field(&super::read(tid, "status").ok()?, "SigCgt")?, 16).ok();
    handled().is_some_and(|set| set & 1 << (signal - 1) != 0)
}

/// Whether a task goes on: it has not ended, does not end at this moment (PF_EXITING), and no SIGKILL is on its way to it.
/// Fields 3, 9 and 31 of proc_pid_stat(5).
pub fn goes_on(tid: Tid) -> bool {
    const PF_EXITING: u64 = 4;
    const SIGKILL: u64 = 1 << (nix::libc::SIGKILL - 1);
    let Ok(text) = super::read(tid, "stat") else { return false };
    let number = |field| stat_field(&text, field).and_then(|word| word.parse::<u64>().ok());
    let (Some(flags), Some(pending)) = (number(9), number(31)) else { return false };
    !matches!(stat_field(&text, 3), Some("Z" | "X")) && flags & PF_EXITING == 0 && pending & SIGKILL == 0
}

/// Whether a task runs, wants to, or sleeps, and has neither stopped nor ended: field 3 of proc_pid_stat(5).
pub fn runs_or_sleeps(tid: Tid) -> bool {
    let Ok(text) = super::read(tid, "stat") else { return false };
    matches!(stat_field(&text, 3), Some("R" | "S" | "D"))
}

/// Whether a task sleeps in execve(2), as it does until its siblings have ended.
pub fn sleeps_in_execve(tid: Tid) -> bool {
    blocked_in(tid).is_some_and(|blocked| matches!(blocked.nr, libc::SYS_execve | libc::SYS_execveat))
}

/// How long a process has run, all threads together: fields 14 and 15 of proc_pid_stat(5), in hundredths of seconds.
pub fn processor_time(pid: Pid) -> Option<Duration> {
    /// USER_HZ, the same on all machines that we know.
    const TICK: Duration = Duration::from_millis(10);
    let text = super::read(pid.into(), "stat").ok()?;
    let ticks = |field| stat_field(&text, field)?.parse::<u32>().ok();
    Some(TICK * ticks(14)?.saturating_add(ticks(15)?))
}

/// What a task does, and how much it has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activity {
    /// Whether it runs, or waits for a processor; otherwise it sleeps, is stopped, or has ended.
    pub wants_to_run: bool,
    /// How long it has run. The present turn may not be counted yet.
    pub nanoseconds: u64,
    /// How often it was given a processor.
    pub turns: u64,
}

impl Activity {
    /// Whether the kernel counts turns (CONFIG_SCHED_INFO): every task has had one.
    pub fn is_counted(&self) -> bool {
        self.turns > 0
    }
}

/// What a task does: /proc/TID/stat and /proc/TID/schedstat.
pub fn activity(tid: Tid) -> Option<Activity> {
    let text = super::read(tid, "stat").ok()?;
    let wants_to_run = stat_field(&text, 3)? == "R";
    // All of it is 0 where the kernel does not count.
    let text = super::read(tid, "schedstat").unwrap_or_default();
    let mut numbers = std::str::from_utf8(&text).ok()?.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    Some(Activity { wants_to_run, nanoseconds: numbers.next().unwrap_or(0), turns: numbers.nth(1).unwrap_or(0) })
}

/// The number that the kernel has given last to a new task of this PID namespace: the fifth field of /proc/loadavg.
pub fn last_number() -> Option<i32> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Numbers of tasks are below this: /proc/sys/kernel/pid_max.
pub fn number_limit() -> Option<i32> {
    i32::try_from(super::number_in("/proc/sys/kernel/pid_max")?).ok()
}

/// Processes other than `pid` and ourselves that use the address space of `of`, a live task of it: made by clone
/// with CLONE_VM and without CLONE_THREAD. (A zombie has none, and would seem to share that with all that have none.)
pub fn sharers(pid: Pid, of: Tid) -> Vec<Pid> {
    let own = std::process::id();
    let processes = processes().unwrap_or_default();
    processes
        .into_iter()
        .filter(|other| *other != pid && other.0 as u32 != own)
        .filter(|other| crate::sys::share_memory(of, (*other).into()).unwrap_or(false))
        .collect()
}

/// Whether a task is of the first process of a PID namespace: 1 is its last number, and not its only one.
pub fn is_init_of_namespace(tid: Tid) -> bool {
    let Ok(text) = super::read(tid, "status") else { return false };
    let numbers = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NStgid:"));
    let numbers: Vec<&[u8]> = numbers.map_or_else(Vec::new, |line| {
        line.split(u8::is_ascii_whitespace).filter(|number| !number.is_empty()).collect()
    });
    numbers.len() > 1 && numbers.last() == Some(&&b"1"[..])
}

/// What personality(2) has set. Needs the right to trace.
pub fn personality(tid: Tid) -> Option<u32> {
    let text = super::read(tid, "personality").ok()?;
    u32::from_str_radix(std::str::from_utf8(&text).ok()?.trim(), 16).ok()
}

/// Whether READ_IMPLIES_EXEC of personality(2) is set. Needs the right to trace.
pub fn read_implies_exec(tid: Tid) -> bool {
    personality(tid).is_some_and(|persona| persona & crate::abi::READ_IMPLIES_EXEC != 0)
}

/// What a blocked task is in: /proc/TID/syscall. None while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// Number of the system call, -1 when it is blocked outside of one.
    pub nr: i64,
    /// Stack pointer.
    pub sp: Option<Addr>,
}

/// What a task is blocked in.
pub fn blocked_in(tid: Tid) -> Option<Blocked> {
    let text = super::read(tid, "syscall").ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    let mut words = text.split_ascii_whitespace();
    let nr = words.next()?.parse().ok()?;
    let sp = words.rev().nth(1).and_then(|sp| u64::from_str_radix(sp.trim_start_matches("0x"), 16).ok());
    Some(Blocked { nr, sp: sp.map(Addr) })
}

/// Size of a process: VIRT and RES in bytes, of /proc/PID/statm.
pub fn size(tid: Tid) -> Option<(u64, u64)> {
    let text = super::read(tid, "statm").ok()?;
    let mut pages = std::str::from_utf8(&text).ok()?.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    Some((pages.next()?? * crate::units::PAGE, pages.next()?? * crate::units::PAGE))
}

/// Yama's rule for who may trace: /proc/sys/kernel/yama/ptrace_scope, none without Yama.
pub fn ptrace_scope() -> Option<u64> {
    super::number_in("/proc/sys/kernel/yama/ptrace_scope")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields are found whatever lies between them.
    #[test]
    fn status_of_a_stopped_and_traced_thread() {
        let text = b"Name:\tvm\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t100\nNgid:\t0\nPid:\t101\nPPid:\t7\n\
            TracerPid:\t55\nUid:\t1000\t1001\t1000\t1000\nGid:\t0\t0\t0\t0\n";
        let expected = TaskStatus { pid: Pid(100), parent: Pid(7), uid: 1001, tracer: Some(Pid(55)), state: 't' };
        assert_eq!(parse_status(text), Some(expected));
        assert_eq!(parse_status(b"Tgid:\t100\n"), None);
    }

    /// A name may hold anything; a text may be cut off anywhere.
    #[test]
    fn fields_of_stat() {
        let fields = |text: &'static [u8]| [3, 4].map(|number| stat_field(text, number));
        assert_eq!(fields(b"7 (a) T 1 ) R 12 7 7"), [Some("R"), Some("12")]);
        assert_eq!(fields(b"7 (a) T 1 7 7\0\0"), [Some("T"), Some("1")]);
        assert_eq!(fields(b"7 (a) T"), [Some("T"), None]);
        for broken in ["7 (a", "7 (a)", ""] {
            assert_eq!(fields(broken.as_bytes()), [None, None], "{broken}");
        }
    }

    /// A number that is used anew is told from the one that it was.
    #[test]
    fn made_after() {
        let own = Pid(std::process::id() as i32);
        let then = sys::perf::monotonic_ns();
        // Longer than a tick.
        std::thread::sleep(Duration::from_millis(50));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let later = Pid(child.id() as i32);
        assert!(was_made_after(later, then) && !was_made_after(later, sys::perf::monotonic_ns()));
        assert!(was_made_after(own, 0) && !was_made_after(own, then));
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(!was_made_after(later, then), "nobody has this number");
    }

    /// A thread that lives is listed, however many that were there before it end meanwhile. Of plain listings, one in some
    /// thousand lacks it.
    #[test]
    fn none_is_left_out_of_a_listing() {
        use std::sync::{Barrier, mpsc};
        const ROUNDS: usize = 500;
        const BRIEF: u32 = 40;
        let own = Pid(std::process::id() as i32);
        let (mut listings, mut lacking) = (0, 0);
        for _ in 0..ROUNDS {
            let (begin, end) = (&Barrier::new(BRIEF as usize + 1), &Barrier::new(2));
            let (tell, told) = mpsc::channel();
            std::thread::scope(|scope| {
                let brief = |ordinal| {
                    scope.spawn(move || {
                        begin.wait();
                        std::thread::sleep(Duration::from_micros(7) * ordinal);
                    })
                };
                let brief: Vec<_> = (0..BRIEF).map(brief).collect();
                scope.spawn(move || {
                    tell.send(sys::own_tid()).unwrap();
                    end.wait();
                });
                let last = told.recv().unwrap();
                begin.wait();
                while !brief.iter().all(|thread| thread.is_finished()) {
                    listings += 1;
                    lacking += usize::from(!threads(own).unwrap().contains(&last));
                }
                end.wait();
            });
        }
        assert_eq!(lacking, 0, "of {listings}");
    }

    /// A stop by job control counts as little as an end.
    #[test]
    fn running_stopped_and_ended() {
        use nix::sys::signal::{Signal, kill};
        let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let (pid, tid) = (nix::unistd::Pid::from_raw(sleep.id() as i32), Tid(sleep.id() as i32));
        let await_state = |expected: fn(char) -> bool| {
            while !status(tid).is_ok_and(|status| expected(status.state)) {
                std::thread::yield_now();
            }
            runs_or_sleeps(tid)
        };
        assert!(await_state(|state| state == 'S'));
        kill(pid, Signal::SIGSTOP).unwrap();
        assert!(!await_state(|state| state == 'T'));
        kill(pid, Signal::SIGKILL).unwrap();
        assert!(!await_state(|state| state == 'Z'));
        sleep.wait().unwrap();
        assert!(!runs_or_sleeps(tid));
    }

    /// The effective ones are told, as a set of bits.
    #[test]
    fn capabilities() {
        let text = b"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000080001\nCapBnd:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(text), Some(1 << CAP_SYS_PTRACE | 1));
        assert_eq!(effective_capabilities(b"CapPrm:\t000001ffffffffff\n"), None);
    }

    #[test]
    fn this_process_has_a_size_and_a_thread_and_a_name() {
        let pid = Pid(std::process::id() as i32);
        let (virt, resident) = size(pid.into()).unwrap();
        assert!(virt > resident && resident > 0);
        assert!(threads(pid).unwrap().contains(&Tid(pid.0)));
        assert!(!command_line(pid).is_empty());
        assert!(start_brk(pid.into()).is_some());
        assert!(last_cpu(pid.into()).is_some());
        let begin = processor_time(pid).unwrap();
        while processor_time(pid).unwrap() == begin {}
    }

    /// Of arguments that are too long the beginning is told.
    #[test]
    fn arguments_are_bounded() {
        let long = ["a", "b"].map(|letter| letter.repeat(100_000));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo ready; read line"]).args(&long);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        // spawn returns before the arguments are in place.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
        let told = command_line(Pid(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told.len() == 5 && told[3] == long[0], "{}", told.len());
        assert_eq!(told.iter().map(|argument| argument.len() + 1).sum::<usize>(), (128 << 10) + 1);
    }
}
