//! The loop itself, with records that are there already: no CPU is watched.

use super::points::Point;
use super::record::Snapshot;
use super::stream::SpaceNo;
use super::*;
use crate::source::control::Manners;
use crate::source::ptrace::decode::Followed;

/// A number that no task of the system has, so that nothing is read from /proc.
const MAIN: i32 = i32::MAX - 10;

fn perf() -> Perf {
    let mut perf = Perf::new(Pid(MAIN), Rings::none());
    let space = perf.stream.new_space();
    perf.stream.add(Tid(MAIN), Pid(MAIN), space);
    perf
}

/// An munmap that has returned at `at`, with a copy of the stack of this size.
fn munmap(at: u64, stack_bytes: usize) -> Record {
    let stack = vec![0; stack_bytes].into_boxed_slice();
    let snapshot = Snapshot { registers: record::no_registers(), stack };
    let what = What::CallWithStack(Point::Exit(Followed::Munmap), Box::new(snapshot));
    Record { at, tid: Tid(MAIN), pid: Pid(MAIN), what }
}

/// What was asked is answered when all that happened before has been told, whatever has happened since: where records come
/// faster than they can be told, there always is more.
#[test]
fn a_question_does_not_wait_for_what_comes_after_it() {
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    let begin = monotonic_ns() - 1_000_000_000;
    for after in 0..10 {
        perf.sorter.push(munmap(begin + after, 0));
    }
    perf.asked_at = Some(begin + 3);
    // There is no such process, which would be told as well.
    perf.last_census = u64::MAX;
    let mut told = 0;
    while let Next::Event(_) = perf.next(&control).unwrap() {
        told += 1;
    }
    assert_eq!((told, perf.asked_at), (4, None), "0 to 3 come before the answer");
    let next = perf.next(&control).unwrap();
    assert!(matches!(next, Next::Event(_)), "{next:?}");
}

/// Who is too slow for the target does not fall behind for ever: while much is pending, no ring is read.
#[test]
fn no_more_is_read_than_can_be_told() {
    const EACH: usize = 1 << 20;
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    perf.round();
    perf.round();
    let full = MOST_PENDING / EACH + 2;
    for _ in 0..full {
        perf.sorter.push(munmap(1, EACH));
    }
    let mut left_alone = 0;
    while perf.sorter.pending_bytes() >= MOST_PENDING {
        // Long ago.
        perf.last_round = 0;
        assert!(matches!(perf.next(&control), Ok(Next::Event(_))));
        left_alone += u32::from(perf.last_round == 0);
    }
    assert!(left_alone >= 2, "read although {MOST_PENDING} bytes were pending");
    perf.last_round = 0;
    assert!(matches!(perf.next(&control), Ok(Next::Event(_))));
    assert_ne!(perf.last_round, 0, "and then it is read again");
}

/// What a burst has taken goes back to the system when it has been told, and not all the time.
#[test]
fn a_burst_is_given_back() {
    let mut perf = perf();
    let begin = monotonic_ns() - 1_000_000_000;
    let mut trims_after = |bytes, is_told: bool| {
        perf.last_trim = 0;
        perf.sorter.push(munmap(begin, bytes));
        perf.round();
        perf.round();
        while is_told && perf.advance() {}
        perf.trim();
        perf.last_trim == perf.last_round
    };
    assert!(trims_after(LITTLE_PENDING / 2, false));
    assert!(!trims_after(LITTLE_PENDING, false));
    assert!(trims_after(0, true));
    let trimmed = perf.last_trim;
    perf.round();
    perf.trim();
    assert_eq!(perf.last_trim, trimmed, "not as often as that");
}

fn fork(at: u64, parent: i32, child: i32) -> Record {
    let what = What::Fork { child: Tid(child), child_pid: Pid(child) };
    Record { at, tid: Tid(parent), pid: Pid(parent), what }
}

fn taken_in(perf: &mut Perf) -> Vec<(u64, Pid)> {
    perf.sorter.pending().map(|record| (record.at, record.pid)).collect()
}

/// A child's records may be read in the round before that of its parent's fork, or before it in the same round, and what the
/// child forks at once is followed too.
#[test]
fn records_of_children_may_come_before_their_forks() {
    const CHILD: i32 = MAIN + 1;
    const GRANDCHILD: i32 = MAIN + 2;
    let mut perf = perf();
    let at = monotonic_ns();
    perf.batch.push(Record { tid: Tid(CHILD), pid: Pid(CHILD), ..munmap(at + 1, 0) });
    perf.round();
    assert_eq!(taken_in(&mut perf), []);
    let grandchild = Record { tid: Tid(GRANDCHILD), pid: Pid(GRANDCHILD), ..munmap(at + 3, 0) };
    perf.batch.extend([grandchild, fork(at + 2, CHILD, GRANDCHILD), fork(at, MAIN, CHILD)]);
    perf.round();
    let expected = [(at, MAIN), (at + 1, CHILD), (at + 2, CHILD), (at + 3, GRANDCHILD)];
    assert_eq!(taken_in(&mut perf), expected.map(|(at, pid)| (at, Pid(pid))));
}

/// Other processes' records are forgotten as soon as no fork can come any more that makes them followed ones'.
#[test]
fn strangers_are_forgotten() {
    let mut perf = perf();
    let at = monotonic_ns();
    perf.batch.push(Record { tid: Tid(1), pid: Pid(1), ..munmap(at, 0) });
    perf.round();
    assert_eq!(perf.batch.len(), 1);
    while perf.sorter.horizon() <= at {
        perf.round();
    }
    assert_eq!((perf.batch.len(), taken_in(&mut perf)), (0, vec![]));
}

/// A record that comes behind later ones may have been told in the wrong order: /proc is asked what is right.
#[test]
fn what_comes_late_is_put_right() {
    let mut perf = perf();
    let begin = monotonic_ns() - 1_000_000_000;
    perf.batch.push(munmap(begin + 10, 0));
    perf.round();
    perf.round();
    assert!(perf.advance() && !perf.to_heal);
    perf.batch.push(munmap(begin, 0));
    perf.round();
    assert!(perf.to_heal);
}

/// A process that has executed two programs before anybody looked: what was seen is the second one's image.
#[test]
fn an_image_is_that_of_the_last_execve_before_it_was_read() {
    let mut perf = perf();
    let control = Control::new(Manners::Attached);
    let at = monotonic_ns() - 1_000_000_000;
    let executed = |at| {
        let what = What::Executed { by_leader: true, is_i386: false };
        Record { at, tid: Tid(MAIN), pid: Pid(MAIN), what }
    };
    for at in [at, at + 100] {
        perf.sorter.push(executed(at));
    }
    let maps = procfs::maps::read(crate::sys::own_tid()).unwrap();
    let new = look::NewImage { maps, ..Default::default() };
    let image = Image { new, read_from: at + 200, read_until: at + 300 };
    perf.images.entry(Pid(MAIN)).or_default().push_back(image);
    let mut lines = Vec::new();
    while lines.len() < 2 {
        if let Next::Event(Event { kind: EventKind::Exec(exec), .. }) = perf.next(&control).unwrap() {
            lines.push(exec.maps.len());
        }
    }
    assert!(lines[0] == 0 && lines[1] > 0, "{lines:?}");
}

/// A child of vfork has its parent's address space until it executes: what is read through it afterwards is not of that one.
#[test]
fn a_reader_that_has_executed_shows_another_address_space() {
    const CHILD: i32 = MAIN + 1;
    let begin = monotonic_ns() - 1_000_000_000;
    let enter = What::Call(Point::Enter(Followed::Execve), record::Registers::default());
    let executed = What::Executed { by_leader: true, is_i386: false };
    let signal = What::Signal(libc::SIGCHLD);
    let cases = [(&executed, CHILD, false), (&enter, CHILD, false), (&executed, MAIN, true), (&signal, CHILD, true)];
    // Told already, or ahead of what is read.
    let at_either_time = |(what, reader, is_shown)| [0, 150].map(|after| (begin + after, what, reader, is_shown));
    for (at, what, reader, is_shown) in cases.into_iter().flat_map(at_either_time) {
        let with_child = || {
            let mut perf = perf();
            // Nobody asks whether these processes live.
            perf.last_census = u64::MAX;
            let (_, space) = perf.stream.place_of(Tid(MAIN)).unwrap();
            perf.stream.add(Tid(CHILD), Pid(CHILD), space);
            perf.sorter.push(Record { at, tid: Tid(CHILD), pid: Pid(CHILD), what: what.clone() });
            (perf, space)
        };
        let (control, maps) = (Control::new(Manners::Attached), procfs::maps::read(crate::sys::own_tid()).unwrap());
        let reading = look::Reading { maps, reader: Pid(reader) };

        let (mut perf, space) = with_child();
        let (read_from, read_until) = (begin + 100, begin + 200);
        let (tid, reading_of_look) = (Tid(MAIN), reading.clone());
        perf.looks.push_back(Look { tid, space, read_from, read_until, reading: reading_of_look, census: None });
        while !perf.looks.is_empty() {
            perf.round();
            while perf.advance() {}
        }
        let told = std::iter::from_fn(|| perf.stream.pop()).any(|(event, _)| matches!(event.kind, EventKind::Maps(_)));
        assert_eq!((told, perf.wanted.is_empty()), (is_shown, is_shown), "{what:?} through {reader}");

        let (mut perf, space) = with_child();
        let pictures = [(space, look::Picture { read_from: 0, reading, unsure: Vec::new() })].into();
        perf.closing = Some(Closing { read_until, pictures, attempts: 0, complete: false });
        while !matches!(perf.next(&control).unwrap(), Next::Quiet) {}
        assert_eq!(perf.maps(Tid(MAIN)).is_some(), is_shown, "{what:?} through {reader}");
    }
}

/// Records of execve may be lost, and processes' numbers begin again: what is read of an address space is read through the
/// process whose it is.
#[test]
fn maps_are_read_through_the_process_whose_they_are() {
    let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let (main, guest) = (Pid(sleep.id() as i32), Pid(nix::unistd::getpid().as_raw()));
    let mut perf = Perf::new(main, Rings::none());
    let space = perf.stream.new_space();
    perf.stream.add(main.into(), main, space);
    perf.stream.add(guest.into(), guest, space);
    perf.last_census = u64::MAX;
    perf.to_heal = true;
    perf.start_looks();
    perf.begin_closing();
    let looks: Vec<Pid> = perf.looks.iter().map(|look| look.reading.reader).collect();
    let pictures: Vec<Pid> =
        perf.closing.iter().flat_map(|closing| closing.pictures.values()).map(|one| one.reading.reader).collect();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert_eq!((looks, pictures), (vec![main; 2], vec![main]));
}

/// When records were lost, a number may be that of another process by now: nothing of that is told.
#[test]
fn a_census_is_not_that_of_a_later_process() {
    let own = Pid(nix::unistd::getpid().as_raw());
    let ours = look::Census::read(own, monotonic_ns());
    assert!(ours.tasks.contains(&own.into()) && !ours.image.new.maps.is_empty() && !ours.is_over);
    let others = look::Census::read(own, 1);
    assert!(others.tasks.is_empty() && others.image.new.maps.is_empty() && others.is_over);
}

/// What is told when records were lost: of a process in this address space, and a thread that it has no more.
fn healed(perf: &mut Perf, pid: Pid, space: SpaceNo) -> Vec<EventKind> {
    perf.stream.add(pid.into(), pid, space);
    perf.stream.add(Tid(i32::MAX - 1), pid, space);
    perf.last_census = u64::MAX;
    perf.to_heal = true;
    perf.start_looks();
    while !perf.looks.is_empty() {
        perf.round();
        while perf.advance() {}
    }
    std::iter::from_fn(|| perf.stream.pop()).map(|(event, _)| event.kind).collect()
}

/// Where the record of an execve was lost, the threads that it has killed have not ended by themselves: that the process runs
/// another program shows by where its break began.
#[test]
fn an_execve_that_was_lost() {
    let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = Pid(sleep.id() as i32);
    let is_sleep = |vma: &Vma| vma.name.ends_with(b"/sleep");
    while !procfs::maps::read(pid.into()).unwrap().iter().any(is_sleep) {
        std::thread::yield_now();
    }
    let start_brk = procfs::task::start_brk(pid.into()).unwrap();
    for (known, is_another) in [(Some(start_brk), false), (None, false), (Some(Addr(start_brk.0 + 4096)), true)] {
        let mut perf = Perf::new(pid, Rings::none());
        let space = perf.stream.new_space();
        perf.stream.begins_break(space, known);
        let told = healed(&mut perf, pid, space);
        let executed = |kind: &EventKind| matches!(kind, EventKind::Exec(exec) if exec.maps.iter().any(is_sleep));
        assert_eq!(told.iter().any(executed), is_another, "{told:?}");
        assert_eq!(told.iter().any(|kind| matches!(kind, EventKind::Ended(_))), !is_another, "{told:?}");
        assert_eq!(perf.stream.tasks.keys().collect::<Vec<_>>(), [&Tid::from(pid)]);
    }
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

/// Where a process has gone unseen, its threads may have gone with it: it is judged as long as all are there. Those that have
/// gone while it goes on have ended by themselves.
#[test]
fn an_end_that_was_lost() {
    let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = Pid(sleep.id() as i32);
    let put_right = || {
        let mut perf = Perf::new(pid, Rings::none());
        let space = perf.stream.new_space();
        let told = healed(&mut perf, pid, space);
        let judged = told.iter().position(|kind| matches!(kind, EventKind::GroupEnding { .. }));
        let ended = told.iter().filter(|kind| matches!(kind, EventKind::Ended(_))).count();
        (judged, ended)
    };
    let living = put_right();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert_eq!((living, put_right()), ((None, 1), (Some(0), 2)));
}

/// What has happened before the picture of a running process was taken says who is in its address space, and nobody else is
/// followed.
#[test]
fn who_has_another_address_space_before_the_picture_is_not_followed() {
    const OTHER: i32 = MAIN + 1;
    const THREAD: i32 = MAIN + 2;
    let executed = What::Executed { by_leader: true, is_i386: false };
    let forked = What::Fork { child: Tid(OTHER + 5), child_pid: Pid(OTHER + 5) };
    let at = monotonic_ns() - 1_000_000_000;
    for (pid, what, expected) in [
        (OTHER, executed.clone(), vec![MAIN, THREAD]),
        (MAIN, executed, vec![MAIN]),
        (MAIN, forked, vec![MAIN, OTHER, THREAD]),
        (MAIN, What::Signal(libc::SIGCHLD), vec![MAIN, OTHER, THREAD]),
    ] {
        let mut perf = perf();
        let (_, space) = perf.stream.place_of(Tid(MAIN)).unwrap();
        perf.stream.add(Tid(OTHER), Pid(OTHER), space);
        perf.stream.add(Tid(THREAD), Pid(MAIN), space);
        perf.sorter.push(Record { at, tid: Tid(pid), pid: Pid(pid), what });
        perf.round();
        perf.round();
        perf.catch_up(at, space);
        let mut followed: Vec<i32> = perf.stream.tasks.keys().map(|tid| tid.0).collect();
        followed.sort_unstable();
        assert_eq!(followed, expected);
        assert!(perf.stream.tasks.values().all(|task| task.space == space) && perf.stream.pop().is_none());
    }
}

/// What was kept of the program that the process ran before the picture was taken is not kept for the new one.
#[test]
fn memory_of_the_program_before_the_picture_is_let_go() {
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = Pid(child.id() as i32);
    let mut perf = Perf::new(pid, Rings::none());
    let space = perf.stream.new_space();
    perf.stream.add(pid.into(), pid, space);
    // Its libraries may have to be mapped first.
    while perf.kept.is_empty() {
        perf.keep(pid, &[pid.into()]);
    }
    // So that nothing else is kept instead.
    child.kill().unwrap();
    child.wait().unwrap();
    let at = monotonic_ns();
    let what = What::Executed { by_leader: true, is_i386: false };
    perf.sorter.push(Record { at, tid: pid.into(), pid, what });
    while perf.sorter.horizon() <= at {
        perf.round();
    }
    perf.catch_up(at, space);
    assert!(perf.kept.is_empty());
}

/// Of a program that was gone before anybody looked nothing was read, so nothing has to be waited for: where programs are
/// executed all the time, a round for each is more than there is time for.
#[test]
fn what_was_not_seen_is_not_waited_for() {
    let mut perf = perf();
    let at = monotonic_ns() - 1_000_000_000;
    let what = What::Executed { by_leader: true, is_i386: false };
    perf.sorter.push(Record { at, tid: Tid(MAIN), pid: Pid(MAIN), what });
    perf.round();
    perf.round();
    assert!(perf.advance() && perf.advance());
    assert!(matches!(perf.stream.pop(), Some((Event { kind: EventKind::Exec(_), .. }, _))));
}

/// A call of MAIN's that unmaps these pages.
fn unmap(at: u64, point: Point, range: Range) -> Record {
    let registers = libc::user_regs_struct {
        rdi: range.start().0,
        rsi: range.bytes(),
        orig_rax: libc::SYS_munmap as u64,
        ..record::no_registers()
    };
    let snapshot = Snapshot { registers, stack: Box::default() };
    let what = What::CallWithStack(point, Box::new(snapshot));
    Record { what, ..munmap(at, 0) }
}

/// A picture that is one of many may be older than the end of the last reading: what is told after it was taken may not be in
/// it. What returns after the last reading, or has not returned, may be in it.
#[test]
fn pictures_are_unsure_where_calls_are_under_way() {
    let at = monotonic_ns() - 1_000_000_000;
    let range = Range::of_len(Addr(0x1000), 0x2000).unwrap();
    let (enter, exit) = (Point::Enter(Followed::Munmap), Point::Exit(Followed::Munmap));
    let [before, early, late, after] = [at - 10, at + 10, at + 90, at + 110];
    for (calls, read_from, is_unsure) in [
        (&[(exit, early)][..], before, true),
        (&[(exit, early)], late, false),
        (&[(enter, before), (exit, early)], late, false),
        (&[(exit, after)], late, true),
        (&[(enter, early)], late, true),
    ] {
        let mut perf = perf();
        let (_, space) = perf.stream.place_of(Tid(MAIN)).unwrap();
        for (point, at) in calls {
            perf.sorter.push(unmap(*at, *point, range));
        }
        let reading = look::Reading { maps: Box::default(), reader: Pid(MAIN) };
        let pictures = [(space, look::Picture { read_from, reading, unsure: Vec::new() })].into();
        perf.closing = Some(Closing { read_until: at + 100, pictures, attempts: 0, complete: false });
        perf.round();
        perf.round();
        while perf.advance() {}
        assert!(perf.is_closed());
        assert_eq!(perf.unsure(Tid(MAIN)).contains(&range), is_unsure, "{calls:?}, read from {read_from}");
    }
}

/// What is read when the last pictures have been taken would be ahead of what is told before they are compared.
#[test]
fn nothing_is_looked_at_after_the_last_pictures() {
    let own = nix::unistd::getpid().as_raw();
    for (is_closing, looks) in [(false, 1), (true, 0)] {
        let mut perf = Perf::new(Pid(own), Rings::none());
        let space = perf.stream.new_space();
        perf.stream.add(Tid(own), Pid(own), space);
        perf.wanted.push(Tid(own));
        let closing = Closing { read_until: u64::MAX, pictures: HashMap::new(), attempts: 0, complete: false };
        perf.closing = is_closing.then_some(closing);
        perf.start_looks();
        assert_eq!(perf.looks.len(), looks);
    }
}

/// The rings of one CPU tell what happens before those of another do.
#[test]
fn nothing_is_told_before_all_rings_are_there() {
    let mut perf = perf();
    perf.since = 100;
    perf.batch.extend([munmap(99, 0), munmap(100, 0), Record { what: What::Lost(1), ..munmap(0, 0) }]);
    perf.round();
    assert_eq!(taken_in(&mut perf), [(0, Pid(MAIN)), (100, Pid(MAIN))]);
}

/// Where records were lost at the very end, or their order is in doubt, the model is put right and compared with a later
/// picture, unless that has been tried too often. What has been called meanwhile is told then, but not where that might never
/// end, because more is lost.
#[test]
fn what_was_lost_last_is_put_right_before_it_is_compared() {
    let control = Control::new(Manners::Attached);
    let own = nix::unistd::getpid().as_raw();
    for (is_lost, is_doubtful, attempts, maps_told, calls_told, heals) in [
        (false, false, 0, 0, 0, 0),
        (true, false, 0, 1, 0, 1),
        (false, true, 0, 1, 1, 0),
        (true, false, look::MOST_ATTEMPTS, 1, 0, 1),
        (true, true, look::MOST_ATTEMPTS + 1, 0, 0, 0),
    ] {
        let mut perf = Perf::new(Pid(own), Rings::none());
        let space = perf.stream.new_space();
        perf.stream.add(Tid(own), Pid(own), space);
        perf.last_census = u64::MAX;
        let at = monotonic_ns() - 1_000_000_000;
        if is_lost {
            perf.sorter.push(Record { at, what: What::Lost(3), tid: Tid(own), pid: Pid(own) });
        }
        perf.sorter.push(Record { tid: Tid(own), pid: Pid(own), ..munmap(at + 2, 0) });
        perf.wanted.extend(is_doubtful.then_some(Tid(own)));
        let reading = look::Reading { maps: procfs::maps::read(Tid(own)).unwrap(), reader: Pid(own) };
        let pictures = [(space, look::Picture { read_from: at, reading, unsure: Vec::new() })].into();
        perf.closing = Some(Closing { read_until: at + 1, pictures, attempts, complete: false });
        let (mut maps, mut calls) = (0, 0);
        while let Next::Event(event) = perf.next(&control).unwrap() {
            maps += u64::from(matches!(event.kind, EventKind::Maps(_)));
            calls += u64::from(matches!(event.kind, EventKind::Syscall(_)));
        }
        assert_eq!((maps, calls, perf.heals), (maps_told, calls_told, heals));
        let is_later = perf.closing.as_ref().is_some_and(|closing| closing.read_until > at + 1);
        let is_tried = attempts < look::MOST_ATTEMPTS;
        assert_eq!((perf.maps(Tid(own)).is_some(), is_later), (true, (is_lost || is_doubtful) && is_tried));
    }
}

/// Children that a followed process had before are seen to execute, and not followed: nothing of them is kept.
#[test]
fn images_of_strangers_are_forgotten() {
    const STRANGER: i32 = MAIN + 1;
    let mut perf = perf();
    let read_until = monotonic_ns();
    for pid in [MAIN, STRANGER] {
        let image = Image { new: look::NewImage::default(), read_from: read_until, read_until };
        perf.images.entry(Pid(pid)).or_default().push_back(image);
    }
    perf.round();
    assert_eq!(perf.images.len(), 2, "its fork may be told yet");
    while perf.sorter.horizon() <= read_until {
        perf.round();
    }
    assert_eq!(perf.images.keys().collect::<Vec<_>>(), [&Pid(MAIN)]);
}

/// Maps that are told settle what was doubtful about their address space before, and nothing about another one.
#[test]
fn a_look_settles_the_doubts_before_it() {
    const OTHER: i32 = MAIN + 1;
    let mut perf = perf();
    perf.last_census = u64::MAX;
    let (_, space) = perf.stream.place_of(Tid(MAIN)).unwrap();
    let others = perf.stream.new_space();
    perf.stream.add(Tid(OTHER), Pid(OTHER), others);
    perf.wanted = vec![Tid(OTHER), Tid(MAIN)];
    let maps = procfs::maps::read(crate::sys::own_tid()).unwrap();
    let reading = look::Reading { maps, reader: Pid(MAIN) };
    perf.looks.push_back(Look { tid: Tid(MAIN), space, read_from: 1, read_until: 2, reading, census: None });
    while !perf.looks.is_empty() {
        perf.round();
        while perf.advance() {}
    }
    assert_eq!(perf.wanted, [Tid(OTHER)]);
}
