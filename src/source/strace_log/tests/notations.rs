//! Calls, in every notation of theirs.

use syscalls::Errno;

use super::super::call::{Called, Name, Outcome, arguments, command, outcome};
use super::super::text::Cursor;
use crate::event::{Call, CloneArgs, CloneCall};
use crate::report::notation::returned;
use crate::units::Addr;

/// Reads `name(arguments) = result`.
fn call(line: &str) -> (Called, Outcome) {
    let (name, _) = line.split_once('(').unwrap();
    let mut cursor = Cursor::new(&line.as_bytes()[name.len() + 1..]);
    let called = arguments(Name::of(name.as_bytes()).unwrap(), &mut cursor).unwrap();
    (called, outcome(&mut cursor).unwrap())
}

/// The call in today's notation.
fn today(line: &str) -> String {
    match call(line) {
        (Called::Call(call), Outcome { result: Some(result), .. }) => returned(&call, result).to_string(),
        other => format!("{other:?}"),
    }
}

/// What strace 6.1 writes without further options is read, and written, as it is.
#[test]
fn there_and_back() {
    let lines = [
        "mmap(NULL, 10489856, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7f6891825000",
        "mmap(0x7f441e010000, 1400832, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE, 3, 0x26000) = 0x7f441e010000",
        "mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE|0x800000, -1, 0) = -1 ENOMEM (Cannot allocate memory)",
        "munmap(0x7f6891825000, 16048) = 0",
        "mprotect(0x7f6891825000, 4096, PROT_NONE) = -1 EACCES (Permission denied)",
        "pkey_mprotect(0x7f6891825000, 4096, PROT_READ, -1) = 0",
        "mremap(0x7f6891825000, 4096, 8192, MREMAP_MAYMOVE) = 0x7f6891900000",
        "mremap(0x7f6891825000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7f6891900000) = 0x7f6891900000",
        "madvise(0x7f6891825000, 10465280, MADV_DONTNEED) = 0",
        "madvise(0x7f6891825000, 4096, MADV_GUARD_INSTALL) = 0",
        "brk(NULL) = 0x561a460bb000",
        "shmat(7, NULL, 0) = 0x7f6891825000",
        "shmdt(0x7f6891825000) = 0",
        "remap_file_pages(0x7f6891825000, 4096, PROT_NONE, 3, MAP_FILE) = 0",
        "io_destroy(0x7f6891825000) = 0",
        "map_shadow_stack(NULL, 4096, 0) = 0x7f6891825000",
        "personality(PER_LINUX|ADDR_NO_RANDOMIZE) = 0 (PER_LINUX)",
        "fork() = 1235",
        "vfork() = ? ERESTARTNOINTR (To be restarted)",
        "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f6891825a10) = 20610",
        "clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD, stack=0x7f3bbebf5000, stack_size=0x9000}, 88) = 23230",
        "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, child_tid=0x7f0cd2752990, parent_tid=0x7f0cd2752990, exit_signal=0, stack=0x7f0cd1d52000, stack_size=0x9fff80, tls=0x7f0cd27526c0} => {parent_tid=[23208]}, 88) = 23208",
    ];
    for line in lines {
        assert_eq!(today(line), line);
    }
}

/// Options and versions that write the same call in another way.
#[test]
fn other_notations() {
    let stack = "mmap(NULL, 10489856, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7f7dbd355000";
    let file = "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0x26000) = 0x7f7dbd355000";
    let cases = [
        // -a1, -X raw, -X verbose, -e raw, -T, and fault injection
        ("mmap(NULL, 10489856, 0, 0x20022, -1, 0) = 0x7f7dbd355000", stack),
        (
            "mmap(NULL, 10489856, 0 /* PROT_NONE */, 0x20022 /* MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK */, -1, 0) = 0x7f7dbd355000",
            stack,
        ),
        ("mmap(0, 0xa01000, 0, 0x20022, 0xffffffff, 0) = 0x7f7dbd355000", stack),
        (
            "mmap(NULL, 10489856, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0)     = 0x7f7dbd355000 <0.000016>",
            stack,
        ),
        (
            "mmap(NULL, 10489856, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0 )   = 0x7f7dbd355000 (DELAYED)",
            stack,
        ),
        ("mmap2(NULL, 10489856, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7f7dbd355000", stack),
        ("old_mmap({0, 10489856, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|0x20000, -1, 0}) = 0x7f7dbd355000", stack),
        // -y and -yy, with files of any name
        ("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</lib/x.so>, 0x26000) = 0x7f7dbd355000", file),
        ("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</a, b) = c, 0x1>(deleted), 0x26000) = 0x7f7dbd355000 <0.1>", file),
        ("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</dev/zero<char 1:5>>, 0x26000) = 0x7f7dbd355000", file),
        // strace 6.1 does not know the name yet; later ones do
        ("madvise(0x7000, 4096, 0x66 /* MADV_??? */) = 0", "madvise(0x7000, 4096, MADV_GUARD_INSTALL) = 0"),
        ("brk(0) = 0x561a460bb000", "brk(NULL) = 0x561a460bb000"),
        ("io_setup(128, [0x7f6892419000]) = 0", "io_setup(128, NULL) = 0"),
        ("munmap(0x7000, 4096) = -1 (errno 12)", "munmap(0x7000, 4096) = -1 ENOMEM (Cannot allocate memory)"),
    ];
    for (line, expected) in cases {
        assert_eq!(today(line), expected, "{line}");
    }
}

/// clone as strace 4.x, 5.x and 6.x write it, on x86-64 and i386, and raw.
#[test]
fn clones() {
    const THREAD: &str = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID";
    let args = CloneArgs {
        call: CloneCall::Clone,
        flags: 0x3d_0f00,
        exit_signal: 0,
        stack: Addr(0x7fa9_4cfb_0e50),
        stack_size: 0,
        tls: Addr(0x7fa9_4cfc_1700),
        parent_tid: Addr(0x7fa9_4cfc_19d0),
        child_tid: Addr(0x7fa9_4cfc_19d0),
    };
    let read = |line: &str| match call(line) {
        (Called::Call(Call::Clone(args)), Outcome { result: Some(Ok(20603)), .. }) => args,
        other => panic!("{line}: {other:?}"),
    };
    let old = "parent_tidptr=0x7fa94cfc19d0, tls=0x7fa94cfc1700, child_tidptr=0x7fa94cfc19d0";
    assert_eq!(read(&format!("clone( child_stack=0x7fa94cfb0e50, flags={THREAD}, {old}) = 20603")), args);
    let new = "parent_tid=[20603], tls=0x7fa94cfc1700, child_tidptr=0x7fa94cfc19d0";
    let without_parent = CloneArgs { parent_tid: Addr(0), ..args };
    assert_eq!(read(&format!("clone(child_stack=0x7fa94cfb0e50, flags={THREAD}, {new}) = 20603")), without_parent);
    let i386 = "parent_tid=[20603], tls={entry_number=12, base_addr=0x7fa94cfc1700, limit=0x0fffff, seg_32bit=1}, child_tidptr=0x7fa94cfc19d0";
    assert_eq!(read(&format!("clone(child_stack=0x7fa94cfb0e50, flags={THREAD}, {i386}) = 20603")), without_parent);
    // Each has its own end. (Looking for their bases up to the end of the line would take hours.)
    let many = "tls={entry_number=12}, ".repeat(600_000);
    assert_eq!(
        read(&format!("clone({many}child_stack=0x7fa94cfb0e50, flags={THREAD}, {i386}) = 20603")),
        without_parent
    );
    let raw = "clone(0x3d0f00, 0x7fa94cfb0e50, 0x7fa94cfc19d0, 0x7fa94cfc19d0, 0x7fa94cfc1700) = 0x507b";
    assert_eq!(read(raw), args);
    let verbose = format!("clone(child_stack=0x7fa94cfb0e50, flags=0x3d0f00 /* {THREAD} */, {old}) = 20603<app>");
    assert_eq!(read(&verbose), args);
    assert_eq!(read("clone(child_stack=0, flags=SIGCHLD) = 20603").exit_signal, 17);
}

/// clone3 of which strace shows but the address of its arguments.
#[test]
fn unseen_clone3() {
    for line in ["clone3(0x7ffe6c186b80, 0x58) = 0x5b65", "clone3(0x7ffe6c186b80, 88) = 23397"] {
        let (called, outcome) = call(line);
        assert_eq!((called, outcome.result), (Called::UnseenClone3, Some(Ok(23397))), "{line}");
    }
}

/// Results that are none, and errors by name and by number.
#[test]
fn results() {
    let result = |text: &str| outcome(&mut Cursor::new(text.as_bytes())).unwrap().result;
    assert_eq!(result(" = ?"), None);
    assert_eq!(result("    = ? <unavailable>"), None);
    assert_eq!(result(" = ? ERESTARTSYS (To be restarted if SA_RESTART is set)"), Some(Err(Errno::ERESTARTSYS)));
    assert_eq!(result(" = -1 EAGAIN (Resource temporarily unavailable) <0.000007>"), Some(Err(Errno::EAGAIN)));
    assert_eq!(result(" = -1 (errno 133)"), Some(Err(Errno::new(133))));
    assert_eq!(result(" = 0x7f12 (INJECTED)"), Some(Ok(0x7f12)));
    assert!(outcome(&mut Cursor::new(b" 0")).is_err());
    assert_eq!(outcome(&mut Cursor::new(b" = 0 <0.000029>")).unwrap().took, Some(29_000));
}

/// What a program was executed with, as far as strace shows it.
#[test]
fn commands() {
    let of = |name, text: &str| command(name, text.as_bytes());
    let argv =
        of(Name::Execve, r#""/bin/sh", ["sh", "-c", "echo \"\303\244, ]\"\n"..., "\x78"], 0x7ffd /* 35 vars */) = 0"#);
    assert_eq!(argv.unwrap(), ["sh", "-c", "echo \"ä, ]\"\n…", "x"]);
    let argv = of(Name::Execveat, r#"AT_FDCWD, "/bin/true", ["true"], 0x7ffd /* 35 vars */, 0) = 0"#);
    assert_eq!(argv.unwrap(), ["true"]);
    assert_eq!(of(Name::Execve, "0x55d0, 0x55d8, 0x55e0) = 0"), None);
}
