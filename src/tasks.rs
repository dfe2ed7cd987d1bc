//! Tasks by their number, and by their process.

use std::ops::Deref;

use crate::units::{NumberMap, Pid, Tid};

/// What is known of a task.
pub trait OfProcess {
    /// Its process, which stays the same for as long as it is in the table.
    fn pid(&self) -> Pid;
}

/// Tasks, each by its number; those of one process are found without going through all.
#[derive(Clone, Debug)]
pub struct Tasks<T> {
    by_tid: NumberMap<Tid, T>,
    by_pid: NumberMap<Pid, Vec<Tid>>,
    /// Where in its process's list each is: of a hundred thousand any may be the first to go.
    places: NumberMap<Tid, usize>,
}

impl<T> Default for Tasks<T> {
    fn default() -> Tasks<T> {
        Tasks { by_tid: NumberMap::default(), by_pid: NumberMap::default(), places: NumberMap::default() }
    }
}

impl<T: OfProcess> Tasks<T> {
    /// Adds a task; gives what was known under its number.
    pub fn insert(&mut self, tid: Tid, task: T) -> Option<T> {
        let former = self.remove(&tid);
        let siblings = self.by_pid.entry(task.pid()).or_default();
        self.places.insert(tid, siblings.len());
        siblings.push(tid);
        self.by_tid.insert(tid, task);
        former
    }

    /// Takes a task out.
    pub fn remove(&mut self, tid: &Tid) -> Option<T> {
        let task = self.by_tid.remove(tid)?;
        if let (Some(siblings), Some(place)) = (self.by_pid.get_mut(&task.pid()), self.places.remove(tid)) {
            siblings.swap_remove(place);
            if let Some(moved) = siblings.get(place) {
                self.places.insert(*moved, place);
            }
            if siblings.is_empty() {
                self.by_pid.remove(&task.pid());
            }
        }
        Some(task)
    }

    /// A task, to be changed.
    pub fn get_mut(&mut self, tid: &Tid) -> Option<&mut T> {
        self.by_tid.get_mut(tid)
    }

    /// The tasks of a process.
    pub fn of(&self, pid: Pid) -> &[Tid] {
        self.by_pid.get(&pid).map_or(&[], Vec::as_slice)
    }
}

impl<T> Deref for Tasks<T> {
    type Target = NumberMap<Tid, T>;

    fn deref(&self) -> &NumberMap<Tid, T> {
        &self.by_tid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OfProcess for Pid {
        fn pid(&self) -> Pid {
            *self
        }
    }

    /// A process's tasks are those that are there, also when a number comes back in another process.
    #[test]
    fn of_processes() {
        let mut tasks = Tasks::default();
        for (tid, pid) in [(1, 1), (2, 1), (3, 1), (4, 4)] {
            assert_eq!(tasks.insert(Tid(tid), Pid(pid)), None);
        }
        assert_eq!(tasks.remove(&Tid(1)), Some(Pid(1)));
        assert_eq!(tasks.insert(Tid(2), Pid(4)), Some(Pid(1)));
        assert_eq!(
            (tasks.of(Pid(1)), tasks.of(Pid(4)), tasks.of(Pid(9))),
            (&[Tid(3)][..], &[Tid(4), Tid(2)][..], &[][..])
        );
        assert_eq!((tasks.remove(&Tid(3)), tasks.remove(&Tid(3))), (Some(Pid(1)), None));
        assert_eq!((tasks.of(Pid(1)), tasks.len()), (&[][..], 2));
    }

    /// Whichever goes first, the others stay where they are found.
    #[test]
    fn tasks_go_in_any_order() {
        let mut tasks = Tasks::default();
        for tid in 0..100 {
            assert_eq!(tasks.insert(Tid(tid), Pid(tid % 3)), None);
        }
        for tid in (0..100).map(|step| step * 37 % 100) {
            assert_eq!(tasks.remove(&Tid(tid)), Some(Pid(tid % 3)));
            for pid in (0..3).map(Pid) {
                let mut listed = tasks.of(pid).to_vec();
                listed.sort_unstable();
                let mut there: Vec<Tid> = tasks.iter().filter(|(_, of)| **of == pid).map(|(tid, _)| *tid).collect();
                there.sort_unstable();
                assert_eq!(listed, there);
            }
        }
        assert!(tasks.is_empty() && tasks.places.is_empty());
    }
}
