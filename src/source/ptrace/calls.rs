//! From a stop in a system call to an event: the entry, where a call may have to wait, and the exit, where it is read.

use std::time::Instant;

use nix::errno::Errno;
use nix::libc;

use super::decode::{self, Abi, Arguments, Followed};
use super::{After, Inside, Phase, Ptrace, filter, gone};
use crate::abi::clone::UNTRACED;
use crate::abi::map;
use crate::event::{Call, EventKind, ExitScope, Exiting, Syscall};
use crate::procfs::present::LiveMemory;
use crate::procfs::{self, task};
use crate::sys::{self, SyscallStop};
use crate::units::{Addr, Tid};

impl Ptrace {
    pub(super) fn syscall_stop(&mut self, tid: Tid) {
        let known = self.tracees.get(&tid).and_then(|tracee| tracee.inside);
        if self.filtered && known.is_some() {
            return self.exit(tid);
        }
        let info = sys::syscall_info(tid);
        if info == Err(Errno::EIO) && !self.filtered {
            return self.cannot_tell_calls(tid);
        }
        match gone(info) {
            Some(SyscallStop::Entry { arch, nr }) => match Abi::of_audit_arch(arch) {
                Some(abi) => self.entry(tid, abi, nr),
                None => self.restart(tid, 0),
            },
            Some(SyscallStop::Exit) if known.is_some() => self.exit(tid),
            Some(_) => self.restart(tid, 0),
            // A task that a filter stops runs on: it is in no call that matters.
            None if self.filtered => self.restart(tid, 0),
            None => {}
        }
    }

    /// A filter wants a call to be seen: ours, or one of the program's own.
    pub(super) fn seccomp_stop(&mut self, tid: Tid) {
        let call = match sys::syscall_info(tid) {
            // Linux before 5.3.
            Err(Errno::EIO) => gone(sys::event_message(tid)).map(filter::from_message),
            info => gone(info).map(|info| match info {
                SyscallStop::Seccomp { arch, nr, message } => Abi::of_audit_arch(arch)
                    .map(|abi| (abi, nr))
                    .filter(|call| filter::from_message(message) == Some(*call)),
                _ => None,
            }),
        };
        match call {
            Some(Some((abi, nr))) if self.filtered => self.entry(tid, abi, nr),
            Some(_) => self.fail_untraced(tid),
            None => {}
        }
    }

    /// A call that a filter of the program's own wants a tracer to decide on fails where there is none (`__seccomp_filter`).
    fn fail_untraced(&mut self, tid: Tid) {
        let Some(mut registers) = gone(sys::registers(tid)) else { return };
        (registers.orig_rax, registers.rax) = (u64::MAX, -i64::from(libc::ENOSYS) as u64);
        let _ = gone(sys::set_registers(tid, &registers));
        self.restart(tid, 0);
    }

    /// A system call is about to be made.
    pub(super) fn entry(&mut self, tid: Tid, abi: Abi, nr: u64) {
        let Some(followed) = decode::followed(abi, nr) else {
            // A stop of another kind in between (a signal, execve) makes the next one be asked what it is.
            if let Some(tracee) = self.tracees.get_mut(&tid) {
                tracee.passing = true;
            }
            return self.restart(tid, 0);
        };
        let mut exec = None;
        let serial = match followed {
            Followed::Exit => {
                self.say_exiting(tid, abi, ExitScope::Thread);
                return self.after.push_back(After::Resume(tid));
            }
            Followed::Execve | Followed::Execveat => {
                exec = self.call_at(tid, abi, followed).map(|decoded| decoded.call);
                // While a picture is taken of it, an address space does not become another one.
                matches!(self.phase, Phase::Attaching(_) | Phase::Closing { .. }) && !self.is_guest(tid)
            }
            Followed::Vfork | Followed::Personality | Followed::IoUringSetup => false,
            // It ends all siblings: none may be halfway through a change when the last look is taken.
            Followed::ExitGroup | Followed::Fork => true,
            Followed::Madvise
            | Followed::ProcessMadvise
            | Followed::Prctl
            | Followed::Clone
            | Followed::Clone3
            | Followed::Ipc => self.call_at(tid, abi, followed).is_some_and(|decoded| decoded.call.changes_mappings()),
            _ => true,
        };
        let untraced = self.filtered && withhold_untraced(tid, abi, followed);
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.inside = Some(Inside { abi, followed, exec, untraced });
        let Some(gate) = self.gates.get_mut(&tracee.gate) else { return };
        if !serial || gate.enter(tid, Instant::now(), task::runs_or_sleeps) {
            self.proceed(tid);
        } else {
            tracee.held = true;
        }
    }

    /// Whether a task shares another process's address space, as a child of vfork does, which its parent waits for.
    pub(super) fn is_guest(&self, tid: Tid) -> bool {
        let Some(tracee) = self.tracees.get(&tid).filter(|tracee| tracee.pid != self.main.pid) else { return false };
        self.tracees.values().any(|other| other.gate == tracee.gate && other.pid != tracee.pid)
    }

    /// A task may make its call.
    pub(super) fn proceed(&mut self, tid: Tid) {
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.held = false;
        let gate = tracee.gate;
        match tracee.inside {
            Some(Inside { abi, followed: Followed::ExitGroup, .. }) => {
                tracee.inside = None;
                self.look_if_overlapped(gate, tid);
                self.say_exiting(tid, abi, ExitScope::Group);
                self.after.push_back(After::Resume(tid));
            }
            Some(Inside { exec: Some(_), .. }) if matches!(self.phase, Phase::Following) => {
                self.look_if_overlapped(gate, tid);
                self.tell(tid, EventKind::Executing);
                self.after.push_back(After::Resume(tid));
            }
            _ => self.restart(tid, 0),
        }
    }

    pub(super) fn say_exiting(&mut self, tid: Tid, abi: Abi, scope: ExitScope) {
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.exiting = true;
        }
        let Some(registers) = gone(sys::registers(tid)) else { return };
        let code = decode::exit_code(abi, &registers);
        self.tell(tid, EventKind::Exiting(Exiting { scope, code }));
    }

    /// A followed call has returned.
    pub(super) fn exit(&mut self, tid: Tid) {
        // Where it has been killed meanwhile its end will tell that it was inside.
        let Some(mut registers) = gone(sys::registers(tid)) else { return };
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        let Some(Inside { abi, followed, untraced, .. }) = tracee.inside.take() else { return };
        let gate = tracee.gate;
        if untraced {
            restore_untraced(tid, abi, followed);
            registers = gone(sys::registers(tid)).unwrap_or(registers);
        }
        self.after.push_back(After::Resume(tid));
        self.after.push_back(After::Leave(tid, gate));
        let mut result = decode::result(abi, followed, &registers);
        let arguments = Arguments::of(&result);
        let Some(decoded) = decode::call(tid, abi, followed, &registers, arguments) else { return };
        let mut mapped = None;
        if let Ok(returned) = result
            && is_untold_mmap(&decoded.call, returned)
        {
            mapped = procfs::maps::line_at(tid, Addr(returned));
        }
        if let Ok(returned) = result
            && matches!(decoded.call, Call::Shmat { .. } | Call::IoSetup { .. })
        {
            let addr = match decoded.result_at {
                Some(at) => decode::stored_address(tid, abi, at, arguments),
                None => Some(Addr(returned)),
            };
            mapped = addr.and_then(|addr| procfs::maps::region_at(tid, addr));
            if let (Some(addr), Call::Shmat { .. }) = (addr, decoded.call) {
                result = Ok(addr.0);
            }
        }
        self.tell(tid, EventKind::Syscall(Syscall { call: decoded.call, result, mapped }));
    }
}

/// Whether mmap's arguments do not tell all that it has done: files of huge pages are mapped in these, and drivers may
/// choose the offset, and whether a fork copies the mapping.
fn is_untold_mmap(call: &Call, returned: u64) -> bool {
    let Call::Mmap { len, flags, .. } = *call else { return false };
    let may_be_huge = returned.is_multiple_of(map::HUGE_PAGE) && !len.is_multiple_of(map::GIGANTIC_PAGE);
    flags & map::ANONYMOUS == 0 && (flags & map::SHARED != 0 || may_be_huge)
}

/// Keeps CLONE_UNTRACED from the kernel while clone runs; true if it was there to be withheld.
///
/// The filter is inherited, and without a tracer its calls fail with ENOSYS: an untraced child could not even map
/// memory. LeakSanitizer makes such a child.
fn withhold_untraced(tid: Tid, abi: Abi, followed: Followed) -> bool {
    change_clone_flags(tid, abi, followed, |flags| flags & !UNTRACED)
}

/// Gives the caller its argument back, since a call leaves its arguments alone.
fn restore_untraced(tid: Tid, abi: Abi, followed: Followed) {
    change_clone_flags(tid, abi, followed, |flags| flags | UNTRACED);
}

/// Changes clone's flags, in their register, or clone3's, in memory; true if that made a difference.
fn change_clone_flags(tid: Tid, abi: Abi, followed: Followed, change: impl Fn(u64) -> u64) -> bool {
    if !matches!(followed, Followed::Clone | Followed::Clone3) {
        return false;
    }
    let Some(mut registers) = gone(sys::registers(tid)) else { return false };
    let argument = decode::clone_flags(abi, &mut registers);
    if followed == Followed::Clone {
        let flags = std::mem::replace(argument, change(*argument));
        return flags != *argument && gone(sys::set_registers(tid, &registers)).is_some();
    }
    let at = Addr(*argument);
    let mut flags = [0; 8];
    // At the entry nobody has looked at it yet.
    let memory = LiveMemory::of(tid);
    if memory.read(at, &mut flags).is_err() {
        return false;
    }
    let flags = u64::from_ne_bytes(flags);
    flags != change(flags) && memory.is_writable_at_once(at) && sys::write_word(tid, at, change(flags)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::ptrace::Follow;
    use crate::units::Pid;

    /// An address space is judged when its process calls exit_group or execve: where calls have overtaken one that blocks, by
    /// the kernel's maps.
    #[test]
    fn the_maps_are_looked_at_before_the_end() {
        let main = Pid(std::process::id() as i32);
        let exec = Call::Execve { path: Addr(0), argv: Addr(0), envp: Addr(0) };
        for (followed, exec) in [(Followed::ExitGroup, None), (Followed::Execve, Some(exec))] {
            for overlaps in [false, true] {
                let mut source = Ptrace::new(main, false, Follow::Memory, Phase::Following);
                let (id, now) = (source.new_gate(), Instant::now());
                source.add_child(main.into(), main, Some(id));
                let gate = source.gates.get_mut(&id).unwrap();
                gate.enter(Tid(-1), now, |_| true);
                if overlaps {
                    gate.enter(Tid(-2), now + Duration::from_secs(1), |_| true);
                }
                let tracee = source.tracees.get_mut(&Tid::from(main)).unwrap();
                tracee.inside = Some(Inside { abi: Abi::X86_64, followed, exec, untraced: false });
                source.proceed(main.into());
                let kinds: Vec<&EventKind> = source.events.iter().map(|event| &event.kind).collect();
                let looks = matches!(kinds[..], [EventKind::OrderLost, EventKind::Maps(_), ..]);
                assert_eq!(looks, overlaps, "{followed:?}: {kinds:?}");
            }
        }
    }
}
