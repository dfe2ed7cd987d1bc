//! Where the log's order is not the kernel's.

use super::super::beginning::WhoWasThere;
use super::super::reconcile::Reconciler;
use super::{events, read, told};
use crate::diagnose;
use crate::diagnose::{Library, Moment, Phase};
use crate::event::EventKind;
use crate::model::Model;
use crate::units::{Pid, Tid, Time};

const CLONE: &str = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID";

/// All mappings at the end.
fn mapped(log: &str) -> Vec<String> {
    let mut model = Model::partial();
    for event in events(log).0 {
        model.apply(&event);
    }
    let space = model.unfinished().next().map(|(_, space)| space.areas.iter().map(|(range, _)| range.to_string()));
    space.into_iter().flatten().collect()
}

/// The new mapping can lie there only because the old one is gone: the munmap, which returns later, must not take it away.
#[test]
fn a_mapping_where_another_thread_is_unmapping() {
    let log = "\
7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
7  munmap(0x10000, 8192 <unfinished ...>
8  mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
8  mprotect(0x10000, 4096, PROT_READ) = 0
7  <... munmap resumed>) = 0
";
    assert_eq!(mapped(log), ["10000-11000"]);
    assert_eq!(
        told(log)[2..],
        [
            "7  munmap(0x10000, 8192) = 0",
            "8  mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000",
            "8  mprotect(0x10000, 4096, PROT_READ) = 0",
        ]
    );
}

/// The same with mremap, whose target is known only when it returns, and with several calls that wait for one another.
#[test]
fn a_chain_of_waiting_calls() {
    let log = "\
7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
8  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x20000
7  mremap(0x10000, 8192, 16384, MREMAP_MAYMOVE <unfinished ...>
8  munmap(0x20000, 8192 <unfinished ...>
9  mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
9  mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x20000
7  <... mremap resumed>) = 0x30000
8  <... munmap resumed>) = 0
";
    assert_eq!(mapped(log), ["10000-12000", "20000-22000", "30000-34000"]);
}

/// A munmap that fails, or whose return the log does not have, makes nobody wait for ever.
#[test]
fn returns_that_do_not_come() {
    let begin = "\
7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
7  munmap(0x10000, 8192 <unfinished ...>
8  mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
";
    assert_eq!(mapped(begin), ["10000-11000"]);
    let dies = format!(
        "{begin}8  brk(NULL) = 0x5000\n7  <... munmap resumed>) = ?\n7  +++ exited with 0 +++\n8  brk(NULL) = 0x5000\n"
    );
    assert_eq!(mapped(&dies), ["10000-11000"]);
    let long: String = (0..20_000).map(|_| "8  brk(NULL) = 0x5000\n").collect();
    assert_eq!(told(&format!("{begin}{long}")).len(), 20_004);
}

/// Another process's memory is another: its mapping says nothing of what is unmapped here.
#[test]
fn processes_have_their_own_memory() {
    let log = "\
7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
7  fork() = 8
7  munmap(0x10000, 8192 <unfinished ...>
8  mmap(0x10000, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0) = 0x10000
7  <... munmap resumed>) = 0
";
    let told = told(log);
    let position = |text: &str| told.iter().position(|line| line.contains(text)).unwrap();
    assert!(position("MAP_FIXED") < position("munmap"), "{told:#?}");
}

/// A child does something before its parent's clone returns, of which it is not known yet which task it made.
#[test]
fn a_child_before_its_birth() {
    let log = format!(
        "\
7 23:00:00 clone( <unfinished ...>
9 23:00:01 set_robust_list(0x10, 24) = 0
9 23:00:01 madvise(0x10000, 4096, MADV_DONTNEED) = 0
7 23:00:02 <... clone resumed> child_stack=0x11ff0, flags={CLONE}, tls=0x11ff8) = 9
"
    );
    let lines = told(&log);
    let expected = ["attached to process 7: 1 tasks", "+++ new thread 9 of process 7 +++", "7  clone(", "9  madvise("];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert!(lines.iter().zip(expected).all(|(line, part)| line.contains(part)), "{lines:#?}");
    let born = events(&log).0.into_iter().find(|event| matches!(event.kind, EventKind::Born(_))).unwrap();
    assert_eq!(born.at.0.as_secs(), 1);
}

/// A task that turns up while a clone is under way and is not its child was there before.
#[test]
fn a_stranger_while_a_clone_is_under_way() {
    let log = "\
7  clone( <unfinished ...>
9  munmap(0x10000, 4096) = 0
7  <... clone resumed> child_stack=0x11ff0, flags=CLONE_VM|CLONE_THREAD) = 8
8  munmap(0x20000, 4096) = 0
10 munmap(0x30000, 4096) = 0
";
    let (events, kin) = events(log);
    assert_eq!((kin.born, kin.shown), (1, 1));
    let EventKind::Attached(attached) = &events[0].kind else { panic!("{events:?}") };
    assert_eq!(attached.tasks.iter().map(|task| task.tid).collect::<Vec<_>>(), [7, 9, 10].map(Tid));
    assert_eq!(events.len(), 6);
}

/// A clone that never returns, and tasks that end again and again: whatever waits for it does not wait for ever.
#[test]
fn ends_of_strangers() {
    let ends: String = (0..12_000).map(|number| format!("{}  +++ exited with 0 +++\n", 1000 + number % 7)).collect();
    assert_eq!(told(&format!("7  clone( <unfinished ...>\n{ends}")).len(), 8);
}

/// What waits for a return waits no longer than for so many lines, also while the log goes on; so nothing that is kept grows
/// with the log.
#[test]
fn waiting_is_bounded() {
    let munmap = "\
7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
7  munmap(0x10000, 8192 <unfinished ...>
8  mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000
";
    let clone = "7  clone( <unfinished ...>\n";
    for begin in [munmap, clone] {
        for (lines, are_told) in [(9_000, false), (11_000, true)] {
            let log = format!("{begin}{}", "8  brk(NULL) = 0x5000\n".repeat(lines));
            let read = read(&log);
            let mut order =
                Reconciler::new(WhoWasThere { main: Pid(7), others: Vec::new(), is_launched: false, has_ends: false });
            let passed = read.items.into_iter().filter_map(|item| order.pass(item)).count();
            let told = passed + std::iter::from_fn(|| order.pop()).count();
            assert_eq!(told >= lines, are_told, "{told} of {lines} after {begin}");
        }
    }
}

/// vfork's child has executed a program, or ended, before its parent goes on.
#[test]
fn vfork() {
    let log = "\
7  vfork( <unfinished ...>
8  execve(\"/bin/true\", [\"true\"], 0x1 /* 2 vars */ <unfinished ...>
7  <... vfork resumed>) = 8
8  <... execve resumed>) = 0
8  exit_group(0) = ?
8  +++ exited with 0 +++
7  exit_group(0) = ?
7  +++ exited with 0 +++
";
    assert_eq!(
        told(log)[1..5],
        [
            "7  +++ new process 8, in the same address space +++",
            "7  vfork() = 8",
            "8  --- about to execute a program ---",
            "8  --- new program, 0 mappings ---",
        ]
    );
}

/// A thread that executes a program goes on under its process's number.
#[test]
fn execve_of_a_thread() {
    let log = "\
7  clone(child_stack=0x11ff0, flags=CLONE_VM|CLONE_THREAD) = 8
7  clone(child_stack=0x21ff0, flags=CLONE_VM|CLONE_THREAD) = 9
7  futex(0x10, FUTEX_WAIT, 1, NULL <unfinished ...>
8  execve(\"/bin/true\", [\"true\"], 0x1 /* 2 vars */ <unfinished ...>
9  +++ exited with 0 +++
7  +++ superseded by execve in pid 8 +++
7  <... execve resumed>) = 0
7  munmap(0x10000, 4096) = 0
";
    let told = told(log);
    assert_eq!(
        told[told.len() - 4..],
        [
            "8  --- about to execute a program ---",
            "9  +++ exited with 0 +++",
            "7  --- new program, 0 mappings; thread 8 is now 7 ---",
            "7  munmap(0x10000, 4096) = 0",
        ]
    );
}

/// Without calls of exit in the log, ends that come together are the process's, and its threads leave nothing behind.
#[test]
fn ends_without_exits() {
    let thread = |tid: u32, at: u32| {
        format!(
            "7  mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {at:#x}\n\
                 7  clone(child_stack={:#x}, flags=CLONE_VM|CLONE_THREAD) = {tid}\n",
            at + 0x1ff0
        )
    };
    let begin = thread(8, 0x10000) + &thread(9, 0x20000);
    let together = format!("{begin}9  +++ exited with 0 +++\n8  +++ exited with 0 +++\n7  +++ exited with 0 +++\n");
    let lines = told(&together);
    let exiting = lines.iter().position(|line| line == "7  exit_group(0) = ?").unwrap();
    assert!(lines[..exiting].iter().all(|line| !line.contains("exited")), "{lines:#?}");
    // Nor where the line of one call is missing, and others are there.
    let missing = format!("{begin}{}11  exit(0) = ?\n11  +++ exited with 0 +++\n", thread(11, 0x30000));
    let lines =
        told(&format!("{missing}9  +++ exited with 0 +++\n8  +++ exited with 0 +++\n7  +++ exited with 0 +++\n"));
    let exiting = lines.iter().position(|line| line == "7  exit_group(0) = ?").unwrap();
    assert_eq!(lines[..exiting].iter().filter(|line| line.contains("exited")).count(), 1, "{lines:#?}");
    // The process goes on after its threads' ends: they have ended by themselves.
    let alone = format!(
        "{begin}9  +++ exited with 0 +++\n8  +++ exited with 0 +++\n7  brk(NULL) = 0x5000\n7  +++ exited with 0 +++\n"
    );
    let lines = told(&alone);
    let exiting = lines.iter().position(|line| line == "7  exit_group(0) = ?").unwrap();
    assert_eq!(lines[..exiting].iter().filter(|line| line.contains("exited")).count(), 2, "{lines:#?}");
}

/// Without +++ lines (-qq) a thread ends at its call of exit, and with them there.
#[test]
fn exits_without_ends() {
    let ends = |log: &str| told(log).iter().filter(|line| line.contains("+++ exited")).count();
    let log = "7  clone(child_stack=0x11ff0, flags=CLONE_VM|CLONE_THREAD) = 8\n8  exit(0) = ?\n7  brk(NULL) = 0x5000\n";
    assert_eq!(ends(log), 1);
    let other = "9  clone(child_stack=0x21ff0, flags=CLONE_VM|CLONE_THREAD) = 10\n10  +++ exited with 0 +++\n";
    assert_eq!(ends(&format!("{other}{log}")), 1);
    assert_eq!(ends(&format!("{other}{log}8  +++ exited with 0 +++\n")), 2);
}

/// A number that is used again is another task.
#[test]
fn numbers_used_again() {
    let clone = "7  clone(child_stack=0x11ff0, flags=CLONE_VM|CLONE_THREAD) = 8\n";
    let (events, kin) = events(&format!("{clone}{clone}8  brk(NULL) = 0x5000\n"));
    assert_eq!((kin.born, kin.shown), (2, 1));
    assert_eq!(events.iter().filter(|event| matches!(event.kind, EventKind::Ended(_))).count(), 1);
}

/// Pages that are not known can be unmapped, protected and moved without harm.
#[test]
fn unknown_pages() {
    let log = "\
7  munmap(0x10000, 8192) = 0
7  mprotect(0x10000, 8192, PROT_READ) = 0
7  mremap(0x10000, 8192, 16384, MREMAP_MAYMOVE) = 0x40000
7  madvise(0x10000, 8192, MADV_DONTFORK) = 0
7  brk(0x5000) = 0x5000
7  shmdt(0x10000) = 0
";
    assert_eq!(mapped(log), ["40000-44000"]);
}

/// A log without its munmap calls shows mappings that lie over others: then what seems to be left may be gone.
#[test]
fn unmaps_that_are_missing() {
    let map = "7  mmap(NULL, 40960, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000\n";
    let clone = "7  clone(child_stack=0x1a000, flags=CLONE_VM|SIGCHLD) = 8\n8  exit(0) = ?\n8  +++ exited with 0 +++\n";
    let mut model = Model::partial();
    for event in events(&format!("{map}{clone}{map}")).0 {
        model.apply(&event);
    }
    let (_, space) = model.unfinished().next().unwrap();
    let moment = Moment { now: Time::default(), phase: Phase::Ending { by: None } };
    let diagnosis = diagnose::diagnose(space, moment, &|_| true, Library::NotAsked);
    assert!(diagnosis.findings.is_empty(), "{:?}", diagnosis.findings);
    assert_eq!(space.mappings.len(), 1);
    assert!(diagnosis.notes.iter().any(|note| note.text.starts_with("once something was mapped where")));
}
