//! Real programs, built for the purpose, that print addresses of their own.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use object::{Object, ObjectSection, ObjectSymbol};
use tempfile::TempDir;

use super::*;
use crate::event::Vma;
use crate::procfs::maps;
use crate::units::Tid;

/// Runs a command that must succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new("timeout").args(["-k1", "60", program]).args(arguments).current_dir(folder).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with `prog`, made of `source` by a compiler.
#[track_caller]
fn build(compiler: &str, arguments: &[&str], file: &str, source: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(file), source).unwrap();
    run(compiler, &[&["-o", "prog", file], arguments].concat(), folder.path());
    folder
}

/// What `main` of a C program ends with: it waits to be killed, and ends with the test if that is.
const WAIT: &str = r#"puts("ready"); fflush(stdout); getchar(); return 0;"#;

/// A program that has printed lines `label address` and now waits.
struct Target {
    child: Child,
    vmas: Box<[Vma]>,
    addresses: HashMap<String, u64>,
    modules: Modules,
    names: Names,
}

impl Target {
    #[track_caller]
    fn start(program: &Path) -> Target {
        Target::run(&mut Command::new(program))
    }

    #[track_caller]
    fn run(command: &mut Command) -> Target {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut addresses = HashMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((label, address)) = line.split_once(' ') else { break };
            addresses.insert(label.to_owned(), u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap());
        }
        assert!(!addresses.is_empty(), "the program has not come up");
        let tid = Tid(child.id() as i32);
        let vmas = maps::read(tid).unwrap();
        let (modules, names) = (Modules::default(), Names::default());
        let mut target = Target { child, vmas, addresses, modules, names };
        // As in a capture: modules are seen while the process lives.
        for address in target.addresses.values().copied().collect::<Vec<_>>() {
            target.place(address);
        }
        target
    }

    fn place(&mut self, address: u64) -> Place {
        let vma = self.vmas.iter().find(|vma| vma.range.contains(Addr(address))).unwrap();
        match self.modules.of(Tid(self.child.id() as i32), vma) {
            Some(module) => Place::Module { module, offset: address - vma.range.start().0 + vma.offset },
            None => Place::Anonymous(Addr(address)),
        }
    }

    /// Names are looked up when the process is gone.
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The frames `offset` bytes behind a printed address.
    #[track_caller]
    fn frames(&mut self, label: &str, offset: i64) -> Vec<Frame> {
        let place = self.place(self.addresses[label].wrapping_add_signed(offset));
        self.names.frames(&self.modules, place, None)
    }

    /// The names of these frames.
    #[track_caller]
    fn names(&mut self, label: &str, offset: i64) -> Vec<Option<String>> {
        self.frames(label, offset).into_iter().map(|frame| frame.symbol).collect()
    }

    /// The one name there.
    #[track_caller]
    fn name(&mut self, label: &str) -> Option<String> {
        let names = self.names(label, 0);
        assert_eq!(names.len(), 1, "{names:?}");
        names.into_iter().next().flatten()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.end();
    }
}

const INLINED: &str = r#"#include <stdio.h>
__attribute__((noinline)) void *here(void) { return __builtin_return_address(0); }
static inline __attribute__((always_inline)) void *inner(void) {
    return here();
}
static inline __attribute__((always_inline)) void *middle(void) {
    return inner();
}
__attribute__((noinline)) void *h(void) {
    void *call = middle();
    __asm__ volatile("" ::: "memory");
    return call;
}
static __attribute__((noinline)) void *hidden(void) {
    void *call = here();
    __asm__ volatile("nop" ::: "memory");
    return call;
}
int main(void) {
    printf("call %p\nh %p\nhere %p\nhidden %p\n", h(), (void *)h, (void *)here, hidden());
    puts("ready"); fflush(stdout); getchar(); return 0;
}
"#;

#[track_caller]
fn assert_inlined(target: &mut Target) {
    let frames = target.frames("call", -1);
    let brief: Vec<_> = frames
        .iter()
        .map(|frame| (frame.symbol.as_deref().unwrap(), Path::new(frame.file.as_ref().unwrap()), frame.line.unwrap()))
        .collect();
    let file = brief[0].1;
    assert!(file.is_absolute() && file.ends_with("prog.c"), "{file:?}");
    assert_eq!(brief, [("inner", file, 4), ("middle", file, 7), ("h", file, 10)]);
}

/// Functions inlined into each other are told in order, with the line in each; a C function `h` is no `unsigned char`;
/// and a function's first instruction has the line of its definition, or of the call that was inlined there.
#[test]
fn inlined_functions_of_c() {
    let folder = build("gcc", &["-O2", "-g"], "prog.c", INLINED);
    let mut target = Target::start(&folder.path().join("prog"));
    target.end();
    assert_inlined(&mut target);
    for (label, line) in [("here", 2), ("h", 10)] {
        let place = target.place(target.addresses[label]);
        let start = target.names.function(&target.modules, place, None).unwrap();
        assert_eq!((start.symbol.as_deref(), start.line), (Some(label), Some(line)));
        assert_eq!(start.module, folder.path().join("prog").to_str().unwrap());
    }
    assert_eq!(target.name("hidden").as_deref(), Some("hidden"));
    // Remembered, also without the file.
    fs::remove_file(folder.path().join("prog")).unwrap();
    assert_inlined(&mut target);
}

/// Debug information that is compressed, position-dependent, of DWARF 4, or of a 32-bit program.
#[test]
fn other_shapes_of_debug_information() {
    for arguments in [&["-gz=zlib"][..], &["-no-pie"], &["-gdwarf-4"], &["-m32"], &["-static"]] {
        let folder = build("gcc", &[&["-O2", "-g"], arguments].concat(), "prog.c", INLINED);
        let mut target = Target::start(&folder.path().join("prog"));
        assert_inlined(&mut target);
    }
}

/// A program that has deleted its own file has names all the same.
#[test]
fn deleted_program() {
    let source = INLINED.replace("int main(void) {", "#include <unistd.h>\nint main(int n, char **a) { unlink(a[0]);");
    let folder = build("gcc", &["-O2", "-g"], "prog.c", &source);
    let mut target = Target::start(&folder.path().join("prog"));
    assert!(!folder.path().join("prog").exists());
    target.end();
    assert_inlined(&mut target);
    assert_eq!(target.frames("h", 0)[0].module, folder.path().join("prog").to_str().unwrap());
}

/// A file that was written to in place after it was mapped has no names: they would be another build's. One that was
/// truncated does not kill the reader.
#[test]
fn changed_file() {
    let folder = build("gcc", &["-O2", "-g"], "prog.c", INLINED);
    let program = folder.path().join("prog");
    let mut target = Target::start(&program);
    target.end();
    fs::File::options().write(true).open(&program).unwrap().set_len(5000).unwrap();
    assert_eq!(target.names("call", -1), [None]);
}

/// Names of templates, lambdas and the thread library's own, as C++ programmers know them; with debug information and
/// by symbols alone.
#[test]
fn cpp_names() {
    let source = format!(
        r#"#include <thread>
#include <cstdio>
static void *seen[2];
__attribute__((noinline)) void *here() {{ return __builtin_return_address(0); }}
namespace app {{
template <typename T> __attribute__((noinline)) void worker(T number) {{ seen[number] = here(); asm volatile(""); }}
}}
int main() {{
    std::thread one([]() __attribute__((noipa)) {{ seen[0] = here(); asm volatile(""); }});
    one.join();
    std::thread other(app::worker<int>, 1);
    other.join();
    printf("lambda %p\nworker %p\n", seen[0], seen[1]);
    {WAIT}
}}
"#
    );
    for arguments in [&["-O2", "-g", "-pthread"][..], &["-O2", "-pthread"]] {
        let folder = build("g++", arguments, "prog.cc", &source);
        let mut target = Target::start(&folder.path().join("prog"));
        target.end();
        let [lambda, worker] = ["lambda", "worker"].map(|label| target.names(label, -1)[0].clone().unwrap());
        assert_eq!(worker, "void app::worker<int>(int)", "{arguments:?}");
        assert_eq!(lambda, "main::{lambda()#1}::operator()() const", "{arguments:?}");
    }
}

/// Rust's names, in both manglings, without hashes.
#[test]
fn rust_names() {
    let source = r#"
mod jobs {
    #[inline(never)]
    pub fn run<T: Copy + Into<u64>>(number: T) -> u64 { std::hint::black_box(number.into()) }
}
fn main() {
    println!("run {:x}", jobs::run::<u32> as fn(u32) -> u64 as usize);
    println!("ready");
    let _ = std::io::stdin().read_line(&mut String::new());
}
"#;
    for (mangling, expected) in [("legacy", "prog::jobs::run"), ("v0", "prog::jobs::run::<u32>")] {
        for debug in ["0", "2"] {
            let (mangling, debug) = (format!("symbol-mangling-version={mangling}"), format!("debuginfo={debug}"));
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("prog.rs"), source).unwrap();
            // A mangling that is not the compiler's own choice is for nightly compilers.
            let arguments = ["RUSTC_BOOTSTRAP=1", "rustc", "-Zunstable-options", "-C", &mangling, "-C", &debug];
            run("env", &[&arguments[..], &["-O", "prog.rs"]].concat(), folder.path());
            let mut target = Target::start(&folder.path().join("prog"));
            target.end();
            assert_eq!(target.names("run", 0).last().unwrap().as_deref(), Some(expected), "{mangling} {debug}");
        }
    }
}

/// In a stripped program an exported function has its name, within its size; static ones, and what follows an exported
/// symbol without a size, have none.
#[test]
fn stripped_program() {
    let source =
        INLINED.replace("int main", "__asm__(\".text\\n.globl nosize\\nnosize: .skip 64, 0x90\\n\");\nint main");
    let source = source.replace("printf(", "extern char nosize[]; printf(\"nosize %p\\n\", nosize); printf(");
    let folder = build("gcc", &["-O2", "-rdynamic", "-s"], "prog.c", &source);
    let mut target = Target::start(&folder.path().join("prog"));
    target.end();
    assert_eq!(target.names("call", -1), [Some("h".to_owned())]);
    assert_eq!(target.names("nosize", 0), [Some("nosize".to_owned())]);
    assert_eq!(target.names("nosize", 16), [None]);
    let frames = target.frames("hidden", -1);
    assert_eq!((frames.len(), &frames[0].symbol, frames[0].line), (1, &None, None));
    assert!(frames[0].offset > 0 && frames[0].module.ends_with("/prog"));
}

/// In a C library without debug information anywhere, what lies in pthread_create is called so.
#[test]
fn stripped_libc() {
    let source = format!(
        "#include <pthread.h>\n#include <stdio.h>\nint main(void) {{ printf(\"create %p\\n\", (void *)pthread_create); {WAIT} }}"
    );
    let folder = build("gcc", &["-O2", "-s"], "prog.c", &source);
    let libc = maps::read(Tid(std::process::id() as i32)).unwrap();
    let libc = libc.iter().find(|vma| vma.name.ends_with(b"/libc.so.6")).unwrap();
    let libc = String::from_utf8(libc.name.to_vec()).unwrap();
    let sections = ["--remove-section=.note.gnu.build-id", "--remove-section=.gnu_debuglink"];
    run("objcopy", &[&sections[..], &["--strip-all", &libc, "libc.so.6"]].concat(), folder.path());
    let mut target = Target::run(Command::new(folder.path().join("prog")).env("LD_LIBRARY_PATH", folder.path()));
    target.end();
    let frames = target.frames("create", 20);
    assert!(frames[0].module.starts_with(folder.path().to_str().unwrap()), "{frames:?}");
    assert_eq!(frames[0].symbol.as_deref(), Some("pthread_create"));
}

/// Strips `prog` and puts its debug information into `debug`.
fn separate(folder: &Path, debug: &str) {
    run("objcopy", &["--only-keep-debug", "prog", debug], folder);
    run("strip", &["prog"], folder);
    run("objcopy", &[&format!("--add-gnu-debuglink={debug}"), "prog"], folder);
}

/// Debug information is found by its link, beside the program and in `.debug`, also when it is deleted later.
#[test]
fn debug_link() {
    for place in ["prog.debug", ".debug/prog.debug"] {
        let folder = build("gcc", &["-O2", "-g"], "prog.c", INLINED);
        fs::create_dir(folder.path().join(".debug")).unwrap();
        separate(folder.path(), place);
        let mut target = Target::start(&folder.path().join("prog"));
        target.end();
        fs::remove_file(folder.path().join(place)).unwrap();
        assert_inlined(&mut target);
        assert_eq!(target.name("here").as_deref(), Some("here"));
    }
}

/// A debug file whose checksum is not the link's is not believed, and a FIFO in its place is not waited for.
#[test]
fn wrong_debug_file() {
    for wrong in ["changed", "fifo", "missing"] {
        let folder = build("gcc", &["-O2", "-g"], "prog.c", INLINED);
        separate(folder.path(), "prog.debug");
        let debug = folder.path().join("prog.debug");
        if wrong == "changed" {
            let mut bytes = fs::read(&debug).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&debug, bytes).unwrap();
        } else {
            fs::remove_file(&debug).unwrap();
        }
        if wrong == "fifo" {
            run("mkfifo", &["prog.debug"], folder.path());
        }
        let mut target = Target::start(&folder.path().join("prog"));
        target.end();
        assert_eq!(target.names("call", -1), [None], "{wrong}");
    }
}

/// The hexadecimal build-id of a file.
fn build_id(file: &Path) -> String {
    let bytes = fs::read(file).unwrap();
    let id = object::File::parse(&*bytes).unwrap().build_id().unwrap().unwrap().to_vec();
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Under another root, in which the debug information lies by its build-id, behind an absolute link of that root. That
/// of another build in its place is refused.
#[test]
fn build_id_in_another_root() {
    for right in [true, false] {
        let folder = build("gcc", &["-O2", "-g", "-static", "-Wl,--build-id=sha1"], "prog.c", INLINED);
        let root = folder.path();
        run("objcopy", &["--only-keep-debug", "prog", "prog.debug"], root);
        if !right {
            let other = build("gcc", &["-O1", "-g", "-Wl,--build-id=sha1"], "prog.c", INLINED);
            fs::copy(other.path().join("prog"), root.join("prog.debug")).unwrap();
        }
        run("strip", &["prog"], root);
        let id = build_id(&root.join("prog"));
        let place = root.join("usr/lib/debug/.build-id").join(&id[..2]);
        fs::create_dir_all(&place).unwrap();
        fs::create_dir(root.join("store")).unwrap();
        fs::rename(root.join("prog.debug"), root.join("store/prog.debug")).unwrap();
        std::os::unix::fs::symlink("/store/prog.debug", place.join(format!("{}.debug", &id[2..]))).unwrap();
        // chroot(8), which anybody may call in a user namespace of their own.
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--root"]).arg(root).arg("/prog");
        let mut target = Target::run(&mut command);
        target.end();
        match right {
            true => assert_inlined(&mut target),
            false => assert_eq!(target.names("call", -1), [None]),
        }
    }
}

/// The kernel's library has names.
#[test]
fn vdso() {
    let tid = Tid(std::process::id() as i32);
    let vmas = maps::read(tid).unwrap();
    let vma = vmas.iter().find(|vma| &*vma.name == b"[vdso]").unwrap();
    let (mut modules, mut names) = (Modules::default(), Names::default());
    let module = modules.of(tid, vma).unwrap();
    let Contents::Copy(bytes) = &modules.get(module).contents else { panic!("the vDSO has no file") };
    let elf = object::File::parse(&**bytes).unwrap();
    let symbol = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok("__vdso_clock_gettime")).unwrap();
    let place = |address| Place::Module { module, offset: modules.get(module).file_offset(address).unwrap() };
    let frames = names.frames(&modules, place(symbol.address() + 1), None);
    assert_eq!((frames[0].module.as_str(), frames[0].symbol.as_deref()), ("[vdso]", Some("__vdso_clock_gettime")));
    assert_eq!(names.frames(&modules, place(0), None)[0].symbol, None);
}

/// Code that was made at run time has the name of the map that its process writes, which is read again when it grows,
/// remembered after the end, and not believed when it is somebody else's.
#[test]
fn perf_map() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid(child.id() as i32);
    let path = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    let (modules, mut names) = (Modules::default(), Names::default());
    let mut name = |addr, pid| names.frames(&modules, Place::Anonymous(Addr(addr)), pid).pop().unwrap();
    let unnamed = Frame { module: "[anonymous]".into(), offset: 0x1010, symbol: None, file: None, line: None };
    assert_eq!(name(0x1010, Some(pid)), unnamed);
    fs::write(&path, "garbage\n1000 20 LazyCompile:~job app.js:3\n").unwrap();
    let named = Frame { symbol: Some("LazyCompile:~job app.js:3".into()), ..unnamed.clone() };
    assert_eq!(name(0x1010, Some(pid)), named);
    assert_eq!(name(0x1010, None), unnamed);
    fs::write(&path, "garbage\n1000 20 LazyCompile:~job app.js:3\n2000 10 _ZN3app3runEv\n").unwrap();
    assert_eq!(name(0x2000, Some(pid)).symbol.as_deref(), Some("app::run()"));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(name(0x1010, Some(pid)), named);
    let mut other = PerfMap::default();
    fs::write(&path, "1000 20 job\n").unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        other.refresh(pid, Some(Writer { number: pid.0, uid: 4321 }), 100);
        assert_eq!(other.name(Addr(0x1000)), None);
        other.refresh(pid, Some(Writer { number: pid.0, uid: 1234 }), 100);
        assert_eq!(other.name(Addr(0x1000)).as_deref(), Some("job"));
    }
    fs::remove_file(&path).unwrap();
}

/// In a PID namespace of its own, a process's map bears the number that it has there, in the /tmp that it sees.
#[test]
fn perf_map_in_a_container() {
    let folder = build("gcc", &["-O2", "-static"], "prog.c", INLINED);
    fs::create_dir(folder.path().join("tmp")).unwrap();
    fs::write(folder.path().join("tmp/perf-1.map"), "1000 20 job\n").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--pid", "--fork", "--kill-child", "--root"]).arg(folder.path()).arg("/prog");
    let mut unshare = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(unshare.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).unwrap();
    let pid = Pid(children.trim().parse().unwrap());
    let frame = Names::default().function(&Modules::default(), Place::Anonymous(Addr(0x1000)), Some(pid));
    unshare.kill().unwrap();
    unshare.wait().unwrap();
    assert_eq!(frame.unwrap().symbol.as_deref(), Some("job"));
}

/// Names of a hundred kilobytes are cut; escapes are left to the reports.
#[test]
fn hostile_symbols() {
    let long = "x".repeat(100_000);
    let source = format!(
        r#"#include <stdio.h>
void longest(void) __asm__("{long}");
void red(void) __asm__("\"\033[31mred\"");
__attribute__((noinline)) void longest(void) {{ __asm__ volatile(""); }}
__attribute__((noinline)) void red(void) {{ __asm__ volatile("nop"); }}
int main(void) {{ printf("longest %p\nred %p\n", (void *)longest, (void *)red); {WAIT} }}
"#
    );
    for arguments in [&["-O1"][..], &["-O1", "-g"]] {
        let folder = build("gcc", arguments, "prog.c", &source);
        let mut target = Target::start(&folder.path().join("prog"));
        assert_eq!(target.name("longest").unwrap(), long[..demangle::MOST]);
        assert!(target.name("red").unwrap().contains("\u{1b}[31mred"));
    }
}

/// A compressed section that claims to be larger than memory is left out: there are symbols still.
#[test]
fn compressed_section_with_a_wrong_size() {
    for size in [u64::MAX, 1 << 40, 3] {
        let folder = build("gcc", &["-O2", "-g", "-gz=zlib"], "prog.c", INLINED);
        let program = folder.path().join("prog");
        let bytes = fs::read(&program).unwrap();
        let elf = object::File::parse(&*bytes).unwrap();
        let (offset, _) = elf.section_by_name(".debug_info").unwrap().file_range().unwrap();
        fs::File::options().write(true).open(&program).unwrap().write_all_at(&size.to_le_bytes(), offset + 8).unwrap();
        let mut target = Target::start(&program);
        assert_eq!(target.names("call", -1), [Some("h".to_owned())]);
    }
}

/// Functions that are inlined into each other a million times, as no compiler has it, do not exhaust the stack: there are
/// symbols still.
#[test]
fn debug_information_that_nests_without_end() {
    let source = format!(
        r#"#include <stdio.h>
__attribute__((noinline)) void deep(void) {{ __asm__ volatile(".file 1 \"deep.c\"\n.loc 1 3\nnop"); }}
__asm__(".section .debug_abbrev,\"\",@progbits\n"
    ".byte 1,0x11,1,0x11,1,0x12,7,0x10,0x17,0,0\n" /* a unit with low_pc, high_pc and lines */
    ".byte 2,0x2e,1,0x11,1,0x12,7,3,8,0,0\n" /* a function with a name */
    ".byte 3,0x1d,1,0,0,0\n" /* an inlined function with nothing but children */
    ".section .debug_line,\"\",@progbits\nlines:\n"
    ".section .debug_info,\"\",@progbits\n"
    "start: .long end - start - 4\n.short 4\n.long .debug_abbrev\n.byte 8\n"
    ".byte 1\n.quad deep\n.quad 16\n.long lines\n.byte 2\n.quad deep\n.quad 16\n.asciz \"deep\"\n"
    ".fill 1000000, 1, 3\nend:\n.text\n");
int main(void) {{ printf("deep %p\n", (void *)deep); {WAIT} }}
"#
    );
    let folder = build("gcc", &["-O1"], "prog.c", &source);
    let mut target = Target::start(&folder.path().join("prog"));
    assert_eq!(target.name("deep").as_deref(), Some("deep"));
}

/// Whatever is broken in a file, looking up names in it ends without a panic that gets out, and without a wait.
#[test]
fn damaged_files() {
    let folder = build("gcc", &["-O2", "-g"], "prog.c", INLINED);
    let program = folder.path().join("prog");
    let bytes = fs::read(&program).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let tables: Vec<(u64, u64)> = elf.sections().filter_map(|section| section.file_range()).collect();
    let address = elf.symbols().find(|symbol| symbol.name() == Ok("h")).unwrap().address();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = 1_u64;
    for round in 0..400 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + round % 8 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Half of the damage to the headers, half to some section.
            let headers = bytes.len() as u64 - 64 * elf.sections().count() as u64;
            let (start, length) = match random >> 63 {
                0 => (headers, bytes.len() as u64 - headers),
                _ => tables[(random >> 32) as usize % tables.len()],
            };
            let at = (start + (random >> 16) % length.max(1)) as usize;
            damaged[at] = (random >> 8) as u8;
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&damaged, 0).unwrap();
        let frame = unnamed("prog", 0);
        let mut budget = elf_copy::BUDGET;
        let names = Names::default();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            Source::of(&file, &mut budget).and_then(|source| look_up(&names.symbolizer, &source, address, &frame))
        }));
    }
    std::panic::set_hook(quiet);
}

/// When the memory for names is used up, places have none, and those that have been looked up keep theirs.
#[test]
fn memory_for_names_is_bounded() {
    let mut modules = Modules::default();
    let module = Module::new(super::super::module::own(), Path::new("/a"), Contents::Unreadable);
    let module = modules.add(module).unwrap();
    let mut names = Names { text_left: 1000, ..Names::default() };
    let place = |offset| Place::Module { module, offset };
    for offset in 0..100 {
        assert_eq!(names.frames(&modules, place(offset), None), [unnamed("/a", offset)]);
    }
    assert!(names.found.len() <= 1000 / size_of::<Frame>() + 1 && names.text_left == 0, "{}", names.found.len());
    let known = [unnamed("/known", 3)];
    names.know(place(200), Pid(1), &known);
    assert_eq!(names.frames(&modules, place(200), None), known);
}

/// Of functions that are inlined into each other the innermost are told, and the one that they are all in.
#[test]
fn inlined_functions_are_bounded() {
    let inlined = |number| blazesym::symbolize::InlinedFn {
        name: format!("f{number}").into(),
        code_info: None,
        _non_exhaustive: (),
    };
    let symbol = Sym {
        name: "outer".into(),
        module: None,
        addr: 0,
        offset: 0,
        size: Some(10),
        code_info: None,
        inlined: (0..MOST_INLINED + 9).map(inlined).collect(),
        _non_exhaustive: (),
    };
    let frames = frames_of(&symbol, &unnamed("/a", 0)).unwrap();
    let names: Vec<&str> = frames.iter().filter_map(|frame| frame.symbol.as_deref()).collect();
    assert_eq!((names.len(), names[0], names[MOST_INLINED - 1]), (MOST_INLINED + 1, "f72", "f9"));
    assert_eq!(names[MOST_INLINED], "outer");
}
