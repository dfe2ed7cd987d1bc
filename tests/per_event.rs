//! What one followed call costs, counted, not timed: two stops, two reads, and in the long run no allocation. A program of its own,
//! since the follower forks and so has to be alone in its process.

use std::alloc::System;
use std::hint::black_box;

use nix::sys::signal::SigSet;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use vmtrace::event::EventKind;
use vmtrace::model::Model;
use vmtrace::source::control::{Control, Manners};
use vmtrace::source::ptrace::Ptrace;
use vmtrace::source::ptrace::launch::Leash;
use vmtrace::source::{Follow, Launched, Source};
use vmtrace::sys;
use vmtrace::target::live::Live;
use vmtrace::target::{Target, Told};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Names this program as the followed one.
const TARGET: &str = "map-and-unmap";

/// Calls before anything is counted: buffers find their size, and call stacks are captured of the first.
const WARM_UP: usize = 2000;
const COUNTED: usize = 20_000;

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == TARGET) {
        for _ in 0..(WARM_UP + COUNTED) / 2 + 100 {
            // Too large for malloc's heap: one mmap and one munmap.
            black_box(Vec::<u8>::with_capacity(64 << 20));
        }
        return;
    }
    two_stops_and_no_allocation_for_each_call();
    println!("test two_stops_and_no_allocation_for_each_call ... ok");
}

fn two_stops_and_no_allocation_for_each_call() {
    let program = [std::env::current_exe().expect("this program").into_os_string(), TARGET.into()];
    let mut source =
        Ptrace::launch(&program, Leash::Filter, Follow::Memory, &SigSet::empty()).expect("it can be launched");
    source.go().expect("it waits for that");
    let (mut target, control, mut model) = (Live::new(source), Control::new(Manners::Launched), Model::new());
    follow(&mut target, &control, &mut model, WARM_UP);
    let (stops, reads, allocations) = (target.source.stops(), sys::reads(), Region::new(ALLOCATOR));
    follow(&mut target, &control, &mut model, COUNTED);
    let (stops, reads, change) = (target.source.stops() - stops, sys::reads() - reads, allocations.change());
    // The last event is told before the stop in which its successor begins.
    assert_eq!(stops, 2 * COUNTED as u64, "a call stops at its entry and at its exit");
    // At the entry the filter's message, which tells what the task must be made to wait for; the registers at the exit.
    assert_eq!(reads, 2 * COUNTED as u64, "a call is read once at each stop");
    let allocated = change.allocations + change.reallocations;
    assert!(allocated < COUNTED / 100, "{allocated} allocations for {COUNTED} calls: {change:?}");
    follow(&mut target, &control, &mut model, usize::MAX);
}

/// Follows so many calls, or all that there are.
fn follow(target: &mut Live<Ptrace>, control: &Control, model: &mut Model, calls: usize) {
    let mut seen = 0;
    while seen < calls {
        match target.next(control).expect("ptrace works") {
            Told::Event(mut event) => {
                target.annotate(&mut event, model);
                model.apply(&event);
                target.learn(&event, model);
                seen += usize::from(matches!(event.kind, EventKind::Syscall(_)));
            }
            Told::Finished(_) | Told::Quiet(_) => return,
            Told::Asked { .. } => {}
        }
    }
}
