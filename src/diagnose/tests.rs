//! The table of verdicts, row by row.

use std::collections::HashMap;

use super::finding::{Confidence, Diagnosis, Finding, NoteKind, Reason, Recurrence};
use super::{Library, Moment, Phase, diagnose};
use crate::event::ThreadLibrary;
use crate::model::tests::{LIBRARY, MAIN, ONE, PLAIN, RW, STACK, THREE, TWO, Trace};
use crate::threadlib::{List, ListedThread, StackBlock, Stage, ThreadLists};
use crate::units::{Addr, CallStackId, CodeId, PAGE, Range, Tid};

const HERE: Option<CallStackId> = Some(CallStackId(1));
const THERE: Option<CallStackId> = Some(CallStackId(2));
const JOB: Option<CodeId> = Some(CodeId(7));
const OTHER_JOB: Option<CodeId> = Some(CodeId(8));
const FOUR: Tid = Tid(14);

impl Trace {
    fn judge(&self, phase: Phase, library: Library<'_>) -> Diagnosis {
        let moment = Moment { now: self.now(), phase };
        diagnose(self.space(), moment, &|tid| self.model.task(tid).is_some(), library)
    }

    /// What is found when the process ends here, by system calls alone.
    fn verdict(&self) -> Vec<Finding> {
        self.judge(Phase::Ending { by: None }, Library::NotAsked).findings
    }

    /// What is found when the process ends here and glibc's lists say this.
    fn verdict_with(&self, lists: &ThreadLists, functions: &[(u64, CodeId)]) -> Diagnosis {
        let functions: HashMap<Addr, CodeId> = functions.iter().map(|(addr, code)| (Addr(*addr), *code)).collect();
        self.judge(Phase::Ending { by: None }, Library::Lists { lists, functions: &functions })
    }

    /// A thread with a stack of its own, and its end.
    fn unjoined_at(&mut self, tid: Tid, site: Option<CallStackId>, function: Option<CodeId>) -> Range {
        (self.call_stack, self.function) = (site, function);
        let stack = self.unjoined(tid, STACK);
        self.wait(20);
        stack
    }

    fn raw_at(&mut self, tid: Tid, site: Option<CallStackId>) -> Range {
        self.call_stack = site;
        let stack = self.mmap(MAIN, STACK, RW, PLAIN);
        self.raw(tid, stack);
        self.end(tid);
        self.wait(20);
        stack
    }
}

fn listed(list: List, stack: Range, routine: u64) -> ListedThread {
    ListedThread {
        descriptor: Addr(stack.end().0 - 0x900),
        list,
        tid: Tid(0),
        stage: Stage::Unknown,
        task: None,
        start_routine: Addr(routine),
        stack: Some(StackBlock { range: stack, guard_bytes: PAGE }),
    }
}

/// glibc's lists, read while nothing moved.
fn glibc(threads: Vec<ListedThread>) -> ThreadLists {
    ThreadLists { library: ThreadLibrary::Glibc, threads, settled: true }
}

/// What a test looks at: reason, confidence, recurrence, regions, created.
fn seen(finding: &Finding) -> (Reason, Confidence, Option<Recurrence>, usize, Option<u64>) {
    (finding.reason, finding.confidence, finding.recurrence, finding.members.len(), finding.created)
}

/// Stacks of one size are told apart by where their threads were created, and by what these ran.
#[test]
fn groups_are_sites_and_functions() {
    let mut trace = Trace::new();
    let first = trace.unjoined_at(ONE, HERE, JOB);
    let second = trace.unjoined_at(TWO, HERE, JOB);
    let third = trace.unjoined_at(THREE, THERE, JOB);
    let fourth = trace.unjoined_at(FOUR, THERE, OTHER_JOB);
    let stacks = [first, second, third, fourth].map(|stack| listed(List::Used, stack, 0));
    let findings = trace.verdict_with(&glibc(stacks.into()), &[]).findings;
    let origins: Vec<_> =
        findings.iter().map(|one| (one.origin.created, one.origin.function, one.members.len())).collect();
    assert_eq!(origins, [(HERE, JOB, 2), (THERE, JOB, 1), (THERE, OTHER_JOB, 1)]);
    let recurrences: Vec<_> = findings.iter().map(|one| (one.recurrence, one.created)).collect();
    // Every thread of the second site has left its stack, whatever it ran.
    assert_eq!(recurrences, [(Some(Recurrence::Recurrent), Some(2)); 3]);
}

/// The thread library knows the function better than what was seen at clone.
#[test]
fn the_list_names_the_function() {
    let mut trace = Trace::new();
    let stack = trace.unjoined_at(ONE, HERE, None);
    let lists = glibc(vec![listed(List::Used, stack, 0x4000)]);
    let findings = trace.verdict_with(&lists, &[(0x4000, CodeId(7))]).findings;
    assert_eq!(findings[0].origin.function, JOB);
    assert_eq!(seen(&findings[0]), (Reason::Unjoined, Confidence::Definite, Some(Recurrence::OneTime), 1, Some(1)));
}

/// On the list of used stacks: a leak. On that of cached ones: none.
#[test]
fn the_lists_decide() {
    let mut trace = Trace::new();
    let used = trace.unjoined_at(ONE, HERE, JOB);
    let cached = trace.unjoined_at(TWO, HERE, JOB);
    let lists = glibc(vec![listed(List::Used, used, 0), listed(List::Cached, cached, 0)]);
    let diagnosis = trace.verdict_with(&lists, &[]);
    let findings: Vec<_> = diagnosis.findings.iter().map(seen).collect();
    assert_eq!(findings, [(Reason::Unjoined, Confidence::Definite, Some(Recurrence::Occasional), 1, Some(2))]);
    assert_eq!(diagnosis.findings[0].members[0].range, used);
    let notes: Vec<_> = diagnosis.notes.iter().map(|note| (note.kind, note.regions)).collect();
    assert_eq!(notes, [(NoteKind::StackCache, 1)]);
}

/// A stack that one site has let go of and another one takes is a leak of neither: both are known to let go.
#[test]
fn what_another_site_reuses_was_let_go() {
    let mut trace = Trace::new();
    trace.unjoined_at(ONE, HERE, JOB);
    let shared = trace.unjoined_at(TWO, HERE, JOB);
    trace.call_stack = THERE;
    trace.thread(THREE, shared);
    trace.end_released(THREE, shared);
    trace.wait(20);
    // A fresh one passes over both that lie idle.
    trace.unjoined_at(FOUR, None, None);
    let sites: Vec<_> = trace.verdict().iter().map(|one| (one.origin.created, one.recurrence)).collect();
    assert_eq!(sites, [(HERE, Some(Recurrence::Occasional)), (THERE, Some(Recurrence::OneTime))]);
}

/// What died before we came is known by the list alone, and is a group of its own: where it was made, nobody saw.
#[test]
fn the_forgotten_are_told_apart_from_the_seen() {
    use crate::event::Prot;
    use crate::model::tests::{READ_WRITE, line, range};
    let block = range(0x10_0000, STACK);
    let maps =
        [line(range(0x10_0000, PAGE), Prot::NONE, ""), line(range(0x10_0000 + PAGE, STACK - PAGE), READ_WRITE, "")];
    let mut trace = Trace::attached(&maps, &[(MAIN, None, None)]);
    trace.wait(2000);
    let seen_one = trace.unjoined_at(ONE, HERE, JOB);
    let lists = glibc(vec![listed(List::Used, seen_one, 0x4000), listed(List::Used, block, 0x4000)]);
    let findings = trace.verdict_with(&lists, &[(0x4000, CodeId(7))]).findings;
    let origins: Vec<_> = findings.iter().map(|one| (one.origin.created, one.origin.function, one.created)).collect();
    assert_eq!(origins, [(HERE, JOB, Some(1)), (None, JOB, None)]);
    assert_eq!(findings[1].members[0].range, block);
    assert_eq!(findings[1].members[0].owner, None);
}

/// The program's own stacks: one may be for later, two are suspicious, and a fresh one proves it.
#[test]
fn the_programs_own() {
    let mut trace = Trace::new();
    let stack = trace.raw_at(ONE, HERE);
    let one = trace.verdict();
    assert_eq!(seen(&one[0]), (Reason::Unmanaged, Confidence::Possible, Some(Recurrence::OneTime), 1, Some(1)));
    assert_eq!(one[0].origin.mapped, HERE);
    trace.raw_at(TWO, HERE);
    let two = trace.verdict();
    assert_eq!(seen(&two[0]), (Reason::Unmanaged, Confidence::Definite, Some(Recurrence::Recurrent), 2, Some(2)));
    trace.munmap(stack);
    assert_eq!(trace.verdict()[0].recurrence, Some(Recurrence::Occasional));
}

/// One at each of several places is a habit where the threads run the same function, until one of that size is unmapped.
#[test]
fn one_at_each_of_several_places() {
    let judged = |functions: [Option<CodeId>; 2], unmaps: bool| {
        let mut trace = Trace::new();
        for ((tid, site), function) in [(ONE, HERE), (TWO, THERE)].into_iter().zip(functions) {
            trace.function = function;
            trace.raw_at(tid, site);
        }
        if unmaps {
            let third = trace.raw_at(THREE, Some(CallStackId(3)));
            trace.munmap(third);
        }
        trace.verdict().iter().map(|finding| (finding.confidence, finding.members.len())).collect::<Vec<_>>()
    };
    let both = |confidence| vec![(confidence, 1), (confidence, 1)];
    assert_eq!(judged([JOB, JOB], false), both(Confidence::Probable));
    assert_eq!(judged([JOB, OTHER_JOB], false), both(Confidence::Possible));
    assert_eq!(judged([None, None], false), both(Confidence::Possible));
    assert_eq!(judged([JOB, JOB], true), both(Confidence::Possible));
}

/// Two that were mapped before either thread ran: nothing was passed over, but nothing was used again either.
#[test]
fn two_of_the_programs_own_at_once() {
    let mut trace = Trace::new();
    trace.call_stack = HERE;
    let stacks = [trace.mmap(MAIN, STACK, RW, PLAIN), trace.mmap(MAIN, STACK, RW, PLAIN)];
    for (tid, stack) in [ONE, TWO].into_iter().zip(stacks) {
        trace.raw(tid, stack);
    }
    trace.end(ONE);
    trace.end(TWO);
    trace.wait(2000);
    assert_eq!(
        trace.verdict().iter().map(seen).collect::<Vec<_>>(),
        [(Reason::Unmanaged, Confidence::Probable, Some(Recurrence::Recurrent), 2, Some(2))]
    );
}

/// A stack that one thread after another has used is kept on purpose.
#[test]
fn a_pool_is_no_leak() {
    let mut trace = Trace::new();
    let stack = trace.raw_at(ONE, HERE);
    trace.raw(TWO, stack);
    trace.end(TWO);
    let diagnosis = trace.judge(Phase::Ending { by: None }, Library::NotAsked);
    assert_eq!(diagnosis.findings, []);
    assert_eq!(diagnosis.notes.iter().map(|note| note.kind).collect::<Vec<_>>(), [NoteKind::StackPool]);
}

/// Part of it was unmapped: whoever did that wanted it gone.
#[test]
fn a_part_that_stays_is_a_leak() {
    let mut trace = Trace::new();
    let stack = trace.raw_at(ONE, HERE);
    trace.munmap(Range::of_len(Addr(stack.start().0 + PAGE), stack.bytes() - PAGE).unwrap());
    let findings = trace.verdict();
    assert_eq!((findings[0].reason, findings[0].confidence), (Reason::PartlyUnmapped, Confidence::Definite));
    assert_eq!(findings[0].virtual_bytes(), PAGE);
}

/// In a process that goes on, whoever has only just ended may be joined in a moment.
#[test]
fn the_living_get_a_grace() {
    let mut trace = Trace::new();
    let stack = trace.unjoined_at(ONE, HERE, JOB);
    let lists = glibc(vec![listed(List::Used, stack, 0)]);
    let functions = HashMap::new();
    let library = Library::Lists { lists: &lists, functions: &functions };
    assert_eq!(trace.judge(Phase::Living, library).findings.len(), 0);
    trace.wait(1000);
    assert_eq!(trace.judge(Phase::Living, library).findings.len(), 1);
}

/// Memory that threads have mapped and left, three times, is possibly lost; the finding says where it was mapped.
#[test]
fn memory_of_three_threads() {
    let mut trace = Trace::new();
    trace.call_stack = HERE;
    for tid in [ONE, TWO, THREE] {
        let stack = trace.mmap(MAIN, STACK, RW, LIBRARY);
        trace.thread(tid, stack);
        trace.mmap(tid, 3 * PAGE, RW, PLAIN);
        trace.end(tid);
        trace.munmap(stack);
    }
    let findings = trace.verdict();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].reason, findings[0].members.len()), (Reason::NeverUnmapped, 3));
    assert_eq!(findings[0].origin.created, HERE);
}

/// Threads that were about to be joined when somebody else ended the process are no proof of a leak; where their creator
/// ended it, nobody else was going to join them.
#[test]
fn a_batch_that_was_cut_short() {
    let mut trace = Trace::new();
    (trace.call_stack, trace.function) = (HERE, JOB);
    let joined: Vec<Range> = (20..26).map(|number| trace.unjoined(Tid(number), STACK)).collect();
    joined.into_iter().for_each(|stack| trace.munmap(stack));
    let left = [ONE, TWO].map(|tid| trace.unjoined(tid, STACK));
    let lists = glibc(left.map(|stack| listed(List::Used, stack, 0)).into());
    let functions = HashMap::new();
    let confidences = |by| {
        let library = Library::Lists { lists: &lists, functions: &functions };
        let findings = trace.judge(Phase::Ending { by }, library).findings;
        findings.iter().map(|finding| (finding.confidence, finding.members.len())).collect::<Vec<_>>()
    };
    assert_eq!(confidences(Some(THREE)), [(Confidence::Possible, 2)]);
    assert_eq!(confidences(None), [(Confidence::Possible, 2)]);
    assert_eq!(confidences(Some(MAIN)), [(Confidence::Definite, 2)]);
}
