//! Any bytes as files of /proc, and as the map of run-time code.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::procfs::digest(bytes);
    vmtrace::symbols::names::perf_map::PerfMap::digest(bytes);
});
