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
use super::manifest::{Case, Manifest, Mode};
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
}

/// How many runs came out how; a case that is launched and attached to counts twice.
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
    let runs: Vec<(&Case, Mode)> = manifest
        .select(&args.names)?
        .into_iter()
        .flat_map(|case| case.modes.iter().map(move |mode| (case, *mode)))
        .collect();
    let runner = Runner {
        vmtrace: std::env::current_exe().context("vmtrace cannot find its own executable")?,
        folder: &manifest.folder,
        scratch: Scratch::new().context("no folder for reports can be made in the temporary directory")?,
        interrupt: Interrupt::catch()?,
        builds: Default::default(),
    };
    run_all(&runner, &runs, args.jobs, &mut io::stdout().lock())
}

/// Runs all, `jobs` at a time, and writes each result as soon as those before it are written.
fn run_all(
    runner: &Runner<'_>,
    runs: &[(&Case, Mode)],
    jobs: NonZeroUsize,
    out: &mut dyn Write,
) -> anyhow::Result<CheckOutcome> {
    let table = Table::new(runs);
    table.head(out)?;
    let (next, (sender, results)) = (AtomicUsize::new(0), mpsc::channel());
    let outcomes = thread::scope(|scope| {
        for _ in 0..jobs.get().min(runs.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some((number, (case, mode))) = numbered(runs, next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more after an error.
                    if sender.send((number, runner.run(case, mode))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let outcomes = table.rows(&results, out);
        // Those still at work must not begin another run.
        next.store(runs.len(), Ordering::Relaxed);
        drop(results);
        outcomes
    })?;
    for ((case, mode), outcome) in runs.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.problems.is_empty()) {
        failure(out, case, *mode, outcome)?;
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).count();
    let passed = outcomes.len() - failed;
    writeln!(out, "\n{passed} passed, {failed} failed")?;
    Ok(CheckOutcome { passed, failed })
}

fn numbered<'a>(runs: &[(&'a Case, Mode)], number: usize) -> Option<(usize, (&'a Case, Mode))> {
    runs.get(number).map(|run| (number, *run))
}

/// A line per run.
struct Table<'a> {
    runs: &'a [(&'a Case, Mode)],
    /// Columns of the longest name.
    name: usize,
}

impl<'a> Table<'a> {
    fn new(runs: &'a [(&'a Case, Mode)]) -> Table<'a> {
        let names = runs.iter().map(|(case, _)| width(&printable(&case.name, NAME)));
        Table { runs, name: names.max().unwrap_or(0).max("case".len()) }
    }

    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:name$}  mode    verdict  findings        time", "case", name = self.name)
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
        let (case, mode) = self.runs[number];
        let name = printable(&case.name, NAME);
        let gap = " ".repeat(self.name - width(&name));
        let verdict = if outcome.problems.is_empty() { "ok" } else { "FAIL" };
        let findings = outcome.findings.map_or("-".to_owned(), |findings| findings.to_string());
        let took = duration(outcome.took);
        writeln!(out, "{name}{gap}  {:6}  {verdict:7}  {findings:>8}  {took:>10}", mode.name())?;
        out.flush()
    }
}

/// What is wrong with a run, and what it wrote.
fn failure(out: &mut dyn Write, case: &Case, mode: Mode, outcome: &Outcome) -> io::Result<()> {
    writeln!(out, "\nFAIL  {} ({})", printable(&case.name, NAME), mode.name())?;
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
