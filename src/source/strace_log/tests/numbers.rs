//! Logs of containers that were made outside: tasks have other numbers where they are made than before their lines.

use super::{events, told};
use crate::event::EventKind;
use crate::units::{Pid, Tid};

const THREAD: &str = "CLONE_VM|CLONE_THREAD|CLONE_SETTLS|CLONE_CHILD_CLEARTID";

/// A thread is made, with its stack below `tls`, which its maker is told is `inner`.
fn made(maker: u32, tls: u32, inner: u32) -> String {
    let (stack, number) = (tls - 0xf000, tls + 0x2d0);
    format!(
        "{maker}  clone3({{flags={THREAD}, child_tid={number:#x}, stack={stack:#x}, stack_size=0xf000, tls={tls:#x}}}, 88) = {inner}\n"
    )
}

/// What a thread does first.
fn begins(line: u32, tls: u32) -> String {
    let (area, list) = (tls + 0x920, tls + 0x2e0);
    format!("{line}  rseq({area:#x}, 0x20, 0, 0x53053053) = 0\n{line}  set_robust_list({list:#x}, 24) = 0\n")
}

/// Who is told to have made the calls of `name`.
fn callers(log: &str, name: &str) -> Vec<Tid> {
    let told = told(log);
    let calls = told.iter().filter_map(|line| line.split_once(&format!("  {name}(")));
    calls.map(|(tid, _)| Tid(tid.parse().unwrap())).collect()
}

/// The numbers of one kind are those of the other, one further: each thread's lines are its own all the same.
#[test]
fn one_threads_number_is_anothers_line() {
    for early in [false, true] {
        let mut log = String::new();
        for (inner, tls) in [(8, 0x1_f000), (9, 0x2_f000), (10, 0x3_f000)] {
            let line = inner + 1;
            let (birth, begin) = (made(7, tls, inner), begins(line, tls));
            let (entry, returned) = birth.split_once('(').unwrap();
            log += &match early {
                false => birth.clone() + &begin,
                true => format!("{entry}( <unfinished ...>\n{begin}7  <... clone3 resumed>{returned}"),
            };
        }
        for line in [11, 9, 10] {
            log += &format!("{line}  madvise({:#x}, 4096, MADV_DONTNEED) = 0\n{line}  exit(0) = ?\n", (line - 8) << 16);
            log += &format!("{line}  +++ exited with 0 +++\n");
        }
        assert_eq!(callers(&log, "madvise"), [10, 8, 9].map(Tid), "{:#?}", told(&log));
        let (events, kin) = events(&log);
        assert_eq!((kin.born, kin.shown, kin.strangers), (3, 3, 0));
        let ended = events.iter().filter(|event| matches!(event.kind, EventKind::Ended(_))).map(|event| event.tid);
        assert_eq!(ended.collect::<Vec<_>>(), [10, 8, 9].map(Tid));
        let EventKind::Attached(attached) = &events[0].kind else { panic!("{events:?}") };
        assert_eq!(attached.tasks.len(), 1);
    }
}

/// A number outside that is another task's inside: each is known by a number of its own.
#[test]
fn numbers_of_both_kinds() {
    let first = made(7, 0x1_f000, 20) + &begins(30, 0x1_f000);
    // Its maker is told that it is 30, which is not the first one's line, and 7, which is not its maker.
    let log = first + &made(7, 0x2_f000, 30) + &begins(31, 0x2_f000) + &made(7, 0x3_f000, 7) + &begins(32, 0x3_f000);
    let log = log + "30  munmap(0x1000, 4096) = 0\n31  munmap(0x1000, 4096) = 0\n32  munmap(0x1000, 4096) = 0\n";
    let log = log + "7  munmap(0x1000, 4096) = 0\n";
    let callers = callers(&log, "munmap");
    assert_eq!(callers[..2], [20, 30].map(Tid));
    assert!(callers[2].0 > 1 << 22 && callers[3] == Tid(7), "{callers:?}");
}

/// A process of fork keeps its number where its maker does, and one of vfork shows itself by what it executes.
#[test]
fn processes() {
    let fork = "\
7  set_robust_list(0x102e0, 24) = 0
7  clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x102d0) = 2
50 set_robust_list(0x102e0, 24) = 0
50 munmap(0x1000, 4096) = 0
7  munmap(0x2000, 4096) = 0
";
    let pids = |log: &str| -> Vec<Pid> {
        let births = events(log).0.into_iter().filter_map(|event| match event.kind {
            EventKind::Born(birth) => Some(birth.pid),
            _ => None,
        });
        births.collect()
    };
    assert_eq!((callers(fork, "munmap"), pids(fork)), (vec![Tid(2), Tid(7)], vec![Pid(2)]));
    let vfork = "\
7  vfork( <unfinished ...>
50 rt_sigaction(SIGINT, NULL, NULL, 8) = 0
50 execve(\"/bin/true\", [\"true\"], 0x1 /* 2 vars */ <unfinished ...>
7  <... vfork resumed>) = 2
50 <... execve resumed>) = 0
50 munmap(0x1000, 4096) = 0
7  munmap(0x2000, 4096) = 0
";
    assert_eq!((callers(vfork, "munmap"), pids(vfork)), (vec![Tid(2), Tid(7)], vec![Pid(2)]));
}

/// Two processes with one layout of memory make threads at the same time: what lies where does not tell them apart, their
/// numbers do.
#[test]
fn twins() {
    let split = |maker: u32, inner: u32| {
        let birth = made(maker, 0x1_f000, inner);
        let (entry, returned) = birth.split_once('(').unwrap();
        (format!("{entry}( <unfinished ...>\n"), format!("{maker}  <... clone3 resumed>{returned}"))
    };
    let (one, other) = (split(7, 11), split(8, 12));
    let log = "7  fork() = 8\n8  brk(NULL) = 0x1000\n".to_owned() + &one.0 + &other.0 + &begins(12, 0x1_f000);
    let log =
        log + &one.1 + &other.1 + &begins(11, 0x1_f000) + "11 munmap(0x1000, 4096) = 0\n12 munmap(0x2000, 4096) = 0\n";
    assert_eq!(callers(&log, "munmap"), [11, 12].map(Tid), "{:#?}", told(&log));
}

/// A thread that was there before, and begins to use locks when others are made, is none of them.
#[test]
fn a_stranger() {
    let log =
        made(7, 0x1_f000, 8) + &begins(40, 0x9_f000) + "40  munmap(0x1000, 4096) = 0\n8  munmap(0x2000, 4096) = 0\n";
    assert_eq!(callers(&log, "munmap"), [40, 8].map(Tid));
}

/// What a child is called inside may be the number of whoever was there first.
#[test]
fn a_childs_number_is_the_first_ones_line() {
    let log = "5  execve(\"./a\", [\"./a\"], 0x1 /* 2 vars */) = 0\n5  fork() = 7\n7  set_tid_address(0x2d0) = 1\n"
        .to_owned();
    let log = log
        + &made(7, 0x1_f000, 5)
        + &begins(8, 0x1_f000)
        + "8  munmap(0x1000, 4096) = 0\n5  munmap(0x2000, 4096) = 0\n";
    let callers = callers(&log, "munmap");
    assert!(callers[0].0 > 1 << 22 && callers[1] == Tid(5), "{callers:?}");
    let EventKind::Attached(attached) = &events(&log).0[0].kind else { panic!("{log}") };
    assert_eq!(attached.pid, Pid(5));
}

/// Threads that no library has made: where all that are unknown must be children, there is but one order that fits.
#[test]
fn order_tells() {
    let clone = |maker: u32, inner: u32| {
        format!("{maker}  clone(child_stack={:#x}, flags=CLONE_VM|CLONE_THREAD) = {inner}\n", 0x1_0000 * inner)
    };
    let begin = "7  execve(\"./a\", [\"./a\"], 0x1 /* 2 vars */) = 0\n7  set_tid_address(0x2d0) = 1\n";
    // The line 9 is not the task that its maker was told is 9. 10's first line comes before 9's: which of the two it is shows only
    // then.
    let lines = "10 munmap(0x9000, 4096) = 0\n10 exit(0) = ?\n10 +++ exited with 0 +++\n9  munmap(0x8000, 4096) = 0\n";
    let two = begin.to_owned() + &clone(7, 8) + &clone(7, 9) + lines;
    assert_eq!(callers(&two, "munmap"), [9, 8].map(Tid), "{:#?}", told(&two));
    // During a birth, too.
    let (one, other) = (clone(7, 8), clone(7, 9));
    let (entry, returned) = other.split_once('(').unwrap();
    let during = format!("{begin}{one}{entry}( <unfinished ...>\n{lines}7  <... clone resumed>{returned}");
    assert_eq!(callers(&during, "munmap"), [9, 8].map(Tid), "{:#?}", told(&during));
    // Whoever turns up may have been there before where the log does not begin with the program.
    let attached = two.split_once('\n').unwrap().1;
    let notes = super::notes(attached);
    let strangers = callers(attached, "munmap");
    assert!(strangers[0] == Tid(10) && strangers[1].0 > 1 << 22, "{strangers:?}");
    assert!(notes.iter().any(|note| note.contains("--pidns-translation")), "{notes:#?}");
    assert!(super::notes(&two).iter().all(|note| !note.contains("--pidns-translation")));
}

/// A thread's end comes after its call of exit, and is not the first line of the next one.
#[test]
fn an_end_is_no_beginning() {
    let begin = "7  execve(\"./a\", [\"./a\"], 0x1 /* 2 vars */) = 0\n7  set_tid_address(0x2d0) = 1\n".to_owned();
    let next = made(7, 0x2_f000, 6);
    let (entry, returned) = next.split_once('(').unwrap();
    let log = begin
        + &made(7, 0x1_f000, 5)
        + &begins(8, 0x1_f000)
        + "8  exit(0 <unfinished ...>\n8  <... exit resumed>) = ?\n";
    let log = format!("{log}{entry}( <unfinished ...>\n8  +++ exited with 0 +++\n7  <... clone3 resumed>{returned}");
    let log = log + &begins(9, 0x2_f000) + "9  munmap(0x1000, 4096) = 0\n";
    assert_eq!(callers(&log, "munmap"), [Tid(6)], "{:#?}", told(&log));
}

/// Children that never show themselves, and ends that are nobody's: whoever is looked for is not looked for among all, each time.
#[test]
fn many_that_do_not_fit() {
    const MANY: u32 = 50_000;
    let mut log = "7  execve(\"./a\", [\"./a\"], 0x1 /* 2 vars */) = 0\n7  set_tid_address(0x2d0) = 1\n".to_owned();
    (0..MANY).for_each(|number| log += &made(7, 0x1_f000, 10 + number));
    (0..MANY).for_each(|number| log += &format!("{}  +++ exited with 0 +++\n", 200_000 + number));
    let kin = events(&log).1;
    assert_eq!((kin.born, kin.shown, kin.elsewhere), (MANY.into(), 0, MANY.into()));
}
