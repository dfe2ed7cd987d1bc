//! How tasks end: one by one, or all with their process.

use super::super::call::Name;
use super::super::join::{Item, What};
use super::Reconciler;
use crate::event::{EventKind, Exit, ExitScope, Exiting};
use crate::units::{Pid, Tid, Time};

impl Reconciler {
    pub(super) fn exiting(&mut self, at: Time, tid: Tid, name: Name, code: i32) {
        self.leave(tid);
        let scope = if name == Name::Exit { ExitScope::Thread } else { ExitScope::Group };
        if let Some(task) = self.tasks.get_mut(&tid) {
            task.exiting = Some(code);
            if scope == ExitScope::Group {
                self.ending.insert(task.pid);
            }
            self.tell(at, tid, EventKind::Exiting(Exiting { scope, code }));
        }
    }

    pub(super) fn ended(&mut self, at: Time, tid: Tid, exit: Exit) {
        self.has_ends = true;
        let Some(task) = self.tasks.get(&tid) else { return };
        let pid = task.pid;
        if task.exiting.is_some() || self.ending.contains(&pid) || matches!(exit, Exit::Signal(_)) {
            return self.gone(at, tid, exit);
        }
        // A call of exit is not shown, so that this may be the end of the whole process: the next line of another of its tasks
        // tells.
        let ends = self.ends.entry(pid).or_default();
        if ends.iter().all(|item| item.tid != tid) {
            ends.push(Item { at, tid, what: What::Ended(exit) });
        }
        let ended = ends.len();
        if self.tasks.of(pid).len() == ended {
            let code = if let Exit::Code(code) = exit { code } else { 0 };
            self.tell(at, tid, EventKind::Exiting(Exiting { scope: ExitScope::Group, code }));
            self.believe_ends(pid);
        }
    }

    /// Tasks have ended, each for itself.
    pub(super) fn believe_ends(&mut self, pid: Pid) {
        for item in self.ends.remove(&pid).unwrap_or_default() {
            if let What::Ended(exit) = item.what {
                self.gone(item.at, item.tid, exit);
            }
        }
    }

    /// A task is no more.
    pub(super) fn gone(&mut self, at: Time, tid: Tid, exit: Exit) {
        self.room_was_made(tid);
        self.leave(tid);
        if let Some(task) = self.forget(tid) {
            self.tell(at, tid, EventKind::Ended(exit));
            if self.tasks.of(task.pid).is_empty() {
                self.ending.remove(&task.pid);
            }
        }
        if tid == Tid::from(self.main) {
            self.exit = Some(exit);
        }
        self.birth_over();
        self.release(tid);
    }
}
