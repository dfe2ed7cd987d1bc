//! Whose lines are whose, where a log has other numbers of tasks at their births than before their lines.
//!
//! Who makes a task is told the number that it has in his own PID namespace (pid_namespaces(7)); before a line strace writes
//! the number that it sees itself. In the log of a container that was made outside each task so has two, and one task's may
//! be another one's other. What proves which are the same is the thread library's descriptor of a thread, where the number
//! and the list of robust locks lie side by side: clone is told where the number is to be kept (CLONE_CHILD_SETTID,
//! CLONE_CHILD_CLEARTID), and set_robust_list(2), of the first calls that a thread or a process of fork makes, where the
//! list is. Of other threads, where all tasks of the log were made in it, their order tells.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::super::call::Name;
use super::super::join::{Item, UNNAMED, What};
use super::Reconciler;
use crate::abi::clone::VFORK;
use crate::event::CloneArgs;
use crate::units::{Addr, NumberMap, Pid, Tid};

/// How far behind the number the list of locks lies (struct pthread in nptl/descr.h: tid, robust_head): of 64 bits, and of 32
/// without and with the number of the process between them, which older ones have.
const LIST_BEHIND_NUMBER: [u64; 3] = [0x10, 4, 8];

/// Higher than any number of a task (PID_MAX_LIMIT in linux/threads.h): for tasks whose number another one has.
const ABOVE_ALL: i32 = 1 << 22;

/// So many children of one place, or of vfork, are expected at most: a log without their lines has any number of them.
const MOST_EXPECTED: usize = 256;

/// What is known of numbers.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Processes in a namespace of their own: what they make is told to them by other numbers than the lines have.
    within: HashSet<Pid>,
    /// Of these the one that has made a task last.
    last_maker: Option<Pid>,
    /// Whose the lines of a number are, where that is not the number that the task is known by.
    of_lines: NumberMap<Tid, Tid>,
    /// Children of which there is no line so far, by where their number is kept; the eldest first.
    unseen: HashMap<Addr, VecDeque<Tid>>,
    /// The like, of vfork: they do not keep it.
    vforked: VecDeque<Tid>,
    /// All children that are known by their inner numbers and of which there is no line so far, behind these numbers.
    inner: BTreeSet<(i32, Tid)>,
    /// Whether there may be tasks that were there before the log.
    has_strangers: bool,
}

/// The number of a task, and where it is from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbered {
    /// The process that made it.
    maker: Option<Pid>,
    /// Where its number is kept.
    kept_at: Option<Addr>,
    /// The number that its lines have, where that is not the one that it is known by.
    line: Option<Tid>,
    /// Whether it is known by its number in a namespace of its own.
    is_inner: bool,
}

impl Numbered {
    /// Whether the task is known by its number in a namespace of its own.
    pub fn is_inner(&self) -> bool {
        self.is_inner
    }
}

impl Numbers {
    /// Whether every task's lines have the number that it is known by.
    pub fn are_plain(&self) -> bool {
        self.within.is_empty() && self.of_lines.is_empty()
    }

    fn expect(&mut self, child: Tid, args: &CloneArgs) -> Option<Addr> {
        if args.flags & VFORK != 0 {
            push(&mut self.vforked, child);
        }
        let kept_at = Some(args.child_tid).filter(|addr| addr.0 != 0)?;
        push(self.unseen.entry(kept_at).or_default(), child);
        Some(kept_at)
    }

    fn expect_no_more(&mut self, child: Tid, kept_at: Option<Addr>) {
        self.inner.remove(&(told(child), child));
        self.vforked.retain(|other| *other != child);
        if let Some(addr) = kept_at
            && let Some(children) = self.unseen.get_mut(&addr)
        {
            children.retain(|other| *other != child);
            if children.is_empty() {
                self.unseen.remove(&addr);
            }
        }
    }
}

/// The number that the maker of a task was told.
fn told(tid: Tid) -> i32 {
    tid.0 % ABOVE_ALL
}

fn push(expected: &mut VecDeque<Tid>, child: Tid) {
    if expected.len() >= MOST_EXPECTED {
        expected.pop_front();
    }
    expected.push_back(child);
}

/// Where numbers may be kept whose thread has its list of locks there.
pub fn number_of_list(list: Addr) -> impl Iterator<Item = Addr> {
    LIST_BEHIND_NUMBER.into_iter().filter_map(move |distance| list.0.checked_sub(distance).map(Addr))
}

/// Whether a task executes a program, or ends its process.
pub fn runs_or_exits(what: &What) -> bool {
    match what {
        What::Entered(name, _) => matches!(name, Name::Execve | Name::Execveat),
        What::Exiting(name, _) => *name == Name::ExitGroup,
        _ => false,
    }
}

impl Reconciler {
    /// The task whose lines have this number; none where it is not known.
    pub(super) fn known(&self, line: Tid) -> Option<Tid> {
        if let Some(tid) = self.numbers.of_lines.get(&line) {
            return Some(*tid);
        }
        self.tasks.get(&line).filter(|task| !task.numbered.is_inner).map(|_| line)
    }

    /// The number that a task's lines have.
    pub(super) fn line(&self, tid: Tid) -> Tid {
        self.tasks.get(&tid).and_then(|task| task.numbered.line).unwrap_or(tid)
    }

    /// A task is about to be made, which its maker is told is `child`: gives by what number it is to be known.
    pub(super) fn number_child(&mut self, maker: Pid, child: Tid, is_thread: bool) -> (Tid, Numbered) {
        let is_inner = self.numbers.within.contains(&maker);
        let numbered = Numbered { maker: Some(maker), is_inner, ..Numbered::default() };
        let is_taken = self.tasks.get(&child).is_some_and(|other| other.numbered.is_inner != is_inner);
        let tid = if is_taken { self.free_number(child) } else { child };
        if is_inner {
            self.call_by_inner_number(tid);
            self.numbers.last_maker = Some(maker);
        }
        match (is_thread, is_inner) {
            (true, _) => false,
            (false, true) => self.numbers.within.insert(Pid(tid.0)),
            (false, false) => self.numbers.within.remove(&Pid(tid.0)),
        };
        (tid, Numbered { line: Some(child).filter(|_| is_taken && !is_inner), ..numbered })
    }

    /// A number for a task whose lines have `line`.
    pub(super) fn number_stranger(&mut self, line: Tid) -> (Tid, Numbered) {
        if !self.tasks.contains_key(&line) {
            return (line, Numbered::default());
        }
        let tid = self.free_number(line);
        self.numbers.of_lines.insert(line, tid);
        (tid, Numbered { line: Some(line), ..Numbered::default() })
    }

    fn free_number(&self, tid: Tid) -> Tid {
        let mut others = (1..i32::MAX / ABOVE_ALL).filter_map(|times| tid.0.checked_add(times * ABOVE_ALL)).map(Tid);
        others.find(|other| !self.tasks.contains_key(other)).unwrap_or(tid)
    }

    /// A child has been made, of which there is no line so far.
    pub(super) fn expect_lines(&mut self, child: Tid, args: &CloneArgs) {
        let kept_at = self.numbers.expect(child, args);
        if let Some(task) = self.tasks.get_mut(&child) {
            task.numbered.kept_at = kept_at;
        }
        self.expect_line(child);
    }

    /// Lines of the number that is known are this task's.
    pub(super) fn expect_line(&mut self, tid: Tid) {
        if let Some(line) = self.tasks.get(&tid).and_then(|task| task.numbered.line) {
            self.numbers.of_lines.insert(line, tid);
        }
    }

    /// The first line of a child.
    pub(super) fn lines_have_come(&mut self, child: Tid) {
        let kept_at = self.tasks.get(&child).and_then(|task| task.numbered.kept_at);
        self.numbers.expect_no_more(child, kept_at);
    }

    /// A task is no more, nor are its numbers.
    pub(super) fn forget(&mut self, tid: Tid) -> Option<super::Task> {
        let task = self.tasks.remove(&tid)?;
        if task.is_unseen_child {
            self.numbers.expect_no_more(tid, task.numbered.kept_at);
        }
        if let Some(line) = task.numbered.line {
            self.numbers.of_lines.remove(&line);
        }
        Some(task)
    }

    /// A task's lines have the number `line`, and its list of locks is there: it may have been born with another number.
    pub(super) fn has_list(&mut self, line: Tid, list: Addr) {
        let is_beside = |kept_at: Option<Addr>| kept_at.is_some_and(|at| number_of_list(list).any(|addr| addr == at));
        if let Some(tid) = self.known(line) {
            // What has been seen of it was its own. What has not is, if only the number says so, and the list does not deny it.
            let task = self.tasks.get(&tid);
            if task.is_none_or(|task| !task.is_unseen_child || is_beside(task.numbered.kept_at)) {
                return;
            }
        }
        let found = number_of_list(list).find_map(|addr| {
            let mut children = self.numbers.unseen.get(&addr)?.iter().copied();
            // Another birth may be of this very number, unless it is known that none is.
            children.find(|child| {
                self.births_under_way == 0 || self.tasks.get(child).is_some_and(|task| task.numbered.is_inner)
            })
        });
        if let Some(child) = found {
            self.lines_are_of(line, child);
        }
    }

    /// Among tasks of which nothing is known, and which have waited for births that are all over: who has executed a program, or
    /// has ended its process, is a process of vfork.
    pub(super) fn may_be_vforked(&mut self, item: &Item) {
        if runs_or_exits(&item.what)
            && self.known(item.tid).is_none()
            && let Some(child) = self.numbers.vforked.front().copied()
        {
            self.lines_are_of(item.tid, child);
        }
    }

    /// A task has asked for its number.
    pub(super) fn is_told(&mut self, tid: Tid, number: Tid) {
        let line = self.line(tid);
        if line != UNNAMED
            && line != number
            && let Some(pid) = self.pid(tid)
        {
            self.put_within(pid);
        }
    }

    /// Lines of this number are of a child that was born with another one: it is in a namespace of its own, and so is its maker.
    fn lines_are_of(&mut self, line: Tid, child: Tid) {
        self.numbers.of_lines.insert(line, child);
        let Some(task) = self.tasks.get_mut(&child) else { return };
        task.numbered.line = Some(line);
        let (pid, maker) = (task.pid, task.numbered.maker);
        if !std::mem::replace(&mut task.numbered.is_inner, true) {
            self.call_by_inner_number(child);
        }
        for pid in [Some(pid), maker].into_iter().flatten() {
            self.put_within(pid);
        }
    }

    /// A process is in a namespace of its own.
    fn put_within(&mut self, pid: Pid) {
        if !self.numbers.within.insert(pid) {
            return;
        }
        for tid in self.tasks.of(pid).to_vec() {
            let Some(task) = self.tasks.get_mut(&tid) else { continue };
            if task.is_unseen_child && !task.numbered.is_inner {
                task.numbered.is_inner = true;
                self.call_by_inner_number(tid);
            }
        }
    }

    /// A child of which there is no line so far is known by its inner number.
    fn call_by_inner_number(&mut self, child: Tid) {
        self.kin.elsewhere += 1;
        self.numbers.inner.insert((told(child), child));
    }

    /// Whether whoever is not known must be a child that has another number.
    pub(super) fn expects_others(&self) -> bool {
        !self.numbers.has_strangers && !self.numbers.inner.is_empty()
    }

    /// There are tasks that were there before the log.
    pub(super) fn admit_strangers(&mut self) {
        self.numbers.has_strangers = true;
    }

    /// Where all have turned up that must be children with other numbers, these tell who is who: the kernel counts both kinds
    /// up, one for each task (alloc_pid in kernel/pid.c).
    pub(super) fn may_be_all(&mut self, early: &[Item]) {
        if !self.expects_others() {
            return;
        }
        let lines: BTreeSet<Tid> =
            early.iter().map(|item| item.tid).filter(|line| self.known(*line).is_none()).collect();
        if lines.len() != self.numbers.inner.len() {
            return;
        }
        let children: Vec<Tid> = self.numbers.inner.iter().map(|(_, child)| *child).collect();
        let maker = |child: &Tid| self.tasks.get(child).and_then(|task| task.numbered.maker);
        // Of several namespaces each counts for itself.
        if children.iter().all(|child| maker(child) == maker(&children[0])) {
            for (line, child) in lines.into_iter().zip(children) {
                self.lines_are_of(line, child);
            }
        }
    }

    /// The process that has made tasks whose lines are not known to be theirs.
    pub(super) fn maker_of_strangers(&self) -> Option<Pid> {
        self.numbers.last_maker.filter(|pid| self.kin.elsewhere > 0 && !self.tasks.of(*pid).is_empty())
    }
}
