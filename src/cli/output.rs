//! Where a report goes, and how it gets there whole.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{Colour, Format, ReportArgs};
use crate::report::text::Style;
use crate::report::{Report, json, text};

/// Which stream a report goes to when no file is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error, because standard output is the launched program's.
    Err,
}

/// Writes reports.
#[derive(Clone, Debug)]
pub struct Output {
    format: Format,
    colour: Colour,
    file: Option<PathBuf>,
    stream: Stream,
}

impl Output {
    /// As the arguments say.
    pub fn new(args: &ReportArgs, stream: Stream) -> Output {
        Output { format: args.format, colour: args.color, file: args.output.clone(), stream }
    }

    /// Fails early where the file could not be written later, so that no hour of following is lost.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn check(&self) -> Result<(), anyhow::Error> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let error = |error: io::Error| anyhow::anyhow!("cannot write to {}: {error}", path.display());
        if replaces(path) {
            let probe = temporary(path);
            File::create(&probe).map_err(error)?;
            fs::remove_file(&probe).map_err(error)
        } else {
            File::options().write(true).open(path).map(drop).map_err(error)
        }
    }

    /// Writes a report. A reader that has gone away is no error.
    ///
    /// # Errors
    /// The file could not be written; the report has then gone to standard error instead, for it may be all there is.
    pub fn write(&self, report: &Report) -> Result<(), anyhow::Error> {
        let result = match &self.file {
            None => self.write_stream(report),
            Some(path) if replaces(path) => self.replace(path, report),
            Some(path) => File::options().write(true).open(path).and_then(|mut file| self.render(report, &mut file)),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => {
                let place = self.file.as_deref().map_or("the output".into(), Path::to_string_lossy);
                // If this fails as well there is nowhere left to write to.
                let _ = self.render(report, &mut io::stderr().lock());
                Err(anyhow::anyhow!("cannot write the report to {place}: {error}; it is on standard error instead"))
            }
            Ok(()) => Ok(()),
        }
    }

    fn write_stream(&self, report: &Report) -> io::Result<()> {
        match self.stream {
            Stream::Out => self.render(report, &mut io::stdout().lock()),
            Stream::Err => self.render(report, &mut io::stderr().lock()),
        }
    }

    /// A half-written report never takes the place of a whole one.
    fn replace(&self, path: &Path, report: &Report) -> io::Result<()> {
        let temporary = temporary(path);
        let written = File::create(&temporary).and_then(|mut file| {
            self.render(report, &mut file)?;
            file.sync_data()
        });
        written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }

    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        // In one piece, so that reports and a program's own output do not mix within a line.
        let mut buffer = Vec::new();
        match self.format {
            Format::Text => text::write(report, &mut buffer, self.style())?,
            Format::Json => json::write(report, &mut buffer)?,
        }
        out.write_all(&buffer)?;
        out.flush()
    }

    fn style(&self) -> Style {
        let terminal = match (self.file.is_some(), self.stream) {
            (true, _) => false,
            (false, Stream::Out) => io::stdout().is_terminal(),
            (false, Stream::Err) => io::stderr().is_terminal(),
        };
        let coloured = match self.colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        if coloured { Style::Coloured } else { Style::Plain }
    }
}

/// Whether the file is to be replaced: a regular one, or none yet. Devices and pipes are written in place.
fn replaces(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
