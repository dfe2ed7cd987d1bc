//! The manifest of `vmtrace check`: which programs to run, and what must be found in each.
//!
//! ```toml
//! [[case]]
//! name = "unjoined"                        # each name once
//! build = "cc -g -pthread -o leak leak.c"  # optional; a string for sh, or a list of arguments
//! run = "./leak 15"                        # split at blanks, or a list of arguments
//! timeout = "20s"                          # as of --for, or a whole number of seconds; 60s without
//! modes = ["launch", "attach"]             # launch without
//! options = "--min-confidence possible"    # for vmtrace
//! exit = 0                                 # a status (128 + N for signal N), or a name such as "SIGTERM"; 0 without
//! verify = true                            # compare with the kernel at every change, and demand no difference;
//!                                          # at every hundredth and at the end: verify = 100
//! expect = [                               # exactly these findings; none without
//!   { reason = "unjoined", regions = 15, resident_bytes = { min = 4096 }, thread_function = { symbol = "job" } },
//! ]
//! notes = [{ kind = "stack-cache" }]       # each must be among the report's notes
//!
//! [by.strace-log]                          # what no log shows, of any case
//! without = ["site", "thread_function"]
//!
//! [case.by.threads]                        # where another source of events (check --by) shows something else
//! differ = { confidence = "probable" }     # in each finding
//! without = ["mapped_site"]                # not demanded of any finding
//! # expect = []                            # or all of it anew; so do notes and verify
//! # cannot = "strace does not follow it"   # or: why the case is left out there
//! ```
//!
//! All paths are relative to the manifest's folder. `expect` and `notes` hold any part of what the JSON report says.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use crate::report::layout::printable;

/// Larger files are no manifests, in bytes.
const LARGEST: u64 = 16 << 20;

/// What a case may take without a `timeout` of its own.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A manifest that has been read and understood.
#[derive(Debug)]
pub struct Manifest {
    /// Where cases are built and run.
    pub folder: PathBuf,
    /// The cases, in order; never empty.
    pub cases: Vec<Case>,
}

/// A program to run, and what must be found.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique.
    pub name: String,
    /// What builds it: a program and its arguments.
    pub build: Option<Vec<String>>,
    /// What runs it: a program and its arguments.
    pub run: Vec<String>,
    /// How long a run may take.
    pub timeout: Duration,
    /// The findings that must appear, and no other: parts of the JSON report's.
    pub expect: Vec<Map<String, Value>>,
    /// Notes that must appear, among others.
    pub notes: Vec<Map<String, Value>>,
    /// Ways to run it.
    pub modes: Vec<Mode>,
    /// How the program must end; none for status 0, if its end is seen at all.
    pub exit: Option<ExpectedExit>,
    /// Options for vmtrace.
    pub options: Vec<String>,
    /// At every how many changes the model is compared with the kernel, and at the end.
    pub verify: Option<NonZeroU64>,
    /// Where sources show something else.
    by: BTreeMap<By, Shown>,
}

impl Case {
    /// The case as this source is to show it; none where it cannot.
    pub fn by(&self, by: By) -> Option<Case> {
        let mut case = self.clone();
        // Only ptrace can hold a program still at every change, and at its end.
        case.verify = case.verify.filter(|_| by == By::Ptrace);
        let Some(shown) = self.by.get(&by) else { return Some(case) };
        if shown.cannot.is_some() {
            return None;
        }
        case.expect = shown.expect.clone().unwrap_or(case.expect);
        for finding in &mut case.expect {
            finding.retain(|key, _| !shown.without.contains(key));
            finding.extend(shown.differ.clone());
        }
        case.notes = shown.notes.clone().unwrap_or(case.notes);
        case.verify = shown.verify.map_or(case.verify, |Verify(every)| every);
        Some(case)
    }
}

/// What a source shows of a case, where that is something else.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    cannot: Option<String>,
    expect: Option<Vec<Map<String, Value>>>,
    #[serde(default)]
    differ: Map<String, Value>,
    #[serde(default)]
    without: Vec<String>,
    notes: Option<Vec<Map<String, Value>>>,
    verify: Option<Verify>,
}

/// What a source does not show of any case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct General {
    without: Vec<String>,
}

/// Where the events of a run come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// ptrace(2), all mapping calls
    Ptrace,
    /// perf events
    Perf,
    /// ptrace(2), thread lifecycles alone: --follow threads
    Threads,
    /// A log of strace(1), made for this
    StraceLog,
}

impl By {
    /// As it is written in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            By::Ptrace => "ptrace",
            By::Perf => "perf",
            By::Threads => "threads",
            By::StraceLog => "strace-log",
        }
    }
}

/// One way to run a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// How its program is brought under vmtrace.
    pub mode: Mode,
    /// Where the events come from.
    pub by: By,
}

impl Way {
    /// As it stands in the table.
    pub fn name(self) -> String {
        match self.by {
            By::Ptrace => self.mode.name().to_owned(),
            by => format!("{} {}", self.mode.name(), by.name()),
        }
    }
}

/// How a case's program is brought under vmtrace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// vmtrace starts it.
    Launch,
    /// It is started and held before its first instruction until vmtrace has attached.
    Attach,
}

impl Mode {
    /// As it is written in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Launch => "launch",
            Mode::Attach => "attach",
        }
    }
}

/// How a program is to end.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged, expecting = "expected an exit status such as 0, or a signal's name such as \"SIGTERM\"")]
pub enum ExpectedExit {
    /// With this status, or 128 + N for signal N.
    Status(i32),
    /// Killed by this signal.
    Signal(String),
}

/// Why a manifest cannot be used. One line, for people.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    Unreadable {
        /// The manifest.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// What stands there is not understood.
    #[error("{path}:{line}: {message}", path = .path.display())]
    Wrong {
        /// The manifest.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// There is nothing to run.
    #[error("{path}: no [[case]] in it", path = .path.display())]
    Empty {
        /// The manifest.
        path: PathBuf,
    },
    /// A case was asked for that does not exist.
    #[error("no case is named {name}; there are: {known}")]
    NoSuchCase {
        /// The name that was asked for.
        name: String,
        /// The names of all cases.
        known: String,
    },
}

impl Manifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// It cannot be read, or not be understood.
    pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
        let unreadable = |error| ManifestError::Unreadable { path: path.to_owned(), error };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        if file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)? as u64 > LARGEST {
            return Err(unreadable(std::io::Error::other("too large for a manifest")));
        }
        let path_of_folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = path_of_folder.unwrap_or(Path::new(".")).canonicalize().map_err(unreadable)?;
        Manifest::parse(&text, path, folder)
    }

    /// Understands `text`, which stands in `path`.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str, path: &Path, folder: PathBuf) -> Result<Manifest, ManifestError> {
        let wrong = |start: usize, message: String| {
            let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
            ManifestError::Wrong { path: path.to_owned(), line, message: printable(&message, 400) }
        };
        let file: RawManifest = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            wrong(start, error.message().replace('\n', "; "))
        })?;
        if file.case.is_empty() {
            return Err(ManifestError::Empty { path: path.to_owned() });
        }
        let mut names = HashSet::new();
        let mut cases = Vec::with_capacity(file.case.len());
        for raw in file.case {
            let start = raw.span().start;
            let mut case = raw.into_inner().understood().map_err(|message| wrong(start, message))?;
            for (by, general) in &file.by {
                case.by.entry(*by).or_default().without.extend(general.without.iter().cloned());
            }
            if !names.insert(case.name.clone()) {
                return Err(wrong(start, format!("a second case is named {}; names must differ", case.name)));
            }
            cases.push(case);
        }
        Ok(Manifest { folder, cases })
    }

    /// The cases of these names, in the manifest's order; all of them without a name.
    ///
    /// # Errors
    /// A name that no case has.
    pub fn select(&self, names: &[String]) -> Result<Vec<&Case>, ManifestError> {
        if let Some(name) = names.iter().find(|name| !self.cases.iter().any(|case| case.name == **name)) {
            let known: Vec<&str> = self.cases.iter().map(|case| case.name.as_str()).collect();
            return Err(ManifestError::NoSuchCase { name: name.clone(), known: known.join(", ") });
        }
        Ok(self.cases.iter().filter(|case| names.is_empty() || names.contains(&case.name)).collect())
    }
}

/// Any bytes as a manifest, for fuzzing: read, or refused with one line that a terminal can be sent.
pub fn digest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Manifest::parse(text, Path::new("cases.toml"), PathBuf::new()) {
        Ok(manifest) => {
            for by in [By::Ptrace, By::Perf, By::Threads, By::StraceLog] {
                let _ = manifest.cases.iter().filter_map(|case| case.by(by)).count();
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    /// What sources show otherwise of all cases.
    #[serde(default)]
    by: BTreeMap<By, General>,
    #[serde(default, alias = "cases", alias = "test", alias = "tests")]
    case: Vec<Spanned<RawCase>>,
}

/// A case as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    build: Option<Command>,
    #[serde(alias = "command")]
    run: Command,
    #[serde(default)]
    timeout: Timeout,
    #[serde(default, alias = "expected", alias = "findings")]
    expect: Vec<Map<String, Value>>,
    #[serde(default)]
    notes: Vec<Map<String, Value>>,
    modes: Option<Vec<Mode>>,
    exit: Option<ExpectedExit>,
    options: Option<Command>,
    verify: Option<Verify>,
    #[serde(default)]
    by: BTreeMap<By, Shown>,
}

impl RawCase {
    fn understood(self) -> Result<Case, String> {
        let name = self.name;
        let run = self.run.arguments();
        if name.trim().is_empty() {
            return Err("a case needs a name".to_owned());
        }
        if run.is_empty() {
            return Err(format!("{name}: run is empty; it must say what to execute"));
        }
        let mut modes = self.modes.unwrap_or_else(|| vec![Mode::Launch]);
        modes.dedup();
        if modes.is_empty() {
            return Err(format!("{name}: modes is empty; it may hold \"launch\" and \"attach\""));
        }
        let build = self.build.map(|build| match build {
            Command::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line],
            Command::Arguments(arguments) => arguments,
        });
        Ok(Case {
            name,
            build: build.filter(|build| !build.is_empty()),
            run,
            timeout: self.timeout.0,
            expect: self.expect,
            notes: self.notes,
            modes,
            exit: self.exit,
            options: self.options.map(Command::arguments).unwrap_or_default(),
            verify: self.verify.map_or(Some(NonZeroU64::MIN), |Verify(every)| every),
            by: self.by,
        })
    }
}

/// A command: a line of text, or a list of arguments.
enum Command {
    Line(String),
    Arguments(Vec<String>),
}

impl Command {
    /// A line is split at blanks; whoever needs more writes a list.
    fn arguments(self) -> Vec<String> {
        match self {
            Command::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
            Command::Arguments(arguments) => arguments,
        }
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CommandVisitor;
        impl<'de> Visitor<'de> for CommandVisitor {
            type Value = Command;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command line or a list of arguments")
            }
            fn visit_str<E: de::Error>(self, line: &str) -> Result<Command, E> {
                Ok(Command::Line(line.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Command, A::Error> {
                let mut arguments = Vec::new();
                while let Some(argument) = list.next_element()? {
                    arguments.push(argument);
                }
                Ok(Command::Arguments(arguments))
            }
        }
        deserializer.deserialize_any(CommandVisitor)
    }
}

/// At every how many changes the model is to be compared with the kernel; none for never.
#[derive(Clone, Copy, Debug)]
struct Verify(Option<NonZeroU64>);

impl<'de> Deserialize<'de> for Verify {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VerifyVisitor;
        impl Visitor<'_> for VerifyVisitor {
            type Value = Verify;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or at every how many changes")
            }
            fn visit_bool<E: de::Error>(self, always: bool) -> Result<Verify, E> {
                Ok(Verify(always.then_some(NonZeroU64::MIN)))
            }
            fn visit_i64<E: de::Error>(self, every: i64) -> Result<Verify, E> {
                let positive = u64::try_from(every).ok().and_then(NonZeroU64::new);
                let every = positive.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(every), &self))?;
                Ok(Verify(Some(every)))
            }
        }
        deserializer.deserialize_any(VerifyVisitor)
    }
}

/// How long a run may take.
struct Timeout(Duration);

impl Default for Timeout {
    fn default() -> Self {
        Timeout(TIMEOUT)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeoutVisitor;
        impl Visitor<'_> for TimeoutVisitor {
            type Value = Timeout;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"500ms\", \"20s\", \"2m\" or \"1h\", or a number of seconds")
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Timeout, E> {
                let positive = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
                let seconds = positive.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(seconds), &self))?;
                Ok(Timeout(Duration::from_secs(seconds)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timeout, E> {
                super::duration::parse(text).map(Timeout).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TimeoutVisitor)
    }
}

#[cfg(test)]
mod tests;
