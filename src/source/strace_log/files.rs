//! Which files a log consists of: one of all tasks, or, by `strace -ff`, one of each, named NAME.TID.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::join::UNNAMED;
use super::leader::{PID_MAX, leader};
use super::text::Cursor;
use nix::errno::Errno;

use crate::units::Tid;

/// The files of a log.
pub enum Files {
    /// What comes from elsewhere, such as standard input.
    Stream(Box<dyn Read + Send>),
    /// One, with the task whose it is where its name tells that.
    One(PathBuf, Tid),
    /// One of each task, in the order of their numbers.
    Each(Vec<(Tid, PathBuf)>),
}

/// Bytes that a file needs before they can be read as text.
const BUFFER: usize = 1 << 16;

impl Files {
    /// The log of this name: a file, the name that all files of a set begin with, one of the set, or its folder.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(path: &Path) -> io::Result<Files> {
        if path.is_dir() {
            return of_folder(path);
        }
        if !path.exists() {
            let set = set_of(path)?;
            return match set.len() {
                0 => Err(io::Error::from(Errno::ENOENT)),
                _ => Ok(Files::Each(set)),
            };
        }
        let Some((prefix, tid)) = split(path) else { return Ok(Files::One(path.to_owned(), UNNAMED)) };
        // `-o log.1` without -ff has a name like that, too; but then its lines say whose they are.
        if says_whose(path)? {
            return Ok(Files::One(path.to_owned(), UNNAMED));
        }
        let set = set_of(&prefix)?;
        Ok(if set.len() > 1 { Files::Each(set) } else { Files::One(path.to_owned(), tid) })
    }

    /// When the log was last written to, where that is known.
    pub fn modified(&self) -> Option<std::time::SystemTime> {
        let modified = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        match self {
            Files::Stream(_) => None,
            Files::One(path, _) => modified(path),
            Files::Each(set) => set.iter().filter_map(|(_, path)| modified(path)).max(),
        }
    }
}

/// The set in a folder.
fn of_folder(folder: &Path) -> io::Result<Files> {
    let mut prefixes: Vec<PathBuf> =
        fs::read_dir(folder)?.flatten().filter_map(|entry| Some(split(&entry.path())?.0)).collect();
    prefixes.sort();
    prefixes.dedup();
    match prefixes.as_slice() {
        [] => Err(io::Error::other("a folder without files NAME.PID, as strace -ff -o NAME writes them; name a file")),
        [prefix] => Ok(Files::Each(set_of(prefix)?)),
        [first, second, ..] => {
            let (first, second) = (first.display(), second.display());
            Err(io::Error::other(format!("a folder with the files of several logs: name one, {first} or {second}")))
        }
    }
}

/// All files PREFIX.TID.
fn set_of(prefix: &Path) -> io::Result<Vec<(Tid, PathBuf)>> {
    let folder = match prefix.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let of_set = |path: PathBuf| {
        let (its_prefix, tid) = split(&path)?;
        (its_prefix.file_name() == prefix.file_name()).then_some((tid, path))
    };
    let mut set: Vec<(Tid, PathBuf)> = entries.flatten().filter_map(|entry| of_set(entry.path())).collect();
    set.sort();
    set.dedup_by_key(|(tid, _)| *tid);
    Ok(set)
}

/// NAME.TID, also compressed, as NAME and TID.
fn split(path: &Path) -> Option<(PathBuf, Tid)> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(name);
    let (prefix, number) = plain.rsplit_once('.')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    let tid = number.parse::<i32>().ok().filter(|tid| is_number && i64::from(*tid) <= PID_MAX as i64)?;
    (!prefix.is_empty() && path.is_file()).then(|| (path.with_file_name(prefix), Tid(tid)))
}

/// Whether the first line says whose it is.
fn says_whose(path: &Path) -> io::Result<bool> {
    let mut reader = BufReader::new(open(path)?).take(BUFFER as u64);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            return Ok(leader(&mut Cursor::new(&line)).is_ok_and(|leader| leader.tid.is_some()));
        }
        line.clear();
    }
    Ok(false)
}

/// Opens a file, which may be compressed.
///
/// # Errors
/// It cannot be opened, or begins like a compressed one and is none.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from(Errno::EISDIR));
    }
    plain(file)
}

/// Bytes as they are, or as they were before gzip or zstd, by how they begin.
///
/// # Errors
/// They cannot be read, or begin like compressed ones and are none.
pub fn plain(mut bytes: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    bytes.by_ref().take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = io::Cursor::new(magic).chain(bytes);
    Ok(if is_gzip {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole)))
    } else if is_zstd {
        Box::new(Zstd { frames: BufReader::with_capacity(BUFFER, whole), frame: None })
    } else {
        Box::new(whole)
    })
}

/// One frame after the other, as `zstd` and concatenation write them.
struct Zstd<R: Read> {
    frames: BufReader<R>,
    frame: Option<Box<ruzstd::decoding::FrameDecoder>>,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
        let wrong = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        while !buffer.is_empty() {
            if self.frame.is_none() {
                if self.frames.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                let mut frame = Box::new(FrameDecoder::new());
                frame.reset(&mut self.frames).map_err(|error| wrong(error.to_string()))?;
                self.frame = Some(frame);
            }
            let Some(frame) = &mut self.frame else { return Ok(0) };
            while frame.can_collect() < buffer.len() && !frame.is_finished() {
                let most = BlockDecodingStrategy::UptoBytes(buffer.len());
                frame.decode_blocks(&mut self.frames, most).map_err(|error| wrong(error.to_string()))?;
            }
            let read = frame.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.frame = None;
        }
        Ok(0)
    }
}
