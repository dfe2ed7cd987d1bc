//! The thread libraries of the followed processes: found once for each address space, asked when there is a question.

use std::collections::HashMap;

use super::glibc::{self, Located};
use super::{TaskMemory, ThreadLists, Unavailable};
use crate::model::SpaceId;
use crate::model::mapping::Maker;
use crate::model::space::AddressSpace;
use crate::procfs;
use crate::units::{Addr, Tid};

/// Where each address space has its lists.
#[derive(Debug, Default)]
pub struct Libraries {
    located: HashMap<SpaceId, Result<Located, Unavailable>>,
}

impl Libraries {
    /// The lists as they are now, read through a live task; none where they could not tell anything.
    pub fn lists(&mut self, id: SpaceId, space: &AddressSpace, tid: Tid) -> Option<Result<ThreadLists, Unavailable>> {
        if !has_question(space) {
            return None;
        }
        Some(match self.located(id, tid) {
            Ok(located) => located.read(&TaskMemory(tid)),
            Err(why) => Err(why.clone()),
        })
    }

    /// The function of the thread that has this descriptor, as pthread_create was given it.
    pub fn start_routine(&mut self, id: SpaceId, tid: Tid, descriptor: Addr) -> Option<Addr> {
        self.located(id, tid).as_ref().ok()?.start_routine_of(&TaskMemory(tid), descriptor)
    }

    fn located(&mut self, id: SpaceId, tid: Tid) -> &Result<Located, Unavailable> {
        self.located.entry(id).or_insert_with(|| {
            let maps = procfs::maps::read(tid).unwrap_or_default();
            glibc::locate(tid, &maps)
        })
    }

    /// The address space is over.
    pub fn forget(&mut self, id: SpaceId) {
        self.located.remove(&id);
    }
}

/// Whether there is an idle stack that may be the library's, or threads may have ended before we came.
fn has_question(space: &AddressSpace) -> bool {
    space.was_attached
        || space.mappings.values().any(|mapping| {
            !mapping.inherited && mapping.idle_stack().is_some_and(|(stack, _)| stack.maker != Maker::Musl)
        })
}
