//! `vmtrace -- PROGRAM` and `vmtrace -p PID`.

use std::fs::File;
use std::path::Path;

use jiff::Zoned;
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::events;
use super::output::{Destination, Output, Stream};
use super::watch::{STATUS_EVERY, Watch};
use super::{
    EngineChoice, FAILED, FollowArgs, FollowChoice, NOT_EXECUTABLE, NOT_FOUND, ReportArgs, complain, no_thread,
};
use crate::event::Exit;
use crate::follow::{Follower, Observer, Options};
use crate::procfs::task;
use crate::report::draft::Draft;
use crate::report::{Clock, Mode, Report};
use crate::source::control::{Control, Manners, Program, Timers, block_signals};
use crate::source::perf::Perf;
use crate::source::perf::attach::FollowError;
use crate::source::ptrace::Ptrace;
use crate::source::ptrace::launch::Leash;
use crate::source::recording::format::Heading;
use crate::source::recording::{Recorder, Writer};
use crate::source::{Launched, Source};
use crate::sys;
use crate::target::Target;
use crate::target::live::Live;
use crate::units::Pid;

/// Follows what the arguments name.
///
/// # Errors
/// Why it could not be followed, in one line.
pub fn run(args: &FollowArgs) -> Result<u8, anyhow::Error> {
    check_proc()?;
    if args.verify.is_some() && args.follow == FollowChoice::Threads {
        super::usage_error("--verify compares what mapping calls tell with the kernel; --follow threads follows none");
    }
    if args.max_overhead.is_some() && args.pid.is_none() && !args.program.is_empty() {
        super::usage_error("--max-overhead is for -p PID: of a launched program the followed calls alone stop");
    }
    if args.engine == EngineChoice::Perf && args.follow == FollowChoice::Threads {
        super::usage_error("--follow threads is for ptrace: perf events follow all calls at little cost");
    }
    if let Some([one, other]) = same_file(args) {
        super::usage_error(&format!("{one} and {other} name the same file: each would overwrite the other's"));
    }
    match (args.pid, args.program.is_empty()) {
        (Some(_), false) => super::usage_error("give either -p PID or a program to launch, not both"),
        (None, true) => super::usage_error("nothing to follow: give a program after --, or a process with -p PID"),
        (Some(pid), true) => attach(args, Pid(pid)),
        (None, false) => launch(args, Stream::Err),
    }
}

/// Two options that name the same file, of those that are for one thing alone: pipes and devices take anything.
fn same_file(args: &FollowArgs) -> Option<[&'static str; 2]> {
    let named = [("-o", &args.report.output), ("--record", &args.record), ("--events", &args.events)];
    let named: Vec<_> = named.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect();
    let is_plain = |path: &Path| std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    let destination = |path: &Path| Destination::of(path).ok().filter(|_| is_plain(path) && path != Path::new("-"));
    let pairs =
        named.iter().enumerate().flat_map(|(index, one)| named[index + 1..].iter().map(move |other| (one, other)));
    let is_same = |one, other| destination(one).is_some_and(|one| destination(other) == Some(one));
    pairs.into_iter().find(|(one, other)| is_same(one.1, other.1)).map(|(one, other)| [one.0, other.0])
}

/// Refuses to look at others' numbers: in a PID namespace of its own, /proc may still be that of the host.
pub(super) fn check_proc() -> Result<(), anyhow::Error> {
    let own =
        std::fs::read_link("/proc/self").map_err(|error| anyhow::anyhow!("cannot read /proc: {error}; mount it"))?;
    let is_ours = own.to_str().is_some_and(|own| own == std::process::id().to_string());
    anyhow::ensure!(
        is_ours,
        "/proc is that of another PID namespace: mount this one's (unshare --mount-proc does), or run vmtrace outside"
    );
    Ok(())
}

fn attach(args: &FollowArgs, pid: Pid) -> Result<u8, anyhow::Error> {
    let output = Output::open(&args.report, Stream::Out)?;
    block_signals(Manners::Attached)?;
    let mut control = Control::new(Manners::Attached);
    let recording = args.record.as_deref().map(create).transpose()?;
    let options = options(args, Mode::Attach, task::command_line(pid), Stream::Out)?;
    control.start(timers(args, Watch::wants_status(false)), None).map_err(no_thread)?;
    let followed = match by_perf(args, pid)? {
        Some(source) => follow(&mut Live::new(source), &control, options, output, recording)?,
        None => {
            let source = Ptrace::attach(pid, args.follow.into(), args.max_overhead)?;
            follow(&mut Live::new(source), &control, options, output, recording)?
        }
    };
    control.stand_down();
    let report = followed.report()?;
    Ok(exit_status(&args.report, &report, 0))
}

/// The process by perf events, where they are wanted and can be had; none where it is ptrace's.
fn by_perf(args: &FollowArgs, pid: Pid) -> Result<Option<Perf>, FollowError> {
    let say = |engine: &str, why: &dyn std::fmt::Display| {
        if args.verbose {
            super::complain(&format!("{engine}: {why}"));
        }
    };
    match (args.engine, args.follow) {
        (EngineChoice::Perf, _) => return Perf::attach(pid, None).map(Some),
        (EngineChoice::Ptrace, _) => return Ok(None),
        (EngineChoice::Auto, FollowChoice::Threads) => {
            say("ptrace", &"births and ends alone cost it next to nothing");
            return Ok(None);
        }
        (EngineChoice::Auto, FollowChoice::Memory) => {}
    }
    match Perf::attach(pid, None) {
        Ok(source) => {
            say("perf", &"it is permitted here, and stops nobody");
            Ok(Some(source))
        }
        Err(why @ (FollowError::Perf(_) | FollowError::I386(_))) => {
            say("ptrace", &why);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Launches the program that `args` name; `stream` is where the report goes unless they say otherwise.
pub(super) fn launch(args: &FollowArgs, stream: Stream) -> Result<u8, anyhow::Error> {
    let output = Output::open(&args.report, stream)?;
    let mask = block_signals(Manners::Launched)?;
    let command: Vec<String> = args.program.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let recording = args.record.as_deref().map(create).transpose()?;
    let options = options(args, Mode::Launch, command, stream)?;
    // Before the control's thread exists, because it forks.
    if args.verbose && args.engine == EngineChoice::Auto {
        complain("ptrace: it stops a launched program at the followed calls alone, and sees each exactly");
    }
    if args.engine == EngineChoice::Perf {
        return follow_launched(args, Perf::launch(&args.program, &mask, None)?, options, output, recording);
    }
    // A program that is to be left alone after a while must be able to live without us.
    let leash = if args.stop_after.is_some() { Leash::None } else { Leash::Filter };
    follow_launched(args, Ptrace::launch(&args.program, leash, args.follow.into(), &mask)?, options, output, recording)
}

/// Follows the launched program to its end.
fn follow_launched<S: Launched>(
    args: &FollowArgs,
    source: S,
    options: Options,
    output: Output,
    recording: Option<File>,
) -> Result<u8, anyhow::Error> {
    let mut target = Live::new(source);
    let mut control = Control::new(Manners::Launched);
    let program = Program { pid: target.source.main_pid(), command: &args.program };
    control.start(timers(args, Watch::wants_status(true)), Some(program)).map_err(no_thread)?;
    target.source.go()?;
    let followed = follow(&mut target, &control, options, output, recording)?;
    if let Some(errno) = target.source.not_executed() {
        let program = args.program[0].to_string_lossy();
        super::complain(&format!("cannot run {program}: {}", why_not_executed(errno)));
        return Ok(if errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE });
    }
    if target.source.main_exit().is_some() {
        control.stand_down();
    }
    let report = followed.report()?;
    let exit = target.wait_for_main(&control)?;
    let own = match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(FAILED),
        Exit::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
    };
    let status = exit_status(&args.report, &report, own);
    // What the source has made goes with it: an end by a signal drops nothing.
    drop(target);
    let struck_by = control.end();
    if let Exit::Signal(signal) = exit
        && status == own
        && struck_by == Some(signal)
    {
        // A shell ends its loop or script only where the signal has ended the job, too.
        sys::end_without_dump(signal);
    }
    Ok(status)
}

fn why_not_executed(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file, and none of this name in PATH".to_owned(),
        Errno::EACCES => "permission denied: is it a program, and executable?".to_owned(),
        Errno::ENOEXEC => "it is no program that this machine can execute".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

fn options(args: &FollowArgs, mode: Mode, command: Vec<String>, stream: Stream) -> Result<Options, anyhow::Error> {
    Ok(Options {
        mode,
        command,
        verify_every: args.verify,
        min_confidence: args.report.min_confidence.into(),
        events: args.events.as_deref().map(|path| events::open(path, stream)).transpose()?,
    })
}

fn timers(args: &FollowArgs, status: bool) -> Timers {
    Timers { stop_after: args.stop_after, report_every: args.every, status_every: status.then_some(STATUS_EVERY) }
}

/// Creates the file that is to be recorded to. Before anything is followed, so that no hour is lost.
fn create(path: &Path) -> Result<File, anyhow::Error> {
    File::create(path).map_err(|error| anyhow::anyhow!("cannot record to {}: {error}", path.display()))
}

/// What there is to be reported, and where.
struct Followed {
    draft: Draft,
    watch: Watch,
    recording: Option<Writer>,
}

impl Followed {
    /// Writes the last report, and the end of the recording.
    fn report(mut self) -> Result<Report, anyhow::Error> {
        let written = self.watch.write(self.draft);
        if let Some(recording) = self.recording {
            let names = written.as_ref().map_or(Vec::new(), |(_, names)| names.clone());
            if let Err(error) = recording.finish(names) {
                self.watch.warn(&format!("--record: {error}; the recording is not complete"));
            }
        }
        written.map(|(report, _)| report)
    }
}

/// Follows to the end. What was gathered is reported, also where following failed.
fn follow<S: Source>(
    target: &mut Live<S>,
    control: &Control,
    options: Options,
    output: Output,
    recording: Option<File>,
) -> Result<Followed, anyhow::Error> {
    lift_limits();
    let clock = Clock::new(Zoned::now().saturating_sub(target.source.now().0));
    let begin = |file| {
        let heading = Heading {
            vmtrace: env!("CARGO_PKG_VERSION").to_owned(),
            start: clock.start.to_string(),
            pid: target.source.main_pid(),
            command: options.command.clone(),
            engine: target.source.engine(),
            verify_every: options.verify_every,
        };
        Writer::begin(file, &heading).map_err(|error| anyhow::anyhow!("cannot record: {error}"))
    };
    let recording = recording.map(begin).transpose()?;
    let mut watch = Watch::new(output);
    let mut recorder;
    let target: &mut dyn Target = match &recording {
        Some(writer) => {
            recorder = Recorder::new(target, writer);
            &mut recorder
        }
        None => target,
    };
    let (draft, result) = Follower::new(target, control, clock, options, &mut watch).run();
    watch.clear();
    if let Err(error) = result {
        watch.warn(&format!("following ended early: {error}"));
    }
    Ok(Followed { draft, watch, recording })
}

/// Lets us hold open the files of a program with hundreds of libraries, and live on where its limits of time and of files'
/// sizes, which are meant for it, would end us. To be called when the program, whose own limits these are, has been launched.
pub(super) fn lift_limits() {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_CPU, Resource::RLIMIT_FSIZE] {
        // Where that is refused, fewer files have names, and less can be written.
        let Ok((_, most)) = getrlimit(resource) else { continue };
        let _ = setrlimit(resource, most, most);
        if resource != Resource::RLIMIT_NOFILE {
            let _ = setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY);
        }
    }
    // An error is told instead, as of a full disk.
    sys::ignore(Signal::SIGXFSZ);
    sys::ignore(Signal::SIGXCPU);
}

/// The status to exit with: that of the program, or what was asked for if there is a finding.
pub(super) fn exit_status(args: &ReportArgs, report: &Report, status: u8) -> u8 {
    match args.error_exitcode {
        Some(code) if report.listed().next().is_some() => code,
        _ => status,
    }
}
