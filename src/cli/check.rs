//! `vmtrace check`: runs reproducer programs and compares what is found with what is expected.

mod compare;
mod process;
mod runner;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::Context;

use self::process::{Interrupt, Scratch, Stopped};
use self::runner::{Outcome, Runner};
use super::manifest::{By, Case, Manifest, Mode, Way};
use super::no_thread;
use crate::report::layout::{COLUMNS, printable, width, wrap};
use crate::report::words::duration;

/// Columns for a case's name.
const NAME: usize = 40;

/// What `vmtrace check` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub struct CheckArgs {
    /// TOML file that lists the programs and what must be found in each
    pub manifest: PathBuf,
    /// Cases to run; all without a name
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How many cases run at the same time
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,
    /// Where events come from; several run each case by each of them
    #[arg(long, value_enum, value_name = "SOURCE", value_delimiter = ',', default_value = "ptrace")]
    pub by: Vec<By>,
    /// Record each run, and demand that a replay of it says the same
    #[arg(long)]
    pub replay: bool,
}

/// How many runs came out how; each way of running a case counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckOutcome {
    /// As expected.
    pub passed: usize,
    /// Otherwise.
    pub failed: usize,
}

impl CheckOutcome {
    /// Whether every run came out as expected.
    pub fn is_success(self) -> bool {
        self.failed == 0
    }
}

/// Runs the cases and writes a table of the results to stdout, then what failed.
///
/// # Errors
/// A [`ManifestError`](super::manifest::ManifestError) is wrong usage; any other is trouble of vmtrace's own, or the
/// user's interruption. A case that fails is no error but part of the outcome.
pub fn run(args: &CheckArgs) -> anyhow::Result<CheckOutcome> {
    let manifest = Manifest::read(&args.manifest)?;
    let runs = runs(&manifest.select(&args.names)?, &args.by);
    let runner = Runner {
        vmtrace: std::env::current_exe().context("vmtrace cannot find its own executable")?,
        folder: &manifest.folder,
        scratch: Scratch::new().context("no folder for reports can be made in the temporary directory")?,
        interrupt: Interrupt::catch()?,
        builds: Default::default(),
        replay: args.replay,
    };
    run_all(&runner, &runs, args.jobs, &mut io::stdout().lock())
}

/// All that is to be run: each case by each source that can show it, in each of its modes.
fn runs(cases: &[&Case], by: &[By]) -> Vec<(Case, Way)> {
    let mut runs = Vec::new();
    for case in cases {
        for by in by.iter().copied() {
            let modes = case.modes.iter().filter(|mode| by != By::StraceLog || **mode == Mode::Launch);
            runs.extend(modes.filter_map(|mode| Some((case.by(by)?, Way { mode: *mode, by }))));
        }
    }
    runs
}

/// Runs all, `jobs` at a time, and writes each result as soon as those before it are written.
fn run_all(
    runner: &Runner<'_>,
    runs: &[(Case, Way)],
    jobs: NonZeroUsize,
    out: &mut dyn Write,
) -> anyhow::Result<CheckOutcome> {
    let table = Table::new(runs);
    table.head(out)?;
    let (next, (sender, results)) = (AtomicUsize::new(0), mpsc::channel());
    let outcomes = thread::scope(|scope| {
        for worker in 0..jobs.get().min(runs.len()) {
            let (sender, next) = (sender.clone(), &next);
            let work = move || {
                while let Some((number, (case, way))) = numbered(runs, next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more after an error.
                    if sender.send((number, runner.run(case, *way))).is_err() {
                        break;
                    }
                }
            };
            match thread::Builder::new().spawn_scoped(scope, work) {
                Err(error) if worker == 0 => return Err(no_thread(error)),
                // Fewer do it too.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(sender);
        let outcomes = table.rows(&results, out);
        // Those still at work must not begin another run.
        next.store(runs.len(), Ordering::Relaxed);
        drop(results);
        outcomes
    })?;
    for ((case, way), outcome) in runs.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.problems.is_empty()) {
        failure(out, case, *way, outcome)?;
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).count();
    let passed = outcomes.len() - failed;
    writeln!(out, "\n{passed} passed, {failed} failed")?;
    Ok(CheckOutcome { passed, failed })
}

fn numbered(runs: &[(Case, Way)], number: usize) -> Option<(usize, &(Case, Way))> {
    runs.get(number).map(|run| (number, run))
}

/// A line per run.
struct Table<'a> {
    runs: &'a [(Case, Way)],
    /// Columns of the longest name.
    name: usize,
    /// Columns of the longest way.
    way: usize,
}

impl<'a> Table<'a> {
    fn new(runs: &'a [(Case, Way)]) -> Table<'a> {
        let names = runs.iter().map(|(case, _)| width(&printable(&case.name, NAME)));
        let ways = runs.iter().map(|(_, way)| way.name().len());
        let name = names.max().unwrap_or(0).max("case".len());
        Table { runs, name, way: ways.max().unwrap_or(0).max("launch".len()) }
    }

    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        let Table { name, way, .. } = self;
        writeln!(out, "{:name$}  {:way$}  verdict  findings        time", "case", "mode")
    }

    /// Writes the rows in order, whatever the order in which the results arrive.
    fn rows(
        &self,
        results: &mpsc::Receiver<(usize, Result<Outcome, Stopped>)>,
        out: &mut dyn Write,
    ) -> anyhow::Result<Vec<Outcome>> {
        let mut early: Vec<Option<Outcome>> = self.runs.iter().map(|_| None).collect();
        let mut outcomes = Vec::with_capacity(self.runs.len());
        for (number, result) in results {
            early[number] = Some(result?);
            while let Some(outcome) = early.get_mut(outcomes.len()).and_then(Option::take) {
                self.row(out, outcomes.len(), &outcome)?;
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }

    fn row(&self, out: &mut dyn Write, number: usize, outcome: &Outcome) -> io::Result<()> {
        let (case, way) = &self.runs[number];
        let name = printable(&case.name, NAME);
        let gap = " ".repeat(self.name - width(&name));
        let verdict = if outcome.problems.is_empty() { "ok" } else { "FAIL" };
        let findings = outcome.findings.map_or("-".to_owned(), |findings| findings.to_string());
        let took = duration(outcome.took);
        writeln!(out, "{name}{gap}  {:way$}  {verdict:7}  {findings:>8}  {took:>10}", way.name(), way = self.way)?;
        out.flush()
    }
}

/// What is wrong with a run, and what it wrote.
fn failure(out: &mut dyn Write, case: &Case, way: Way, outcome: &Outcome) -> io::Result<()> {
    writeln!(out, "\nFAIL  {} ({})", printable(&case.name, NAME), way.name())?;
    for problem in &outcome.problems {
        for (number, line) in wrap(&printable(problem, 10 * COLUMNS), COLUMNS - 6).iter().enumerate() {
            writeln!(out, "{}{line}", if number == 0 { "  " } else { "      " })?;
        }
    }
    if !outcome.output.is_empty() {
        writeln!(out, "  the last that was written:")?;
        for line in &outcome.output {
            writeln!(out, "    | {}", printable(line, COLUMNS - 6))?;
        }
    }
    Ok(())
}
