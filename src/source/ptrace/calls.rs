//! From a stop in a system call to an event: the entry, where a call may have to wait, and the exit, where it is read.

use std::time::Instant;

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct as Registers};

use super::decode::{self, Abi, Arguments, Decoded, Followed, Notified};
use super::{After, Inside, Phase, Ptrace, filter, gone};
use crate::abi::map;
use crate::event::{Call, EventKind, ExitScope, Exiting, Syscall};
use crate::procfs::{self, task};
use crate::sys::{self, SyscallStop};
use crate::units::{Addr, Range, Tid};

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
        let has_entered = self.tracees.get(&tid).is_some_and(|tracee| tracee.inside.is_some() || tracee.exiting);
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
            Some(Some((abi, _))) if self.filtered && has_entered => self.passes_filter(tid, abi),
            Some(Some((abi, nr))) if self.filtered => self.entry(tid, abi, nr),
            Some(_) => self.fail_untraced(tid),
            None => {}
        }
    }

    /// A call that has stopped before any filter saw it is let through to the kernel by all of them.
    fn passes_filter(&mut self, tid: Tid, abi: Abi) {
        if let Some(inside) = self.tracees.get_mut(&tid).and_then(|tracee| tracee.inside.as_mut()) {
            inside.is_let_through = true;
            let followed = inside.followed;
            self.withhold_untraced(tid, abi, followed);
        }
        self.restart(tid, 0);
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
        let mut asked = None;
        let serial = match followed {
            Followed::Exit => {
                self.say_exiting(tid, abi, ExitScope::Thread);
                return self.after.push_back(After::Resume(tid));
            }
            Followed::Execve | Followed::Execveat => {
                asked = self.call_at(tid, abi, followed).map(|decoded| decoded.call);
                // While a picture is taken of it, an address space does not become another one.
                matches!(self.phase, Phase::Attaching(_) | Phase::Closing { .. }) && !self.is_guest(tid)
            }
            Followed::Vfork | Followed::Personality | Followed::IoUringSetup | Followed::Seccomp => false,
            Followed::ArchPrctl => {
                gone(sys::registers(tid)).is_some_and(|registers| decode::maps_vdso(abi, &registers))
            }
            Followed::OldMmap => {
                asked = self.call_at(tid, abi, followed).map(|decoded| decoded.call);
                true
            }
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
        self.withhold_untraced(tid, abi, followed);
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.inside = Some(Inside { abi, followed, asked, is_let_through: !tracee.is_notified });
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
            Some(Inside { followed: Followed::Execve | Followed::Execveat, asked: Some(_), .. })
                if matches!(self.phase, Phase::Following) =>
            {
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
        let Some(registers) = gone(sys::registers(tid)) else { return };
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        let Some(Inside { abi, followed, asked, is_let_through }) = tracee.inside.take() else { return };
        let gate = tracee.gate;
        self.after.push_back(After::Resume(tid));
        self.after.push_back(After::Leave(tid, gate));
        let result = decode::result(abi, followed, &registers);
        if followed == Followed::Seccomp && result.is_ok() {
            self.mark_notified(tid, Notified::by(abi, &registers));
        }
        let seen = decode::call(tid, abi, followed, &registers, Arguments::of(&result));
        let decoded = match followed {
            Followed::OldMmap => asked_and_seen(asked, seen, first_argument(abi, registers), result),
            _ => seen,
        };
        let is_sure = is_let_through || decoded.is_none_or(|decoded| has_mapped(tid, &decoded.call, result));
        let has_vdso = followed == Followed::ArchPrctl && result.is_ok() && decode::maps_vdso(abi, &registers);
        match decoded {
            None if has_vdso => self.look_at_maps(gate, None),
            Some(decoded) if is_sure => self.tell_returned(tid, abi, decoded, result),
            None if followed != Followed::OldMmap => {}
            _ => self.look_at_maps(gate, None),
        }
    }

    fn tell_returned(&mut self, tid: Tid, abi: Abi, decoded: Decoded, mut result: Result<u64, syscalls::Errno>) {
        let arguments = Arguments::of(&result);
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
        if let Call::Personality { persona } = decoded.call
            && !is_personality(tid, persona)
        {
            result = result.and(Err(syscalls::Errno::ENOSYS));
        }
        self.tell(tid, EventKind::Syscall(Syscall { call: decoded.call, result, mapped }));
    }

    /// Another process decides on calls from here on, before our filter does: these tasks stop at each call, before any filter,
    /// and are not believed what the kernel did not do.
    fn mark_notified(&mut self, tid: Tid, whose: Notified) {
        let Some(pid) = self.tracees.get(&tid).map(|tracee| tracee.pid) else { return };
        for (other, tracee) in &mut self.tracees {
            tracee.is_notified |= match whose {
                Notified::None => false,
                Notified::Caller => *other == tid,
                Notified::Threads => tracee.pid == pid,
            };
        }
    }
}

fn first_argument(abi: Abi, mut registers: Registers) -> Addr {
    Addr(*decode::first_argument(abi, &mut registers))
}

/// The call of i386's first mmap, whose arguments lie in memory `at`: as they were at the entry, if they are the same still or it
/// has replaced them itself. Otherwise another thread may have changed them before the kernel read them.
fn asked_and_seen(
    asked: Option<Call>,
    seen: Option<Decoded>,
    at: Addr,
    result: Result<u64, syscalls::Errno>,
) -> Option<Decoded> {
    let asked = Decoded { call: asked?, result_at: None };
    let Call::Mmap { len, .. } = asked.call else { return None };
    let mapped = result.ok().and_then(|start| Range::of_len(Addr(start), len));
    let is_replaced = mapped.is_some_and(|mapped| mapped.contains(at));
    (is_replaced || seen == Some(asked)).then_some(asked)
}

/// Whether a call may be believed that a supervisor may have answered in the kernel's place (SECCOMP_RET_USER_NOTIF): that it has
/// failed, or that there is something where it has mapped something.
fn has_mapped(tid: Tid, call: &Call, result: Result<u64, syscalls::Errno>) -> bool {
    match (call, result) {
        (_, Err(_)) => true,
        (Call::Mmap { .. } | Call::Mremap { .. } | Call::Shmat { .. }, Ok(start)) => {
            procfs::maps::line_at(tid, Addr(start)).is_some()
        }
        (call, Ok(_)) => !call.changes_mappings(),
    }
}

/// Whether a task has this personality, or one was only asked for: a call that a filter has turned into SIGSYS seems to return its
/// own number, which may be the former personality as well.
fn is_personality(tid: Tid, persona: u32) -> bool {
    persona == u32::MAX || procfs::task::personality(tid).is_none_or(|seen| seen == persona)
}

/// Whether mmap's arguments do not tell all that it has done: files of huge pages are mapped in these, and drivers may
/// choose the offset, and whether a fork copies the mapping.
fn is_untold_mmap(call: &Call, returned: u64) -> bool {
    let Call::Mmap { len, flags, .. } = *call else { return false };
    let may_be_huge = returned.is_multiple_of(map::HUGE_PAGE) && !len.is_multiple_of(map::GIGANTIC_PAGE);
    flags & map::ANONYMOUS == 0 && (flags & map::SHARED != 0 || may_be_huge)
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
        for (followed, asked) in [(Followed::ExitGroup, None), (Followed::Execve, Some(exec))] {
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
                tracee.inside = Some(Inside { abi: Abi::X86_64, followed, asked, is_let_through: true });
                source.proceed(main.into());
                let kinds: Vec<&EventKind> = source.events.iter().map(|event| &event.kind).collect();
                let looks = matches!(kinds[..], [EventKind::OrderLost, EventKind::Maps(_), ..]);
                assert_eq!(looks, overlaps, "{followed:?}: {kinds:?}");
            }
        }
    }
}
