//! `vmtrace inspect`: what is leaked already, by looks from outside. The target is neither stopped nor traced, unless its
//! lists change faster than they can be read.
//!
//! The thread library's lists and the kernel's list of tasks are read at least twice (`confirm` has the rule), then the
//! maps; [`crate::diagnose::survey`] judges what was seen.

pub(crate) mod arenas;
mod confirm;
pub mod refused;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use jiff::Zoned;
use nix::errno::Errno;

use crate::diagnose::breakdown::{is_counted, virtual_bytes};
use crate::diagnose::finding::{Confidence, Note, NoteKind};
use crate::diagnose::survey::{KnownStack, Snapshot, Standing, survey};
use crate::event::Vma;
use crate::procfs::memory::{Page, ResidentPages};
use crate::procfs::present::LiveMemory;
use crate::procfs::task::{self, TaskStatus};
use crate::procfs::{self, limits};
use crate::report::draft::{Draft, Places};
use crate::report::words::duration;
use crate::report::{Clock, Counts, Engine, Memory, Mode, Report, Target};
use crate::source::ptrace::halt::halted;
use crate::symbols::capture::{CallStacks, Task};
use crate::symbols::names::perf_map::Writer;
use crate::sys;
use crate::threadlib::glibc::{self, Located};
use crate::threadlib::{List, ListedThread, Unavailable};
use crate::units::{Addr, CodeId, Pid, Range, Tid};
use confirm::{Confirmation, HighestNumber, Look};
use refused::{InspectError, explain};

/// How long the lists are tried to be read when they change all the time.
const LISTS_WITHIN: Duration = Duration::from_secs(2);

/// How often the target is stopped at most for one look at its lists, and how far apart: it may be caught in a change.
const PAUSES: u32 = 20;
const BETWEEN_PAUSES: Duration = Duration::from_millis(1);

/// When it had to stand still for longer, it is not stopped again.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often, and how far apart, a thread that runs is asked for its stack pointer, which it has only while it sleeps.
const POINTER_TRIES: u32 = 5;
const BETWEEN_POINTER_TRIES: Duration = Duration::from_millis(1);

/// Looks at a process that goes on meanwhile.
///
/// # Errors
/// Why there is nothing to be seen.
pub fn inspect(pid: Pid, min_confidence: Confidence) -> Result<Draft, InspectError> {
    let clock = Clock::new(Zoned::now());
    let began = Instant::now();
    let process = Process::find(pid)?;
    let maps = process.maps()?;
    let others = task::sharers(process.pid, process.reader);
    let located = glibc::locate(process.reader, &maps, &LiveMemory::of(process.reader));
    let lists = located.as_ref().map_err(Clone::clone).and_then(|located| process.watch(located, &others));
    // As the lists are, not as they were before a second look.
    let maps = process.maps()?;
    let tasks = process.tasks();
    let pointers: Vec<Option<Addr>> = stack_pointers(&tasks);
    let known: Vec<Addr> = pointers.iter().filter_map(|pointer| *pointer).collect();
    let ranges: Vec<Range> = maps.iter().filter(|vma| is_counted(vma)).map(|vma| vma.range).collect();
    let pages = ResidentPages::open(process.reader).ok();
    let resident = pages.as_ref().and_then(|pages| pages.ranges(&ranges).ok()).unwrap_or_default();
    let is_written = |addr| {
        let mut page = [Page::Missing];
        let known = pages.as_ref().and_then(|pages| pages.states(addr, &mut page).ok());
        known == Some(1) && page != [Page::Missing]
    };
    // The maps may show what has come on the lists since the last look at these.
    let later = located.ok().and_then(|located| process.lists(&located, &others).ok()).unwrap_or_default();
    let stacks = lists.as_ref().ok().map(|seen| stacks(seen, &later, &known));
    let mut code = CallStacks::default();
    let functions = functions(stacks.as_deref().unwrap_or_default(), process.reader, &mut code);
    let found = survey(&Snapshot {
        pid,
        maps: &maps,
        resident: &resident,
        stacks: stacks.as_deref(),
        arenas: &arenas::find(&LiveMemory::of(process.reader), &maps, word(&maps), is_written),
        stack_pointers: &known,
        without_pointer: pointers.len() - known.len(),
        functions: &functions,
    });
    let mut notes = found.diagnosis.notes;
    notes.extend(lists.err().map(|why| unavailable(pid, &why)));
    let pauses = process.pauses.get();
    notes.extend((pauses.count > 0).then(|| paused(pid, pauses)));
    process.still_there()?;
    let threads = tasks.len() as u64;
    let mut places = Places::of(&found.diagnosis.findings, &code);
    places.writers.extend(Writer::of(pid).map(|writer| (pid, writer)));
    let report = Report {
        target: Target {
            pid,
            command: task::command_line(pid),
            mode: Mode::Inspect,
            engine: Engine::Procfs,
            from_start: false,
            follow: None,
            exit: None,
        },
        clock,
        followed: began.elapsed(),
        at_end: false,
        counts: Counts {
            stops: u64::from(pauses.count),
            threads_seen: threads,
            threads_live: threads,
            mappings_live: maps.len() as u64,
            ..Counts::default()
        },
        memory: Memory {
            virtual_bytes: Some(virtual_bytes(&maps)),
            resident_bytes: task::size(process.reader).map(|(_, resident)| resident),
            vmas: Some(maps.len() as u64),
            max_map_count: limits::max_map_count(),
        },
        breakdown: found.breakdown,
        verify: None,
        findings: found.diagnosis.findings,
        notes,
        min_confidence,
    };
    Ok(Draft { report, places })
}

/// The places of the functions that these stacks' threads ran.
fn functions(stacks: &[KnownStack], reader: Tid, code: &mut CallStacks) -> HashMap<Addr, CodeId> {
    let orphaned = stacks.iter().filter(|stack| matches!(stack.standing, Standing::Orphaned(_)));
    let routines: HashSet<Addr> = orphaned.map(|stack| stack.start_routine).collect();
    routines
        .into_iter()
        .filter_map(|routine| Some((routine, code.locate(Task { tid: reader, held: None }, 0, routine)?)))
        .collect()
}

/// The target.
struct Process {
    pid: Pid,
    status: TaskStatus,
    /// Tells it from a later one of its number.
    start_ticks: Option<u64>,
    /// A task through which its memory can be read: the leader unless that has ended.
    reader: Tid,
    /// How often it had to be stopped for a look.
    pauses: Cell<Pauses>,
}

/// Stops of the target.
#[derive(Clone, Copy, Debug, Default)]
struct Pauses {
    count: u32,
    longest: Duration,
}

impl Pauses {
    fn and(self, pause: Duration) -> Pauses {
        Pauses { count: self.count + 1, longest: self.longest.max(pause) }
    }
}

impl Process {
    fn find(pid: Pid) -> Result<Process, InspectError> {
        let status = task::status(pid.into()).map_err(|_| InspectError::NoSuchProcess(pid))?;
        if status.pid != pid {
            return Err(InspectError::IsThread { tid: pid.into(), pid: status.pid });
        }
        let mut threads = task::threads(pid).map_err(|_| InspectError::NoSuchProcess(pid))?;
        threads.sort_unstable_by_key(|tid| (tid.0 != pid.0, *tid));
        let lives = |tid: &Tid| task::status(*tid).is_ok_and(|status| !matches!(status.state, 'Z' | 'X'));
        let reader = threads.into_iter().find(lives).ok_or(InspectError::Zombie(pid))?;
        Ok(Process { pid, status, start_ticks: task::start_ticks(pid.into()), reader, pauses: Cell::default() })
    }

    /// Fails where the number has come to mean another process.
    fn still_there(&self) -> Result<(), InspectError> {
        let same = task::start_ticks(self.pid.into()) == self.start_ticks;
        if same { Ok(()) } else { Err(InspectError::Vanished(self.pid)) }
    }

    fn maps(&self) -> Result<Box<[Vma]>, InspectError> {
        let maps = procfs::maps::read(self.reader).map_err(|error| explain(self.pid, self.status, error))?;
        if maps.is_empty() {
            let is_kernel = task::size(self.reader) == Some((0, 0)) && task::command_line(self.pid).is_empty();
            let kernel_thread = is_kernel && !matches!(task::status(self.reader), Ok(now) if now.state == 'Z');
            return Err(match kernel_thread {
                true => InspectError::KernelThread(self.pid),
                false => InspectError::Vanished(self.pid),
            });
        }
        // The maps may be seen with fewer rights than the memory.
        match std::fs::File::open(format!("/proc/{}/mem", self.reader)) {
            Err(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied
                    && sys::may_read_memory(self.reader) == Err(Errno::EPERM) =>
            {
                Err(explain(self.pid, self.status, error))
            }
            _ => Ok(maps),
        }
    }

    /// All tasks of the address space, also those of other processes that share it.
    fn tasks(&self) -> Vec<Tid> {
        let mut tasks = task::threads(self.pid).unwrap_or_default();
        for other in task::sharers(self.pid, self.reader) {
            tasks.extend(task::threads(other).unwrap_or_default());
        }
        tasks
    }

    /// Looks at the lists as often as it takes.
    fn watch(&self, located: &Located, others: &[Pid]) -> Result<Confirmation, Unavailable> {
        let highest = HighestNumber(task::number_limit().unwrap_or(i32::MAX));
        let mut confirmation = Confirmation::new(self.look(located, others)?, highest);
        let began = Instant::now();
        while !confirmation.is_settled(began.elapsed()) {
            std::thread::sleep(confirmation.pause());
            confirmation.again(self.look(located, others)?);
        }
        Ok(confirmation)
    }

    /// One look: the lists, then the tasks.
    fn look(&self, located: &Located, others: &[Pid]) -> Result<Look, Unavailable> {
        // Where it cannot be had, every look is one after any number of new tasks.
        let last_before = task::last_number().unwrap_or(0);
        let threads = self.lists(located, others)?;
        let last_after = task::last_number().unwrap_or(i32::MAX);
        let mut tids = task::threads(self.pid).unwrap_or_default();
        tids.extend(others.iter().flat_map(|other| task::threads(*other).unwrap_or_default()));
        let has_question = threads.iter().any(|thread| thread.list == List::Used && thread.tid.0 == 0);
        let activity = match has_question {
            true => tids.iter().filter_map(|tid| Some((*tid, task::activity(*tid)?))).collect(),
            false => HashMap::new(),
        };
        Ok(Look { last_before, threads, last_after, activity })
    }

    /// The lists, tried for longer than the moment of one change. Where they change all the time, they stand still for a
    /// look.
    fn lists(&self, located: &Located, others: &[Pid]) -> Result<Vec<ListedThread>, Unavailable> {
        let (memory, began) = (LiveMemory::of(self.reader), Instant::now());
        let within = if self.pauses.get().count > 0 { Duration::ZERO } else { LISTS_WITHIN };
        loop {
            match located.read(&memory) {
                Err(Unavailable::Inconsistent | Unavailable::NoMemory) if began.elapsed() < within => {}
                Err(Unavailable::Inconsistent) => break,
                result => return result.map(|lists| lists.threads),
            }
        }
        let pids: Vec<Pid> = others.iter().copied().chain([self.pid]).collect();
        for _ in 0..PAUSES {
            if self.pauses.get().longest > LONGEST_PAUSE {
                break;
            }
            let began = Instant::now();
            let seen = halted(&pids, || located.read_once(&memory));
            self.pauses.set(self.pauses.get().and(began.elapsed()));
            match seen {
                // It was stopped in the middle of a change.
                Ok(Err(Unavailable::Inconsistent)) => std::thread::sleep(BETWEEN_PAUSES),
                Ok(result) => return result.map(|lists| lists.threads),
                Err(_) => break,
            }
        }
        Err(Unavailable::Inconsistent)
    }
}

/// The thread library's stacks, and how it stands with each. `later` are those that it had after the last look.
fn stacks(seen: &Confirmation, later: &[ListedThread], pointers: &[Addr]) -> Vec<KnownStack> {
    let standing = |thread: &ListedThread, range: Range| match thread.list {
        List::Cached => Standing::Cached,
        List::User => Standing::Program,
        // Whatever the list says: a task is on it.
        List::Used if pointers.iter().any(|sp| range.contains(*sp)) => Standing::Live,
        List::Used => seen.left(thread).map_or(Standing::Live, Standing::Orphaned),
    };
    let stack = |thread: &ListedThread| {
        let block = thread.stack?;
        Some(KnownStack {
            range: block.range,
            guard_bytes: block.guard_bytes,
            start_routine: thread.start_routine,
            standing: standing(thread, block.range),
        })
    };
    let mut stacks: Vec<KnownStack> = seen.last().threads.iter().filter_map(stack).collect();
    stacks.sort_unstable_by_key(|stack| stack.range.start());
    let is_new = |one: &KnownStack| {
        let above = stacks.partition_point(|stack| stack.range.end() <= one.range.start());
        stacks.get(above).is_none_or(|stack| stack.range.start() >= one.range.end())
    };
    let mut new: Vec<KnownStack> = later.iter().filter_map(stack).filter(is_new).collect();
    // One look does not tell that a thread is left.
    new.iter_mut()
        .filter(|stack| matches!(stack.standing, Standing::Orphaned(_)))
        .for_each(|stack| stack.standing = Standing::Live);
    stacks.append(&mut new);
    stacks
}

/// Where each task's stack pointer is; none for one that runs whenever it is asked.
fn stack_pointers(tasks: &[Tid]) -> Vec<Option<Addr>> {
    let ask = |tid: &Tid| task::blocked_in(*tid).and_then(|blocked| blocked.sp);
    let mut pointers: Vec<Option<Addr>> = tasks.iter().map(ask).collect();
    for _ in 1..POINTER_TRIES {
        if pointers.iter().all(Option::is_some) {
            break;
        }
        std::thread::sleep(BETWEEN_POINTER_TRIES);
        for (tid, pointer) in tasks.iter().zip(&mut pointers) {
            *pointer = pointer.or_else(|| ask(tid));
        }
    }
    pointers
}

/// Bytes in a pointer of the process, by where its highest mapping lies.
fn word(maps: &[Vma]) -> usize {
    let highest = maps.iter().filter(|vma| is_counted(vma)).map(|vma| vma.range.end().0).max();
    if highest.is_some_and(|end| end > 1 << 32) { 8 } else { 4 }
}

fn paused(pid: Pid, pauses: Pauses) -> Note {
    let text = format!(
        "its thread lists change faster than they can be read: all its threads were stopped {} times, for at most {}",
        pauses.count,
        duration(pauses.longest)
    );
    Note { kind: NoteKind::Paused, pid: Some(pid), regions: u64::from(pauses.count), virtual_bytes: 0, text }
}

fn unavailable(pid: Pid, why: &Unavailable) -> Note {
    let text = format!(
        "never-joined threads of the past cannot be seen here: {why}; following the process shows those to come \
         (vmtrace -p {pid})"
    );
    Note { kind: NoteKind::Incomplete, pid: Some(pid), regions: 0, virtual_bytes: 0, text }
}
