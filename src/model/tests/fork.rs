//! What a child of fork has of its parent's memory.

use super::*;

/// A child has its parent's memory, but none of it is a stack that it has left behind.
#[test]
fn a_child_inherits_no_stack() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    let live = trace.glibc_stack(STACK);
    trace.thread(TWO, live);
    trace.fork(TWO, THREE);
    let child = trace.space_of(THREE);
    for (stack, live) in [(idle, 0), (live, 1)] {
        let mapping = &child.mappings[child.mapping_at(stack.start()).unwrap()];
        assert_eq!((mapping.inherited, mapping.stack.as_deref().unwrap().live), (true, live));
    }
    assert_eq!(child.pid, Pid(THREE.0));
    assert_eq!(child.sites.get(site(STACK)).created, 0);
    assert!(!trace.mapping(idle).inherited, "the parent's own stay its own");
}

/// The child's fresh stacks prove nothing about inherited ones, and freeing these says nothing of its threads.
#[test]
fn inherited_stacks_prove_nothing() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.fork(MAIN, TWO);
    trace.wait(20);
    let fresh = trace.mmap(TWO, STACK, NONE, LIBRARY);
    trace.mprotect(TWO, above_guard(fresh), RW);
    trace.born(TWO, THREE, Pid(TWO.0), on(fresh, THREAD));
    let child = trace.space_of(TWO);
    let inherited = &child.mappings[child.mapping_at(idle.start()).unwrap()];
    assert_eq!(inherited.stack.as_deref().unwrap().passed_over, None);
    trace.call(TWO, Call::Munmap { addr: idle.start(), len: STACK }, Ok(0));
    assert_eq!(trace.space_of(TWO).sites.get(site(STACK)).unmapped_after_end, 0);
}

/// An inherited stack that the child's own thread uses is the child's from then on.
#[test]
fn a_used_inherited_stack_is_the_childs() {
    let mut trace = Trace::new();
    let idle = trace.unjoined(ONE, STACK);
    trace.fork(MAIN, TWO);
    trace.born(TWO, THREE, Pid(TWO.0), on(idle, THREAD));
    let child = trace.space_of(TWO);
    let mapping = &child.mappings[child.mapping_at(idle.start()).unwrap()];
    let stack = mapping.stack.as_deref().unwrap();
    assert_eq!((mapping.inherited, stack.last.tid, stack.owners, stack.live), (false, THREE, 1, 1));
    assert_eq!(child.sites.get(site(STACK)).reused, 0);
}

/// What MADV_DONTFORK takes out is not in the child, and a mapping of which nothing is left is none.
#[test]
fn dont_fork_is_left_out() {
    let mut trace = Trace::new();
    let [all, half] = [(); 2].map(|()| trace.mmap(MAIN, STACK, RW, PLAIN));
    trace.madvise(MAIN, all, madv::DONTFORK);
    trace.madvise(MAIN, part(half, 0, STACK / 2), madv::DONTFORK);
    trace.fork(MAIN, TWO);
    let child = trace.space_of(TWO);
    assert_eq!(child.areas.iter().map(|(range, _)| range).collect::<Vec<_>>(), [part(half, STACK / 2, STACK / 2)]);
    assert_eq!(child.mappings.values().map(|mapping| mapping.bytes).collect::<Vec<_>>(), [STACK / 2]);
    assert_eq!(trace.space().mappings.len(), 2);
}

/// The thread that called fork goes on, in the child, on a stack of its parent's, which is no leak when it ends.
#[test]
fn the_forking_threads_stack_is_not_left_behind() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    trace.fork(ONE, TWO);
    let fresh = trace.mmap(TWO, STACK, RW, PLAIN);
    trace.born(TWO, THREE, Pid(TWO.0), on(fresh, THREAD));
    trace.end(TWO);
    let child = trace.space_of(THREE);
    assert!(child.mappings[child.mapping_at(stack.start()).unwrap()].idle_stack().is_none());
}
