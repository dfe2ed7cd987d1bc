//! Reads a file ahead, in a thread of its own: what has to be fetched or unpacked is there when its lines are wanted.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use memchr::memrchr;

/// Bytes that are read at once: few enough to be in a processor's cache still when they are looked at.
const BLOCK: usize = 256 << 10;

/// Blocks that wait to be looked at.
const AHEAD: usize = 4;

/// A longer line is no line of strace's, and is cut.
pub const LONGEST: usize = 16 << 20;

/// Whole lines of a file.
#[derive(Debug)]
pub struct Block {
    buffer: Vec<u8>,
    length: usize,
}

impl Block {
    /// The lines, each with its newline, which only the last one of the file may lack.
    pub fn text(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// A file of which whole lines are read ahead.
#[derive(Debug)]
pub struct Blocks {
    read: Receiver<io::Result<Block>>,
    /// What has been looked at, to be filled again.
    used: Sender<Vec<u8>>,
}

impl Blocks {
    /// Begins to read.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn of(bytes: Box<dyn Read + Send>) -> io::Result<Blocks> {
        let (send, read) = sync_channel(AHEAD);
        let (used, again) = channel();
        thread::Builder::new().name("log-ahead".to_owned()).spawn(move || {
            if let Err(error) = read_ahead(bytes, &send, &again) {
                // Whoever does not listen any more does not want to know.
                let _ = send.send(Err(error));
            }
        })?;
        Ok(Blocks { read, used })
    }

    /// The next lines; none at the end.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn take(&mut self) -> io::Result<Option<Block>> {
        self.read.recv().ok().transpose()
    }

    /// A block has been looked at.
    pub fn done(&mut self, block: Block) {
        // At the end there is nothing more to be filled.
        let _ = self.used.send(block.buffer);
    }
}

/// Reads to the end, or until nobody listens.
fn read_ahead(
    mut bytes: Box<dyn Read + Send>,
    send: &SyncSender<io::Result<Block>>,
    again: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    // The beginning of a line whose end has not been read yet.
    let mut begun = Vec::new();
    loop {
        let buffer = again.try_recv().ok().filter(|buffer| buffer.len() == BLOCK);
        let mut buffer = buffer.unwrap_or_else(|| vec![0; BLOCK]);
        if buffer.len() <= begun.len() {
            buffer.resize(begun.len() * 2, 0);
        }
        buffer[..begun.len()].copy_from_slice(&begun);
        let (whole, filled) = whole_lines(&mut bytes, &mut buffer, begun.len())?;
        let is_end = whole == 0;
        let length = if is_end { filled } else { whole };
        begun.clear();
        begun.extend_from_slice(&buffer[length..filled]);
        if length > 0 && send.send(Ok(Block { buffer, length })).is_err() || is_end {
            return Ok(());
        }
    }
}

/// Reads behind the first `filled` bytes of a buffer until it has the end of a line. Gives the bytes of its whole lines, and
/// all that are in it; no whole line at the end of the file.
fn whole_lines(bytes: &mut impl Read, buffer: &mut Vec<u8>, mut filled: usize) -> io::Result<(usize, usize)> {
    loop {
        if filled >= LONGEST {
            // Not a line of strace's: its rest will be no better.
            filled = 0;
        } else if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        match bytes.read(&mut buffer[filled..]) {
            Ok(0) => return Ok((0, filled)),
            Ok(read) => {
                let newline = memrchr(b'\n', &buffer[filled..filled + read]);
                filled += read;
                if let Some(newline) = newline {
                    return Ok((filled - read + newline + 1, filled));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, and is interrupted now and then.
    struct Slow {
        text: Vec<u8>,
        at: usize,
        step: usize,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.step += 1;
            if self.step.is_multiple_of(5) {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            let length = (self.text.len() - self.at).min(buffer.len()).min(1 + self.step * 7919 % 100_000);
            buffer[..length].copy_from_slice(&self.text[self.at..self.at + length]);
            self.at += length;
            Ok(length)
        }
    }

    fn blocks(text: &[u8]) -> Vec<Vec<u8>> {
        let mut blocks = Blocks::of(Box::new(Slow { text: text.to_vec(), at: 0, step: 0 })).unwrap();
        let mut read = Vec::new();
        while let Some(block) = blocks.take().unwrap() {
            read.push(block.text().to_vec());
            blocks.done(block);
        }
        read
    }

    /// However it comes, a file is cut between lines only, and nothing is lost.
    #[test]
    fn whole() {
        let lines = (0..40_000).map(|number| format!("{number} {}\n", "x".repeat(number % 97))).collect::<String>();
        let long = "y".repeat(3 * BLOCK);
        for text in
            [lines.clone(), format!("{lines}{long}\n{lines}"), format!("{lines}no newline"), long, String::new()]
        {
            let blocks = blocks(text.as_bytes());
            assert!(blocks.concat() == text.as_bytes());
            let cut = blocks.len().saturating_sub(1);
            assert!(blocks[..cut].iter().all(|block| block.ends_with(b"\n")));
        }
    }

    /// A line that is far too long loses its beginning, and the next one is whole.
    #[test]
    fn too_long() {
        let text = format!("{}\nbrk(NULL) = 0\n", "z".repeat(LONGEST + 3 * BLOCK));
        let read = blocks(text.as_bytes()).concat();
        assert!(read.len() < text.len() && read.ends_with(b"z\nbrk(NULL) = 0\n"));
    }

    /// What cannot be read is told behind what could be.
    #[test]
    fn broken() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("torn"))
            }
        }
        let mut blocks = Blocks::of(Box::new(io::Cursor::new(b"a\nb\n".to_vec()).chain(Broken))).unwrap();
        assert_eq!(blocks.take().unwrap().unwrap().text(), b"a\nb\n");
        assert_eq!(blocks.take().unwrap_err().to_string(), "torn");
        assert!(blocks.take().unwrap().is_none());
    }
}
