//! `vmtrace replay FILE`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use jiff::Zoned;

use super::output::{Output, Stream};
use super::watch::{STATUS_EVERY, Watch};
use super::{ReplayArgs, events};
use crate::follow::{Follower, Observer, Options};
use crate::report::draft::Draft;
use crate::report::{Clock, Mode};
use crate::source::control::{Control, Manners, Timers, block_signals};
use crate::source::recording::{NotARecording, Replay};

/// Replays what the arguments name.
///
/// # Errors
/// Why it could not be replayed, in one line.
pub fn run(args: &ReplayArgs) -> Result<u8, anyhow::Error> {
    let output = Output::new(&args.report, Stream::Out);
    output.check()?;
    let (file, name) = open(&args.file)?;
    block_signals()?;
    let mut control = Control::new(Manners::Attached);
    let status_every = Watch::wants_status(false).then_some(STATUS_EVERY);
    control.start(Timers { status_every, ..Timers::default() })?;
    recording(args, file, &control, output).map_err(|error| anyhow::anyhow!("cannot replay {name}: {error}"))
}

/// The file or standard input, and what it is called.
fn open(path: &Path) -> Result<(Box<dyn BufRead>, String), anyhow::Error> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), "standard input".to_owned()));
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| anyhow::anyhow!("cannot open {name}: {error}"))?;
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), name))
}

fn recording(
    args: &ReplayArgs,
    file: Box<dyn BufRead>,
    control: &Control,
    output: Output,
) -> Result<u8, anyhow::Error> {
    let mut replay = Replay::open(file)?;
    let heading = replay.heading();
    let start: Zoned = heading.start.parse().map_err(|_| NotARecording::NoHeading)?;
    let options = Options {
        mode: Mode::Replay,
        command: heading.command.clone(),
        verify_every: heading.verify_every,
        min_confidence: args.report.min_confidence.into(),
        events: args.events.as_deref().map(|path| events::open(path, Stream::Out)).transpose()?,
    };
    let mut watch = Watch::new(output);
    let mut last = LastReport(&mut watch);
    let (draft, result) = Follower::new(&mut replay, control, Clock { start }, options, &mut last).run();
    watch.clear();
    if let Err(error) = result {
        watch.warn(&format!("following ended early: {error}"));
    }
    let (report, _) = watch.write(draft)?;
    Ok(super::follow::exit_status(&args.report, &report, 0))
}

/// Passes on all but the reports that were asked for while it was recorded.
struct LastReport<'a>(&'a mut Watch);

impl Observer for LastReport<'_> {
    fn report(&mut self, _: Draft) {}

    fn status(&mut self, status: &crate::follow::Status) {
        self.0.status(status);
    }

    fn warn(&mut self, line: &str) {
        self.0.warn(line);
    }
}
