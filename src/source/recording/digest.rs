//! Any bytes as a recording, for fuzzing.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::Replay;
use super::format::{Heading, MAGIC, VERSION};
use crate::diagnose::finding::Confidence;
use crate::follow::{Follower, Observer, Options, Status};
use crate::report::draft::Draft;
use crate::report::text::Style;
use crate::report::{Clock, Engine, Mode, json, text};
use crate::source::control::{Control, Manners};
use crate::symbols::names::Names;
use crate::units::Pid;

/// Replays `bytes`: a file, or what stands in its chunks, of which a mutation would have the wrong checksum. What the
/// reports say goes nowhere.
pub fn digest(bytes: &[u8]) {
    let whole = bytes.starts_with(MAGIC).then(|| bytes.to_vec());
    let Some(file) = whole.or_else(|| of_items(bytes)) else { return };
    let Ok(mut replay) = Replay::open(Box::new(&*file)) else { return };
    let heading = replay.heading().clone();
    let Ok(start) = heading.start.parse() else { return };
    let options = Options {
        mode: Mode::Replay,
        command: heading.command,
        verify_every: heading.verify_every.filter(|every| *every > 0),
        min_confidence: Confidence::Possible,
        events: Some(Box::new(std::io::sink())),
    };
    let control = Control::new(Manners::Attached);
    let (draft, _) = Follower::new(&mut replay, &control, Clock::new(start), options, &mut Nobody).run();
    let report = draft.named(&mut Names::default());
    let mut written = Vec::new();
    let _ = text::write(&report, &mut written, Style::Plain);
    let raw = written.iter().find(|byte| byte.is_ascii_control() && **byte != b'\n');
    assert_eq!(raw, None, "a report holds no control characters");
    let _ = json::write(&report, &mut std::io::sink());
}

/// A recording of these items.
fn of_items(items: &[u8]) -> Option<Vec<u8>> {
    let heading = Heading {
        vmtrace: String::new(),
        start: "2024-02-21T23:00:00+01:00[Europe/Berlin]".to_owned(),
        pid: Pid(1),
        command: Vec::new(),
        engine: Engine::Ptrace,
        verify_every: Some(1),
    };
    let heading = postcard::to_stdvec(&heading).ok()?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(items).ok()?;
    let chunk = encoder.finish().ok()?;
    let mut file = MAGIC.to_vec();
    for number in [VERSION, u32::try_from(heading.len()).ok()?] {
        file.extend(number.to_le_bytes());
    }
    file.extend(heading);
    for number in [u32::try_from(chunk.len()).ok()?, u32::try_from(items.len()).ok()?, crc32fast::hash(&chunk)] {
        file.extend(number.to_le_bytes());
    }
    file.extend(chunk);
    Some(file)
}

/// Listens to nothing.
struct Nobody;

impl Observer for Nobody {
    fn report(&mut self, _: Draft) {}
    fn status(&mut self, _: &Status) {}
    fn warn(&mut self, _: &str) {}
}
