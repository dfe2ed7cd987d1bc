//! Any bytes as what lies in a ring of perf events.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::source::perf::record::digest(bytes);
});
