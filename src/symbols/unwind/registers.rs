//! Registers by their DWARF numbers: System V ABI, x86-64 supplement figure 3.36, i386 supplement figure 2.14.

use nix::libc::user_regs_struct;

use crate::units::Addr;

/// The code segment of 32-bit programs: `__USER32_CS` of the kernel's asm/segment.h.
const USER32_CS: u64 = 0x23;

/// General registers, and the return address.
pub const MOST: usize = 17;

/// Whose instructions a task runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// 64-bit.
    X86_64,
    /// 32-bit, on a 64-bit kernel.
    I386,
}

impl Machine {
    /// Bytes in a pointer.
    pub fn word(self) -> u8 {
        match self {
            Machine::X86_64 => 8,
            Machine::I386 => 4,
        }
    }

    /// Number of the stack pointer.
    fn sp(self) -> u8 {
        match self {
            Machine::X86_64 => 7,
            Machine::I386 => 4,
        }
    }

    /// Number of the frame pointer.
    pub fn bp(self) -> u8 {
        match self {
            Machine::X86_64 => 6,
            Machine::I386 => 5,
        }
    }

    /// Number of the column that the return address goes by: the program counter.
    pub fn pc(self) -> u8 {
        match self {
            Machine::X86_64 => 16,
            Machine::I386 => 8,
        }
    }

    /// Whether a function leaves the register to its caller as it was.
    pub fn is_preserved(self, number: u8) -> bool {
        match self {
            Machine::X86_64 => matches!(number, 3 | 6 | 12..=15),
            Machine::I386 => matches!(number, 3 | 5..=7),
        }
    }

    /// An address within what the machine can address.
    pub fn truncate(self, value: u64) -> u64 {
        match self {
            Machine::X86_64 => value,
            Machine::I386 => value & u64::from(u32::MAX),
        }
    }
}

/// The registers of a frame, as far as they are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers {
    machine: Machine,
    values: [u64; MOST],
    known: u32,
    /// Of those that are known, the ones that may be another frame's.
    doubtful: u32,
}

impl Registers {
    /// None known.
    pub fn unknown(machine: Machine) -> Registers {
        Registers { machine, values: [0; MOST], known: 0, doubtful: 0 }
    }

    /// Those of a stopped task, of either machine: PTRACE_GETREGS tells a 64-bit tracer those of a 32-bit task, too.
    pub fn of_task(registers: &user_regs_struct) -> Registers {
        if registers.cs == USER32_CS { Registers::from_i386(registers) } else { Registers::from_x86_64(registers) }
    }

    /// Those of a 64-bit task.
    pub fn from_x86_64(from: &user_regs_struct) -> Registers {
        let values = [
            from.rax, from.rdx, from.rcx, from.rbx, from.rsi, from.rdi, from.rbp, from.rsp, from.r8, from.r9, from.r10,
            from.r11, from.r12, from.r13, from.r14, from.r15, from.rip,
        ];
        Registers::of_values(Machine::X86_64, &values)
    }

    /// Those of a 32-bit task, in the low halves.
    pub fn from_i386(from: &user_regs_struct) -> Registers {
        let values = [from.rax, from.rcx, from.rdx, from.rbx, from.rsp, from.rbp, from.rsi, from.rdi, from.rip];
        Registers::of_values(Machine::I386, &values)
    }

    fn of_values(machine: Machine, values: &[u64]) -> Registers {
        let mut registers = Registers::unknown(machine);
        for (number, value) in (0..).zip(values) {
            registers.set(number, *value);
        }
        registers
    }

    /// Whose they are.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The value of a register; none where it is not known, or no such register is kept.
    pub fn get(&self, number: u8) -> Option<u64> {
        let known = self.known.checked_shr(number.into()).unwrap_or(0) & 1 != 0;
        if known { self.values.get(usize::from(number)).copied() } else { None }
    }

    /// Sets a register. Those that are not kept (vectors, flags) are passed over.
    pub fn set(&mut self, number: u8, value: u64) {
        if let Some(slot) = self.values.get_mut(usize::from(number)) {
            *slot = self.machine.truncate(value);
            self.known |= 1 << number;
            self.doubtful &= !(1 << number);
        }
    }

    /// Sets a register to what may be another frame's value of it.
    pub fn set_doubtful(&mut self, number: u8, value: u64) {
        self.set(number, value);
        self.doubtful |= 1u32.checked_shl(number.into()).unwrap_or(0);
    }

    /// Whether the value may be another frame's.
    pub fn is_doubtful(&self, number: u8) -> bool {
        self.doubtful.checked_shr(number.into()).unwrap_or(0) & 1 != 0
    }

    /// A register is not known any more.
    pub fn forget(&mut self, number: u8) {
        self.known &= !1u32.checked_shl(number.into()).unwrap_or(0);
    }

    /// The stack pointer.
    pub fn sp(&self) -> Option<u64> {
        self.get(self.machine.sp())
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, value: u64) {
        self.set(self.machine.sp(), value);
    }

    /// The program counter.
    pub fn pc(&self) -> Option<Addr> {
        self.get(self.machine.pc()).map(Addr)
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, value: u64) {
        self.set(self.machine.pc(), value);
    }

    /// All that are known, with their numbers.
    pub fn known(&self) -> impl Iterator<Item = (u8, u64)> {
        (0..MOST as u8).filter_map(|number| Some((number, self.get(number)?)))
    }
}
