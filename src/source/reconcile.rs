//! Calls of several threads, put into an order in which the kernel can have done them.
//!
//! Who merely watches sees when calls begin and return, and a thread may be interrupted between the kernel's work and the
//! return: another one may be seen to map pages that the model still has, because the munmap that freed them has not
//! returned yet. The kernel gives nobody pages that are mapped, so the munmap was done before: it is told first, and its
//! return, when it comes, is told no more.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::abi::{map, mremap};
use crate::event::{Call, Event, EventKind, Syscall};
use crate::units::{Addr, Range, Tid, Time, page_up};

/// So many events of an address space wait for one call to return; after that it has been missed.
const MOST_HELD: usize = 100_000;

/// Orders the events of address spaces that go by `K`; `P` is what else belongs to an event.
#[derive(Debug)]
pub struct Reconciler<K, P> {
    spaces: HashMap<K, Space<P>>,
    ready: VecDeque<(Event, P)>,
    doubtful: Vec<K>,
}

#[derive(Debug)]
struct Space<P> {
    /// Calls that free pages and have not returned, oldest first.
    under_way: Vec<UnderWay>,
    /// Events that come after a call that has not returned.
    held: VecDeque<(Event, P)>,
    /// The break, as far as it has been told.
    brk: Option<Addr>,
    /// What shmat and io_setup have mapped: their counterparts name only the start.
    attached: HashMap<Addr, Range>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    tid: Tid,
    call: Call,
    frees: Range,
    /// What it returns if it succeeds; none where only the kernel knows.
    result: Option<u64>,
    told: bool,
}

impl<K: Copy + Eq + Hash, P: Default> Default for Reconciler<K, P> {
    fn default() -> Reconciler<K, P> {
        Reconciler { spaces: HashMap::new(), ready: VecDeque::new(), doubtful: Vec::new() }
    }
}

impl<P> Default for Space<P> {
    fn default() -> Space<P> {
        Space { under_way: Vec::new(), held: VecDeque::new(), brk: None, attached: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, P: Default> Reconciler<K, P> {
    /// A task of the address space has begun a call.
    pub fn enter(&mut self, space: K, tid: Tid, call: Call) {
        let space = self.spaces.entry(space).or_default();
        space.under_way.retain(|other| other.tid != tid);
        if let Some((frees, result)) = space.freed_by(&call) {
            space.under_way.push(UnderWay { tid, call, frees, result, told: false });
        }
    }

    /// Something has happened in the address space; of a system call: it has returned. In the order of time.
    pub fn push(&mut self, id: K, event: Event, with: P) {
        let space = self.spaces.entry(id).or_default();
        let returned = matches!(event.kind, EventKind::Syscall(_));
        let waited_for = returned && space.is_waited_for(event.tid);
        if !space.held.is_empty() && !waited_for {
            space.held.push_back((event, with));
            if space.held.len() > MOST_HELD {
                self.give_up(id);
            }
            return;
        }
        if waited_for {
            let at = space.held.front().map_or(event.at, |(first, _)| first.at.min(event.at));
            space.tell(Event { at, ..event }, with, &mut self.ready);
            while let Some((event, with)) = space.held.pop_front() {
                if let Some(back) = space.tell(event, with, &mut self.ready) {
                    space.held.push_front(back);
                    return;
                }
            }
        } else if let Some(back) = space.tell(event, with, &mut self.ready) {
            space.held.push_back(back);
        }
    }

    /// A task will not be seen to return from its call: it has ended, or records were lost.
    pub fn abandon(&mut self, id: K, tid: Tid) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let waited_for = space.is_waited_for(tid);
        space.under_way.retain(|other| other.tid != tid);
        if waited_for {
            self.give_up(id);
        }
    }

    /// No task of the address space will be seen to return from what it is in.
    pub fn abandon_all(&mut self, id: K) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let waits = !space.held.is_empty();
        space.under_way.clear();
        if waits {
            self.give_up(id);
        }
    }

    /// The address space is gone.
    pub fn forget(&mut self, id: K) {
        if let Some(space) = self.spaces.remove(&id) {
            self.ready.extend(space.held);
        }
    }

    /// Gives up the room of what has been told.
    pub fn shrink(&mut self) {
        self.ready.shrink_to_fit();
        self.spaces.shrink_to_fit();
        for space in self.spaces.values_mut() {
            space.held.shrink_to_fit();
        }
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<(Event, P)> {
        self.ready.pop_front()
    }

    /// An address space whose order could not be found out, so that the kernel has to be asked what it is now.
    pub fn doubtful(&mut self) -> Option<K> {
        self.doubtful.pop()
    }

    /// The pages that calls under way may have freed already.
    pub fn under_way(&self, id: K) -> impl Iterator<Item = Range> {
        self.spaces.get(&id).into_iter().flat_map(|space| &space.under_way).filter(|one| !one.told).map(|one| one.frees)
    }

    /// The time of the oldest event that waits for a call to return.
    pub fn waiting_since(&self) -> Option<Time> {
        self.spaces.values().filter_map(|space| space.held.front()).map(|(event, _)| event.at).min()
    }

    fn give_up(&mut self, id: K) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.under_way.retain(|one| one.result.is_some());
            self.ready.extend(space.held.drain(..));
            self.doubtful.push(id);
        }
    }
}

impl<P: Default> Space<P> {
    /// Whether the first of those that are held waits for this task's call.
    fn is_waited_for(&self, tid: Tid) -> bool {
        let Some(taken) = self.held.front().and_then(|(event, _)| self.taken_by(event)) else { return false };
        let blocks = |one: &UnderWay| one.tid == tid && one.result.is_none() && one.frees.intersection(taken).is_some();
        self.under_way.iter().any(blocks)
    }

    /// Tells an event, behind those that must come before it. Gives it back where one of these has not returned.
    fn tell(&mut self, event: Event, with: P, ready: &mut VecDeque<(Event, P)>) -> Option<(Event, P)> {
        if let EventKind::Syscall(_) = event.kind
            && let Some(own) = self.under_way.iter().position(|one| one.tid == event.tid)
            && self.under_way.remove(own).told
        {
            return None;
        }
        if let Some(taken) = self.taken_by(&event) {
            let freed = |one: &UnderWay| !one.told && one.tid != event.tid && one.frees.intersection(taken).is_some();
            if self.under_way.iter().any(|one| freed(one) && one.result.is_none()) {
                return Some((event, with));
            }
            for one in self.under_way.iter_mut().filter(|one| freed(one)) {
                one.told = true;
                let syscall = Syscall { call: one.call, result: Ok(one.result.unwrap_or(0)), mapped: None };
                let kind = EventKind::Syscall(syscall);
                ready.push_back((Event { at: event.at, tid: one.tid, call_stack: None, kind }, P::default()));
            }
        }
        self.learn(&event);
        ready.push_back((event, with));
        None
    }

    /// Remembers what later calls name only by its start.
    fn learn(&mut self, event: &Event) {
        if matches!(event.kind, EventKind::OrderLost) {
            self.brk = None;
        }
        let EventKind::Syscall(Syscall { call, result: Ok(result), mapped }) = &event.kind else { return };
        match call {
            Call::Brk { .. } => self.brk = Some(Addr(*result)),
            Call::Shmat { .. } | Call::IoSetup { .. } => {
                self.attached.extend(mapped.as_ref().map(|vma| (vma.range.start(), vma.range)));
            }
            Call::Shmdt { addr } | Call::IoDestroy { ctx: addr } => drop(self.attached.remove(addr)),
            _ => {}
        }
    }

    /// Pages that a call frees if it succeeds, and what it then returns, where that is clear before.
    fn freed_by(&self, call: &Call) -> Option<(Range, Option<u64>)> {
        match *call {
            Call::Munmap { addr, len } => Some((Range::of_len(addr, len)?, Some(0))),
            Call::Mremap { old_len: 0, .. } => None,
            Call::Mremap { flags, .. } if flags & mremap::DONTUNMAP != 0 => None,
            Call::Mremap { old, old_len, flags, new, .. } if flags & mremap::FIXED != 0 => {
                Some((Range::of_len(old, old_len)?, Some(new.0)))
            }
            Call::Mremap { old, old_len, new_len, .. } if page_up(new_len) < page_up(old_len) => {
                let tail = Range::new(old.checked_add(page_up(new_len))?, old.checked_add(page_up(old_len))?)?;
                Some((tail, Some(old.0)))
            }
            Call::Mremap { old, old_len, .. } => Some((Range::of_len(old, old_len)?, None)),
            Call::Brk { addr } => Some((Range::new(Addr(page_up(addr.0)), Addr(page_up(self.brk?.0)))?, Some(addr.0))),
            Call::Shmdt { addr } | Call::IoDestroy { ctx: addr } => Some((*self.attached.get(&addr)?, Some(0))),
            _ => None,
        }
    }

    /// Pages that were free when the call mapped them.
    fn taken_by(&self, event: &Event) -> Option<Range> {
        let EventKind::Syscall(Syscall { call, result: Ok(result), mapped }) = &event.kind else { return None };
        match *call {
            // Where the program insists on a place, it need not have been free; but who frees it meanwhile cannot want
            // to free what is being put there.
            Call::Mmap { len, flags, .. } if flags & map::HUGETLB == 0 => Range::of_len(Addr(*result), len),
            Call::Mmap { .. } => Range::of_len(Addr(*result), 1),
            Call::MapShadowStack { len, .. } => Range::of_len(Addr(*result), len),
            Call::Mremap { old, old_len, new_len, .. } if old.0 == *result => {
                Range::new(old.checked_add(page_up(old_len))?, old.checked_add(page_up(new_len))?)
            }
            Call::Mremap { new_len, .. } => Range::of_len(Addr(*result), new_len),
            Call::Brk { .. } => Range::new(Addr(page_up(self.brk?.0)), Addr(page_up(*result))),
            Call::Shmat { .. } | Call::IoSetup { .. } => mapped.as_ref().map(|vma| vma.range),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Exit, Prot, Sharing, Vma};
    use crate::units::PAGE;

    /// A short story: threads enter and return, and what is told of it.
    #[derive(Default)]
    struct Story {
        reconciler: Reconciler<u32, ()>,
        now: u64,
    }

    const MAY_MOVE: u32 = mremap::MAYMOVE;

    impl Story {
        fn enter(&mut self, tid: i32, call: Call) {
            self.reconciler.enter(1, Tid(tid), call);
        }

        fn at(&mut self) -> Time {
            self.now += 1;
            Time(Duration::from_micros(self.now))
        }

        fn returns(&mut self, tid: i32, call: Call, result: u64) {
            let kind = EventKind::Syscall(Syscall { call, result: Ok(result), mapped: None });
            let at = self.at();
            self.reconciler.push(1, Event { at, tid: Tid(tid), call_stack: None, kind }, ());
        }

        fn ends(&mut self, tid: i32) {
            let at = self.at();
            let kind = EventKind::Ended(Exit::Code(0));
            self.reconciler.push(1, Event { at, tid: Tid(tid), call_stack: None, kind }, ());
        }

        /// What has been told: who, what.
        fn told(&mut self) -> Vec<String> {
            let told = std::iter::from_fn(|| self.reconciler.pop());
            told.map(|(event, ())| match event.kind {
                EventKind::Syscall(Syscall { call, result: Ok(result), .. }) => {
                    format!("{} {} {result:x}", event.tid, call.name())
                }
                kind => format!("{} {kind:?}", event.tid),
            })
            .collect()
        }
    }

    fn munmap(addr: u64, pages: u64) -> Call {
        Call::Munmap { addr: Addr(addr), len: pages * PAGE }
    }

    fn mmap(pages: u64) -> Call {
        Call::Mmap {
            addr: Addr(0),
            len: pages * PAGE,
            prot: 3,
            flags: map::PRIVATE | map::ANONYMOUS,
            fd: -1,
            offset: 0,
        }
    }

    fn remap(old: u64, old_pages: u64, new_pages: u64) -> Call {
        let (old_len, new_len) = (old_pages * PAGE, new_pages * PAGE);
        Call::Mremap { old: Addr(old), old_len, new_len, flags: MAY_MOVE, new: Addr(0) }
    }

    /// Pages that were given to another thread had been unmapped before, although that call has not returned yet; when it
    /// does, it must not take them away again.
    #[test]
    fn an_unmapping_that_has_not_returned_comes_before_the_new_mapping() {
        let mut story = Story::default();
        story.enter(1, munmap(0x10_000, 4));
        story.returns(2, mmap(2), 0x11_000);
        assert_eq!(story.told(), ["1 munmap 0", "2 mmap 11000"]);
        story.returns(2, munmap(0x11_000, 2), 0);
        story.returns(1, munmap(0x10_000, 4), 0);
        assert_eq!(story.told(), ["2 munmap 0"]);
    }

    /// Calls on other pages, and a thread's own, keep the order in which they return.
    #[test]
    fn what_does_not_overlap_keeps_its_order() {
        let mut story = Story::default();
        story.enter(1, munmap(0x10_000, 4));
        story.returns(2, mmap(2), 0x20_000);
        story.returns(1, munmap(0x10_000, 4), 0);
        story.returns(1, mmap(2), 0x11_000);
        assert_eq!(story.told(), ["2 mmap 20000", "1 munmap 0", "1 mmap 11000"]);
    }

    /// Where a mapping has moved to only its return tells: whoever got its old place waits, and all that follows.
    #[test]
    fn a_move_that_has_not_returned_is_waited_for() {
        let mut story = Story::default();
        story.enter(1, remap(0x10_000, 2, 8));
        story.returns(2, mmap(2), 0x10_000);
        story.ends(3);
        assert_eq!(story.told(), [""; 0]);
        story.returns(1, remap(0x10_000, 2, 8), 0x50_000);
        assert_eq!(story.told(), ["1 mremap 50000", "2 mmap 10000", "3 Ended(Code(0))"]);
    }

    /// A task that is killed in a call that others wait for is waited for no longer, and the kernel has to be asked.
    #[test]
    fn a_call_that_never_returns_is_given_up() {
        let mut story = Story::default();
        story.enter(1, remap(0x10_000, 2, 8));
        story.returns(2, mmap(2), 0x10_000);
        story.reconciler.abandon(1, Tid(1));
        assert_eq!(story.told(), ["2 mmap 10000"]);
        assert_eq!(story.reconciler.doubtful(), Some(1));
        assert_eq!(story.reconciler.doubtful(), None);
    }

    /// A mapping that shrinks in place frees its tail; one that grows in place takes what lies behind it.
    #[test]
    fn tails_are_freed_and_taken() {
        let mut story = Story::default();
        story.enter(1, remap(0x10_000, 4, 2));
        story.returns(2, mmap(2), 0x10_000);
        assert_eq!(story.told(), ["2 mmap 10000"], "the first pages stay");
        story.returns(2, remap(0xf_000, 3, 5), 0xf_000);
        assert_eq!(story.told(), ["1 mremap 10000", "2 mremap f000"]);
        story.enter(3, munmap(0x14_000, 1));
        story.returns(2, remap(0xf_000, 5, 5), 0xf_000);
        assert_eq!(story.told(), ["2 mremap f000"], "nothing was taken");
    }

    /// shmdt names only the start of what it frees, brk only the end of what stays.
    #[test]
    fn segments_and_the_break_are_known_by_what_they_were() {
        let mut story = Story::default();
        let range = Range::of_len(Addr(0x30_000), 3 * PAGE).unwrap();
        let vma = Vma {
            range,
            prot: Prot::READ,
            sharing: Sharing::Shared,
            offset: 0,
            inode: 7,
            device: 1,
            name: Box::from(*b"/SYSV0"),
        };
        let shmat = Call::Shmat { id: 1, addr: Addr(0), flags: 0 };
        let kind = EventKind::Syscall(Syscall { call: shmat, result: Ok(0x30_000), mapped: Some(vma) });
        story.reconciler.push(1, Event { at: Time::default(), tid: Tid(1), call_stack: None, kind }, ());
        story.returns(1, Call::Brk { addr: Addr(0) }, 0x90_000);
        story.enter(1, Call::Shmdt { addr: Addr(0x30_000) });
        story.enter(2, Call::Brk { addr: Addr(0x8c_000) });
        story.told();
        story.returns(3, mmap(1), 0x32_000);
        story.returns(3, mmap(1), 0x8f_000);
        assert_eq!(story.told(), ["1 shmdt 0", "3 mmap 32000", "2 brk 8c000", "3 mmap 8f000"]);
    }

    /// Where calls were missed it is not known what a brk frees.
    #[test]
    fn a_break_that_is_not_known_any_more() {
        for is_lost in [false, true] {
            let mut story = Story::default();
            story.returns(1, Call::Brk { addr: Addr(0) }, 0x90_000);
            if is_lost {
                let at = story.at();
                let event = Event { at, tid: Tid(1), call_stack: None, kind: EventKind::OrderLost };
                story.reconciler.push(1, event, ());
            }
            story.enter(2, Call::Brk { addr: Addr(0x8c_000) });
            assert_eq!(story.reconciler.under_way(1).count(), usize::from(!is_lost));
        }
    }

    /// Address spaces have nothing to do with each other.
    #[test]
    fn other_address_spaces_are_left_alone() {
        let mut story = Story::default();
        story.reconciler.enter(2, Tid(9), munmap(0x10_000, 4));
        story.returns(1, mmap(4), 0x10_000);
        assert_eq!(story.told(), ["1 mmap 10000"]);
    }

    /// A call that does not return while far too much happens is given up: all is told, and the kernel has to be asked.
    #[test]
    fn what_waits_is_bounded() {
        let mut story = Story::default();
        story.enter(1, remap(0x10_000, 2, 8));
        story.returns(2, mmap(2), 0x10_000);
        for _ in 1..MOST_HELD {
            story.ends(3);
        }
        assert_eq!((story.reconciler.pop(), story.reconciler.doubtful()), (None, None));
        story.ends(4);
        let told = story.told();
        assert_eq!(
            (told.len(), told[0].as_str(), told[MOST_HELD].as_str()),
            (MOST_HELD + 1, "2 mmap 10000", "4 Ended(Code(0))")
        );
        assert_eq!([story.reconciler.doubtful(), story.reconciler.doubtful()], [Some(1), None]);
        story.returns(2, mmap(2), 0x10_000);
        assert_eq!(story.told(), ["2 mmap 10000"], "nobody waits for it any more");
    }
}
