//! The corpora of the fuzz targets, through the same functions: as they are, cut off at many places, and damaged. So
//! continuous integration fuzzes a little with a stable compiler.

use std::fs;
use std::path::PathBuf;

/// Of each input so many beginnings are tried, and so many damaged copies.
const CUTS: usize = 24;
const DAMAGED: u64 = 48;

/// Bytes that are changed in a damaged copy.
const CHANGES: u64 = 4;

/// Larger inputs are tried as they are, and a few times damaged: an unoptimised build takes long for them.
const LARGE: usize = 64 << 10;

/// Passes all inputs of a target's corpus to its function, which fails the test by a panic.
#[track_caller]
fn replay_corpus(name: &str, digest: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("no corpus {}: {error}", folder.display()));
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.expect("the corpus can be read").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let bytes = fs::read(&input).expect("an input can be read");
        // Of a panic this tells by which input it was.
        println!("{}", input.display());
        digest(&bytes);
        let share = if bytes.len() > LARGE { 8 } else { 1 };
        let cuts = CUTS / share;
        for cut in 0..cuts {
            println!("  cut {cut}");
            digest(&bytes[..bytes.len() * cut / cuts]);
        }
        let mut random = Random(bytes.len() as u64 + 1);
        for number in 0..DAMAGED / share as u64 {
            println!("  damaged {number}");
            digest(&damaged(&bytes, &mut random));
        }
    }
}

/// A copy with a few bytes changed, to values that parsers stumble over more often than others.
fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const VALUES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xff, b'\n'];
    let mut damaged = bytes.to_vec();
    for _ in 0..CHANGES {
        let (place, value) = (random.below(bytes.len() as u64), random.below(2 * VALUES.len() as u64) as usize);
        if let Some(byte) = damaged.get_mut(place as usize) {
            *byte = VALUES.get(value).copied().unwrap_or_else(|| random.below(256) as u8);
        }
    }
    damaged
}

/// The same numbers at each run: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound.max(1)
    }
}

#[test]
fn recording() {
    replay_corpus("recording", vmtrace::source::recording::digest);
}

#[test]
fn procfs() {
    replay_corpus("procfs", |bytes| {
        vmtrace::procfs::digest(bytes);
        vmtrace::symbols::names::perf_map::PerfMap::digest(bytes);
    });
}

#[test]
fn manifest() {
    replay_corpus("manifest", vmtrace::cli::manifest::digest);
}

#[test]
fn elf() {
    replay_corpus("elf", vmtrace::symbols::digest);
}

#[test]
fn thread_lists() {
    replay_corpus("thread_lists", vmtrace::threadlib::digest);
}

#[test]
fn unwinder() {
    replay_corpus("unwinder", vmtrace::symbols::unwind::digest);
}

#[test]
fn perf_records() {
    replay_corpus("perf_records", vmtrace::source::perf::record::digest);
}

#[test]
fn model() {
    replay_corpus("model", vmtrace::diagnose::digest);
}

#[test]
fn strace_log() {
    replay_corpus("strace_log", vmtrace::source::strace_log::digest);
}
