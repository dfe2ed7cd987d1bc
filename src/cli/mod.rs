//! What was asked, and what it means: one file per command.

pub mod check;
pub mod demo;
pub mod duration;
pub mod events;
pub mod follow;
pub mod inspect;
pub mod manifest;
pub mod output;
pub mod replay;
pub mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::errno::Errno;

use crate::diagnose::finding::Confidence;
use crate::report::layout::{COLUMNS, printable};
use crate::source::Follow;

/// Exit status: wrong usage, also of a manifest.
pub const WRONG_USAGE: u8 = 2;
/// Exit status: vmtrace itself failed.
pub const FAILED: u8 = 125;
/// Exit status: the program could not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status: the program was not found.
pub const NOT_FOUND: u8 = 127;

const EXAMPLES: &str = "\
Examples:
  vmtrace -- ./app_server --port 80     launch a program and follow it to its end
  vmtrace -p 31108 --for 15m            attach to all threads of a process for a quarter of an hour
  vmtrace -p 31108 --every 1h -o leaks  keep an eye on it, with a report every hour
  vmtrace inspect -p 31108              what is leaked already: a look of a moment, without tracing
  vmtrace replay app.strace             the same diagnosis from a log of strace -f
  vmtrace replay leaks.rec              the same report once more, from what --record wrote
  vmtrace demo                          see what a finding looks like

Exit status: the launched program's own (128 + signal when it died of one), otherwise 0; N with \
--error-exitcode N when there is a finding; 1 when a check fails; 2 for wrong usage; 125 when vmtrace itself \
failed, 126 when the program could not be executed, 127 when it was not found.";

/// Says which address space threads have left behind: who mapped it, why it stays, and what to change.
#[derive(Debug, Parser)]
#[command(name = "vmtrace", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(
    override_usage = "vmtrace [OPTIONS] -- PROGRAM [ARG]...\n       vmtrace [OPTIONS] -p PID\n       vmtrace <COMMAND>"
)]
pub struct Cli {
    /// A command of its own, instead of following a program.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to follow, and how.
    #[command(flatten)]
    pub follow: FollowArgs,
}

/// Commands besides following.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what is leaked already, and what VIRT consists of: a look of a moment, without tracing
    Inspect(InspectArgs),
    /// Diagnose what a log of strace -f shows, or once more what was recorded with --record
    Replay(ReplayArgs),
    /// Make the documented leak in a child process, and diagnose it before your eyes
    Demo(DemoArgs),
    /// Run reproducer programs and compare the findings with what is expected
    Check(check::CheckArgs),
    /// The leaking child of the demo
    #[command(hide = true, name = "demo-target")]
    DemoTarget,
}

/// Options of a look.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The process to look at; it is not traced
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
    /// How the report looks.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Options of a replay.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A log of strace -f (also compressed), the files of strace -ff or their folder, or a recording ("-": standard input)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write the system calls in order, one line each ("-": where reports go)
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// How the report looks.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Options of the demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How the report looks.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Options of following.
#[derive(Debug, Clone, Args)]
pub struct FollowArgs {
    /// Attach to all threads of this process, until ^C, --for, or its end
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// Stop after this time, counted from the moment that all threads are followed (500ms, 30s, 2m, 1h)
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    pub stop_after: Option<Duration>,
    /// A report as of now at this interval; SIGUSR1 asks for one too
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub every: Option<Duration>,
    /// All system calls that change the address space, or thread lifecycles alone: no system call stops
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = FollowChoice::Memory)]
    pub follow: FollowChoice,
    /// With -p and ptrace, where every system call stops: follow thread lifecycles alone as soon as stops have cost the
    /// target more than this in a second, in percent of the time in which its threads wanted to run
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub max_overhead: Option<f64>,
    /// Where events come from
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// Say which engine was taken, and why
    #[arg(short, long)]
    pub verbose: bool,
    /// Compare the model with the kernel's maps at every N-th change, and at the end
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "100")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub verify: Option<u64>,
    /// Write the followed system calls as they happen, one line each ("-": where reports go)
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Write down all that is seen, for vmtrace replay
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// How the report looks.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The program to launch, and its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Options of every report.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Where the report goes; a regular file is replaced only by a complete report
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// List findings from this confidence on; what is below is counted in one line
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Probable)]
    pub min_confidence: Level,
    /// Exit with N (1 to 255) when there is a finding that is listed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub error_exitcode: Option<u8>,
    /// Colour in the text report
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    pub color: Colour,
}

/// Where events come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EngineChoice {
    /// For attaching perf where it is permitted, otherwise ptrace
    Auto,
    /// ptrace(2): exact to the call, but each followed call stops its thread, after attaching every call
    Ptrace,
    /// Perf events: nothing is ever stopped; needs root, or CAP_PERFMON and tracefs
    Perf,
}

/// How much is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FollowChoice {
    /// Every mapping call, and threads: all findings, exact bounds
    Memory,
    /// Births and ends of threads alone, at next to no cost: unjoined threads are proven, the program's own stacks are
    /// judged by what lies in them, and what only mapping calls tell (parts left, other memory) is not seen
    Threads,
}

impl From<FollowChoice> for Follow {
    fn from(choice: FollowChoice) -> Follow {
        match choice {
            FollowChoice::Memory => Follow::Memory,
            FollowChoice::Threads => Follow::Threads,
        }
    }
}

/// Format of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The lowest confidence that is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Level {
    /// Everything
    Possible,
    /// What has no innocent reading so far, and better
    Probable,
    /// Only what is proven
    Definite,
}

impl From<Level> for Confidence {
    fn from(level: Level) -> Confidence {
        match level {
            Level::Possible => Confidence::Possible,
            Level::Probable => Confidence::Probable,
            Level::Definite => Confidence::Definite,
        }
    }
}

/// Does what was asked, and says with which status to exit.
///
/// # Errors
/// What vmtrace could not do, in one line.
pub fn run(cli: Cli) -> Result<u8, anyhow::Error> {
    match cli.command {
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::DemoTarget) => demo::leak().map(|()| 0),
        Some(Command::Check(args)) => match check::run(&args) {
            Ok(outcome) => Ok(u8::from(outcome.failed > 0)),
            Err(error) if error.downcast_ref::<manifest::ManifestError>().is_some() => {
                complain(&format!("{error:#}"));
                Ok(WRONG_USAGE)
            }
            Err(error) => Err(error),
        },
        None => follow::run(&cli.follow),
    }
}

/// Writes a line to standard error. What is quoted in it, such as paths and what files say, cannot write to the terminal.
pub fn complain(line: &str) {
    /// A path may have 4096 bytes, and a message has two at most.
    const MOST: usize = 10_000;
    // A terminal that has gone away does not stop us.
    let _ = writeln!(io::stderr(), "vmtrace: {}", printable(line, MOST));
}

/// Ends the process with what is wrong with its arguments, or with the help that they ask for.
pub fn refuse(error: &clap::Error) -> ! {
    let has_controls = |arg: OsString| arg.to_string_lossy().chars().any(char::is_control);
    if std::env::args_os().any(has_controls) {
        // clap quotes arguments as they are.
        for line in error.render().to_string().lines() {
            let _ = writeln!(io::stderr(), "{}", printable(line, 10 * COLUMNS));
        }
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Why there can be no thread of our own.
fn no_thread(error: io::Error) -> anyhow::Error {
    let why = "so many as may be run already; raise kernel.pid_max, ulimit -u or the container's pids.max, or end some";
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    anyhow::anyhow!("cannot start a thread: {}: {why}", errno.desc())
}

/// A share in percent.
fn percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("expected a number above 0 and up to 100, such as 5 or 0.5".to_owned()),
    }
}

/// Wrong usage that clap cannot see: ends the process as clap does.
fn usage_error(message: &str) -> ! {
    use clap::CommandFactory;
    Cli::command().error(clap::error::ErrorKind::ValueValidation, message).exit()
}
