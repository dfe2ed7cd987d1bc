//! What /proc shows while the target runs on, and its place among the events.
//!
//! A reading takes a while, and what happens meanwhile may be in it or not. So it stands for the moment when it began:
//! what was mapped since is taken out of it, for the events are going to tell of that.

use std::collections::{HashMap, HashSet};

use super::Perf;
use super::attach::is_i386;
use super::kept::Kept;
use super::points::Point;
use super::record::{Record, What};
use super::sorter::Sorter;
use super::stream::{self, SpaceNo};
use crate::abi::clone;
use crate::event::{Call, CloneArgs, EventKind, Vma};
use crate::procfs::{self, task};
use crate::source::ptrace::decode::{self, Abi, Arguments, Followed};
use crate::sys::perf::monotonic_ns;
use crate::units::{Addr, Pid, Range, Tid, page_up};

/// An address space is looked at no more often than this, in nanoseconds.
const LOOK_EVERY: u64 = 20_000_000;
/// All of them after a loss.
const HEAL_EVERY: u64 = 200_000_000;
/// A call that has changed mappings may take so long to return that it was not seen to yet, in nanoseconds.
const RETURNS_WITHIN: u64 = 20_000_000;
/// Where nothing has been told for so long, in nanoseconds, whoever has ended may have ended unseen.
const CENSUS_AFTER: u64 = 1_000_000_000;
/// Address spaces that are compared with the kernel's at the end.
const MOST_CLOSED: usize = 256;
/// So often the model is put right before it is compared for the last time.
pub(super) const MOST_ATTEMPTS: u32 = 3;

/// A reading of an address space's maps.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) tid: Tid,
    pub(super) space: SpaceNo,
    pub(super) read_from: u64,
    pub(super) read_until: u64,
    pub(super) reading: Reading,
    /// All tasks of the process, and what it runs, where something may have been missed.
    pub(super) census: Option<Census>,
}

/// What a process is.
#[derive(Debug)]
pub(super) struct Census {
    pub(super) pid: Pid,
    pub(super) tasks: HashSet<Tid>,
    pub(super) image: Image,
    /// It ends, or is in the middle of execve: whoever is not among its tasks any more may have been killed by that.
    pub(super) is_over: bool,
}

impl Census {
    /// Of the process that had this number at `since`, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) fn read(pid: Pid, since: u64) -> Census {
        let tasks = living(pid, since);
        let image = |tid: &Tid| Image::read(*tid, is_i386(*tid), None);
        let image = tasks.iter().min().map_or_else(|| Image::unseen(false), image);
        let is_over = !tasks.iter().any(|tid| task::goes_on(*tid)) || tasks.iter().copied().any(task::sleeps_in_execve);
        Census { pid, tasks, image, is_over }
    }
}

/// What was mapped, and through a task of which process that was read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) maps: Box<[Vma]>,
    pub(super) reader: Pid,
}

/// What execve has put in place.
#[derive(Debug, Default)]
pub struct NewImage {
    /// What is mapped.
    pub maps: Box<[Vma]>,
    /// Where the break starts.
    pub start_brk: Option<Addr>,
    /// Whether PROT_READ implies PROT_EXEC.
    pub read_implies_exec: bool,
    /// Whether it is a 32-bit program, whose calls cannot be seen.
    pub is_i386: bool,
}

/// A reading of the image that execve has put in place.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) new: NewImage,
    pub(super) read_from: u64,
    pub(super) read_until: u64,
}

impl Image {
    /// Reads it, a while after execve; the maps from what is kept of it, if that is.
    pub(super) fn read(tid: Tid, is_i386: bool, kept: Option<&Kept>) -> Image {
        let read_from = monotonic_ns();
        let maps = match kept {
            Some(kept) => kept.maps(tid).to_vec().into(),
            None => procfs::maps::read(tid).unwrap_or_default(),
        };
        let new = NewImage {
            maps,
            start_brk: task::start_brk(tid),
            read_implies_exec: task::read_implies_exec(tid),
            is_i386,
        };
        Image { new, read_from, read_until: monotonic_ns() }
    }

    /// One that was gone before it could be read: nothing has to be waited for.
    pub(super) fn unseen(is_i386: bool) -> Image {
        Image { new: NewImage { is_i386, ..NewImage::default() }, read_from: 0, read_until: 0 }
    }
}

/// The end of following, while processes live on.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) read_until: u64,
    pub(super) pictures: HashMap<SpaceNo, Picture>,
    /// How often the model had to be put right instead of being compared.
    pub(super) attempts: u32,
    /// All that had happened before has been told, and what is unsure in them been found out.
    pub(super) complete: bool,
}

/// An address space at the end.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) read_from: u64,
    pub(super) reading: Reading,
    /// Where calls may have changed something while it was read.
    pub(super) unsure: Vec<Range>,
}

impl Perf {
    /// Reads what is wanted. What is read when the last pictures have been taken would be ahead of them.
    pub(super) fn start_looks(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let now = monotonic_ns();
        self.wanted.extend(std::iter::from_fn(|| self.stream.doubtful()));
        if self.to_heal && now.saturating_sub(self.last_look) > HEAL_EVERY {
            self.heal();
        } else if !self.wanted.is_empty() && now.saturating_sub(self.last_look) > LOOK_EVERY {
            for tid in std::mem::take(&mut self.wanted) {
                self.look(tid, None);
            }
        }
    }

    fn heal(&mut self) {
        self.to_heal = false;
        self.heals += 1;
        for (tid, pid) in self.one_of_each() {
            self.look(tid, Some(pid));
        }
    }

    /// After a silence, and no more often: whether the processes are still there. What was lost last is told of only by what
    /// comes behind it.
    pub(super) fn take_census(&mut self) {
        let now = monotonic_ns();
        if now.saturating_sub(self.last_record.max(self.last_census)) < CENSUS_AFTER {
            return;
        }
        self.last_census = now;
        if self.one_of_each().into_iter().any(|(_, pid)| living(pid, self.known_since(pid)).is_empty()) {
            self.to_heal = true;
        }
    }

    fn known_since(&self, pid: Pid) -> u64 {
        self.stream.known_since(pid).unwrap_or(u64::MAX)
    }

    /// A task of each process.
    fn one_of_each(&self) -> Vec<(Tid, Pid)> {
        let by_process: HashMap<Pid, Tid> = self.stream.tasks.iter().map(|(tid, task)| (task.pid, *tid)).collect();
        by_process.into_iter().map(|(pid, tid)| (tid, pid)).collect()
    }

    fn look(&mut self, tid: Tid, census_of: Option<Pid>) {
        let Some((pid, space)) = self.stream.place_of(tid) else { return };
        if census_of.is_none() && self.looks.iter().any(|look| look.space == space) {
            return;
        }
        let read_from = monotonic_ns();
        let census = census_of.map(|pid| Census::read(pid, self.known_since(pid)));
        let reading = self.read(space, tid, pid);
        let read_until = monotonic_ns();
        self.last_look = read_until;
        self.looks.push_back(Look { tid, space, read_from, read_until, reading, census });
    }

    /// The maps of an address space, through any of its tasks that lives; if possible of the process whose it is: that another
    /// one has executed a program may have been lost.
    fn read(&self, space: SpaceNo, tid: Tid, pid: Pid) -> Reading {
        let tasks = self.stream.tasks.iter().filter(|(_, task)| task.space == space);
        let others = tasks.map(|(tid, task)| (*tid, task.pid));
        let owner = self.stream.owner(space).filter(|owner| *owner != pid);
        let owners = owner.and_then(|owner| others.clone().find(|(_, pid)| *pid == owner));
        let owners = owners.into_iter().flat_map(|(tid, owner)| [(tid, owner), (owner.into(), owner)]);
        let readers = owners.chain([(tid, pid), (pid.into(), pid)]).chain(others.take(16));
        let mut readings =
            readers.filter_map(|(tid, reader)| Some(Reading { maps: procfs::maps::read(tid).ok()?, reader }));
        let nothing = Reading { maps: Box::default(), reader: pid };
        readings.find(|reading| !reading.maps.is_empty()).unwrap_or(nothing)
    }

    /// Whether what was read by `until` through a process is of this address space. Not if it had another one by then: it was
    /// in execve, which is told later, or is not in it any more. A child of vfork shares its parent's until it executes.
    fn is_of(&mut self, space: SpaceNo, reader: Pid, until: u64) -> bool {
        let is_here = self.stream.tasks.values().any(|task| task.pid == reader && task.space == space);
        is_here && !self.executes(reader, until)
    }

    /// Whether a process is in execve, or will have been by then.
    fn executes(&mut self, pid: Pid, until: u64) -> bool {
        let executes = |what: &What| match what {
            What::Executed { .. } => true,
            What::Call(Point::Enter(followed), _) | What::CallWithStack(Point::Enter(followed), _) => {
                matches!(followed, Followed::Execve | Followed::Execveat)
            }
            _ => false,
        };
        let mut ahead = self.sorter.pending().take_while(|record| record.at <= until);
        self.stream.executes(pid) || ahead.any(|record| record.pid == pid && executes(&record.what))
    }

    /// What was read takes its place among the events.
    pub(super) fn tell_look(&mut self) -> bool {
        let Some(look) = self.looks.pop_front() else { return false };
        let Look { tid, space, read_from, read_until, reading: Reading { maps, reader }, census } = look;
        if let Some(Census { pid, tasks, image, is_over }) = census {
            if self.has_executed_unseen(pid, &image) {
                self.execute_unseen(pid, read_from, image);
            } else if is_over {
                self.stream.ends_as_a_whole(read_from, pid);
            }
            self.correct_tasks(tid, read_from, &tasks);
        }
        let Some(teller) = self.teller(space, tid) else { return true };
        if !maps.is_empty() && !self.is_of(space, reader, read_until) {
            self.wanted.push(teller);
        } else if !maps.is_empty() {
            let pids = self.processes_in(space);
            let maps = before(&mut self.sorter, maps, None, read_from, read_until, |record| pids.contains(&record.pid));
            self.stream.tell(space, read_from, teller, EventKind::Maps(maps));
            // What was doubtful before it was read is so no more.
            self.wanted.extend(std::iter::from_fn(|| self.stream.doubtful()));
            let Perf { wanted, stream, .. } = self;
            wanted.retain(|tid| stream.place_of(*tid).is_none_or(|(_, other)| other != space));
        }
        true
    }

    /// Whether a process runs another program than what was told says: the record of its execve was lost, and with it the
    /// threads have gone that it had.
    fn has_executed_unseen(&mut self, pid: Pid, image: &Image) -> bool {
        let Some((_, space)) = self.stream.place_of(pid.into()) else { return false };
        let known = self.stream.start_brk(space);
        let is_another = image.new.start_brk.zip(known).is_some_and(|(now, known)| now != known);
        is_another && !image.new.maps.is_empty() && !self.executes(pid, image.read_until)
    }

    /// Whether a process is in execve at this moment, or runs another program than what was told says.
    pub(super) fn has_left_program(&self, pid: Pid) -> bool {
        let known = self.stream.place_of(pid.into()).and_then(|(_, space)| self.stream.start_brk(space));
        let now = task::start_brk(pid.into());
        now.zip(known).is_some_and(|(now, known)| now != known)
            || task::threads(pid).unwrap_or_default().into_iter().any(task::sleeps_in_execve)
    }

    /// It has executed that one.
    fn execute_unseen(&mut self, pid: Pid, at: u64, image: Image) {
        let Image { mut new, read_until, .. } = image;
        new.maps = before(&mut self.sorter, new.maps, None, at, read_until, |record| record.pid == pid);
        self.forget_kept(pid, at);
        self.stream.executed(at, pid.into(), true, new);
    }

    /// A task of the address space, `tid` if that is still one.
    fn teller(&self, space: SpaceNo, tid: Tid) -> Option<Tid> {
        let is_here = self.stream.tasks.get(&tid).is_some_and(|task| task.space == space);
        let other = || self.stream.tasks.iter().find(|(_, task)| task.space == space).map(|(tid, _)| *tid);
        if is_here { Some(tid) } else { other() }
    }

    fn processes_in(&self, space: SpaceNo) -> HashSet<Pid> {
        self.stream.tasks.values().filter(|task| task.space == space).map(|task| task.pid).collect()
    }

    /// Puts right which tasks there are of the process of `tid`, by those that it had at the time `at`.
    fn correct_tasks(&mut self, tid: Tid, at: u64, listed: &HashSet<Tid>) {
        let Some((pid, _)) = self.stream.place_of(tid) else { return };
        let born_later: HashSet<Tid> = self
            .sorter
            .pending()
            .filter_map(|record| match record.what {
                What::Fork { child, .. } => Some(child),
                _ => None,
            })
            .collect();
        if listed.is_empty() {
            self.see_end(pid);
        }
        self.stream.correct_tasks(at, pid, listed, &born_later);
    }

    /// Tasks of the address space of `tid` whose births are in the records and have not been told, each with its
    /// thread-local storage or its stack's top.
    pub(super) fn births_ahead(&mut self, tid: Tid) -> Vec<(Tid, Option<Addr>)> {
        let Some((_, space)) = self.stream.place_of(tid) else { return Vec::new() };
        let pids = self.processes_in(space);
        let Perf { stream, sorter, .. } = self;
        let mut creating: HashMap<Tid, CloneArgs> = HashMap::new();
        let mut ahead = Vec::new();
        for record in sorter.pending().filter(|record| pids.contains(&record.pid)) {
            match &record.what {
                What::CallWithStack(Point::Enter(followed), snapshot) => {
                    creating.extend(
                        stream::clone_args(record.tid, *followed, &snapshot.registers, Some(snapshot))
                            .map(|args| (record.tid, args)),
                    );
                }
                What::Fork { child, child_pid } if pids.contains(child_pid) => {
                    let args = creating.get(&record.tid).copied().or_else(|| stream.creating(record.tid));
                    let anchor =
                        args.and_then(
                            |args| {
                                if args.flags & clone::SETTLS != 0 { Some(args.tls) } else { args.stack_top() }
                            },
                        );
                    ahead.push((*child, anchor));
                }
                _ => {}
            }
        }
        ahead
    }

    /// Records were lost.
    pub(super) fn take_lost(&mut self, at: u64, records: u64) {
        self.lost += records;
        self.to_heal = true;
        self.stream.lost(at);
        // That of execve may be among them.
        self.let_go();
    }

    /// Reads all address spaces for the last time.
    pub(super) fn begin_closing(&mut self) {
        self.closing = Some(self.pictures());
    }

    fn pictures(&self) -> Closing {
        let mut one_of_each: HashMap<SpaceNo, (Pid, Tid)> = HashMap::new();
        for (tid, task) in &self.stream.tasks {
            one_of_each.entry(task.space).or_insert((task.pid, *tid));
        }
        let pictures = one_of_each
            .into_iter()
            .take(MOST_CLOSED)
            .map(|(space, (pid, tid))| {
                let read_from = monotonic_ns();
                (space, Picture { read_from, reading: self.read(space, tid, pid), unsure: Vec::new() })
            })
            .filter(|(_, picture)| !picture.reading.maps.is_empty())
            .collect();
        Closing { read_until: monotonic_ns(), pictures, attempts: 0, complete: false }
    }

    /// What is not in the model, because records were lost or calls ran at the same time, is put right before it is compared:
    /// there are new pictures then, which are to be compared when all before them has been told. Where that comes to no end,
    /// the last ones are, which leave out all that calls have touched since.
    fn put_right(&mut self, closing: &mut Closing) -> bool {
        if closing.attempts > MOST_ATTEMPTS {
            return false;
        }
        if self.to_heal {
            if closing.attempts < MOST_ATTEMPTS {
                self.skip_to_now();
            }
            self.heal();
        }
        self.wanted.extend(std::iter::from_fn(|| self.stream.doubtful()));
        for tid in std::mem::take(&mut self.wanted) {
            self.look(tid, None);
        }
        if self.looks.is_empty() {
            return false;
        }
        closing.attempts += 1;
        if closing.attempts <= MOST_ATTEMPTS {
            *closing = Closing { attempts: closing.attempts, ..self.pictures() };
        }
        true
    }

    /// Nothing is told of what has happened until now: all is read anew, and where more is told than we can take in, catching up
    /// would only lose more.
    fn skip_to_now(&mut self) {
        self.round();
        self.since = monotonic_ns();
        self.sorter.clear();
        self.batch.clear();
        self.stream.lost(self.since);
    }

    /// A record of something that happened before the last reading was at its end, and perhaps after this picture was taken.
    pub(super) fn blur(&mut self, record: &Record) {
        let Some(closing) = &mut self.closing else { return };
        let Some((_, space)) = self.stream.place_of(record.tid) else { return };
        if let Some(picture) = closing.pictures.get_mut(&space).filter(|picture| picture.read_from <= record.at) {
            picture.unsure.extend(touched(record));
        }
    }

    /// Whether all that had happened before the last reading has been told. To be asked when there is nothing to tell.
    pub(super) fn is_closed(&mut self) -> bool {
        // An execve that has been taken in and not been told is neither behind nor ahead.
        let (horizon, is_between) = (self.sorter.horizon(), self.image.is_some() || !self.looks.is_empty());
        let is_due = |closing: &Closing| !is_between && horizon >= closing.read_until + RETURNS_WITHIN;
        let Some(mut closing) = self.closing.take_if(|closing| !closing.complete && is_due(closing)) else {
            return self.closing.as_ref().is_some_and(|closing| closing.complete);
        };
        if self.put_right(&mut closing) {
            self.closing = Some(closing);
            return false;
        }
        closing.complete = true;
        closing.pictures.retain(|space, picture| self.is_of(*space, picture.reading.reader, closing.read_until));
        for (space, picture) in &mut closing.pictures {
            let tasks = &self.stream.tasks;
            let is_here = |record: &Record| tasks.values().any(|task| task.space == *space && task.pid == record.pid);
            let meanwhile = self.sorter.pending().filter(|record| is_here(record)).flat_map(touched);
            picture.unsure.extend(meanwhile);
            picture.unsure.extend(self.stream.under_way(*space));
        }
        self.closing = Some(closing);
        true
    }
}

/// The tasks of a process that have not ended; none where its number is that of one that was made after `since`, in nanoseconds of
/// CLOCK_MONOTONIC.
fn living(pid: Pid, since: u64) -> HashSet<Tid> {
    if task::was_made_after(pid, since) {
        return HashSet::new();
    }
    let lives = |tid: &Tid| task::status(*tid).is_ok_and(|status| !matches!(status.state, 'Z' | 'X'));
    task::threads(pid).unwrap_or_default().into_iter().filter(lives).collect()
}

/// `maps`, read between `since` and `until`, as they were at `since`: without what was mapped meanwhile by those whose
/// records `is_theirs` says to be. `start_brk` is where the break began, if all of the heap is from after that.
pub(super) fn before(
    sorter: &mut Sorter,
    maps: Box<[Vma]>,
    start_brk: Option<Addr>,
    since: u64,
    until: u64,
    is_theirs: impl Fn(&Record) -> bool,
) -> Box<[Vma]> {
    let mut maps = maps.into_vec();
    let meanwhile = sorter.pending().skip_while(|record| record.at < since).take_while(|record| record.at <= until);
    for record in meanwhile.filter(|record| is_theirs(record)) {
        if let Some(range) = mapped(record, start_brk) {
            take_out(&mut maps, range);
        }
    }
    maps.into()
}

/// What the call that a record tells of has mapped.
fn mapped(record: &Record, start_brk: Option<Addr>) -> Option<Range> {
    let (followed, call, result) = returned(record)?;
    let result = result.ok()?;
    match call {
        Call::Mmap { len, .. } | Call::MapShadowStack { len, .. } => Range::of_len(Addr(result), len),
        Call::Mremap { new_len, .. } => Range::of_len(Addr(result), new_len),
        Call::Brk { .. } => Range::new(Addr(page_up(start_brk?.0)), Addr(page_up(result))),
        Call::Shmat { .. } if followed == Followed::Shmat => Range::of_len(Addr(result), 1),
        _ => None,
    }
}

/// All pages that the call that a record tells of may have changed.
fn touched(record: &Record) -> Vec<Range> {
    let Some((_, call, result)) = returned(record) else { return Vec::new() };
    let at_result = |len| result.ok().and_then(|result| Range::of_len(Addr(result), len));
    let ranges = match call {
        Call::Mmap { len, .. } | Call::MapShadowStack { len, .. } => [at_result(len), None],
        Call::Munmap { addr, len } | Call::Mprotect { addr, len, .. } | Call::PkeyMprotect { addr, len, .. } => {
            [Range::of_len(addr, len), None]
        }
        Call::Mremap { old, old_len, new_len, .. } => [Range::of_len(old, old_len), at_result(new_len)],
        // How far these reach the arguments do not tell.
        Call::Brk { .. } | Call::Shmat { .. } | Call::Shmdt { .. } | Call::IoSetup { .. } | Call::IoDestroy { .. } => {
            [Range::of_len(Addr(0), u64::MAX >> 1), None]
        }
        _ => [None, None],
    };
    ranges.into_iter().flatten().collect()
}

fn returned(record: &Record) -> Option<(Followed, Call, Result<u64, syscalls::Errno>)> {
    let (followed, registers) = match &record.what {
        What::Call(Point::Exit(followed), registers) => (*followed, registers.as_user()),
        What::CallWithStack(Point::Exit(followed), snapshot) => (*followed, snapshot.registers),
        _ => return None,
    };
    if matches!(followed, Followed::Clone | Followed::Clone3 | Followed::Execve | Followed::Execveat) {
        return None;
    }
    let call = decode::call(record.tid, Abi::X86_64, followed, &registers, Arguments::Unused)?.call;
    Some((followed, call, decode::result(Abi::X86_64, followed, &registers)))
}

/// Takes pages out of maps.
fn take_out(maps: &mut Vec<Vma>, range: Range) {
    let mut kept = Vec::with_capacity(maps.len());
    for vma in maps.drain(..) {
        if vma.range.intersection(range).is_none() {
            kept.push(vma);
            continue;
        }
        let below = Range::new(vma.range.start(), range.start().min(vma.range.end()));
        let above = Range::new(range.end().max(vma.range.start()), vma.range.end());
        for rest in [below, above].into_iter().flatten() {
            let skipped = rest.start().0 - vma.range.start().0;
            let offset = if vma.is_file() { vma.offset + skipped } else { vma.offset };
            kept.push(Vma { range: rest, offset, ..vma.clone() });
        }
    }
    *maps = kept;
}
