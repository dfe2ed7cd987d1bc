//! What a stop means: the status of a stopped tracee, decoded. See ptrace(2), "Stopped states".

use nix::libc;

/// Why a tracee has stopped, and so how it may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// At the entry or the exit of a system call.
    Syscall,
    /// At the entry of a system call that the filter picked; goes on into it.
    Seccomp,
    /// A signal is on its way; goes on with it, or it is lost.
    Signal(i32),
    /// The process is stopped by job control; must listen, not run.
    GroupStop,
    /// It was interrupted, is new, or job control has changed its mind; goes on.
    Trap,
    /// fork, vfork or clone has made a task; its number is the event's message.
    NewTask,
    /// execve has succeeded; the former tid is the event's message.
    Exec,
    /// It is about to end, its memory still there; the status is the event's message.
    Exit,
    /// An event that was not asked for; goes on.
    Other,
}

impl Stop {
    /// Decodes the status of waitid(2): a signal in the low byte, an event above it.
    pub fn from_status(status: i32) -> Stop {
        let (signal, event) = (status & 0xff, status >> 8);
        match event {
            0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
            0 => Stop::Signal(signal),
            libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Trap,
            libc::PTRACE_EVENT_STOP => Stop::GroupStop,
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => Stop::NewTask,
            libc::PTRACE_EVENT_EXEC => Stop::Exec,
            libc::PTRACE_EVENT_EXIT => Stop::Exit,
            libc::PTRACE_EVENT_SECCOMP => Stop::Seccomp,
            _ => Stop::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SIGTRAP means four things, and only the bits around it tell which.
    #[test]
    fn sigtrap_is_told_apart() {
        assert_eq!(Stop::from_status(libc::SIGTRAP), Stop::Signal(libc::SIGTRAP));
        assert_eq!(Stop::from_status(libc::SIGTRAP | 0x80), Stop::Syscall);
        assert_eq!(Stop::from_status(libc::SIGTRAP | libc::PTRACE_EVENT_EXEC << 8), Stop::Exec);
        assert_eq!(Stop::from_status(libc::SIGTRAP | libc::PTRACE_EVENT_STOP << 8), Stop::Trap);
    }

    /// A real-time signal is one like any other, and SIGSTOP on its way is not yet a group-stop.
    #[test]
    fn signals_and_group_stops() {
        assert_eq!(Stop::from_status(64), Stop::Signal(64));
        assert_eq!(Stop::from_status(libc::SIGSTOP), Stop::Signal(libc::SIGSTOP));
        assert_eq!(Stop::from_status(libc::SIGSTOP | libc::PTRACE_EVENT_STOP << 8), Stop::GroupStop);
    }
}
