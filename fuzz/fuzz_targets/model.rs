//! Any bytes as events: into the model, which must hold together, and judged.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::diagnose::digest(bytes);
});
