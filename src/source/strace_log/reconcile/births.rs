//! Where tasks come from: before the log, by a clone whose return comes after the child's first lines, by execve.

use super::super::join::{Item, What};
use super::{PATIENCE, Reconciler, Task};
use crate::event::{Birth, Call, CloneArgs, EventKind, Exec, Exit, Syscall};
use crate::units::{Pid, Tid, Time};

impl Reconciler {
    /// Something is said of a task that is not known. False where that has to wait, or does not matter.
    pub(super) fn arrives(&mut self, item: &Item) -> bool {
        if self.births_under_way > 0 {
            self.early.push(item.clone());
            if self.early.len() >= PATIENCE {
                self.early_are_strangers();
            }
            return false;
        }
        if matches!(item.what, What::Ended(_) | What::Lost(_)) {
            return false;
        }
        self.meet(item.at, item.tid);
        true
    }

    /// A task was there before the log, as far as that shows.
    pub(super) fn meet(&mut self, at: Time, tid: Tid) {
        self.kin.strangers += u64::from(self.kin.born > 0);
        let known = self.tasks.of(self.main).first().and_then(|tid| self.tasks.get(tid)).map(|task| task.memory);
        let memory = known.unwrap_or_else(|| self.new_memory());
        self.tasks.insert(tid, Task::new(self.main, memory));
        self.tell(at, tid, EventKind::Noticed(self.main));
    }

    pub(super) fn new_memory(&mut self) -> u32 {
        self.memories += 1;
        self.memories
    }

    /// The children have turned out to be none, or their parents' returns do not come.
    pub(super) fn early_are_strangers(&mut self) {
        let mut early = std::mem::take(&mut self.early);
        for item in &early {
            if !self.tasks.contains_key(&item.tid) && !matches!(item.what, What::Ended(_) | What::Lost(_)) {
                self.meet(item.at, item.tid);
            }
        }
        // What has only ended is not worth an introduction.
        early.retain(|item| self.tasks.contains_key(&item.tid));
        self.todo_first(early);
    }

    /// The children that nobody has claimed are none once all births are over.
    pub(super) fn birth_over(&mut self) {
        if self.births_under_way == 0 && !self.early.is_empty() {
            self.early_are_strangers();
        }
    }

    pub(super) fn born(&mut self, at: Time, tid: Tid, child: Tid, args: CloneArgs) {
        let Some(parent) = self.tasks.get(&tid) else { return };
        let (pid, memory) = (parent.pid, parent.memory);
        let pid = if args.is_thread() { pid } else { Pid(child.0) };
        let memory = if args.shares_memory() { memory } else { self.new_memory() };
        if self.tasks.contains_key(&child) {
            // Its number is in use again, so the former one has ended.
            self.gone(at, child, Exit::Code(0));
        }
        let (own, others): (Vec<Item>, Vec<Item>) =
            std::mem::take(&mut self.early).into_iter().partition(|item| item.tid == child);
        self.early = others;
        let born_at = own.first().map_or(at, |first| first.at.min(at));
        self.tell(born_at, tid, EventKind::Born(Birth { child, pid, args, function: None }));
        let result = Ok(u64::try_from(child.0).unwrap_or(0));
        self.tell(at, tid, EventKind::Syscall(Syscall { call: Call::Clone(args), result, mapped: None }));
        self.kin.born += 1;
        self.tasks.insert(child, Task { is_unseen_child: true, ..Task::new(pid, memory) });
        self.todo_first(own);
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
        let siblings = self.tasks.of(pid).to_vec();
        for sibling in siblings {
            self.leave(sibling);
            self.tasks.remove(&sibling);
            self.release(sibling);
        }
        self.ends.remove(&pid);
        let memory = self.new_memory();
        self.tasks.insert(leader, Task::new(pid, memory));
        self.birth_over();
    }
}
