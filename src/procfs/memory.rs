//! Physical memory behind ranges of a process.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::patience::{Supplier, supplier};
use super::present::{self, Extent, Paged};
use crate::event::{Prot, Vma};
use crate::sys;
use crate::units::{Addr, PAGE, Range, Tid};

/// A process's memory, opened once: it can be read for as long as the kernel keeps it, also when the process is gone.
#[derive(Debug)]
pub struct HeldMemory {
    /// What was mapped when that was seen last.
    maps: Mutex<Arc<[Vma]>>,
    /// Which of it is in physical memory.
    pub pages: ResidentPages,
    mem: File,
    lines: File,
    mounts: File,
    /// Through which it was opened.
    tid: Tid,
}

impl HeldMemory {
    /// Opens the present memory of a task. Needs the right to trace.
    pub fn open(tid: Tid) -> io::Result<HeldMemory> {
        let (mem, pages) = (File::open(format!("/proc/{tid}/mem"))?, ResidentPages::open(tid)?);
        let (lines, mounts) = (File::open(format!("/proc/{tid}/maps"))?, File::open(format!("/proc/{tid}/mountinfo"))?);
        Ok(HeldMemory { maps: Mutex::new(super::maps::read(tid)?.into()), pages, mem, lines, mounts, tid })
    }

    /// What was mapped when that was seen last.
    pub fn maps(&self) -> Arc<[Vma]> {
        Arc::clone(&self.maps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is mapped by now.
    pub fn see_maps(&self, maps: Box<[Vma]>) {
        *self.maps.lock().unwrap_or_else(PoisonError::into_inner) = maps.into();
    }

    /// What is mapped now, or was when the process ended; where only a live task shows that, seen through `tid`, or as it was
    /// when it was seen last.
    pub fn maps_through(&self, tid: Tid) -> Arc<[Vma]> {
        if let Some(maps) = super::maps::of_open(&self.lines).filter(|maps| !maps.is_empty()) {
            return maps.into();
        }
        match super::maps::read(tid) {
            Ok(maps) if !maps.is_empty() => maps.into(),
            _ => self.maps(),
        }
    }

    /// Fills `buffer` from `addr`, up to where there is nothing more; gives how much that was.
    pub fn read_up_to(&self, addr: Addr, buffer: &mut [u8]) -> usize {
        present::read(self, &self.pages, addr, buffer, Extent::Found)
    }

    /// Fills `buffer` from `addr`.
    pub fn read(&self, addr: Addr, buffer: &mut [u8]) -> io::Result<()> {
        let filled = present::read(self, &self.pages, addr, buffer, Extent::Whole);
        if filled == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A page that can be read without waiting for anybody, and to which nobody writes: the vDSO's, or one of a file.
    pub fn steady_page(&self) -> Option<Addr> {
        let maps = self.maps();
        if let Some(vdso) = maps.iter().find(|vma| &*vma.name == b"[vdso]") {
            return Some(vdso.range.start());
        }
        let mut starts = maps.iter().filter(|vma| vma.is_file() && vma.prot == Prot::READ).map(|vma| vma.range.start());
        starts.find(|start| {
            let mut page = [Page::Missing];
            self.pages.states(*start, &mut page).is_ok() && page == [Page::There]
        })
    }
}

impl Paged for HeldMemory {
    fn touch(&self, addr: Addr, buffer: &mut [u8]) -> usize {
        present::touch(&self.mem, addr, buffer)
    }

    fn line_at(&self, addr: Addr) -> Option<Vma> {
        if let Ok(line) = super::maps::query_at(&self.lines, addr) {
            return line;
        }
        self.maps().iter().find(|vma| vma.range.contains(addr)).cloned()
    }

    fn tid(&self) -> Tid {
        self.tid
    }

    fn supplier(&self, device: u32) -> Supplier {
        supplier([BufReader::new(FromStart { file: &self.mounts, at: 0 })], device)
    }
}

/// An open file, from its first byte on, wherever others are reading it.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What pagemap knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// It can be read without waiting for anybody but the kernel.
    There,
    /// Nobody has touched it, or what it was has been given back.
    Missing,
    /// Protected from writes by a userfaultfd, and swapped out or missing: these look the same.
    Protected,
}

/// A process whose pages can be counted: /proc/PID/pagemap. Needs the right to trace.
#[derive(Debug)]
pub struct ResidentPages {
    pagemap: File,
}

impl ResidentPages {
    /// Opens a task's pagemap, which stays the one of its present address space.
    pub fn open(tid: Tid) -> io::Result<ResidentPages> {
        Ok(ResidentPages { pagemap: File::open(format!("/proc/{tid}/pagemap"))? })
    }

    /// The state of each page from that of `addr` on, of at most 64; gives of how many it is known: none behind the end of the
    /// address space, or when that is gone.
    pub fn states(&self, addr: Addr, states: &mut [Page]) -> io::Result<usize> {
        self.entries(addr, states.len(), |index, entry| states[index] = state(entry))
    }

    /// Whether a write to `addr` waits for nobody: to anonymous memory that is there, and not protected from writes by a
    /// userfaultfd.
    pub fn is_writable_at_once(&self, addr: Addr) -> bool {
        let mut writable = false;
        let known = self.entries(addr, 1, |_, entry| {
            writable = entry & (PRESENT | WRITE_PROTECTED | SHARED) == PRESENT;
        });
        known.is_ok_and(|known| known == 1) && writable
    }

    /// Up to `count` entries, at most 64, from that of `addr` on, by their highest byte; gives how many there are.
    fn entries(&self, addr: Addr, count: usize, mut each: impl FnMut(usize, u8)) -> io::Result<usize> {
        sys::count_read();
        let mut entries = [0u8; 8 * 64];
        let wanted = entries.len().min(8 * count);
        let read = self.pagemap.read_at(&mut entries[..wanted], addr.0 / PAGE * 8)?;
        entries[..read].chunks_exact(8).enumerate().for_each(|(index, entry)| each(index, entry[7]));
        Ok(read / 8)
    }

    /// Bytes of `range` that lie in physical memory.
    pub fn count(&self, range: Range) -> io::Result<u64> {
        match sys::resident_bytes(self.pagemap.as_fd(), range) {
            // Kernels before 6.7 know no PAGEMAP_SCAN.
            Err(nix::errno::Errno::ENOTTY) => self.count_entries(range),
            result => Ok(result?),
        }
    }

    /// Pages of `range` that have contents, in physical memory or swapped out.
    pub fn touched(&self, range: Range) -> io::Result<Vec<Range>> {
        let mut touched = Vec::new();
        self.for_each_entry(range, |page, entry| {
            if entry & (PRESENT | SWAPPED) != 0 {
                touched.extend(Range::of_len(Addr(page * PAGE), PAGE));
            }
        })?;
        Ok(touched)
    }

    /// All pages of `maps`, which are in order, that lie in physical memory, as ranges in order.
    pub fn ranges(&self, maps: &[Range]) -> io::Result<Vec<Range>> {
        let (Some(first), Some(last)) = (maps.first(), maps.last()) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let Some(whole) = Range::new(first.start(), last.end()) else { return Ok(found) };
        // One walk over all: the kernel passes over what is not mapped.
        match sys::resident_ranges(self.pagemap.as_fd(), whole, &mut |range| found.push(range)) {
            Err(nix::errno::Errno::ENOTTY) => {
                for map in maps {
                    self.for_each_entry(*map, |page, entry| {
                        if entry & PRESENT != 0 {
                            found.extend(Range::of_len(Addr(page * PAGE), PAGE));
                        }
                    })?;
                }
                Ok(found)
            }
            result => Ok(result.map(|()| found)?),
        }
    }

    fn count_entries(&self, range: Range) -> io::Result<u64> {
        let mut resident = 0;
        self.for_each_entry(range, |_, entry| resident += if entry & PRESENT != 0 { PAGE } else { 0 })?;
        Ok(resident)
    }

    /// Reads the entries one by one: 8 bytes a page.
    fn for_each_entry(&self, range: Range, mut each: impl FnMut(u64, u8)) -> io::Result<()> {
        let mut entries = vec![0u8; 8 * 4096];
        let mut page = range.start().0 / PAGE;
        let end = range.end().0 / PAGE;
        while page < end {
            let wanted = usize::try_from((end - page) * 8).unwrap_or(usize::MAX).min(entries.len());
            let read = self.pagemap.read_at(&mut entries[..wanted], page * 8)?;
            if read < 8 {
                break;
            }
            for entry in entries[..read].chunks_exact(8) {
                each(page, entry[7]);
                page += 1;
            }
        }
        Ok(())
    }
}

/// Bits of an entry's highest byte (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u8 = 0x80;
const SWAPPED: u8 = 0x40;
const SHARED: u8 = 0x20;
const WRITE_PROTECTED: u8 = 0x02;

fn state(entry: u8) -> Page {
    match entry & (PRESENT | SWAPPED | WRITE_PROTECTED) {
        0 | WRITE_PROTECTED => Page::Missing,
        entry if entry & (PRESENT | WRITE_PROTECTED) == WRITE_PROTECTED => Page::Protected,
        _ => Page::There,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is swapped out comes back by itself; not so what a userfaultfd protects, which may be missing. Guards are there,
    /// and cannot be read.
    #[test]
    fn states_of_pages() {
        let (there, protected, missing) = (Page::There, Page::Protected, Page::Missing);
        let states = [0x80, 0x82, 0xa0, 0x40, 0x44, 0x42, 0x02, 0x00].map(state);
        assert_eq!(states, [there, there, there, there, there, protected, missing, missing]);
    }

    /// Both ways to count agree: of eight fresh pages, those are resident that were written to.
    #[test]
    fn written_pages_are_resident() {
        let length = std::num::NonZeroUsize::new(8 * PAGE as usize).unwrap();
        let flags = nix::sys::mman::MapFlags::MAP_PRIVATE;
        let prot = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        #[allow(unsafe_code)]
        // SAFETY: a fresh mapping, used within its bounds, unmapped at the end.
        let range = unsafe {
            let base = nix::sys::mman::mmap_anonymous(None, length, prot, flags).unwrap();
            nix::sys::mman::madvise(base, length.get(), nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE).ok();
            for page in [1, 2, 6] {
                base.cast::<u8>().add(page * PAGE as usize).write(1);
            }
            Range::of_len(Addr(base.as_ptr() as u64), length.get() as u64).unwrap()
        };
        let pages = ResidentPages::open(Tid(std::process::id() as i32)).unwrap();
        assert_eq!(pages.count(range).unwrap(), 3 * PAGE);
        assert_eq!(pages.count_entries(range).unwrap(), 3 * PAGE);
        let page = |page| Range::of_len(Addr(range.start().0 + page * PAGE), PAGE).unwrap();
        assert_eq!(pages.touched(range).unwrap(), [1, 2, 6].map(page));
        let ranges = pages.ranges(&[range]).unwrap();
        assert_eq!(ranges.iter().map(|range| range.bytes()).collect::<Vec<_>>(), [2 * PAGE, PAGE]);
    }
}
