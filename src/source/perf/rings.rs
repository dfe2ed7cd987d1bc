//! The events of all CPUs, and the rings that they write into: one ring for each CPU, whatever the number of tasks.

use std::fs;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use super::points::{self, Point, Wanted};
use super::record::{self, COMMON, Layout, Layouts, RAW, REGS_USER, Record, STACK_USER};
use super::tracefs::Tracefs;
use crate::procfs;
use crate::sys::perf::{CpuEvent, EventAttr, Ring};

/// Of the memory of all rings together, in bytes.
const MOST_BYTES: usize = 256 << 20;
/// Of one ring, which is halved as long as the kernel does not allow that much.
const MOST_RING_BYTES: usize = 8 << 20;
const LEAST_RING_BYTES: usize = 32 << 10;

/// Why the system's events cannot be had. One line: what, why, what to do.
#[derive(Debug, Error)]
pub enum PerfError {
    /// perf_event_open refuses.
    #[error(
        "not permitted to use perf events{}: run vmtrace as root or with CAP_PERFMON, or use --engine ptrace",
        paranoid(*level)
    )]
    NotPermitted {
        /// kernel.perf_event_paranoid.
        level: Option<i64>,
    },
    /// No tracepoints.
    #[error(
        "the kernel's tracepoints cannot be read ({0}): mount tracefs on /sys/kernel/tracing, run vmtrace as root, or use --engine ptrace"
    )]
    NoTracefs(Errno),
    /// The kernel was built without them.
    #[error("this kernel has no tracepoint {0}: it is built without CONFIG_FTRACE_SYSCALLS; use --engine ptrace")]
    NoTracepoint(String),
    /// Too many files.
    #[error(
        "perf events need {wanted} open files, and the limit is {limit} (ulimit -Hn): raise it, or use --engine ptrace"
    )]
    TooManyFiles {
        /// How many.
        wanted: u64,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// Something else.
    #[error("perf events cannot be used: {}; use --engine ptrace", .0.desc())]
    Other(Errno),
}

fn paranoid(level: Option<i64>) -> String {
    level.map(|level| format!(" (kernel.perf_event_paranoid is {level})")).unwrap_or_default()
}

/// Open events and their rings.
#[derive(Debug)]
pub struct Rings {
    cpus: Vec<Cpu>,
    layouts: Layouts,
    /// The number of the tracepoint at the entry of mmap.
    mmap: Option<u64>,
}

#[derive(Debug)]
struct Cpu {
    number: u32,
    /// Owns the ring, and tells of births and ends where they are wanted.
    leader: CpuEvent,
    ring: Ring,
    ring_bytes: usize,
    events: Vec<CpuEvent>,
    /// The one that shows where some mmap calls come from, which changes.
    mapper: Option<CpuEvent>,
}

impl Rings {
    /// Of no CPU at all.
    #[cfg(test)]
    pub(super) fn none() -> Rings {
        Rings { cpus: Vec::new(), layouts: Layouts::new(), mmap: None }
    }

    /// Opens the followed tracepoints on every CPU, with rings of at most `ring_bytes`. They tell nothing before
    /// [`Rings::enable`].
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn open(ring_bytes: Option<usize>) -> Result<Rings, PerfError> {
        let mut numbered = Vec::new();
        let mmap;
        {
            let tracefs = Tracefs::find().map_err(PerfError::NoTracefs)?;
            for wanted in points::wanted() {
                match tracefs.number(&wanted.tracepoint).map_err(PerfError::NoTracefs)? {
                    Some(number) => numbered.push((wanted, number)),
                    // Kernels lack calls that they were built without; these are never among them.
                    None if ["_mmap", "_exec"].iter().any(|end| wanted.tracepoint.ends_with(end)) => {
                        return Err(PerfError::NoTracepoint(wanted.tracepoint));
                    }
                    None => {}
                }
            }
            mmap = tracefs.number("syscalls/sys_enter_mmap").map_err(PerfError::NoTracefs)?;
        }
        let online = online_cpus();
        allow_files((online.len() * (numbered.len() + 5)) as u64 + 64)?;
        let fair = prev_power_of_two(MOST_BYTES / online.len().max(1));
        let most = ring_bytes.unwrap_or(MOST_RING_BYTES.min(fair)).max(LEAST_RING_BYTES);
        let mut rings = Rings { cpus: Vec::new(), layouts: Layouts::new(), mmap };
        for cpu in online {
            match rings.open_cpu(cpu, &numbered, true, most) {
                // It has gone offline this moment.
                Err(Errno::ENODEV) => {}
                result => result.map_err(explain)?,
            }
        }
        if rings.cpus.is_empty() { Err(PerfError::Other(Errno::ENODEV)) } else { Ok(rings) }
    }

    /// Those of one tracepoint alone, which tell from now on.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn of_one(wanted: Wanted) -> Result<Rings, PerfError> {
        let tracefs = Tracefs::find().map_err(PerfError::NoTracefs)?;
        let number = tracefs.number(&wanted.tracepoint).map_err(PerfError::NoTracefs)?;
        let Some(number) = number else { return Err(PerfError::NoTracepoint(wanted.tracepoint)) };
        let online = online_cpus();
        let mut rings = Rings { cpus: Vec::new(), layouts: Layouts::new(), mmap: None };
        for cpu in online {
            match rings.open_cpu(cpu, &[(wanted.clone(), number)], false, LEAST_RING_BYTES) {
                Err(Errno::ENODEV) => {}
                result => result.map_err(explain)?,
            }
        }
        rings.enable()?;
        Ok(rings)
    }

    fn open_cpu(
        &mut self,
        number: u32,
        numbered: &[(Wanted, u64)],
        tells_tasks: bool,
        most: usize,
    ) -> Result<(), Errno> {
        /// PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
        const SOFTWARE: u32 = 1;
        const DUMMY: u64 = 9;
        /// `task`
        const TELLS_TASKS: u64 = 1 << 13;
        let mut bytes = most;
        let (leader, ring) = loop {
            let mut attr = EventAttr::every(SOFTWARE, DUMMY);
            attr.flags |= if tells_tasks { TELLS_TASKS } else { 0 };
            attr.sample_type = COMMON;
            attr.wakeup_watermark = (bytes / 4) as u32;
            let leader = CpuEvent::open(&attr, number)?;
            match Ring::map(&leader, bytes) {
                Ok(ring) => break (leader, ring),
                Err(Errno::EPERM | Errno::ENOMEM) if bytes > LEAST_RING_BYTES => bytes /= 2,
                Err(errno) => return Err(errno),
            }
        };
        self.layouts.insert(leader.id()?, Layout { point: None, sample_type: COMMON, registers: 0 });
        let mut events = Vec::new();
        for (wanted, tracepoint) in numbered {
            events.push(open_tracepoint(wanted, *tracepoint, number, bytes, &leader, &mut self.layouts)?);
        }
        self.cpus.push(Cpu { number, leader, ring, ring_bytes: bytes, events, mapper: None });
        Ok(())
    }

    /// From now on everything is told.
    ///
    /// # Errors
    /// Never seen.
    pub fn enable(&self) -> Result<(), PerfError> {
        for cpu in &self.cpus {
            cpu.leader.enable().map_err(PerfError::Other)?;
            for event in &cpu.events {
                event.enable().map_err(PerfError::Other)?;
            }
        }
        Ok(())
    }

    /// Brings the call stacks of the mmap calls that `filter` lets through from now on, instead of those of before; of none
    /// without a filter.
    ///
    /// # Errors
    /// When the kernel does not take the filter. Then there are none.
    pub fn show_mappers(&mut self, filter: Option<String>) -> Result<(), Errno> {
        let (Some(number), Some(filter)) = (self.mmap, filter) else {
            self.cpus.iter_mut().for_each(|cpu| cpu.mapper = None);
            return Ok(());
        };
        let wanted = points::mmap_with_stack(filter);
        for cpu in &mut self.cpus {
            let event = open_tracepoint(&wanted, number, cpu.number, cpu.ring_bytes, &cpu.leader, &mut self.layouts)?;
            event.enable()?;
            cpu.mapper = Some(event);
        }
        Ok(())
    }

    /// Passes all records that are there to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(Record)) {
        let layouts = &self.layouts;
        for cpu in &mut self.cpus {
            cpu.ring.drain(|bytes| {
                if let Some(record) = record::decode(bytes, layouts) {
                    each(record);
                }
            });
        }
    }

    /// The files that become readable when a ring fills.
    pub fn files(&self) -> Vec<RawFd> {
        self.cpus.iter().map(|cpu| cpu.leader.as_raw()).collect()
    }
}

fn open_tracepoint(
    wanted: &Wanted,
    tracepoint: u64,
    cpu: u32,
    ring_bytes: usize,
    leader: &CpuEvent,
    layouts: &mut Layouts,
) -> Result<CpuEvent, Errno> {
    /// PERF_TYPE_TRACEPOINT
    const TRACEPOINT: u32 = 2;
    let mut attr = EventAttr::every(TRACEPOINT, tracepoint);
    attr.sample_type = COMMON;
    if wanted.registers != 0 {
        attr.sample_type |= REGS_USER;
        attr.sample_regs_user = wanted.registers;
    }
    if wanted.stack_bytes != 0 {
        attr.sample_type |= STACK_USER;
        attr.sample_stack_user = wanted.stack_bytes;
    }
    if wanted.raw {
        attr.sample_type |= RAW;
    }
    if wanted.wakes {
        attr.wake_at_once();
    } else {
        attr.wakeup_watermark = (ring_bytes / 4) as u32;
    }
    let event = CpuEvent::open(&attr, cpu)?;
    if let Some(filter) = wanted.filter.as_ref().and_then(|filter| std::ffi::CString::new(filter.as_str()).ok()) {
        event.set_filter(&filter)?;
    }
    event.write_to(leader)?;
    let point: Option<Point> = Some(wanted.point);
    layouts.insert(event.id()?, Layout { point, sample_type: attr.sample_type, registers: wanted.registers });
    Ok(event)
}

fn explain(errno: Errno) -> PerfError {
    match errno {
        Errno::EACCES | Errno::EPERM => {
            let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            PerfError::NotPermitted { level: level.ok().and_then(|text| text.trim().parse().ok()) }
        }
        errno => PerfError::Other(errno),
    }
}

/// Raises our own limit of open files as far as it goes.
fn allow_files(wanted: u64) -> Result<(), PerfError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(PerfError::Other)?;
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        // CAP_SYS_RESOURCE may raise it.
        return setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
            .map_err(|_| PerfError::TooManyFiles { wanted, limit: hard });
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(PerfError::Other)
}

fn prev_power_of_two(bytes: usize) -> usize {
    if bytes.is_power_of_two() { bytes } else { bytes.next_power_of_two() / 2 }
}

/// The CPUs that are online: /sys/devices/system/cpu/online, a list such as `0-3,8`.
fn online_cpus() -> Vec<u32> {
    let listed = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let cpus = procfs::number_list(&listed);
    if cpus.is_empty() {
        (0..nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1) as u32)
            .collect()
    } else {
        cpus
    }
}
