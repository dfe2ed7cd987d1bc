//! Any bytes as a log of strace: read, put in order, and into the model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vmtrace::source::strace_log;

fuzz_target!(|bytes: &[u8]| {
    strace_log::digest(bytes);
});
