//! The lists and the system calls together, on one thread of glibc's that has ended.

use std::time::Duration;

use std::collections::HashMap;

use super::*;
use crate::abi::{clone, madv, map};
use crate::diagnose::finding::NoteKind;
use crate::event::{Attached, AttachedTask, Birth, CloneArgs, CloneCall, Event, EventKind, Exit, Syscall};
use crate::model::Model;
use crate::threadlib::{StackBlock, Stage};
use crate::units::{Addr, PAGE, Pid, Tid};

const MAIN: Tid = Tid(1);
const THREAD: Tid = Tid(2);

fn stack() -> Range {
    Range::of_len(Addr(0x7000_0000), 256 * PAGE).unwrap()
}

fn descriptor() -> Addr {
    Addr(stack().end().0 - 0x900)
}

/// A process whose only other thread has ended, on a stack that glibc mapped for it.
fn ended() -> Model {
    let mut model = Model::new();
    let main = AttachedTask { tid: MAIN, pid: Pid(1), sp: None, tls: None };
    let attached =
        Attached { pid: Pid(1), tasks: vec![main], maps: [].into(), start_brk: None, read_implies_exec: false };
    let (addr, len, flags) = (stack().start(), stack().bytes(), map::PRIVATE | map::ANONYMOUS | map::STACK);
    let above = Range::new(Addr(addr.0 + PAGE), stack().end()).unwrap();
    let args = CloneArgs {
        call: CloneCall::Clone3,
        flags: clone::VM | clone::THREAD | clone::SETTLS | clone::CHILD_CLEARTID,
        exit_signal: 0,
        stack: addr,
        stack_size: len - 0x1000,
        tls: descriptor(),
        parent_tid: Addr(0),
        child_tid: descriptor(),
    };
    let call = |call, result| EventKind::Syscall(Syscall { call, result: Ok(result), mapped: None });
    let events = [
        (MAIN, EventKind::Attached(Box::new(attached))),
        (MAIN, call(Call::Mmap { addr: Addr(0), len, prot: 0, flags, fd: -1, offset: 0 }, addr.0)),
        (MAIN, call(Call::Mprotect { addr: above.start(), len: above.bytes(), prot: 3 }, 0)),
        (MAIN, EventKind::Born(Birth { child: THREAD, pid: Pid(1), args, function: None })),
        (THREAD, call(Call::Madvise { addr, len: len - 8 * PAGE, advice: madv::DONTNEED }, 0)),
        (THREAD, EventKind::Ended(Exit::Code(0))),
    ];
    for (tid, kind) in events {
        model.apply(&Event { at: Time::default(), tid, call_stack: None, kind });
    }
    model
}

fn thread(list: List, tid: Tid, task: Option<Tid>) -> ListedThread {
    let stack = Some(StackBlock { range: stack(), guard_bytes: PAGE });
    ListedThread { descriptor: descriptor(), list, tid, start_routine: Addr(0), stage: Stage::Unknown, stack, task }
}

/// What is found, and the kinds of the notes, when the lists hold this.
fn judged(thread: Option<ListedThread>, settled: bool) -> (Vec<(Reason, Confidence)>, Vec<NoteKind>) {
    let model = ended();
    let space = model.space(model.space_of(MAIN).unwrap()).unwrap();
    let lists = ThreadLists { threads: thread.into_iter().collect(), settled, ..ThreadLists::default() };
    let moment = Moment { now: Time(Duration::from_secs(60)), phase: Phase::Ending { by: None } };
    let diagnosis = diagnose(space, moment, Library::Lists { lists: &lists, functions: &HashMap::new() });
    let found = diagnosis.findings.iter().map(|finding| (finding.reason, finding.confidence)).collect();
    (found, diagnosis.notes.iter().map(|note| note.kind).collect())
}

/// Used, and its task gone: never joined. Cached: kept for reuse. Nothing to dispute about either.
#[test]
fn agreement() {
    for settled in [true, false] {
        let unjoined = vec![(Reason::Unjoined, Confidence::Definite)];
        assert_eq!(judged(Some(thread(List::Used, Tid(0), None)), settled), (unjoined, vec![]));
        assert_eq!(judged(Some(thread(List::Cached, Tid(-1), None)), settled), (vec![], vec![NoteKind::StackCache]));
    }
}

/// A stack on its way, from the cache to a new thread or from a list to munmap, is no disagreement, and no leak.
#[test]
fn on_its_way() {
    let unproven = (vec![], vec![NoteKind::UnprovenStacks]);
    assert_eq!(judged(Some(thread(List::Used, Tid(-1), None)), true), unproven);
    assert_eq!(judged(None, false), unproven);
}

/// A live thread on a stack whose last owner has ended: its birth was missed. No leak, but worth a word.
#[test]
fn a_live_thread_has_it() {
    let lives = thread(List::Used, Tid(77), Some(MAIN));
    assert_eq!(judged(Some(lives), true), (vec![], vec![NoteKind::EvidenceConflict]));
}

/// glibc's own stack, on none of its lists, although nobody can be moving it.
#[test]
fn on_none_of_the_lists() {
    assert_eq!(judged(None, true), (vec![], vec![NoteKind::UnprovenStacks, NoteKind::EvidenceConflict]));
}
