//! What records come to, when calls of several tasks lie in between.

use super::*;

/// Numbers that no task of the system has, so that nothing is read from /proc.
const MAIN: i32 = i32::MAX - 10;
const OTHER: i32 = i32::MAX - 9;
const CHILD: i32 = i32::MAX - 8;

fn stream() -> Stream {
    let mut stream = Stream::new(Pid(MAIN), 0);
    let space = stream.new_space();
    stream.add(Tid(MAIN), Pid(MAIN), space);
    stream
}

fn record(tid: i32, what: What) -> Record {
    Record { at: 5, tid: Tid(tid), pid: Pid(MAIN), what }
}

fn call(stream: &mut Stream, tid: i32, point: Point, registers: user_regs_struct) {
    let snapshot = Snapshot { registers, stack: Box::default() };
    stream.take(record(tid, What::CallWithStack(point, Box::new(snapshot))));
}

/// Registers with these arguments and this result.
fn registers(arguments: [u64; 3], result: i64) -> user_regs_struct {
    let [rdi, rsi, rdx] = arguments;
    user_regs_struct { rdi, rsi, rdx, rax: result as u64, ..crate::source::perf::record::no_registers() }
}

fn told(stream: &mut Stream) -> Vec<String> {
    let events = std::iter::from_fn(|| stream.pop().map(|(event, _)| event));
    events
        .map(|Event { tid, kind, .. }| match kind {
            EventKind::Syscall(syscall) => {
                format!("{} {} {:?}", tid.0 - MAIN, syscall.call.name(), syscall.result.is_ok())
            }
            EventKind::Born(birth) => {
                format!("{} born {} {:x}", tid.0 - MAIN, birth.child.0 - MAIN, birth.args.flags)
            }
            kind => format!("{} {kind:?}", tid.0 - MAIN),
        })
        .collect()
}

fn give_birth(stream: &mut Stream) {
    call(stream, MAIN, Point::Enter(Followed::Clone), registers([0x10100, 0x9000, 0], 0));
    stream.take(record(MAIN, What::Fork { child: Tid(OTHER), child_pid: Pid(MAIN) }));
}

/// A birth has the arguments of the call that it happened in, and comes before the call's return.
#[test]
fn births() {
    let mut stream = stream();
    give_birth(&mut stream);
    // The child returns from the call that its parent made.
    call(&mut stream, OTHER, Point::Exit(Followed::Clone), registers([0; 3], 0));
    call(&mut stream, MAIN, Point::Exit(Followed::Clone), registers([0x10100, 0x9000, 0], i64::from(OTHER)));
    assert_eq!(told(&mut stream), ["0 born 1 10100", "0 clone true"]);
}

/// Whoever calls exit has ended by then, once; whoever is not followed is not told of.
#[test]
fn ends() {
    let mut stream = stream();
    give_birth(&mut stream);
    told(&mut stream);
    call(&mut stream, OTHER, Point::Enter(Followed::Exit), registers([3, 0, 0], 0));
    stream.take(record(OTHER, What::Exited));
    stream.take(record(OTHER, What::Exited));
    assert_eq!(told(&mut stream), ["1 Exiting(Exiting { scope: Thread, code: 3 })", "1 Ended(Code(3))"]);
    call(&mut stream, MAIN, Point::Enter(Followed::ExitGroup), registers([4, 0, 0], 0));
    stream.take(record(MAIN, What::Exited));
    assert_eq!(told(&mut stream), ["0 Exiting(Exiting { scope: Group, code: 4 })", "0 Ended(Code(4))"]);
    assert_eq!((stream.main_exit(), stream.tasks.len()), (Some(Exit::Code(4)), 0));
}

/// A signal whose default action ends a process is what ended it; those that only stop it are not.
#[test]
fn ends_by_a_signal() {
    let mut stream = stream();
    give_birth(&mut stream);
    told(&mut stream);
    for signal in [libc::SIGTSTP, libc::SIGSEGV, libc::SIGKILL] {
        stream.take(record(MAIN, What::Signal(signal)));
    }
    stream.take(record(OTHER, What::Exited));
    assert_eq!(told(&mut stream), ["1 Ended(Signal(11))"]);
}

/// A thread that was there before may have called exit before anybody listened: its end is not that of the process.
#[test]
fn the_end_of_a_task_that_was_found() {
    let mut stream = stream();
    let (_, space) = stream.place_of(Tid(MAIN)).unwrap();
    stream.add_found(Tid(OTHER), Pid(MAIN), space);
    stream.take(record(OTHER, What::Exited));
    assert_eq!(told(&mut stream), ["1 Ended(Code(0))"]);
    assert_eq!(stream.main_exit(), None);
}

/// A signal that ends all threads at once is delivered to them as SIGKILL: how the process was seen to end is what counts.
#[test]
fn ends_by_a_signal_for_all() {
    let mut stream = stream();
    give_birth(&mut stream);
    told(&mut stream);
    stream.take(record(MAIN, What::Signal(libc::SIGKILL)));
    stream.take(record(MAIN, What::Exited));
    assert_eq!(stream.ends_unseen(Tid(OTHER)), Some(Pid(MAIN)));
    stream.saw_end(Pid(MAIN), Exit::Signal(libc::SIGTERM));
    stream.take(record(OTHER, What::Exited));
    assert_eq!(told(&mut stream), ["0 Ended(Signal(9))", "1 Ended(Signal(15))"]);
    assert_eq!(stream.main_exit(), Some(Exit::Signal(libc::SIGTERM)));
}

/// execve by a thread ends its siblings, and goes on under the leader's number in an address space of its own.
#[test]
fn execve_by_a_thread() {
    let mut stream = stream();
    give_birth(&mut stream);
    told(&mut stream);
    call(&mut stream, OTHER, Point::Enter(Followed::Execve), registers([1, 2, 3], 0));
    stream.take(record(MAIN, What::Exited));
    let before = stream.place_of(Tid(OTHER));
    stream.executed(6, Tid(MAIN), false, NewImage::default());
    let told = told(&mut stream);
    assert_eq!(told[..3], ["1 Executing", "0 Superseded", "1 execve true"]);
    assert!(told[3].starts_with("0 Exec(") && told.len() == 4, "{told:?}");
    assert_eq!(stream.tasks.keys().collect::<Vec<_>>(), [&Tid(MAIN)]);
    assert_ne!(stream.place_of(Tid(MAIN)).map(|(_, space)| space), before.map(|(_, space)| space));
}

fn three() -> Stream {
    let mut stream = Stream::new(Pid(1), 0);
    let space = stream.new_space();
    for tid in [1, 2, 3] {
        stream.add(Tid(tid), Pid(1), space);
    }
    stream
}

fn exited(tid: i32) -> Record {
    Record { at: 5, tid: Tid(tid), pid: Pid(1), what: What::Exited }
}

fn kinds(stream: &mut Stream) -> Vec<EventKind> {
    std::iter::from_fn(|| stream.pop()).map(|(event, _)| event.kind).collect()
}

/// A thread that ends without a call of exit ends because all do; but not where that call may have been lost. What was
/// heard of after the loss had not called it by then.
#[test]
fn an_end_whose_call_may_be_lost_is_the_threads_own() {
    let killed = EventKind::Ended(Exit::Signal(libc::SIGKILL));
    let mut whole = three();
    whole.take(exited(2));
    assert_eq!(kinds(&mut whole), std::slice::from_ref(&killed));
    let mut lossy = three();
    lossy.lost(4);
    lossy.take(Record { what: What::Signal(libc::SIGURG), ..exited(3) });
    for tid in [2, 3, 1] {
        lossy.take(exited(tid));
    }
    let expected = [EventKind::OrderLost, EventKind::Ended(Exit::Code(0)), killed.clone(), killed];
    assert_eq!(kinds(&mut lossy), expected);
}

/// A 32-bit program's calls are not seen: that no thread was seen to call exit says nothing, and the process ends as it was
/// seen to have ended, or nobody knows how. Its children are like it, until they execute another program.
#[test]
fn a_program_whose_calls_pass_by() {
    for seen in [None, Some(Exit::Code(7))] {
        let mut stream = stream();
        stream.executed(6, Tid(MAIN), true, NewImage { is_i386: true, ..NewImage::default() });
        stream.take(record(MAIN, What::Fork { child: Tid(OTHER), child_pid: Pid(MAIN) }));
        stream.take(record(MAIN, What::Fork { child: Tid(CHILD), child_pid: Pid(CHILD) }));
        assert_eq!([OTHER, MAIN, CHILD].map(|tid| stream.ends_unseen(Tid(tid))), [None, None, Some(Pid(CHILD))]);
        stream.take(record(OTHER, What::Exited));
        assert_eq!(stream.ends_unseen(Tid(MAIN)), Some(Pid(MAIN)));
        stream.executed(7, Tid(CHILD), true, NewImage::default());
        if let Some(exit) = seen {
            stream.saw_end(Pid(MAIN), exit);
        }
        stream.take(record(MAIN, What::Exited));
        let told = told(&mut stream);
        let last = format!("0 Ended({:?})", seen.unwrap_or(Exit::Code(0)));
        assert_eq!([&told[1], &told[2], &told[4]], ["0 Opaque", "0 born 1 10100", "1 Ended(Code(0))"], "{told:?}");
        assert_eq!((told.last(), stream.main_exit()), (Some(&last), seen), "{told:?}");
    }
}

mod histories;
