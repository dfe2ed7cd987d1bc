//! What the thread libraries know, read from outside, without tracing: threads that ended before anybody looked.

use std::fs;

use crate::common::testprogs::{start, testprog};
use crate::common::wait_for;
use object::{Object, ObjectSegment, ObjectSymbol};
use vmtrace::event::Vma;
use vmtrace::procfs;
use vmtrace::procfs::memory::ResidentPages;
use vmtrace::procfs::present::LiveMemory;
use vmtrace::threadlib::{List, ListedThread, ThreadLists, glibc, musl};
use vmtrace::units::{Addr, Tid};

/// glibc's lists, for 64 and 32 bits, name the function of each thread that was never joined, and its stack.
#[test]
fn glibc_threads() {
    for program in ["attach_loop", "attach_loop.static", "attach_loop.i386"] {
        expect_left_behind(program, 1_052_672, |tid, maps| {
            glibc::locate(tid, maps, &LiveMemory::of(tid))
                .and_then(|located| located.read(&LiveMemory::of(tid)))
                .expect("lists")
        });
    }
}

/// So do musl's descriptors.
#[test]
fn musl_threads() {
    for program in ["attach_loop.musl", "attach_loop.musl_static"] {
        expect_left_behind(program, 1_056_768, |tid, maps| {
            let pages = ResidentPages::open(tid).expect("a child's pages can be read");
            let touched = |range| pages.touched(range).expect("a child's pages can be read");
            musl::read(&LiveMemory::of(tid), maps, std::iter::empty(), touched)
        });
    }
}

/// Runs a program that leaves threads behind, and waits until several are listed, each as it was made.
#[track_caller]
fn expect_left_behind(program: &str, bytes: u64, read: impl Fn(Tid, &[Vma]) -> ThreadLists) {
    let target = start(program, &["0", "0", "20"]);
    let tid = Tid(target.pid());
    wait_for("three have been left behind", || {
        let maps = procfs::maps::read(tid).expect("it runs");
        let lists = read(tid, &maps);
        // The function of one that is just being created is not filled in yet.
        let created = |thread: &&ListedThread| thread.list == List::Used && thread.start_routine.0 != 0;
        let ended: Vec<&ListedThread> = lists.threads.iter().filter(created).collect();
        for thread in &ended {
            let stack = thread.stack.expect("its stack is known");
            assert_eq!((stack.range.bytes(), stack.guard_bytes), (bytes, 4096), "{program}");
            assert_eq!(file_offset(&maps, thread.start_routine), file_offset_of("count_life", program), "{program}");
        }
        ended.len() >= 3
    });
    target.end().expect_code(0);
}

/// Where in its file an address lies.
fn file_offset(maps: &[Vma], address: Addr) -> Option<u64> {
    let line = maps.iter().find(|vma| vma.range.contains(address))?;
    Some(address.0 - line.range.start().0 + line.offset)
}

/// Where in the program's file a function lies.
fn file_offset_of(name: &str, program: &str) -> Option<u64> {
    let bytes = fs::read(testprog(program)).expect("a program can be read");
    let elf = object::File::parse(&*bytes).expect("an ELF file");
    let address = elf.symbols().find(|symbol| symbol.name() == Ok(name))?.address();
    let holds = |segment: &object::Segment| (segment.address()..segment.address() + segment.size()).contains(&address);
    let segment = elf.segments().find(holds)?;
    Some(address - segment.address() + segment.file_range().0)
}
