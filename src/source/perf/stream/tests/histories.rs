//! Random histories of processes, told by all of their records or by what is left of these: whatever is missing, nobody is
//! born or ends twice, no process is said to have ended that has not, and all is right again when it has been put right.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::registers;
use crate::event::{Event, EventKind, Exit, ExitScope};
use crate::source::perf::look::NewImage;
use crate::source::perf::points::Point;
use crate::source::perf::record::{Record, Snapshot, What};
use crate::source::perf::stream::Stream;
use crate::source::ptrace::decode::Followed;
use crate::units::{Pid, Tid};

/// Numbers that no task of the system has. There are few of them, so that they are soon given to others.
const FIRST: i32 = i32::MAX - 100;
const NUMBERS: i32 = 9;
const MAIN: i32 = FIRST;

const THREAD: u64 = 0x10100;
const PROCESS: u64 = 17;
const SIGTERM: i32 = 15;

/// What one of the tasks does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    MakeThread,
    MakeProcess,
    Map,
    Unmap,
    Exit,
    ExitGroup,
    Terminated,
    Killed,
    Execute,
    FailToExecute,
}

fn deeds() -> impl Strategy<Value = Vec<(Deed, usize)>> {
    use Deed::*;
    let deed = prop_oneof![
        6 => Just(MakeThread),
        2 => Just(MakeProcess),
        2 => Just(Map),
        2 => Just(Unmap),
        4 => Just(Exit),
        1 => Just(ExitGroup),
        1 => Just(Terminated),
        1 => Just(Killed),
        1 => Just(Execute),
        1 => Just(FailToExecute),
    ];
    prop::collection::vec((deed, 0..64_usize), 1..60)
}

/// What really happens.
#[derive(Debug, Default)]
struct World {
    processes: BTreeMap<i32, BTreeSet<i32>>,
    records: Vec<Record>,
    /// What is to be told of them, in words.
    story: Vec<String>,
    /// The tasks of each process, before each record and at the end.
    states: Vec<BTreeMap<i32, BTreeSet<i32>>>,
    /// The programs that processes run, by numbers that are never used again; before each record, too.
    images: BTreeMap<i32, usize>,
    images_before: Vec<BTreeMap<i32, usize>>,
    /// Before each record, the processes that have been given their end.
    doomed: Vec<BTreeSet<i32>>,
    condemned: BTreeSet<i32>,
    mapped: u64,
}

impl World {
    fn new() -> World {
        let processes = BTreeMap::from([(MAIN, BTreeSet::from([MAIN]))]);
        World { processes, images: BTreeMap::from([(MAIN, 0)]), ..World::default() }
    }

    fn record(&mut self, tid: i32, pid: i32, what: What) {
        self.states.push(self.processes.clone());
        self.doomed.push(self.condemned.clone());
        self.images_before.push(self.images.clone());
        self.records.push(Record { at: self.records.len() as u64, tid: Tid(tid), pid: Pid(pid), what });
    }

    fn call(&mut self, tid: i32, pid: i32, point: Point, arguments: [u64; 3], result: i64) {
        let snapshot = Snapshot { registers: registers(arguments, result), stack: Box::default() };
        self.record(tid, pid, What::CallWithStack(point, Box::new(snapshot)));
    }

    fn tell(&mut self, tid: i32, what: &str) {
        self.story.push(format!("{} {what}", tid - FIRST));
    }

    fn new_number(&self) -> Option<i32> {
        let taken: BTreeSet<i32> = self.processes.values().flatten().copied().collect();
        (FIRST..FIRST + NUMBERS).find(|number| !taken.contains(number) && !self.processes.contains_key(number))
    }

    fn act(&mut self, deed: Deed, who: usize) {
        let tasks: Vec<(i32, i32)> =
            self.processes.iter().flat_map(|(pid, tids)| tids.iter().map(|tid| (*tid, *pid))).collect();
        let Some((tid, pid)) = tasks.get(who % tasks.len().max(1)).copied() else { return };
        match deed {
            Deed::MakeThread | Deed::MakeProcess => self.make(tid, pid, matches!(deed, Deed::MakeThread)),
            Deed::Map => {
                self.mapped += 0x10_000;
                let at = self.mapped as i64;
                self.call(tid, pid, Point::Exit(Followed::Mmap), [0, 4096, 3], at);
                self.tell(tid, "mmap");
            }
            Deed::Unmap => {
                self.mapped += 0x10_000;
                self.call(tid, pid, Point::Enter(Followed::Munmap), [self.mapped, 4096, 0], 0);
                self.call(tid, pid, Point::Exit(Followed::Munmap), [self.mapped, 4096, 0], 0);
                self.tell(tid, "munmap");
            }
            Deed::Exit => {
                self.call(tid, pid, Point::Enter(Followed::Exit), [3, 0, 0], 0);
                self.tell(tid, "exit 3");
                self.tell(tid, "ended Code(3)");
                self.end(tid, pid);
            }
            Deed::ExitGroup => {
                self.condemned.insert(pid);
                self.call(tid, pid, Point::Enter(Followed::ExitGroup), [4, 0, 0], 0);
                self.tell(tid, "exit_group 4");
                self.end_all(pid, "ended Code(4)");
            }
            Deed::Terminated => {
                self.condemned.insert(pid);
                self.record(tid, pid, What::Signal(SIGTERM));
                self.end_all(pid, "ended Signal(15)");
            }
            Deed::Killed => {
                self.condemned.insert(pid);
                self.end_all(pid, "ended Signal(9)");
            }
            Deed::Execute => self.execute(tid, pid),
            Deed::FailToExecute => {
                self.call(tid, pid, Point::Enter(Followed::Execve), [1, 2, 3], 0);
                self.call(tid, pid, Point::Exit(Followed::Execve), [1, 2, 3], -2);
                self.tell(tid, "executing");
                self.tell(tid, "execve");
            }
        }
    }

    fn make(&mut self, tid: i32, pid: i32, is_thread: bool) {
        let Some(child) = self.new_number() else { return };
        let (flags, child_pid) = if is_thread { (THREAD, pid) } else { (PROCESS, child) };
        self.call(tid, pid, Point::Enter(Followed::Clone), [flags, 0x9000, 0], 0);
        self.processes.entry(child_pid).or_default().insert(child);
        self.images.entry(child_pid).or_insert(self.records.len());
        self.record(tid, pid, What::Fork { child: Tid(child), child_pid: Pid(child_pid) });
        self.tell(tid, &format!("born {}", child - FIRST));
        self.call(child, child_pid, Point::Exit(Followed::Clone), [0; 3], 0);
        self.call(tid, pid, Point::Exit(Followed::Clone), [flags, 0x9000, 0], i64::from(child));
        self.tell(tid, "clone");
    }

    fn end(&mut self, tid: i32, pid: i32) {
        self.record(tid, pid, What::Exited);
        let tids = self.processes.get_mut(&pid).expect("it lives");
        tids.remove(&tid);
        if tids.is_empty() {
            self.processes.remove(&pid);
            self.images.remove(&pid);
            self.condemned.remove(&pid);
        }
    }

    fn end_all(&mut self, pid: i32, how: &str) {
        for tid in self.processes[&pid].clone() {
            self.tell(tid, how);
            self.end(tid, pid);
        }
    }

    fn execute(&mut self, tid: i32, pid: i32) {
        self.call(tid, pid, Point::Enter(Followed::Execve), [1, 2, 3], 0);
        self.tell(tid, "executing");
        self.condemned.insert(pid);
        for sibling in self.processes[&pid].clone() {
            if sibling != tid {
                self.tell(sibling, "superseded");
                self.end(sibling, pid);
            }
        }
        self.processes.insert(pid, BTreeSet::from([pid]));
        self.images.insert(pid, self.records.len());
        self.record(pid, pid, What::Executed { by_leader: tid == pid, is_i386: false });
        self.condemned.remove(&pid);
        self.tell(tid, "execve");
        self.tell(pid, &format!("exec by {}", tid - FIRST));
        self.call(pid, pid, Point::Exit(Followed::Execve), [0; 3], 0);
    }

    fn of(deeds: &[(Deed, usize)]) -> World {
        let mut world = World::new();
        for (deed, who) in deeds {
            world.act(*deed, *who);
        }
        world.states.push(world.processes.clone());
        world.images_before.push(world.images.clone());
        world.doomed.push(BTreeSet::new());
        world
    }
}

fn stream() -> Stream {
    let mut stream = Stream::new(Pid(MAIN), 0);
    let space = stream.new_space();
    stream.add(Tid(MAIN), Pid(MAIN), space);
    stream
}

fn take(stream: &mut Stream, record: &Record) {
    match record.what {
        What::Executed { by_leader, .. } if stream.knows(record.pid) => {
            stream.executed(record.at, record.tid, by_leader, NewImage::default());
        }
        What::Lost(_) => stream.lost(record.at),
        _ if stream.knows(record.pid) => stream.take(record.clone()),
        _ => {}
    }
}

fn in_words(Event { tid, kind, .. }: &Event) -> String {
    let what = match kind {
        EventKind::Syscall(syscall) => syscall.call.name().to_owned(),
        EventKind::Born(birth) => format!("born {}", birth.child.0 - FIRST),
        EventKind::Exiting(exiting) if exiting.scope == ExitScope::Group => format!("exit_group {}", exiting.code),
        EventKind::Exiting(exiting) => format!("exit {}", exiting.code),
        EventKind::Ended(exit) => format!("ended {exit:?}"),
        EventKind::Superseded => "superseded".to_owned(),
        EventKind::Executing => "executing".to_owned(),
        EventKind::Exec(exec) => format!("exec by {}", exec.former.0 - FIRST),
        other => format!("{other:?}"),
    };
    format!("{} {what}", tid.0 - FIRST)
}

/// What somebody knows who hears the events and nothing else.
#[derive(Debug)]
struct Listener {
    /// The process of each task, and the program that it ran when it was told of.
    living: HashMap<i32, (i32, Option<usize>)>,
}

impl Listener {
    /// Hears what is told of the record at `position`.
    fn hear(&mut self, stream: &mut Stream, world: &World, position: usize) {
        let (images, doomed) = (&world.images_before[position], &world.doomed[position]);
        while let Some((event, _)) = stream.pop() {
            let tid = event.tid.0;
            let of = self.living.get(&tid).copied();
            let words = in_words(&event);
            match &event.kind {
                EventKind::Born(birth) => {
                    let (pid, image) = of.unwrap_or_else(|| panic!("{words}: but the parent is not known"));
                    let image = if birth.pid.0 == pid { image } else { images.get(&birth.pid.0).copied() };
                    assert_eq!(self.living.insert(birth.child.0, (birth.pid.0, image)), None, "{words}: but it lives");
                }
                EventKind::Ended(_) | EventKind::Superseded => {
                    assert!(self.living.remove(&tid).is_some(), "{words}: but it is not known");
                }
                EventKind::Exec(_) => {
                    self.living.retain(|_, (pid, _)| *pid != tid);
                    self.living.insert(tid, (tid, images.get(&tid).copied()));
                }
                _ => {}
            }
            let ends_all = match &event.kind {
                EventKind::Exiting(exiting) => exiting.scope == ExitScope::Group,
                EventKind::Ended(exit) => matches!(exit, Exit::Signal(_)),
                EventKind::Superseded => true,
                _ => false,
            };
            let goes_on = |(pid, image): (i32, Option<usize>)| {
                !doomed.contains(&pid) && images.contains_key(&pid) && images.get(&pid).copied() == image
            };
            assert!(!(ends_all && of.is_some_and(goes_on)), "{words}: but the process goes on");
        }
    }

    fn processes(&self) -> BTreeMap<i32, BTreeSet<i32>> {
        let mut processes: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        for (tid, (pid, _)) in &self.living {
            processes.entry(*pid).or_default().insert(*tid);
        }
        processes
    }
}

/// Puts all that is known right, as of before the record at `position`; children of the later ones are born later.
fn heal(stream: &mut Stream, world: &World, position: usize) {
    let at = position as u64;
    let born_later: HashSet<Tid> = world.records[position..]
        .iter()
        .filter_map(|record| match record.what {
            What::Fork { child, .. } => Some(child),
            _ => None,
        })
        .collect();
    let known: BTreeSet<i32> = (FIRST..FIRST + NUMBERS).filter(|pid| stream.knows(Pid(*pid))).collect();
    for pid in known {
        let listed: HashSet<Tid> =
            world.states[position].get(&pid).into_iter().flatten().map(|tid| Tid(*tid)).collect();
        stream.correct_tasks(at, Pid(pid), &listed, &born_later);
    }
}

proptest! {
    /// Where nothing is lost, what is told is what happened.
    #[test]
    fn whole_histories(deeds in deeds()) {
        let world = World::of(&deeds);
        let mut stream = stream();
        for record in &world.records {
            take(&mut stream, record);
        }
        let told: Vec<String> = std::iter::from_fn(|| stream.pop()).map(|(event, _)| in_words(&event)).collect();
        prop_assert_eq!(told, world.story.clone());
        let left: BTreeSet<i32> = stream.tasks.keys().map(|tid| tid.0).collect();
        prop_assert_eq!(left, world.processes.into_values().flatten().collect::<BTreeSet<i32>>());
    }

    /// Where records are lost, nothing wrong is told, and everything is right when the tasks have been put right.
    #[test]
    fn histories_with_gaps(
        deeds in deeds(),
        lost in prop::collection::vec(prop::bool::weighted(0.25), 1..40),
        healed in 0..100_usize,
    ) {
        let world = World::of(&deeds);
        let mut stream = stream();
        let mut listener = Listener { living: HashMap::from([(MAIN, (MAIN, Some(0)))]) };
        let healed = healed * world.records.len() / 100;
        let mut missing = 0;
        for (position, record) in world.records.iter().enumerate() {
            if lost[position % lost.len()] {
                missing += 1;
                continue;
            }
            if missing > 0 {
                // A ring tells of its loss before it tells anything else.
                let what = What::Lost(missing);
                take(&mut stream, &Record { at: record.at, tid: Tid(0), pid: Pid(0), what });
                missing = 0;
            }
            if position == healed {
                heal(&mut stream, &world, position);
            }
            take(&mut stream, record);
            listener.hear(&mut stream, &world, position);
        }
        heal(&mut stream, &world, world.records.len());
        listener.hear(&mut stream, &world, world.records.len());
        // A task that has called exit is listed until it is gone: that its number has been given to another one, of which all
        // was lost, cannot be told.
        let ending: BTreeSet<i32> = stream.tasks.iter().filter(|(_, task)| task.ended).map(|(tid, _)| tid.0).collect();
        for (pid, tids) in listener.processes() {
            let left = world.processes.get(&pid).map(|left| left - &ending);
            prop_assert_eq!(Some(tids), left, "tasks of process {}", pid - FIRST);
        }
        let known = stream.tasks.iter().filter(|(_, task)| !task.ended);
        let known: BTreeSet<i32> = known.map(|(tid, _)| tid.0).collect();
        prop_assert_eq!(known, listener.living.into_keys().collect::<BTreeSet<i32>>());
    }
}
