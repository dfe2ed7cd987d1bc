//! The thread libraries of the followed processes: found once for each address space, asked when there is a question.

use std::collections::HashMap;

use super::glibc::{self, Located};
use super::musl;
use super::{TaskMemory, ThreadLists, Unavailable};
use crate::abi::clone;
use crate::model::mapping::{Maker, Mapping};
use crate::model::space::AddressSpace;
use crate::model::{Calls, Model, SpaceId};
use crate::procfs;
use crate::procfs::memory::ResidentPages;
use crate::procfs::task::blocked_in;
use crate::units::{Addr, Range, Tid};

/// Where each address space has its lists.
#[derive(Debug, Default)]
pub struct Libraries {
    glibc: HashMap<SpaceId, Result<Located, Unavailable>>,
}

impl Libraries {
    /// The lists as they are now, read through a live task; none where they could not tell anything.
    pub fn lists(&mut self, model: &Model, id: SpaceId, tid: Tid) -> Option<Result<ThreadLists, Unavailable>> {
        if !has_question(model.space(id)?) {
            return None;
        }
        let memory = TaskMemory(tid);
        let anchors = || model.tasks_of(id).filter_map(|(_, task)| task.anchor);
        let mut lists = match self.glibc(id, tid) {
            Ok(located) => located.read(&memory),
            Err(_) if anchors().chain(ended(model.space(id)?)).any(|thread| musl::is_here(&memory, thread)) => {
                Ok(read_musl(tid, anchors()))
            }
            Err(why) => Err(why.clone()),
        };
        if let Ok(lists) = &mut lists {
            lists.find_tasks(model.tasks_of(id).map(|(tid, task)| (tid, task.anchor)));
            lists.settled = are_settled(model.tasks_of(id).map(|(tid, _)| tid));
        }
        Some(lists)
    }

    /// The function of the thread that has this descriptor, as glibc's pthread_create was given it.
    pub fn start_routine(&mut self, id: SpaceId, tid: Tid, descriptor: Addr) -> Option<Addr> {
        self.glibc(id, tid).as_ref().ok()?.start_routine_of(&TaskMemory(tid), descriptor)
    }

    /// The bounds of the stack that the thread with this descriptor, which is about to be created, has been given.
    pub fn stack_of(&mut self, id: SpaceId, tid: Tid, descriptor: Addr) -> Option<Range> {
        let memory = TaskMemory(tid);
        match self.glibc(id, tid) {
            Ok(located) => located.stack_of(&memory, descriptor),
            Err(_) => musl::stack_of(&memory, descriptor),
        }
    }

    fn glibc(&mut self, id: SpaceId, tid: Tid) -> &Result<Located, Unavailable> {
        self.glibc.entry(id).or_insert_with(|| {
            let maps = procfs::maps::read(tid).unwrap_or_default();
            glibc::locate(tid, &maps)
        })
    }

    /// The address space is over.
    pub fn forget(&mut self, id: SpaceId) {
        self.glibc.remove(&id);
    }
}

/// Where threads that have ended had their thread-local storage, as far as their stacks are there.
fn ended(space: &AddressSpace) -> impl Iterator<Item = Addr> {
    /// If the first few have none of it, the others have none either.
    const MOST: usize = 16;
    let tls = |mapping: &Mapping| {
        let args = mapping.idle_stack()?.0.last.born?.args;
        (args.flags & clone::SETTLS != 0).then_some(args.tls)
    };
    space.mappings.values().filter_map(tls).take(MOST)
}

fn read_musl(tid: Tid, live: impl Iterator<Item = Addr>) -> ThreadLists {
    let maps = procfs::maps::read(tid).unwrap_or_default();
    let pages = ResidentPages::open(tid).ok();
    let touched = |range| pages.as_ref().and_then(|pages| pages.touched(range).ok()).unwrap_or_default();
    musl::read(&TaskMemory(tid), &maps, live, touched)
}

/// Whether the lists, just read, can have shown no stack halfway: all tasks are blocked in calls, and none in munmap, of
/// which each stops for us, so that whoever had taken a stack from a list would still run or be there.
fn are_settled(mut tasks: impl Iterator<Item = Tid>) -> bool {
    /// With more tasks the question costs more than its answer is worth.
    const MOST: usize = 64;
    /// munmap of x86-64 and of i386.
    const MUNMAP: [i64; 2] = [11, 91];
    let is_elsewhere = |tid| blocked_in(tid).is_some_and(|blocked| blocked.nr >= 0 && !MUNMAP.contains(&blocked.nr));
    tasks.by_ref().take(MOST).all(is_elsewhere) && tasks.next().is_none()
}

/// Whether there is an idle stack that may be the library's, or threads may have ended before we came.
fn has_question(space: &AddressSpace) -> bool {
    space.was_attached
        || space.calls == Calls::Untold
        || space.mappings.values().any(|mapping| {
            !mapping.inherited && mapping.idle_stack().is_some_and(|(stack, _)| stack.maker != Maker::Musl)
        })
}
