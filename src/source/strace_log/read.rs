//! Reads the lines of a log, in a thread of its own, so that reading and the model share two processors.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use memchr::memchr;

use super::blocks::{Blocks, LONGEST};
use super::call;
use super::files::{self, Files};
use super::gaps::Seen;
use super::join::{Item, Joiner, UNNAMED, What};
use super::leader::leader;
use super::text::Cursor;
use super::times::Times;
use crate::event::Call;
use crate::units::Tid;

/// Bytes that are read of one of many files at once.
const CHUNK: usize = 64 << 10;

/// Messages that wait for the model.
const AHEAD: usize = 64;

/// So many bytes are read before a text that has not one line of strace's is taken for something else.
const ENOUGH: u64 = 1 << 20;

/// What the reader has to tell.
#[derive(Debug)]
pub enum Message {
    /// What the next part of the log says, and its times so far.
    Items(Vec<Item>, Times),
    /// The log is over: its times, and what was seen in it.
    End(Box<(Times, Seen)>),
    /// It cannot be read any further.
    Failed(io::Error),
}

/// Begins to read.
///
/// # Errors
/// No thread can be had.
pub fn start(files: Files) -> io::Result<Receiver<Message>> {
    let (send, receive) = sync_channel(AHEAD);
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        let mut reader = Reader { joiner: Joiner::default(), items: Vec::new(), bytes: 0, send };
        let result = reader.read(files);
        let last = match result {
            Ok(()) => Message::End(Box::new((reader.joiner.times, reader.joiner.seen))),
            Err(Stopped::Failed(error)) => Message::Failed(error),
            Err(Stopped::Unwanted) => return,
        };
        // Whoever does not listen any more does not want to know.
        let _ = reader.send.send(last);
    })?;
    Ok(receive)
}

/// Why reading has stopped before the end.
enum Stopped {
    Failed(io::Error),
    /// Nobody listens.
    Unwanted,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Stopped {
        Stopped::Failed(error)
    }
}

struct Reader {
    joiner: Joiner,
    items: Vec<Item>,
    /// Bytes so far.
    bytes: u64,
    send: SyncSender<Message>,
}

impl Reader {
    fn read(&mut self, files: Files) -> Result<(), Stopped> {
        match files {
            Files::Stream(bytes) => self.read_one(files::plain(bytes)?, UNNAMED)?,
            Files::One(path, tid) => self.read_one(files::open(&path)?, tid)?,
            Files::Each(set) => self.read_each(set)?,
        }
        self.send_items(true)
    }

    /// Passes on what was gathered, when that is worth it.
    fn send_items(&mut self, all: bool) -> Result<(), Stopped> {
        // Small enough for an allocator to have it at hand, large enough to be worth waking the model up.
        const WORTH: usize = 512;
        if self.items.len() >= WORTH || all && !self.items.is_empty() {
            let items = std::mem::replace(&mut self.items, Vec::with_capacity(WORTH));
            self.send.send(Message::Items(items, self.joiner.times)).map_err(|_| Stopped::Unwanted)?;
        }
        Ok(())
    }

    fn read_one(&mut self, bytes: Box<dyn Read + Send>, tid: Tid) -> Result<(), Stopped> {
        let mut blocks = Blocks::of(bytes)?;
        while let Some(block) = blocks.take()? {
            for line in block.lines() {
                self.joiner.line(line, tid, &mut self.items);
                self.send_items(false)?;
            }
            self.bytes += block.bytes() as u64;
            blocks.done(block);
            self.send_items(true)?;
            let is_something_else = !self.joiner.seen.is_log && self.bytes > ENOUGH;
            if is_something_else {
                break;
            }
        }
        Ok(())
    }

    /// By time; where there are no times in common, each task's lines follow those that made it.
    fn read_each(&mut self, set: Vec<(Tid, PathBuf)>) -> Result<(), Stopped> {
        let mut first_times = Vec::with_capacity(set.len());
        for (tid, path) in &set {
            let mut lines = OneTask::open(*tid, path)?;
            if lines.next()? {
                first_times.push((lines.time, *tid, path.clone()));
            }
        }
        if first_times.iter().all(|(time, ..)| time.is_some()) {
            self.read_by_time(first_times)
        } else {
            self.joiner.seen.is_unordered = true;
            self.read_by_birth(set.into_iter().collect())
        }
    }

    fn read_by_time(&mut self, mut coming: Vec<(Option<u64>, Tid, PathBuf)>) -> Result<(), Stopped> {
        coming.sort();
        let mut coming = coming.into_iter().peekable();
        let mut opened: HashMap<Tid, OneTask> = HashMap::new();
        let mut order: BinaryHeap<Reverse<(Option<u64>, Tid)>> = BinaryHeap::new();
        loop {
            // A file is opened when its time has come: there may be more of them than may be open at once.
            let earliest = order.peek().map(|Reverse((time, _))| *time);
            while let Some((_, tid, path)) = coming.next_if(|(time, ..)| earliest.is_none_or(|first| *time <= first)) {
                let mut lines = OneTask::open(tid, &path)?;
                if lines.next()? {
                    order.push(Reverse((lines.time, tid)));
                    opened.insert(tid, lines);
                }
                if earliest.is_none() {
                    break;
                }
            }
            let Some(Reverse((_, tid))) = order.pop() else { break };
            let Some(lines) = opened.get_mut(&tid) else { continue };
            loop {
                self.joiner.line(lines.line(), tid, &mut self.items);
                if !lines.next()? {
                    opened.remove(&tid);
                    break;
                }
                let next = order.peek().map(|Reverse((time, _))| *time);
                let is_first = next.is_none_or(|next| lines.time <= next)
                    && coming.peek().is_none_or(|(time, ..)| lines.time <= *time);
                if !is_first {
                    order.push(Reverse((lines.time, tid)));
                    break;
                }
            }
            self.send_items(false)?;
        }
        Ok(())
    }

    fn read_by_birth(&mut self, mut set: std::collections::BTreeMap<Tid, PathBuf>) -> Result<(), Stopped> {
        while let Some((tid, path)) = set.pop_first() {
            let mut open = vec![OneTask::open(tid, &path)?];
            while let Some(lines) = open.last_mut() {
                if !lines.next()? {
                    open.pop();
                    continue;
                }
                let told = self.items.len();
                self.joiner.line(lines.line(), lines.tid, &mut self.items);
                let child = self.items[told..].iter().find_map(|item| match item.what {
                    What::Returned(Call::Clone(_), Ok(child)) => i32::try_from(child).ok().map(Tid),
                    What::MadeSomehow(child) => Some(child),
                    _ => None,
                });
                if let Some(child) = child
                    && let Some(path) = set.remove(&child)
                {
                    open.push(OneTask::open(child, &path)?);
                }
                self.send_items(false)?;
            }
        }
        Ok(())
    }
}

/// Bytes of which whole lines are taken.
struct Lines {
    bytes: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Lines {
    fn new(bytes: Box<dyn Read + Send>, size: usize) -> Lines {
        Lines { bytes, buffer: vec![0; size], filled: 0 }
    }

    /// Reads more behind what is there; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.filled == self.buffer.len() {
            if self.buffer.len() >= LONGEST {
                // Not a line of strace's: its rest will be no better.
                self.filled = 0;
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        loop {
            match self.bytes.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.filled += read;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// So many bytes have been dealt with.
    fn consumed(&mut self, used: usize) {
        self.buffer.copy_within(used..self.filled, 0);
        self.filled -= used;
    }
}

/// The lines of one task's file, one at a time.
struct OneTask {
    tid: Tid,
    lines: Lines,
    /// Where the line is, and where the next one begins.
    start: usize,
    end: usize,
    next: usize,
    times: Times,
    /// The time of the line, on a scale that the files have in common.
    time: Option<u64>,
}

impl OneTask {
    fn open(tid: Tid, path: &std::path::Path) -> io::Result<OneTask> {
        let of_file = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let lines = Lines::new(files::open(path).map_err(of_file)?, CHUNK);
        Ok(OneTask { tid, lines, start: 0, end: 0, next: 0, times: Times::default(), time: None })
    }

    fn line(&self) -> &[u8] {
        &self.lines.buffer[self.start..self.end]
    }

    /// Moves on to the next line that is not empty; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            let found = memchr(b'\n', &self.lines.buffer[self.next..self.lines.filled]);
            if let Some(length) = found {
                (self.start, self.end) = (self.next, self.next + length);
                self.next = self.end + 1;
            } else {
                self.lines.consumed(self.next);
                self.next = 0;
                if self.lines.fill()? {
                    continue;
                }
                (self.start, self.end) = (0, self.lines.filled);
                self.next = self.end;
                if self.end == 0 {
                    return Ok(false);
                }
            }
            if self.end > self.start {
                let mut cursor = Cursor::new(self.line());
                let stamp = leader(&mut cursor).ok().and_then(|leader| leader.stamp);
                // What is mapped lies where another task may have unmapped until the call returned, but not later.
                let maps = [&b"mmap"[..], b"mremap"].iter().any(|name| cursor.rest().starts_with(name));
                let took = if maps { call::took(cursor.rest()) } else { None };
                self.times.read(stamp);
                self.time = self.times.common().map(|time| time.saturating_add(took.unwrap_or(0)));
                return Ok(true);
            }
        }
    }
}
