//! Call stacks of real programs: for several machines, libraries and shapes, captured while they are stopped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object::{Object, ObjectSymbol, SymbolKind};
use vmtrace::source::Stand;
use vmtrace::symbols::capture::{CallStacks, Task};
use vmtrace::symbols::module::{Contents, Module};
use vmtrace::symbols::places::Place;
use vmtrace::symbols::unwind::End;
use vmtrace::sys::{self, Status};
use vmtrace::units::Tid;

/// How long anything may take that should take a moment.
const BOUND: Duration = Duration::from_secs(60);

/// A compiled program, for all tests of this process.
fn program(compiler: &str, flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name: String = [&[compiler], flags].concat().concat();
    let path = folder.join(format!("shapes{name}"));
    let unique = folder.join(format!("shapes{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/unwind/shapes.c");
    let mut command = Command::new(compiler);
    command.args(["-g", "-O2", "-fno-optimize-sibling-calls", "-pthread", "-Wall"]).args(flags);
    let built = command.arg("-o").arg(&unique).arg(source).status().expect("a compiler");
    assert!(built.success(), "{compiler} {flags:?}");
    std::fs::rename(&unique, &path).unwrap();
    path
}

/// A task whose memory is read while it lives.
fn task(tid: Tid) -> Task<'static> {
    Task { tid, held: None }
}

/// A running program that is stopped under ptrace.
struct Stopped {
    child: Child,
    tid: Tid,
    stacks: CallStacks,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stopped {
    /// Runs the program until it blocks, and stops it there.
    fn run(program: &Path, shape: &str) -> Stopped {
        let mut command = Command::new(program);
        let mut child = command.arg(shape).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let tid = Tid(child.id() as i32);
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        wait_until(|| std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap().contains(") S "));
        sys::seize(tid, sys::TRACE_OPTIONS | libc::PTRACE_O_EXITKILL).unwrap();
        sys::interrupt(tid).unwrap();
        let mut stopped = Stopped { child, tid, stacks: CallStacks::default() };
        stopped.wait();
        stopped
    }

    /// Waits for the next stop.
    fn wait(&mut self) -> i32 {
        let mut found = None;
        wait_until(|| {
            found = sys::take_status(self.tid).unwrap();
            found.is_some()
        });
        match found {
            Some(Status::Stopped(status)) => status,
            other => panic!("not stopped: {other:?}"),
        }
    }

    /// The functions of the call stack, innermost first, and why there are no more.
    fn names(&mut self) -> (Vec<String>, End) {
        let stack = self.stacks.stack(task(self.tid), 0, Stand::Stopped).unwrap();
        let modules = &self.stacks.modules;
        let names = stack.places.iter().map(|place| match place {
            Place::Module { module, offset } => name(modules.get(*module), *offset),
            Place::Anonymous(addr) => addr.to_string(),
        });
        (names.collect(), stack.end)
    }

    /// Checks that the stack has these functions, one called by the next, and after them only the library's.
    #[track_caller]
    fn expect(&mut self, functions: &[&str]) -> End {
        let (names, end) = self.names();
        let shown = names.join(" < ");
        let first = names.windows(functions.len()).position(|window| window == functions);
        assert!(first.is_some(), "{functions:?} are not in {shown} ({end:?})");
        // What blocks is the library's.
        assert!(first.unwrap() <= 6, "{shown}");
        end
    }
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < BOUND);
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A function, as a symbol tells of it.
struct Function {
    address: u64,
    size: u64,
    name: String,
}

thread_local! {
    /// Functions of each file, which each process may see another one of by the same name.
    static SYMBOLS: RefCell<HashMap<(String, u64), Vec<Function>>> = RefCell::default();
}

/// The function at an offset of a file, by its symbols alone.
fn name(module: &Module, offset: u64) -> String {
    let Some(address) = module.linked_address(offset) else { return "no segment".into() };
    SYMBOLS.with_borrow_mut(|files| {
        let functions = files.entry((module.path.clone(), number(module))).or_insert_with(|| functions(module));
        let found = functions.iter().find(|of| (of.address..of.address + of.size).contains(&address));
        let file = module.path.rsplit('/').next().unwrap();
        found.map_or_else(|| format!("{file}+{offset:x}"), |function| function.name.clone())
    })
}

/// What tells files of one path apart: the inode, or, of the vDSO's two kinds, the class of ELF file.
fn number(module: &Module) -> u64 {
    match &module.contents {
        Contents::File(file) => file.metadata().unwrap().ino(),
        Contents::Copy(bytes) => bytes[4].into(),
        Contents::Unreadable => 0,
    }
}

fn functions(module: &Module) -> Vec<Function> {
    let bytes = match &module.contents {
        Contents::Copy(bytes) => bytes.to_vec(),
        _ => std::fs::read(&module.path).unwrap(),
    };
    let elf = object::File::parse(&*bytes).unwrap();
    let symbols = elf.symbols().chain(elf.dynamic_symbols());
    let functions = symbols.filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let function = |symbol: object::Symbol<'_, '_>| Function {
        address: symbol.address(),
        size: symbol.size(),
        name: symbol.name().unwrap().to_owned(),
    };
    functions.map(function).collect()
}

const NESTED: [&str; 4] = ["block", "inner", "middle", "nested"];

/// All shapes that rest on call frame information, of one program.
fn shapes(program: &Path, trampoline_frames: usize) {
    let with = |more: &[&'static str]| [&NESTED, more].concat();
    let mut stopped = Stopped::run(program, "nested");
    assert_eq!(stopped.expect(&with(&["many_saved", "main"])), End::Outermost);

    let mut stopped = Stopped::run(program, "realigned");
    assert_eq!(stopped.expect(&with(&["realigned", "forced", "main"])), End::Outermost);

    for shape in ["signal", "altstack"] {
        let mut stopped = Stopped::run(program, shape);
        stopped.expect(&with(&["handler"]));
        let (names, end) = stopped.names();
        assert_eq!(end, End::Outermost, "{names:?}");
        let handler = names.iter().position(|name| name == "handler").unwrap();
        let after = &names[handler + 1 + trampoline_frames..];
        assert_eq!(after[..3], ["leaf", "interrupted", "main"], "{names:?}");
    }

    let mut stopped = Stopped::run(program, "qsort");
    stopped.expect(&with(&["compare"]));
    let (names, end) = stopped.names();
    assert_eq!(end, End::Outermost, "{names:?}");
    let sorted = names.iter().position(|name| name == "sorted").unwrap();
    assert_eq!(names[sorted + 1], "main", "{names:?}");

    let mut stopped = Stopped::run(program, "made");
    stopped.expect(&with(&["called_back"]));
    let (names, end) = stopped.names();
    assert_eq!(end, End::Outermost, "{names:?}");
    let caller = names.iter().position(|name| name == "called_back").unwrap() + 1;
    assert!(names[caller].starts_with("0x"), "{names:?}");
    assert_eq!(names[caller + 1..caller + 3], ["makes_code", "main"], "{names:?}");

    let mut stopped = Stopped::run(program, "deep");
    let (names, end) = stopped.names();
    assert_eq!((names.len(), end), (128, End::TooDeep));
    assert_eq!(names[127], "deep");
}

/// A thread's creation, seen where the tracer sees it.
fn creation(program: &Path) -> (Vec<String>, End) {
    let mut stopped = Stopped::run(program, "creates");
    stopped.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    loop {
        sys::restart(stopped.tid, sys::Restart::Cont, 0).unwrap();
        if stopped.wait() >> 8 == nix::libc::PTRACE_EVENT_CLONE {
            break;
        }
    }
    stopped.names()
}

#[track_caller]
fn expect_creation(program: &Path) -> End {
    let (names, end) = creation(program);
    let creates = names.iter().position(|name| name == "creates");
    assert!(creates.is_some_and(|creates| (1..8).contains(&creates)), "{names:?} {end:?}");
    let creates = creates.unwrap();
    assert!(names[creates - 1].contains("pthread_create"), "{names:?}");
    assert_eq!(names.get(creates + 1).map(String::as_str), Some("main"), "{program:?} {names:?} {end:?}");
    end
}

/// Without frame pointers, by glibc's shared library.
#[test]
fn x86_64() {
    let program = program("gcc", &["-fomit-frame-pointer"]);
    shapes(&program, 1);
    assert_eq!(expect_creation(&program), End::Outermost);
}

/// Not relocated, and without a table in `.eh_frame_hdr`: the entries are read in order.
#[test]
fn without_table() {
    let program = program("gcc", &["-fomit-frame-pointer", "-no-pie", "-Wl,--no-eh-frame-hdr"]);
    shapes(&program, 1);
}

/// By `.debug_frame` alone.
#[test]
fn by_debug_frame() {
    let program = program("gcc", &["-fomit-frame-pointer", "-fno-asynchronous-unwind-tables"]);
    shapes(&program, 1);
}

/// All in one file.
#[test]
fn static_glibc() {
    let program = program("gcc", &["-static"]);
    shapes(&program, 1);
    assert_eq!(expect_creation(&program), End::Outermost);
}

/// A program of 32 bits, whose system calls go through the vDSO.
#[test]
fn i386() {
    let program = program("gcc", &["-m32", "-fomit-frame-pointer"]);
    shapes(&program, 1);
    assert_eq!(expect_creation(&program), End::Outermost);
}

/// musl has no call frame information: its functions are known by the calls to them.
#[test]
fn musl() {
    for flags in [&[][..], &["-fno-omit-frame-pointer"], &["-O0"], &["-static"], &["-static", "-O0"]] {
        let program = program("musl-gcc", flags);
        let with = |more: &[&'static str]| [&NESTED, more].concat();
        Stopped::run(&program, "nested").expect(&with(&["many_saved", "main"]));
        Stopped::run(&program, "realigned").expect(&with(&["realigned", "forced", "main"]));
        expect_creation(&program);
        for shape in ["signal", "altstack"] {
            let (names, end) = Stopped::run(&program, shape).names();
            let handler = names.iter().position(|name| name == "handler");
            let after = handler.and_then(|handler| names.get(handler + 2..handler + 5));
            assert!(after.is_some_and(|after| after == ["leaf", "interrupted", "main"]), "{names:?} {end:?}");
        }
    }
}

/// At every single instruction, through the linkage table, the loader's lazy binding and the vDSO, and at each first and
/// last instruction of functions, the stack is whole.
#[test]
fn every_instruction() {
    for flags in [&["-fomit-frame-pointer", "-Wl,-z,lazy"][..], &["-m32", "-Wl,-z,lazy"]] {
        let program = program("gcc", flags);
        let mut stopped = Stopped::run(&program, "steps");
        stopped.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..6000 {
            nix::sys::ptrace::step(nix::unistd::Pid::from_raw(stopped.tid.0), None).unwrap();
            stopped.wait();
            let stack = stopped.stacks.stack(task(stopped.tid), 0, Stand::Stopped).unwrap();
            let Some(Place::Module { module, .. }) = stack.places.first() else { panic!("{stack:?}") };
            let file = stopped.stacks.modules.get(*module).path.clone();
            let (names, end) = stopped.names();
            // The kernel's library of 32 bits tells of its system calls alone. Nothing is made up for the rest.
            if flags.contains(&"-m32") && end == End::Lost {
                let is_vdso = |place: &Place| matches!(place, Place::Module { module: of, .. } if of == module);
                assert!(file == "[vdso]" && stack.places.iter().all(is_vdso), "step {step}: {names:?}");
                continue;
            }
            let outer = names.iter().position(|name| name == "stepped");
            assert_eq!(end, End::Outermost, "step {step}: {names:?}");
            assert!(outer.is_some_and(|at| names[at + 1] == "main"), "step {step}: {names:?}");
            seen.insert(file.rsplit('/').next().unwrap().to_owned());
            if names.iter().any(|name| name == "block") {
                break;
            }
        }
        assert!(seen.contains("[vdso]") && seen.len() >= 4, "{seen:?}");
    }
}

/// What a stack costs while its thread is stopped. Not a check: run it by name, with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const TIMES: u32 = 2000;
    let glibc = program("gcc", &["-fomit-frame-pointer"]);
    let static_glibc = program("gcc", &["-static"]);
    let musl = program("musl-gcc", &[]);
    for (library, program) in [("glibc", &glibc), ("static glibc", &static_glibc), ("musl", &musl)] {
        for shape in ["nested", "realigned", "deep"] {
            let mut stopped = Stopped::run(program, shape);
            let mut timed = |times: u32| {
                let begin = Instant::now();
                for _ in 0..times {
                    stopped.stacks.capture(task(stopped.tid), 0, Stand::Stopped).unwrap();
                }
                begin.elapsed() / times
            };
            let (first, then) = (timed(1), timed(TIMES));
            let begin = Instant::now();
            for _ in 0..TIMES {
                stopped.stacks.forget(0);
                stopped.stacks.capture(task(stopped.tid), 0, Stand::Stopped).unwrap();
            }
            let changed = begin.elapsed() / TIMES;
            let frames = stopped.names().0.len();
            println!("{library}, {shape}: {frames} frames, first {first:?}, then {then:?}, new map {changed:?}");
        }
    }
}
