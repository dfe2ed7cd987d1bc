//! Events by perf_event_open(2): tracepoints, without stopping anybody.
//!
//! The loop is `next`: read the rings of all CPUs, put their records in order ([`sorter`]), turn them into events
//! (`stream.rs`), and tell these. What the kernel's maps show is read while the target runs on, and takes its place among the
//! events by the time of the reading (`look.rs`).

pub mod attach;
mod ends;
mod keeper;
mod kept;
mod launch;
mod look;
mod mappers;
mod opaque;
pub mod points;
pub mod record;
pub mod rings;
pub mod sorter;
mod stream;
mod tether;
pub mod tracefs;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::control::Control;
use super::{Next, Source, Stand};
use crate::diagnose::finding::Note;
use crate::event::{Event, EventKind, Exit, Vma};
use crate::procfs::{self, memory::HeldMemory};
use crate::report::Engine;
use crate::sys::perf::{monotonic_ns, wait_readable};
use crate::sys::trim_heap;
use crate::units::{Addr, Pid, Range, Tid, Time};
use ends::Ends;
use keeper::{Keeper, Seen};
use kept::Kept;
use launch::Launch;
use look::{Closing, Image, Look};
use mappers::Mappers;
use opaque::OpaqueProcesses;
use record::{Record, What};
use rings::Rings;
use sorter::Sorter;
use stream::{Stream, With};

/// How long to wait for more: when somebody waits for an answer, when there are records whose time has not come, and when
/// there are none.
const URGENT: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(20);

/// While there is much to tell, the rings are read this often, in nanoseconds.
const ROUND_EVERY: u64 = 2_000_000;

/// No more is taken out of the rings while so much waits to be told, in bytes: who is too slow for the target loses records,
/// which is said, and does not fall behind for ever.
const MOST_PENDING: usize = 16 << 20;

/// What a burst has taken goes back to the system when no more than so many bytes wait to be told, looked at so often, in
/// nanoseconds: once a large block is freed, glibc's malloc keeps others of its size (mallopt(3), M_MMAP_THRESHOLD), and what
/// the keeper's thread has freed it keeps anyway.
const LITTLE_PENDING: usize = 1 << 20;
const TRIM_EVERY: u64 = 10_000_000_000;

/// All followed tasks, by perf events.
#[derive(Debug)]
pub struct Perf {
    rings: Rings,
    files: Vec<RawFd>,
    sorter: Sorter,
    stream: Stream,
    main: Pid,
    /// What belongs to the event that was told last.
    current: With,
    /// execve that has been seen to succeed, and the new image.
    image: Option<(Record, Image)>,
    /// New images of each process that have been seen and not been told, oldest first.
    images: HashMap<Pid, VecDeque<Image>>,
    keeper: Option<Keeper>,
    looks: VecDeque<Look>,
    /// Address spaces to be looked at, by one of their tasks.
    wanted: Vec<Tid>,
    last_look: u64,
    closing: Option<Closing>,
    /// When something was asked; it is answered when all that had happened before has been told.
    asked_at: Option<u64>,
    mappers: Mappers,
    /// The program, where we have launched it.
    launch: Option<Launch>,
    kept: HashMap<Pid, Vec<Kept>>,
    /// Processes that run 32-bit programs.
    opaque: OpaqueProcesses,
    /// How processes end, where no record tells.
    ends: Ends,
    /// Records that were just read, in the order of the rings, behind those of processes that are not known to be followed,
    /// until all forks that were before them have been read.
    batch: Vec<Record>,
    /// Processes that followed ones have forked, and that have not been told of yet.
    newborn: HashSet<Pid>,
    last_trim: u64,
    last_round: u64,
    last_record: u64,
    last_census: u64,
    /// What happened before is not told.
    since: u64,
    lost: u64,
    /// Since records were lost, or came late, the tasks and maps have not been put right.
    to_heal: bool,
    heals: u64,
}

impl Perf {
    fn new(main: Pid, rings: Rings) -> Perf {
        let start = monotonic_ns();
        let files = rings.files();
        Perf {
            rings,
            files,
            sorter: Sorter::default(),
            stream: Stream::new(main, start),
            main,
            current: None,
            image: None,
            images: HashMap::new(),
            keeper: None,
            looks: VecDeque::new(),
            wanted: Vec::new(),
            last_look: 0,
            closing: None,
            asked_at: None,
            mappers: Mappers::default(),
            launch: None,
            kept: HashMap::new(),
            opaque: OpaqueProcesses::default(),
            ends: Ends::of(main),
            batch: Vec::new(),
            newborn: HashSet::new(),
            last_trim: 0,
            last_round: 0,
            last_record: 0,
            last_census: 0,
            since: 0,
            lost: 0,
            to_heal: false,
            heals: 0,
        }
    }

    /// Reads all rings.
    fn round(&mut self) {
        let now = monotonic_ns();
        self.last_round = now;
        self.sorter.begin_round(now);
        // Before the records are read: those of the same moment are there then.
        self.take_seen();
        let horizon = self.sorter.horizon();
        let Perf { rings, batch, newborn, stream, kept, since, .. } = self;
        // The memory of a process that has threads is held as soon as possible: it may end at once.
        let (mut executed, mut threaded) = (Vec::new(), Vec::new());
        rings.drain(|record| batch.push(record));
        newborn.retain(|pid| !stream.knows(*pid));
        see_forks(batch, newborn, |pid| stream.knows(pid));
        let mut strangers = Vec::new();
        for record in batch.drain(..) {
            let is_lost = matches!(record.what, What::Lost(_));
            if !is_lost && record.at < *since {
                continue;
            }
            if !is_lost && !stream.knows(record.pid) && !newborn.contains(&record.pid) {
                // Its fork may be in a ring that was read before it happened.
                if record.at >= horizon {
                    strangers.push(record);
                }
                continue;
            }
            match record.what {
                What::Executed { is_i386: true, .. } => executed.push(record.pid),
                What::Fork { child_pid, child } if child_pid == record.pid && !kept::is_threaded(kept, child_pid) => {
                    threaded.extend([(record.pid, record.tid), (record.pid, child)]);
                }
                _ => {}
            }
            if !is_lost {
                self.last_record = now;
            }
            self.sorter.push(record);
        }
        *batch = strangers;
        // What was told in the wrong order is put right as if it had been lost.
        self.to_heal |= self.sorter.take_late();
        for pid in executed {
            self.ends.watch(pid);
            self.opaque.see(pid);
        }
        for (pid, tid) in threaded {
            self.keep_threaded(pid, tid);
        }
        self.release_ended();
    }

    /// Gives back what a burst has taken.
    fn trim(&mut self) {
        let is_due = self.last_round.saturating_sub(self.last_trim) > TRIM_EVERY;
        if is_due && self.sorter.pending_bytes() <= LITTLE_PENDING {
            self.last_trim = self.last_round;
            self.sorter.shrink();
            self.stream.shrink();
            trim_heap();
        }
    }

    /// Waits for more records, no longer than there is reason to.
    fn wait(&mut self) {
        let is_urgent = self.asked_at.is_some()
            || self.image.is_some()
            || self.closing.is_some()
            || !self.looks.is_empty()
            || !self.wanted.is_empty();
        if self.sorter.next_at().is_none() {
            self.newborn.clear();
        }
        let timeout = match self.sorter.next_at() {
            _ if is_urgent => URGENT,
            Some(_) => SOON,
            None => IDLE,
        };
        wait_readable(&self.files, timeout);
        // Whatever wakes us, there is no more than one round in this time.
        let since = Duration::from_nanos(monotonic_ns().saturating_sub(self.last_round));
        if since < URGENT {
            std::thread::sleep(URGENT - since);
        }
    }

    /// Takes in the next record, or what was read from /proc at its time; false where more has to come first.
    fn advance(&mut self) -> bool {
        let horizon = self.sorter.horizon();
        if let Some((_, image)) = &self.image {
            return horizon > image.read_until && self.execute();
        }
        let closed = self.closing.as_ref().map(|closing| closing.read_until);
        // What has happened since a question was asked waits for the answer, however much of it there is.
        let asked = self.asked_at.map(|at| at + 1);
        let limit = [closed, asked].into_iter().flatten().fold(horizon, u64::min);
        let next = self.sorter.next_at().filter(|at| *at < limit);
        if let Some(look) = self.looks.front()
            && next.is_none_or(|at| at > look.read_from)
        {
            return horizon > look.read_until && self.tell_look();
        }
        if next.is_none() {
            return false;
        }
        let Some(record) = self.sorter.pop() else { return false };
        self.blur(&record);
        match record.what {
            What::Executed { is_i386, .. } if self.stream.knows(record.pid) => {
                let image = self.seen_image(&record).unwrap_or_else(|| self.see_image(&record, is_i386));
                self.image = Some((record, image));
            }
            What::Lost(records) => self.take_lost(record.at, records),
            What::Exited => self.take_end(record),
            _ => self.stream.take(record),
        }
        true
    }

    /// What was seen of the image that a process has executed.
    fn seen_image(&mut self, record: &Record) -> Option<Image> {
        let seen = self.images.get_mut(&record.pid)?;
        let image = std::iter::from_fn(|| seen.pop_front()).find(|image| image.read_until > record.at);
        if seen.is_empty() {
            self.images.remove(&record.pid);
        }
        image
    }

    /// Sees what a process runs, if that can still be seen.
    fn see_image(&mut self, record: &Record, is_i386: bool) -> Image {
        // Who was tied, and is gone now, was seen before that.
        let seen =
            Seen::now(record.pid, is_i386, kept::is_room(self.kept.len())).or_else(|| self.seen_at_its_end(record.pid));
        let Some(Seen { image, kept, .. }) = seen else { return Image::unseen(is_i386) };
        self.keep_seen(record.pid, kept);
        image
    }

    /// A task has ended, for a reason that may not be in the records.
    fn take_end(&mut self, record: Record) {
        if let Some(pid) = self.stream.ends_without_reason(record.tid).filter(|pid| ends::goes_on(*pid)) {
            if self.has_left_program(pid) {
                self.stream.ends_as_a_whole(record.at, pid);
            }
            self.stream.has_missed(record.tid);
        } else if let Some(pid) = self.stream.ends_unseen(record.tid) {
            self.see_end(pid);
        }
        self.stream.take(record);
    }

    /// Sees how a process has ended, of which records may be missing.
    fn see_end(&mut self, pid: Pid) {
        if let Some(exit) = self.ends.exit_of(pid) {
            self.stream.saw_end(pid, exit);
        }
    }

    /// execve has succeeded, and the new image has been seen.
    fn execute(&mut self) -> bool {
        let Some((record, image)) = self.image.take() else { return false };
        let What::Executed { by_leader, is_i386 } = record.what else { return false };
        let image = self.unless_superseded(&record, image, is_i386);
        let Image { mut new, read_until, .. } = image;
        new.maps =
            look::before(&mut self.sorter, new.maps, new.start_brk, record.at, read_until, |one| one.pid == record.pid);
        self.forget_kept(record.pid, record.at);
        self.stream.executed(record.at, record.tid, by_leader, new);
        true
    }

    /// What was read of the image, unless the process had executed another one by then, whose image it is.
    fn unless_superseded(&mut self, record: &Record, image: Image, is_i386: bool) -> Image {
        let is_next = |later: &&Record| later.pid == record.pid && matches!(later.what, What::Executed { .. });
        let Some(next) = self.sorter.pending().find(is_next).map(|next| next.at) else { return image };
        if next >= image.read_until {
            return image;
        }
        if next <= image.read_from {
            self.images.entry(record.pid).or_default().push_front(image);
        }
        Image::unseen(is_i386)
    }

    /// Lets the kernel know which mmap calls are of interest now.
    fn change_mappers(&mut self) {
        if self.stream.take_changed() {
            if let Some(keeper) = &self.keeper {
                keeper.follow(self.stream.processes());
            }
            let newest = procfs::task::last_number().unwrap_or(0);
            self.mappers.follow(self.stream.tasks.keys().copied(), newest);
        }
        if let Some(filter) = self.mappers.change(monotonic_ns()) {
            // Without it, what a program maps is known all the same, but not where in its source.
            let _ = self.rings.show_mappers(filter);
        }
    }

    /// Whether the launched child is still ours, and not the program's.
    fn is_before_program(&mut self, event: &Event) -> bool {
        let Some(launch) = &mut self.launch else { return false };
        launch.runs |= matches!(event.kind, EventKind::Exec(_));
        !launch.runs
    }

    fn is_over(&self) -> bool {
        self.stream.tasks.is_empty() && self.image.is_none()
    }
}

impl Source for Perf {
    fn engine(&self) -> Engine {
        Engine::Perf
    }

    fn next(&mut self, control: &Control) -> Result<Next, Errno> {
        loop {
            if let Some((event, with)) = self.stream.pop() {
                if self.is_before_program(&event) {
                    continue;
                }
                if let (Some(_), EventKind::Syscall(syscall)) = (&with, &event.kind) {
                    self.mappers.seen(&syscall.call);
                }
                self.current = with;
                return Ok(Next::Event(event));
            }
            self.current = None;
            let is_due = monotonic_ns().saturating_sub(self.last_round) > ROUND_EVERY;
            if is_due && self.sorter.pending_bytes() < MOST_PENDING {
                self.round();
            }
            if control.pending() && self.asked_at.is_none() {
                self.asked_at = Some(monotonic_ns());
            }
            if self.advance() {
                continue;
            }
            if let Some(asked_at) = self.asked_at
                && self.sorter.horizon() > asked_at
            {
                self.asked_at = None;
                return Ok(Next::Woken);
            }
            if self.has_news_of_stop() {
                return Ok(Next::Woken);
            }
            if self.is_over() {
                return Ok(Next::Finished);
            }
            if self.is_closed() {
                return Ok(Next::Quiet);
            }
            self.take_census();
            self.start_looks();
            self.change_mappers();
            self.trim();
            self.wait();
            self.round();
        }
    }

    fn now(&self) -> Time {
        self.stream.time(monotonic_ns())
    }

    fn main_pid(&self) -> Pid {
        self.main
    }

    fn main_exit(&self) -> Option<Exit> {
        self.stream.main_exit()
    }

    fn main_is_stopped(&self) -> bool {
        self.launch.as_ref().is_some_and(|launch| launch.is_stopped(self.main))
    }

    fn stop_too(&mut self) {
        self.stop_without_grips();
    }

    fn stops(&self) -> u64 {
        self.launch.as_ref().map_or(0, |launch| launch.tether.stops())
    }

    fn lost(&self) -> u64 {
        self.lost
    }

    fn is_settled(&self, _tid: Tid) -> bool {
        false
    }

    fn maps(&mut self, tid: Tid) -> Option<Box<[Vma]>> {
        let (_, space) = self.stream.place_of(tid)?;
        // Before that, what the picture shows is ahead of what has been told.
        let closing = self.closing.as_ref().filter(|closing| closing.complete)?;
        Some(closing.pictures.get(&space)?.reading.maps.clone())
    }

    fn unsure(&self, tid: Tid) -> &[Range] {
        let picture = self.stream.place_of(tid).and_then(|(_, space)| self.closing.as_ref()?.pictures.get(&space));
        picture.map_or(&[], |picture| &picture.unsure)
    }

    fn look_later(&mut self, tid: Tid) -> bool {
        if !self.wanted.contains(&tid) {
            self.wanted.push(tid);
        }
        true
    }

    fn held(&self, tid: Tid) -> Option<Arc<HeldMemory>> {
        self.kept_of(tid)
    }

    fn ahead(&mut self, tid: Tid) -> Vec<(Tid, Option<Addr>)> {
        self.round();
        self.births_ahead(tid)
    }

    fn stand(&self) -> Stand<'_> {
        match &self.current {
            Some(snapshot) => Stand::Copied { registers: &snapshot.registers, stack: &snapshot.stack },
            None => Stand::Unknown,
        }
    }

    fn expect_stacks(&mut self, bytes: u64) {
        self.mappers.expect(bytes);
    }

    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.lost > 0 {
            let text = format!(
                "{} records were lost, because they came faster than they could be read; tasks and maps were put right \
                 from /proc {} times, but what was created, ended or unmapped meanwhile was not seen",
                self.lost, self.heals
            );
            notes.push(Note::incomplete(None, self.lost, text));
        }
        notes.extend(self.opaque.notes());
        notes
    }

    fn close(&mut self) {
        if self.closing.is_none() {
            self.begin_closing();
        }
    }

    fn detach(&mut self) {
        self.let_go();
        self.release_all();
    }
}

/// Adds the processes that followed ones have forked, and those that these have, to `newborn`. A child's records may be in
/// a ring that was read before its parent's.
fn see_forks(records: &[Record], newborn: &mut HashSet<Pid>, is_followed: impl Fn(Pid) -> bool) {
    let fork = |record: &Record| match record.what {
        What::Fork { child_pid, .. } if child_pid != record.pid => Some((record.at, record.pid, child_pid)),
        _ => None,
    };
    let mut forks: Vec<(u64, Pid, Pid)> = records.iter().filter_map(fork).collect();
    forks.sort_unstable();
    for (_, parent, child) in forks {
        if is_followed(parent) || newborn.contains(&parent) {
            newborn.insert(child);
        }
    }
}

#[cfg(test)]
mod tests;
