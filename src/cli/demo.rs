//! `vmtrace demo`: the documented leak, made and diagnosed before your eyes.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::output::Stream;
use super::{DemoArgs, EngineChoice, FollowArgs};
use crate::sys;

/// The article's reproducer: a stack of 10 pages for clone, which nobody unmaps.
const STACK_BYTES: NonZeroUsize = NonZeroUsize::new(40_960).unwrap();
const THREADS: u32 = 8;
const THREAD_LIVES: Duration = Duration::from_millis(100);
const ONE_EVERY: Duration = Duration::from_millis(300);

/// Launches the leaking child and follows it.
///
/// # Errors
/// Why it could not be followed.
pub fn run(args: &DemoArgs) -> Result<u8, anyhow::Error> {
    let own = std::env::current_exe()?;
    let mut out = io::stderr();
    let _ = writeln!(
        out,
        "A child process creates {THREADS} threads by clone, one every {} ms, each on a stack of {STACK_BYTES} bytes that \
         nobody unmaps.\nIt is followed with: vmtrace -- {} demo-target\n",
        ONE_EVERY.as_millis(),
        own.display(),
    );
    let follow = FollowArgs {
        pid: None,
        stop_after: None,
        every: None,
        follow: super::FollowChoice::Memory,
        max_overhead: None,
        engine: EngineChoice::Auto,
        verbose: false,
        verify: Some(1),
        events: None,
        record: None,
        report: args.report.clone(),
        program: vec![own.into_os_string(), "demo-target".into()],
    };
    super::follow::launch(&follow, Stream::Out)
}

/// Leaks.
///
/// # Errors
/// A thread could not be made.
pub fn leak() -> Result<(), anyhow::Error> {
    for _ in 0..THREADS {
        let thread = sys::clone_on_new_stack(STACK_BYTES, THREAD_LIVES)?;
        std::thread::sleep(THREAD_LIVES);
        thread.reap()?;
        std::thread::sleep(ONE_EVERY.saturating_sub(THREAD_LIVES));
    }
    Ok(())
}
