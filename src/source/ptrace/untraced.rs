//! CLONE_UNTRACED, kept from the kernel while clone runs: nobody is to map memory unseen.
//!
//! Where a filter picks the calls it is inherited, and without a tracer its calls fail with ENOSYS: an untraced child could
//! not even map memory. LeakSanitizer makes such a child. What was changed for it, in the caller and in what the child has
//! copied of it, is put back before either runs on.

use super::decode::{self, Abi, Followed};
use super::{Ptrace, gone};
use crate::abi::clone::UNTRACED;
use crate::procfs::present::LiveMemory;
use crate::sys;
use crate::units::{Addr, Tid};

/// What has to be put back in a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Withheld {
    abi: Abi,
    /// The call's first argument: clone's flags, or where clone3's arguments are.
    argument: u64,
    /// Where the flags are that were changed in memory.
    flags_at: Option<Addr>,
}

/// More than any `struct clone_args` yet, in bytes.
const MOST_ARGUMENTS: usize = 256;
/// In bytes.
const WORD: usize = size_of::<u64>();
/// Leaf functions keep data so far below the stack pointer (System V ABI of x86-64); what lies below that any signal destroys.
const RED_ZONE: u64 = 128;

impl Withheld {
    /// The same in the child that the call has made: memory that is shared is put right once.
    pub(super) fn of_child(self, shares_memory: bool) -> Withheld {
        Withheld { flags_at: self.flags_at.filter(|_| !shares_memory), ..self }
    }
}

impl Ptrace {
    /// Keeps CLONE_UNTRACED from the kernel, if it is there, until the next stop.
    pub(super) fn withhold_untraced(&mut self, tid: Tid, abi: Abi, followed: Followed) {
        let withheld = match followed {
            Followed::Clone => withhold_from_register(tid, abi),
            Followed::Clone3 => withhold_from_memory(tid, abi),
            // As by far the most calls.
            _ => return,
        };
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.withheld = withheld;
        }
    }

    /// A task has stopped: it gets back what was changed for the call that it made, or that has made it.
    pub(super) fn give_back(&mut self, tid: Tid) {
        let Some(withheld) = self.tracees.get_mut(&tid).and_then(|tracee| tracee.withheld.take()) else { return };
        let Some(mut registers) = gone(sys::registers(tid)) else { return };
        let argument = decode::first_argument(withheld.abi, &mut registers);
        if std::mem::replace(argument, withheld.argument) != withheld.argument {
            let _ = gone(sys::set_registers(tid, &registers));
        }
        if let Some(at) = withheld.flags_at
            && let Some(flags) = read_word(&LiveMemory::of(tid), at)
        {
            let _ = sys::write_word(tid, at, flags | UNTRACED);
        }
    }
}

/// clone has its flags in a register.
fn withhold_from_register(tid: Tid, abi: Abi) -> Option<Withheld> {
    let mut registers = gone(sys::registers(tid))?;
    let flags = decode::first_argument(abi, &mut registers);
    let withheld = Withheld { abi, argument: *flags, flags_at: None };
    *flags &= !UNTRACED;
    (*flags != withheld.argument && gone(sys::set_registers(tid, &registers)).is_some()).then_some(withheld)
}

/// clone3 has them in memory, which may be read-only, or somebody else's too: the kernel is given a copy below the stack, and
/// only where there is no room for it they are changed where they are.
fn withhold_from_memory(tid: Tid, abi: Abi) -> Option<Withheld> {
    let mut registers = gone(sys::registers(tid))?;
    let stack = Addr(registers.rsp);
    let size = decode::second_argument(abi, &registers);
    let argument = decode::first_argument(abi, &mut registers);
    let given = Addr(*argument);
    // At the entry nobody has looked at it yet.
    let memory = LiveMemory::of(tid);
    let flags = read_word(&memory, given).filter(|flags| flags & UNTRACED != 0)?;
    let withheld = Withheld { abi, argument: given.0, flags_at: None };
    if let Some(copy) = copy_below(tid, &memory, stack, given, size, flags & !UNTRACED) {
        *argument = copy.0;
        return gone(sys::set_registers(tid, &registers)).map(|()| withheld);
    }
    let is_changed = memory.is_writable_at_once(given) && sys::write_word(tid, given, flags & !UNTRACED).is_ok();
    is_changed.then_some(Withheld { flags_at: Some(given), ..withheld })
}

/// Copies arguments of so many bytes, with other flags, to where nothing lives, below a stack pointer.
fn copy_below(tid: Tid, memory: &LiveMemory, stack: Addr, from: Addr, bytes: u64, flags: u64) -> Option<Addr> {
    let mut arguments = [0u8; MOST_ARGUMENTS];
    let arguments = arguments.get_mut(..usize::try_from(bytes).ok()?.checked_next_multiple_of(WORD)?)?;
    memory.read(from, arguments).ok()?;
    let start = stack.0.checked_sub(RED_ZONE + MOST_ARGUMENTS as u64)? & !0xf;
    let end = start + arguments.len() as u64;
    if ![start, end - 1].into_iter().all(|at| memory.is_writable_at_once(Addr(at))) {
        return None;
    }
    arguments.first_chunk_mut::<WORD>()?.copy_from_slice(&flags.to_ne_bytes());
    for (at, word) in (start..end).step_by(WORD).zip(arguments.as_chunks::<WORD>().0) {
        sys::write_word(tid, Addr(at), u64::from_ne_bytes(*word)).ok()?;
    }
    Some(Addr(start))
}

fn read_word(memory: &LiveMemory, at: Addr) -> Option<u64> {
    let mut word = [0; WORD];
    memory.read(at, &mut word).ok().map(|()| u64::from_ne_bytes(word))
}
