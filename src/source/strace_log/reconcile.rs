//! From items to events in an order that the model may believe.
//!
//! A log cannot hold calls back, so what it shows is an interval for each: from its first line to its last. Within it the
//! kernel has done what the call does; where two intervals overlap the log's order is not the kernel's. What follows
//! from the addresses and numbers puts them in order:
//!
//! | the log shows | so |
//! |---|---|
//! | a new mapping where a call that is under way unmaps | that call was first: the new mapping waits for its return |
//! | a task of which nothing is known, while a clone is under way | it may be the child: it waits for the return |
//! | ends of tasks, no calls of exit, and nothing more of their process | the process's end: its tasks ended together |
//! | an execve under another number than it was called | a thread has replaced its process |
//! | a task of which nothing is known, its locks beside the number of a child | it is that child, under another number |

mod births;
mod ends;
mod numbers;

use std::collections::{HashMap, HashSet, VecDeque};

use numbers::{Numbered, Numbers};
pub use numbers::{number_of_list, runs_or_exits};

use super::beginning::WhoWasThere;
use super::call::Name;
use super::gaps::Kin;
use super::join::{Item, UNNAMED, What};
use crate::abi::clone::{THREAD, VM};
use crate::event::{Attached, AttachedTask, Call, CloneArgs, CloneCall, Event, EventKind, Exit, Syscall};
use crate::tasks::{OfProcess, Tasks};
use crate::units::{Addr, Pid, Range, Tid, Time};

/// So many items wait for something to come, at most; a damaged log may not have it.
const PATIENCE: usize = 10_000;

/// So many tasks are in calls that unmap at the same time, at most: a machine has hardly more processors, and a log may never
/// show their returns.
const MOST_UNMAPS: usize = 1024;

/// Puts items in order.
#[derive(Debug)]
pub struct Reconciler {
    main: Pid,
    tasks: Tasks<Task>,
    /// What tasks are called.
    numbers: Numbers,
    /// Address spaces so far.
    memories: u32,
    /// Tasks inside a call that makes another one.
    births_under_way: usize,
    /// Tasks inside a call that unmaps.
    unmaps_under_way: VecDeque<Tid>,
    /// What tasks have done that may be the children of births under way.
    early: Vec<Item>,
    /// How often that was looked at, of late, and nothing of it had a task.
    looks: u32,
    /// What waits for the return of a call that unmaps, and of whose.
    waiting: Option<(Tid, VecDeque<Item>)>,
    /// Ends without a call of exit, by process.
    ends: HashMap<Pid, Vec<Item>>,
    /// Processes that have called exit_group, and of which there are tasks left.
    ending: HashSet<Pid>,
    /// Whether the log shows ends.
    has_ends: bool,
    /// Who has called execve, by the number under which they go on.
    formers: HashMap<Tid, Tid>,
    /// Items that are to be taken before the next.
    todo: VecDeque<Item>,
    out: VecDeque<Event>,
    kin: Kin,
    command: Option<Box<[String]>>,
    exit: Option<Exit>,
    now: Time,
}

/// A live task.
#[derive(Debug)]
struct Task {
    pid: Pid,
    /// Its address space.
    memory: u32,
    /// The call that it is in.
    inside: Option<Inside>,
    /// It has called exit or exit_group with this code.
    exiting: Option<i32>,
    /// It was made in the log, and nothing of it has been seen so far.
    is_unseen_child: bool,
    numbered: Numbered,
}

impl OfProcess for Task {
    fn pid(&self) -> Pid {
        self.pid
    }
}

/// A call that has not returned.
#[derive(Clone, Copy, Debug)]
struct Inside {
    name: Name,
    /// What it unmaps.
    frees: Option<Range>,
}

impl Reconciler {
    /// Begins with tasks that were there before the log, all of one process; none but the main one where that `is_launched`.
    pub fn new(WhoWasThere { main, others, is_launched, has_ends }: WhoWasThere) -> Reconciler {
        let mut tasks = vec![Tid::from(main)];
        tasks.extend(others.into_iter().filter(|tid| *tid != Tid::from(main) && *tid != UNNAMED));
        let mut new = Reconciler {
            main,
            tasks: Tasks::default(),
            numbers: Numbers::default(),
            memories: 0,
            births_under_way: 0,
            unmaps_under_way: VecDeque::new(),
            early: Vec::new(),
            looks: 0,
            waiting: None,
            ends: HashMap::new(),
            ending: HashSet::new(),
            has_ends,
            formers: HashMap::new(),
            todo: VecDeque::new(),
            out: VecDeque::new(),
            kin: Kin::default(),
            command: None,
            exit: None,
            now: Time::default(),
        };
        for tid in &tasks {
            new.tasks.insert(*tid, Task::new(main, 0));
        }
        if !is_launched {
            new.admit_strangers();
        }
        // strace attaches to one thread, and to the others only with -f.
        new.kin.strangers = tasks.len() as u64 - 1;
        let attached = |tid| AttachedTask { tid, pid: main, sp: None, tls: None };
        let attached = Attached {
            pid: main,
            tasks: tasks.into_iter().map(attached).collect(),
            maps: Box::default(),
            start_brk: None,
            read_implies_exec: false,
        };
        new.tell(Time::default(), Tid::from(main), EventKind::Attached(Box::new(attached)));
        new
    }

    /// Takes the next item, and gives the next event if there is one already.
    #[inline]
    pub fn pass(&mut self, item: Item) -> Option<Event> {
        if self.out.is_empty()
            && self.is_simple(&item)
            && let Item { at, tid, what: What::Returned(call, result) } = item
        {
            self.now = self.now.max(at);
            let syscall = Syscall { call, result, mapped: None };
            return Some(Event { at, tid, call_stack: None, kind: EventKind::Syscall(syscall) });
        }
        self.take(item);
        self.pop()
    }

    /// Takes the next item.
    fn take(&mut self, item: Item) {
        self.step(item);
        while let Some(item) = self.todo.pop_front() {
            self.step(item);
        }
    }

    /// Nothing more comes: what still waits has waited for nothing.
    pub fn finish(&mut self) {
        loop {
            if let Some((on, _)) = self.waiting {
                self.give_up_waiting(on);
            } else if !self.early.is_empty() {
                self.early_are_strangers();
            } else if let Some(item) = self.todo.pop_front() {
                self.step(item);
            } else {
                break;
            }
        }
        let pids: Vec<Pid> = self.ends.keys().copied().collect();
        for pid in pids {
            self.believe_ends(pid);
        }
    }

    /// The next event, in order.
    pub fn pop(&mut self) -> Option<Event> {
        self.out.pop_front()
    }

    /// Whether no task is left.
    pub fn is_over(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How the main process ended.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// The process that the report is about.
    pub fn main(&self) -> Pid {
        self.main
    }

    /// The command line of the main process, where the log shows how it was executed.
    pub fn command(&self) -> Option<&[String]> {
        self.command.as_deref()
    }

    /// What became of the tasks that were made.
    pub fn kin(&self) -> Kin {
        self.kin
    }

    fn tell(&mut self, at: Time, tid: Tid, kind: EventKind) {
        self.out.push_back(Event { at, tid, call_stack: None, kind });
    }

    fn step(&mut self, item: Item) {
        if let What::RobustList(list) = item.what {
            self.has_list(item.tid, list);
        }
        let tid = self.named(item.tid);
        if let Some((on, items)) = &mut self.waiting
            && Some(*on) != tid
        {
            let on = *on;
            items.push_back(item);
            if items.len() >= PATIENCE {
                self.give_up_waiting(on);
            }
            return;
        }
        let Some(tid) = tid.or_else(|| self.arrives(&item)) else { return };
        self.now = self.now.max(item.at);
        let Item { at, what, .. } = item;
        self.show(tid, &what);
        match what {
            What::Shown | What::Attached | What::RobustList(_) => {}
            What::Number(number) => self.is_told(tid, number),
            What::Command(command) => {
                if self.pid(tid) == Some(self.main) {
                    self.command.get_or_insert(command);
                }
            }
            What::Entered(name, call) => self.enter(at, tid, name, call),
            What::Exiting(name, code) => self.exiting(at, tid, name, code),
            What::Returned(call, result) => self.returned(at, tid, call, result),
            What::Lost(name) => self.lost(at, tid, name),
            What::MadeSomehow(child) => {
                self.leave(tid);
                let args = CloneArgs::bare(CloneCall::Clone3, VM | THREAD);
                self.born(at, tid, child, args);
            }
            What::Ended(exit) => self.ended(at, tid, exit),
            What::Superseded(by) => {
                let by = self.known(by).unwrap_or(by);
                let inside = self.tasks.get_mut(&by).and_then(|task| task.inside.take());
                self.leave(tid);
                if let Some(task) = self.tasks.get_mut(&tid) {
                    task.inside = inside;
                }
                self.formers.insert(tid, by);
            }
        }
    }

    /// Whether this is the whole of a call by a known task, with nothing under way that it could be in an order with.
    /// Nearly all items are that.
    fn is_simple(&self, item: &Item) -> bool {
        let is_whole = match &item.what {
            What::Returned(call, _) => !matches!(call, Call::Clone(_) | Call::Execve { .. } | Call::Execveat { .. }),
            _ => false,
        };
        is_whole
            && self.numbers.are_plain()
            && self.waiting.is_none()
            && self.unmaps_under_way.is_empty()
            && self.ends.is_empty()
            && self.tasks.get(&item.tid).is_some_and(|task| task.inside.is_none() && !task.is_unseen_child)
    }

    /// The task of a line's number; none where nothing is known of it. There are lines without a number while there is but one.
    fn named(&self, line: Tid) -> Option<Tid> {
        let known = self.known(line);
        if line != UNNAMED || known.is_some() {
            return known;
        }
        let only = self.tasks.keys().next().filter(|_| self.tasks.len() == 1).copied();
        only.or_else(|| self.known(Tid::from(self.main)))
    }

    fn pid(&self, tid: Tid) -> Option<Pid> {
        self.tasks.get(&tid).map(|task| task.pid)
    }

    /// A task does something, so it lives, and its process does.
    fn show(&mut self, tid: Tid, what: &What) {
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        let pid = task.pid;
        if std::mem::take(&mut task.is_unseen_child) {
            self.kin.shown += 1;
            self.kin.elsewhere -= u64::from(task.numbered.is_inner());
            self.lines_have_come(tid);
        }
        if !self.ends.is_empty() && !matches!(what, What::Ended(_)) {
            self.believe_ends(pid);
        }
    }

    fn todo_first(&mut self, items: impl IntoIterator<Item = Item, IntoIter: DoubleEndedIterator>) {
        for item in items.into_iter().rev() {
            self.todo.push_front(item);
        }
    }

    fn enter(&mut self, at: Time, tid: Tid, name: Name, call: Option<Call>) {
        self.leave(tid);
        let frees = call.and_then(|call| match call {
            Call::Munmap { addr, len } => Range::of_len(addr, len),
            Call::Mremap { old, old_len, .. } => Range::of_len(old, old_len),
            _ => None,
        });
        if let Some(task) = self.tasks.get_mut(&tid) {
            task.inside = Some(Inside { name, frees });
        }
        self.births_under_way += usize::from(name.is_birth());
        if frees.is_some() {
            // The oldest of so many is long over, or never returns.
            if self.unmaps_under_way.len() >= MOST_UNMAPS {
                self.unmaps_under_way.pop_front();
            }
            self.unmaps_under_way.push_back(tid);
        }
        if matches!(name, Name::Execve | Name::Execveat) {
            self.tell(at, tid, EventKind::Executing);
        }
    }

    /// The call that a task is in is over; gives which it was.
    fn leave(&mut self, tid: Tid) -> Option<Name> {
        let inside = self.tasks.get_mut(&tid)?.inside.take()?;
        if inside.frees.is_some() {
            self.unmaps_under_way.retain(|other| *other != tid);
        }
        if inside.name.is_birth() {
            self.births_under_way -= 1;
        }
        Some(inside.name)
    }

    /// Whoever has waited for this task's call to return goes on, after what it has done.
    fn release(&mut self, tid: Tid) {
        if let Some((_, items)) = self.waiting.take_if(|(on, _)| *on == tid) {
            self.todo_first(items);
        }
    }

    /// The return that is waited for does not come. It must have happened all the same.
    fn give_up_waiting(&mut self, on: Tid) {
        let frees = self.tasks.get(&on).and_then(|task| task.inside?.frees);
        self.leave(on);
        if let Some(range) = frees {
            let call = Call::Munmap { addr: range.start(), len: range.bytes() };
            self.tell(self.now, on, EventKind::Syscall(Syscall { call, result: Ok(0), mapped: None }));
        }
        self.release(on);
    }

    /// A call of this task's does not return; but if another one has waited for what it unmaps, it has done that.
    fn room_was_made(&mut self, tid: Tid) {
        if self.waiting.as_ref().is_some_and(|(on, _)| *on == tid) {
            self.give_up_waiting(tid);
        }
    }

    fn returned(&mut self, at: Time, tid: Tid, call: Call, result: Result<u64, syscalls::Errno>) {
        if let Ok(result) = result
            && let Some(on) = self.makes_room(tid, &call, result)
        {
            let item = Item { at, tid: self.line(tid), what: What::Returned(call, Ok(result)) };
            self.waiting = Some((on, VecDeque::from([item])));
            return;
        }
        let entered = self.leave(tid);
        match (call, result) {
            (Call::Clone(args), Ok(child)) => {
                if let Some(child) = i32::try_from(child).ok().filter(|child| *child > 0) {
                    self.born(at, tid, Tid(child), args);
                }
            }
            (Call::Execve { .. } | Call::Execveat { .. }, Ok(_)) => return self.executed(at, tid, entered.is_some()),
            _ => self.tell(at, tid, EventKind::Syscall(Syscall { call, result, mapped: None })),
        }
        if entered.is_some() {
            self.birth_over();
            self.release(tid);
        }
    }

    /// Who is about to unmap what lies where this call has put something new.
    fn makes_room(&self, tid: Tid, call: &Call, result: u64) -> Option<Tid> {
        if self.unmaps_under_way.is_empty() {
            return None;
        }
        let len = match *call {
            Call::Mmap { len, .. } | Call::MapShadowStack { len, .. } => len,
            Call::Mremap { new_len, .. } => new_len,
            _ => return None,
        };
        let range = Range::of_len(Addr(result), len)?;
        let memory = self.tasks.get(&tid)?.memory;
        let overlaps = |other: &&Tid| {
            let task = self.tasks.get(other).filter(|task| task.memory == memory && **other != tid);
            let frees = task.and_then(|task| task.inside?.frees);
            frees.is_some_and(|frees| frees.intersection(range).is_some())
        };
        self.unmaps_under_way.iter().find(overlaps).copied()
    }

    /// A call has not returned, or nobody knows what.
    fn lost(&mut self, at: Time, tid: Tid, name: Name) {
        self.room_was_made(tid);
        self.leave(tid);
        if matches!(name, Name::Exit | Name::ExitGroup)
            && !self.has_ends
            && let Some(code) = self.tasks.get(&tid).and_then(|task| task.exiting)
        {
            self.gone(at, tid, Exit::Code(code & 0xff));
        }
        self.birth_over();
        self.release(tid);
    }
}

impl Task {
    fn new(pid: Pid, memory: u32) -> Task {
        Task { pid, memory, inside: None, exiting: None, is_unseen_child: false, numbered: Numbered::default() }
    }
}
