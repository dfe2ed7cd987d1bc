//! Whose stack a mapping is, from clone to the end.

use super::*;

/// clone names the top of a stack only; the mapping that holds it is the new task's.
#[test]
fn clone_owns_the_mapping_below_its_top() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    let neighbour = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    assert_eq!((trace.stack(stack).last.tid, trace.stack(stack).owners), (ONE, 1));
    assert!(trace.mapping(neighbour).stack.is_none());
}

/// The top may be the very end of the mapping, where the next mapping begins.
#[test]
fn a_top_at_the_end_belongs_to_what_lies_below() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, PLAIN);
    let above = trace.mmap(MAIN, STACK, RW, PLAIN);
    trace.born(MAIN, ONE, Pid(11), CloneArgs { stack: stack.end(), ..on(stack, clone::VM) });
    assert_eq!(trace.stack(stack).last.tid, ONE);
    assert!(trace.mapping(above).stack.is_none());
}

/// clone3 names the base and a size, which ends below the thread's descriptor.
#[test]
fn clone3_owns_the_mapping_that_holds_base_and_size() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    let args =
        CloneArgs { call: CloneCall::Clone3, stack: stack.start(), stack_size: STACK - 0x1000, ..on(stack, THREAD) };
    trace.born(MAIN, ONE, Pid(1), args);
    assert_eq!(trace.stack(stack).last.tid, ONE);
    assert_eq!(trace.model.task(ONE).unwrap().stack, trace.space().mapping_at(stack.start()));
}

/// A stack from the cache shows no mmap for its second life: the clone moves it to its new owner.
#[test]
fn reuse_moves_ownership() {
    let mut trace = Trace::new();
    let stack = trace.unjoined(ONE, STACK);
    assert!(trace.mapping(stack).idle_stack().is_some());
    trace.thread(TWO, stack);
    assert_eq!((trace.stack(stack).last.tid, trace.stack(stack).owners, trace.stack(stack).live), (TWO, 2, 1));
    assert!(trace.mapping(stack).idle_stack().is_none());
    assert_eq!((trace.site(STACK).created, trace.site(STACK).reused), (2, 1));
}

/// Two tasks on one stack: it is idle when both have ended, in whichever order.
#[test]
fn a_stack_of_two_tasks_is_idle_when_both_are_gone() {
    for order in [[ONE, TWO], [TWO, ONE]] {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, STACK, RW, PLAIN);
        trace.raw(ONE, stack);
        trace.raw(TWO, stack);
        trace.end(order[0]);
        assert!(trace.mapping(stack).idle_stack().is_none());
        trace.end(order[1]);
        assert!(trace.mapping(stack).idle_stack().is_some());
        assert_eq!(trace.site(STACK).reused, 0, "it was not idle in between");
    }
}

/// A stack that lies inside a larger block, which goes on above it, is none of its own: a heap's, or a pool's.
#[test]
fn a_stack_inside_a_larger_block_is_none() {
    let mut trace = Trace::new();
    let block = trace.mmap(MAIN, 8 * STACK, RW, PLAIN);
    trace.raw(ONE, part(block, STACK, STACK));
    assert!(trace.mapping(block).stack.is_none());
    assert_eq!(trace.model.task(ONE).unwrap().stack, None);
}

/// Nor is one in a malloc arena, at its upper end either.
#[test]
fn a_stack_in_a_malloc_arena_is_none() {
    let mut trace = Trace::new();
    let arena = trace.mmap(MAIN, 64 << 20, NONE, PLAIN | map::NORESERVE);
    trace.mprotect(MAIN, arena, RW);
    trace.raw(ONE, arena);
    assert!(trace.mapping(arena).stack.is_none());
}

/// mremap moves a stack, and its owner with it.
#[test]
fn mremap_keeps_the_owner() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    let moved = range(0x6000_0000_0000, STACK);
    trace.mremap(stack, moved);
    assert_eq!(trace.stack(moved).last.tid, ONE);
    assert!(!trace.stack(moved).cut);
    assert!(trace.space().mapping_at(stack.start()).is_none());
    assert_eq!(trace.mapping(moved).bytes, STACK);
}

/// What the program has trimmed before the birth is alignment; what goes later is damage.
#[test]
fn trimmed_after_birth_is_cut() {
    let mut trace = Trace::new();
    let [trimmed, cut] = [(); 2].map(|()| {
        let block = trace.mmap(MAIN, STACK + 4 * PAGE, RW, PLAIN);
        trace.munmap(part(block, STACK, 4 * PAGE));
        part(block, 0, STACK)
    });
    trace.raw(ONE, trimmed);
    trace.raw(TWO, cut);
    trace.munmap(above_guard(cut));
    assert_eq!((trace.stack(trimmed).cut, trace.stack(trimmed).region_bytes), (false, STACK));
    assert_eq!((trace.stack(cut).cut, trace.mapping(guard(cut)).bytes), (true, PAGE));
}

/// Pages that are mapped anew inside a stack, as the JVM does with its guards, stay part of it.
#[test]
fn pages_mapped_into_a_stack_are_part_of_it() {
    let mut trace = Trace::new();
    let stack = trace.glibc_stack(STACK);
    trace.thread(ONE, stack);
    let inner = part(stack, 4 * PAGE, 3 * PAGE);
    trace.mmap_at(ONE, inner.start(), inner.bytes(), NONE, PLAIN | map::FIXED);
    assert_eq!((trace.mapping(inner).bytes, trace.stack(inner).cut), (STACK, false));
    assert_eq!(trace.space().areas.at(inner.start()).unwrap().1.prot, Prot::NONE);
}

/// What replaces all of a stack, or reaches beyond it, does not.
#[test]
fn what_replaces_a_stack_is_another_mapping() {
    let mut trace = Trace::new();
    let stack = trace.unjoined(ONE, STACK);
    let beyond = part(stack, 4 * PAGE, STACK);
    trace.mmap_at(MAIN, beyond.start(), STACK, RW, PLAIN | map::FIXED);
    assert_eq!((trace.mapping(stack).bytes, trace.stack(stack).cut), (4 * PAGE, true));
    trace.mmap_at(MAIN, stack.start(), STACK, RW, PLAIN | map::FIXED);
    assert!(trace.mapping(stack).stack.is_none());
    assert_eq!(trace.site(STACK).unmapped_after_end, 1);
}

/// Unmapped whole after its owner's end, a stack leaves a count at its site and nothing else.
#[test]
fn an_unmapped_stack_leaves_a_count() {
    let mut trace = Trace::new();
    let stack = trace.unjoined(ONE, STACK);
    trace.munmap(stack);
    assert_eq!(trace.site(STACK).unmapped_after_end, 1);
    assert!(trace.space().mappings.is_empty());
}

/// A task that leaves by execve, as every posix_spawn does, uses its stack in the old address space no more.
#[test]
fn execve_leaves_the_stack_idle() {
    let mut trace = Trace::new();
    let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
    trace.born(MAIN, ONE, Pid(11), on(stack, clone::VM | clone::VFORK));
    trace.exec(ONE, ONE);
    assert!(trace.mapping(stack).idle_stack().is_some());
    trace.munmap(stack);
    assert_eq!(trace.site(STACK).unmapped_after_end, 1);
}
