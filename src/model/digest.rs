//! Any bytes as events, for fuzzing: absurd orders, numbers and addresses, also such as no kernel would tell.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use syscalls::Errno;

use super::Model;
use super::mapping::MappingId;
use super::space::AddressSpace;
use crate::abi::{clone, madv, map, mremap};
use crate::event::{
    Birth, Call, CloneArgs, CloneCall, Event, EventKind, Exit, ExitScope, Exiting, Prot, Sharing, Syscall, Vma,
};
use crate::units::{Addr, CallStackId, PAGE, Pid, Range, Tid, Time};

/// The model of the events that `bytes` stand for, which is checked to hold together.
///
/// # Panics
/// When it does not.
pub fn digest(bytes: &[u8]) -> Model {
    let Some((kind, mut rest)) = bytes.split_first() else { return Model::new() };
    let mut model = if kind & 1 == 0 { Model::new() } else { Model::partial() };
    let mut at = Duration::ZERO;
    for number in 0.. {
        let Some(Step { tid, after, kind }) = (if kind & 2 == 0 { short(&mut rest) } else { whole(&mut rest) }) else {
            break;
        };
        at += Duration::from_micros(after.into());
        let event = Event { at: Time(at), tid, call_stack: Some(CallStackId(u32::from(after) % 4)), kind };
        let _ = model.ends(&event);
        model.apply(&event);
        if number % 16 == 0 {
            check(&model);
        }
    }
    check(&model);
    model
}

/// One event.
#[derive(Deserialize)]
struct Step {
    tid: Tid,
    /// Microseconds since the one before.
    after: u16,
    kind: EventKind,
}

/// An event as it stands in a recording: any value of any field.
fn whole(bytes: &mut &[u8]) -> Option<Step> {
    let (step, rest) = postcard::take_from_bytes(bytes).ok()?;
    *bytes = rest;
    Some(step)
}

/// An event in eight bytes: few tasks and pages, so that they meet.
fn short(bytes: &mut &[u8]) -> Option<Step> {
    let ([what, tid, a, b, c, d, e, after], rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    let (what, tid, after) = (*what, Tid(i32::from(tid % 8)), u16::from(*after));
    let page = |number: &u8| Addr(u64::from(*number) * PAGE + u64::from(number % 32 == 31));
    let len = |number: &u8| u64::from(number % 64) * PAGE + u64::from(number / 64);
    let result = |number: &u8| match number % 8 {
        7 => Err(Errno::ENOMEM),
        _ => Ok(u64::from(*number) * PAGE),
    };
    let (addr, size, prot) = (page(a), len(b), u32::from(c % 8));
    let line = Range::of_len(addr, size).map(|range| Vma {
        range,
        prot: Prot::from_bits(prot),
        sharing: if c & 8 == 0 { Sharing::Private } else { Sharing::Shared },
        offset: u64::from(*d) * PAGE,
        inode: u64::from(e % 4),
        device: 0,
        name: if c & 16 == 0 { Box::default() } else { (*b"[stack]").into() },
    });
    let call = match what % 16 {
        0..=2 => Call::Mmap { addr, len: size, prot, flags: flags(*d), fd: i32::from(e & 1) - 1, offset: len(e) },
        3 => Call::Munmap { addr, len: size },
        4 => Call::Mprotect { addr, len: size, prot },
        5 => {
            let flags = u32::from(d % 8) & (mremap::MAYMOVE | mremap::FIXED | mremap::DONTUNMAP);
            Call::Mremap { old: addr, old_len: size, new_len: len(c), flags, new: page(e) }
        }
        6 => {
            let advice = [madv::DONTNEED, madv::DONTFORK, madv::DOFORK, madv::GUARD_INSTALL, madv::GUARD_REMOVE];
            Call::Madvise { addr, len: size, advice: advice[usize::from(d % 5)] }
        }
        7 => Call::Brk { addr },
        8 => Call::Shmat { id: i32::from(*b), addr, flags: i32::from(*c) << 12 },
        9 => match d % 4 {
            0 => Call::Shmdt { addr },
            1 => Call::IoSetup { nr_events: u32::from(*b), ctxp: addr },
            2 => Call::IoDestroy { ctx: addr },
            _ => Call::RemapFilePages { addr, len: size, prot: 0, pgoff: u64::from(*e), flags: 0 },
        },
        10 | 11 => {
            let kinds = [clone::VM, clone::VM | clone::THREAD | clone::SETTLS, clone::VM | clone::VFORK, 0];
            let args = CloneArgs {
                call: if what & 16 == 0 { CloneCall::Clone } else { CloneCall::Clone3 },
                flags: kinds[usize::from(d % 4)],
                exit_signal: 0,
                stack: addr,
                stack_size: size,
                tls: page(c),
                parent_tid: Addr(0),
                child_tid: Addr(0),
            };
            let child = Tid(i32::from(e % 8));
            let pid = if args.is_thread() { Pid(0) } else { Pid(child.0) };
            let kind = EventKind::Born(Birth { child, pid, args, function: None });
            return Some(Step { tid, after, kind });
        }
        12 => {
            let kind = match d % 4 {
                0 => EventKind::Ended(Exit::Code(0)),
                1 => EventKind::Ended(Exit::Signal(9)),
                2 => EventKind::Superseded,
                _ => EventKind::Exiting(Exiting { scope: ExitScope::Group, code: 0 }),
            };
            return Some(Step { tid, after, kind });
        }
        13 => return Some(Step { tid, after, kind: EventKind::Noticed(Pid(i32::from(d % 3))) }),
        14 if d % 8 == 0 => return Some(Step { tid, after, kind: EventKind::OrderLost }),
        14 => return Some(Step { tid, after, kind: EventKind::Maps(line.into_iter().collect()) }),
        _ => Call::Personality { persona: if c & 1 == 0 { 0 } else { crate::abi::READ_IMPLIES_EXEC } },
    };
    let kind = EventKind::Syscall(Syscall { call, result: result(e), mapped: line });
    Some(Step { tid, after, kind })
}

fn flags(byte: u8) -> u32 {
    let bits = [map::FIXED, map::ANONYMOUS, map::GROWSDOWN, map::NORESERVE, map::STACK, map::FIXED_NOREPLACE];
    let set = bits.iter().enumerate().filter(|(bit, _)| byte >> bit & 1 != 0).map(|(_, flag)| flag);
    set.fold(if byte & 0x80 == 0 { map::PRIVATE } else { map::SHARED }, |flags, flag| flags | flag)
}

/// Whether what the model says in several places is the same.
fn check(model: &Model) {
    for (id, space) in model.spaces.iter() {
        check_pages(space);
        let tasks = model.tasks.values().filter(|task| task.space == id).count();
        assert!(tasks > 0, "an address space without tasks is forgotten");
    }
    for task in model.tasks.values() {
        assert!(model.spaces.contains_key(task.space), "a task has an address space");
    }
}

fn check_pages(space: &AddressSpace) {
    let mut end = 0;
    let mut bytes: HashMap<MappingId, u64> = HashMap::new();
    for (range, area) in space.areas.iter() {
        assert!(range.start().0 >= end && range.bytes() > 0, "pieces are in order, and none overlap");
        end = range.end().0;
        *bytes.entry(area.mapping).or_default() += range.bytes();
    }
    for (id, bytes) in &bytes {
        let mapping = space.mappings.get(*id).expect("what is mapped belongs to a mapping");
        assert_eq!(mapping.bytes, *bytes, "a mapping is as large as its pieces");
    }
    for (id, mapping) in &space.mappings {
        assert!(bytes.contains_key(&id), "a mapping of which nothing is mapped is forgotten: {mapping:?}");
    }
}
