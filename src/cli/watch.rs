//! What a person sees while a program is followed: the status line, warnings, and reports.
//!
//! Reports are named and written by a thread of their own, so that neither a large program's debug information nor a
//! slow reader keeps the follower, and with it the target, waiting.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::output::Output;
use crate::follow::{Observer, Status};
use crate::report::Report;
use crate::report::draft::Draft;
use crate::report::words::{count, counted, duration};
use crate::source::recording::format::Named;
use crate::symbols::names::Names;

/// How often the status line is renewed.
pub const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Reports, the status line and warnings, in each other's way as little as possible.
#[derive(Debug)]
pub struct Watch {
    writer: Writer,
    /// Held by whoever writes a report.
    writing: Arc<Mutex<()>>,
    /// Whether a status line stands on the terminal now.
    shown: bool,
}

/// Who writes reports.
#[derive(Debug)]
enum Writer {
    /// A thread that does nothing else.
    Thread(SyncSender<Job>),
    /// We ourselves, where no thread can be had: the limit that the target has met may be ours, too.
    Here(Box<Desk>),
}

/// What it takes to write reports.
#[derive(Debug)]
struct Desk {
    names: Names,
    output: Output,
}

impl Desk {
    fn new(output: Output) -> Desk {
        Desk { names: Names::default(), output }
    }

    fn write(&mut self, draft: Draft) -> Written {
        let known = draft.places.names(&draft.report.findings, &mut self.names);
        let report = draft.named(&mut self.names);
        let result = self.output.write(&report);
        Written { report, names: known, result }
    }
}

/// What has become of a report.
#[derive(Debug)]
struct Written {
    report: Report,
    names: Vec<Named>,
    result: Result<(), anyhow::Error>,
}

/// A report to be written.
#[derive(Debug)]
struct Job {
    draft: Draft,
    /// Where to say what has become of it.
    done: Option<Sender<Written>>,
}

impl Watch {
    /// Writes reports to `output`. To be made when this process is not going to fork any more.
    pub fn new(output: Output) -> Watch {
        // One that waits while another is being written.
        let (writer, jobs) = sync_channel(1);
        let writing = Arc::new(Mutex::new(()));
        let (shared, output_of_thread) = (Arc::clone(&writing), output.clone());
        let started = thread::Builder::new().spawn(move || write_all(&jobs, output_of_thread, &shared));
        let writer = match started {
            Ok(_) => Writer::Thread(writer),
            Err(_) => Writer::Here(Box::new(Desk::new(output))),
        };
        Watch { writer, writing, shown: false }
    }

    /// Whether there is a terminal to show a status line on, and nobody else writes to it.
    pub fn wants_status(launched: bool) -> bool {
        io::stderr().is_terminal() && !(launched && io::stdout().is_terminal())
    }

    /// Writes the last report, and waits until that is done; gives it back with its names, and these for themselves.
    ///
    /// # Errors
    /// Where it could not be written.
    pub fn write(&mut self, draft: Draft) -> Result<(Report, Vec<Named>), anyhow::Error> {
        self.clear();
        let Written { report, names, result } = match &mut self.writer {
            Writer::Here(desk) => desk.write(draft),
            Writer::Thread(writer) => {
                let (done, result) = channel();
                let lost = || anyhow::anyhow!("the report could not be written: its writer has failed");
                writer.send(Job { draft, done: Some(done) }).map_err(|_| lost())?;
                result.recv().map_err(|_| lost())?
            }
        };
        result.map(|()| (report, names))
    }

    /// Takes the status line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            // A terminal that has gone away does not stop us.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Names and writes one report after the other.
fn write_all(jobs: &Receiver<Job>, output: Output, writing: &Mutex<()>) {
    let mut desk = Desk::new(output);
    for job in jobs {
        let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = desk.write(job.draft);
        match job.done {
            // Nobody waits any more: then nobody is to be told.
            Some(done) => drop(done.send(written)),
            None => written.result.unwrap_or_else(|error| warn(&error.to_string())),
        }
    }
}

fn warn(line: &str) {
    super::complain(line);
}

impl Observer for Watch {
    fn report(&mut self, draft: Draft) {
        self.clear();
        match &mut self.writer {
            Writer::Here(desk) => desk.write(draft).result.unwrap_or_else(|error| warn(&error.to_string())),
            Writer::Thread(writer) => {
                if let Err(TrySendError::Full(_)) = writer.try_send(Job { draft, done: None }) {
                    warn("a report is left out: those before it are still being written, or nobody reads them");
                }
            }
        }
    }

    fn status(&mut self, status: &Status) {
        // Never in the middle of a report, and never waiting for a terminal that stands still.
        let Ok(_nobody_writes) = self.writing.try_lock() else { return };
        let mut line = format!(
            "vmtrace: {}, {}, {} events, {} mappings, {} so far",
            duration(Duration::from_secs(status.followed.as_secs())),
            counted(status.threads as u64, "thread"),
            count(status.events),
            count(status.mappings as u64),
            counted(status.findings as u64, "finding"),
        );
        if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(io::stderr()) {
            line.truncate(usize::from(width).saturating_sub(1));
        }
        self.shown = true;
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    fn warn(&mut self, line: &str) {
        self.clear();
        warn(line);
    }
}
