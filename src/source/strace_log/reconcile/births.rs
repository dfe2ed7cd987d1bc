//! Where tasks come from: before the log, by a clone whose return comes after the child's first lines, by execve.

use super::super::join::{Item, What};
use super::{PATIENCE, Reconciler, Task};
use crate::event::{Birth, Call, CloneArgs, EventKind, Exec, Exit, Syscall};
use crate::units::{Pid, Tid, Time};

/// So often all that waits is looked at without a result, at most.
const MOST_LOOKS: u32 = 1000;

impl Reconciler {
    /// Something is said of a task that is not known: gives it. None where that has to wait, or does not matter.
    pub(super) fn arrives(&mut self, item: &Item) -> Option<Tid> {
        if self.births_under_way == 0 && !self.expects_others() {
            return introduces(item).then(|| self.meet(item.at, item.tid));
        }
        // The last that was expected, maybe.
        let is_first = self.births_under_way == 0 && self.early.iter().rev().all(|early| early.tid != item.tid);
        self.early.push(item.clone());
        if self.early.len() >= PATIENCE {
            self.give_up_waiting_for_births();
        } else if is_first {
            self.birth_over();
        }
        None
    }

    /// A task was there before the log, as far as that shows.
    fn meet(&mut self, at: Time, line: Tid) -> Tid {
        self.kin.strangers += u64::from(self.kin.born > 0);
        self.admit_strangers();
        let pid = self.maker_of_strangers().unwrap_or(self.main);
        let known = self.tasks.of(pid).first().and_then(|tid| self.tasks.get(tid)).map(|task| task.memory);
        let memory = known.unwrap_or_else(|| self.new_memory());
        let (tid, numbered) = self.number_stranger(line);
        self.tasks.insert(tid, Task { numbered, ..Task::new(pid, memory) });
        self.tell(at, tid, EventKind::Noticed(pid));
        tid
    }

    pub(super) fn new_memory(&mut self) -> u32 {
        self.memories += 1;
        self.memories
    }

    /// Nothing more comes, or is waited for, that would tell whose children they are.
    pub(super) fn early_are_strangers(&mut self) {
        self.early_may_be_born();
        self.meet_early();
    }

    /// The children have turned out to be none of those numbers, or their parents' returns do not come.
    fn meet_early(&mut self) {
        self.looks = 0;
        let early = std::mem::take(&mut self.early);
        for item in &early {
            if introduces(item) && self.known(item.tid).is_none() {
                self.meet(item.at, item.tid);
            }
        }
        // What has only ended is not worth an introduction.
        drop(self.early_are_known(early));
    }

    /// What is waited for does not come. Where no births are under way, it was waited for children with other numbers.
    fn give_up_waiting_for_births(&mut self) {
        if self.births_under_way == 0 {
            self.admit_strangers();
        }
        self.early_are_strangers();
    }

    /// Those that are known by now go on; gives the others.
    fn early_are_known(&mut self, early: Vec<Item>) -> Vec<Item> {
        let (known, unknown): (Vec<Item>, Vec<Item>) =
            early.into_iter().partition(|item| self.known(item.tid).is_some());
        self.todo_first(known);
        unknown
    }

    /// Children may have been born with other numbers than their lines have.
    fn early_may_be_born(&mut self) {
        let early = std::mem::take(&mut self.early);
        for item in &early {
            if let What::RobustList(list) = item.what {
                self.has_list(item.tid, list);
            }
        }
        if self.births_under_way == 0 {
            for item in &early {
                self.may_be_vforked(item);
            }
            self.may_be_all(&early);
        }
        self.early = early;
    }

    /// A birth may have been the last that was under way.
    pub(super) fn birth_over(&mut self) {
        if self.births_under_way == 0 && !self.early.is_empty() {
            self.early_may_be_born();
            self.early_go_on();
        }
    }

    /// Those go on whose births are known. Once all births are over the others are no children, unless it is certain that there
    /// are as many with other numbers.
    fn early_go_on(&mut self) {
        if self.early.is_empty() {
            return;
        }
        if self.births_under_way == 0 && !self.expects_others() {
            return self.meet_early();
        }
        if self.looks >= MOST_LOOKS {
            return self.give_up_waiting_for_births();
        }
        let early = std::mem::take(&mut self.early);
        let before = early.len();
        self.early = self.early_are_known(early);
        self.looks = if self.early.len() < before { 0 } else { self.looks + 1 };
    }

    pub(super) fn born(&mut self, at: Time, tid: Tid, child: Tid, args: CloneArgs) {
        let Some(parent) = self.tasks.get(&tid) else { return };
        let (maker, memory) = (parent.pid, parent.memory);
        let (child, numbered) = self.number_child(maker, child, args.is_thread());
        let pid = if args.is_thread() { maker } else { Pid(child.0) };
        let memory = if args.shares_memory() { memory } else { self.new_memory() };
        if self.tasks.contains_key(&child) {
            // Its number is in use again, so the former one has ended.
            self.gone(at, child, Exit::Code(0));
        }
        self.tasks.insert(child, Task { is_unseen_child: true, numbered, ..Task::new(pid, memory) });
        self.expect_lines(child, &args);
        self.early_may_be_born();
        let own = self.early.iter().find(|item| self.known(item.tid) == Some(child));
        let born_at = own.map_or(at, |first| first.at.min(at));
        self.tell(born_at, tid, EventKind::Born(Birth { child, pid, args, function: None }));
        let result = Ok(u64::try_from(child.0).unwrap_or(0));
        self.tell(at, tid, EventKind::Syscall(Syscall { call: Call::Clone(args), result, mapped: None }));
        self.kin.born += 1;
        self.early_go_on();
    }

    pub(super) fn executed(&mut self, at: Time, tid: Tid, was_entered: bool) {
        let former = self.formers.remove(&tid).unwrap_or(tid);
        let Some(pid) = self.pid(former).or(self.pid(tid)) else { return };
        if !was_entered {
            self.tell(at, former, EventKind::Executing);
        }
        let leader = Tid::from(pid);
        let exec = Exec { former, maps: Box::default(), start_brk: None, read_implies_exec: false };
        self.tell(at, leader, EventKind::Exec(Box::new(exec)));
        let numbered = self.tasks.get(&leader).map(|task| task.numbered).unwrap_or_default();
        let siblings = self.tasks.of(pid).to_vec();
        for sibling in siblings {
            self.leave(sibling);
            self.forget(sibling);
            self.release(sibling);
        }
        self.ends.remove(&pid);
        self.ending.remove(&pid);
        let memory = self.new_memory();
        self.tasks.insert(leader, Task { numbered, ..Task::new(pid, memory) });
        self.expect_line(leader);
        self.birth_over();
    }
}

/// Whether what is said of an unknown task is worth an introduction.
fn introduces(item: &Item) -> bool {
    !matches!(item.what, What::Ended(_) | What::Lost(_) | What::RobustList(_))
}
