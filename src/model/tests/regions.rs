//! Stacks where mapping calls are not told: what births, looks and contents tell of them.

use super::super::mapping::Imprint;
use super::*;
use crate::event::StackRegion;

const RAW: u64 = 10 * PAGE;
const HIGH: u64 = 0x7000_0000_0000;

/// A process of which nothing but the births and ends of threads is told.
fn trace() -> Trace {
    let mut trace = Trace::new();
    trace.happen(MAIN, EventKind::LifecyclesAlone);
    trace
}

impl Trace {
    /// clone(CLONE_VM) on a stack that ends at `top`, in this line of maps.
    fn raw_seen(&mut self, child: Tid, top: u64, line: &Vma, below: Option<&Vma>) {
        let args = CloneArgs { stack: Addr(top - 16), ..on(whole(), clone::VM) };
        let region = StackRegion { line: line.clone(), below: below.cloned(), block: None };
        self.model.stack_region(MAIN, &args, &region);
        self.born(MAIN, child, Pid(child.0), args);
    }

    fn look(&mut self, maps: &[Vma]) {
        self.happen(MAIN, EventKind::Maps(maps.into()));
    }

    /// Idle stacks: where each is mapped, and how many owners it has had.
    fn idle(&self) -> Vec<(String, u32)> {
        let space = self.space();
        let idle = space.mappings.iter().filter_map(|(id, mapping)| {
            let (stack, _) = mapping.idle_stack()?;
            let pieces: Vec<String> = space.pieces_of(id).iter().map(Range::to_string).collect();
            assert_eq!(mapping.bytes, space.pieces_of(id).iter().map(|piece| piece.bytes()).sum::<u64>());
            Some((pieces.join("+"), stack.owners))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort();
        idle
    }
}

fn rw(start: u64, end: u64) -> Vma {
    line(Range::new(Addr(start), Addr(end)).unwrap(), READ_WRITE, "")
}

fn shown(start: u64, end: u64) -> (String, u32) {
    (Range::new(Addr(start), Addr(end)).unwrap().to_string(), 1)
}

/// Stacks that are mapped one after the other, each for its thread, are known exactly although they merge.
#[test]
fn merged_neighbours_mapped_one_by_one() {
    let mut trace = trace();
    for (tid, number) in [ONE, TWO, THREE].into_iter().zip(0..) {
        let top = HIGH - number * RAW;
        trace.raw_seen(tid, top, &rw(top - RAW, HIGH), None);
        trace.end(tid);
    }
    assert_eq!(trace.idle(), [2, 1, 0].map(|number| shown(HIGH - (number + 1) * RAW, HIGH - number * RAW)));
    assert_eq!(trace.site(RAW).created, 3);
}

/// Of stacks that were all mapped before the first thread, each birth tells where one ends, from the highest on; where the
/// first is another, nothing is taken for a stack.
#[test]
fn merged_neighbours_mapped_together() {
    for order in [[0, 1, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0]] {
        let mut trace = trace();
        let all = rw(HIGH - 3 * RAW, HIGH);
        for (tid, number) in [ONE, TWO, THREE].into_iter().zip(order) {
            trace.raw_seen(tid, HIGH - number * RAW, &all, None);
        }
        for tid in [ONE, TWO, THREE] {
            trace.end(tid);
        }
        let each = [2, 1, 0].map(|number| shown(HIGH - (number + 1) * RAW, HIGH - number * RAW));
        let expected = if order[0] == 0 { each.to_vec() } else { Vec::new() };
        assert_eq!(trace.idle(), expected, "{order:?}");
        assert_eq!((trace.site(RAW).created, trace.site(3 * RAW).created), (expected.len() as u64, 0));
    }
}

/// A small region without access right below is the stack's guard.
#[test]
fn a_guard_below() {
    let mut trace = trace();
    let guard = line(range(HIGH - RAW - PAGE, PAGE), Prot::NONE, "");
    trace.raw_seen(ONE, HIGH, &rw(HIGH - RAW, HIGH), Some(&guard));
    trace.end(ONE);
    let (guard, _) = shown(HIGH - RAW - PAGE, HIGH - RAW);
    let (stack, _) = shown(HIGH - RAW, HIGH);
    assert_eq!(trace.idle(), [(format!("{guard}+{stack}"), 1)]);
    assert_eq!(trace.stack(range(HIGH - PAGE, PAGE)).guard_bytes, PAGE);
}

/// What lies in the middle of a line of maps, as Go's stacks do in its heap, is no stack of its own.
#[test]
fn parts_of_a_heap() {
    let mut trace = trace();
    trace.raw_seen(ONE, HIGH - 4 * RAW, &rw(HIGH - 100 * RAW, HIGH), None);
    trace.end(ONE);
    assert_eq!(trace.idle(), []);
}

/// An idle stack that the kernel does not have any more is gone; one of which a part is gone may be something else by now.
#[test]
fn a_look_shows_what_is_gone() {
    let mut trace = trace();
    let (first, second, third) = (HIGH, HIGH - 2 * RAW, HIGH - 4 * RAW);
    for (tid, top) in [(ONE, first), (TWO, second), (THREE, third)] {
        trace.raw_seen(tid, top, &rw(top - RAW, top), None);
        trace.end(tid);
    }
    trace.look(&[rw(second - PAGE, second), rw(first - RAW, first)]);
    assert_eq!(trace.idle(), [shown(first - RAW, first)]);
    assert_eq!(trace.site(RAW).unmapped_after_end, 2);
}

/// A stack whose contents have changed is disowned, and its site counts as one that lets go.
#[test]
fn changed_contents() {
    let mut trace = trace();
    trace.raw_seen(ONE, HIGH, &rw(HIGH - RAW, HIGH), None);
    trace.end(ONE);
    let space = trace.model.space_of(MAIN).unwrap();
    let space = trace.model.space_mut(space).unwrap();
    let (id, top, _) = space.imprinted().next().unwrap();
    assert_eq!(top, Addr(HIGH - 16));
    space.keep_imprint(id, Some(Imprint(7)));
    assert_eq!(space.imprinted().next().unwrap().2, Some(Imprint(7)));
    space.disown(id);
    assert_eq!(space.imprinted().count(), 0);
    assert!(trace.site(RAW).lets_go());
}

/// The library names the bounds of its stacks: they hold also where lines of maps have merged, and over what is idle there.
#[test]
fn bounds_by_the_library() {
    let mut trace = trace();
    let all = rw(HIGH - 2 * STACK, HIGH);
    trace.raw_seen(ONE, HIGH, &all, None);
    trace.end(ONE);
    let stack = range(HIGH - STACK, STACK);
    let args = on(stack, THREAD);
    let region = StackRegion { line: all.clone(), below: None, block: Some(stack) };
    trace.model.stack_region(MAIN, &args, &region);
    trace.born(MAIN, TWO, Pid(1), args);
    trace.end(TWO);
    assert_eq!(trace.idle(), [shown(HIGH - STACK, HIGH)]);
    assert_eq!((trace.stack(stack).maker, trace.stack(stack).last.tid), (Maker::Unknown, TWO));
}

/// A thread whose whole process ends is the end of the address space, and a helper that merely shares it is not.
#[test]
fn the_end_of_a_group() {
    let mut trace = trace();
    trace.raw_seen(ONE, HIGH, &rw(HIGH - RAW, HIGH), None);
    assert!(trace.would_end(MAIN, EventKind::GroupEnding { by_call: false }));
    assert!(!trace.would_end(ONE, EventKind::GroupEnding { by_call: true }));
}
