//! Any bytes as an ELF file: symbols, debug information, unwind tables, functions.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::symbols::digest(bytes);
});
