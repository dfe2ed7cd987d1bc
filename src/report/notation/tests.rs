//! The expected lines are strace 6.1's own, of a program that made these calls, unless a test says otherwise.

use super::*;
use crate::event::{Attached, Birth, Exec, Usage, Vma};
use crate::event::{Prot, Sharing};
use crate::units::{Pid, Range, Time};
use std::time::Duration;

fn line(call: Call, result: Result<u64, Errno>) -> String {
    returned(&call, result).to_string()
}

fn mmap(len: u64, prot: u32, flags: u32, fd: i32, offset: u64) -> Call {
    Call::Mmap { addr: Addr(0), len, prot, flags, fd, offset }
}

/// Known bits by name and in strace's order, unknown ones as one number behind them.
#[test]
fn mmap_as_strace_writes_it() {
    let einval = Err(Errno::EINVAL);
    let cases = [
        (
            mmap(10_489_856, 3, 0x20022, -1, 0),
            Ok(0x7f68_9182_5000),
            "mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7f6891825000",
        ),
        (
            mmap(4096, 0, 0x80_4022, -1, 0),
            Ok(0x7f68_9241_4000),
            "mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE|0x800000, -1, 0) = 0x7f6892414000",
        ),
        (
            mmap(4096, 0x100, 0x20, -1, 0),
            einval,
            "mmap(NULL, 4096, 0x100 /* PROT_??? */, MAP_FILE|MAP_ANONYMOUS, -1, 0) = -1 EINVAL (Invalid argument)",
        ),
        (
            mmap(4096, 0x100_0003, 0x60_0122, -1, 0),
            Ok(0x7f68_9241_2000),
            "mmap(NULL, 4096, PROT_READ|PROT_WRITE|PROT_GROWSDOWN, MAP_PRIVATE|MAP_ANONYMOUS|MAP_GROWSDOWN|0x600000, -1, 0) = 0x7f6892412000",
        ),
        (
            mmap(4096, 3, 4, -1, 0x2000),
            Err(Errno::EBADF),
            "mmap(NULL, 4096, PROT_READ|PROT_WRITE, 0x4 /* MAP_??? */, -1, 0x2000) = -1 EBADF (Bad file descriptor)",
        ),
        (
            mmap(1 << 21, 3, 0x40022 | 21 << 26, -1, 0),
            Err(Errno::ENOMEM),
            "mmap(NULL, 2097152, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT, -1, 0) = -1 ENOMEM (Cannot allocate memory)",
        ),
        (
            mmap(4096, 3, 0x19_b873, -1, 0),
            einval,
            "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED_VALIDATE|MAP_FIXED|MAP_ANONYMOUS|MAP_32BIT|MAP_POPULATE|MAP_NONBLOCK|MAP_DENYWRITE|MAP_EXECUTABLE|MAP_LOCKED|MAP_SYNC|MAP_FIXED_NOREPLACE, -1, 0) = -1 EINVAL (Invalid argument)",
        ),
        (
            mmap(4096, u32::MAX, 0x22, -100, 0x1000),
            Ok(0x7f68_9182_3000),
            "mmap(NULL, 4096, PROT_READ|PROT_WRITE|PROT_EXEC|PROT_SEM|PROT_GROWSDOWN|PROT_GROWSUP|0xfcfffff0, MAP_PRIVATE|MAP_ANONYMOUS, -100, 0x1000) = 0x7f6891823000",
        ),
    ];
    for (call, result, expected) in cases {
        assert_eq!(line(call, result), expected);
    }
}

/// Protection and advice; the last two advices are numbers in strace 6.1 and names in later versions.
#[test]
fn protection_and_advice() {
    let addr = Addr(0x7f68_9182_5000);
    assert_eq!(
        line(Call::Mprotect { addr, len: 4096, prot: 0x300_0007 }, Err(Errno::EINVAL)),
        "mprotect(0x7f6891825000, 4096, PROT_READ|PROT_WRITE|PROT_EXEC|PROT_GROWSDOWN|PROT_GROWSUP) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        line(Call::PkeyMprotect { addr, len: 4096, prot: 1, pkey: -1 }, Ok(0)),
        "pkey_mprotect(0x7f6891825000, 4096, PROT_READ, -1) = 0"
    );
    let advised = |advice, result| line(Call::Madvise { addr, len: 4096, advice }, result);
    assert_eq!(advised(4, Ok(0)), "madvise(0x7f6891825000, 4096, MADV_DONTNEED) = 0");
    assert_eq!(
        advised(26, Err(Errno::EINVAL)),
        "madvise(0x7f6891825000, 4096, 0x1a /* MADV_??? */) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        advised(-1, Err(Errno::EINVAL)),
        "madvise(0x7f6891825000, 4096, 0xffffffff /* MADV_??? */) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(advised(102, Ok(0)), "madvise(0x7f6891825000, 4096, MADV_GUARD_INSTALL) = 0");
    assert_eq!(advised(103, Ok(0)), "madvise(0x7f6891825000, 4096, MADV_GUARD_REMOVE) = 0");
}

/// mremap's fifth argument appears only where the kernel reads it; with MREMAP_DONTUNMAP since strace 6.2.
#[test]
fn mremap_and_munmap() {
    let old = Addr(0x7f68_9182_5000);
    let remap = |new_len, flags, new| Call::Mremap { old, old_len: 4096, new_len, flags, new: Addr(new) };
    assert_eq!(
        line(remap(8192, 0, 7), Err(Errno::ENOMEM)),
        "mremap(0x7f6891825000, 4096, 8192, 0) = -1 ENOMEM (Cannot allocate memory)"
    );
    assert_eq!(
        line(remap(8192, 2, 7), Err(Errno::EINVAL)),
        "mremap(0x7f6891825000, 4096, 8192, MREMAP_FIXED) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(
        line(remap(4096, 3, 0x7f68_9183_9000), Ok(0x7f68_9183_9000)),
        "mremap(0x7f6891825000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7f6891839000) = 0x7f6891839000"
    );
    assert_eq!(
        line(remap(4096, 5, 0), Ok(0x7f68_9183_9000)),
        "mremap(0x7f6891825000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_DONTUNMAP, NULL) = 0x7f6891839000"
    );
    assert_eq!(
        line(remap(4096, 8, 0), Err(Errno::EINVAL)),
        "mremap(0x7f6891825000, 4096, 4096, 0x8 /* MREMAP_??? */) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(line(Call::Munmap { addr: old, len: 4096 }, Ok(0)), "munmap(0x7f6891825000, 4096) = 0");
}

/// The rarer mapping calls.
#[test]
fn break_shared_memory_and_rings() {
    let cases = [
        (Call::Brk { addr: Addr(0) }, Ok(0x5567_a195_9000), "brk(NULL) = 0x5567a1959000"),
        (Call::Shmat { id: 0, addr: Addr(0), flags: 0 }, Ok(0x7f68_9182_1000), "shmat(0, NULL, 0) = 0x7f6891821000"),
        (
            Call::Shmat { id: 0, addr: Addr(0x7f68_9182_5000), flags: 0o140_001 },
            Ok(0x7f68_9182_5000),
            "shmat(0, 0x7f6891825000, SHM_REMAP|SHM_EXEC|0x1) = 0x7f6891825000",
        ),
        (
            Call::Shmat { id: -1, addr: Addr(0), flags: 1 },
            Err(Errno::EINVAL),
            "shmat(-1, NULL, 0x1 /* SHM_??? */) = -1 EINVAL (Invalid argument)",
        ),
        (Call::Shmdt { addr: Addr(0x7f68_9182_1000) }, Ok(0), "shmdt(0x7f6891821000) = 0"),
        (
            Call::RemapFilePages { addr: Addr(0x7f68_9182_5000), len: 4096, prot: 0, pgoff: 16, flags: 0x10000 },
            Ok(0),
            "remap_file_pages(0x7f6891825000, 4096, PROT_NONE, 16, MAP_FILE|MAP_NONBLOCK) = 0",
        ),
        (
            Call::IoSetup { nr_events: 0, ctxp: Addr(0x7ffc_45a2_d938) },
            Err(Errno::EINVAL),
            "io_setup(0, 0x7ffc45a2d938) = -1 EINVAL (Invalid argument)",
        ),
        (Call::IoDestroy { ctx: Addr(0x7f68_9181_c000) }, Ok(0), "io_destroy(0x7f689181c000) = 0"),
        (
            Call::MapShadowStack { addr: Addr(0), len: 4096, flags: 1 },
            Err(Errno::ENOSYS),
            "map_shadow_stack(NULL, 4096, SHADOW_STACK_SET_TOKEN) = -1 ENOSYS (Function not implemented)",
        ),
        (
            Call::Prctl { option: 35, arg2: 7, arg3: 0x55d0_0000, arg4: 0, arg5: 0 },
            Ok(0),
            "prctl(PR_SET_MM, PR_SET_MM_BRK, 0x55d00000, 0, 0) = 0",
        ),
        (
            Call::ProcessMadvise { pidfd: 3, iovec: Addr(0x7ffc_45a2_d938), vlen: 1, advice: 10, flags: 0 },
            Ok(4096),
            "process_madvise(3, 0x7ffc45a2d938, 1, MADV_DONTFORK, 0) = 4096",
        ),
        (
            Call::Mseal { addr: Addr(0x7f68_9181_c000), len: 4096, flags: 0 },
            Err(Errno::ENOMEM),
            "mseal(0x7f689181c000, 4096, 0) = -1 ENOMEM (Cannot allocate memory)",
        ),
        (
            Call::IoUringSetup { entries: 8, params: Addr(0x7ffc_45a2_d938) },
            Ok(4),
            "io_uring_setup(8, 0x7ffc45a2d938) = 4",
        ),
    ];
    for (call, result, expected) in cases {
        assert_eq!(line(call, result), expected);
    }
}

/// io_setup's handle is shown where the mapping that it made is known.
#[test]
fn io_setup_shows_the_handle() {
    let range = Range::of_len(Addr(0x7f68_9181_c000), 8192).unwrap();
    let ring = Vma {
        range,
        prot: Prot::READ,
        sharing: Sharing::Shared,
        offset: 0,
        inode: 1,
        device: 1,
        name: (*b"/[aio]").into(),
    };
    let call = Call::IoSetup { nr_events: 128, ctxp: Addr(0x7ffc_45a2_d938) };
    let followed = Syscall { call, result: Ok(0), mapped: Some(ring) };
    assert_eq!(syscall(&followed).to_string(), "io_setup(128, [0x7f689181c000]) = 0");
}

/// A persona is a domain and bits, as argument and as result.
#[test]
fn personality_shows_old_and_new() {
    let persona = |persona| Call::Personality { persona };
    assert_eq!(line(persona(u32::MAX), Ok(0)), "personality(0xffffffff) = 0 (PER_LINUX)");
    assert_eq!(
        line(persona(0x1004_0008), Ok(0x44_0000)),
        "personality(PER_LINUX32|ADDR_NO_RANDOMIZE|0x10000000) = 0x440000 (PER_LINUX|ADDR_NO_RANDOMIZE|READ_IMPLIES_EXEC)"
    );
    assert_eq!(line(persona(0), Ok(0x42)), "personality(PER_LINUX) = 0x42 (0x42 /* PER_??? */)");
}

/// The path of an execve is an address here: strace's form for a path that cannot be read.
#[test]
fn execve_shows_addresses() {
    let (path, argv, envp) = (Addr(1), Addr(2), Addr(3));
    assert_eq!(
        line(Call::Execve { path, argv, envp }, Err(Errno::EFAULT)),
        "execve(0x1, 0x2, 0x3) = -1 EFAULT (Bad address)"
    );
    assert_eq!(
        line(Call::Execveat { dirfd: -100, path, argv, envp, flags: 0x1101 }, Err(Errno::EFAULT)),
        "execveat(AT_FDCWD, 0x1, 0x2, 0x3, AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH|0x1) = -1 EFAULT (Bad address)"
    );
}

/// What clone's arguments are, and which of them are shown, depends on its flags.
#[test]
fn clone_as_strace_writes_it() {
    let stack = Addr(0x5567_a196_a290);
    let clone = |flags, exit_signal| CloneArgs { exit_signal, stack, ..CloneArgs::bare(CloneCall::Clone, flags) };
    assert_eq!(
        line(Call::Clone(clone(0x40_4100, 17)), Ok(3512)),
        "clone(child_stack=0x5567a196a290, flags=CLONE_VM|CLONE_VFORK|0x400000|SIGCHLD) = 3512"
    );
    assert_eq!(line(Call::Clone(clone(0, 0)), Ok(3514)), "clone(child_stack=0x5567a196a290, flags=0) = 3514");
    let told = CloneArgs { child_tid: Addr(0x7ffc_45a2_d934), ..clone(0x110_0100, 10) };
    assert_eq!(
        line(Call::Clone(told), Ok(3515)),
        "clone(child_stack=0x5567a196a290, flags=CLONE_VM|CLONE_PARENT_SETTID|CLONE_CHILD_SETTID|SIGUSR1, parent_tid=[3515], child_tidptr=0x7ffc45a2d934) = 3515"
    );
    let refused = CloneArgs {
        parent_tid: Addr(0x7ffe_3a3f_3580),
        tls: Addr(0x1000),
        child_tid: Addr(0x7ffe_3a3f_3584),
        ..clone(0x39_0000, 0)
    };
    assert_eq!(
        line(Call::Clone(refused), Err(Errno::EINVAL)),
        "clone(child_stack=0x5567a196a290, flags=CLONE_THREAD|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, parent_tid=0x7ffe3a3f3580, tls=0x1000, child_tidptr=0x7ffe3a3f3584) = -1 EINVAL (Invalid argument)"
    );
    assert_eq!(line(Call::Clone(CloneArgs::bare(CloneCall::Fork, 0)), Ok(8325)), "fork() = 8325");
    assert_eq!(line(Call::Clone(CloneArgs::bare(CloneCall::Vfork, 0x4100)), Ok(8326)), "vfork() = 8326");
}

/// clone3's structure, of glibc's pthread_create and of calls by hand.
#[test]
fn clone3_as_strace_writes_it() {
    let thread = CloneArgs {
        child_tid: Addr(0x7f92_9edc_3990),
        parent_tid: Addr(0x7f92_9edc_3990),
        stack: Addr(0x7f92_9e5c_3000),
        stack_size: 0x7f_ff80,
        tls: Addr(0x7f92_9edc_36c0),
        ..CloneArgs::bare(CloneCall::Clone3, 0x3d_0f00)
    };
    assert_eq!(
        line(Call::Clone(thread), Ok(8332)),
        "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, child_tid=0x7f929edc3990, parent_tid=0x7f929edc3990, exit_signal=0, stack=0x7f929e5c3000, stack_size=0x7fff80, tls=0x7f929edc36c0} => {parent_tid=[8332]}, 88) = 8332"
    );
    let interrupted = CloneArgs {
        child_tid: Addr(0x7ffe_3a3f_3584),
        parent_tid: Addr(0x7ffe_3a3f_3580),
        exit_signal: 17,
        ..CloneArgs::bare(CloneCall::Clone3, 0x1_0110_0000)
    };
    assert_eq!(
        line(Call::Clone(interrupted), Err(Errno::ERESTARTNOINTR)),
        "clone3({flags=CLONE_PARENT_SETTID|CLONE_CHILD_SETTID|CLONE_CLEAR_SIGHAND, child_tid=0x7ffe3a3f3584, parent_tid=0x7ffe3a3f3580, exit_signal=SIGCHLD, stack=NULL, stack_size=0}, 88) = ? ERESTARTNOINTR (To be restarted)"
    );
    let odd = CloneArgs { exit_signal: 256, ..CloneArgs::bare(CloneCall::Clone3, 0) };
    assert_eq!(
        line(Call::Clone(odd), Err(Errno::EINVAL)),
        "clone3({flags=0, exit_signal=256, stack=NULL, stack_size=0}, 88) = -1 EINVAL (Invalid argument)"
    );
}

/// In evidence a clone is cut down to the stack that it was given.
#[test]
fn a_clone_in_short_names_its_stack() {
    let stack = Addr(0x7fa9_4c5a_fe50);
    let of = |call| EvidenceCall::Returned { call: Call::Clone(call), result: 20610 };
    let clone = CloneArgs { stack, ..CloneArgs::bare(CloneCall::Clone, 0x3d_0f00) };
    assert_eq!(evidence_in_short(&of(clone)), "clone(child_stack=0x7fa94c5afe50, flags=CLONE_VM|…) = 20610");
    let clone3 = CloneArgs { stack, stack_size: 0x7f_ff80, ..CloneArgs::bare(CloneCall::Clone3, 0x3d_0f00) };
    assert_eq!(evidence_in_short(&of(clone3)), "clone3({…, stack=0x7fa94c5afe50, stack_size=0x7fff80}) = 20610");
    assert_eq!(evidence_in_short(&of(CloneArgs::bare(CloneCall::Fork, 0))), "fork() = 20610");
}

/// Signals by name, real-time ones as strace numbers them.
#[test]
fn ends_of_tasks() {
    assert_eq!(ended(Exit::Code(44)), "+++ exited with 44 +++");
    assert_eq!(ended(Exit::Signal(9)), "+++ killed by SIGKILL +++");
    assert_eq!(ended(Exit::Signal(40)), "+++ killed by SIGRT_8 +++");
    assert_eq!(ended(Exit::Signal(32)), "+++ killed by SIGRTMIN +++");
}

/// Errors: the kernel's own restart codes, glibc's texts, and numbers without a name.
#[test]
fn errors_are_written_with_their_text() {
    let failed = |errno| line(Call::Brk { addr: Addr(0) }, Err(errno));
    assert_eq!(failed(Errno::EAGAIN), "brk(NULL) = -1 EAGAIN (Resource temporarily unavailable)");
    assert_eq!(failed(Errno::ERESTARTSYS), "brk(NULL) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)");
    assert_eq!(failed(Errno::new(4000)), "brk(NULL) = -1 (errno 4000)");
}

/// One line per event, whatever it is, in the clock's time zone.
#[test]
fn every_event_is_one_line() {
    let clock = Clock::new("2019-02-21T23:00:00+01:00[+01:00]".parse().unwrap());
    let at = Time(Duration::new(62, 137_900));
    let kinds = [
        EventKind::Syscall(Syscall { call: Call::Munmap { addr: Addr(0x1000), len: 1 }, result: Ok(0), mapped: None }),
        EventKind::Exiting(Exiting { scope: ExitScope::Thread, code: 0 }),
        EventKind::Exiting(Exiting { scope: ExitScope::Group, code: -1 }),
        EventKind::Born(Birth {
            child: Tid(12),
            pid: Pid(7),
            args: CloneArgs::bare(CloneCall::Clone, 0x1_0100),
            function: None,
        }),
        EventKind::Born(Birth {
            child: Tid(12),
            pid: Pid(12),
            args: CloneArgs::bare(CloneCall::Clone, 0x100),
            function: None,
        }),
        EventKind::Born(Birth {
            child: Tid(12),
            pid: Pid(12),
            args: CloneArgs::bare(CloneCall::Fork, 0),
            function: None,
        }),
        EventKind::Executing,
        EventKind::Ended(Exit::Code(3)),
        EventKind::Exec(Box::new(Exec { former: Tid(7), maps: [].into(), start_brk: None, read_implies_exec: false })),
        EventKind::Exec(Box::new(Exec { former: Tid(9), maps: [].into(), start_brk: None, read_implies_exec: false })),
        EventKind::Attached(Box::new(Attached {
            pid: Pid(7),
            tasks: vec![],
            maps: [].into(),
            start_brk: None,
            read_implies_exec: false,
        })),
        EventKind::Maps([].into()),
        EventKind::LibraryStacks([].into()),
        EventKind::Limits(Box::default()),
        EventKind::Limits(Box::new(Limits { vmas: Some(Usage { used: 65530, limit: 65530 }), ..Limits::default() })),
    ];
    let lines: Vec<String> = kinds.map(|kind| event(&Event { at, tid: Tid(7), call_stack: None, kind }, &clock)).into();
    insta::assert_snapshot!(lines.join("\n"), @"
    23:01:02.000137 7  munmap(0x1000, 1) = 0
    23:01:02.000137 7  exit(0) = ?
    23:01:02.000137 7  exit_group(-1) = ?
    23:01:02.000137 7  +++ new thread 12 of process 7 +++
    23:01:02.000137 7  +++ new process 12, in the same address space +++
    23:01:02.000137 7  +++ new process 12 +++
    23:01:02.000137 7  --- about to execute a program ---
    23:01:02.000137 7  +++ exited with 3 +++
    23:01:02.000137 7  --- new program, 0 mappings ---
    23:01:02.000137 7  --- new program, 0 mappings; thread 9 is now 7 ---
    23:01:02.000137 7  --- attached to process 7: 0 tasks, 0 mappings ---
    23:01:02.000137 7  --- 0 mappings ---
    23:01:02.000137 7  --- 0 stacks of the thread library ---
    23:01:02.000137 7  --- no limit is known ---
    23:01:02.000137 7  --- in use: 65530 of 65530 mappings ---
    ");
}
