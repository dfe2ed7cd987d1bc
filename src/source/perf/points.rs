//! Which tracepoints are followed, and what each of them is to tell.

use super::record::{ALL_REGISTERS, ARGUMENTS, RESULT};
use crate::source::ptrace::decode::{Followed, X86_64};

/// What a tracepoint tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A call is about to be made.
    Enter(Followed),
    /// A call has returned.
    Exit(Followed),
    /// A signal with its default action is delivered.
    Signal,
    /// execve has put a new image in place.
    Executed,
}

/// How a tracepoint is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its place in tracefs.
    pub tracepoint: String,
    /// What it tells.
    pub point: Point,
    /// Which user registers it brings, as bits of PERF_REG_X86_*.
    pub registers: u64,
    /// How much of the user stack it brings, in bytes.
    pub stack_bytes: u32,
    /// Whether it brings the tracepoint's own fields.
    pub raw: bool,
    /// What it lets through, of its own fields.
    pub filter: Option<String>,
    /// Whether it is to be read at once: what it tells of may be gone in a moment.
    pub wakes: bool,
}

/// The calls that may map a program's own stack: private anonymous writable memory, of the sizes in question.
pub fn mmap_with_stack(filter: String) -> Wanted {
    Wanted {
        tracepoint: "syscalls/sys_enter_mmap".to_owned(),
        point: Point::Enter(Followed::Mmap),
        registers: ALL_REGISTERS,
        stack_bytes: MAPPER_STACK_BYTES,
        raw: false,
        filter: Some(filter),
        wakes: false,
    }
}

/// The success of execve. Its registers tell a 32-bit program from others, and the image is whole by then: PERF_RECORD_COMM
/// comes before it is.
pub fn execve() -> Wanted {
    Wanted {
        tracepoint: "sched/sched_process_exec".to_owned(),
        point: Point::Executed,
        registers: RESULT,
        stack_bytes: 0,
        raw: true,
        filter: None,
        wakes: true,
    }
}

/// How much is copied of the stack of who maps memory.
const MAPPER_STACK_BYTES: u32 = 4 << 10;

/// How much of a creator's stack is copied: a signal's frame is 3 KiB and more. What lies above is read live.
pub const STACK_BYTES: u32 = 8 << 10;

/// The tracepoints. At the exit of a call all arguments are still in the registers, so the entry is followed where it
/// matters that a call is under way, or where there is no exit.
pub fn wanted() -> Vec<Wanted> {
    let mut all = Vec::new();
    for (sysno, followed) in X86_64 {
        let name = sysno.name();
        let call = |entry: &str, point, registers, stack_bytes, wakes| Wanted {
            tracepoint: format!("syscalls/sys_{entry}_{name}"),
            point,
            registers,
            stack_bytes,
            raw: false,
            filter: None,
            wakes,
        };
        use Followed as F;
        let (registers, stack_bytes) = match followed {
            F::Clone | F::Clone3 => (ALL_REGISTERS, STACK_BYTES),
            _ => (ARGUMENTS, 0),
        };
        let is_entered = matches!(
            followed,
            F::Munmap | F::Mremap | F::Brk | F::Shmdt | F::IoDestroy | F::Clone | F::Clone3 | F::Fork | F::Vfork
        );
        let ends = matches!(followed, F::Exit | F::ExitGroup);
        let executes = matches!(followed, F::Execve | F::Execveat);
        if is_entered || ends || executes {
            let wakes = matches!(followed, F::Clone | F::Clone3 | F::ExitGroup);
            all.push(call("enter", Point::Enter(*followed), registers, stack_bytes, wakes));
        }
        if !ends {
            all.push(call("exit", Point::Exit(*followed), ARGUMENTS, 0, false));
        }
    }
    all.push(execve());
    all.push(Wanted {
        tracepoint: "signal/signal_deliver".to_owned(),
        point: Point::Signal,
        registers: 0,
        stack_bytes: 0,
        raw: true,
        filter: Some("sa_handler == 0".to_owned()),
        wakes: false,
    });
    all
}
