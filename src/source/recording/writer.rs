//! Writes a recording in a thread of its own, so that the target never waits for a disk, and at least twice a second, so
//! that whoever is killed loses no more.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::format::{Heading, Item, MAGIC, Named, VERSION};

/// What has come in is written this often at least.
const WRITE_EVERY: Duration = Duration::from_millis(400);

/// What has come in is written when it is as much as this, in bytes.
const WRITE_AT: usize = 256 << 10;

/// When the disk is so far behind, in bytes, recording waits for it.
const WAIT_AT: usize = 64 << 20;

/// The end of a recording to which items are added.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole items that have not been written yet.
    pending: Vec<u8>,
    /// Nothing more will come.
    done: bool,
    /// Why no more is written. Told once.
    error: Option<io::Error>,
    broken: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Begins a recording in `file`. To be called when this process is not going to fork any more.
    ///
    /// # Errors
    /// The heading could not be written, or there can be no further thread.
    pub fn begin(mut file: File, heading: &Heading) -> io::Result<Writer> {
        let heading = postcard::to_stdvec(heading).map_err(io::Error::other)?;
        let length = u32::try_from(heading.len()).map_err(io::Error::other)?;
        let start = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &length.to_le_bytes(), &heading].concat();
        file.write_all(&start)?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("recording".to_owned()).spawn(move || write_all(&of_thread, file))?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// Adds an item. Where the file cannot be written any more it is dropped; [`Writer::error`] says why, once.
    pub fn add(&self, item: &Item<'_>) {
        let mut state = self.shared.lock();
        while state.pending.len() > WAIT_AT && !state.broken {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.broken {
            return;
        }
        let before = state.pending.len();
        let taken = std::mem::take(&mut state.pending);
        match postcard::to_extend(item, taken) {
            Ok(pending) => state.pending = pending,
            Err(error) => {
                (state.broken, state.error) = (true, Some(io::Error::other(error)));
            }
        }
        if before < WRITE_AT && state.pending.len() >= WRITE_AT {
            self.shared.changed.notify_all();
        }
    }

    /// Why nothing more is written; told once.
    pub fn error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }

    /// Ends the recording, with the names that stand in the last report.
    ///
    /// # Errors
    /// Why it is not complete, unless that has been told already.
    pub fn finish(mut self, names: Vec<Named>) -> io::Result<()> {
        for named in names {
            self.add(&Item::Names(named));
        }
        self.add(&Item::End);
        self.stop();
        self.error().map_or(Ok(()), Err)
    }

    /// Writes what has come in, and ends the thread.
    fn stop(&mut self) {
        self.shared.lock().done = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_all(shared: &Shared, mut file: File) {
    let mut items = Vec::new();
    loop {
        let mut state = shared.lock();
        if state.pending.len() < WRITE_AT && !state.done {
            state = shared.changed.wait_timeout(state, WRITE_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut state.pending, &mut items);
        let done = state.done;
        drop(state);
        shared.changed.notify_all();
        let written = if items.is_empty() { Ok(()) } else { chunk(&items).and_then(|chunk| file.write_all(&chunk)) };
        items.clear();
        if let Err(error) = written {
            let mut state = shared.lock();
            (state.broken, state.error) = (true, Some(error));
            state.pending = Vec::new();
            drop(state);
            shared.changed.notify_all();
            return;
        }
        if done {
            return;
        }
    }
}

/// Items as they stand in the file.
fn chunk(items: &[u8]) -> io::Result<Vec<u8>> {
    const FRAME: usize = 12;
    let mut chunk = vec![0; FRAME];
    let mut encoder = ZlibEncoder::new(&mut chunk, Compression::fast());
    encoder.write_all(items)?;
    encoder.finish()?;
    let length = |bytes: usize| u32::try_from(bytes).map(u32::to_le_bytes).map_err(io::Error::other);
    let crc = crc32fast::hash(&chunk[FRAME..]).to_le_bytes();
    let frame = [length(chunk.len() - FRAME)?, length(items.len())?, crc].concat();
    chunk[..FRAME].copy_from_slice(&frame);
    Ok(chunk)
}
