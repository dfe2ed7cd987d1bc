//! The seccomp filter of a launched program: the followed calls stop, everything else runs at full speed.
//!
//! Classic BPF, see seccomp(2). The stop's message tells the call and its table, so that nothing else has to be read
//! at the entry. A filter is inherited and outlives its tracer, whose absence makes its calls fail: launch only.
//!
//! A program may have a filter of its own that wants a tracer to decide. It has none, as far as it knows: what we would let
//! pass has to fail.

use nix::libc::{
    self, BPF_ABS, BPF_ALU, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_OR, BPF_RET, BPF_STMT, BPF_W,
    sock_filter,
};

use syscalls::{x86, x86_64};

use super::decode::{Abi, Followed, I386, X86_64};
use crate::abi::set_mm::PR_SET_MM;

/// linux/audit.h
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// linux/audit.h
pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Marks a call of i386 in the stop's message.
const I386_MARK: u32 = 0x8000;
/// Tells our filter's messages from those of others.
const OURS: u32 = 0x5400;
/// The bits that hold the number.
const NUMBER: u32 = 0x3ff;
/// Numbers from here on are of the x32 table, which no distribution's kernel has switched on.
const X32_BIT: u32 = 0x4000_0000;
/// BPF_A: return the accumulator (linux/filter.h; not in libc).
const BPF_A: u32 = 0x10;

/// Offsets into seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;
/// Its lower half, which is all that prctl looks at.
const FIRST_ARGUMENT: u32 = 16;

/// The program.
pub fn program() -> Vec<sock_filter> {
    let is_other = |followed: Followed| followed != Followed::Prctl;
    let numbers_64: Vec<u32> =
        X86_64.iter().filter(|(_, call)| is_other(*call)).map(|(sysno, _)| sysno.id() as u32).collect();
    let numbers_32: Vec<u32> =
        I386.iter().filter(|(_, call)| is_other(*call)).map(|(sysno, _)| sysno.id() as u32).collect();
    let mut program = vec![load(ARCH)];
    // i386's part comes behind that of x86-64: two loads and tests, its numbers, and what `table` puts behind these.
    program.push(jump(BPF_JEQ, AUDIT_ARCH_I386, (numbers_64.len() + 11) as u8, 0));
    program.push(jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0));
    program.push(allow());
    program.push(load(NR));
    program.push(jump(BPF_JGE, X32_BIT, numbers_64.len() as u8 + 3, 0));
    table(&mut program, &numbers_64, x86_64::Sysno::prctl.id() as u32, 0);
    program.push(load(NR));
    table(&mut program, &numbers_32, x86::Sysno::prctl.id() as u32, I386_MARK);
    program
}

/// Numbers that stop, prctl, which stops for PR_SET_MM alone, and the two exits: allowed, and traced with the number as
/// message.
fn table(program: &mut Vec<sock_filter>, numbers: &[u32], prctl: u32, mark: u32) {
    for (index, number) in numbers.iter().enumerate() {
        program.push(jump(BPF_JEQ, *number, (numbers.len() - index) as u8 + 4, 0));
    }
    program.push(jump(BPF_JEQ, prctl, 0, 2));
    program.push(load(FIRST_ARGUMENT));
    program.push(jump(BPF_JEQ, PR_SET_MM as u32, 1, 0));
    program.push(allow());
    program.push(load(NR));
    program.push(statement(BPF_ALU | BPF_OR | BPF_K, libc::SECCOMP_RET_TRACE | OURS | mark));
    program.push(statement(BPF_RET | BPF_A, 0));
}

/// What a stop's message says: the table and the number. None if it is another filter's.
pub fn from_message(message: u64) -> Option<(Abi, u64)> {
    let abi = if message & u64::from(I386_MARK) != 0 { Abi::I386 } else { Abi::X86_64 };
    let is_ours = message & !u64::from(I386_MARK | NUMBER) == u64::from(OURS);
    is_ours.then_some((abi, message & u64::from(NUMBER)))
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn allow() -> sock_filter {
    statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW)
}

#[allow(unsafe_code)] // libc declares these two const constructors unsafe without a reason
fn statement(code: u32, k: u32) -> sock_filter {
    // SAFETY: builds a value.
    unsafe { BPF_STMT(code as u16, k) }
}

#[allow(unsafe_code)]
fn jump(test: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    // SAFETY: builds a value.
    unsafe { BPF_JUMP((BPF_JMP | test | BPF_K) as u16, k, if_true, if_false) }
}

#[cfg(test)]
mod tests {
    use super::super::decode::followed;
    use super::*;

    /// A few lines of BPF, enough to run the filter.
    fn run(program: &[sock_filter], arch: u32, nr: u32, first_argument: u32) -> u32 {
        let (mut pc, mut accumulator) = (0, 0);
        loop {
            let instruction = program[pc];
            pc += 1;
            let code = u32::from(instruction.code);
            let take = |condition: bool| usize::from(if condition { instruction.jt } else { instruction.jf });
            if code == BPF_LD | BPF_W | BPF_ABS {
                accumulator = match instruction.k {
                    NR => nr,
                    ARCH => arch,
                    _ => first_argument,
                };
            } else if code == BPF_JMP | BPF_JEQ | BPF_K {
                pc += take(accumulator == instruction.k);
            } else if code == BPF_JMP | BPF_JGE | BPF_K {
                pc += take(accumulator >= instruction.k);
            } else if code == BPF_ALU | BPF_OR | BPF_K {
                accumulator |= instruction.k;
            } else if code == BPF_RET | BPF_K {
                return instruction.k;
            } else {
                assert_eq!(code, BPF_RET | BPF_A);
                return accumulator;
            }
        }
    }

    /// Of all numbers of both tables, exactly the followed ones stop, and the message says which.
    #[test]
    fn exactly_the_followed_calls_stop() {
        let program = program();
        for (arch, abi) in [(AUDIT_ARCH_X86_64, Abi::X86_64), (AUDIT_ARCH_I386, Abi::I386)] {
            for nr in 0..1000 {
                let verdict = run(&program, arch, nr, PR_SET_MM as u32);
                if followed(abi, nr.into()) == Some(Followed::Prctl) {
                    assert_eq!(run(&program, arch, nr, 15), libc::SECCOMP_RET_ALLOW, "PR_SET_NAME");
                }
                if followed(abi, nr.into()).is_some() {
                    assert_eq!(verdict & 0xffff_0000, libc::SECCOMP_RET_TRACE, "{abi:?} {nr}");
                    assert_eq!(from_message(u64::from(verdict & 0xffff)), Some((abi, nr.into())));
                } else {
                    assert_eq!(verdict, libc::SECCOMP_RET_ALLOW, "{abi:?} {nr}");
                }
            }
        }
    }

    /// A program's own filter may say anything.
    #[test]
    fn messages_of_others() {
        let ours = (0..0x1_0000).filter(|message| from_message(*message).is_some()).count();
        assert_eq!(ours, 2 * 0x400);
        for others in [0, 9, 0x8000, 0xffff, 0x1_5409] {
            assert_eq!(from_message(others), None);
        }
    }

    /// Other tables are left alone.
    #[test]
    fn x32_and_foreign_machines_run_free() {
        let program = program();
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32_BIT | 9, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(run(&program, 0xc000_00b7, 9, 0), libc::SECCOMP_RET_ALLOW);
    }

    /// The tables mean what their names say.
    #[test]
    fn well_known_numbers() {
        assert_eq!(followed(Abi::X86_64, 9), Some(Followed::Mmap));
        assert_eq!(followed(Abi::I386, 90), Some(Followed::OldMmap));
        assert_eq!(followed(Abi::I386, 192), Some(Followed::Mmap2));
        assert_eq!(followed(Abi::X86_64, 0), None);
    }
}
