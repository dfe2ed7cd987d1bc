//! Which code is mapped where in one address space.

use std::io;

use crate::event::{Prot, Vma};
use crate::procfs::maps;
use crate::symbols::module::{ModuleId, Modules};
use crate::symbols::places::Place;
use crate::units::{Addr, Range, Tid};

/// The executable mappings of an address space, as they were when it was read.
#[derive(Clone, Debug, Default)]
pub struct CodeMap {
    /// In order of address, as the kernel lists them.
    regions: Box<[Region]>,
}

/// An executable mapping.
#[derive(Clone, Copy, Debug)]
struct Region {
    range: Range,
    /// Where in the file it starts.
    offset: u64,
    /// The file; none for code made at run time.
    module: Option<ModuleId>,
}

impl CodeMap {
    /// Reads the executable lines of /proc/TID/maps; files that were not seen yet are opened.
    ///
    /// # Errors
    /// When it cannot be read: the task is gone.
    pub fn read(tid: Tid, modules: &mut Modules) -> io::Result<CodeMap> {
        Ok(CodeMap::of(tid, &maps::executable(tid)?, modules))
    }

    /// The same of maps that were read before.
    pub fn of(tid: Tid, maps: &[Vma], modules: &mut Modules) -> CodeMap {
        let executable = maps.iter().filter(|vma| vma.prot.contains(Prot::EXEC));
        let mut regions: Vec<Region> = executable
            .map(|vma| Region { range: vma.range, offset: vma.offset, module: modules.of(tid, vma) })
            .collect();
        regions.sort_unstable_by_key(|region| region.range.start());
        CodeMap { regions: regions.into() }
    }

    /// One region that a file begins with, or code without a file.
    pub(super) fn of_region(range: Range, module: Option<ModuleId>) -> CodeMap {
        CodeMap { regions: [Region { range, offset: 0, module }].into() }
    }

    /// Whether there is code at any of these addresses.
    pub fn overlaps(&self, range: Range) -> bool {
        let at = self.regions.partition_point(|region| region.range.end() <= range.start());
        self.regions.get(at).is_some_and(|region| region.range.start() < range.end())
    }

    /// The code at an address; none where there is none.
    pub fn locate(&self, addr: Addr) -> Option<Place> {
        let region = self.regions.get(self.regions.partition_point(|region| region.range.end() <= addr))?;
        if !region.range.contains(addr) {
            return None;
        }
        let within = addr.0 - region.range.start().0;
        Some(match region.module {
            Some(module) => Place::Module { module, offset: region.offset.checked_add(within)? },
            None => Place::Anonymous(addr),
        })
    }
}
