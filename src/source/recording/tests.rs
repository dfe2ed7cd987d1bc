use std::borrow::Cow;
use std::io::{BufReader, Read, Seek, Write};

use proptest::prelude::*;
use syscalls::Errno;

use super::format::{After, Answer, Changed, Heading, Item, LARGEST_HEADING, MAGIC, Named, Told as Record, VERSION};
use super::reader::{Extent, NotARecording, Reader, is_recording};
use super::{Replay, Writer};
use crate::diagnose::finding::Frame;
use crate::event::{Call, Event, EventKind, Exit, Prot, Sharing, Syscall, Vma};
use crate::report::Engine;
use crate::source::control::{Control, Manners};
use crate::symbols::places::Place;
use crate::target::{Target, Told};
use crate::units::{Addr, CodeId, PAGE, Pid, Range, Tid, Time};

fn heading() -> Heading {
    Heading {
        vmtrace: "0.0.0".to_owned(),
        start: "2024-02-21T23:00:00+01:00[Europe/Berlin]".to_owned(),
        pid: Pid(31108),
        command: vec!["app_server".to_owned(), "--port".to_owned()],
        engine: Engine::Ptrace,
        verify_every: Some(1),
    }
}

fn vma() -> Vma {
    Vma {
        range: Range::of_len(Addr(0x7fff_ffff_e000), 2 * PAGE).unwrap(),
        prot: Prot::READ,
        sharing: Sharing::Shared,
        offset: PAGE,
        inode: 17,
        device: 8 << 20,
        name: (*b"/lib/\xff.so").into(),
    }
}

fn munmap(number: u64) -> EventKind {
    let call = Call::Munmap { addr: Addr(number * PAGE), len: PAGE };
    EventKind::Syscall(Syscall { call, result: Err(Errno::EINVAL), mapped: Some(vma()) })
}

fn event(after: i64, number: u64) -> Item<'static> {
    Item::Told(After(after, Record::Event { tid: Tid(7), call_stack: None, kind: Cow::Owned(munmap(number)) }))
}

fn items() -> Vec<Item<'static>> {
    let ended = Record::Event { tid: Tid(7), call_stack: None, kind: Cow::Owned(EventKind::Ended(Exit::Signal(9))) };
    let frame =
        Frame { module: "/bin/a".to_owned(), offset: 3, symbol: Some("f".to_owned()), file: None, line: Some(1) };
    vec![
        Item::Place(Place::Anonymous(Addr(0x1234))),
        Item::CallStack(vec![CodeId(0)].into()),
        event(1_000, 1),
        event(-200, 2),
        Item::Answer(Answer::Maps(Some(Changed::between(&[], Box::leak(Box::new([vma()])))))),
        Item::Answer(Answer::Resident(None)),
        Item::Told(After(5, ended)),
        Item::Told(After(5, Record::Finished)),
        Item::Names(Named { place: Place::Anonymous(Addr(0x1234)), pid: Pid(31108), frames: vec![frame] }),
    ]
}

/// A recording of these items; each in a chunk of its own, where that is wanted.
pub fn recorded(items: &[Item<'_>]) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    let writer = Writer::begin(file.try_clone().unwrap(), &heading()).unwrap();
    items.iter().for_each(|item| writer.add(item));
    writer.finish(Vec::new()).unwrap();
    contents(file)
}

fn contents(mut file: std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> (Vec<Item<'static>>, Extent) {
    let (mut reader, _) = Reader::open(Box::new(bytes)).unwrap();
    let items = std::iter::from_fn(|| reader.next()).collect();
    (items, reader.extent)
}

fn quiet() -> Control {
    Control::new(Manners::Attached)
}

/// What is written is what is read.
#[test]
fn items_come_back() {
    let bytes = recorded(&items());
    assert!(is_recording(&bytes));
    let (reader, read_heading) = Reader::open(Box::new(bytes.as_slice())).unwrap();
    assert_eq!((read_heading, reader.extent), (heading(), Extent::Open));
    assert_eq!(read(&bytes), (items(), Extent::Whole));
}

/// Wherever a file is cut, what is left is a beginning of what was recorded, and is said to be no more.
#[test]
fn a_cut_file_is_read_up_to_the_cut() {
    let file = tempfile::tempfile().unwrap();
    let writer = Writer::begin(file.try_clone().unwrap(), &heading()).unwrap();
    // Enough for several chunks, whatever the writer's thread is about.
    let many: Vec<_> = (0..40_000).map(|number| event(1, number)).collect();
    many.iter().for_each(|item| writer.add(item));
    writer.finish(Vec::new()).unwrap();
    let bytes = contents(file);
    assert_eq!(read(&bytes), (many.clone(), Extent::Whole));
    let mut lengths = Vec::new();
    for cut in (200..bytes.len()).step_by(bytes.len() / 50) {
        let (items, extent) = read(&bytes[..cut]);
        assert_eq!(extent, Extent::Cut);
        assert!(many.starts_with(&items));
        lengths.push(items.len());
    }
    assert!(lengths.is_sorted() && lengths.last() > lengths.first(), "{lengths:?}");
}

/// Another version's file is refused with the reason, and so is what is no recording, or not enough of one.
#[test]
fn what_cannot_be_read_is_refused() {
    let bytes = recorded(&[]);
    let refused = |bytes: &[u8]| Replay::open(Box::new(BufReader::new(bytes))).map(drop).unwrap_err();
    let mut newer = bytes.clone();
    newer[MAGIC.len()] = VERSION as u8 + 1;
    assert!(matches!(refused(&newer), NotARecording::OtherVersion(version) if version == VERSION + 1));
    assert!(matches!(refused(b"31152 23:00:00 mmap(NULL"), NotARecording::OtherContents));
    assert!(matches!(refused(b""), NotARecording::OtherContents));
    assert!(matches!(refused(&bytes[..MAGIC.len() + 2]), NotARecording::NoHeading));
    assert!(matches!(refused(&bytes[..MAGIC.len() + 12]), NotARecording::NoHeading));
    let mut endless = bytes;
    endless[MAGIC.len() + 4..MAGIC.len() + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(refused(&endless), NotARecording::NoHeading));
    let file = tempfile::tempfile().unwrap();
    let long = Heading { command: vec!["x".repeat(LARGEST_HEADING as usize)], ..heading() };
    drop(Writer::begin(file.try_clone().unwrap(), &long).unwrap());
    assert!(matches!(refused(&contents(file)), NotARecording::NoHeading));
}

/// A replay tells what was recorded, at its times, and answers what was asked.
#[test]
fn a_replay_tells_and_answers() {
    let bytes = recorded(&items());
    let mut replay = Replay::open(Box::new(bytes.as_slice())).unwrap();
    let at = |nanoseconds| Time(std::time::Duration::from_nanos(nanoseconds));
    for (nanoseconds, number) in [(1_000, 1), (800, 2)] {
        let told = replay.next(&quiet()).unwrap();
        let expected = Event { at: at(nanoseconds), tid: Tid(7), call_stack: None, kind: munmap(number) };
        assert!(matches!(told, Told::Event(event) if event == expected));
    }
    assert_eq!(replay.maps(Tid(7)), Some([vma()].into()));
    assert_eq!(replay.resident(Tid(7), &[]), None);
    assert!(matches!(replay.next(&quiet()).unwrap(), Told::Event(_)));
    assert!(matches!(replay.next(&quiet()).unwrap(), Told::Finished(time) if time == at(810)));
    assert_eq!(replay.standing().notes.len(), 1, "nobody has recorded how it stood");
    assert_eq!(replay.places(&[]).known.len(), 1);
}

/// Maps are recorded as what has changed, and come back whole; what is not there any more does no harm.
#[test]
fn maps_are_recorded_by_their_changes() {
    let line = |page: u64| Vma { range: Range::of_len(Addr(page * PAGE), PAGE).unwrap(), ..vma() };
    let maps = |pages: &[u64]| pages.iter().map(|page| line(*page)).collect::<Vec<_>>();
    let pictures = [maps(&[1, 2, 3, 9]), maps(&[1, 3, 9]), maps(&[1, 2, 4, 9]), maps(&[]), maps(&[5]), maps(&[5, 5])];
    let mut before: Vec<Vma> = Vec::new();
    for picture in pictures {
        let changed = Changed::between(&before, &picture);
        assert_eq!(*changed.clone().after(&before), *picture);
        assert!(changed.after(&[]).len() <= picture.len());
        before = picture;
    }
    // All at the beginning, and all at the end once more: that would double them each time.
    let everything = (u32::MAX, Vec::<Vma>::new(), u32::MAX);
    let doubling: Changed<'_> = postcard::from_bytes(&postcard::to_stdvec(&everything).unwrap()).unwrap();
    assert_eq!(*doubling.after(&maps(&[1, 2, 3])), *maps(&[1, 2, 3]));
    let [one, other] = [maps(&[1, 2, 3, 9]), maps(&[1, 2, 4, 9])];
    let bytes = |changed: &Changed<'_>| postcard::to_stdvec(changed).unwrap().len();
    assert!(bytes(&Changed::between(&one, &other)) < bytes(&Changed::between(&[], &other)) / 2);
}

/// What was not recorded is not known, and the report says so. What comes next is not lost by the question.
#[test]
fn a_question_without_an_answer() {
    let bytes = recorded(&items()[2..4]);
    let mut replay = Replay::open(Box::new(bytes.as_slice())).unwrap();
    assert!(matches!(replay.next(&quiet()).unwrap(), Told::Event(_)));
    assert_eq!(replay.maps(Tid(7)), None);
    assert!(matches!(replay.next(&quiet()).unwrap(), Told::Event(_)));
    assert!(matches!(replay.next(&quiet()).unwrap(), Told::Quiet(_)));
    let notes = replay.standing().notes;
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].regions, 2);
}

/// A full disk ends the recording with the reason, told once, and nothing else.
#[test]
fn a_full_disk_is_told_once() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert!(Writer::begin(full, &heading()).is_err(), "the heading does not fit either");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let writer = Writer::begin(writer.into(), &heading()).unwrap();
    drop(reader);
    // Until the thread has met the closed pipe; every item after that is dropped.
    let error = loop {
        writer.add(&event(1, 1));
        if let Some(error) = writer.error() {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    writer.add(&event(1, 1));
    writer.finish(Vec::new()).expect("it has been told");
}

/// A chunk of these bytes, as a hostile hand would write it: its frame is right.
fn with_chunk(items: &[u8]) -> Vec<u8> {
    let mut bytes = recorded(&[]);
    bytes.truncate(MAGIC.len() + 8 + postcard::to_stdvec(&heading()).unwrap().len());
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(items).unwrap();
    let compressed = encoder.finish().unwrap();
    for word in [compressed.len() as u32, items.len() as u32, crc32fast::hash(&compressed)] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(compressed);
    bytes
}

proptest! {
    /// Whatever stands in a file, reading it ends, and nobody panics.
    #[test]
    fn no_contents_are_fatal(mut changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = recorded(&items());
        let from = MAGIC.len();
        for (index, value) in changes.drain(..) {
            let at = from + index.index(bytes.len() - from);
            bytes[at] = value;
        }
        replay_all(&bytes);
    }

    /// Nor by items that nobody has recorded.
    #[test]
    fn no_items_are_fatal(raw in prop::collection::vec(0_u8..40, 1..200)) {
        replay_all(&with_chunk(&raw));
    }
}

fn replay_all(bytes: &[u8]) {
    let Ok(mut replay) = Replay::open(Box::new(bytes)) else { return };
    while let Ok(Told::Event(_) | Told::Asked { .. }) = replay.next(&quiet()) {
        drop(replay.maps(Tid(1)));
    }
    let _ = (replay.standing(), replay.places(&[]));
}
