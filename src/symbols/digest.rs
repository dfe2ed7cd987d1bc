//! Any bytes as an ELF file that a target has mapped, for fuzzing.

use std::io::Write;
use std::path::Path;

use super::module::{Contents, Module, Modules};
use super::names::Names;
use super::places::Place;
use super::unwind;
use crate::sys;
use crate::threadlib::elf::MappedSymbols;

/// Looks up names, unwind tables, functions and the thread library's symbols in a file that holds `bytes`.
pub fn digest(bytes: &[u8]) {
    let Ok(mut file) = sys::memory_file("vmtrace-fuzz") else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    MappedSymbols::digest(bytes);
    let own = super::module::own();
    let module = Module::new(own, Path::new("/nonexistent/fuzz"), Contents::File(file));
    unwind::digest_module(&module);
    let segments: Vec<(u64, u64)> = module.file_ranges().take(4).collect();
    let mut modules = Modules::default();
    let Some(id) = modules.add(module) else { return };
    let mut names = Names::default();
    for (start, bytes) in segments {
        for offset in [0, bytes / 3, bytes / 2, bytes.saturating_sub(1)] {
            names.frames(&modules, Place::Module { module: id, offset: start.saturating_add(offset) }, None);
        }
    }
}
