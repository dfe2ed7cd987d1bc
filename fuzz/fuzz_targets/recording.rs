//! Any bytes as a recording: read, replayed, and reported.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::source::recording::digest(bytes);
});
