//! Tasks as the kernel lists them, where what was told of them is not all: some records were lost, or came too late.

use std::collections::HashSet;

use super::Stream;
use crate::event::{Birth, CloneArgs, CloneCall, EventKind};
use crate::sys;
use crate::units::{Pid, Tid};

impl Stream {
    /// Puts right which tasks a process has: `listed` are those that it had at the time `at`, and those in `born_later` may
    /// be among them although they were born only after it.
    pub fn correct_tasks(&mut self, at: u64, pid: Pid, listed: &HashSet<Tid>, born_later: &HashSet<Tid>) {
        let known: HashSet<Tid> = self.tasks_of(pid).into_iter().collect();
        // Whose end has been told has no relatives any more.
        let relative = known.iter().filter(|tid| self.tasks.get(tid).is_some_and(|task| !task.ended)).min().copied();
        // First, so that their relative is still there.
        for missed in listed.difference(&known).filter(|tid| !born_later.contains(tid)) {
            if let Some(relative) = relative {
                self.adopt(at, *missed, pid, relative);
            }
        }
        for gone in known.difference(listed) {
            self.vanished(at, *gone);
        }
    }

    /// A process comes to its end, or that of its program, and the reason is not in the records: those of its tasks that have
    /// gone may have gone by that, and nothing says that they ended before.
    pub fn ends_as_a_whole(&mut self, at: u64, pid: Pid) {
        let lives = |tid: &Tid| self.tasks.get(tid).is_some_and(|task| !task.ended);
        let Some(tid) = self.tasks_of(pid).into_iter().find(lives) else { return };
        if let Some((_, space)) = self.place_of(tid) {
            self.tell(space, at, tid, EventKind::GroupEnding { by_call: false });
        }
    }

    /// A task that the kernel has and we have not: only /proc can tell whose it is. Its stack stays unknown.
    fn adopt(&mut self, at: u64, tid: Tid, pid: Pid, relative: Tid) {
        let Some((of, space)) = self.place_of(relative) else { return };
        let args = unseen_clone(of == pid, tid, relative);
        self.vacate(at, tid);
        let space_of_child = if args.shares_memory() { space } else { self.copy_of(space) };
        self.add_found(tid, pid, space_of_child);
        self.tell(space, at, relative, EventKind::Born(Birth { child: tid, pid, args, function: None }));
    }

    /// A number is given to a new task: whoever had it has ended unseen.
    pub(super) fn vacate(&mut self, at: u64, tid: Tid) {
        if self.tasks.contains_key(&tid) {
            self.vanished(at, tid);
        }
    }

    /// A task that we have and the kernel has not any more: how it ended was not seen.
    pub(super) fn vanished(&mut self, at: u64, tid: Tid) {
        if let Some(task) = self.tasks.get_mut(&tid) {
            task.missed = true;
            if let Some(group) = self.groups.get_mut(&task.pid) {
                group.executing = None;
            }
        }
        self.exited(at, tid);
    }
}

/// What is assumed of a clone whose arguments were not seen.
pub(super) fn unseen_clone(is_thread: bool, child: Tid, parent: Tid) -> CloneArgs {
    use crate::abi::clone;
    let shares = is_thread || sys::share_memory(child, parent).unwrap_or(false);
    let thread = if is_thread { clone::THREAD } else { 0 };
    CloneArgs::bare(CloneCall::Clone, if shares { clone::VM | thread } else { 0 })
}
