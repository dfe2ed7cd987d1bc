//! The model by itself: generated events, no target.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use vmtrace::event::{Attached, AttachedTask, Call, Event, EventKind, Syscall};
use vmtrace::model::Model;
use vmtrace::units::{Addr, PAGE, Pid, Tid, Time};

const TASK: Tid = Tid(1);
/// Mappings that are there all the time.
const LIVE: u64 = 50_000;
/// What each may take, in bytes, with room around it.
const SLOT: u64 = 8 * PAGE;
const BASE: u64 = 0x7000_0000_0000;

/// Where the next mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// Round and round, one behind the other.
    InOrder,
    /// Anywhere.
    AtRandom,
}

/// A process with [`LIVE`] mappings.
struct Process {
    model: Model,
    now: u64,
}

impl Process {
    fn new() -> Process {
        let task = AttachedTask { tid: TASK, pid: Pid(1), sp: None, tls: None };
        let attached = Attached {
            pid: Pid(1),
            tasks: vec![task],
            maps: Box::default(),
            start_brk: None,
            read_implies_exec: false,
        };
        let mut process = Process { model: Model::new(), now: 0 };
        process.happen(EventKind::Attached(Box::new(attached)));
        for slot in 0..LIVE {
            process.mmap(slot);
        }
        process
    }

    fn happen(&mut self, kind: EventKind) {
        self.now += 1;
        self.model.apply(&Event { at: Time(Duration::from_micros(self.now)), tid: TASK, call_stack: None, kind });
    }

    fn call(&mut self, call: Call, result: u64) {
        self.happen(EventKind::Syscall(Syscall { call, result: Ok(result), mapped: None }));
    }

    fn mmap(&mut self, slot: u64) {
        const PRIVATE_ANONYMOUS: u32 = 0x22;
        let call = Call::Mmap { addr: Addr(0), len: SLOT / 2, prot: 3, flags: PRIVATE_ANONYMOUS, fd: -1, offset: 0 };
        self.call(call, BASE + slot * SLOT);
    }

    fn munmap(&mut self, slot: u64) {
        self.call(Call::Munmap { addr: Addr(BASE + slot * SLOT), len: SLOT / 2 }, 0);
    }
}

/// Applies `events` calls of munmap and mmap to a process with many mappings; says how many that were for each second
/// of processor time.
pub fn events_per_second(places: Places, events: u64) -> f64 {
    let mut process = Process::new();
    let mut random = 88_172_645_463_325_252_u64;
    let begin = processor_seconds();
    for round in 0..events / 2 {
        let slot = match places {
            Places::InOrder => round % LIVE,
            Places::AtRandom => {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % LIVE
            }
        };
        process.munmap(slot);
        process.mmap(slot);
    }
    assert_eq!(process.model.mappings_live() as u64, LIVE);
    events as f64 / (processor_seconds() - begin)
}

/// What this process has used so far.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("there is such a clock");
    Duration::from(time).as_secs_f64()
}
