//! No bytes make the reader panic, and what is written as strace writes it is read as it was.

use proptest::prelude::*;
use syscalls::Errno;

use super::super::call::{Called, Name, arguments, outcome};
use super::super::digest;
use super::super::gaps::Kin;
use super::super::text::Cursor;
use crate::event::{Call, CloneArgs, CloneCall};
use crate::report::notation::returned;
use crate::units::{Addr, Pid};

/// Pieces that logs are made of, put together in ways that no strace would.
const PIECES: &[&str] = &[
    "7  ",
    "8 ",
    "[pid 9] ",
    "23:59:59 ",
    "00:00:01.5 ",
    "1795321095.069036 ",
    "mmap(",
    "munmap(",
    "mremap(",
    "clone(",
    "clone3({",
    "vfork(",
    "execve(",
    "exit_group(",
    "exit(",
    "brk(",
    "<... mmap resumed>",
    "<... clone resumed>",
    "<... munmap resumed>",
    " <unfinished ...>",
    "NULL",
    ", ",
    ") = ",
    "0x10000",
    "8192",
    "-1",
    "?",
    "-1 ENOMEM (x)",
    "= ",
    "PROT_READ|PROT_WRITE",
    "MAP_PRIVATE|MAP_ANONYMOUS",
    "flags=CLONE_VM|CLONE_THREAD",
    "stack=",
    "stack_size=",
    "}",
    "8",
    "9",
    "+++ exited with 0 +++",
    "+++ killed by SIGKILL +++",
    "+++ superseded by execve in pid 8 +++",
    "strace: Process 8 attached",
    "\n",
    "\n",
    "\n",
    "\"",
    "\\",
    "<",
    ">",
    "/* ",
    " */",
    "[",
    "]",
    "18446744073709551615",
    "0xffffffffffffffff",
];

/// Lines of which most are like others.
const LINES: &[&str] = &[
    "futex(0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1) = 1",
    "futex(0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1",
    "futex[0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1) = 1",
    "fu-ex(0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1) = 1",
    "epoll_wait(7, [{events=EPOLLIN}], 512, 1000) = 1",
    "read(12, 0x7fab28001000, 4096) = -1 EAGAIN (Resource temporarily unavailable)",
    "read(12, \"strace: Process 9 attached",
    "getppid() = 1",
    "munmap(0x7f0000001000, 8192) = 0",
    "munmap(0x7f0000001000, 8192 <unfinished ...>",
    "<... munmap resumed>) = 0",
    "<... read resumed>) = 0",
    "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7f0000001000",
    "exit(0) = ?",
    "+++ exited with 0 +++",
    "+++ superseded by execve in pid 8 +++",
    "",
    " = 0",
];

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        digest(&bytes);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(0..PIECES.len(), 0..120)) {
        digest(pieces.iter().map(|piece| PIECES[*piece]).collect::<String>().as_bytes());
    }

    /// Lines that are known at a glance say what others do: those that begin with `[pid 7]` are never known so.
    #[test]
    fn at_a_glance(lines in prop::collection::vec((7..10_u8, 0..3_u8, 0..LINES.len()), 0..60)) {
        let log = |is_usual: bool| {
            let everyday = ["read", "write", "futex"].map(|name| (7, 0, format!("{name}(1, 0x7f0000001000, 4096) = 0")));
            let lines = lines.iter().map(|(tid, second, line)| (*tid, *second, LINES[*line].to_owned()));
            let line = |(tid, second, text): (u8, u8, String)| match is_usual {
                true => format!("{tid} 10:00:0{second}.000000 {text}\n"),
                false => format!("[pid     {tid}] 10:00:0{second}.000000 {text}\n"),
            };
            super::read(&everyday.into_iter().chain(lines).map(line).collect::<String>())
        };
        let (usual, unusual) = (log(true), log(false));
        prop_assert_eq!(&usual.items, &unusual.items);
        prop_assert_eq!((usual.end, usual.seen.lines), (unusual.end, unusual.seen.lines));
        let notes = |read: super::Read| read.seen.notes(read.kind, Kin::default(), Pid(7));
        prop_assert_eq!(notes(usual), notes(unusual));
    }

    /// What the notation writes of a call is read as that call.
    #[test]
    fn there_and_back((call, result) in (any_call(), any_result())) {
        let line = returned(&call, result).to_string();
        let (name, _) = line.split_once('(').unwrap();
        let mut cursor = Cursor::new(&line.as_bytes()[name.len() + 1..]);
        let called = arguments(Name::of(name.as_bytes()).unwrap(), &mut cursor);
        prop_assert_eq!(called, Ok(Called::Call(call)), "{}", line);
        prop_assert_eq!(outcome(&mut cursor).map(|outcome| outcome.result), Ok(Some(result)), "{}", line);
    }
}

/// Addresses, lengths and flags of every size, and the ones that matter more often.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), any::<u32>().prop_map(u64::from), 0..100_000_u64]
}

fn any_call() -> impl Strategy<Value = Call> {
    let numbers = prop::array::uniform6(any_number());
    (0..16_u8, numbers).prop_map(|(which, [a, b, c, d, e, f])| {
        let (addr, len, prot, flags) = (Addr(a), b, c as u32, d as u32);
        // Bits beyond 16 of the type's byte are none that any version writes apart from a type.
        let map = flags & !0xc | if flags & 7 == 0 { flags & 8 } else { 0 };
        match which {
            0..=2 => Call::Mmap { addr, len, prot, flags: map, fd: e as i32, offset: f },
            3 | 4 => Call::Munmap { addr, len },
            5 => Call::Mprotect { addr, len, prot },
            6 => Call::PkeyMprotect { addr, len, prot, pkey: e as i32 },
            7 => Call::Mremap { old: addr, old_len: len, new_len: e, flags: 3 | flags, new: Addr(f) },
            8 => Call::Madvise { addr, len, advice: flags as i32 },
            9 => Call::Brk { addr },
            10 => Call::Shmdt { addr },
            11 => Call::RemapFilePages { addr, len, prot, pgoff: e, flags: map },
            12 => Call::IoDestroy { ctx: addr },
            13 => Call::Clone(CloneArgs {
                call: CloneCall::Clone3,
                flags: d & 0x3_ffbf_ff80 | 0x128_0000 | 0x10_0000,
                exit_signal: 17,
                stack: addr,
                stack_size: len,
                tls: Addr(c),
                parent_tid: Addr(e),
                child_tid: Addr(f),
            }),
            14 => Call::Clone(CloneArgs {
                call: CloneCall::Clone,
                flags: d & 0xff80_ff00 & !0x10_1000 | 0x128_0000,
                exit_signal: [0, 9, 17][(e % 3) as usize],
                stack: addr,
                stack_size: 0,
                tls: Addr(c),
                parent_tid: Addr(0),
                child_tid: Addr(f),
            }),
            _ => Call::MapShadowStack { addr, len, flags: 1 },
        }
    })
}

fn any_result() -> impl Strategy<Value = Result<u64, Errno>> {
    prop_oneof![
        (0..u64::MAX / 2).prop_map(Ok),
        (1..134_i32).prop_map(|number| Err(Errno::new(number))),
        Just(Err(Errno::ERESTARTSYS)),
    ]
}
