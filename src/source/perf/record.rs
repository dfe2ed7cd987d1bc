//! Bytes of a ring in, records out: linux/perf_event.h.

use std::collections::HashMap;

use nix::libc::user_regs_struct;

use super::points::Point;
use crate::sys::perf::HEADER_BYTES;
use crate::units::{Pid, Tid};

/// PERF_SAMPLE_TID, _TIME, _IDENTIFIER: of all events, so that all records can be told apart and put in order.
pub const COMMON: u64 = 1 << 1 | 1 << 2 | 1 << 16;
/// PERF_SAMPLE_RAW
pub const RAW: u64 = 1 << 10;
/// PERF_SAMPLE_REGS_USER
pub const REGS_USER: u64 = 1 << 12;
/// PERF_SAMPLE_STACK_USER
pub const STACK_USER: u64 = 1 << 13;

/// Bits of PERF_REG_X86_*: ax, dx, si, di, r8, r9, r10: what a call was given, and what it has returned.
pub const ARGUMENTS: u64 = 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 18;
/// Bits of PERF_REG_X86_*: ax alone.
pub const RESULT: u64 = 1;
/// All general registers, the stack pointer and the program counter.
pub const ALL_REGISTERS: u64 = 0x1ff | 0xff << 16;

/// One record.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// Which task it is about, or was written by.
    pub tid: Tid,
    /// Its process.
    pub pid: Pid,
    /// What happened.
    pub what: What,
}

impl Record {
    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        let copied = match &self.what {
            What::CallWithStack(_, snapshot) => size_of::<Snapshot>() + snapshot.stack.len(),
            _ => 0,
        };
        size_of::<Record>() + copied
    }
}

/// What a record tells.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A tracepoint of a system call.
    Call(Point, Registers),
    /// The same with a copy of the stack.
    CallWithStack(Point, Box<Snapshot>),
    /// A signal with its default action is delivered.
    Signal(i32),
    /// The task has made another one, which has not run yet.
    Fork {
        /// The new task.
        child: Tid,
        /// Its process.
        child_pid: Pid,
    },
    /// The task is ending.
    Exited,
    /// execve has succeeded, and the new image is in place; the task is the leader now, and alone.
    Executed {
        /// Whether the leader has called it.
        by_leader: bool,
        /// Whether the new program is a 32-bit one.
        is_i386: bool,
    },
    /// So many records could not be written.
    Lost(u64),
}

/// User registers of a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// PERF_SAMPLE_REGS_ABI_*: 2 for 64 bits, 1 for 32.
    pub abi: u64,
    /// ax, dx, si, di, r8, r9, r10.
    values: [u64; 7],
}

impl Registers {
    /// As a stopped task would have them, as far as they are here.
    pub fn as_user(&self) -> user_regs_struct {
        let [rax, rdx, rsi, rdi, r8, r9, r10] = self.values;
        user_regs_struct { rax, rdx, rsi, rdi, r8, r9, r10, cs: CODE_SEGMENT, ..no_registers() }
    }
}

/// `__USER_CS` of 64-bit programs.
const CODE_SEGMENT: u64 = 0x33;

/// Where a task stood, and what was on its stack.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// All general registers.
    pub registers: user_regs_struct,
    /// What lay from the stack pointer on.
    pub stack: Box<[u8]>,
}

/// What the records of an event look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// What they tell; none for an event that has no samples.
    pub point: Option<Point>,
    /// PERF_SAMPLE_*.
    pub sample_type: u64,
    /// Which registers they have.
    pub registers: u64,
}

/// What the records of all events look like, by the number of the event.
pub type Layouts = HashMap<u64, Layout>;

/// The record in `bytes`, header included; none where it is of no interest, or not as it should be.
pub fn decode(bytes: &[u8], layouts: &Layouts) -> Option<Record> {
    const LOST: u32 = 2;
    const EXIT: u32 = 4;
    const FORK: u32 = 7;
    const SAMPLE: u32 = 9;
    let header = bytes.get(..HEADER_BYTES)?;
    let kind = u32::from_ne_bytes(header[..4].try_into().ok()?);
    let mut body = Fields(bytes.get(HEADER_BYTES..)?);
    if kind == SAMPLE {
        return sample(&mut body, layouts);
    }
    let at = trailer_time(bytes)?;
    match kind {
        FORK => {
            let (child_pid, pid) = (Pid(body.int()?), Pid(body.int()?));
            let (child, tid) = (Tid(body.int()?), Tid(body.int()?));
            Some(Record { at, tid, pid, what: What::Fork { child, child_pid } })
        }
        EXIT => {
            let (pid, _parent) = (Pid(body.int()?), body.int()?);
            Some(Record { at, tid: Tid(body.int()?), pid, what: What::Exited })
        }
        LOST => {
            let (_event, lost) = (body.word()?, body.word()?);
            Some(Record { at, tid: Tid(0), pid: Pid(0), what: What::Lost(lost) })
        }
        _ => None,
    }
}

/// Any bytes as what lies in a ring, for fuzzing: records, one behind the other, of events of all layouts.
pub fn digest(bytes: &[u8]) {
    let wanted = super::points::wanted();
    let mmap = super::points::mmap_with_stack(String::new());
    let layout = |wanted: &super::points::Wanted| {
        let parts = [(wanted.registers != 0, REGS_USER), (wanted.stack_bytes != 0, STACK_USER), (wanted.raw, RAW)];
        let sample_type = parts.iter().filter(|(has, _)| *has).fold(COMMON, |all, (_, part)| all | part);
        Layout { point: Some(wanted.point), sample_type, registers: wanted.registers }
    };
    let layouts: Layouts = (0..).zip(wanted.iter().chain([&mmap]).map(layout)).collect();
    let mut sorter = super::sorter::Sorter::default();
    let mut rest = bytes;
    for round in 0.. {
        let Some(size) = rest.get(6..8).map(|size| usize::from(u16::from_ne_bytes([size[0], size[1]]))) else { break };
        let (record, after) = rest.split_at(size.clamp(HEADER_BYTES, rest.len().max(HEADER_BYTES)).min(rest.len()));
        rest = after;
        sorter.begin_round(round);
        if let Some(record) = decode(record, &layouts) {
            if let What::Call(_, registers) = &record.what {
                let _ = registers.as_user();
            }
            sorter.push(record);
        }
        while sorter.pop().is_some() {}
    }
    let _ = (sorter.pending().count(), sorter.pending_bytes(), sorter.next_at());
}

/// The time in what `sample_id_all` appends to records that are no samples: tid (8 bytes), time, identifier.
fn trailer_time(bytes: &[u8]) -> Option<u64> {
    let start = bytes.len().checked_sub(16)?;
    Fields(&bytes[start..]).word()
}

fn sample(body: &mut Fields<'_>, layouts: &Layouts) -> Option<Record> {
    let layout = layouts.get(&body.word()?)?;
    let (pid, tid) = (Pid(body.int()?), Tid(body.int()?));
    let at = body.word()?;
    let raw = if layout.sample_type & RAW != 0 { Some(body.raw()?) } else { None };
    let point = layout.point?;
    // Behind the fields that are common to all, 8 bytes.
    let field = |from: usize| Some(i32::from_ne_bytes(raw?.get(from..from + 4)?.try_into().ok()?));
    let what = if point == Point::Signal {
        What::Signal(field(8)?)
    } else if point == Point::Executed {
        /// PERF_SAMPLE_REGS_ABI_32
        const ABI_32: u64 = 1;
        // filename, pid, old_pid: numbers of the first PID namespace, and not of ours.
        let by_leader = field(12)? == field(16)?;
        What::Executed { by_leader, is_i386: body.word()? == ABI_32 }
    } else if layout.sample_type & STACK_USER != 0 {
        let registers = body.all_registers(layout.registers)?;
        What::CallWithStack(point, Box::new(Snapshot { registers, stack: body.stack()? }))
    } else {
        What::Call(point, body.argument_registers(layout.registers)?)
    };
    Some(Record { at, tid, pid, what })
}

/// What has not been read of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn word(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A size of 4 bytes and as many bytes.
    fn raw(&mut self) -> Option<&'a [u8]> {
        let size = u32::from_ne_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(size).ok()?)
    }

    /// Registers with only the ABI where there are none: a kernel thread has none.
    fn argument_registers(&mut self, mask: u64) -> Option<Registers> {
        let abi = self.word()?;
        let mut values = [0; 7];
        if abi != 0 && mask == ARGUMENTS {
            for value in &mut values {
                *value = self.word()?;
            }
        }
        Some(Registers { abi, values })
    }

    fn all_registers(&mut self, mask: u64) -> Option<user_regs_struct> {
        let mut registers = no_registers();
        if self.word()? == 0 || mask != ALL_REGISTERS {
            return None;
        }
        let r = &mut registers;
        let ascending = [
            &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.rsp, &mut r.rip,
            &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
        ];
        for register in ascending {
            *register = self.word()?;
        }
        registers.cs = CODE_SEGMENT;
        Some(registers)
    }

    /// The size of the room, the room, and how much of it was filled.
    fn stack(&mut self) -> Option<Box<[u8]>> {
        let room = usize::try_from(self.word()?).ok()?;
        if room == 0 {
            return Some(Box::default());
        }
        let bytes = self.take(room)?;
        let filled = usize::try_from(self.word()?).ok()?;
        Some(bytes.get(..filled)?.into())
    }
}

pub(super) fn no_registers() -> user_regs_struct {
    user_regs_struct {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        r10: 0,
        r9: 0,
        r8: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        orig_rax: 0,
        rip: 0,
        cs: 0,
        eflags: 0,
        rsp: 0,
        ss: 0,
        fs_base: 0,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ptrace::decode::Followed;

    /// A record as the kernel writes it: header, words.
    fn bytes(kind: u32, misc: u16, words: &[u64]) -> Vec<u8> {
        let size = (HEADER_BYTES + 8 * words.len()) as u16;
        let header = [&kind.to_ne_bytes()[..], &misc.to_ne_bytes(), &size.to_ne_bytes()].concat();
        header.into_iter().chain(words.iter().flat_map(|word| word.to_ne_bytes())).collect()
    }

    /// Two numbers of four bytes.
    fn pair(low: i32, high: i32) -> u64 {
        u64::from(low as u32) | u64::from(high as u32) << 32
    }

    fn layouts() -> Layouts {
        let munmap = Some(Point::Exit(Followed::Munmap));
        let clone = Some(Point::Enter(Followed::Clone));
        Layouts::from([
            (1, Layout { point: munmap, sample_type: COMMON | REGS_USER, registers: ARGUMENTS }),
            (2, Layout { point: clone, sample_type: COMMON | REGS_USER | STACK_USER, registers: ALL_REGISTERS }),
            (3, Layout { point: Some(Point::Signal), sample_type: COMMON | RAW, registers: 0 }),
            (4, Layout { point: Some(Point::Executed), sample_type: COMMON | RAW | REGS_USER, registers: RESULT }),
        ])
    }

    fn decoded(kind: u32, misc: u16, words: &[u64]) -> Option<Record> {
        decode(&bytes(kind, misc, words), &layouts())
    }

    /// The registers of a call come in the order of their numbers, and are those that the decoder of calls reads.
    #[test]
    fn a_call_with_its_registers() {
        let record = decoded(9, 0, &[1, pair(7, 8), 55, 2, 100, 103, 104, 105, 108, 109, 110]).unwrap();
        assert_eq!((record.at, record.pid, record.tid), (55, Pid(7), Tid(8)));
        let What::Call(Point::Exit(Followed::Munmap), registers) = record.what else { panic!("{record:?}") };
        let of = registers.as_user();
        assert_eq!([of.rax, of.rdx, of.rsi, of.rdi, of.r8, of.r9, of.r10], [100, 103, 104, 105, 108, 109, 110]);
    }

    /// Of the room for a stack only so much counts as was filled.
    #[test]
    fn a_stack_that_was_shorter_than_its_room() {
        let registers: Vec<u64> = (1000..1017).collect();
        let words = [&[2, pair(7, 8), 55, 2][..], &registers, &[16, 0x1111, 0x2222, 8]].concat();
        let What::CallWithStack(_, snapshot) = decoded(9, 0, &words).unwrap().what else { panic!("a stack") };
        assert_eq!(*snapshot.stack, 0x1111u64.to_ne_bytes());
        let of = snapshot.registers;
        assert_eq!([of.rax, of.rbx, of.rsp, of.rip, of.r8, of.r15], [1000, 1001, 1007, 1008, 1009, 1016]);
    }

    /// execve tells whether the leader called it, and whether the new program is a 32-bit one by the registers that it begins with.
    #[test]
    fn a_new_program() {
        let executed = |abi, old_pid| {
            // The size of what follows, with 4 bytes of it; more of the common fields and the name; pid and old_pid.
            let raw = [pair(28, 0), pair(0, 0), pair(7, old_pid), 0];
            decoded(9, 0, &[&[4, pair(7, 7), 55][..], &raw, &[abi, 100]].concat()).unwrap()
        };
        let of = |by_leader, is_i386| {
            let what = What::Executed { by_leader, is_i386 };
            Record { at: 55, tid: Tid(7), pid: Pid(7), what }
        };
        assert_eq!([executed(1, 7), executed(2, 8)], [of(true, true), of(false, false)]);
    }

    /// Births, ends and losses have their time in what is appended to them.
    #[test]
    fn records_that_are_no_samples() {
        let born = decoded(7, 0, &[pair(7, 7), pair(9, 8), 1, pair(7, 8), 55, 1]).unwrap();
        let what = What::Fork { child: Tid(9), child_pid: Pid(7) };
        assert_eq!(born, Record { at: 55, tid: Tid(8), pid: Pid(7), what });
        let ended = decoded(4, 0, &[pair(7, 1), pair(8, 1), 1, pair(7, 8), 56, 1]).unwrap();
        assert_eq!(ended, Record { at: 56, tid: Tid(8), pid: Pid(7), what: What::Exited });
        assert_eq!(decoded(2, 0, &[1, 12, pair(0, 0), 58, 1]).unwrap().what, What::Lost(12));
    }

    /// What is cut off, or of an event that is not ours, is passed over.
    #[test]
    fn damaged_records() {
        let whole = bytes(9, 0, &[1, pair(7, 8), 55, 2, 100, 103, 104, 105, 108, 109, 110]);
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length], &layouts()), None);
        }
        assert_eq!(decoded(9, 0, &[99, pair(7, 8), 55, 2]), None);
        assert_eq!(decoded(77, 0, &[1, 2, 3]), None);
    }
}
