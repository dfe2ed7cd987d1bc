//! Reads a file ahead, in a thread of its own: what has to be fetched or unpacked is there when its lines are wanted, and
//! where they end has been seen while they were in a processor's cache.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use memchr::{memchr_iter, memrchr};

/// Bytes that are read at once: few enough to be in a processor's cache still when they are looked at.
const BLOCK: usize = 256 << 10;

/// Blocks that wait to be looked at.
const AHEAD: usize = 4;

/// A longer line is no line of strace's, and is cut.
pub const LONGEST: usize = 16 << 20;

/// Whole lines of a file.
#[derive(Debug, Default)]
pub struct Block {
    buffer: Vec<u8>,
    /// Where the lines end.
    ends: Vec<u32>,
    /// Where the last one ends.
    length: usize,
}

impl Block {
    /// How many bytes the lines have, with their newlines.
    pub fn bytes(&self) -> usize {
        self.length
    }

    /// The lines, without their newlines.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        let whole = self.ends.iter().map(move |end| {
            let end = *end as usize;
            let line = &self.buffer[start..end];
            start = end + 1;
            line
        });
        // Only the last line of a file may lack its newline.
        let rest = self.ends.last().map_or(0, |end| *end as usize + 1);
        whole.chain((rest < self.length).then(|| &self.buffer[rest..self.length]))
    }

    /// These bytes of the buffer are whole lines.
    fn fill(&mut self, length: usize) {
        self.length = length;
        self.ends.clear();
        // A block is not longer than the longest line and what is read at once.
        self.ends.extend(memchr_iter(b'\n', &self.buffer[..length]).map(|end| end as u32));
    }
}

/// A file of which whole lines are read ahead.
#[derive(Debug)]
pub struct Blocks {
    read: Receiver<io::Result<Block>>,
    /// What has been looked at, to be filled again.
    used: Sender<Block>,
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
        let _ = self.used.send(block);
    }
}

/// Reads to the end, or until nobody listens.
fn read_ahead(
    mut bytes: Box<dyn Read + Send>,
    send: &SyncSender<io::Result<Block>>,
    again: &Receiver<Block>,
) -> io::Result<()> {
    // The beginning of a line whose end has not been read yet.
    let mut begun = Vec::new();
    loop {
        let block = again.try_recv().ok().filter(|block| block.buffer.len() == BLOCK);
        let mut block = block.unwrap_or_else(|| Block { buffer: vec![0; BLOCK], ..Block::default() });
        if block.buffer.len() <= begun.len() {
            block.buffer.resize(begun.len() * 2, 0);
        }
        block.buffer[..begun.len()].copy_from_slice(&begun);
        let (whole, filled) = whole_lines(&mut bytes, &mut block.buffer, begun.len())?;
        let is_end = whole == 0;
        let length = if is_end { filled } else { whole };
        begun.clear();
        begun.extend_from_slice(&block.buffer[length..filled]);
        block.fill(length);
        if length > 0 && send.send(Ok(block)).is_err() || is_end {
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

    /// The lines, and how many bytes they have.
    fn read(bytes: impl Read + Send + 'static) -> (Vec<Vec<u8>>, usize) {
        let mut blocks = Blocks::of(Box::new(bytes)).unwrap();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(block) = blocks.take().unwrap() {
            lines.extend(block.lines().map(<[u8]>::to_vec));
            bytes += block.bytes();
            blocks.done(block);
        }
        (lines, bytes)
    }

    fn slowly(text: &str) -> Slow {
        Slow { text: text.as_bytes().to_vec(), at: 0, step: 0 }
    }

    /// However it comes, a file is cut between lines only, and nothing is lost.
    #[test]
    fn whole() {
        let lines = (0..40_000).map(|number| format!("{number} {}\n", "x".repeat(number % 97))).collect::<String>();
        let long = "y".repeat(3 * BLOCK);
        for text in
            [lines.clone(), format!("{lines}{long}\n{lines}"), format!("{lines}no newline"), long, String::new()]
        {
            let mut lines: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
            lines.pop_if(|last| last.is_empty());
            let (whole, bytes) = read(slowly(&text));
            assert!(whole == lines && bytes == text.len());
        }
    }

    /// Empty lines are lines, also the last one.
    #[test]
    fn empty() {
        assert_eq!(read(slowly("\n\na\n\n")).0, [&b""[..], b"", b"a", b""]);
    }

    /// A line that is far too long loses its beginning, and the next one is whole.
    #[test]
    fn too_long() {
        let text = format!("{}\nbrk(NULL) = 0\n", "z".repeat(LONGEST + 3 * BLOCK));
        let (lines, bytes) = read(slowly(&text));
        assert!(bytes < text.len() && lines.len() == 2 && lines[0].ends_with(b"z") && lines[1] == b"brk(NULL) = 0");
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
        assert_eq!(blocks.take().unwrap().unwrap().lines().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(blocks.take().unwrap_err().to_string(), "torn");
        assert!(blocks.take().unwrap().is_none());
    }
}
