//! What stops and signals would do, or not do, if nobody traced: the kernel keeps from an untraced task what it ignores
//! (`sig_ignored` in kernel/signal.c), a traced one stops for it.
//!
//! Any such stop, and any of ours, ends the call that a task is in. Most calls are begun anew by the kernel, but some fail with
//! EINTR (signal(7)), which a program without a signal handler need not expect. They are made to begin anew as well: unless a
//! handler runs (ERESTARTNOHAND of linux/errno.h).

use nix::libc::{self, user_regs_struct as Registers};
use syscalls::{x86, x86_64};

use super::decode::{self, Abi};
use super::gone;
use crate::procfs::task;
use crate::source::group::ProgramGroup;
use crate::sys;
use crate::units::Tid;

/// Why a task was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// By us, once in its life, or twice: a wait that ends at a time may begin anew.
    ByUs,
    /// By a signal, and there may be any number of them: only a wait without an end may.
    BySignal(i32),
}

/// How a call says how long it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// By an argument in milliseconds; for ever where it is negative.
    Milliseconds(usize),
    /// By an argument that is the address of a time; for ever where it is null.
    Time(usize),
    /// Otherwise.
    Elsewhere,
}

/// Lets a task that has stopped on its way out of a call begin the call anew, where it would still be in it without us.
pub(super) fn resume(tid: Tid, woken: Woken) {
    // These do end the calls.
    const JOB_CONTROL: [i32; 5] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];
    if matches!(woken, Woken::BySignal(signal) if JOB_CONTROL.contains(&signal)) {
        return;
    }
    let Some(mut registers) = gone(sys::registers(tid)) else { return };
    if begins_anew(&registers, woken) {
        /// `ERESTARTNOHAND`
        const RESTART_WITHOUT_HANDLER: i64 = 514;
        registers.rax = -RESTART_WITHOUT_HANDLER as u64;
        let _ = gone(sys::set_registers(tid, &registers));
    }
}

fn begins_anew(registers: &Registers, woken: Woken) -> bool {
    if registers.rax as i64 != -i64::from(libc::EINTR) || (registers.orig_rax as i64) < 0 {
        return false;
    }
    let abi = Abi::of_code_segment(registers);
    let number = registers.orig_rax & 0xffff_ffff;
    patience(abi, number).is_some_and(|patience| {
        let argument = |index: usize| decode::arguments(abi, registers)[index];
        woken == Woken::ByUs
            || match patience {
                Patience::Milliseconds(index) => (argument(index) as i32) < 0,
                Patience::Time(index) => argument(index) == 0,
                Patience::Elsewhere => false,
            }
    })
}

/// Whether a SIGSTOP on its way would not have been sent: the first process of a PID namespace is not stopped by what comes from
/// inside (`sig_task_ignored`).
pub(super) fn is_kept_from(tid: Tid, signal: i32) -> bool {
    // A sender outside has no number there.
    signal == libc::SIGSTOP
        && task::is_init_of_namespace(tid)
        && gone(sys::signal_sender(tid)).flatten().is_some_and(|sender| sender != 0)
}

/// Whether a stop on its way that the terminal has sent would not have been sent, or have meant nothing: without us the program's
/// group had the terminal already, or was the session leader's.
pub(super) fn is_of_terminal(tid: Tid, signal: i32, group: Option<&mut ProgramGroup>) -> bool {
    let is_the_kernels = || gone(sys::signal_sender(tid)) == Some(None);
    match signal {
        libc::SIGTTIN | libc::SIGTTOU => is_the_kernels() && group.is_some_and(|group| group.has_terminal(tid)),
        libc::SIGTSTP => is_the_kernels() && group.is_some_and(|group| group.is_never_stopped(tid)),
        _ => false,
    }
}

/// How long a call waits, if it is one of these.
fn patience(abi: Abi, number: u64) -> Option<Patience> {
    use Patience::{Elsewhere, Milliseconds, Time};
    let number = usize::try_from(number).ok()?;
    Some(match abi {
        Abi::X86_64 => {
            use x86_64::Sysno;
            match Sysno::new(number)? {
                Sysno::epoll_wait | Sysno::epoll_pwait => Milliseconds(3),
                Sysno::epoll_pwait2 | Sysno::semtimedop => Time(3),
                Sysno::rt_sigtimedwait => Time(2),
                Sysno::io_getevents | Sysno::io_pgetevents => Time(4),
                // Without an end but for what is set at the socket, or in the ring.
                Sysno::recvfrom | Sysno::recvmsg | Sysno::accept | Sysno::accept4 | Sysno::io_uring_enter => Elsewhere,
                Sysno::semop => Elsewhere,
                _ => return None,
            }
        }
        Abi::I386 => {
            use x86::Sysno;
            match Sysno::new(number)? {
                Sysno::epoll_wait | Sysno::epoll_pwait => Milliseconds(3),
                Sysno::epoll_pwait2 | Sysno::semtimedop_time64 => Time(3),
                Sysno::rt_sigtimedwait | Sysno::rt_sigtimedwait_time64 => Time(2),
                Sysno::io_getevents | Sysno::io_pgetevents | Sysno::io_pgetevents_time64 => Time(4),
                Sysno::recvfrom | Sysno::recvmsg | Sysno::accept4 | Sysno::io_uring_enter => Elsewhere,
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code)] // the type has no default
    fn registers(number: x86_64::Sysno, fourth: u64) -> Registers {
        // SAFETY: all fields are integers.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        (registers.orig_rax, registers.rax) = (number.id() as u64, -i64::from(libc::EINTR) as u64);
        (registers.r10, registers.cs) = (fourth, 0x33);
        registers
    }

    /// What waits for ever begins anew whatever has woken it; what waits for a while, when it was us.
    #[test]
    fn waits_that_begin_anew() {
        use x86_64::Sysno;
        let child = Woken::BySignal(libc::SIGCHLD);
        for (number, fourth, by_us, by_signal) in [
            (Sysno::epoll_wait, u64::from(u32::MAX), true, true),
            (Sysno::epoll_wait, 5000, true, false),
            (Sysno::semtimedop, 0, true, true),
            (Sysno::semtimedop, 0x1000, true, false),
            (Sysno::recvfrom, 0, true, false),
            // It may have closed the file all the same.
            (Sysno::close, 0, false, false),
            (Sysno::connect, 0, false, false),
        ] {
            let at = registers(number, fourth);
            let found = [Woken::ByUs, child].map(|woken| begins_anew(&at, woken));
            assert_eq!(found, [by_us, by_signal], "{number:?} {fourth}");
            assert!(!begins_anew(&Registers { rax: 0, ..at }, Woken::ByUs), "it has returned something");
            assert!(!begins_anew(&Registers { orig_rax: u64::MAX, ..at }, Woken::ByUs), "it is in no call");
        }
    }
}
