//! The thread libraries of the followed processes: found once for each address space, asked when there is a question.

use std::collections::HashMap;
use std::sync::Arc;

use super::glibc::{self, Located};
use super::musl;
use super::{Memory, ThreadLists, Unavailable};
use crate::abi::clone;
use crate::event::Vma;
use crate::model::mapping::{Maker, Mapping};
use crate::model::space::AddressSpace;
use crate::model::{Calls, Model, SpaceId};
use crate::procfs;
use crate::procfs::memory::{HeldMemory, ResidentPages};
use crate::procfs::present::LiveMemory;
use crate::procfs::task::blocked_in;
use crate::units::{Addr, Range, Tid};

/// Where each address space has its lists.
#[derive(Debug, Default)]
pub struct Libraries {
    glibc: HashMap<SpaceId, Result<Located, Unavailable>>,
    /// The memory that was read last.
    live: Option<(SpaceId, LiveMemory)>,
}

impl Libraries {
    /// The lists as they are now; none where they could not tell anything. A library that was not there when it was looked for
    /// last is looked for again: the program may have been about to load it.
    ///
    /// Whether a listed thread lives is for [`ThreadLists::find_tasks`] to find out.
    pub fn lists(
        &mut self,
        model: &Model,
        id: SpaceId,
        reader: &Reader<'_>,
    ) -> Option<Result<ThreadLists, Unavailable>> {
        let space = model.space(id).filter(|space| has_question(space))?;
        self.forget_absence(id);
        let anchors = || model.tasks_of(id).filter_map(|(_, task)| task.anchor);
        let lists = match self.glibc(id, reader) {
            Ok(located) => located.read(reader),
            Err(_) if anchors().chain(ended(space)).any(|thread| musl::is_here(reader, thread)) => {
                Ok(read_musl(reader, anchors()))
            }
            // Where nobody stops threads, the thread-local storage of those from before the attach is not known. Descriptors
            // of musl's that have ended speak for themselves.
            Err(why) => {
                let musl = space.was_attached.then(|| read_musl(reader, anchors()));
                musl.filter(|lists| !lists.threads.is_empty()).ok_or_else(|| why.clone())
            }
        };
        self.forget_absence(id);
        // That there was no memory says nothing about what was in it.
        Some(lists.map_err(|why| if reader.is_gone() { Unavailable::Gone } else { why }))
    }

    /// The function of the thread that has this descriptor, as glibc's pthread_create was given it.
    pub fn start_routine(&mut self, id: SpaceId, reader: &Reader<'_>, descriptor: Addr) -> Option<Addr> {
        self.glibc(id, reader).as_ref().ok()?.start_routine_of(reader, descriptor)
    }

    /// The bounds of the stack that the thread with this descriptor, which is about to be created, has been given.
    pub fn stack_of(&mut self, id: SpaceId, reader: &Reader<'_>, descriptor: Addr) -> Option<Range> {
        match self.glibc(id, reader) {
            Ok(located) => located.stack_of(reader, descriptor),
            Err(_) => musl::stack_of(reader, descriptor),
        }
    }

    /// The number in this descriptor: while the thread lives, its own in its PID namespace.
    pub fn number(&mut self, id: SpaceId, reader: &Reader<'_>, descriptor: Addr) -> Option<Tid> {
        self.glibc(id, reader).as_ref().ok()?.number_of(reader, descriptor)
    }

    fn glibc(&mut self, id: SpaceId, reader: &Reader<'_>) -> &Result<Located, Unavailable> {
        self.glibc.entry(id).or_insert_with(|| glibc::locate(reader.tid, &reader.maps(), reader))
    }

    fn forget_absence(&mut self, id: SpaceId) {
        if self.glibc.get(&id).is_some_and(Result::is_err) {
            self.glibc.remove(&id);
        }
    }

    /// How the memory of an address space is read for one look: as it is held, whether anything lives or not; otherwise
    /// through this task of it, if it lives.
    pub fn reader<'a>(&mut self, id: SpaceId, tid: Tid, held: Option<&'a HeldMemory>) -> Reader<'a> {
        Reader { tid, held, live: self.memory(id, tid) }
    }

    /// The memory of an address space, of which this is a task.
    pub fn memory(&mut self, id: SpaceId, tid: Tid) -> LiveMemory {
        let known = self.live.as_ref().filter(|(of, _)| *of == id);
        let memory = known.map_or_else(|| LiveMemory::of(tid), |(_, memory)| memory.through(tid));
        self.live = Some((id, memory.clone()));
        memory
    }

    /// The address space is over.
    pub fn forget(&mut self, id: SpaceId) {
        self.glibc.remove(&id);
        self.live.take_if(|(of, _)| *of == id);
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

/// How the memory of a process is read.
#[derive(Debug)]
pub struct Reader<'a> {
    tid: Tid,
    held: Option<&'a HeldMemory>,
    live: LiveMemory,
}

impl Reader<'_> {
    /// What is mapped, or was when it was last seen.
    fn maps(&self) -> Arc<[Vma]> {
        match self.held {
            Some(held) => held.maps_through(self.tid),
            None => procfs::maps::read(self.tid).unwrap_or_default().into(),
        }
    }

    /// Whether there is no memory any more, and nothing is held of it.
    fn is_gone(&self) -> bool {
        self.held.is_none()
            && match procfs::maps::read(self.tid) {
                Ok(maps) => maps.is_empty(),
                Err(error) => [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&error.raw_os_error()),
            }
    }
}

impl Memory for Reader<'_> {
    fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Unavailable> {
        match self.held {
            Some(held) => Memory::read(held, addr, buffer),
            None => Memory::read(&self.live, addr, buffer),
        }
    }
}

fn read_musl(reader: &Reader<'_>, live: impl Iterator<Item = Addr>) -> ThreadLists {
    let own = ResidentPages::open(reader.tid).ok();
    let pages = reader.held.map(|held| &held.pages).or(own.as_ref());
    let touched = |range| pages.and_then(|pages| pages.touched(range).ok()).unwrap_or_default();
    musl::read(reader, &reader.maps(), live, touched)
}

/// Whether the lists, just read, can have shown no stack halfway: all tasks are blocked in calls, and none in munmap, of
/// which each stops for us, so that whoever had taken a stack from a list would still run or be there.
pub fn are_settled(mut tasks: impl Iterator<Item = Tid>) -> bool {
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
