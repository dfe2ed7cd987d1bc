//! Recordings: what a followed process told and what it answered, written down as it goes, and told again later.
//!
//! The follower asks the same questions in the same order when it sees the same events. So a recording is the sequence
//! of both, and its replay needs neither keys nor a clock. Names are put to places when the report is written; they come
//! last. A file is [`mod@format`]: a heading, then chunks that stand for themselves, so that what was cut off or damaged at
//! the end costs no more than the end.

mod digest;
pub mod format;
mod reader;
mod recorder;
mod replay;
mod writer;

#[cfg(test)]
mod tests;

pub use digest::digest;
pub use reader::{NotARecording, is_recording};
pub use recorder::Recorder;
pub use replay::Replay;
pub use writer::Writer;
