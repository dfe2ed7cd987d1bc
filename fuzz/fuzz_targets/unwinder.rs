//! Any bytes as a thread's registers, stack, unwind tables and code.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    vmtrace::symbols::unwind::digest(bytes);
});
