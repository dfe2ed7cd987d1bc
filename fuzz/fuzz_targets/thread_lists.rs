//! Any bytes as the memory in which thread lists lie.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::threadlib::digest(bytes);
});
