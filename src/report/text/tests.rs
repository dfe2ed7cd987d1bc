use super::super::sample::{clean, documented, finding, frame, member};
use super::super::{Counts, Memory, Verify};
use super::*;
use crate::diagnose::finding::{Evidence, Frame, Member, Reason, Recurrence, Rule};
use crate::units::{Pid, Range, Tid, Time};
use proptest::prelude::*;
use std::time::Duration;

fn text(report: &Report) -> String {
    let mut out = Vec::new();
    write(report, &mut out, Style::Plain).unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in text.lines() {
        assert!(super::super::layout::width(line) <= COLUMNS, "wider than {COLUMNS}: {line}");
    }
    text
}

/// The documented case reads as the documentation shows it.
#[test]
fn the_documented_case() {
    insta::assert_snapshot!(text(&documented()), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace: 24 threads, 12,391 events,
             model verified 41 times

    LEAK  15 thread stacks were never unmapped so far: 150.1 MiB of address space    definite, recurrent
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 1.2 MiB resident in all
      growth    one every 60.0 s: +14.1 GiB a day; VIRT now 285.2 GiB
      idle      for 15 min (the first) to 59.6 s (the last)
      thread    minute_job (app.c:61), lives 1.0 s
      created   start_minute_job (app.c:88) < on_timer (app.c:120) < main (app.c:140)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   23:14:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa942fb2000
                23:14:00.001 31151  mprotect(0x7fa942fb2000, 4096, PROT_NONE) = 0  guard page
                23:14:00.002 31151  clone(child_stack=0x7fa9439a1e50, flags=CLONE_VM|…) = 20617
                23:14:01.002 20617  +++ exited with 0 +++                          still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88
    ");
}

/// A clean bill says what was watched, and what makes it trustworthy.
#[test]
fn no_finding_at_the_end() {
    let mut report = clean();
    report.at_end = true;
    report.target.exit = Some(Exit::Code(0));
    report.counts.threads_live = 1;
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace until it exited with 0:
             24 threads, 12,391 events, model verified 41 times

    No leak found: none of the 23 threads that ended left address space that is lost.
      watched   every mapping call of 24 threads (1 of them to the end), 12,391 events, for 15 min 2 s
      verified  compared with the kernel's maps 41 times, without a difference
      memory    VIRT 285.2 GiB, RES 4 GiB, 58,012 of 65,530 possible mappings
    ");
}

/// While the process lives a clean bill holds so far, and a limit that was met matters to it.
#[test]
fn no_finding_so_far() {
    let mut report = clean();
    report.verify = None;
    let text_of =
        "clone failed 3 times with EAGAIN: 32,768 of the 32,768 tasks that kernel.threads-max allows are in use";
    report.notes = vec![
        note(NoteKind::StackCache, "the thread library keeps 4 stacks (38 MiB) for reuse"),
        Note { pid: Some(Pid(4711)), ..note(NoteKind::MallocArenas, "malloc keeps 47 arenas of 64 MiB") },
        note(NoteKind::LimitHit, text_of),
    ];
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace: 24 threads, 12,391 events

    No leak found so far: none of the 15 threads that ended left address space that is lost.
      watched   every mapping call of 24 threads (9 of them alive), 12,391 events, for 15 min 2 s
      verified  not compared with the kernel's maps; --verify does that
      memory    VIRT 285.2 GiB, RES 4 GiB, 58,012 of 65,530 possible mappings

    note      the thread library keeps 4 stacks (38 MiB) for reuse
    warning   clone failed 3 times with EAGAIN: 32,768 of the 32,768 tasks that kernel.threads-max
              allows are in use
    note      in process 4711: malloc keeps 47 arenas of 64 MiB
    ");
}

/// A verdict never says more than what was seen.
#[test]
fn verdicts_keep_to_what_was_seen() {
    let verdict_with = |kind, lost| {
        let notes = vec![note(kind, "…")];
        verdict(&Report { notes, counts: Counts { lost, ..clean().counts }, ..clean() })
    };
    insta::assert_snapshot!(verdict_with(NoteKind::StackCache, 0), @"No leak found so far: none of the 15 threads that ended left address space that is lost.");
    insta::assert_snapshot!(verdict_with(NoteKind::UnprovenStacks, 0), @"No leak is proven so far, but 4 stacks of threads that ended could not be judged: see the note.");
    insta::assert_snapshot!(verdict_with(NoteKind::Incomplete, 0), @"No leak found so far, as far as could be seen: none of the 15 threads that ended left address space that is lost.");
    insta::assert_snapshot!(verdict_with(NoteKind::StackPool, 3), @"No leak found so far, as far as could be seen: none of the 15 threads that ended left address space that is lost.");
}

/// Where no thread has ended, nothing could leak, and saying less would promise too much; but what has ended before an
/// attach was not watched.
#[test]
fn no_thread_has_ended() {
    let mut report = clean();
    (report.target.mode, report.target.from_start) = (Mode::Launch, true);
    report.counts = Counts { threads_seen: 1, threads_live: 1, events: 1, ..report.counts };
    report.verify = Some(Verify { checks: 1, ..Verify::default() });
    report.memory = Memory::default();
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace: 1 thread, 1 event,
             model verified once

    No leak found so far, but no thread has ended, so none could leave anything.
      watched   every mapping call of 1 thread (alive), 1 event, for 15 min 2 s
      verified  compared with the kernel's maps once, without a difference
    ");
    (report.target.mode, report.target.from_start) = (Mode::Attach, false);
    for at_end in [false, true] {
        report.at_end = at_end;
        assert!(text(&report).contains("but no thread has ended since vmtrace came."));
    }
}

/// From a log nothing is promised that a log does not show, and no times are given that it does not have.
#[test]
fn from_a_log() {
    let mut report = documented();
    (report.target.mode, report.target.engine, report.target.from_start) = (Mode::Replay, Engine::StraceLog, false);
    (report.verify, report.memory, report.clock.known) = (None, Memory::default(), Known::Order);
    report.findings[0].members.truncate(1);
    report.findings[0].resident_bytes = None;
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), replayed an strace log: 24 threads, 12,391 events

    LEAK  1 thread stack was never unmapped so far: 10.0 MiB of address space        definite, recurrent
      size      10,489,856 bytes = 10 MiB stack + 4 KiB guard
      thread    minute_job (app.c:61)
      created   start_minute_job (app.c:88) < on_timer (app.c:120) < main (app.c:140)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK,
                         -1, 0) = 0x7fa94bbc0000
                31151  mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0  guard page
                31151  clone(child_stack=0x7fa94c5afe50, flags=CLONE_VM|…) = 20603
                20603  +++ exited with 0 +++                          still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88
    ");
    report.clock.known = Known::Distances;
    assert!(text(&report).contains("example   +1.500 31151  mmap("), "{}", text(&report));
    report.findings.clear();
    report.target.pid = Pid(0);
    let cleared = text(&report);
    assert!(
        cleared.starts_with("vmtrace: app_server (pid not known), replayed 15 min 2 s of an strace log"),
        "{cleared}"
    );
    assert!(cleared.contains("  read      the mapping calls in the log, of 24 threads"), "{cleared}");
    assert!(!cleared.contains("verified"), "{cleared}");
    report.counts.threads_live = report.counts.threads_seen;
    assert!(text(&report).contains("No leak found so far, but the log shows no end of a thread."));
    report.notes.push(note(NoteKind::Incomplete, "the log shows no results of calls"));
    assert!(text(&report).contains("Nothing can be proven from this log: see the warnings."));
}

/// Lost events and a model that was wrong come first; what is below the minimum is counted.
#[test]
fn doubts_come_first() {
    let mut report = documented();
    report.counts.lost = 1;
    report.verify = Some(Verify { checks: 41, mismatches: 2, ..Verify::default() });
    report.findings[0].confidence = Confidence::Possible;
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace: 24 threads, 12,391 events,
             model verified 41 times
    warning   1 event was lost: findings may be missing, or wrong
    warning   the model differed from the kernel's maps in 2 of 41 comparisons

    Nothing so far that is sure enough to be listed.
      watched   every mapping call of 24 threads (9 of them alive), 12,391 events, for 15 min 2 s
      memory    VIRT 285.2 GiB, RES 4 GiB, 58,012 of 65,530 possible mappings

    note      1 finding (150.1 MiB) is less than probable and not listed; --min-confidence possible
              shows it
    ");
}

/// One stack of a process that was killed, of a thread without a name, told by its creator.
#[test]
fn a_single_stack_without_names() {
    let mut report = documented();
    report.at_end = true;
    report.target.exit = Some(Exit::Signal(15));
    report.findings = vec![Finding {
        recurrence: None,
        created: None,
        thread_function: None,
        site: vec![],
        guard_bytes: 0,
        region_bytes: 40_960,
        resident_bytes: Some(0),
        reason: Reason::Unmanaged,
        confidence: Confidence::Probable,
        ..finding(vec![member(3)])
    }];
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace until it was killed by SIGTERM:
             24 threads, 12,391 events, model verified 41 times

    LEAK  1 thread stack was never unmapped: 10.0 MiB of address space                          probable
      size      40,960 bytes = 40 KiB stack without a guard; nothing of it resident
      idle      for 12 min at the end
      lived     1.0 s
      created   by thread 31151
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   23:03:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa949dbd000
                23:03:00.001 31151  mprotect(0x7fa949dbd000, 4096, PROT_NONE) = 0
                23:03:00.002 31151  clone(child_stack=0x7fa94a7ace50, flags=CLONE_VM|…) = 20606
                23:03:01.002 20606  +++ exited with 0 +++  still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88
    ");
}

/// Findings of several processes and kinds; a sum at the end.
#[test]
fn several_findings() {
    let mut report = documented();
    report.at_end = true;
    let left = |minute| {
        let range = Range::of_len(member(minute).range.start(), 4096).unwrap();
        Member { range, virtual_bytes: 4096, evidence: vec![], born_at: None, mapped_at: None, ..member(minute) }
    };
    report.findings = vec![
        Finding {
            pid: Pid(4711),
            recurrence: Some(Recurrence::Occasional),
            created: Some(12),
            ..finding((0..3).map(member).collect())
        },
        Finding {
            reason: Reason::PartlyUnmapped,
            ..finding(vec![left(1), Member { creator: Some(Tid(9)), ..left(2) }])
        },
        Finding {
            rule: Rule::OrphanedMapping,
            reason: Reason::NeverUnmapped,
            confidence: Confidence::Probable,
            guard_bytes: 0,
            site: vec![],
            ..finding((0..5).map(|minute| Member { creator: Some(Tid(minute as i32)), ..member(minute) }).collect())
        },
        Finding { confidence: Confidence::Possible, ..finding(vec![member(9)]) },
    ];
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace to its end: 24 threads,
             12,391 events, model verified 41 times

    LEAK  3 thread stacks in process 4711 were never unmapped: 30.0 MiB             definite, occasional
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 240 KiB resident in all
      growth    one every 60.0 s: +600.2 MiB an hour
      share     3 of the 12 threads that were created there
      idle      for 15 min (the first) to 13 min (the last) at the end
      thread    minute_job (app.c:61), lives 1.0 s
      created   start_minute_job (app.c:88) < on_timer (app.c:120) < main (app.c:140)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   23:02:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa94a7be000
                23:02:00.001 31151  mprotect(0x7fa94a7be000, 4096, PROT_NONE) = 0  guard page
                23:02:00.002 31151  clone(child_stack=0x7fa94b1ade50, flags=CLONE_VM|…) = 20605
                23:02:01.002 20605  +++ exited with 0 +++                          still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88

    LEAK  2 thread stacks were unmapped only in part: 8 KiB of address space         definite, recurrent
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard, 4 KiB still mapped of each;
                160 KiB resident in all
      idle      for 14 min (the first) to 13 min (the last) at the end
      thread    minute_job (app.c:61)
      created   start_minute_job (app.c:88) < on_timer (app.c:120) < main (app.c:140)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   0x7fa94a7be000 to 0x7fa94a7bf000, the stack of thread 20605
      fix       call pthread_join or pthread_detach for the thread created at app.c:88

    LEAK  5 mappings outlived the threads that made them: 50.0 MiB of address space  probable, recurrent
      each      10,489,856 bytes = 10,244 KiB; 400 KiB resident in all
      growth    one every 60.0 s: +600.2 MiB an hour; VIRT 285.2 GiB at the end
      idle      for 15 min (the first) to 11 min (the last) at the end
      thread    minute_job (app.c:61), lives 1.0 s
      mapped    by threads 0, 1, … (5 of them)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   23:04:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa9493bc000
                23:04:00.001 31151  mprotect(0x7fa9493bc000, 4096, PROT_NONE) = 0
                23:04:00.002 31151  clone(child_stack=0x7fa949dabe50, flags=CLONE_VM|…) = 20607
                23:04:01.002 20607  +++ exited with 0 +++  still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88

    note      1 finding (10.0 MiB) is less than probable and not listed; --min-confidence possible shows
              it
    sum       3 findings, 10 regions: 80.0 MiB of address space, 800 KiB resident
    ");
}

/// Long stacks of long names keep to two lines, and more calls than a reader wants are cut.
#[test]
fn long_evidence_is_cut() {
    let mut report = documented();
    let mut long = member(0);
    let last = long.evidence.pop().unwrap();
    long.evidence.extend((0..9).map(|_| long.evidence[1].clone()).collect::<Vec<_>>());
    long.evidence.push(Evidence { at: Time(Duration::from_secs(90_000)), ..last });
    let site =
        (1..30).map(|line| frame("/app", &format!("app::scheduler::worker_pool<{}>::spawn", "T, ".repeat(20)), line));
    report.findings = vec![Finding { site: site.collect(), ..finding(vec![long]) }];
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), followed for 15 min 2 s with ptrace: 24 threads, 12,391 events,
             model verified 41 times

    LEAK  1 thread stack was never unmapped so far: 10.0 MiB of address space        definite, recurrent
      size      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 80 KiB resident
      idle      for 15 min
      thread    minute_job (app.c:61), lives 1.0 s
      created   app::scheduler::worker_pool<…>::spawn (app.c:1) <
                app::scheduler::worker_pool<…>::spawn (app.c:2) <
                app::scheduler::worker_pool<…>::spawn (app.c:3) < … 26 more
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   Feb 21 23:00:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                             MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1,
                                             0) = 0x7fa94bbc0000
                Feb 21 23:00:00.001 31151  mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0  guard page
                Feb 21 23:00:00.002 31151  clone(child_stack=0x7fa94c5afe50, flags=CLONE_VM|…) = 20603
                Feb 21 23:00:00.001 31151  mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0  guard page
                Feb 21 23:00:00.001 31151  mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0  guard page
                … 6 more calls
                Feb 21 23:00:00.001 31151  mprotect(0x7fa94bbc0000, 4096, PROT_NONE) = 0  guard page
                Feb 22 23:59:58.500 20603  +++ exited with 0 +++                          still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88
    ");
}

/// Names come from the program that is looked at: none of them may command the terminal or break the layout.
#[test]
fn hostile_names_are_harmless() {
    let mut report = documented();
    report.target.command = vec!["/tmp/\x1b]0;owned\x07\u{202e}x".to_owned()];
    report.findings[0].site =
        vec![Frame { file: Some("/x/\x1b[2J.c".to_owned()), ..frame("/tmp/a\nb", "f\x1b[31m\u{9b}", 1) }];
    report.findings[0].thread_function = Some(Frame { symbol: None, file: None, ..frame("/tmp/a\r\nb", "", 1) });
    report.notes = vec![note(NoteKind::Incomplete, "symbols of /tmp/\x07x could not be read")];
    insta::assert_snapshot!(text(&report), @r"
    vmtrace: \x1b]0;owned\x07\u{202e}x (pid 31108), followed for 15 min 2 s with ptrace: 24 threads,
             12,391 events, model verified 41 times

    LEAK  15 thread stacks were never unmapped so far: 150.1 MiB of address space    definite, recurrent
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 1.2 MiB resident in all
      growth    one every 60.0 s: +14.1 GiB a day; VIRT now 285.2 GiB
      idle      for 15 min (the first) to 59.6 s (the last)
      thread    a\x0d b+0x11d1, lives 1.0 s
      created   f\x1b[31m\x9b (\x1b[2J.c:1)
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   23:14:00.000 31151  mmap(NULL, 10489856, PROT_READ|PROT_WRITE,
                                      MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fa942fb2000
                23:14:00.001 31151  mprotect(0x7fa942fb2000, 4096, PROT_NONE) = 0  guard page
                23:14:00.002 31151  clone(child_stack=0x7fa9439a1e50, flags=CLONE_VM|…) = 20617
                23:14:01.002 20617  +++ exited with 0 +++                          still mapped
      fix       call pthread_join or pthread_detach for the thread created at app.c:88

    warning   symbols of /tmp/\x07x could not be read
    ");
}

/// Colours are on or off as asked, whatever stdout is, and change no letter.
#[test]
fn colours_only_dress_the_text() {
    let mut out = Vec::new();
    write(&documented(), &mut out, Style::Coloured).unwrap();
    let coloured = String::from_utf8(out).unwrap();
    assert!(coloured.contains("\x1b[1;31mLEAK\x1b[0m"));
    let mut plain = String::new();
    for part in coloured.split('\x1b') {
        plain.push_str(part.strip_prefix('[').and_then(|part| part.split_once('m')).map_or(part, |(_, text)| text));
    }
    assert_eq!(plain, text(&documented()));
}

proptest! {
    /// Whatever the names and numbers are, lines fit and hold no control characters.
    #[test]
    fn every_report_fits(words in prop::collection::vec("\\PC*|[\\x00-\\xff]{0,200}|[a-z]{0,300}", 6), bytes: u64, seconds in 0_u64..1 << 40) {
        let mut report = documented();
        report.target.command = vec![words[0].clone()];
        report.target.pid = Pid(i32::MAX);
        report.followed = Duration::from_secs(seconds);
        report.counts = Counts { events: bytes, lost: bytes, threads_seen: bytes, ..report.counts };
        report.memory.virtual_bytes = Some(bytes);
        let leak = &mut report.findings[0];
        leak.region_bytes = bytes;
        leak.resident_bytes = Some(bytes);
        leak.thread_function = Some(frame("/a", &words[1], 1));
        leak.site = vec![frame("/a", &words[2], 1), Frame { symbol: None, ..frame(&words[3], "", 2) }, frame("/a", "f", 3)];
        leak.proof = words[4].clone();
        leak.advice = words[5].clone();
        report.notes = vec![note(NoteKind::LimitHit, &words[0])];
        let text = text(&report);
        prop_assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
    }
}

/// A thousand processes that have the same to say do not drown the rest.
#[test]
fn notes_on_many_processes_are_summed() {
    let mut report = clean();
    let of =
        |pid| Note { pid: Some(Pid(pid)), regions: 2, virtual_bytes: 8192, ..note(NoteKind::StackCache, "cached") };
    report.notes = (1..=10).map(of).chain([of(report.target.pid.0)]).collect();
    let text = text(&report);
    let notes: Vec<&str> = text.lines().filter(|line| line.starts_with("note")).collect();
    assert_eq!(
        notes,
        [
            "note      cached",
            "note      in process 1: cached",
            "note      in process 2: cached",
            "note      in process 3: cached",
            "note      the same of 7 other processes: 14 in all, 56 KiB",
        ]
    );
}

fn note(kind: NoteKind, text: &str) -> Note {
    Note { kind, pid: None, regions: 4, virtual_bytes: 4096, text: text.to_owned() }
}

/// One look at a process that goes on: what it has left, what VIRT consists of, and nothing about events.
#[test]
fn a_look_from_outside() {
    let mut report = looked_at();
    let unseen = |minute| Member {
        owner: None,
        creator: None,
        mapped_at: None,
        born_at: None,
        exited_at: None,
        evidence: vec![],
        ..member(minute)
    };
    let thread_function = Frame { symbol: None, file: None, line: None, ..frame("/opt/app/bin/app_server", "", 61) };
    let unjoined = Finding {
        recurrence: None,
        created: None,
        thread_function: Some(thread_function),
        site: vec![],
        advice: "call pthread_join or pthread_detach for each of these threads".to_owned(),
        ..finding((0..15).map(unseen).collect())
    };
    let shape = Finding {
        reason: Reason::Unmanaged,
        confidence: Confidence::Possible,
        thread_function: None,
        proof: "a shape, no proof".to_owned(),
        advice: "unmap (or free) the stack after its thread has ended".to_owned(),
        members: (20..22).map(unseen).collect(),
        ..unjoined.clone()
    };
    report.findings = vec![unjoined, shape];
    report.min_confidence = Confidence::Possible;
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), looked at in 3 ms: 9 threads, 285.2 GiB of address space

    LEAK  15 thread stacks were never unmapped so far: 150.1 MiB of address space               definite
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 1.2 MiB resident in all
      thread    app_server+0x120d
      created   before vmtrace came
      proof     never joined: on the thread library's list of used stacks, its task is gone
      example   0x7fa942fb2000 to 0x7fa9439b3000, the stack of a thread that ended before vmtrace came
      fix       call pthread_join or pthread_detach for each of these threads

    LEAK  2 mappings look like thread stacks that nobody uses: 20.0 MiB of address space        possible
      each      10,489,856 bytes = 10 MiB stack + 4 KiB guard; 1.2 MiB resident in all
      proof     a shape, no proof
      example   0x7fa93e9ab000 to 0x7fa93f3ac000
      fix       unmap (or free) the stack after its thread has ended

    VIRT            virtual     resident   regions
                  150.1 MiB        1 MiB        15  stacks of threads that ended and were never joined
                    128 MiB        3 MiB         2  malloc's arenas with their reserve
                   90.0 MiB      720 KiB         9  stacks of live threads
                  368.1 MiB      4.7 MiB        26  in all

    sum       2 findings, 17 regions: 170.1 MiB of address space, 2.3 MiB resident
    ");
}

/// No finding: at what was looked, and what could not be seen.
#[test]
fn nothing_found_from_outside() {
    let mut report = looked_at();
    report.counts.threads_live = 9;
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), looked at in 3 ms: 9 threads, 285.2 GiB of address space

    No leaked thread stack found so far: every thread that has ended was joined or detached.
      looked    at 9 live threads and 240 mappings, from outside, in 3 ms
      memory    VIRT 285.2 GiB, RES 4 GiB, 58,012 of 65,530 possible mappings

    VIRT            virtual     resident   regions
                  150.1 MiB        1 MiB        15  stacks of threads that ended and were never joined
                    128 MiB        3 MiB         2  malloc's arenas with their reserve
                   90.0 MiB      720 KiB         9  stacks of live threads
                  368.1 MiB      4.7 MiB        26  in all
    ");
    report.notes = vec![note(NoteKind::Incomplete, "no lists")];
    report.breakdown = vec![];
    insta::assert_snapshot!(text(&report), @"
    vmtrace: app_server (pid 31108), looked at in 3 ms: 9 threads, 285.2 GiB of address space

    No leak found, but not all could be seen: see the warning.
      looked    at 9 live threads and 240 mappings, from outside, in 3 ms
      memory    VIRT 285.2 GiB, RES 4 GiB, 58,012 of 65,530 possible mappings

    warning   no lists
    ");
}

/// The documented process, looked at in three milliseconds.
fn looked_at() -> Report {
    use super::super::{Engine, Mode};
    use crate::diagnose::breakdown::{Kind, Share};
    let share = |kind, regions, virtual_bytes, resident_bytes| Share { kind, regions, virtual_bytes, resident_bytes };
    let mut report = clean();
    (report.target.mode, report.target.engine) = (Mode::Inspect, Engine::Procfs);
    report.followed = Duration::from_millis(3);
    report.counts = Counts { threads_seen: 9, threads_live: 9, mappings_live: 240, ..Counts::default() };
    report.verify = None;
    report.breakdown = vec![
        share(Kind::OrphanedStacks, 15, 157_347_840, 1 << 20),
        share(Kind::MallocArenas, 2, 128 << 20, 3 << 20),
        share(Kind::LiveStacks, 9, 94_408_704, 720 << 10),
    ];
    report
}
