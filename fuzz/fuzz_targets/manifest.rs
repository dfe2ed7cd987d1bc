//! Any bytes as a manifest of vmtrace check.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::cli::manifest::digest(bytes);
});
