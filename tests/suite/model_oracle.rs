//! The model against a dense oracle: a naive kernel with one entry per page decides what each call of a random
//! sequence returns and does, and after every step the model has to have the same pages.

mod exhaustive;
mod kernel;
mod story;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use self::kernel::{HEAP, Kernel, PAGES, address_of, range};
use self::story::{MOST_PROCESSES, Step, story};
use proptest::prelude::*;
use vmtrace::event::{
    Attached, AttachedTask, Birth, Call, CloneArgs, CloneCall, Event, EventKind, Exec, Exit, Prot, Sharing, Syscall,
    Vma,
};
use vmtrace::model::Model;
use vmtrace::model::mapping::{Kind, MappingId};
use vmtrace::model::space::{AddressSpace, Area, Backing, Marks};
use vmtrace::units::{Addr, PAGE, Pid, Tid, Time};

/// A change of one page that the comparison must not overlook.
#[derive(Clone, Copy, Debug)]
struct Flaw {
    at: usize,
    what: FlawKind,
}

#[derive(Clone, Copy, Debug)]
enum FlawKind {
    Protection,
    Sharing,
    Offset,
    Backing,
    Presence,
}

/// A process as both sides see it.
struct Process {
    tid: Tid,
    kernel: Kernel,
    /// The model's name for each of the kernel's mappings.
    names: HashMap<u32, MappingId>,
    /// Whether the model has taken something from the kernel's maps, which do not tell all.
    looked: bool,
    /// Whether these may have been of another moment than what it knew of the break, as far as it can see: a call has just
    /// left open what it did.
    doubted: bool,
}

/// The model and the kernels that it has to agree with.
struct Lab {
    model: Model,
    processes: Vec<Process>,
    next_tid: i32,
    now: Duration,
}

impl Lab {
    fn new() -> Lab {
        let tid = Tid(100);
        let kernel = Kernel::new();
        let mut lab = Lab { model: Model::new(), processes: Vec::new(), next_tid: 101, now: Duration::ZERO };
        let attached = Attached {
            pid: Pid(100),
            tasks: vec![AttachedTask { tid, pid: Pid(100), sp: None, tls: None }],
            maps: Box::default(),
            start_brk: None,
            read_implies_exec: false,
        };
        let exec = Exec {
            former: tid,
            maps: kernel.maps(|_| false),
            start_brk: Some(address_of(HEAP)),
            read_implies_exec: false,
        };
        lab.happen(tid, EventKind::Attached(Box::new(attached)));
        lab.happen(tid, EventKind::Exec(Box::new(exec)));
        // A new program's break is where it starts.
        let syscall = Syscall { call: Call::Brk { addr: Addr(0) }, result: Ok(address_of(HEAP).0), mapped: None };
        assert!(!lab.happen(tid, EventKind::Syscall(syscall)));
        lab.processes.push(Process { tid, kernel, names: HashMap::new(), looked: false, doubted: false });
        lab
    }

    fn happen(&mut self, tid: Tid, kind: EventKind) -> bool {
        self.now += Duration::from_micros(10);
        let applied = self.model.apply(&Event { at: Time(self.now), tid, call_stack: None, kind });
        applied.unclear.is_some()
    }

    fn space(&mut self, which: usize) -> &mut AddressSpace {
        let id = self.model.space_of(self.processes[which].tid).expect("the process is alive");
        self.model.space_mut(id).expect("so is its address space")
    }

    fn take(&mut self, which: usize, step: &Step) {
        let alive = self.processes.len();
        let Process { tid, ref mut kernel, ref mut looked, ref mut doubted, .. } = self.processes[which];
        match *step {
            Step::Call(call, aim, fate) => {
                let call = aim.at(call, kernel);
                let outcome = kernel.call(&call, fate);
                let maps = kernel.maps(|_| false);
                let syscall = Syscall { call, result: outcome.result, mapped: outcome.mapped };
                // Maps show a segment, but not which call attached it, and the heap, but not where the break is.
                let is_brk = matches!(call, Call::Brk { .. });
                let open = outcome.open || *looked && matches!(call, Call::Shmdt { .. }) || *doubted && is_brk;
                *doubted &= !is_brk;
                if self.happen(tid, EventKind::Syscall(syscall)) {
                    assert!(open, "{call:?} = {:?} leaves nothing open", outcome.result);
                    let process = &mut self.processes[which];
                    (process.looked, process.doubted) = (true, !is_brk);
                    self.happen(tid, EventKind::Maps(maps));
                    if matches!(call, Call::Mremap { .. } | Call::Shmdt { .. } | Call::Brk { .. }) {
                        self.forget_what_maps_do_not_show(which);
                    }
                }
            }
            Step::Fork if alive < MOST_PROCESSES => self.fork(which),
            Step::Exit if alive > 1 => {
                self.happen(tid, EventKind::Ended(Exit::Code(0)));
                self.processes.remove(which);
            }
            Step::Fork | Step::Exit => {}
            Step::Seal { at, count } => kernel.seal(at..(at + count).min(PAGES)),
            Step::Fault { at } => kernel.fault_below(at),
            Step::Look => {
                *looked = true;
                let maps = kernel.maps(|at| at % 2 == 0);
                self.happen(tid, EventKind::Maps(maps));
            }
        }
    }

    fn fork(&mut self, which: usize) {
        let (tid, child) = (self.processes[which].tid, Tid(self.next_tid));
        self.next_tid += 1;
        let args = CloneArgs {
            call: CloneCall::Fork,
            flags: 0,
            exit_signal: 17,
            stack: Addr(0),
            stack_size: 0,
            tls: Addr(0),
            parent_tid: Addr(0),
            child_tid: Addr(0),
        };
        self.happen(tid, EventKind::Born(Birth { child, pid: Pid(child.0), args, function: None }));
        let parent = &self.processes[which];
        let (kernel, names) = (parent.kernel.fork(), parent.names.clone());
        let (looked, doubted) = (parent.looked, parent.doubted);
        self.processes.push(Process { tid: child, kernel, names, looked, doubted });
    }

    /// After such a call the kernel's maps tell what lies where, but not whose it was.
    fn forget_what_maps_do_not_show(&mut self, which: usize) {
        let space = self.space(which);
        let seen: Vec<Option<(Area, bool)>> = (0..PAGES)
            .map(|at| {
                let area = *space.areas.at(address_of(at))?.1;
                Some((area, space.mappings[area.mapping].kind == Kind::Heap))
            })
            .collect();
        let Process { kernel, names, .. } = &mut self.processes[which];
        for (at, seen) in seen.into_iter().enumerate() {
            let (Some(mut page), Some((area, heap))) = (kernel.pages[at], seen) else { continue };
            if names.get(&page.mapping) != Some(&area.mapping) {
                let known = names.iter().find(|(_, id)| **id == area.mapping).map(|(name, _)| *name);
                page.mapping = known.unwrap_or_else(|| kernel.new_name());
                names.insert(page.mapping, area.mapping);
            }
            page.heap = heap;
            page.dont_fork = area.marks.dont_fork;
            page.guard = area.marks.guard;
            page.grows_down = area.marks.grows_down;
            kernel.pages[at] = Some(page);
        }
    }

    /// Model and kernel agree on every process.
    fn check(&mut self, split: u64) {
        for which in 0..self.processes.len() {
            let maps = self.processes[which].kernel.maps(|at| split >> at & 1 != 0);
            if let Err(mismatch) = self.space(which).compare(&maps) {
                panic!("{mismatch}");
            }
            let id = self.model.space_of(self.processes[which].tid).expect("alive");
            let space = self.model.space(id).expect("alive");
            let process = &mut self.processes[which];
            check_pages(space, &process.kernel, &mut process.names);
            check_invariants(space);
            process.kernel.have_seen();
        }
    }
}

/// Every page of the model is what the kernel has there.
fn check_pages(space: &AddressSpace, kernel: &Kernel, names: &mut HashMap<u32, MappingId>) {
    for (at, page) in kernel.pages.iter().enumerate() {
        let addr = address_of(at);
        let Some((_, area)) = space.areas.at(addr) else {
            assert!(page.is_none(), "the model has nothing at page {at}, the kernel {page:?}");
            continue;
        };
        let page = page.unwrap_or_else(|| panic!("the model has {area:?} at page {at}, the kernel nothing"));
        let backing = page.file.map_or(Backing::Anonymous, |file| Backing::file(file.number * PAGE, addr));
        let marks = Marks { dont_fork: page.dont_fork, guard: page.guard, grows_down: page.grows_down };
        let mapping = *names.entry(page.mapping).or_insert(area.mapping);
        let expected = Area { mapping, prot: page.prot, sharing: page.sharing, backing, marks };
        assert_eq!(*area, expected, "page {at}: {page:?}");
    }
    let live: HashSet<u32> = kernel.pages.iter().flatten().map(|page| page.mapping).collect();
    names.retain(|name, _| live.contains(name));
    let distinct: HashSet<MappingId> = names.values().copied().collect();
    assert_eq!(distinct.len(), names.len(), "two mapping calls are two mappings");
    assert_eq!(space.mappings.len(), names.len(), "no other mapping is left");
}

/// What holds for any address space.
fn check_invariants(space: &AddressSpace) {
    let mut bytes: HashMap<MappingId, u64> = HashMap::new();
    let mut last: Option<(Addr, Area)> = None;
    for (range, area) in space.areas.iter() {
        *bytes.entry(area.mapping).or_default() += range.bytes();
        assert_ne!(last, Some((range.start(), *area)), "{range} continues the piece below it");
        assert!(last.is_none_or(|(end, _)| end <= range.start()), "{range} overlaps the piece below it");
        last = Some((range.end(), *area));
    }
    for id in bytes.keys() {
        assert!(space.mappings.contains_key(*id), "an area's mapping is gone");
    }
    for (id, mapping) in &space.mappings {
        assert_eq!(Some(&mapping.bytes), bytes.get(&id), "bytes of {mapping:?}");
        assert_ne!(mapping.bytes, 0);
    }
}

fn anonymous(range: vmtrace::units::Range) -> Vma {
    let name = Box::default();
    Vma { range, prot: Prot::READ, sharing: Sharing::Private, offset: 0, inode: 0, device: 0, name }
}

/// What /proc/PID/maps would show if one page were different; none where that is no difference.
fn flawed(kernel: &Kernel, flaw: Flaw) -> Option<Box<[Vma]>> {
    let mut maps = kernel.maps(|at| at == flaw.at || at == flaw.at + 1).into_vec();
    let page = range(flaw.at..flaw.at + 1);
    let Some(which) = maps.iter().position(|vma| vma.range.contains(page.start())) else {
        let above = maps.iter().take_while(|vma| vma.range.end() <= page.start()).count();
        let grows = kernel.pages.get(flaw.at + 1).is_some_and(|page| page.is_some_and(|page| page.grows_down));
        match maps.get_mut(above).filter(|vma| vma.range.start() == page.end() && !vma.is_file() && !grows) {
            // The region above reaches further down, as only a stack may.
            Some(vma) => vma.range = vmtrace::units::Range::new(page.start(), vma.range.end())?,
            // With the rights of what grows above it, it could have grown.
            None if grows && kernel.pages[flaw.at + 1].is_some_and(|page| page.prot == Prot::READ) => {
                maps.insert(above, Vma { prot: Prot::NONE, ..anonymous(page) });
            }
            None => maps.insert(above, anonymous(page)),
        }
        return Some(maps.into());
    };
    // Stacks that grow are not split when rendered, so the one page is cut out here.
    let whole = maps.remove(which);
    let part = |pages: vmtrace::units::Range| {
        let offset = whole.offset + if whole.is_file() { pages.start().0 - whole.range.start().0 } else { 0 };
        Vma { range: pages, offset, ..whole.clone() }
    };
    let mut changed = part(page);
    match flaw.what {
        FlawKind::Protection => changed.prot = if changed.prot == Prot::NONE { Prot::READ } else { Prot::NONE },
        FlawKind::Sharing if changed.sharing == Sharing::Private => changed.sharing = Sharing::Shared,
        FlawKind::Sharing => changed.sharing = Sharing::Private,
        FlawKind::Offset if changed.is_file() => changed.offset += 64 * PAGE,
        FlawKind::Offset => return None,
        FlawKind::Backing if changed.is_file() => (changed.inode, changed.device) = (0, 0),
        FlawKind::Backing => changed.inode = 1,
        FlawKind::Presence => {}
    }
    let present = !matches!(flaw.what, FlawKind::Presence);
    let below = vmtrace::units::Range::new(whole.range.start(), page.start()).map(part);
    let above = vmtrace::units::Range::new(page.end(), whole.range.end()).map(part);
    let pieces = [below, present.then_some(changed), above];
    maps.splice(which..which, pieces.into_iter().flatten());
    Some(maps.into())
}

fn flaw() -> impl Strategy<Value = Flaw> {
    use FlawKind::{Backing, Offset, Presence, Protection, Sharing};
    let what = prop_oneof![Just(Protection), Just(Sharing), Just(Offset), Just(Backing), Just(Presence)];
    (0..PAGES, what).prop_map(|(at, what)| Flaw { at, what })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(250))]

    /// After every step of any story the model has, page by page, what the kernel has, wherever its VMAs end.
    #[test]
    fn the_model_follows_the_kernel(story in story(60)) {
        let mut lab = Lab::new();
        for (which, step, split) in story {
            let which = which % lab.processes.len();
            lab.take(which, &step);
            lab.check(split);
        }
    }

    /// A single page that differs in a single attribute is found.
    #[test]
    fn the_comparison_overlooks_nothing(story in story(30), flaws in prop::collection::vec(flaw(), 20)) {
        let mut lab = Lab::new();
        for (which, step, split) in story {
            let which = which % lab.processes.len();
            lab.take(which, &step);
            lab.check(split);
        }
        let kernel = lab.processes[0].kernel.clone();
        for flaw in flaws {
            let Some(maps) = flawed(&kernel, flaw) else { continue };
            let found = lab.space(0).compare(&maps);
            prop_assert!(found.is_err(), "{flaw:?} in {maps:?}");
        }
    }

    /// Whatever the kernel's maps say is adopted, and what the model knows of its mappings stays consistent.
    #[test]
    fn any_maps_can_be_adopted(one in story(30), other in story(30), split in any::<u64>()) {
        let [mut lab, truth] = [one, other].map(|story| {
            let mut lab = Lab::new();
            for (which, step, split) in story {
                let which = which % lab.processes.len();
                lab.take(which, &step);
                lab.check(split);
            }
            lab
        });
        let maps = truth.processes[0].kernel.maps(|at| split >> at & 1 != 0);
        let space = lab.space(0);
        space.adopt(&maps);
        check_invariants(space);
        prop_assert_eq!(space.compare(&maps), Ok(()));
        prop_assert_eq!(space.compare(&truth.processes[0].kernel.maps(|_| false)), Ok(()));
        let before: Vec<_> = space.mappings.keys().collect();
        space.adopt(&maps);
        prop_assert_eq!(before, space.mappings.keys().collect::<Vec<_>>(), "adopting twice changes nothing");
    }
}
