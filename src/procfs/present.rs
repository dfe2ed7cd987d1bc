//! A target's memory, read without touching what is not there.
//!
//! A page that is missing is supplied when somebody touches it, the target or we: by the kernel, by whoever listens to a
//! userfaultfd(2), by a program that serves a file system. If these do not answer, the read never returns, and only SIGKILL
//! ends it. So /proc/PID/pagemap, which touches nothing, is asked first, and for a page that is not there, maps: anonymous
//! memory has nothing in it yet (also what a userfaultfd would supply counts as empty), of a program's file system the file
//! itself is read, which can be given up, and the kernel may bring what lies on a disk.
//!
//! What may be there is read by /proc/PID/mem. Unlike process_vm_readv(2) that fails where a userfaultfd would have to be
//! waited for (it faults without FAULT_FLAG_ALLOW_RETRY: `handle_userfault` in fs/userfaultfd.c), also where another thread of
//! the target gives a page back between question and read. For a program's file system that race remains. Memory of devices,
//! which even to read may do something, is never there for pagemap (VM_PFNMAP in mm/pagewalk.c), and is not supplied.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use super::mapped_file;
use super::memory::{Page, ResidentPages};
use super::patience::{Supplier, mounts_of, supplier};
use crate::event::{Prot, Vma};
use crate::sys;
use crate::units::{Addr, PAGE, Tid, page_down};

/// Pages that are asked for at once.
const AT_ONCE: usize = 32;

/// How far a read goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// To its end.
    Whole,
    /// To the first page that is not there, behind the first one that is read.
    Found,
}

/// A memory of which some pages are there, and how it can be read.
pub(super) trait Paged {
    /// Reads what is there; gives how much that was.
    fn touch(&self, addr: Addr, buffer: &mut [u8]) -> usize;
    /// The line of maps that holds an address.
    fn line_at(&self, addr: Addr) -> Option<Vma>;
    /// A task by which a file of the maps may be found.
    fn tid(&self) -> Tid;
    /// Who supplies the files on a device of the maps.
    fn supplier(&self, device: u32) -> Supplier;
}

/// Fills `buffer` from `addr` as far as that can be done without waiting for anybody; gives how far.
pub(super) fn read(memory: &dyn Paged, pages: &ResidentPages, addr: Addr, buffer: &mut [u8], extent: Extent) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(at) = addr.0.checked_add(filled as u64).map(Addr) else { break };
        let within = (at.0 - page_down(at.0)) as usize;
        let left = buffer.len() - filled;
        let mut states = [Page::Missing; AT_ONCE];
        let asked = (within + left).div_ceil(PAGE as usize).min(AT_ONCE);
        let Ok(known @ 1..) = pages.states(at, &mut states[..asked]) else { break };
        let run = states[..known].iter().take_while(|page| **page == Page::There).count();
        if run > 0 {
            let bytes = (run * PAGE as usize - within).min(left);
            let read = memory.touch(at, &mut buffer[filled..filled + bytes]);
            filled += read;
            if read < bytes {
                break;
            }
        } else if extent == Extent::Whole || filled == 0 {
            let bytes = (PAGE as usize - within).min(left);
            if supply(memory, at, states[0], &mut buffer[filled..filled + bytes]).is_none() {
                break;
            }
            filled += bytes;
        } else {
            break;
        }
    }
    filled
}

/// Reads an open /proc/PID/mem up to where it ends; gives how much that was.
pub(super) fn touch(mem: &File, addr: Addr, buffer: &mut [u8]) -> usize {
    sys::count_read();
    let mut filled = 0;
    while filled < buffer.len() {
        match mem.read_at(&mut buffer[filled..], addr.0 + filled as u64) {
            Ok(0) | Err(_) => break,
            Ok(read) => filled += read,
        }
    }
    filled
}

/// What a page would have if it were there.
fn supply(memory: &dyn Paged, at: Addr, page: Page, buffer: &mut [u8]) -> Option<()> {
    let line = memory.line_at(at).filter(|line| line.prot.contains(Prot::READ))?;
    let touch = |buffer: &mut [u8]| (memory.touch(at, buffer) == buffer.len()).then_some(());
    if line.is_file() {
        if memory.supplier(line.device) == Supplier::Storage {
            return touch(buffer);
        }
        let offset = line.offset.checked_add(at.0 - line.range.start().0)?;
        let contents = mapped_file::read_at(memory.tid(), &line, offset, buffer.len())?;
        // Behind its end in its last page there are zeroes, and behind that page nothing.
        let (read, rest) = buffer.split_at_mut_checked(contents.len()).filter(|(read, _)| !read.is_empty())?;
        read.copy_from_slice(&contents);
        rest.fill(0);
        return Some(());
    }
    let is_anonymous = matches!(&*line.name, b"" | b"[heap]" | b"[stack]") || line.name.starts_with(b"[anon:");
    match page {
        Page::Missing if is_anonymous => {
            buffer.fill(0);
            Some(())
        }
        Page::Protected if is_anonymous => touch(buffer),
        // The kernel has it ready for everybody.
        _ if &*line.name == b"[vdso]" => touch(buffer),
        _ => None,
    }
}

/// The memory of a task that lives: the address space that it has when it is read first.
#[derive(Clone, Debug)]
pub struct LiveMemory {
    tid: Tid,
    open: Arc<OnceLock<Open>>,
}

/// What stays that of one address space. Each may be kept from us by a container, or missing in the kernel; where nothing
/// tells what is there, memory is read as it is.
#[derive(Debug)]
struct Open {
    pages: Option<ResidentPages>,
    mem: Option<File>,
}

impl LiveMemory {
    /// The present memory of a task; opened when it is read first.
    pub fn of(tid: Tid) -> LiveMemory {
        LiveMemory { tid, open: Arc::default() }
    }

    /// The same memory through another task that has it; that task's present one where this is over. To open it costs as much
    /// as some ten reads do, and more of a task that is new.
    pub fn through(&self, tid: Tid) -> LiveMemory {
        let pages = self.open.get().and_then(|open| open.pages.as_ref());
        let lives = pages.is_some_and(|pages| matches!(pages.states(Addr(0), &mut [Page::Missing]), Ok(1)));
        if lives { LiveMemory { tid, open: Arc::clone(&self.open) } } else { LiveMemory::of(tid) }
    }

    /// Fills `buffer` from `addr`, all of it.
    ///
    /// # Errors
    /// EFAULT where the memory ends, or cannot be had without waiting; whatever else the kernel says.
    pub fn read(&self, addr: Addr, buffer: &mut [u8]) -> Result<(), Errno> {
        let filled = match self.open() {
            Open { pages: Some(pages), .. } => read(self, pages, addr, buffer, Extent::Whole),
            Open { mem: Some(mem), .. } => touch(mem, addr, buffer),
            Open { .. } => return sys::read_memory(self.tid, addr, buffer),
        };
        if filled == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Fills `buffer` from `addr` up to where there is nothing more; gives how much that was.
    pub fn read_up_to(&self, addr: Addr, buffer: &mut [u8]) -> usize {
        match self.open().pages.as_ref() {
            Some(pages) => read(self, pages, addr, buffer, Extent::Found),
            None => self.touch(addr, buffer),
        }
    }

    /// Whether what lies at `addr` can be written to without waiting for anybody: anonymous memory that is there.
    pub fn is_writable_at_once(&self, addr: Addr) -> bool {
        self.open().pages.as_ref().is_none_or(|pages| pages.is_writable_at_once(addr))
    }

    fn open(&self) -> &Open {
        self.open.get_or_init(|| Open {
            pages: ResidentPages::open(self.tid).ok(),
            mem: File::open(format!("/proc/{}/mem", self.tid)).ok(),
        })
    }
}

impl Paged for LiveMemory {
    fn touch(&self, addr: Addr, buffer: &mut [u8]) -> usize {
        match &self.open().mem {
            Some(mem) => touch(mem, addr, buffer),
            None => sys::read_memory_up_to(self.tid, addr, buffer).unwrap_or(0),
        }
    }

    fn line_at(&self, addr: Addr) -> Option<Vma> {
        super::maps::line_at(self.tid, addr)
    }

    fn tid(&self) -> Tid {
        self.tid
    }

    fn supplier(&self, device: u32) -> Supplier {
        supplier(mounts_of(self.tid), device)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use std::io::Write;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};

    use super::*;
    use crate::units::Range;

    fn own() -> Tid {
        Tid(std::process::id() as i32)
    }

    /// Fresh pages, of which those with these numbers have been written to.
    fn pages(count: usize, prot: ProtFlags, written: &[usize]) -> Addr {
        let length = NonZeroUsize::new(count * PAGE as usize).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: a fresh mapping, used within its bounds.
        unsafe {
            let base = mmap_anonymous(None, length, prot, MapFlags::MAP_PRIVATE).unwrap();
            nix::sys::mman::madvise(base, length.get(), nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE).ok();
            for page in written {
                base.cast::<u8>().add(page * PAGE as usize).write(1);
            }
            Addr(base.as_ptr() as u64)
        }
    }

    /// Pages that are not there read as what they would have, and are not there afterwards either.
    #[test]
    fn a_look_leaves_the_pages_as_they_are() {
        let start = pages(6, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, &[1, 2, 4]);
        let memory = LiveMemory::of(own());
        let mut bytes = vec![7; 6 * PAGE as usize];
        memory.read(start, &mut bytes).unwrap();
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        assert_eq!(written, [1, 2, 4].map(|page| page * PAGE as usize));
        let resident = ResidentPages::open(own()).unwrap();
        assert_eq!(resident.count(Range::of_len(start, 6 * PAGE).unwrap()).unwrap(), 3 * PAGE);
    }

    /// A read that may be short goes on over what is there, and stops before what is not, unless it begins with that.
    #[test]
    fn a_short_read_stops_before_a_missing_page() {
        let start = pages(6, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, &[1, 2, 4]);
        let memory = LiveMemory::of(own());
        let mut bytes = vec![0; 6 * PAGE as usize];
        assert_eq!(memory.read_up_to(Addr(start.0 + PAGE + 8), &mut bytes), 2 * PAGE as usize - 8);
        assert_eq!(memory.read_up_to(Addr(start.0 + 8), &mut bytes), 3 * PAGE as usize - 8);
        assert_eq!(memory.read_up_to(Addr(start.0 + 3 * PAGE), &mut bytes[..9]), 9);
    }

    /// What the target cannot read is not there for us either, nor is what is mapped nowhere.
    #[test]
    fn guards_and_holes_cannot_be_read() {
        let start = pages(2, ProtFlags::PROT_NONE, &[]);
        let memory = LiveMemory::of(own());
        assert_eq!(memory.read(start, &mut [0; 8]), Err(Errno::EFAULT));
        assert_eq!(memory.read(Addr(0x10), &mut [0; 8]), Err(Errno::EFAULT));
        assert_eq!(memory.read(Addr(u64::MAX - 3), &mut [0; 8]), Err(Errno::EFAULT));
        assert_eq!(memory.read_up_to(Addr(u64::MAX - 3), &mut [0; 8]), 0);
    }

    /// A page of a file that nobody has touched has what the file has, be it on a disk or in memory, or on a device of which
    /// nobody knows who supplies it.
    #[test]
    fn pages_of_files_are_supplied() {
        let on_disk = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let in_memory = memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap();
        for mut file in [on_disk, in_memory.into()] {
            let contents: Vec<u8> = (0..3 * PAGE as usize / 2).map(|at| at as u8 | 1).collect();
            file.write_all(&contents).unwrap();
            let length = NonZeroUsize::new(3 * PAGE as usize).unwrap();
            #[allow(unsafe_code)]
            // SAFETY: a fresh mapping of which nothing is touched.
            let base = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &file, 0).unwrap() };
            let (start, memory) = (Addr(base.as_ptr() as u64), LiveMemory::of(own()));
            let mut bytes = vec![7; 2 * PAGE as usize];
            memory.read(start, &mut bytes).unwrap();
            assert_eq!(bytes[..contents.len()], contents);
            assert!(bytes[contents.len()..].iter().all(|byte| *byte == 0));
            assert_eq!(memory.read(Addr(start.0 + 2 * PAGE), &mut [0]), Err(Errno::EFAULT), "the file has ended there");
        }
    }

    /// What a device maps is not touched while nobody else has: /dev/zero's private pages are anonymous, and have nothing.
    #[test]
    fn devices_are_left_alone() {
        let device = File::open("/dev/zero").unwrap();
        let length = NonZeroUsize::new(PAGE as usize).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: a fresh mapping of which nothing is touched.
        let base = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &device, 0).unwrap() };
        let start = Addr(base.as_ptr() as u64);
        assert_eq!(LiveMemory::of(own()).read(start, &mut [0]), Err(Errno::EFAULT));
        assert_eq!(ResidentPages::open(own()).unwrap().count(Range::of_len(start, PAGE).unwrap()).unwrap(), 0);
    }

    /// What is open stays open for as long as there is something to be read, and no longer.
    #[test]
    fn what_is_over_makes_way() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let tid = Tid(child.id() as i32);
        let first = |tid| super::super::maps::read(tid).unwrap()[0].range.start();
        let (memory, mut magic) = (LiveMemory::of(tid), [0; 4]);
        memory.read(first(tid), &mut magic).unwrap();
        let again = memory.through(own());
        assert!(Arc::ptr_eq(&memory.open, &again.open));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(again.read(Addr(PAGE), &mut magic), Err(Errno::EFAULT));
        let other = again.through(own());
        assert!(!Arc::ptr_eq(&memory.open, &other.open));
        other.read(first(own()), &mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
    }

    /// The vDSO is there, be it touched or not.
    #[test]
    fn the_vdso_can_be_read() {
        let maps = super::super::maps::read(own()).unwrap();
        let vdso = maps.iter().find(|vma| &*vma.name == b"[vdso]").unwrap();
        let mut bytes = vec![0; vdso.range.bytes() as usize];
        LiveMemory::of(own()).read(vdso.range.start(), &mut bytes).unwrap();
        assert_eq!(bytes[..4], *b"\x7fELF");
    }
}
