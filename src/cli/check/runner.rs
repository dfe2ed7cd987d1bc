//! Runs one case once: builds it, runs vmtrace over it, judges the report.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::compare::{Failure, judge, matches};
use super::process::{Group, Interrupt, Output, Scratch, Stopped, Watch};
use crate::cli::manifest::{By, Case, ExpectedExit, Mode, Way};
use crate::report::notation::signal_name;
use crate::report::words::duration;
use crate::threadlib::Unavailable;

/// What a build may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);

/// Between the kernel's word that vmtrace traces the leader and the moment that the program goes on: vmtrace is still
/// looking for more threads then.
const SETTLE: Duration = Duration::from_millis(100);

/// By perf events nobody waits for vmtrace: where the report of a run that failed says itself that records were lost, or that
/// vmtrace came too late for a process, the case is run again, so often at most in all.
const MOST_RUNS: usize = 3;

/// What came of one run of a case.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What is wrong, a line each; empty when the case has passed.
    pub problems: Vec<String>,
    /// How many findings the report has, if there is one.
    pub findings: Option<usize>,
    /// The end of what the program and vmtrace wrote, where something is wrong.
    pub output: Vec<String>,
    /// How long it ran, without the build.
    pub took: Duration,
    /// The report says that vmtrace has missed something for which nobody waits.
    late: bool,
}

/// What all runs have in common.
pub(super) struct Runner<'a> {
    /// The program to run cases with.
    pub vmtrace: PathBuf,
    /// The manifest's folder.
    pub folder: &'a Path,
    /// Where reports and outputs go.
    pub scratch: Scratch,
    /// What ends it all early.
    pub interrupt: Interrupt,
    /// What was built, and what came of it. One build at a time: they may share files.
    pub builds: Mutex<HashMap<Vec<String>, Outcome>>,
    /// Whether each run is recorded, and a replay must say the same.
    pub replay: bool,
}

impl Runner<'_> {
    /// Builds and runs a case. An error means that no more should be run.
    pub fn run(&self, case: &Case, way: Way) -> Result<Outcome, Stopped> {
        if let Some(failed) = case.build.as_ref().map(|build| self.build(build)).transpose()?.flatten() {
            return Ok(failed);
        }
        let mut outcome = self.run_once(case, way)?;
        for _ in 1..MOST_RUNS {
            if way.by != By::Perf || !outcome.late || outcome.problems.is_empty() {
                break;
            }
            outcome = self.run_once(case, way)?;
        }
        Ok(outcome)
    }

    fn run_once(&self, case: &Case, way: Way) -> Result<Outcome, Stopped> {
        let started = Instant::now();
        let output = self.scratch.output()?;
        let watch = Watch::new(case.timeout, &self.interrupt);
        let recorded = self.replay && way.by != By::StraceLog;
        let run = Run {
            case,
            by: way.by,
            report: self.scratch.path("json"),
            recording: recorded.then(|| self.scratch.path("recording")),
            output: &output,
            watch: &watch,
        };
        let ran = match way {
            Way { by: By::StraceLog, .. } => self.log(&run),
            Way { mode: Mode::Launch, .. } => self.launch(&run),
            Way { mode: Mode::Attach, .. } => self.attach(&run),
        };
        let ran = ran.and_then(|ended| Ok((ended, self.replayed(&run)?)));
        let mut outcome = match ran {
            Ok((ended, differs)) => {
                let mut outcome = judged(case, &run.report, &ended);
                outcome.problems.extend(differs);
                outcome
            }
            Err(Trouble::Stopped(Stopped::TimedOut)) => {
                problem(format!("did not end within {}", duration(case.timeout)))
            }
            Err(Trouble::Stopped(stopped @ Stopped::Interrupted)) => return Err(stopped),
            Err(Trouble::Stopped(Stopped::Failed(error))) => problem(format!("could not be run: {error}")),
            Err(Trouble::Told(text)) => problem(text),
        };
        outcome.took = started.elapsed();
        if !outcome.problems.is_empty() {
            outcome.output = output.tail();
        }
        Ok(outcome)
    }

    /// Builds, once for all cases that say the same; none when it has succeeded.
    fn build(&self, command: &[String]) -> Result<Option<Outcome>, Stopped> {
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        if !builds.contains_key(command) {
            let outcome = self.build_now(command)?;
            builds.insert(command.to_vec(), outcome);
        }
        Ok(builds.get(command).filter(|outcome| !outcome.problems.is_empty()).map(|outcome| Outcome {
            problems: outcome.problems.clone(),
            output: outcome.output.clone(),
            ..Outcome::default()
        }))
    }

    fn build_now(&self, command: &[String]) -> Result<Outcome, Stopped> {
        let output = self.scratch.output()?;
        let watch = Watch::new(BUILD_TIMEOUT, &self.interrupt);
        let built = Group::start(command, self.folder, &output.file, self.interrupt.before).map_err(Stopped::from);
        let mut outcome = match built.and_then(|mut group| group.wait(&watch)) {
            Ok(status) if status.success() => return Ok(Outcome::default()),
            Ok(status) => problem(format!("build failed ({status}): {}", command.join(" "))),
            Err(Stopped::Interrupted) => return Err(Stopped::Interrupted),
            Err(stopped) => problem(format!("build failed ({stopped}): {}", command.join(" "))),
        };
        outcome.output = output.tail();
        Ok(outcome)
    }

    /// vmtrace starts the program. Gives how vmtrace ended, for people.
    fn launch(&self, run: &Run<'_>) -> Result<String, Trouble> {
        let mut arguments = self.vmtrace(run);
        arguments.push("--".to_owned());
        arguments.extend_from_slice(&run.case.run);
        self.finish(run, &arguments)
    }

    /// strace starts the program, and vmtrace replays its log.
    fn log(&self, run: &Run<'_>) -> Result<String, Trouble> {
        let log = text(&self.scratch.path("strace"));
        let mut arguments = ["strace", "-f", "-ttt", "-o", &log, "--"].map(str::to_owned).to_vec();
        arguments.extend_from_slice(&run.case.run);
        self.finish(run, &arguments)?;
        self.finish(run, &self.replay(run, &log, &run.report))
    }

    /// What a replay says otherwise than the run that it is a replay of.
    fn replayed(&self, run: &Run<'_>) -> Result<Option<String>, Trouble> {
        let Some(recording) = &run.recording else { return Ok(None) };
        let report = self.scratch.path("json");
        let ended = self.finish(run, &self.replay(run, &text(recording), &report))?;
        let contents = |path: &Path| {
            let mut value: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
            let target = value["target"].as_object_mut()?;
            target.retain(|key, _| !["mode", "engine"].contains(&key.as_str()));
            Some(value)
        };
        Ok(match (contents(&run.report), contents(&report)) {
            (Some(followed), Some(replayed)) if followed == replayed => None,
            (Some(_), Some(_)) => Some("the replay of its recording says something else".to_owned()),
            (Some(_), None) => Some(format!("the replay of its recording gave no report ({ended})")),
            (None, _) => None,
        })
    }

    /// The program stops itself before it executes anything of its own, and goes on when vmtrace follows it.
    fn attach(&self, run: &Run<'_>) -> Result<String, Trouble> {
        let held = ["sh", "-c", r#"kill -STOP $$; exec "$@""#, "sh"].into_iter().map(str::to_owned);
        let held: Vec<String> = held.chain(run.case.run.iter().cloned()).collect();
        let program = Group::start(&held, self.folder, &run.output.file, self.interrupt.before)?;
        let pid = program.pid();
        while !is_stopped(pid) {
            if program.has_ended()? {
                return Err(Trouble::Told("the program ended before it was held".to_owned()));
            }
            run.watch.pause()?;
        }
        let mut arguments = self.vmtrace(run);
        arguments.extend(["-p".to_owned(), pid.to_string()]);
        let mut vmtrace = Group::start(&arguments, self.folder, &run.output.file, self.interrupt.before)?;
        while !follows(&vmtrace, pid, &run.report) {
            if vmtrace.has_ended()? {
                let status = vmtrace.finish()?;
                return Err(Trouble::Told(format!("vmtrace ended before it had attached ({status})")));
            }
            run.watch.pause()?;
        }
        std::thread::sleep(SETTLE);
        // What a report in between has said is no longer of interest.
        let _ = fs::remove_file(&run.report);
        kill(pid, Signal::SIGCONT).map_err(std::io::Error::from)?;
        // vmtrace ends with the program, or before it where the options say so; then the program is of no more use.
        Ok(vmtrace.wait(run.watch)?.to_string())
    }

    /// Runs a command to its end; gives how it ended, for people.
    fn finish(&self, run: &Run<'_>, arguments: &[String]) -> Result<String, Trouble> {
        let mut group = Group::start(arguments, self.folder, &run.output.file, self.interrupt.before)?;
        Ok(group.wait(run.watch)?.to_string())
    }

    /// vmtrace and the options of every run.
    fn vmtrace(&self, run: &Run<'_>) -> Vec<String> {
        let mut arguments = vec![text(&self.vmtrace), "--format".to_owned(), "json".to_owned()];
        arguments.extend(["-o".to_owned(), text(&run.report)]);
        arguments.extend(match run.by {
            By::Ptrace => Some("--engine=ptrace".to_owned()),
            By::Perf => Some("--engine=perf".to_owned()),
            By::Threads => Some("--follow=threads".to_owned()),
            By::StraceLog => None,
        });
        arguments.extend(run.case.verify.map(|every| format!("--verify={every}")));
        arguments.extend(run.recording.iter().map(|path| format!("--record={}", text(path))));
        arguments.extend_from_slice(&run.case.options);
        arguments
    }

    /// vmtrace, to replay a file with those of the case's options that are about the report.
    fn replay(&self, run: &Run<'_>, file: &str, report: &Path) -> Vec<String> {
        let mut arguments = vec![text(&self.vmtrace), "replay".to_owned(), file.to_owned()];
        arguments.extend(["--format".to_owned(), "json".to_owned(), "-o".to_owned(), text(report)]);
        let level = run.case.options.iter().position(|option| option == "--min-confidence");
        arguments.extend(level.into_iter().flat_map(|at| run.case.options[at..].iter().take(2).cloned()));
        arguments
    }
}

/// One run of a case.
struct Run<'a> {
    case: &'a Case,
    by: By,
    /// Where the report goes.
    report: PathBuf,
    /// Where it is recorded to.
    recording: Option<PathBuf>,
    output: &'a Output,
    watch: &'a Watch<'a>,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Why a run gave nothing to judge.
enum Trouble {
    Stopped(Stopped),
    /// In words.
    Told(String),
}

impl<E: Into<Stopped>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Stopped(error.into())
    }
}

fn problem(text: String) -> Outcome {
    Outcome { problems: vec![text], ..Outcome::default() }
}

/// Compares the report with what the case expects.
fn judged(case: &Case, report: &Path, ended: &str) -> Outcome {
    let Ok(text) = fs::read_to_string(report) else {
        return problem(format!("vmtrace wrote no report ({ended})"));
    };
    let report: Value = match serde_json::from_str(&text) {
        Ok(report) => report,
        Err(error) => return problem(format!("the report is no JSON: {error}")),
    };
    let Some(findings) = report["findings"].as_array() else {
        return problem("the report has no findings array".to_owned());
    };
    let mut problems: Vec<String> = judge(&case.expect, findings).into_iter().flat_map(told).collect();
    problems.extend(missing_notes(case, &report["notes"]));
    problems.extend(wrong_end(case.exit.as_ref(), &report["target"]["exit"]));
    if case.verify.is_some() {
        problems.extend(unverified(&report["verify"]));
    }
    if !problems.is_empty() {
        problems.extend(incomplete(&report["notes"]).map(|text| format!("the report says: {text}")));
    }
    let gone = Unavailable::Gone.to_string();
    let late =
        report["counts"]["lost"].as_u64() > Some(0) || incomplete(&report["notes"]).any(|text| text.contains(&gone));
    Outcome { problems, findings: Some(findings.len()), late, ..Outcome::default() }
}

fn told(failure: Failure) -> Vec<String> {
    match failure {
        Failure::Differs(number, differences) => differences
            .into_iter()
            .map(|difference| {
                format!(
                    "finding {number}: {}: expected {}, found {}",
                    difference.path, difference.expected, difference.found
                )
            })
            .collect(),
        Failure::Missing(number, expected) => {
            vec![format!("finding {number}: expected {expected}, found none")]
        }
        Failure::Unexpected(found) => vec![format!("not expected: {found}")],
    }
}

fn missing_notes(case: &Case, found: &Value) -> Vec<String> {
    let found = found.as_array().map_or(&[][..], Vec::as_slice);
    let wanted = case.notes.iter().map(|note| Value::Object(note.clone()));
    let missing = wanted.filter(|note| !found.iter().any(|found| matches(note, found)));
    let kinds: Vec<&str> = found.iter().filter_map(|note| note["kind"].as_str()).collect();
    let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
    missing.map(|note| format!("note: expected {note}, found {kinds}")).collect()
}

/// What a report says that could not be seen.
fn incomplete(notes: &Value) -> impl Iterator<Item = &str> {
    let notes = notes.as_array().into_iter().flatten().filter(|note| note["kind"] == "incomplete");
    notes.filter_map(|note| note["text"].as_str())
}

/// Whether the program ended otherwise than it should. Where its end was not seen, only an `exit` demands one.
fn wrong_end(expected: Option<&ExpectedExit>, found: &Value) -> Option<String> {
    let wanted: Vec<Value> = match expected {
        None if found.is_null() => return None,
        None => vec![json!({"code": 0})],
        Some(ExpectedExit::Signal(name)) => vec![json!({"signal": name})],
        Some(ExpectedExit::Status(status @ 129..)) => {
            vec![json!({"code": status}), json!({"signal": signal_name(status - 128)})]
        }
        Some(ExpectedExit::Status(code)) => vec![json!({"code": code})],
    };
    if wanted.contains(found) { None } else { Some(format!("exit: expected {}, found {found}", wanted[0])) }
}

/// Whether the model differed from the kernel, or was never compared with it.
fn unverified(verify: &Value) -> Option<String> {
    let number = |key: &str| verify[key].as_u64();
    match (number("checks"), number("mismatches")) {
        (Some(1..), Some(0)) => None,
        (Some(checks @ 1..), Some(differed)) => {
            Some(format!("verify: the model differed from the kernel's maps in {differed} of {checks} comparisons"))
        }
        _ => Some("verify: the model was not compared with the kernel's maps".to_owned()),
    }
}

/// Whether the process is stopped: state T of proc_pid_stat(5), which stands behind the name in brackets.
fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Whether vmtrace follows the process: it is its tracer, or has perf events open and gives a report with a thread.
fn follows(vmtrace: &Group, pid: Pid, report: &Path) -> bool {
    if is_traced(pid) {
        return true;
    }
    let said = fs::read_to_string(report).unwrap_or_default();
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    if said["counts"]["threads_seen"].as_u64() > Some(0) {
        return true;
    }
    // Signals are collected before any event is opened.
    let opened = fs::read_dir(format!("/proc/{}/fd", vmtrace.pid())).into_iter().flatten().flatten();
    let is_perf = |path: PathBuf| path.as_os_str() == "anon_inode:[perf_event]";
    if opened.filter_map(|entry| fs::read_link(entry.path()).ok()).any(is_perf) {
        // It may have ended this moment.
        let _ = kill(vmtrace.pid(), Signal::SIGUSR1);
    }
    false
}

/// Whether the process has a tracer: see proc_pid_status(5).
fn is_traced(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

#[cfg(test)]
mod tests;
