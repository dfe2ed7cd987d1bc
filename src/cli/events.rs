//! Where `--events` goes: a reader that is slow must not hold up the target.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::output::Stream;

/// Lines that wait for a slow reader; what comes beyond is dropped and counted.
const MOST_WAITING: usize = 100_000;

/// Opens the file for events; `-` is the stream that reports go to.
///
/// # Errors
/// Why it cannot be opened.
pub fn open(path: &Path, stream: Stream) -> Result<Box<dyn Write>, anyhow::Error> {
    if path == Path::new("-") {
        return Ok(match stream {
            Stream::Out => Box::new(Detached::new(io::stdout())?),
            Stream::Err => Box::new(Detached::new(io::stderr())?),
        });
    }
    let error = |error: io::Error| anyhow::anyhow!("cannot write events to {}: {error}", path.display());
    let file = File::create(path).map_err(error)?;
    let regular = file.metadata().map_err(error)?.is_file();
    Ok(if regular { Box::new(BufWriter::new(file)) } else { Box::new(Detached::new(file)?) })
}

/// How long a reader may take for the rest, once the target has ended or runs free.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A writer whose lines are written by a thread of its own. Dropping it gives the reader a while to take the rest.
#[derive(Debug)]
struct Detached {
    lines: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    line: Vec<u8>,
    dropped: u64,
}

impl Detached {
    fn new(out: impl Write + Send + 'static) -> io::Result<Detached> {
        let (lines, received) = sync_channel::<Vec<u8>>(MOST_WAITING);
        let mut out = BufWriter::new(out);
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            while let Ok(line) = received.recv() {
                out.write_all(&line)?;
                // All that waits already, before it is flushed.
                for line in received.try_iter() {
                    out.write_all(&line)?;
                }
                out.flush()?;
            }
            Ok(())
        })?;
        Ok(Detached { lines: Some(lines), thread: Some(thread), line: Vec::new(), dropped: 0 })
    }

    fn send(&mut self, line: Vec<u8>) -> io::Result<()> {
        let Some(lines) = &self.lines else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if self.dropped > 0 && lines.try_send(gap(self.dropped)).is_ok() {
            self.dropped = 0;
        }
        match lines.try_send(line) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(self.ended()),
        }
    }

    /// Why the thread has ended.
    fn ended(&mut self) -> io::Error {
        self.lines = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

fn gap(dropped: u64) -> Vec<u8> {
    format!("--- {dropped} events are missing here: their reader was too slow ---\n").into_bytes()
}

impl Write for Detached {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            let line = std::mem::take(&mut self.line);
            self.send(line)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        while let (Some(lines), 1..) = (&self.lines, self.dropped) {
            match lines.try_send(gap(self.dropped)) {
                Err(TrySendError::Full(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                // Told, or there is nobody to tell.
                _ => self.dropped = 0,
            }
        }
        self.lines = None;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A reader that takes nothing until it is told to.
    struct Slow {
        start: Option<Receiver<()>>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(start) = self.start.take() {
                start.recv().unwrap();
            }
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that does not read holds nobody up, and is told how much it has missed.
    #[test]
    fn a_slow_reader_misses_lines() {
        let (start, started) = channel();
        let text = Arc::new(Mutex::new(Vec::new()));
        let mut events = Detached::new(Slow { start: Some(started), text: Arc::clone(&text) }).unwrap();
        let written = 2 * MOST_WAITING;
        for number in 0..written {
            writeln!(events, "event {number}").unwrap();
        }
        start.send(()).unwrap();
        drop(events);
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let last = text.lines().last().unwrap();
        let missing: usize = last.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(last.starts_with("--- ") && last.contains("missing"), "{last}");
        assert_eq!(text.lines().count() - 1 + missing, written);
    }

    /// A reader that has gone away is an error, of which the caller makes what it likes.
    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut events = Detached::new(Gone).unwrap();
        let error = (0..).find_map(|number| writeln!(events, "event {number}").err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
