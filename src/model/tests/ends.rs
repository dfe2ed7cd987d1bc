//! When a process is over, as far as verdicts go.

use super::*;

/// The call of exit_group ends the process, whichever thread calls; once it is judged, nothing does.
#[test]
fn exit_group_ends_once() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    assert!(trace.would_end(MAIN, exiting(ExitScope::Group)));
    assert!(trace.would_end(ONE, exiting(ExitScope::Group)));
    let space = trace.model.space_of(MAIN).unwrap();
    trace.model.finish(space);
    assert!(!trace.would_end(ONE, exiting(ExitScope::Group)));
    assert!(!trace.would_end(ONE, EventKind::Ended(Exit::Signal(9))));
}

/// Of exit, only the last thread's; the leader may go first.
#[test]
fn the_last_exit_ends() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    assert!(!trace.would_end(MAIN, exiting(ExitScope::Thread)));
    assert!(!trace.would_end(MAIN, EventKind::Ended(Exit::Code(0))));
    trace.end(MAIN);
    assert!(trace.would_end(ONE, exiting(ExitScope::Thread)));
    assert!(trace.would_end(ONE, EventKind::Ended(Exit::Code(0))));
}

/// Death by a signal is the whole process's, told by whichever thread is seen first.
#[test]
fn a_signal_ends() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    assert!(trace.would_end(ONE, EventKind::Ended(Exit::Signal(11))));
}

/// execve ends the old program, and its address space with it.
#[test]
fn exec_ends() {
    let mut trace = Trace::new();
    trace.mmap(MAIN, STACK, RW, PLAIN);
    assert!(trace.would_end(MAIN, EventKind::Executing));
    assert!(trace.would_end(MAIN, exec(MAIN)));
    trace.exec(MAIN, MAIN);
    assert!(trace.space().mappings.is_empty());
    assert_eq!((trace.model.spaces.len(), trace.model.tasks_live()), (1, 1));
}

/// execve by another thread than the leader: all others are gone, and the caller takes the leader's number.
#[test]
fn exec_by_a_thread_makes_it_the_leader() {
    let mut trace = Trace::new();
    let stacks = [ONE, TWO].map(|tid| {
        let stack = trace.glibc_stack(STACK);
        trace.thread(tid, stack);
        stack
    });
    assert!(trace.would_end(MAIN, exec(ONE)));
    trace.exec(MAIN, ONE);
    assert_eq!((trace.model.spaces.len(), trace.model.tasks_live()), (1, 1));
    assert_eq!(trace.model.task(MAIN).unwrap().pid, Pid(1));
    assert!(trace.space().mapping_at(stacks[0].start()).is_none());
}

/// So it does where the leader has ended long before.
#[test]
fn exec_ends_without_a_leader() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    trace.end(MAIN);
    assert!(trace.would_end(MAIN, exec(ONE)));
    trace.exec(MAIN, ONE);
    assert_eq!((trace.model.spaces.len(), trace.model.tasks_live()), (1, 1));
}

/// A child of vfork borrows the address space: neither its end nor its execve is the owner's.
#[test]
fn a_vfork_child_ends_nothing() {
    let mut trace = Trace::new();
    trace.vfork(ONE);
    for kind in [exiting(ExitScope::Group), EventKind::Ended(Exit::Signal(9)), exec(ONE)] {
        assert!(!trace.would_end(ONE, kind));
    }
    let parent = trace.model.space_of(MAIN);
    trace.exec(ONE, ONE);
    assert_ne!(trace.model.space_of(ONE), parent);
    assert_eq!(trace.space().tasks, 1);
    assert!(trace.would_end(MAIN, exiting(ExitScope::Group)));
}

/// A raw clone that shares memory is a process of its own: its exit_group is its own end only, and it does not
/// keep its maker's process alive.
#[test]
fn a_raw_clone_ends_nothing() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.raw(ONE, stack);
    assert!(!trace.would_end(ONE, exiting(ExitScope::Group)));
    assert!(trace.would_end(MAIN, exiting(ExitScope::Group)));
    trace.end(ONE);
    assert!(trace.mapping(stack).idle_stack().is_some());
}

/// Threads that die with their process leave nothing behind; the last takes the address space along.
#[test]
fn what_follows_the_end_is_not_recorded() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    let space = trace.model.space_of(MAIN).unwrap();
    trace.model.finish(space);
    trace.end(ONE);
    assert!(trace.mapping(stack).idle_stack().is_none());
    trace.end(MAIN);
    assert!(trace.model.space(space).is_none());
    assert_eq!(trace.model.tasks_live(), 0);
}

/// A raw clone that is left alone in the address space ends it, with whatever threads it has.
#[test]
fn who_is_left_alone_ends_it() {
    let mut trace = Trace::new();
    let stacks = [ONE, TWO].map(|_| trace.mmap(MAIN, STACK, RW, PLAIN));
    trace.raw(ONE, stacks[0]);
    trace.born(ONE, TWO, Pid(ONE.0), on(stacks[1], THREAD));
    assert!(!trace.would_end(ONE, exiting(ExitScope::Group)));
    trace.end(MAIN);
    assert!(trace.would_end(ONE, exiting(ExitScope::Group)));
}
