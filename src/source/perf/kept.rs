//! Memory of followed processes that stays readable until they have been judged.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::Perf;
use super::keeper::{Keeper, Seen};
use super::look::Image;
use crate::event::Vma;
use crate::procfs::memory::HeldMemory;
use crate::procfs::{self, task};
use crate::source::job;
use crate::sys::grip::Grip;
use crate::sys::perf::monotonic_ns;
use crate::units::{Pid, Tid};

/// Processes whose memory is held at the same time.
const MOST: usize = 256;

/// Memory that stays readable.
#[derive(Debug)]
pub(super) struct Kept {
    /// CLOCK_MONOTONIC in nanoseconds when it was taken.
    at: u64,
    memory: Arc<HeldMemory>,
    /// Whether the process had threads when its maps were read: its libraries are there by then.
    had_threads: bool,
    /// None while this program stops itself.
    grip: Option<Grip>,
}

impl Kept {
    #[cfg(test)]
    pub(super) fn memory(&self) -> &HeldMemory {
        &self.memory
    }

    /// What is mapped, or was when the process ended.
    pub(super) fn maps(&self, tid: Tid) -> Arc<[Vma]> {
        self.memory.maps_through(tid)
    }
}

impl Perf {
    /// Holds the present memory of a process, if that can be done through one of these tasks.
    pub(super) fn keep(&mut self, pid: Pid, through: &[Tid]) {
        if !is_room(self.kept.len()) {
            return;
        }
        if let Some(kept) = through.iter().find_map(|tid| take(*tid)) {
            self.kept.entry(pid).or_default().push(kept);
        }
    }

    /// Takes over what the keeper has seen.
    pub(super) fn take_seen(&mut self) {
        for Seen { pid, image, kept } in
            self.keeper.as_ref().map(|keeper| keeper.take(self.kept.len())).unwrap_or_default()
        {
            self.images.entry(pid).or_default().push_back(image);
            self.keep_seen(pid, kept);
        }
    }

    /// What was seen of the launched program when it was about to end, if that had to be kept from it.
    pub(super) fn seen_at_its_end(&self, pid: Pid) -> Option<Seen> {
        self.launch.as_ref().filter(|_| pid == self.main)?.tether.take()
    }

    /// Keeps this memory of a process. The launched program need not be kept from ending then.
    pub(super) fn keep_seen(&mut self, pid: Pid, kept: Option<Kept>) {
        let Some(kept) = kept.filter(|_| is_room(self.kept.len())) else { return };
        self.kept.entry(pid).or_default().push(kept);
        if pid == self.main {
            self.let_go();
        }
    }

    /// The launched program may end.
    pub(super) fn let_go(&self) {
        if let Some(launch) = &self.launch {
            launch.tether.let_go();
        }
    }

    /// A process has made a thread.
    pub(super) fn keep_threaded(&mut self, pid: Pid, through: Tid) {
        if is_threaded(&self.kept, pid) {
            return;
        }
        // Of a process that is not followed there is nothing to be kept; one that has only just been forked may be.
        let is_followed = |tid: Tid| task::status(tid).is_ok_and(|status| self.stream.knows(status.parent));
        if !self.kept.contains_key(&pid) && (self.stream.knows(pid) || is_followed(pid.into())) {
            self.keep(pid, &[through]);
        }
        let Some(kept) = self.kept.get_mut(&pid).and_then(|kept| kept.last_mut()) else { return };
        if let Some(maps) = procfs::maps::read(through).ok().filter(|maps| !maps.is_empty()) {
            kept.memory.see_maps(maps);
            kept.had_threads = true;
        }
    }

    /// The memory of a task's process, as it was when the event happened that was told last.
    pub(super) fn kept_of(&self, tid: Tid) -> Option<Arc<HeldMemory>> {
        let (pid, space) = self.stream.place_of(tid)?;
        let of_process = |pid| self.kept.get(&pid).and_then(|kept| kept.first()).map(|kept| Arc::clone(&kept.memory));
        of_process(pid).or_else(|| {
            let mut others = self.stream.tasks.values().filter(|task| task.space == space && task.pid != pid);
            others.find_map(|task| of_process(task.pid))
        })
    }

    /// The process has had a new address space since `at`.
    pub(super) fn forget_kept(&mut self, pid: Pid, at: u64) {
        if let Some(kept) = self.kept.get_mut(&pid) {
            kept.retain(|one| one.at >= at);
            if kept.is_empty() {
                self.kept.remove(&pid);
            }
        }
        if !self.kept.contains_key(&pid) {
            self.keep(pid, &[pid.into()]);
        }
        if pid == self.main {
            self.let_go();
        }
    }

    /// Stops this program by SIGSTOP; comes back when it goes on. A thread that holds memory would never stop, and the shell
    /// would not be told of the stop: what is held is let go before, and held again afterwards, if it is still there.
    pub(super) fn stop_without_grips(&mut self) {
        let Perf { keeper, kept, stream, launch, .. } = self;
        let _paused = keeper.as_ref().map(Keeper::pause);
        // What the keeper and the tether have seen, at the end of the first thread perhaps, and nobody has taken over yet.
        let mut by_keeper = keeper.as_ref().map(Keeper::seen);
        let mut by_tether = launch.as_ref().map(|launch| launch.tether.seen());
        let seen = by_keeper.iter_mut().flat_map(|seen| seen.iter_mut());
        let seen = seen.chain(by_tether.iter_mut().filter_map(|seen| seen.as_mut()));
        let mut all: Vec<(Pid, &mut Kept)> = Vec::new();
        all.extend(kept.iter_mut().flat_map(|(pid, kept)| kept.iter_mut().map(|one| (*pid, one))));
        all.extend(seen.filter_map(|one| Some((one.pid, one.kept.as_mut()?))));
        for (_, one) in &mut all {
            one.grip = None;
        }
        job::stop_with(self.main);
        for (pid, one) in all {
            let threads = stream.tasks.iter().filter(|(_, task)| task.pid == pid).map(|(tid, _)| *tid);
            let Some(page) = one.memory.steady_page() else { continue };
            one.grip = [Tid::from(pid)].into_iter().chain(threads).find_map(|tid| Grip::take(tid, page).ok());
        }
    }

    /// Lets go of all: what is over is to be over for everybody, while events are closed, which takes its time.
    pub(super) fn release_all(&mut self) {
        self.keeper = None;
        for one in self.kept.values_mut().flatten() {
            one.grip = None;
        }
    }

    /// Lets go of processes that have ended and been judged, and of those that the keeper has seen and nobody follows: their
    /// forefather is followed, and has made them before.
    pub(super) fn release_ended(&mut self) {
        // While the picture of an attach is taken, nobody is followed yet.
        if self.stream.processes().next().is_none() {
            return;
        }
        let held = self.kept.keys().chain(self.images.keys());
        let mut ended: HashSet<Pid> = held.filter(|pid| !self.stream.knows(**pid)).copied().collect();
        let horizon = self.sorter.horizon();
        let mut pending = self.sorter.pending();
        while !ended.is_empty()
            && let Some(record) = pending.next()
        {
            ended.remove(&record.pid);
        }
        self.kept.retain(|pid, _| !ended.contains(pid));
        // The record of its fork may be in a ring that was read before it happened.
        let is_new = |images: &VecDeque<Image>| images.back().is_some_and(|image| image.read_until >= horizon);
        self.images.retain(|pid, images| !ended.contains(pid) || is_new(images));
    }
}

/// Whether one more can be held where there are so many.
pub(super) fn is_room(held: usize) -> bool {
    held < MOST
}

/// Whether a process is kept, and known to have threads.
pub(super) fn is_threaded(kept: &HashMap<Pid, Vec<Kept>>, pid: Pid) -> bool {
    kept.get(&pid).and_then(|kept| kept.last()).is_some_and(|kept| kept.had_threads)
}

/// Holds the present memory of a task's process.
pub(super) fn take(tid: Tid) -> Option<Kept> {
    let at = monotonic_ns();
    let memory = Arc::new(HeldMemory::open(tid).ok()?);
    // For what is read from is pinned meanwhile.
    let grip = Grip::take(tid, memory.steady_page()?).ok()?;
    Some(Kept { at, memory, had_threads: false, grip: Some(grip) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::super::rings::Rings;
    use super::*;
    use crate::procfs::memory::Page;
    use crate::units::{Addr, PAGE};

    /// Pages of libraries to which a process never came are read when it is gone, as those are that it had.
    #[test]
    fn pages_that_were_never_touched() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        let is_libc = |vma: &Vma| vma.name.ends_with(b"/libc.so.6") && vma.offset > 0;
        // Once it sleeps nothing changes any more.
        while task::blocked_in(tid).is_none() || !procfs::maps::read(tid).unwrap().iter().any(is_libc) {
            std::thread::yield_now();
        }
        let kept = take(tid).unwrap();
        let maps = kept.memory().maps();
        let text = maps.iter().find(|vma| is_libc(vma)).unwrap();
        let libc = std::fs::File::open(std::str::from_utf8(&text.name).unwrap()).unwrap();
        let starts = (text.range.start().0..text.range.end().0).step_by(PAGE as usize);
        let is_missing = |at: &u64| {
            let mut page = [Page::There];
            kept.memory().pages.states(Addr(*at), &mut page).is_ok() && page == [Page::Missing]
        };
        let missing = starts.clone().find(is_missing).expect("it does not use all of libc");
        child.kill().unwrap();
        child.wait().unwrap();
        let (mut found, mut expected) = ([0; PAGE as usize], [0; PAGE as usize]);
        kept.memory().read(Addr(missing), &mut found).unwrap();
        libc.read_exact_at(&mut expected, text.offset + missing - text.range.start().0).unwrap();
        assert_eq!(found, expected);
    }

    /// Of a target with very many processes, some are not kept.
    #[test]
    fn what_is_kept_is_bounded() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid(child.id() as i32);
        let mut kept = std::iter::from_fn(|| Some(take(pid.into()))).flatten();
        let mut perf = Perf::new(pid, Rings::none());
        perf.kept.extend((1..MOST as i32).map(|number| (Pid(-number), Vec::new())));
        perf.keep_seen(pid, kept.next());
        assert_eq!(perf.kept.len(), MOST);
        perf.keep(Pid(-1000), &[pid.into()]);
        perf.keep_seen(Pid(-1001), kept.next());
        assert_eq!(perf.kept.len(), MOST);
        perf.kept.remove(&Pid(-1));
        perf.keep(Pid(-1000), &[pid.into()]);
        assert!(perf.kept.contains_key(&Pid(-1000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A process that is not followed may have got threads as well.
    #[test]
    fn nothing_of_strangers_is_kept() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let (own, pid) = (nix::unistd::getpid(), Pid(child.id() as i32));
        let is_libc = |vma: &Vma| vma.name.ends_with(b"/libc.so.6");
        while !procfs::maps::read(pid.into()).unwrap().iter().any(is_libc) {
            std::thread::yield_now();
        }
        for (main, is_kept) in [(pid, true), (Pid(own.as_raw()), true), (Pid(i32::MAX - 10), false)] {
            let mut perf = Perf::new(main, Rings::none());
            let space = perf.stream.new_space();
            perf.stream.add(main.into(), main, space);
            perf.keep_threaded(pid, pid.into());
            assert_eq!(is_threaded(&perf.kept, pid), is_kept, "following {main}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
