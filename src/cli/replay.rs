//! `vmtrace replay FILE`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use jiff::Zoned;

use super::output::{Output, Stream};
use super::watch::{STATUS_EVERY, Watch};
use super::{FAILED, ReplayArgs, events, no_thread};
use crate::follow::{Follower, Observer, Options};
use crate::report::draft::Draft;
use crate::report::{Clock, Mode};
use crate::source::control::{Control, Manners, Timers, block_signals};
use crate::source::recording::format::MAGIC;
use crate::source::recording::{NotARecording, Replay};
use crate::source::strace_log::StraceLog;

/// Replays what the arguments name.
///
/// # Errors
/// Why it could not be replayed, in one line.
pub fn run(args: &ReplayArgs) -> Result<u8, anyhow::Error> {
    // strace -ff has written a file for each thread.
    super::follow::lift_limits();
    let output = Output::open(&args.report, Stream::Out)?;
    let (file, name) = match open(&args.file)? {
        Opened::Recording(file, name) => (file, name),
        Opened::Log(log) => return strace_log(args, *log, output),
    };
    block_signals(Manners::Attached)?;
    let mut control = Control::new(Manners::Attached);
    let status_every = Watch::wants_status(false).then_some(STATUS_EVERY);
    control.start(Timers { status_every, ..Timers::default() }, None).map_err(no_thread)?;
    recording(args, file, &control, output).map_err(|error| anyhow::anyhow!("cannot replay {name}: {error}"))
}

/// What there is to be replayed: its first bytes tell.
enum Opened {
    Recording(Box<dyn BufRead>, String),
    Log(Box<StraceLog>),
}

fn open(path: &Path) -> Result<Opened, anyhow::Error> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    if path != Path::new("-") && !path.exists() || path.is_dir() {
        // The files of strace -ff, or nothing.
        return Ok(Opened::Log(Box::new(StraceLog::open(path)?)));
    }
    let error = |error| anyhow::anyhow!("cannot read {name}: {error}");
    let file: Box<dyn Read + Send> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(error)?) };
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut begin = vec![0; MAGIC.len()];
    let mut filled = 0;
    while filled < begin.len() {
        match file.read(&mut begin[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) => return Err(error(reason)),
        }
    }
    begin.truncate(filled);
    let is_recording = begin == MAGIC;
    let whole = Cursor::new(begin).chain(file);
    Ok(match is_recording {
        true => Opened::Recording(Box::new(BufReader::with_capacity(1 << 20, whole)), name),
        false if path.is_file() => Opened::Log(Box::new(StraceLog::open(path)?)),
        false => Opened::Log(Box::new(StraceLog::stream(Box::new(whole), name)?)),
    })
}

fn strace_log(args: &ReplayArgs, mut log: StraceLog, output: Output) -> Result<u8, anyhow::Error> {
    let options = Options {
        mode: Mode::Replay,
        command: log.command(),
        verify_every: None,
        min_confidence: args.report.min_confidence.into(),
        events: args.events.as_deref().map(|path| events::open(path, Stream::Out)).transpose()?,
    };
    // Nothing but the log is waited for: signals may end the replay as they end any program.
    let (clock, control) = (log.clock(), Control::new(Manners::Attached));
    let mut watch = Watch::new(output);
    let (draft, result) = Follower::new(&mut log, &control, clock, options, &mut watch).run();
    if let Err(error) = &result {
        watch.warn(&format!("{} could be read in part only: {error}", args.file.display()));
    }
    let (report, _) = watch.write(draft)?;
    Ok(if result.is_err() { FAILED } else { super::follow::exit_status(&args.report, &report, 0) })
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
    let (draft, result) = Follower::new(&mut replay, control, Clock::new(start), options, &mut last).run();
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
