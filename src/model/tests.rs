//! What the rules rest on, each in a few lines: whose stack it is, who made it, and when a process is over.

use std::time::Duration;

use syscalls::Errno;

use super::mapping::{Kind, Maker, Mapping, Stack};
use super::sites::Site;
use super::space::{AddressSpace, Backing};
use super::{Applied, Model};
use crate::abi::{clone, madv, map, mremap, prot};
use crate::event::{
    Attached, AttachedTask, Birth, Call, CloneArgs, CloneCall, Event, EventKind, Exec, Exit, ExitScope, Exiting,
    Limits, Prot, Sharing, Syscall, Usage, Vma,
};
use crate::units::{Addr, PAGE, Pid, Range, Tid, Time};

const MAIN: Tid = Tid(1);
const ONE: Tid = Tid(11);
const TWO: Tid = Tid(12);
const THREE: Tid = Tid(13);

/// A thread's stack with its guard.
const STACK: u64 = 256 * PAGE;
/// Anonymous private memory, as pthread_create maps it.
const LIBRARY: u32 = map::PRIVATE | map::ANONYMOUS | map::STACK;
const PLAIN: u32 = map::PRIVATE | map::ANONYMOUS;
const NONE: u32 = 0;
const RW: u32 = 3;
/// pthread_create's, as far as it matters.
const THREAD: u64 = clone::VM | clone::THREAD | clone::SETTLS | clone::CHILD_CLEARTID;

/// A process being followed; events are a microsecond apart unless it waits.
struct Trace {
    model: Model,
    now: Duration,
    next: u64,
}

impl Trace {
    fn new() -> Trace {
        Trace::attached(&[], &[(MAIN, None, None)])
    }

    fn attached(maps: &[Vma], tasks: &[(Tid, Option<u64>, Option<u64>)]) -> Trace {
        let tasks = tasks.iter().map(|&(tid, sp, tls)| AttachedTask {
            tid,
            pid: Pid(1),
            sp: sp.map(Addr),
            tls: tls.map(Addr),
        });
        let attached = Attached {
            pid: Pid(1),
            tasks: tasks.collect(),
            maps: maps.into(),
            start_brk: Some(Addr(0x50_0000)),
            read_implies_exec: false,
        };
        let mut trace = Trace { model: Model::new(), now: Duration::ZERO, next: 0x7000_0000_0000 };
        trace.happen(MAIN, EventKind::Attached(Box::new(attached)));
        trace
    }

    fn event(&mut self, tid: Tid, kind: EventKind) -> Event {
        self.now += Duration::from_micros(1);
        Event { at: Time(self.now), tid, kind }
    }

    fn happen(&mut self, tid: Tid, kind: EventKind) -> Applied {
        let event = self.event(tid, kind);
        self.model.apply(&event)
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn call(&mut self, tid: Tid, call: Call, result: Result<u64, Errno>) -> Applied {
        self.happen(tid, EventKind::Syscall(Syscall { call, result, mapped: None }))
    }

    fn mmap(&mut self, tid: Tid, bytes: u64, prot: u32, flags: u32) -> Range {
        let addr = Addr(self.next);
        // Next to each other, as the kernel likes it.
        self.next += bytes;
        self.mmap_at(tid, addr, bytes, prot, flags)
    }

    fn mmap_at(&mut self, tid: Tid, addr: Addr, len: u64, prot: u32, flags: u32) -> Range {
        self.call(tid, Call::Mmap { addr: Addr(0), len, prot, flags, fd: -1, offset: 0 }, Ok(addr.0));
        Range::of_len(addr, len).unwrap()
    }

    fn munmap(&mut self, range: Range) {
        self.call(MAIN, Call::Munmap { addr: range.start(), len: range.bytes() }, Ok(0));
    }

    fn mprotect(&mut self, tid: Tid, range: Range, prot: u32) {
        self.call(tid, Call::Mprotect { addr: range.start(), len: range.bytes(), prot }, Ok(0));
    }

    fn madvise(&mut self, tid: Tid, range: Range, advice: i32) {
        self.call(tid, Call::Madvise { addr: range.start(), len: range.bytes(), advice }, Ok(0));
    }

    fn mremap(&mut self, from: Range, to: Range) {
        let (flags, new) = (mremap::MAYMOVE | mremap::FIXED, to.start());
        let call = Call::Mremap { old: from.start(), old_len: from.bytes(), new_len: to.bytes(), flags, new };
        self.call(MAIN, call, Ok(to.start().0));
    }

    fn born(&mut self, by: Tid, child: Tid, pid: Pid, args: CloneArgs) {
        self.happen(by, EventKind::Born(Birth { child, pid, args }));
    }

    /// A stack as glibc 2.26 to 2.41 maps it.
    fn glibc_stack(&mut self, bytes: u64) -> Range {
        let stack = self.mmap(MAIN, bytes, NONE, LIBRARY);
        self.mprotect(MAIN, above_guard(stack), RW);
        stack
    }

    /// A thread on this stack, made by pthread_create before clone3.
    fn thread(&mut self, child: Tid, stack: Range) {
        self.born(MAIN, child, Pid(1), on(stack, THREAD));
    }

    /// clone(CLONE_VM) on this stack.
    fn raw(&mut self, child: Tid, stack: Range) {
        self.born(MAIN, child, Pid(child.0), on(stack, clone::VM));
    }

    fn end(&mut self, tid: Tid) {
        self.happen(tid, EventKind::Ended(Exit::Code(0)));
    }

    /// The end of a thread on glibc's own stack.
    fn end_released(&mut self, tid: Tid, stack: Range) {
        self.madvise(tid, usable(stack), madv::DONTNEED);
        self.end(tid);
    }

    /// A thread on a stack of this size that glibc has just mapped, and its end.
    fn unjoined(&mut self, tid: Tid, bytes: u64) -> Range {
        let stack = self.glibc_stack(bytes);
        self.thread(tid, stack);
        self.end_released(tid, stack);
        stack
    }

    fn fork(&mut self, by: Tid, child: Tid) {
        let args = CloneArgs { call: CloneCall::Fork, ..on(whole(), 0) };
        self.born(by, child, Pid(child.0), args);
    }

    fn vfork(&mut self, child: Tid) {
        let args = CloneArgs { call: CloneCall::Vfork, ..on(whole(), clone::VM | clone::VFORK) };
        self.born(MAIN, child, Pid(child.0), args);
    }

    fn exec(&mut self, leader: Tid, former: Tid) {
        self.happen(leader, exec(former));
    }

    fn space_of(&self, tid: Tid) -> &AddressSpace {
        self.model.space(self.model.space_of(tid).unwrap()).unwrap()
    }

    fn space(&self) -> &AddressSpace {
        self.space_of(MAIN)
    }

    fn mapping(&self, range: Range) -> &Mapping {
        let space = self.space();
        &space.mappings[space.mapping_at(range.start()).unwrap()]
    }

    fn stack(&self, range: Range) -> &Stack {
        self.mapping(range).stack.as_deref().unwrap()
    }

    fn site(&self, bytes: u64) -> Site {
        self.space().sites.get(AddressSpace::site_key(bytes))
    }

    fn passed_over(&self, range: Range) -> bool {
        self.stack(range).passed_over.is_some()
    }

    /// Whether what happens to this task next would end its process, as far as verdicts go.
    fn would_end(&mut self, tid: Tid, kind: EventKind) -> bool {
        let event = self.event(tid, kind);
        let ends = self.model.ends(&event);
        assert!(ends.is_none() || ends == self.model.space_of(tid) || matches!(event.kind, EventKind::Exec(_)));
        ends.is_some()
    }

    /// How much the model knows: the length of all of it, written out.
    fn size(&self) -> usize {
        format!("{:?}", self.model).len()
    }
}

fn whole() -> Range {
    range(PAGE, STACK)
}

fn range(start: u64, bytes: u64) -> Range {
    Range::of_len(Addr(start), bytes).unwrap()
}

/// The part of a range from `from` bytes on, of `bytes` bytes.
fn part(whole: Range, from: u64, bytes: u64) -> Range {
    range(whole.start().0 + from, bytes)
}

fn guard(stack: Range) -> Range {
    part(stack, 0, PAGE)
}

fn above_guard(stack: Range) -> Range {
    part(stack, PAGE, stack.bytes() - PAGE)
}

/// What glibc gives back at the end: all but the part that is in use.
fn usable(stack: Range) -> Range {
    part(stack, PAGE, stack.bytes() - 8 * PAGE)
}

/// clone(2) with the descriptor at the upper end of this stack.
fn on(stack: Range, flags: u64) -> CloneArgs {
    let end = stack.end().0;
    CloneArgs {
        call: CloneCall::Clone,
        flags,
        exit_signal: 0,
        stack: Addr(end - 0x1000),
        stack_size: 0,
        tls: Addr(end - 0x900),
        parent_tid: Addr(end - 0x630),
        child_tid: Addr(end - 0x630),
    }
}

fn exec(former: Tid) -> EventKind {
    EventKind::Exec(Box::new(Exec { former, maps: Box::default(), start_brk: None, read_implies_exec: false }))
}

fn exiting(scope: ExitScope) -> EventKind {
    EventKind::Exiting(Exiting { scope, code: 0 })
}

fn line(range: Range, prot: Prot, name: &str) -> Vma {
    let name = name.as_bytes().into();
    Vma { range, prot, sharing: Sharing::Private, offset: 0, inode: 0, device: 0, name }
}

const READ_WRITE: Prot = Prot::READ.with(Prot::WRITE);

mod ownership {
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
        let args = CloneArgs {
            call: CloneCall::Clone3,
            stack: stack.start(),
            stack_size: STACK - 0x1000,
            ..on(stack, THREAD)
        };
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
}

mod makers {
    use super::*;

    /// Up to glibc 2.25: mapped open, then the guard closed. A program might do so too, so the end has to tell.
    #[test]
    fn glibc_up_to_2_25_is_settled_by_the_end() {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.mprotect(MAIN, guard(stack), NONE);
        trace.thread(ONE, stack);
        assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Unsettled, PAGE));
        trace.end_released(ONE, stack);
        assert_eq!(trace.stack(stack).maker, Maker::Glibc);
    }

    /// glibc 2.26 to 2.41: mapped closed, then all but the guard opened, which gives it away.
    #[test]
    fn glibc_from_2_26_is_known_at_birth() {
        let mut trace = Trace::new();
        let stack = trace.glibc_stack(STACK);
        trace.thread(ONE, stack);
        assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Glibc, PAGE));
    }

    /// From glibc 2.42 on Linux 6.13: mapped open, with a guard by madvise.
    #[test]
    fn glibc_from_2_42_is_settled_by_the_end() {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.madvise(MAIN, guard(stack), madv::GUARD_INSTALL);
        trace.thread(ONE, stack);
        assert_eq!((trace.stack(stack).maker, trace.stack(stack).guard_bytes), (Maker::Unsettled, PAGE));
        trace.end_released(ONE, stack);
        assert_eq!(trace.stack(stack).maker, Maker::Glibc);
    }

    /// Once one such stack has turned out to be glibc's own, the next is taken for it at birth.
    #[test]
    fn the_second_one_is_known_at_birth() {
        let mut trace = Trace::new();
        for tid in [ONE, TWO] {
            let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
            trace.madvise(MAIN, guard(stack), madv::GUARD_INSTALL);
            trace.thread(tid, stack);
            let expected = if tid == ONE { Maker::Unsettled } else { Maker::Glibc };
            assert_eq!(trace.stack(stack).maker, expected);
            trace.end_released(tid, stack);
        }
    }

    /// musl maps without MAP_STACK and clones with CLONE_DETACHED; without a guard it maps open.
    #[test]
    fn musl_is_known_at_birth() {
        let mut trace = Trace::new();
        let guarded = trace.mmap(MAIN, STACK, NONE, PLAIN);
        trace.mprotect(MAIN, above_guard(guarded), RW);
        trace.born(MAIN, ONE, Pid(1), on(guarded, THREAD | clone::DETACHED));
        let open = trace.mmap(MAIN, STACK, RW, PLAIN);
        trace.born(MAIN, TWO, Pid(1), on(open, THREAD | clone::DETACHED));
        assert_eq!([trace.stack(guarded).maker, trace.stack(open).maker], [Maker::Musl; 2]);
        trace.end(ONE);
        assert_eq!(trace.stack(guarded).maker, Maker::Musl);
    }

    /// Memory that pthread_attr_setstack was given right after its mmap looks like glibc's own until the thread ends
    /// without giving pages back.
    #[test]
    fn setstack_is_settled_by_the_end() {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.thread(ONE, stack);
        assert_eq!(trace.stack(stack).maker, Maker::Unsettled);
        trace.end(ONE);
        assert_eq!(trace.stack(stack).maker, Maker::Program);
    }

    /// A killed thread gives nothing back; that proves nothing.
    #[test]
    fn a_killed_thread_does_not_settle_for_the_program() {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.thread(ONE, stack);
        trace.happen(ONE, EventKind::Ended(Exit::Signal(9)));
        assert_eq!(trace.stack(stack).maker, Maker::Glibc);
    }

    /// Of small stacks glibc gives nothing back either.
    #[test]
    fn silence_about_a_small_stack_proves_nothing() {
        let mut trace = Trace::new();
        let stack = trace.mmap(MAIN, 8 * PAGE, RW, LIBRARY);
        trace.thread(ONE, stack);
        trace.end(ONE);
        assert_eq!(trace.stack(stack).maker, Maker::Glibc);
    }

    /// Who prepares stacks ahead of the threads is a program: glibc maps, guards and clones in one go.
    #[test]
    fn stacks_prepared_ahead_are_the_programs() {
        let mut trace = Trace::new();
        let first = trace.mmap(MAIN, STACK, RW, LIBRARY);
        let second = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.thread(ONE, first);
        trace.thread(TWO, second);
        assert_eq!(trace.stack(second).maker, Maker::Program);
    }

    /// So is who maps for another thread, without MAP_STACK, or trims first.
    #[test]
    fn other_habits_are_the_programs() {
        let mut trace = Trace::new();
        let by_other = trace.mmap(TWO, STACK, RW, LIBRARY);
        trace.thread(TWO, by_other);
        let of_other = trace.mmap(TWO, STACK, RW, LIBRARY);
        trace.thread(ONE, of_other);
        let plain = trace.mmap(MAIN, STACK, RW, PLAIN);
        trace.thread(THREE, plain);
        let block = trace.mmap(MAIN, 2 * STACK, RW, LIBRARY);
        trace.munmap(part(block, STACK, STACK));
        trace.thread(Tid(14), part(block, 0, STACK));
        assert_eq!([of_other, plain, block].map(|stack| trace.stack(stack).maker), [Maker::Program; 3]);
    }

    /// A raw clone keeps no descriptor in its stack.
    #[test]
    fn a_raw_clone_is_on_the_programs_stack() {
        let mut trace = Trace::new();
        let stack = trace.glibc_stack(STACK);
        trace.raw(ONE, stack);
        assert_eq!(trace.stack(stack).maker, Maker::Program);
    }
}

mod reuse {
    use super::*;

    /// A fresh stack proves that an idle one of the same size was not in the cache.
    #[test]
    fn a_fresh_stack_passes_over_an_idle_one() {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, STACK);
        trace.wait(10);
        let fresh = trace.glibc_stack(STACK);
        assert!(!trace.passed_over(idle), "a mapping alone proves nothing");
        trace.thread(TWO, fresh);
        assert!(trace.passed_over(idle));
        assert!(!trace.passed_over(fresh));
    }

    /// The library looks at its cache a moment before it maps: what ended within 10 ms may have come too late for it,
    /// and waits for the next fresh one.
    #[test]
    fn ten_milliseconds_are_too_short() {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, STACK);
        trace.wait(9);
        trace.unjoined(TWO, STACK);
        assert!(!trace.passed_over(idle));
        trace.wait(9);
        trace.unjoined(THREE, STACK);
        assert!(trace.passed_over(idle));
    }

    /// The cache serves a request with a stack of its size up to four times that.
    #[test]
    fn only_fitting_stacks_are_passed_over() {
        for (idle_bytes, fits) in
            [(STACK - PAGE, false), (STACK, true), (4 * STACK, true), (4 * STACK + PAGE, false)]
        {
            let mut trace = Trace::new();
            let idle = trace.unjoined(ONE, idle_bytes);
            trace.wait(20);
            trace.unjoined(TWO, STACK);
            assert_eq!(trace.passed_over(idle), fits, "{idle_bytes} bytes idle, {STACK} wanted");
        }
    }

    /// A program is expected to reuse a stack for the same size only, and glibc's cache is not its own.
    #[test]
    fn makers_are_told_apart() {
        let mut trace = Trace::new();
        let [same, larger] = [STACK, 2 * STACK].map(|bytes| trace.mmap(MAIN, bytes, RW, PLAIN));
        let cached = trace.unjoined(ONE, STACK);
        trace.raw(TWO, same);
        trace.raw(THREE, larger);
        trace.end(TWO);
        trace.end(THREE);
        trace.wait(20);
        let fresh = trace.mmap(MAIN, STACK, RW, PLAIN);
        trace.raw(ONE, fresh);
        assert_eq!([same, larger, cached].map(|stack| trace.passed_over(stack)), [true, false, false]);
    }

    /// A stack that only its end shows to be glibc's passes over those that were idle when it was mapped, not later.
    #[test]
    fn what_settles_late_counts_from_its_mapping() {
        let mut trace = Trace::new();
        let before = trace.unjoined(ONE, STACK);
        trace.wait(20);
        let fresh = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.thread(TWO, fresh);
        let after = trace.glibc_stack(2 * STACK);
        trace.thread(THREE, after);
        trace.end_released(THREE, after);
        trace.wait(20);
        assert!(!trace.passed_over(before), "whose it is is not known yet");
        trace.end_released(TWO, fresh);
        assert!(trace.passed_over(before));
        assert!(!trace.passed_over(after));
    }

    /// A reused stack is fresh evidence of nothing, and has not been passed over any more.
    #[test]
    fn a_reused_stack_starts_over() {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, STACK);
        trace.wait(20);
        let fresh = trace.unjoined(TWO, STACK);
        trace.wait(20);
        trace.thread(THREE, idle);
        assert!(!trace.passed_over(idle));
        assert!(!trace.passed_over(fresh));
    }

    /// An unmapped stack waits no more: its name may not be met again.
    #[test]
    fn an_unmapped_stack_waits_no_more() {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, STACK);
        trace.munmap(idle);
        trace.wait(20);
        let fresh = trace.unjoined(TWO, STACK);
        assert!(!trace.passed_over(fresh));
    }
}

mod fork {
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
        for stack in [idle, live] {
            let mapping = &child.mappings[child.mapping_at(stack.start()).unwrap()];
            assert!(mapping.inherited);
        }
        assert_eq!(child.pid, Pid(THREE.0));
        assert_eq!(child.sites.get(AddressSpace::site_key(STACK)).created, 0);
        assert!(!trace.mapping(idle).inherited, "the parent's own stay its own");
    }

    /// The child's fresh stacks prove nothing about inherited ones, and freeing these says nothing of its threads.
    #[test]
    fn inherited_stacks_prove_nothing() {
        let mut trace = Trace::new();
        let idle = trace.unjoined(ONE, STACK);
        trace.fork(MAIN, TWO);
        trace.wait(20);
        let fresh = range(0x6000_0000_0000, STACK);
        trace.mmap_at(TWO, fresh.start(), STACK, RW, PLAIN);
        trace.born(TWO, THREE, Pid(TWO.0), on(fresh, clone::VM));
        let child = trace.space_of(TWO);
        let inherited = &child.mappings[child.mapping_at(idle.start()).unwrap()];
        assert_eq!(inherited.stack.as_deref().unwrap().passed_over, None);
        trace.call(TWO, Call::Munmap { addr: idle.start(), len: STACK }, Ok(0));
        assert_eq!(trace.space_of(TWO).sites.get(AddressSpace::site_key(STACK)).unmapped_after_end, 0);
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
        assert_eq!(child.sites.get(AddressSpace::site_key(STACK)).reused, 0);
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
}

mod ends {
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
}

mod attach {
    use super::*;

    /// A guard right below and the descriptor above bound a stack that was there before, also one of several that
    /// the kernel shows as one line.
    #[test]
    fn guard_and_descriptor_bound_a_stack() {
        let (guard, line_above) = (range(0x1000, PAGE), range(0x2000, 8 * PAGE));
        let maps = [line(guard, Prot::NONE, ""), line(line_above, READ_WRITE, "")];
        let mut trace = Trace::attached(&maps, &[(MAIN, None, None), (ONE, Some(0x3800), Some(0x4900))]);
        let stack = range(0x1000, 4 * PAGE);
        assert_eq!((trace.mapping(stack).bytes, trace.stack(stack).guard_bytes), (4 * PAGE, PAGE));
        assert_eq!(trace.stack(stack).maker, Maker::Unsettled);
        assert_eq!(trace.mapping(range(0x5000, PAGE)).bytes, 5 * PAGE, "the rest of the line is something else");
        trace.end_released(ONE, range(0x1000, 16 * PAGE));
        assert!(trace.mapping(stack).idle_stack().is_some());
    }

    /// Without them nothing is claimed of what a task runs on, and tasks on one line share it.
    #[test]
    fn unbounded_stacks_have_no_known_maker() {
        let maps = [line(range(0x2000, 8 * PAGE), READ_WRITE, "")];
        let trace = Trace::attached(&maps, &[(MAIN, Some(0x3800), None), (ONE, Some(0x7800), None)]);
        let stack = trace.space().mappings.values().next().unwrap().stack.as_deref().unwrap();
        assert_eq!((stack.maker, stack.live, stack.owners), (Maker::Unknown, 2, 2));
    }

    /// The main thread's stack is the kernel's, not the program's to free.
    #[test]
    fn the_main_stack_is_no_finding() {
        let maps = [line(range(0x2000, 8 * PAGE), READ_WRITE, "[stack]")];
        let trace = Trace::attached(&maps, &[(MAIN, Some(0x8800), None)]);
        let mapping = trace.space().mappings.values().next().unwrap();
        assert_eq!((mapping.kind, mapping.stack.is_none()), (Kind::MainStack, true));
    }
}

mod calls {
    use super::*;

    /// Page faults extend a stack without a call, and a look at the maps takes that over.
    #[test]
    fn stacks_grow_unseen() {
        let low = range(0x2000, 2 * PAGE);
        let mut trace = Trace::attached(&[line(low, READ_WRITE, "[stack]")], &[(MAIN, None, None)]);
        let id = trace.model.space_of(MAIN).unwrap();
        let grown = [line(range(0x1000, 3 * PAGE), READ_WRITE, "[stack]")];
        assert_eq!(trace.model.space_mut(id).unwrap().compare(&grown), Ok(()));
        assert_eq!(trace.mapping(range(0x1000, PAGE)).bytes, 3 * PAGE);
    }

    /// What has grown unseen stays when the part above it goes or is closed, and the maps show it as a line of its own.
    #[test]
    fn growth_survives_what_happens_above_it() {
        let (grown, known) = (line(range(0x1000, PAGE), READ_WRITE, ""), range(0x2000, 2 * PAGE));
        for close in [true, false] {
            let mut trace = Trace::new();
            trace.mmap_at(MAIN, known.start(), known.bytes(), RW, PLAIN | map::GROWSDOWN);
            let left = if close {
                trace.mprotect(MAIN, known, NONE);
                vec![grown.clone(), line(known, Prot::NONE, "")]
            } else {
                trace.munmap(known);
                vec![grown.clone()]
            };
            let id = trace.model.space_of(MAIN).unwrap();
            assert_eq!(trace.model.space_mut(id).unwrap().compare(&left), Ok(()));
        }
    }

    /// A success over pages that the model does not have tells that it has missed something.
    #[test]
    fn success_over_a_hole_is_unclear() {
        let mut trace = Trace::new();
        let known = trace.mmap(MAIN, STACK, RW, PLAIN);
        let beyond = Call::Mprotect { addr: known.start(), len: 2 * STACK, prot: NONE };
        assert!(trace.call(MAIN, beyond, Ok(0)).unclear.is_some());
        let (old, old_len) = (Addr(0x1000), PAGE);
        let moved = Call::Mremap { old, old_len, new_len: 2 * PAGE, flags: mremap::MAYMOVE, new: Addr(0) };
        assert!(trace.call(MAIN, moved, Ok(0x9000)).unclear.is_some());
    }

    /// PROT_GROWSDOWN reaches down to a border that only the kernel knows, also where it fails half-way.
    #[test]
    fn growsdown_is_unclear() {
        let mut trace = Trace::new();
        let known = trace.mmap(MAIN, STACK, RW, PLAIN | map::GROWSDOWN);
        let call = Call::Mprotect { addr: known.start(), len: PAGE, prot: prot::GROWSDOWN };
        assert!(trace.call(MAIN, call, Ok(0)).unclear.is_some());
        assert!(trace.call(MAIN, call, Err(Errno::ENOMEM)).unclear.is_some());
        assert!(trace.call(MAIN, call, Err(Errno::EINVAL)).unclear.is_none());
    }

    /// The heap of brk is one mapping, however often it grows, and the first call only tells where it is.
    #[test]
    fn the_heap_is_one_mapping() {
        let mut trace = Trace::new();
        let brk = |trace: &mut Trace, to: u64| trace.call(MAIN, Call::Brk { addr: Addr(to) }, Ok(to)).unclear;
        assert!(brk(&mut trace, 0x50_0000).is_some());
        for to in [0x50_1001, 0x50_8000, 0x50_7fff, 0x50_4000] {
            assert!(brk(&mut trace, to).is_none());
        }
        assert_eq!(trace.space().mappings.len(), 1);
        let heap = trace.mapping(range(0x50_0000, PAGE));
        assert_eq!((heap.kind, heap.bytes), (Kind::Heap, 4 * PAGE));
    }

    /// Huge pages: the length is rounded up to them, and anonymous ones have a file that keeps the offset.
    #[test]
    fn huge_pages_are_rounded_up() {
        let mut trace = Trace::new();
        let flags = PLAIN | map::HUGETLB | 21 << map::HUGE_SHIFT;
        let (addr, start) = (Addr(0), 0x4000_0000);
        trace.call(MAIN, Call::Mmap { addr, len: PAGE, prot: RW, flags, fd: -1, offset: 4 << 20 }, Ok(start));
        let (range, area) = trace.space().areas.at(Addr(start)).unwrap();
        assert_eq!((range.bytes(), area.backing), (2 << 20, Backing::file(4 << 20, Addr(start))));
    }

    /// A ring of asynchronous I/O goes as a whole, by whichever name it is given back.
    #[test]
    fn rings_come_and_go() {
        let mut trace = Trace::new();
        let ring = Vma { inode: 7, ..line(range(0x8000, 3 * PAGE), READ_WRITE, "/[aio] (deleted)") };
        let call = Call::IoSetup { nr_events: 128, ctxp: Addr(0) };
        trace.happen(MAIN, EventKind::Syscall(Syscall { call, result: Ok(0), mapped: Some(ring) }));
        assert_eq!(trace.model.mappings_live(), 1);
        trace.call(MAIN, Call::IoDestroy { ctx: Addr(0x8000) }, Ok(0));
        assert_eq!(trace.model.mappings_live(), 0);
    }

    /// Failures for lack of something are counted by call and errno, and the limits seen next are theirs.
    #[test]
    fn refusals_are_counted() {
        let mut trace = Trace::new();
        let map = Call::Mmap { addr: Addr(0), len: STACK, prot: RW, flags: PLAIN, fd: -1, offset: 0 };
        let limits = Limits { vmas: Some(Usage { used: 10, limit: 10 }), ..Limits::default() };
        trace.call(MAIN, map, Err(Errno::ENOMEM));
        trace.call(MAIN, Call::Clone(on(whole(), THREAD)), Err(Errno::EAGAIN));
        trace.call(MAIN, map, Err(Errno::ENOMEM));
        trace.happen(MAIN, EventKind::Limits(Box::new(limits.clone())));
        trace.call(MAIN, map, Err(Errno::EINVAL));
        let refusals = &trace.space().refusals;
        let counts: Vec<_> = refusals.iter().map(|refusal| (refusal.call, refusal.count)).collect();
        assert_eq!(counts, [("clone", 1), ("mmap", 2)]);
        assert_eq!((&refusals[0].limits, &refusals[1].limits), (&None, &Some(Box::new(limits))));
    }

    /// Where the maps show something else at the same pages, what was there is gone, and not its owner's any more.
    #[test]
    fn replaced_pages_are_another_mapping() {
        let mut trace = Trace::new();
        let stack = trace.unjoined(ONE, STACK);
        let file = Vma { inode: 9, ..line(stack, READ_WRITE, "/file") };
        trace.happen(MAIN, EventKind::Maps(Box::new([file])));
        assert!(trace.mapping(stack).stack.is_none());
        assert_eq!(trace.model.mappings_live(), 1);
    }
}

mod bounds {
    use super::*;

    const ROUNDS: u32 = 100_000;

    /// What the model knows after many rounds is what it knew after a few, but for some digits.
    fn check_bound(mut trace: Trace, mut round: impl FnMut(&mut Trace, u32)) {
        for count in 0..100 {
            round(&mut trace, count);
        }
        let (before, mappings) = (trace.size(), trace.model.mappings_live());
        for count in 100..ROUNDS {
            round(&mut trace, count);
        }
        assert_eq!(trace.model.mappings_live(), mappings);
        assert!(trace.size() < before + 200, "{before} bytes have become {}", trace.size());
    }

    /// A thread that comes and goes on a cached stack.
    #[test]
    fn threads_on_a_reused_stack_leave_nothing() {
        let mut trace = Trace::new();
        let stack = trace.glibc_stack(STACK);
        check_bound(trace, |trace, count| {
            let tid = Tid(100 + count as i32 % 30_000);
            trace.thread(tid, stack);
            trace.end_released(tid, stack);
        });
    }

    /// A thread on a stack that is mapped for it and unmapped afterwards.
    #[test]
    fn threads_on_fresh_stacks_leave_nothing() {
        check_bound(Trace::new(), |trace, count| {
            trace.next = 0x7000_0000_0000;
            let stack = trace.unjoined(Tid(100 + count as i32 % 30_000), STACK);
            trace.munmap(stack);
        });
    }

    /// A mapping that comes and goes, at changing places.
    #[test]
    fn mappings_leave_nothing() {
        check_bound(Trace::new(), |trace, count| {
            let range = trace.mmap_at(MAIN, Addr(u64::from(count % 1000 + 1) * STACK), STACK, RW, PLAIN);
            trace.mprotect(MAIN, guard(range), NONE);
            trace.munmap(range);
        });
    }

    /// Processes that are forked, make a thread and end.
    #[test]
    fn processes_leave_nothing() {
        let mut trace = Trace::new();
        trace.unjoined(ONE, STACK);
        check_bound(trace, |trace, count| {
            let child = Tid(100 + count as i32 % 30_000);
            trace.fork(MAIN, child);
            trace.exec(child, child);
            trace.end(child);
        });
    }

    /// Sizes that are mapped and freed once each are remembered up to a limit.
    #[test]
    fn freed_sizes_are_bounded() {
        let mut trace = Trace::new();
        for pages in 1..10_000 {
            let range = trace.mmap_at(MAIN, Addr(PAGE), pages * PAGE, RW, PLAIN);
            trace.munmap(range);
        }
        assert!(trace.size() < 100_000);
        assert!(trace.space().freed_sizes.may_contain(9_999 * PAGE), "what is not remembered counts as freed");
    }
}
