//! What a person sees on standard error while a program is followed.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::output::Output;
use crate::follow::{Observer, Status};
use crate::report::Report;
use crate::report::words::{count, counted, duration};

/// How often the status line is renewed.
pub const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Reports, the status line and warnings, in each other's way as little as possible.
#[derive(Debug)]
pub struct Watch {
    output: Output,
    /// Whether a status line stands on the terminal now.
    shown: bool,
}

impl Watch {
    /// Writes reports to `output`.
    pub fn new(output: Output) -> Watch {
        Watch { output, shown: false }
    }

    /// Whether there is a terminal to show a status line on, and nobody else writes to it.
    pub fn wants_status(launched: bool) -> bool {
        io::stderr().is_terminal() && !(launched && io::stdout().is_terminal())
    }

    /// Writes the last report.
    ///
    /// # Errors
    /// Where it could not be written.
    pub fn write(&self, report: &Report) -> Result<(), anyhow::Error> {
        self.output.write(report)
    }

    /// Takes the status line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            // A terminal that has gone away does not stop us.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Observer for Watch {
    fn report(&mut self, report: &Report) {
        self.clear();
        if let Err(error) = self.output.write(report) {
            self.warn(&error.to_string());
        }
    }

    fn status(&mut self, status: &Status) {
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
        let _ = writeln!(io::stderr(), "vmtrace: {line}");
    }
}
