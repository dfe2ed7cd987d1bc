//! A naive kernel: an arena of a few pages, one entry each, and the rules of Linux 6.18 written out page by page.
//!
//! It decides whether a call succeeds and what it returns, as well as what it does. What the kernel calls a VMA is here
//! a run of pages that are alike.

mod heap;
mod moves;
mod protect;
mod shm;

use std::collections::HashMap;
use std::ops::Range as Span;

use syscalls::Errno;
use vmtrace::abi::{READ_IMPLIES_EXEC, madv, map, mremap, prot};
use vmtrace::event::{Call, Prot, Sharing, Vma};
use vmtrace::units::{Addr, PAGE, Range, page_down, page_up};

/// Where the arena lies.
pub const BASE: u64 = 0x7000_0000_0000;
/// Pages in it.
pub const PAGES: usize = 48;
/// The page where the break starts.
pub const HEAP: usize = 30;
/// A file that may be mapped in any way.
pub const FILE: i32 = 3;
/// A file that was opened for reading only.
pub const READ_ONLY_FILE: i32 = 4;
/// SHM_RDONLY, SHM_REMAP and SHM_EXEC of shmat(2).
pub const SHM: [i32; 3] = [0o10_000, 0o40_000, 0o100_000];

/// One page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Names the mapping call that it is left of.
    pub mapping: u32,
    /// Whether that call was brk.
    pub heap: bool,
    pub prot: Prot,
    pub sharing: Sharing,
    pub file: Option<FilePage>,
    pub dont_fork: bool,
    pub guard: bool,
    pub grows_down: bool,
    /// mseal(2)
    pub sealed: bool,
}

/// A page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilePage {
    pub kind: FileKind,
    pub inode: u64,
    pub number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Regular,
    ReadOnly,
    SharedAnonymous,
    Segment,
}

/// What else may happen to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Normal,
    /// A limit is met before anything is done.
    Refused,
    /// A limit is met after the target of MAP_FIXED or MREMAP_FIXED was unmapped.
    RefusedLate,
}

/// What a call came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub result: Result<u64, Errno>,
    /// What shmat mapped.
    pub mapped: Option<Vma>,
    /// Whether arguments and result leave open what was done.
    pub open: bool,
}

/// The pages of one address space.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub pages: [Option<Page>; PAGES],
    /// Where a page fault may have put something since the maps were seen: below what grows down, or did.
    may_have_grown: [bool; PAGES],
    /// The break, in bytes from the arena's start.
    brk: u64,
    read_implies_exec: bool,
    named: u32,
    files: u64,
    /// The segments of shmat, by inode: their mapping and their size in pages.
    segments: HashMap<u64, (u32, usize)>,
}

type Answer = Result<u64, Errno>;

impl Kernel {
    /// A kernel with nothing but a main stack of two pages, the highest ones.
    pub fn new() -> Kernel {
        let stack = Page {
            mapping: 0,
            heap: false,
            prot: Prot::READ.with(Prot::WRITE),
            sharing: Sharing::Private,
            file: None,
            dont_fork: false,
            guard: false,
            grows_down: true,
            sealed: false,
        };
        let mut pages = [None; PAGES];
        pages[PAGES - 2..].fill(Some(stack));
        Kernel {
            pages,
            may_have_grown: [false; PAGES],
            brk: HEAP as u64 * PAGE,
            read_implies_exec: false,
            named: 0,
            files: 100,
            segments: HashMap::new(),
        }
    }

    /// Executes a system call.
    pub fn call(&mut self, call: &Call, fate: Fate) -> Outcome {
        self.note_growth();
        let before = self.may_have_grown;
        let outcome = self.make(call, fate);
        if let (Call::Mremap { old, old_len, .. }, Ok(new)) = (*call, outcome.result)
            && let (Some(from), Some(to)) = (index_of(old), index_of(Addr(new)))
        {
            // What may have grown has moved with the rest.
            let count = (page_up(old_len) / PAGE) as usize;
            for at in (0..count).take_while(|at| from.max(to) + at < PAGES) {
                self.may_have_grown[to + at] |= before[from + at];
            }
        }
        self.note_growth();
        outcome
    }

    /// The maps have been seen: what had grown is known.
    pub fn have_seen(&mut self) {
        self.may_have_grown = [false; PAGES];
    }

    fn note_growth(&mut self) {
        for at in 0..PAGES {
            let above = self.pages[at..].iter().flatten().next();
            let grows_above = above.is_some_and(|above| above.grows_down);
            self.may_have_grown[at] = self.pages[at].is_none() && (self.may_have_grown[at] || grows_above);
        }
    }

    fn make(&mut self, call: &Call, fate: Fate) -> Outcome {
        let mut open = false;
        let mut mapped = None;
        let result = match *call {
            Call::Mmap { addr, len, prot, flags, fd, offset } => {
                let fixed = flags & map::FIXED != 0 && flags & map::FIXED_NOREPLACE == 0;
                let result = self.mmap(addr, len, prot, flags, fd, offset, fate);
                let is_file = flags & map::ANONYMOUS == 0;
                open = if result.is_err() { fixed } else { is_file && self.may_be_noexec(prot) };
                result
            }
            Call::Munmap { addr, len } => self.munmap(addr, len, fate),
            Call::Mprotect { addr, len, prot } => {
                let may_have_grown = self.may_have_grown_in(addr, len);
                let before = self.before_hole(addr, len);
                let result = self.mprotect(addr, len, prot, fate);
                // Where it ended is known of a single page, and where there was nothing before the hole.
                let is_known = page_up(len) <= PAGE || result == Err(Errno::ENOMEM) && before.is_empty();
                let is_unsure = match result {
                    // Of a file, or what was there before anything was told.
                    Ok(_) => self.may_be_noexec(prot),
                    Err(_) => may_have_grown || !is_known,
                };
                open = prot & prot::GROWSDOWN != 0 || is_unsure;
                result
            }
            Call::Mremap { old, old_len, new_len, flags, new } => {
                let may_have_grown = self.may_have_grown_in(old, old_len);
                let is_file = self.has_file_in(old, PAGE);
                let may_be_zero = self.has_private_file_in(old, page_up(old_len));
                let result = self.mremap(old, page_up(old_len), page_up(new_len), flags, new, fate);
                open = match result {
                    // Where huge pages of a file may begin, they are moved whole, and private ones may be of /dev/zero.
                    Ok(new) => {
                        may_have_grown
                            || is_file && (old.0 | new).is_multiple_of(map::HUGE_PAGE)
                            || may_be_zero && new != old.0
                    }
                    Err(_) => flags & mremap::FIXED != 0,
                };
                result
            }
            Call::Madvise { addr, len, advice } => self.madvise(addr, len, advice),
            Call::Brk { addr } => Ok(self.set_break(addr, fate)),
            Call::Shmat { id, addr, flags } => {
                let result = self.shmat(id, addr, flags).map(|vma| {
                    let start = vma.range.start().0;
                    mapped = Some(vma);
                    start
                });
                open = result.is_err();
                result
            }
            Call::Shmdt { addr } => {
                open = !self.is_as_attached(addr);
                self.shmdt(addr)
            }
            Call::RemapFilePages { addr, len, prot, pgoff, .. } => {
                let result = self.remap_file_pages(addr, len, prot, pgoff);
                open = self.read_implies_exec || result.is_err();
                result
            }
            Call::Personality { persona } => {
                self.read_implies_exec = persona & READ_IMPLIES_EXEC != 0;
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        };
        Outcome { result, mapped, open }
    }

    /// The copy that fork(2) makes.
    pub fn fork(&self) -> Kernel {
        let mut copy = self.clone();
        for page in &mut copy.pages {
            *page = page.filter(|page| !page.dont_fork);
        }
        copy
    }

    /// mseal(2); not a call that the model knows of.
    pub fn seal(&mut self, pages: Span<usize>) {
        for page in self.pages[pages].iter_mut().flatten() {
            page.sealed |= !page.heap && !is_segment(*page);
        }
    }

    /// Whether a page fault may have put something among these pages, of which no call tells.
    fn may_have_grown_in(&self, addr: Addr, len: u64) -> bool {
        let pages = Range::of_len(addr, len).and_then(|range| Some(index_of(range.start())?..index_of(range.end())?));
        pages.is_some_and(|pages| {
            (pages.start..pages.end.min(PAGES)).any(|at| self.pages[at].is_none() && self.may_have_grown[at])
        })
    }

    /// A page fault right below the region that holds `index` (`expand_downwards`).
    pub fn fault_below(&mut self, index: usize) {
        let Some(page) = self.pages[index] else { return };
        let low = self.vma(index).start;
        // Up to its own lower part it could grow too, but the two would not become one.
        let meets = low >= 2 && self.pages[low - 2].is_some_and(|below| below.mapping == page.mapping);
        if !page.grows_down || low == 0 || meets || self.pages[low - 1].is_some() {
            return;
        }
        self.pages[low - 1] = self.pages[low].map(|page| Page { guard: false, ..page });
    }

    /// The run of pages around `index` that are alike.
    pub fn vma(&self, index: usize) -> Span<usize> {
        let mut vma = index..index + 1;
        while vma.start > 0 && self.are_one(vma.start - 1) {
            vma.start -= 1;
        }
        while vma.end < PAGES && self.are_one(vma.end - 1) {
            vma.end += 1;
        }
        vma
    }

    /// Whether a page and the next one are of one VMA.
    fn are_one(&self, index: usize) -> bool {
        let (Some(page), Some(next)) = (self.pages[index], self.pages[index + 1]) else { return false };
        let alike = |page: Page| Page { mapping: 0, heap: false, guard: false, file: None, ..page };
        let runs_on = page.file.map(|file| FilePage { number: file.number + 1, ..file }) == next.file;
        // A stack that grows does not merge with the one that it meets.
        runs_on && alike(page) == alike(next) && (!page.grows_down || page.mapping == next.mapping)
    }

    /// /proc/PID/maps. `split` says where a VMA ends although it could go on: borders that no call shows.
    pub fn maps(&self, split: impl Fn(usize) -> bool) -> Box<[Vma]> {
        let mut maps = Vec::new();
        let mut index = 0;
        while index < PAGES {
            let Some(page) = self.pages[index] else {
                index += 1;
                continue;
            };
            let whole = self.vma(index);
            let end = (index + 1..whole.end).find(|&at| !page.grows_down && split(at)).unwrap_or(whole.end);
            maps.push(self.line(index..end, page));
            index = end;
        }
        maps.into()
    }

    fn line(&self, pages: Span<usize>, page: Page) -> Vma {
        let name: &[u8] = match page.file.map(|file| file.kind) {
            Some(FileKind::Regular) => b"/file",
            Some(FileKind::ReadOnly) => b"/read-only",
            Some(FileKind::SharedAnonymous) => b"/dev/zero (deleted)",
            Some(FileKind::Segment) => b"/SYSV00000000 (deleted)",
            None if page.heap => b"[heap]",
            None if page.grows_down && pages.end == PAGES => b"[stack]",
            None => b"",
        };
        Vma {
            range: range(pages),
            prot: page.prot,
            sharing: page.sharing,
            offset: page.file.map_or(0, |file| file.number * PAGE),
            inode: page.file.map_or(0, |file| file.inode),
            device: u32::from(page.file.is_some()),
            name: name.into(),
        }
    }

    #[allow(clippy::too_many_arguments)] // the call's own
    fn mmap(&mut self, addr: Addr, len: u64, prot: u32, flags: u32, fd: i32, offset: u64, fate: Fate) -> Answer {
        let fixed = flags & (map::FIXED | map::FIXED_NOREPLACE) != 0;
        let count = (page_up(len) / PAGE) as usize;
        if len == 0 || !offset.is_multiple_of(PAGE) || fixed && !addr.0.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let anonymous = flags & map::ANONYMOUS != 0;
        let shared = flags & map::TYPE & map::SHARED != 0;
        let sharing = if shared { Sharing::Shared } else { Sharing::Private };
        if !anonymous && fd == READ_ONLY_FILE && shared && prot & 2 != 0 {
            return Err(Errno::EACCES);
        }
        if fate == Fate::Refused {
            return Err(Errno::ENOMEM);
        }
        let at = if fixed { index_of(addr) } else { self.free(count) }.ok_or(Errno::ENOMEM)?;
        let target = self.span(at, count).ok_or(Errno::ENOMEM)?;
        if flags & map::FIXED_NOREPLACE != 0 && self.pages[target.clone()].iter().any(Option::is_some) {
            return Err(Errno::EEXIST);
        }
        self.check_seal(target.clone())?;
        self.unmap(target.clone());
        if fixed && fate == Fate::RefusedLate {
            return Err(Errno::ENOMEM);
        }
        let file = match (anonymous, fd) {
            (true, _) if shared => Some(self.new_file(FileKind::SharedAnonymous)),
            (true, _) => None,
            (false, READ_ONLY_FILE) => Some(FilePage { kind: FileKind::ReadOnly, inode: 4, number: offset / PAGE }),
            (false, _) => Some(FilePage { kind: FileKind::Regular, inode: 3, number: offset / PAGE }),
        };
        let page = Page {
            mapping: self.new_name(),
            heap: false,
            prot: self.prot(prot),
            sharing,
            file,
            dont_fork: false,
            guard: false,
            grows_down: flags & map::GROWSDOWN != 0,
            sealed: false,
        };
        self.put(target, page);
        Ok(address_of(at).0)
    }

    fn munmap(&mut self, addr: Addr, len: u64, fate: Fate) -> Answer {
        let range = Range::of_len(addr, len).ok_or(Errno::EINVAL)?;
        let pages = span_of(range).ok_or(Errno::EINVAL)?;
        self.check_seal(pages.clone())?;
        if fate != Fate::Normal {
            return Err(Errno::ENOMEM);
        }
        self.unmap(pages);
        Ok(0)
    }

    fn has_file_in(&self, addr: Addr, len: u64) -> bool {
        let pages = self.before_hole(addr, len);
        self.pages[pages].iter().flatten().any(|page| page.file.is_some())
    }

    /// Whether private pages of a file are among these.
    fn has_private_file_in(&self, addr: Addr, len: u64) -> bool {
        let Some(start) = index_of(addr) else { return false };
        let end = start.saturating_add((len / PAGE) as usize).min(PAGES);
        let pages = self.pages.get(start..end).unwrap_or_default();
        pages.iter().flatten().any(|page| page.file.is_some() && page.sharing == Sharing::Private)
    }

    /// More of the region right below.
    fn grow(&mut self, more: Span<usize>) {
        if let Some(last) = self.pages[more.start - 1] {
            let file = last.file.map(|file| FilePage { number: file.number + 1, ..file });
            self.put(more, Page { guard: false, file, ..last });
        }
    }

    fn madvise(&mut self, addr: Addr, len: u64, advice: i32) -> Answer {
        let start = index_of(addr).ok_or(Errno::EINVAL)?;
        let pages = start..start + (page_up(len) / PAGE) as usize;
        let mut hole = false;
        for at in pages {
            match self.pages.get_mut(at).and_then(Option::as_mut) {
                None => hole = true,
                Some(page) => match advice {
                    madv::DONTFORK => page.dont_fork = true,
                    madv::DOFORK => page.dont_fork = false,
                    madv::GUARD_INSTALL => page.guard = true,
                    madv::GUARD_REMOVE => page.guard = false,
                    madv::DONTNEED => {}
                    _ => return Err(Errno::EINVAL),
                },
            }
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(0) }
    }

    fn remap_file_pages(&mut self, addr: Addr, len: u64, prot: u32, pgoff: u64) -> Answer {
        let start = index_of(Addr(page_down(addr.0))).ok_or(Errno::EINVAL)?;
        let pages = self.span(start, (page_down(len) / PAGE) as usize).ok_or(Errno::EINVAL)?;
        let first = self.pages[pages.clone()].first().copied().flatten().ok_or(Errno::EINVAL)?;
        let file = first.file.ok_or(Errno::EINVAL)?;
        if prot != 0 || first.sharing == Sharing::Private || file.kind == FileKind::ReadOnly {
            return Err(Errno::EINVAL);
        }
        let flags = |page: &Page| (page.file.map(|file| file.inode), page.prot, page.dont_fork, page.sealed);
        if !self.pages[pages.clone()].iter().all(|page| page.as_ref().map(flags) == Some(flags(&first))) {
            return Err(Errno::EINVAL);
        }
        self.check_seal(pages.clone())?;
        let exec = self.read_implies_exec && first.prot.contains(Prot::READ);
        let prot = if exec { first.prot.with(Prot::EXEC) } else { first.prot };
        for (number, at) in (pgoff..).zip(pages) {
            let file = Some(FilePage { number, ..file });
            self.pages[at] = self.pages[at].map(|page| Page { file, prot, dont_fork: false, guard: false, ..page });
        }
        Ok(0)
    }

    fn check_seal(&self, pages: Span<usize>) -> Result<(), Errno> {
        let sealed = self.pages[pages].iter().flatten().any(|page| page.sealed);
        if sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn unmap(&mut self, pages: Span<usize>) {
        self.pages[pages].fill(None);
    }

    /// The same page everywhere, but for the running number in its file.
    fn put(&mut self, pages: Span<usize>, first: Page) {
        for (step, at) in pages.enumerate() {
            let file = first.file.map(|file| FilePage { number: file.number + step as u64, ..file });
            self.pages[at] = Some(Page { file, ..first });
        }
    }

    /// The highest free place for this many pages, below the heap.
    fn free(&self, count: usize) -> Option<usize> {
        (0..=HEAP.checked_sub(count)?).rev().find(|&at| self.pages[at..at + count].iter().all(Option::is_none))
    }

    fn span(&self, at: usize, count: usize) -> Option<Span<usize>> {
        (at + count <= PAGES).then(|| at..at + count)
    }

    pub fn new_name(&mut self) -> u32 {
        self.named += 1;
        self.named
    }

    fn new_file(&mut self, kind: FileKind) -> FilePage {
        self.files += 1;
        FilePage { kind, inode: self.files, number: 0 }
    }

    fn prot(&self, bits: u32) -> Prot {
        let prot = Prot::from_bits(bits);
        if self.read_implies_exec && prot.contains(Prot::READ) { prot.with(Prot::EXEC) } else { prot }
    }
}

/// Address of a page; also of the one behind the last.
pub fn address_of(index: usize) -> Addr {
    Addr(BASE + index as u64 * PAGE)
}

/// Pages as a range.
pub fn range(pages: Span<usize>) -> Range {
    Range::new(address_of(pages.start), address_of(pages.end)).expect("not empty")
}

fn is_segment(page: Page) -> bool {
    page.file.is_some_and(|file| file.kind == FileKind::Segment)
}

pub fn index_of(addr: Addr) -> Option<usize> {
    let offset = addr.0.checked_sub(BASE)?;
    offset.is_multiple_of(PAGE).then_some((offset / PAGE) as usize)
}

fn span_of(range: Range) -> Option<Span<usize>> {
    let span = index_of(range.start())?..index_of(range.end())?;
    (span.end <= PAGES).then_some(span)
}
