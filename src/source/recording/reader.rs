//! Reads a recording item by item, up to its end or to where it is cut off or damaged.

use std::io::{self, BufRead, Read};

use flate2::bufread::ZlibDecoder;
use thiserror::Error;

use super::format::{Heading, Item, LARGEST_CHUNK, LARGEST_HEADING, MAGIC, VERSION};

/// Why a file cannot be replayed as a recording.
#[derive(Debug, Error)]
pub enum NotARecording {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// It begins as no recording does.
    #[error("it is no recording of vmtrace's")]
    OtherContents,
    /// Another version of vmtrace made it.
    #[error("it is a recording of format {0}, and this vmtrace reads format {VERSION}: use the vmtrace that made it")]
    OtherVersion(u32),
    /// Its heading is cut off or damaged.
    #[error("its heading is cut off or damaged, so nothing of it can be replayed")]
    NoHeading,
}

/// Whether what a file begins with is a recording's beginning.
pub fn is_recording(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

/// How far it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// There is more, as far as is known.
    Open,
    /// To its end.
    Whole,
    /// The rest is missing: vmtrace was killed, or the file was cut.
    Cut,
    /// What comes next is no recording's.
    Damaged,
}

/// Reads items.
pub struct Reader<'a> {
    file: Box<dyn BufRead + 'a>,
    chunk: Vec<u8>,
    /// What of the chunk has been read.
    read: usize,
    /// How far it goes.
    pub extent: Extent,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("extent", &self.extent).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Reads the heading.
    pub fn open(mut file: Box<dyn BufRead + 'a>) -> Result<(Reader<'a>, Heading), NotARecording> {
        let mut magic = [0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Ok(()) if is_recording(&magic) => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(NotARecording::OtherContents),
        }
        let version = word(&mut file).map_err(|_| NotARecording::NoHeading)?;
        if version != VERSION {
            return Err(NotARecording::OtherVersion(version));
        }
        let length = word(&mut file).map_err(|_| NotARecording::NoHeading)?;
        let bytes = take(&mut file, length, LARGEST_HEADING).map_err(|_| NotARecording::NoHeading)?;
        let heading = postcard::from_bytes(&bytes).map_err(|_| NotARecording::NoHeading)?;
        Ok((Reader { file, chunk: Vec::new(), read: 0, extent: Extent::Open }, heading))
    }

    /// The next item; none at the end, of whatever kind that is.
    pub fn next(&mut self) -> Option<Item<'static>> {
        if self.extent != Extent::Open || self.read == self.chunk.len() && !self.next_chunk() {
            return None;
        }
        match postcard::take_from_bytes(&self.chunk[self.read..]) {
            Ok((Item::End, _)) => {
                self.extent = Extent::Whole;
                None
            }
            Ok((item, rest)) => {
                self.read = self.chunk.len() - rest.len();
                Some(item)
            }
            Err(_) => {
                self.extent = Extent::Damaged;
                None
            }
        }
    }

    fn next_chunk(&mut self) -> bool {
        self.extent = match self.file.fill_buf() {
            Ok([]) => Extent::Cut,
            _ => match read_chunk(&mut self.file, LARGEST_CHUNK) {
                Ok(chunk) => {
                    (self.chunk, self.read) = (chunk, 0);
                    Extent::Open
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Extent::Cut,
                Err(_) => Extent::Damaged,
            },
        };
        self.extent == Extent::Open
    }
}

/// The next chunk, of at most `largest` bytes, packed or not.
fn read_chunk(file: &mut dyn BufRead, largest: u32) -> io::Result<Vec<u8>> {
    let (length, raw, crc) = (word(file)?, word(file)?, word(file)?);
    let compressed = take(file, length, largest)?;
    if raw == 0 || raw > largest || crc32fast::hash(&compressed) != crc {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // What it says of its length is believed when it has been read.
    let mut chunk = Vec::new();
    let inflated = ZlibDecoder::new(compressed.as_slice()).take(u64::from(raw)).read_to_end(&mut chunk);
    match inflated {
        Ok(length) if length == raw as usize => Ok(chunk),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn word(file: &mut dyn BufRead) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
}

/// So many bytes, without making room for more than there are.
fn take(file: &mut dyn BufRead, length: u32, largest: u32) -> io::Result<Vec<u8>> {
    if length > largest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    match file.take(u64::from(length)).read_to_end(&mut bytes)? {
        read if read == length as usize => Ok(bytes),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    use std::io::Write;

    use super::*;

    /// A chunk of so many zeroes, whose frame says so, or something else.
    fn chunk(zeroes: usize, length: Option<u32>, raw: u32) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![0; zeroes]).unwrap();
        let packed = encoder.finish().unwrap();
        let words = [length.unwrap_or(packed.len() as u32), raw, crc32fast::hash(&packed)].map(u32::to_le_bytes);
        [&*words.concat(), &packed].concat()
    }

    /// Whatever a chunk says of its lengths, no more is read than it may have, nor unpacked than it says.
    #[test]
    fn chunks_are_bounded() {
        const LARGEST: u32 = 5000;
        let small = chunk(10, None, 10).len() as u32 - 12;
        for (zeroes, length, raw, expected) in [
            (5000, None, 5000, Ok(5000)),
            // It would be a quarter of a million.
            (1 << 18, None, 300, Ok(300)),
            (10, None, 11, Err(InvalidData)),
            (10, None, 0, Err(InvalidData)),
            (5001, None, 5001, Err(InvalidData)),
            (10, Some(LARGEST + 1), 10, Err(InvalidData)),
            (10, Some(LARGEST), 10, Err(UnexpectedEof)),
            (10, Some(small - 1), 10, Err(InvalidData)),
        ] {
            let bytes = chunk(zeroes, length, raw);
            let read = read_chunk(&mut &*bytes, LARGEST);
            let room = read.as_ref().map_or(0, Vec::capacity);
            assert_eq!(
                read.map(|chunk| chunk.len()).map_err(|error| error.kind()),
                expected,
                "{zeroes} {length:?} {raw}"
            );
            assert!(room <= 2 * LARGEST as usize, "{room}");
        }
    }
}
