//! What the fuzzers have found, and what they began with: each file of `fuzz/corpus/TARGET` goes through what the target of that
//! name does with it.

use std::fs;
use std::path::Path;

use vmtrace::source::strace_log;

/// Each input of a target, of which there are `least` or more.
fn each(target: &str, least: usize, take: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= least, "{}: {} files", corpus.display(), files.len());
    for file in files {
        // What panics is the last one named.
        println!("{}", file.display());
        take(&fs::read(&file).unwrap());
    }
}

#[test]
fn strace_logs() {
    each("strace_log", 50, strace_log::digest);
}
