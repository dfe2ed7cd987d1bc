//! Where a report goes, and how it gets there whole.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::{Colour, Format, ReportArgs};
use crate::report::text::Style;
use crate::report::{Report, json, text};
use crate::source::control::while_writing;

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
    /// As the user calls it; none for a stream.
    name: Option<PathBuf>,
    place: Place,
}

/// Where reports go.
#[derive(Clone, Debug)]
enum Place {
    Stream(Stream),
    /// A regular file, or none yet, which each report takes the place of.
    File(PathBuf),
    /// A pipe, a device, or an open file: written in place, one report after the other.
    Open(Arc<File>),
}

impl Output {
    /// As the arguments say. Fails early where the file could not be written later, so that no hour of following is lost.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(args: &ReportArgs, stream: Stream) -> Result<Output, anyhow::Error> {
        let place = args.output.as_deref().map_or(Ok(Place::Stream(stream)), |path| {
            Place::at(path).map_err(|error| anyhow::anyhow!("cannot write to {}: {error}", path.display()))
        });
        Ok(Output { format: args.format, colour: args.color, name: args.output.clone(), place: place? })
    }

    /// Writes a report. A reader that has gone away is no error, be it a terminal's.
    ///
    /// # Errors
    /// The file could not be written; the report has then gone to standard error instead, for it may be all there is.
    pub fn write(&self, report: &Report) -> Result<(), anyhow::Error> {
        let result = match &self.place {
            Place::Stream(stream) => self.write_stream(*stream, report),
            Place::File(path) => self.replace(path, report),
            Place::Open(file) => self.render(report, &mut &**file),
        };
        match result {
            Err(error) if self.has_no_reader(&error) => Ok(()),
            Err(error) => {
                let place = self.name.as_deref().map_or("the output".into(), Path::to_string_lossy);
                // If this fails as well there is nowhere left to write to.
                let _ = self.render(report, &mut io::stderr().lock());
                Err(anyhow::anyhow!("cannot write the report to {place}: {error}; it is on standard error instead"))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether an error of writing means that nobody reads any more. Of a disk EIO means that it has failed.
    fn has_no_reader(&self, error: &io::Error) -> bool {
        let is_device = |status: Result<FileStat, Errno>| {
            status.is_ok_and(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR)
        };
        let errno = error.raw_os_error().map(Errno::from_raw);
        errno == Some(Errno::EPIPE)
            || errno == Some(Errno::EIO)
                && match &self.place {
                    Place::File(_) => false,
                    Place::Open(file) => is_device(fstat(file)),
                    Place::Stream(Stream::Out) => is_device(fstat(io::stdout())),
                    Place::Stream(Stream::Err) => is_device(fstat(io::stderr())),
                }
    }

    fn write_stream(&self, stream: Stream, report: &Report) -> io::Result<()> {
        match stream {
            Stream::Out => self.render(report, &mut io::stdout().lock()),
            Stream::Err => self.render(report, &mut io::stderr().lock()),
        }
    }

    /// A half-written report never takes the place of a whole one.
    fn replace(&self, path: &Path, report: &Report) -> io::Result<()> {
        let temporary = temporary(path);
        let written = File::create(&temporary).and_then(|mut file| {
            resemble(&file, path);
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
        while_writing(|| {
            out.write_all(&buffer)?;
            out.flush()
        })
    }

    fn style(&self) -> Style {
        let terminal = match self.place {
            Place::File(_) | Place::Open(_) => false,
            Place::Stream(Stream::Out) => io::stdout().is_terminal(),
            Place::Stream(Stream::Err) => io::stderr().is_terminal(),
        };
        let coloured = match self.colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        if coloured { Style::Coloured } else { Style::Plain }
    }
}

impl Place {
    fn at(path: &Path) -> io::Result<Place> {
        let path = match Destination::of(path)? {
            Destination::Opened(path) => {
                return Ok(Place::Open(Arc::new(File::options().append(true).open(path)?)));
            }
            Destination::Path(path) => path,
        };
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            // Once and for all: whoever reads a pipe reads to the end that we close.
            return Ok(Place::Open(Arc::new(File::options().write(true).open(path)?)));
        }
        probe(&path)?;
        Ok(Place::File(path))
    }
}

/// What a path leads to, by links that are not replaced.
#[derive(PartialEq, Eq, Debug)]
pub enum Destination {
    /// A name in a folder.
    Path(PathBuf),
    /// A file that a process has open: /dev/stdout, /proc/self/fd/1.
    Opened(PathBuf),
}

impl Destination {
    /// Follows the links.
    ///
    /// # Errors
    /// Where there is no such folder, or the links are a circle.
    pub fn of(path: &Path) -> io::Result<Destination> {
        /// MAXSYMLINKS of the kernel.
        const MOST_LINKS: u32 = 40;
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let Some(name) = path.file_name() else { return Ok(Destination::Path(path)) };
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = fs::canonicalize(folder)?;
            let here = folder.join(name);
            if here.starts_with("/proc") {
                return Ok(Destination::Opened(here));
            }
            match fs::read_link(&here) {
                Ok(target) => path = folder.join(target),
                Err(_) => return Ok(Destination::Path(here)),
            }
        }
        Err(Errno::ELOOP.into())
    }
}

/// Fails where a file of this name could not be made.
fn probe(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let nameless = File::options().write(true).custom_flags(nix::libc::O_TMPFILE).open(folder);
    let is_unknown = |error: &io::Error| {
        matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::EISDIR))
    };
    match nameless {
        // The file system knows only files with names.
        Err(error) if is_unknown(&error) => {
            let probe = temporary(path);
            File::create(&probe).and_then(|_| fs::remove_file(&probe))
        }
        result => result.map(drop),
    }
}

/// Gives a file what the one has whose place it takes: its rights, and its owner as far as that may be.
fn resemble(file: &File, path: &Path) {
    use std::os::unix::fs::{MetadataExt, fchown};
    let Ok(former) = fs::metadata(path) else { return };
    let _ = fchown(file, Some(former.uid()), Some(former.gid()));
    let _ = file.set_permissions(former.permissions());
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
