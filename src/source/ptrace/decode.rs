//! Registers of a stopped task, read as a system call: x86-64, and i386 on x86-64.
//!
//! All arguments are still in the registers when a call returns (arch/x86/entry), so one read at the exit stop serves.

use nix::libc::{self, user_regs_struct as Registers};
use syscalls::{Errno, x86, x86_64};

use crate::abi::set_mm::PR_SET_MM;
use crate::event::{Call, CloneArgs, CloneCall};
use crate::procfs::present::LiveMemory;
use crate::sys;
use crate::units::{Addr, PAGE, Tid};

/// Which system call table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abi {
    /// 64-bit.
    X86_64,
    /// 32-bit, by int 0x80 or sysenter.
    I386,
}

impl Abi {
    /// The table of a machine; none of one that is not followed.
    pub fn of_audit_arch(arch: u32) -> Option<Abi> {
        match arch {
            super::filter::AUDIT_ARCH_X86_64 => Some(Abi::X86_64),
            super::filter::AUDIT_ARCH_I386 => Some(Abi::I386),
            _ => None,
        }
    }

    /// The table of the program that stands in a call: the other one's code may use it too, which the registers do not show.
    pub fn of_code_segment(registers: &Registers) -> Abi {
        /// `__USER32_CS` of arch/x86/include/asm/segment.h.
        const USER32: u64 = 0x23;
        if registers.cs == USER32 { Abi::I386 } else { Abi::X86_64 }
    }
}

/// A call that is followed, as it is in its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the kernel's names
pub enum Followed {
    Mmap,
    /// i386's mmap with a block of arguments in memory.
    OldMmap,
    /// i386's mmap with the offset in pages.
    Mmap2,
    Munmap,
    Mprotect,
    PkeyMprotect,
    Mremap,
    Madvise,
    Brk,
    Shmat,
    Shmdt,
    /// i386's multiplexer of System V calls.
    Ipc,
    RemapFilePages,
    IoSetup,
    IoDestroy,
    MapShadowStack,
    Personality,
    Clone,
    Clone3,
    Fork,
    Vfork,
    Execve,
    Execveat,
    Exit,
    ExitGroup,
    /// With PR_SET_MM alone.
    Prctl,
    ProcessMadvise,
    Mseal,
    IoUringSetup,
    /// Of which it is only asked whether others decide on calls from then on.
    Seccomp,
    /// Of which it is only asked whether it has mapped the vDSO once more.
    ArchPrctl,
}

/// The followed calls of x86-64.
pub const X86_64: &[(x86_64::Sysno, Followed)] = {
    use x86_64::Sysno;
    &[
        (Sysno::mmap, Followed::Mmap),
        (Sysno::mprotect, Followed::Mprotect),
        (Sysno::munmap, Followed::Munmap),
        (Sysno::brk, Followed::Brk),
        (Sysno::mremap, Followed::Mremap),
        (Sysno::madvise, Followed::Madvise),
        (Sysno::shmat, Followed::Shmat),
        (Sysno::clone, Followed::Clone),
        (Sysno::fork, Followed::Fork),
        (Sysno::vfork, Followed::Vfork),
        (Sysno::execve, Followed::Execve),
        (Sysno::exit, Followed::Exit),
        (Sysno::shmdt, Followed::Shmdt),
        (Sysno::personality, Followed::Personality),
        (Sysno::io_setup, Followed::IoSetup),
        (Sysno::io_destroy, Followed::IoDestroy),
        (Sysno::remap_file_pages, Followed::RemapFilePages),
        (Sysno::exit_group, Followed::ExitGroup),
        (Sysno::execveat, Followed::Execveat),
        (Sysno::pkey_mprotect, Followed::PkeyMprotect),
        (Sysno::clone3, Followed::Clone3),
        (Sysno::map_shadow_stack, Followed::MapShadowStack),
        (Sysno::prctl, Followed::Prctl),
        (Sysno::process_madvise, Followed::ProcessMadvise),
        (Sysno::mseal, Followed::Mseal),
        (Sysno::io_uring_setup, Followed::IoUringSetup),
        (Sysno::seccomp, Followed::Seccomp),
        (Sysno::arch_prctl, Followed::ArchPrctl),
    ]
};

/// The followed calls of i386.
pub const I386: &[(x86::Sysno, Followed)] = {
    use x86::Sysno;
    &[
        (Sysno::exit, Followed::Exit),
        (Sysno::fork, Followed::Fork),
        (Sysno::execve, Followed::Execve),
        (Sysno::brk, Followed::Brk),
        (Sysno::mmap, Followed::OldMmap),
        (Sysno::munmap, Followed::Munmap),
        (Sysno::ipc, Followed::Ipc),
        (Sysno::clone, Followed::Clone),
        (Sysno::mprotect, Followed::Mprotect),
        (Sysno::personality, Followed::Personality),
        (Sysno::mremap, Followed::Mremap),
        (Sysno::vfork, Followed::Vfork),
        (Sysno::mmap2, Followed::Mmap2),
        (Sysno::madvise, Followed::Madvise),
        (Sysno::io_setup, Followed::IoSetup),
        (Sysno::io_destroy, Followed::IoDestroy),
        (Sysno::exit_group, Followed::ExitGroup),
        (Sysno::remap_file_pages, Followed::RemapFilePages),
        (Sysno::execveat, Followed::Execveat),
        (Sysno::pkey_mprotect, Followed::PkeyMprotect),
        (Sysno::shmat, Followed::Shmat),
        (Sysno::shmdt, Followed::Shmdt),
        (Sysno::clone3, Followed::Clone3),
        (Sysno::map_shadow_stack, Followed::MapShadowStack),
        (Sysno::prctl, Followed::Prctl),
        (Sysno::process_madvise, Followed::ProcessMadvise),
        (Sysno::mseal, Followed::Mseal),
        (Sysno::io_uring_setup, Followed::IoUringSetup),
        (Sysno::seccomp, Followed::Seccomp),
        (Sysno::arch_prctl, Followed::ArchPrctl),
    ]
};

/// The followed call with this number, if it is one.
pub fn followed(abi: Abi, nr: u64) -> Option<Followed> {
    match abi {
        Abi::X86_64 => X86_64.iter().find(|(sysno, _)| sysno.id() as u64 == nr).map(|(_, followed)| *followed),
        Abi::I386 => I386.iter().find(|(sysno, _)| sysno.id() as u64 == nr).map(|(_, followed)| *followed),
    }
}

/// Stack pointer and base of thread-local storage.
pub fn stack_and_tls(registers: &Registers) -> (Addr, Option<Addr>) {
    (Addr(registers.rsp), Some(Addr(registers.fs_base)).filter(|base| base.0 != 0))
}

/// What a returned call has returned, all 64 bits of it also by i386's table: in a 64-bit program brk may return as many, and
/// personality 32 bits that would pass for an error's if they were all. ENOSYS where it was not made at all, because a filter
/// of the program's own has turned it into SIGSYS.
pub fn result(abi: Abi, followed: Followed, registers: &Registers) -> Result<u64, Errno> {
    let (signed, unsigned) = (registers.rax as i64, registers.rax);
    // MAX_ERRNO of linux/err.h.
    if (-4095..0).contains(&signed) {
        Err(Errno::new((-signed) as i32))
    } else if is_rolled_back(abi, followed, unsigned) {
        Err(Errno::ENOSYS)
    } else {
        Ok(unsigned)
    }
}

/// Whether the number of the call stands where its result would (SECCOMP_RET_TRAP, `syscall_rollback`). Others return small
/// numbers themselves.
fn is_rolled_back(abi: Abi, followed: Followed, result: u64) -> bool {
    let may_be_result = matches!(
        followed,
        Followed::Clone
            | Followed::Clone3
            | Followed::Fork
            | Followed::Vfork
            | Followed::ProcessMadvise
            | Followed::IoUringSetup
            | Followed::Personality
            | Followed::Seccomp
    );
    result != 0 && result < PAGE && !may_be_result && self::followed(abi, result) == Some(followed)
}

/// The argument of exit and exit_group, as the parent will see it.
pub fn exit_code(abi: Abi, registers: &Registers) -> i32 {
    (arguments(abi, registers)[0] & 0xff) as i32
}

/// The register that holds a call's first argument.
pub fn first_argument(abi: Abi, registers: &mut Registers) -> &mut u64 {
    match abi {
        Abi::X86_64 => &mut registers.rdi,
        Abi::I386 => &mut registers.rbx,
    }
}

/// A call's second argument.
pub fn second_argument(abi: Abi, registers: &Registers) -> u64 {
    arguments(abi, registers)[1]
}

/// Whether a call to arch_prctl(2) maps the vDSO once more: ARCH_MAP_VDSO_X32, _32 and _64 of asm/prctl.h.
pub fn maps_vdso(abi: Abi, registers: &Registers) -> bool {
    (0x2001..=0x2003).contains(&arguments(abi, registers)[0])
}

/// Whose calls another process may decide on from here on, by SECCOMP_RET_USER_NOTIF of seccomp(2), when this call of it has
/// succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notified {
    /// Nobody's.
    None,
    /// The caller's.
    Caller,
    /// Those of all threads of its process.
    Threads,
}

impl Notified {
    /// By the arguments of a call to seccomp(2).
    pub fn by(abi: Abi, registers: &Registers) -> Notified {
        let [operation, flags, ..] = arguments(abi, registers).map(|argument| argument as u32);
        let has = |flag: libc::c_ulong| u64::from(flags) & flag != 0;
        match operation {
            libc::SECCOMP_SET_MODE_FILTER if has(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) => {
                if has(libc::SECCOMP_FILTER_FLAG_TSYNC) { Notified::Threads } else { Notified::Caller }
            }
            _ => Notified::None,
        }
    }
}

/// All arguments of a call.
pub fn arguments(abi: Abi, registers: &Registers) -> [u64; 6] {
    let r = registers;
    match abi {
        Abi::X86_64 => [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9],
        Abi::I386 => [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp].map(|register| register & 0xffff_ffff),
    }
}

/// A call and where its result is, if not in the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The call.
    pub call: Call,
    /// i386's ipc(SHMAT) and io_setup store the address here.
    pub result_at: Option<Addr>,
}

/// Where arguments lie in memory: what is known of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arguments {
    /// The kernel has used them a moment ago, and the task stands still: they are there.
    Used,
    /// The kernel may not have looked at them yet, nor have to, so that they may be anywhere.
    Unused,
}

impl Arguments {
    /// Those of a call that has returned.
    pub fn of<T, E>(result: &Result<T, E>) -> Arguments {
        if result.is_ok() { Arguments::Used } else { Arguments::Unused }
    }

    fn read(self, tid: Tid, addr: Addr, buffer: &mut [u8]) -> Option<()> {
        match self {
            Arguments::Used => sys::peek_memory(tid, addr, buffer),
            Arguments::Unused => LiveMemory::of(tid).read(addr, buffer),
        }
        .ok()
    }

    /// 32-bit words.
    fn read_words<const N: usize>(self, tid: Tid, addr: Addr) -> Option<[u32; N]> {
        let mut bytes = vec![0u8; 4 * N];
        self.read(tid, addr, &mut bytes)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Some(words)
    }
}

/// The call in the registers. None where it is none of those (ipc and prctl do other things too), or memory cannot be
/// read, as that of memfd_secret(2).
pub fn call(tid: Tid, abi: Abi, followed: Followed, registers: &Registers, memory: Arguments) -> Option<Decoded> {
    let arguments = arguments(abi, registers);
    let [a, b, c, d, e, f] = arguments;
    let (addr, len) = (Addr(a), b);
    let mut result_at = None;
    let call = match followed {
        Followed::Mmap => Call::Mmap { addr, len, prot: c as u32, flags: d as u32, fd: e as i32, offset: f },
        Followed::Mmap2 => Call::Mmap { addr, len, prot: c as u32, flags: d as u32, fd: e as i32, offset: f * PAGE },
        Followed::OldMmap => {
            let [addr, len, prot, flags, fd, offset] = memory.read_words::<6>(tid, addr)?;
            let (addr, len, offset) = (Addr(addr.into()), len.into(), offset.into());
            Call::Mmap { addr, len, prot, flags, fd: fd as i32, offset }
        }
        Followed::Munmap => Call::Munmap { addr, len },
        Followed::Mprotect => Call::Mprotect { addr, len, prot: c as u32 },
        Followed::PkeyMprotect => Call::PkeyMprotect { addr, len, prot: c as u32, pkey: d as i32 },
        Followed::Mremap => Call::Mremap { old: addr, old_len: len, new_len: c, flags: d as u32, new: Addr(e) },
        Followed::Madvise => Call::Madvise { addr, len, advice: c as i32 },
        Followed::Brk => Call::Brk { addr },
        Followed::Shmat => Call::Shmat { id: a as i32, addr: Addr(b), flags: c as i32 },
        Followed::Shmdt => Call::Shmdt { addr },
        Followed::Ipc => {
            // ipc(2): the upper half is a version; SHMAT (21) stores its result at the fourth argument.
            const SHMAT: u64 = 21;
            const SHMDT: u64 = 22;
            match a & 0xffff {
                SHMAT => {
                    result_at = Some(Addr(d));
                    Call::Shmat { id: b as i32, addr: Addr(e), flags: c as i32 }
                }
                SHMDT => Call::Shmdt { addr: Addr(e) },
                _ => return None,
            }
        }
        Followed::RemapFilePages => Call::RemapFilePages { addr, len, prot: c as u32, pgoff: d, flags: e as u32 },
        Followed::IoSetup => {
            result_at = Some(Addr(b));
            Call::IoSetup { nr_events: a as u32, ctxp: Addr(b) }
        }
        Followed::IoDestroy => Call::IoDestroy { ctx: addr },
        Followed::MapShadowStack => Call::MapShadowStack { addr, len, flags: c as u32 },
        Followed::Personality => Call::Personality { persona: a as u32 },
        Followed::Clone | Followed::Clone3 | Followed::Fork | Followed::Vfork => {
            Call::Clone(clone_args(tid, abi, followed, arguments, memory)?)
        }
        Followed::Execve => Call::Execve { path: addr, argv: Addr(b), envp: Addr(c) },
        Followed::Execveat => {
            Call::Execveat { dirfd: a as i32, path: Addr(b), argv: Addr(c), envp: Addr(d), flags: e as u32 }
        }
        Followed::Prctl => {
            let call = Call::Prctl { option: a as i32, arg2: b, arg3: c, arg4: d, arg5: e };
            return (a as i32 == PR_SET_MM).then_some(Decoded { call, result_at });
        }
        Followed::ProcessMadvise => {
            Call::ProcessMadvise { pidfd: a as i32, iovec: Addr(b), vlen: c, advice: d as i32, flags: e as u32 }
        }
        Followed::Mseal => Call::Mseal { addr, len, flags: c },
        Followed::IoUringSetup => Call::IoUringSetup { entries: a as u32, params: Addr(b) },
        Followed::Exit | Followed::ExitGroup | Followed::Seccomp | Followed::ArchPrctl => return None,
    };
    Some(Decoded { call, result_at })
}

fn clone_args(tid: Tid, abi: Abi, followed: Followed, arguments: [u64; 6], memory: Arguments) -> Option<CloneArgs> {
    use crate::abi::clone;
    const CSIGNAL: u64 = 0xff;
    const SIGCHLD: u32 = libc::SIGCHLD as u32;
    let without_arguments = |call, flags| CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::bare(call, flags) };
    Some(match followed {
        Followed::Clone3 => {
            let mut bytes = [0u8; 64];
            let size = usize::try_from(arguments[1]).ok()?.min(bytes.len());
            memory.read(tid, Addr(arguments[0]), &mut bytes[..size])?;
            let args = clone3_args(&bytes);
            CloneArgs { tls: tls(tid, abi, args.flags, args.tls.0, memory), ..args }
        }
        Followed::Clone => {
            let [flags, stack, parent_tid, fourth, fifth, _] = arguments;
            // CONFIG_CLONE_BACKWARDS of i386 swaps the last two.
            let (child_tid, tls_argument) = match abi {
                Abi::X86_64 => (fourth, fifth),
                Abi::I386 => (fifth, fourth),
            };
            CloneArgs {
                call: CloneCall::Clone,
                flags: flags & !CSIGNAL,
                exit_signal: (flags & CSIGNAL) as u32,
                stack: Addr(stack),
                stack_size: 0,
                tls: tls(tid, abi, flags, tls_argument, memory),
                parent_tid: Addr(parent_tid),
                child_tid: Addr(child_tid),
            }
        }
        Followed::Vfork => without_arguments(CloneCall::Vfork, clone::VM | clone::VFORK),
        _ => without_arguments(CloneCall::Fork, 0),
    })
}

/// What `struct clone_args` of clone(2) says, as far as the caller had it; zeroes behind.
pub fn clone3_args(bytes: &[u8; 64]) -> CloneArgs {
    let word = |index: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&bytes[8 * index..8 * index + 8]);
        u64::from_ne_bytes(word)
    };
    CloneArgs {
        call: CloneCall::Clone3,
        flags: word(0),
        exit_signal: word(4) as u32,
        stack: Addr(word(5)),
        stack_size: word(6),
        tls: Addr(word(7)),
        parent_tid: Addr(word(3)),
        child_tid: Addr(word(2)),
    }
}

/// The base of thread-local storage. i386 passes a descriptor in memory (set_thread_area(2)), its base the second word.
fn tls(tid: Tid, abi: Abi, flags: u64, argument: u64, memory: Arguments) -> Addr {
    match abi {
        Abi::I386 if flags & crate::abi::clone::SETTLS != 0 => {
            let descriptor = memory.read_words::<2>(tid, Addr(argument & 0xffff_ffff));
            Addr(descriptor.map_or(0, |[_, base]| base.into()))
        }
        _ => Addr(argument),
    }
}

/// The address that a call has stored in memory.
pub fn stored_address(tid: Tid, abi: Abi, at: Addr, memory: Arguments) -> Option<Addr> {
    match abi {
        Abi::I386 => memory.read_words::<1>(tid, at).map(|[word]| Addr(word.into())),
        Abi::X86_64 => {
            let mut bytes = [0u8; 8];
            memory.read(tid, at, &mut bytes)?;
            Some(Addr(u64::from_ne_bytes(bytes)))
        }
    }
}
