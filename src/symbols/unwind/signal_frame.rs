//! What the kernel leaves on the stack for a signal handler, for where no row tells.

use super::memory::{self, Memory};
use super::registers::{Machine, Registers};
use super::row::Above;

/// `uc_mcontext` in `struct ucontext`, which the stack pointer points to when a handler has returned:
/// arch/x86/include/uapi/asm/sigcontext.h and asm-generic/ucontext.h.
const REGISTERS_AT: u64 = 40;

/// The DWARF numbers of the registers in `struct sigcontext_64`, in its order: r8 to r15, di, si, bp, bx, dx, ax, cx,
/// sp, ip.
const ORDER: [u8; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];

/// The registers that the signal has interrupted.
pub fn caller(frame: &Registers, memory: &mut dyn Memory) -> Above {
    let mut interrupted = Registers::unknown(Machine::X86_64);
    let Some(sp) = frame.sp().filter(|_| frame.machine() == Machine::X86_64) else { return Above::Unknown };
    for (index, number) in (0..).zip(ORDER) {
        let at = sp.wrapping_add(REGISTERS_AT + index * 8);
        let Some(value) = memory::word(memory, Machine::X86_64, at) else { return Above::Unknown };
        interrupted.set(number, value);
    }
    Above::Caller(interrupted)
}
