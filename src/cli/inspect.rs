//! `vmtrace inspect -p PID`.

use super::follow::{check_proc, exit_status};
use super::output::{Output, Stream};
use super::{InspectArgs, usage_error};
use crate::inspect::inspect;
use crate::symbols::names::Names;
use crate::units::Pid;

/// Looks at the process that the arguments name, and reports.
///
/// # Errors
/// Why it could not be looked at, in one line.
pub fn run(args: &InspectArgs) -> Result<u8, anyhow::Error> {
    check_proc()?;
    if u32::try_from(args.pid).is_ok_and(|pid| pid == std::process::id()) {
        usage_error("that is this vmtrace itself: name another process");
    }
    let output = Output::open(&args.report, Stream::Out)?;
    let draft = inspect(Pid(args.pid), args.report.min_confidence.into())?;
    let report = draft.named(&mut Names::default());
    output.write(&report)?;
    Ok(exit_status(&args.report, &report, 0))
}
