//! What the calls that make tasks were given.

use nix::libc::user_regs_struct;

use crate::event::{Call, CloneArgs};
use crate::procfs::present::LiveMemory;
use crate::source::perf::record::Snapshot;
use crate::source::ptrace::decode::{self, Abi, Arguments, Followed};
use crate::units::{Addr, Tid};

/// The arguments of a call that makes a task.
pub(in crate::source::perf) fn clone_args(
    tid: Tid,
    followed: Followed,
    registers: &user_regs_struct,
    snapshot: Option<&Snapshot>,
) -> Option<CloneArgs> {
    match followed {
        Followed::Clone3 => clone3_args(tid, registers, snapshot),
        Followed::Clone | Followed::Fork | Followed::Vfork => {
            match decode::call(tid, Abi::X86_64, followed, registers, Arguments::Unused)?.call {
                Call::Clone(args) => Some(args),
                _ => None,
            }
        }
        _ => None,
    }
}

/// clone3's arguments lie in memory, with most callers on the stack, of which a copy was made.
fn clone3_args(tid: Tid, registers: &user_regs_struct, snapshot: Option<&Snapshot>) -> Option<CloneArgs> {
    let mut bytes = [0; 64];
    let size = usize::try_from(registers.rsi).ok()?.min(bytes.len());
    let copied = snapshot.and_then(|snapshot| {
        let start = usize::try_from(registers.rdi.checked_sub(registers.rsp)?).ok()?;
        snapshot.stack.get(start..start.checked_add(size)?)
    });
    match copied {
        Some(copied) => bytes[..size].copy_from_slice(copied),
        None => LiveMemory::of(tid).read(Addr(registers.rdi), &mut bytes[..size]).ok()?,
    }
    Some(decode::clone3_args(&bytes))
}
