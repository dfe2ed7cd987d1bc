//! Calls that strace broke off, lines that were cut, and what a log lacks.

use super::super::join::What;
use super::{notes, read, told};
use crate::event::Call;

/// The halves of a call carry its arguments before, behind, or on both sides, by the version of strace.
#[test]
fn halves_of_calls() {
    let log = "\
7  mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
8  clone( <unfinished ...>
9  io_setup(128 <unfinished ...>
7  <... mmap resumed> )       = 0x7000
8  <... clone resumed> child_stack=0x9000, flags=CLONE_VM|CLONE_THREAD) = 11
9  <... io_setup resumed>, [0x5000]) = 0
9  clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x1000, stack_size=0x1000} <unfinished ...>
9  <... clone3 resumed> => {parent_tid=[12]}, 88) = 12
";
    let calls = read(log).items.into_iter().filter_map(|item| match item.what {
        What::Returned(call, result) => Some(crate::report::notation::returned(&call, result).to_string()),
        _ => None,
    });
    assert_eq!(
        calls.collect::<Vec<_>>(),
        [
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7000",
            "clone(child_stack=0x9000, flags=CLONE_VM|CLONE_THREAD) = 11",
            "io_setup(128, NULL) = 0",
            "clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x1000, stack_size=0x1000}, 88) = 12",
        ]
    );
}

/// Strings that look like calls are none, and neither are the halves of calls that are not followed.
#[test]
fn strings_are_no_calls() {
    let log = r#"
7  write(2, "exit(0) <unfinished ...>\n", 25) = 25
7  sendto(19, "\1\0\0\0mmap(NULL, 10489856, ...) = 0\n", 31, MSG_NOSIGNAL, NULL, 0) = 31
7  read(3,  <unfinished ...>
7  <... read resumed>"<... munmap resumed>) = 0", 25) = 25
7  read(3, "7  exit_group(0) = ?"..., 25) = 25
"#;
    let read = read(log);
    assert_eq!(read.items.iter().map(|item| item.what.clone()).collect::<Vec<_>>(), [What::Shown]);
    assert!(read.seen.is_log);
}

/// On a terminal strace's own messages cut lines in two, and numbers are shown only while there are several tasks.
#[test]
fn a_log_from_a_terminal() {
    let log = "\
execve(\"./app\", [\"./app\"], 0x7ffc /* 35 vars */) = 0
set_tid_address(0x7f5a) = 26008
mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x10000
clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x10000, stack_size=0x1f80}strace: Process 26009 attached
 => {parent_tid=[26009]}, 88) = 26009
[pid 26009] rseq(0x7f5a, 0x20, 0, 0x53053053 <unfinished ...>
[pid 26008] munmap(0x40000, 4096 <unfinished ...>
[pid 26009] <... rseq resumed>)         = 0
[pid 26009] exit(0)                     = ?
[pid 26009] +++ exited with 0 +++
<... munmap resumed>)                   = 0
clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x20000, stack_size=0x9000}, 88strace: Process 26023 attached
 <unfinished ...>
[pid 26023] exit_group(0)               = ?
[pid 26023] +++ exited with 0 +++
<... clone3 resumed>)                   = 26023
exit_group(0)                           = ?
+++ exited with 0 +++
";
    assert_eq!(
        told(log),
        [
            "26008  --- attached to process 26008: 1 tasks, 0 mappings ---",
            "26008  --- about to execute a program ---",
            "26008  --- new program, 0 mappings ---",
            "26008  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x10000",
            "26008  +++ new thread 26009 of process 26008 +++",
            "26008  clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x10000, stack_size=0x1f80}, 88) = 26009",
            "26009  exit(0) = ?",
            "26009  +++ exited with 0 +++",
            "26008  munmap(0x40000, 4096) = 0",
            "26008  +++ new process 26023, in the same address space +++",
            "26008  clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x20000, stack_size=0x9000}, 88) = 26023",
            "26023  exit_group(0) = ?",
            "26023  +++ exited with 0 +++",
            "26008  exit_group(0) = ?",
            "26008  +++ exited with 0 +++",
        ]
    );
}

/// Damaged lines are left out, counted, and the first of them named.
#[test]
fn damaged_lines() {
    let mut log = "7  munmap(0x1000, 4096) = 0\n".to_owned();
    let damaged = [
        "7  mmap(NULL, 10489856, PR",
        "7  munmap(0x1000, 4096) = ",
        "\u{7f}\u{1}",
        "7  munmap(4096) = 0",
        "hello",
        "7 25:61:00 brk(NULL) = 0",
    ];
    for line in damaged {
        log.push_str(line);
        log.push('\n');
    }
    log.push_str("\n7  munmap(0x2000, 4096) = 0\n");
    let last = notes(&log).pop().unwrap();
    assert_eq!(last, "6 lines of the log could not be read and were left out: lines 2, 3, 4, 5, 6, …");
    assert_eq!(told(&log).len(), 3);
}

/// A table of counts (-C) at the end is no damage.
#[test]
fn a_table_at_the_end() {
    let log = "7  munmap(0x1000, 4096) = 0\n% time     seconds\n------ ----\n  0.00    0.000000   0     1     rseq\n100.00 total\n";
    assert!(!notes(log).iter().any(|note| note.contains("could not be read")));
}

/// What grep has left of a log proves nothing, and what it still shows is said.
#[test]
fn what_a_log_lacks() {
    let line = |minute: u32| {
        format!(
            "31152 23:{minute:02}:00 mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0 <unfinished ...>\n"
        )
    };
    assert_eq!(
        notes(&(0..15).map(line).collect::<String>()),
        [
            "the log shows no results of calls, no creation of tasks (clone), no ends of tasks and no unmapping (munmap): \
             nothing can be proven from it (it may have been filtered)",
            "what it still shows: 15 requests for 10,489,856 bytes of memory (mmap), one every 60.0 s",
        ]
    );
}

/// A log that shows all calls lacks nothing because one of them was never made.
#[test]
fn an_unfiltered_log_lacks_nothing() {
    let log = "\
7 23:00:00 read(3, \"\", 1) = 0
7 23:00:00 futex(0x10, FUTEX_WAIT, 1, NULL) = 0
7 23:00:01 write(1, \"x\", 1) = 1
7 23:00:02 mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
";
    let of = read(log);
    assert_eq!(of.seen.ceiling(), None);
    assert_eq!(of.end.0.as_secs(), 2);
    assert!(notes(log).is_empty());
}

/// Without strace -f threads are made and never seen; in a container they have other numbers.
#[test]
fn children_that_are_not_seen() {
    let thread =
        "7 23:00:00 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0, stack=0x10000, stack_size=0x1f80}, 88) = 3\n";
    let missing = notes(&format!("{thread}7 23:00:01 read(3, \"\", 1) = 0\n"));
    assert!(missing.iter().any(|note| note.contains("strace -f follows them")), "{missing:?}");
    let renamed = notes(&format!("{thread}8000 23:00:01 read(3, \"\", 1) = 0\n7 23:00:01 read(3, \"\", 1) = 0\n"));
    // A task that was there may turn up late: only where it comes after a birth is it taken for a child.
    assert!(
        renamed.iter().any(|note| note.contains("strace -f follows them") || note.contains("other numbers")),
        "{renamed:?}"
    );
    let told = notes(&thread.replace("= 3", "= 3 /* 4711 in strace's PID NS */"));
    assert!(told.iter().any(|note| note.contains("strace -f")), "{told:?}");
    let items = read(&thread.replace("= 3", "= 3 /* 4711 in strace's PID NS */")).items;
    assert!(matches!(items[0].what, What::Returned(Call::Clone(_), Ok(4711))), "{items:?}");
}
