//! What the rules rest on, each in a few lines: whose stack it is, who made it, and when a process is over.

mod attach;
mod bounds;
mod calls;
mod ends;
mod fork;
mod growth;
mod limits;
mod makers;
mod ownership;
mod regions;
mod reuse;
mod tolerance;
mod untold;

use std::time::Duration;

use syscalls::Errno;

use super::mapping::{Kind, Maker, Mapping, Stack};
use super::sites::{Site, SiteKey};
use super::space::{AddressSpace, Backing};
use super::{Applied, Model};
use crate::abi::{clone, madv, map, mremap, prot};
use crate::event::{
    Attached, AttachedTask, Birth, Call, CloneArgs, CloneCall, Event, EventKind, Exec, Exit, ExitScope, Exiting,
    LibraryStack, Limits, Prot, Sharing, Syscall, ThreadLibrary, Usage, Vma,
};
use crate::units::{Addr, CallStackId, CodeId, PAGE, Pid, Range, Tid, Time};

pub(crate) const MAIN: Tid = Tid(1);
pub(crate) const ONE: Tid = Tid(11);
pub(crate) const TWO: Tid = Tid(12);
pub(crate) const THREE: Tid = Tid(13);

/// A thread's stack with its guard.
pub(crate) const STACK: u64 = 256 * PAGE;
/// Anonymous private memory, as pthread_create maps it.
pub(crate) const LIBRARY: u32 = map::PRIVATE | map::ANONYMOUS | map::STACK;
pub(crate) const PLAIN: u32 = map::PRIVATE | map::ANONYMOUS;
const NONE: u32 = 0;
pub(crate) const RW: u32 = 3;
/// pthread_create's, as far as it matters.
const THREAD: u64 = clone::VM | clone::THREAD | clone::SETTLS | clone::CHILD_CLEARTID;

/// A process being followed; events are a microsecond apart unless it waits.
pub(crate) struct Trace {
    pub(crate) model: Model,
    now: Duration,
    next: u64,
    /// Where in the program what happens next does, as far as it is captured.
    pub(crate) call_stack: Option<CallStackId>,
    /// What the next thread is made to run.
    pub(crate) function: Option<CodeId>,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        Trace::attached(&[], &[(MAIN, None, None)])
    }

    pub(crate) fn attached(maps: &[Vma], tasks: &[(Tid, Option<u64>, Option<u64>)]) -> Trace {
        let tasks =
            tasks.iter().map(|&(tid, sp, tls)| AttachedTask { tid, pid: Pid(1), sp: sp.map(Addr), tls: tls.map(Addr) });
        let attached = Attached {
            pid: Pid(1),
            tasks: tasks.collect(),
            maps: maps.into(),
            start_brk: Some(Addr(0x50_0000)),
            read_implies_exec: false,
        };
        let mut trace = Trace {
            model: Model::new(),
            now: Duration::ZERO,
            next: 0x7000_0000_0000,
            call_stack: None,
            function: None,
        };
        trace.happen(MAIN, EventKind::Attached(Box::new(attached)));
        trace
    }

    fn event(&mut self, tid: Tid, kind: EventKind) -> Event {
        self.now += Duration::from_micros(1);
        Event { at: Time(self.now), tid, call_stack: self.call_stack, kind }
    }

    fn happen(&mut self, tid: Tid, kind: EventKind) -> Applied {
        let event = self.event(tid, kind);
        self.model.apply(&event)
    }

    pub(crate) fn now(&self) -> Time {
        Time(self.now)
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn call(&mut self, tid: Tid, call: Call, result: Result<u64, Errno>) -> Applied {
        self.happen(tid, EventKind::Syscall(Syscall { call, result, mapped: None }))
    }

    pub(crate) fn mmap(&mut self, tid: Tid, bytes: u64, prot: u32, flags: u32) -> Range {
        let addr = Addr(self.next);
        // Next to each other, as the kernel likes it.
        self.next += bytes;
        self.mmap_at(tid, addr, bytes, prot, flags)
    }

    fn mmap_at(&mut self, tid: Tid, addr: Addr, len: u64, prot: u32, flags: u32) -> Range {
        self.call(tid, Call::Mmap { addr: Addr(0), len, prot, flags, fd: -1, offset: 0 }, Ok(addr.0));
        Range::of_len(addr, len).unwrap()
    }

    pub(crate) fn munmap(&mut self, range: Range) {
        self.call(MAIN, Call::Munmap { addr: range.start(), len: range.bytes() }, Ok(0));
    }

    pub(crate) fn mprotect(&mut self, tid: Tid, range: Range, prot: u32) {
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
        self.happen(by, EventKind::Born(Birth { child, pid, args, function: self.function }));
    }

    /// A stack as glibc 2.26 to 2.41 maps it.
    pub(crate) fn glibc_stack(&mut self, bytes: u64) -> Range {
        let stack = self.mmap(MAIN, bytes, NONE, LIBRARY);
        self.mprotect(MAIN, above_guard(stack), RW);
        stack
    }

    /// A thread on this stack, made by pthread_create before clone3.
    pub(crate) fn thread(&mut self, child: Tid, stack: Range) {
        self.born(MAIN, child, Pid(1), on(stack, THREAD));
    }

    /// clone(CLONE_VM) on this stack.
    pub(crate) fn raw(&mut self, child: Tid, stack: Range) {
        self.born(MAIN, child, Pid(child.0), on(stack, clone::VM));
    }

    pub(crate) fn end(&mut self, tid: Tid) {
        self.happen(tid, EventKind::Ended(Exit::Code(0)));
    }

    /// The end of a thread on glibc's own stack.
    pub(crate) fn end_released(&mut self, tid: Tid, stack: Range) {
        self.madvise(tid, usable(stack), madv::DONTNEED);
        self.end(tid);
    }

    /// A thread on a stack of this size that glibc has just mapped, and its end.
    pub(crate) fn unjoined(&mut self, tid: Tid, bytes: u64) -> Range {
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

    pub(crate) fn space(&self) -> &AddressSpace {
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
        self.space().sites.get(site(bytes))
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

/// The site of stacks of this size, whose call stack was not captured.
fn site(region_bytes: u64) -> SiteKey {
    SiteKey { region_bytes, call_stack: None }
}

fn whole() -> Range {
    range(PAGE, STACK)
}

pub(crate) fn range(start: u64, bytes: u64) -> Range {
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

pub(crate) fn line(range: Range, prot: Prot, name: &str) -> Vma {
    let name = name.as_bytes().into();
    Vma { range, prot, sharing: Sharing::Private, offset: 0, inode: 0, device: 0, name }
}

pub(crate) const READ_WRITE: Prot = Prot::READ.with(Prot::WRITE);
