//! Names of places: function, source file and line, looked up when a report is written.
//!
//! The process may be gone by then, and its files deleted. What is read are the files that [`Modules`] holds open, the
//! separate debug information that was found with them, and the maps that just-in-time compilers leave in /tmp. All of
//! it is of the target's making: a lookup that fails, for whatever reason, yields the module and the offset.

mod demangle;
mod elf_copy;
pub mod perf_map;
mod survey;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use blazesym::symbolize::source::{Elf, Source as BlazesymSource};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};
use object::{Object, ObjectSymbol};

use self::demangle::{cut, demangle, is_mangled};
use self::elf_copy::Source;
use self::perf_map::{PerfMap, Writer};
use super::module::{Contents, Module, ModuleId, Modules};
use super::places::Place;
use crate::diagnose::finding::Frame;
use crate::units::{Addr, Pid};

/// What memory without a file is called.
const ANONYMOUS: &str = "[anonymous]";

/// Functions inlined into each other at one place beyond this number are left out.
const MOST_INLINED: usize = 64;

/// Memory for all names together, in bytes: debug information may give each place hundreds of kilobytes of them.
const MOST_TEXT: usize = 256 << 20;

/// Memory for the maps of all processes' run-time code, in bytes.
const MOST_PERF_MAPS: u64 = 256 << 20;

/// Bytes of debug files that are read for their checksums, all together: files without contents may be large.
const MOST_CHECKED: u64 = 8 << 30;

/// A symbol without a size, as handwritten assembly has, is believed for so many bytes.
const NEAR: usize = 256;

/// Looks up names, and remembers them. Belongs to one [`Modules`].
#[derive(Debug)]
pub struct Names {
    symbolizer: Symbolizer,
    /// Where the names of each module are, best first.
    sources: HashMap<ModuleId, Vec<Source>>,
    found: HashMap<(ModuleId, u64), Vec<Frame>>,
    /// Names of code that was made at run time, from somebody who has looked them up.
    known: HashMap<(Pid, Addr), Frame>,
    /// What is left for `found`, in bytes.
    text_left: usize,
    /// What is left for copies of files, in bytes.
    budget: u64,
    /// What is left of [`MOST_CHECKED`].
    check_left: u64,
    writers: HashMap<Pid, Writer>,
    perf_maps: HashMap<Pid, PerfMap>,
}

impl Default for Names {
    fn default() -> Names {
        // Links to other files are ours to follow; blazesym takes C's `h` for C++'s `unsigned char`.
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_demangling(false)
            .set_debug_dirs(Some::<[&str; 0]>([]))
            .build();
        Names {
            symbolizer,
            sources: HashMap::new(),
            found: HashMap::new(),
            known: HashMap::new(),
            text_left: MOST_TEXT,
            budget: elf_copy::BUDGET,
            check_left: MOST_CHECKED,
            writers: HashMap::new(),
            perf_maps: HashMap::new(),
        }
    }
}

impl Names {
    /// The functions at a place, innermost inlined one first; never empty. Without names it is one frame with the
    /// module and the offset.
    ///
    /// Of a call's place the byte before the return address tells the caller's line. `pid` is the process in whose
    /// address space an anonymous place lies; without it such a place has no name.
    pub fn frames(&mut self, modules: &Modules, place: Place, pid: Option<Pid>) -> Vec<Frame> {
        match place {
            Place::Anonymous(addr) => vec![self.anonymous(addr, pid)],
            Place::Module { module: id, offset } => {
                if let Some(frames) = self.found.get(&(id, offset)) {
                    return frames.clone();
                }
                let module = modules.get(id);
                if self.text_left == 0 {
                    return vec![unnamed(&module.path, offset)];
                }
                // blazesym reads what the target wrote: where it panics, that is a file without names.
                let frames = catch_unwind(AssertUnwindSafe(|| self.in_module(id, module, offset))).ok().flatten();
                let frames = frames.unwrap_or_else(|| vec![unnamed(&module.path, offset)]);
                self.text_left = self.text_left.saturating_sub(frames.iter().map(Frame::bytes).sum());
                self.found.insert((id, offset), frames.clone());
                frames
            }
        }
    }

    /// The function that a place lies in, without those inlined there: what a thread was started with.
    pub fn function(&mut self, modules: &Modules, place: Place, pid: Option<Pid>) -> Option<Frame> {
        self.frames(modules, place, pid).pop()
    }

    /// Takes over the names of a place in a process from somebody who has looked them up.
    pub fn know(&mut self, place: Place, pid: Pid, frames: &[Frame]) {
        match (place, frames) {
            (Place::Module { module, offset }, [_, ..]) => drop(self.found.insert((module, offset), frames.to_vec())),
            (Place::Anonymous(addr), [frame]) => drop(self.known.insert((pid, addr), frame.clone())),
            _ => {}
        }
    }

    /// Takes notice of who a process was while it lived, so that the map of its run-time code is found after its end.
    pub fn remember(&mut self, pid: Pid, writer: Writer) {
        self.writers.insert(pid, writer);
    }

    fn anonymous(&mut self, addr: Addr, pid: Option<Pid>) -> Frame {
        if let Some(frame) = pid.and_then(|pid| self.known.get(&(pid, addr))) {
            return frame.clone();
        }
        let name = pid.and_then(|pid| {
            self.writers.extend(Writer::of(pid).map(|writer| (pid, writer)));
            let others = self.perf_maps.iter().filter(|(other, _)| **other != pid).map(|(_, map)| map.bytes());
            let room = MOST_PERF_MAPS.saturating_sub(others.sum());
            let map = self.perf_maps.entry(pid).or_default();
            map.refresh(pid, self.writers.get(&pid).copied(), room);
            map.name(addr).map(|name| demangle(&name))
        });
        Frame { symbol: name, ..unnamed(ANONYMOUS, addr.0) }
    }

    fn in_module(&mut self, id: ModuleId, module: &Module, offset: u64) -> Option<Vec<Frame>> {
        // Symbols and debug information speak of addresses. A separate debug file has those of its module, but none of
        // its offsets.
        let address = module.linked_address(offset)?;
        let frame = unnamed(&module.path, offset);
        if let Contents::Copy(bytes) = &module.contents {
            return Some(vec![Frame { symbol: Some(dynamic_symbol(bytes, address)?), ..frame }]);
        }
        let sources = self.sources.entry(id).or_insert_with(|| sources(module, &mut self.budget, &mut self.check_left));
        let symbolizer = &self.symbolizer;
        sources.iter().find_map(|source| look_up(symbolizer, source, address, &frame))
    }
}

fn unnamed(module: &str, offset: u64) -> Frame {
    Frame { module: cut(module).to_owned(), offset, symbol: None, file: None, line: None }
}

/// Where names of a module may be: its separate debug information, then itself.
fn sources(module: &Module, budget: &mut u64, check_left: &mut u64) -> Vec<Source> {
    let Contents::File(file) = &module.contents else { return Vec::new() };
    if !module.is_unchanged() {
        return Vec::new();
    }
    let debug_file = module.debug_files.iter().find(|candidate| candidate.is_right(check_left));
    let files = debug_file.map(|found| &found.file).into_iter().chain([file]);
    files.filter_map(|file| Source::of(file, budget)).collect()
}

/// By debug information, or by symbols where there is none, or none that can be read.
fn look_up(symbolizer: &Symbolizer, source: &Source, address: u64, frame: &Frame) -> Option<Vec<Frame>> {
    if source.debug
        && let Some(symbol) = symbol_at(symbolizer, source, address, Information::Debug)
        && let Some(mut frames) = frames_of(&symbol, frame)
    {
        if let (Some(outer), false) = (frames.last_mut(), is_mangled(&symbol.name)) {
            outer.symbol = linkage_name(symbolizer, source, address, symbol.addr).or(outer.symbol.take());
        }
        return Some(frames);
    }
    frames_of(&symbol_at(symbolizer, source, address, Information::Symbols)?, frame)
}

/// What is asked for a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Information {
    Debug,
    Symbols,
}

fn symbol_at<'a>(from: &'a Symbolizer, source: &Source, address: u64, what: Information) -> Option<Sym<'a>> {
    let mut elf = Elf::new(source.path());
    elf.debug_syms = what == Information::Debug;
    let found = from.symbolize_single(&BlazesymSource::Elf(elf), Input::VirtOffset(address)).ok()?;
    match found {
        Symbolized::Sym(symbol) => Some(symbol),
        Symbolized::Unknown(_) => None,
    }
}

/// What the linker calls the function that starts at `start`, if that tells more than the debug information does: gcc
/// calls every lambda `operator()` there, and leaves out anonymous namespaces.
fn linkage_name(from: &Symbolizer, source: &Source, address: u64, start: u64) -> Option<String> {
    let symbol = symbol_at(from, source, address, Information::Symbols)?;
    (symbol.addr == start && is_mangled(&symbol.name)).then(|| demangle(&symbol.name))
}

fn frames_of(symbol: &Sym<'_>, frame: &Frame) -> Option<Vec<Frame>> {
    // The nearest symbol below says little where it does not say how long it is.
    let believed = symbol.size.is_some() || symbol.offset < NEAR;
    let name = |name: &Cow<'_, str>| (believed && !name.is_empty()).then(|| demangle(name));
    let make = |symbol: Option<String>, code: Option<&CodeInfo<'_>>| Frame {
        symbol,
        file: code.map(|code| cut(&code.to_path().to_string_lossy()).to_owned()).filter(|file| !file.is_empty()),
        line: code.and_then(|code| code.line).filter(|line| *line > 0),
        ..frame.clone()
    };
    let inlined = symbol.inlined.iter().rev().take(MOST_INLINED);
    let mut frames: Vec<Frame> = inlined.map(|inlined| make(name(&inlined.name), inlined.code_info.as_ref())).collect();
    frames.push(make(name(&symbol.name), symbol.code_info.as_deref()));
    frames.iter().any(|frame| frame.symbol.is_some()).then_some(frames)
}

/// The exported function that an address lies in. Of several names the strong one: `__vdso_time`, not `time`.
fn dynamic_symbol(elf: &[u8], address: u64) -> Option<String> {
    let elf = object::File::parse(elf).ok()?;
    let holds = |symbol: &object::Symbol<'_, '_>| {
        symbol.is_definition() && address.checked_sub(symbol.address()).is_some_and(|offset| offset < symbol.size())
    };
    let symbol = elf.dynamic_symbols().filter(holds).min_by_key(|symbol| symbol.is_weak())?;
    Some(demangle(&String::from_utf8_lossy(symbol.name_bytes().ok()?)))
}
