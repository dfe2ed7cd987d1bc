//! What each system call does to an address space, by its arguments and its result.

use super::mapping::{Kind, Made, Mapping};
use super::space::{AddressSpace, Area, Backing, Marks};
use crate::abi::{SHM_REMAP, madv, map, mremap, prot, set_mm};
use crate::event::{Call, Prot, Sharing, Syscall, Vma};
use crate::units::{Addr, CallStackId, PAGE, Range, Tid, Time, page_down, page_up};

/// The model cannot tell what a call did; a look at the kernel's maps can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unclear;

/// Who called, and under which rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// When the call returned.
    pub at: Time,
    /// The caller.
    pub tid: Tid,
    /// Where it stood, if that was captured.
    pub call_stack: Option<CallStackId>,
    /// personality(2)'s READ_IMPLIES_EXEC: readable pages become executable too.
    pub read_implies_exec: bool,
}

impl Caller {
    /// The rights that pages get which are asked for with these.
    pub(super) fn prot(self, prot: Prot) -> Prot {
        if self.read_implies_exec && prot.contains(Prot::READ) { prot.with(Prot::EXEC) } else { prot }
    }

    /// Whether pages of a file may have been given less by these rights: not the right to be executed if they were only to
    /// be read, where the file system is mounted noexec (`path_noexec`, VM_MAYEXEC).
    fn may_be_denied_exec(self, bits: u32) -> bool {
        self.read_implies_exec && bits & (prot::READ | prot::EXEC) == prot::READ
    }
}

impl AddressSpace {
    /// Does what a returned call has done. Err where only the kernel knows.
    pub fn apply(&mut self, caller: Caller, syscall: &Syscall) -> Result<(), Unclear> {
        match syscall.result {
            Ok(result) => self.apply_success(caller, syscall, result),
            Err(errno) => self.apply_failure(caller, &syscall.call, errno),
        }
    }

    fn apply_success(&mut self, caller: Caller, syscall: &Syscall, result: u64) -> Result<(), Unclear> {
        let made = Made { at: caller.at, tid: caller.tid, call: syscall.call, result, call_stack: caller.call_stack };
        match syscall.call {
            Call::Mmap { len, prot: bits, flags, offset, .. } => {
                let addr = Addr(result);
                let huge = huge_page_of(&syscall.call).unwrap_or(1);
                let len = len.checked_next_multiple_of(huge).ok_or(Unclear)?;
                let asked = Range::of_len(addr, len).ok_or(Unclear)?;
                let line = syscall.mapped.as_ref().filter(|vma| vma.range.contains(addr));
                let range = line.map_or(asked, |line| self.as_mapped(asked, line));
                if line.is_some_and(is_of_a_driver) {
                    self.has_unseen = true;
                }
                let sharing = if flags & map::TYPE & map::SHARED != 0 { Sharing::Shared } else { Sharing::Private };
                let anonymous = flags & map::ANONYMOUS != 0;
                let backing = match (anonymous, sharing) {
                    (true, Sharing::Private) if flags & map::HUGETLB == 0 => Backing::Anonymous,
                    (true, Sharing::Shared) if flags & map::HUGETLB == 0 => Backing::file(0, addr),
                    // A driver may have chosen another offset than was asked for.
                    _ => match line {
                        Some(line) => line.backing(),
                        // Anonymous huge pages have a file of the kernel's, and keep the offset.
                        None => Backing::file(offset, addr),
                    },
                };
                let kind = if anonymous { Kind::Anonymous } else { Kind::File };
                let prot = line.map_or_else(|| caller.prot(Prot::from_bits(bits)), |line| line.prot);
                let marks = Marks { grows_down: flags & map::GROWSDOWN != 0, ..Marks::default() };
                if self.is_partial && !replaces(flags) {
                    self.find_unmapped(range);
                }
                self.map(range, Mapping::new(kind, Some(made)), |mapping| Area {
                    mapping,
                    prot,
                    sharing,
                    backing,
                    marks,
                });
                if line.is_none() && caller.may_be_denied_exec(bits) && !anonymous {
                    return Err(Unclear);
                }
            }
            Call::Munmap { addr, len } => self.unmap(Range::of_len(addr, len).ok_or(Unclear)?),
            Call::Mprotect { addr, len, prot } | Call::PkeyMprotect { addr, len, prot, .. } => {
                self.apply_mprotect(caller, addr, len, prot)?;
                self.note_guard(addr, len, made);
            }
            Call::Mremap { old, old_len, new_len, flags, .. } => {
                self.apply_mremap(old, old_len, new_len, flags, made)?;
            }
            Call::Madvise { addr, len, advice } => {
                let advised = Range::of_len(addr, len).filter(|_| syscall.call.changes_mappings() && !self.is_partial);
                let had_holes = advised.is_some_and(|range| self.areas.first_hole(range).is_some());
                if let Some(range) = advised {
                    self.claim_growth(range);
                }
                self.apply_madvise(addr, len, advice);
                // The kernel had none: a stack may have grown without a call.
                if had_holes {
                    return Err(Unclear);
                }
                if advice == madv::GUARD_INSTALL {
                    self.note_guard(addr, len, made);
                }
            }
            Call::Brk { .. } => {
                // VM_DATA_DEFAULT_FLAGS: executable only where reading implies it.
                let prot = caller.prot(Prot::READ.with(Prot::WRITE));
                if !self.set_break(Addr(result), prot) && self.brk.is_some() {
                    return Err(Unclear);
                }
            }
            Call::Shmat { flags, .. } => {
                let vma = syscall.mapped.as_ref().ok_or(Unclear)?;
                let kind = Kind::Shm { inode: vma.inode };
                let range = if flags & SHM_REMAP == 0 { self.room_for(vma.range) } else { vma.range };
                self.map_observed(range, vma, Mapping::new(kind, Some(made)));
            }
            Call::Shmdt { addr } => {
                if !self.detach_shm(addr) {
                    return Err(Unclear);
                }
            }
            Call::RemapFilePages { addr, len, pgoff, .. } => {
                let start = Addr(page_down(addr.0));
                let range = Range::of_len(start, page_down(len)).ok_or(Unclear)?;
                self.remap_file_pages(range, pgoff.wrapping_mul(PAGE), |prot| caller.prot(prot));
                if caller.read_implies_exec {
                    return Err(Unclear);
                }
            }
            Call::IoSetup { .. } => {
                let vma = syscall.mapped.as_ref().ok_or(Unclear)?;
                self.map_observed(vma.range, vma, Mapping::new(Kind::AioRing, Some(made)));
            }
            Call::IoDestroy { ctx } => {
                if !self.destroy_ring(ctx) {
                    return Err(Unclear);
                }
            }
            Call::MapShadowStack { len, .. } => {
                let range = Range::of_len(Addr(result), len).ok_or(Unclear)?;
                self.map(range, Mapping::new(Kind::Anonymous, Some(made)), |mapping| Area {
                    mapping,
                    prot: Prot::READ.with(Prot::WRITE),
                    sharing: Sharing::Private,
                    backing: Backing::Anonymous,
                    marks: Marks::default(),
                });
            }
            Call::Prctl { option, arg2, arg3, .. } => self.apply_set_mm(option, arg2, arg3),
            // The iovec tells which pages.
            Call::ProcessMadvise { advice: madv::DONTFORK | madv::DOFORK, .. } => self.has_unseen = true,
            // shmdt and io_destroy succeed although they leave alone what is sealed, and advice ends at it halfway.
            Call::Mseal { .. } => (self.has_unseen, self.has_undetachable) = (true, true),
            Call::ProcessMadvise { .. }
            | Call::Personality { .. }
            | Call::IoUringSetup { .. }
            | Call::Clone(_)
            | Call::Execve { .. }
            | Call::Execveat { .. } => {}
        }
        Ok(())
    }

    /// Puts what is known of the break right after prctl(PR_SET_MM, …). No mapping changes by it.
    fn apply_set_mm(&mut self, option: i32, what: u64, value: u64) {
        let (set_mm::PR_SET_MM, Some(brk)) = (option, &mut self.brk) else { return };
        match what {
            set_mm::START_BRK => brk.start = Addr(value),
            set_mm::BRK => brk.end = Some(Addr(value)),
            // All at once, from the target's memory.
            set_mm::MAP => brk.end = None,
            _ => {}
        }
    }

    /// What of these pages may be new, where the kernel has not replaced anything: another part of the same segment may lie
    /// right behind.
    fn room_for(&self, seen: Range) -> Range {
        let behind = |start: &Addr| seen.start() < *start;
        let known = self.areas.overlapping(seen).map(|(piece, _)| piece.start()).find(behind);
        known.and_then(|known| Range::new(seen.start(), known)).unwrap_or(seen)
    }

    /// The pages that mmap has mapped when `asked` was asked for, by the kernel's line: those of files of huge pages are
    /// more. Where the line goes on because of a neighbour that is alike, the model has that already.
    fn as_mapped(&self, asked: Range, line: &Vma) -> Range {
        let beyond = Range::new(asked.end(), line.range.end());
        let is_same = |area: &Area| area.is_like(line) && area.backing == line.backing();
        let is_known =
            beyond.is_some_and(|beyond| self.areas.at(beyond.start()).is_some_and(|(_, area)| is_same(area)));
        let whole = Range::new(asked.start(), line.range.end()).filter(|_| beyond.is_some() && !is_known);
        whole.unwrap_or(asked)
    }

    fn apply_mprotect(&mut self, caller: Caller, addr: Addr, len: u64, bits: u32) -> Result<(), Unclear> {
        if bits & (prot::GROWSDOWN | prot::GROWSUP) != 0 {
            // Extends to the border of the kernel's own region, which the model does not have.
            return Err(Unclear);
        }
        // A length of 0 succeeds and does nothing (do_mprotect_pkey).
        let Some(range) = Range::of_len(addr, len) else {
            return Ok(());
        };
        // The kernel had no hole there: a stack may have grown without a call.
        let prot = caller.prot(Prot::from_bits(bits));
        if self.is_partial {
            // What is not known needs no rights.
            self.areas.update(range, |area| Area { prot, ..area });
            return Ok(());
        }
        let had_hole = self.areas.first_hole(range).is_some();
        self.claim_growth(range);
        self.protect(range, prot);
        // What the kernel has put there by itself, as the vDSO's data, may be denied it too.
        let is_old = |area: &Area| self.mappings.get(area.mapping).is_some_and(|mapping| mapping.made.is_none());
        let mut areas = self.areas.overlapping(range);
        let is_unsure = caller.may_be_denied_exec(bits)
            && areas.any(|(_, area)| area.backing != Backing::Anonymous || is_old(area));
        if had_hole || is_unsure { Err(Unclear) } else { Ok(()) }
    }

    fn apply_mremap(&mut self, old: Addr, old_len: u64, new_len: u64, flags: u32, made: Made) -> Result<(), Unclear> {
        let huge = self.huge_page_at(old);
        let rounded = |len: u64| len.checked_next_multiple_of(huge.unwrap_or(1)).ok_or(Unclear);
        let may_be_huge = huge.is_none() && self.may_be_huge(old, old_len, made.result, new_len);
        let (old_len, new_len) = (rounded(old_len)?, rounded(new_len)?);
        let to = Range::of_len(Addr(made.result), new_len).ok_or(Unclear)?;
        let first = Range::of_len(old, 1).ok_or(Unclear)?;
        let has_grown = !self.is_partial && self.may_have_grown(Range::of_len(old, old_len).unwrap_or(first));
        if !self.is_partial {
            self.claim_growth(first);
        }
        // Private pages of /dev/zero are anonymous memory, and get another offset if none was ever touched (`copy_vma`).
        let may_be_zero = Range::of_len(old, old_len).is_some_and(|from| {
            let is_private_file = |area: &Area| area.sharing == Sharing::Private && area.backing != Backing::Anonymous;
            made.result != old.0 && self.areas.overlapping(from).any(|(_, area)| is_private_file(area))
        });
        if self.areas.at(old).is_none() {
            if self.is_partial {
                return self.remap_unknown(old, old_len, to, made);
            }
            self.disturb(first);
            if has_grown {
                // Of which of those above it, only a look shows; it grows on where it is now in any case.
                self.map_grown(to, made);
            } else {
                self.disturb(to);
            }
            return Err(Unclear);
        }
        if old_len == 0 {
            self.remap_again(old, to, made);
        } else {
            let from = Range::of_len(old, old_len).ok_or(Unclear)?;
            if flags & mremap::DONTUNMAP != 0 {
                self.remap_copy(from, to.start(), made);
            } else {
                self.remap(from, to);
            }
        }
        // What has grown in holes of the source has moved too, and has taken the place of what lay there.
        if has_grown || may_be_huge || may_be_zero { Err(Unclear) } else { Ok(()) }
    }

    /// The size of the huge pages at an address, in bytes, if it is known that there are some.
    fn huge_page_at(&self, addr: Addr) -> Option<u64> {
        huge_page_of(&self.mappings.get(self.mapping_at(addr)?)?.made?.call)
    }

    /// Whether there may be huge pages that a call to mremap has moved: those of a file, whole ones, whatever was asked for.
    fn may_be_huge(&self, old: Addr, old_len: u64, new: u64, new_len: u64) -> bool {
        let is_file = self.areas.at(old).is_some_and(|(_, area)| area.backing != Backing::Anonymous);
        let may_begin = |addr: u64| addr.is_multiple_of(map::HUGE_PAGE);
        let is_whole = |len: u64| len.is_multiple_of(map::GIGANTIC_PAGE);
        is_file && may_begin(old.0) && may_begin(new) && !(is_whole(old_len) && is_whole(new_len))
    }

    /// mremap of what only page faults have put there, with rights that are not known.
    fn map_grown(&mut self, to: Range, made: Made) {
        let marks = Marks { grows_down: true, ..Marks::default() };
        self.map(to, Mapping::new(Kind::Anonymous, Some(made)), |mapping| Area {
            mapping,
            prot: Prot::READ.with(Prot::WRITE),
            sharing: Sharing::Private,
            backing: Backing::Anonymous,
            marks,
        });
    }

    /// mremap of something that was there before anything was told: what it has become is anonymous, for all we know.
    fn remap_unknown(&mut self, old: Addr, old_len: u64, to: Range, made: Made) -> Result<(), Unclear> {
        if let Some(from) = Range::of_len(old, old_len) {
            self.unmap(from);
        }
        self.map(to, Mapping::new(Kind::Anonymous, Some(made)), |mapping| Area {
            mapping,
            prot: Prot::READ.with(Prot::WRITE),
            sharing: Sharing::Private,
            backing: Backing::Anonymous,
            marks: Marks::default(),
        });
        Ok(())
    }

    /// Advice that stays with the pages applies on both sides of a hole, and ENOMEM tells of the hole only.
    pub(super) fn apply_madvise(&mut self, addr: Addr, len: u64, advice: i32) {
        let Some(range) = Range::of_len(addr, len) else {
            return;
        };
        match advice {
            madv::DONTFORK => self.advise(range, |marks| marks.dont_fork = true),
            madv::DOFORK => self.advise(range, |marks| marks.dont_fork = false),
            madv::GUARD_INSTALL => self.advise(range, |marks| marks.guard = true),
            madv::GUARD_REMOVE => self.advise(range, |marks| marks.guard = false),
            _ => {}
        }
    }

    /// Remembers the call that made the guard of what is about to become a stack.
    fn note_guard(&mut self, addr: Addr, len: u64, made: Made) {
        let Some(mapping) = self.mapping_at(addr).and_then(|id| self.mappings.get_mut(id)) else {
            return;
        };
        let whole = page_up(len) >= mapping.made_bytes;
        if mapping.stack.is_none() && mapping.kind == Kind::Anonymous && !whole {
            match &mut mapping.guarded {
                Some(before) => **before = made,
                none => *none = Some(Box::new(made)),
            }
        }
    }
}

impl Call {
    /// The call's name.
    pub fn name(&self) -> &'static str {
        use crate::event::CloneCall;
        match self {
            Call::Mmap { .. } => "mmap",
            Call::Munmap { .. } => "munmap",
            Call::Mprotect { .. } => "mprotect",
            Call::PkeyMprotect { .. } => "pkey_mprotect",
            Call::Mremap { .. } => "mremap",
            Call::Madvise { .. } => "madvise",
            Call::Brk { .. } => "brk",
            Call::Shmat { .. } => "shmat",
            Call::Shmdt { .. } => "shmdt",
            Call::RemapFilePages { .. } => "remap_file_pages",
            Call::IoSetup { .. } => "io_setup",
            Call::IoDestroy { .. } => "io_destroy",
            Call::MapShadowStack { .. } => "map_shadow_stack",
            Call::Personality { .. } => "personality",
            Call::Clone(args) => match args.call {
                CloneCall::Clone => "clone",
                CloneCall::Clone3 => "clone3",
                CloneCall::Fork => "fork",
                CloneCall::Vfork => "vfork",
            },
            Call::Prctl { .. } => "prctl",
            Call::ProcessMadvise { .. } => "process_madvise",
            Call::Mseal { .. } => "mseal",
            Call::IoUringSetup { .. } => "io_uring_setup",
            Call::Execve { .. } => "execve",
            Call::Execveat { .. } => "execveat",
        }
    }
}

/// Whether a driver lies behind a line of maps: it may keep it from being copied by fork (VM_DONTCOPY), as perf's rings
/// do, and an io_uring can be given calls that nobody sees being made.
fn is_of_a_driver(line: &Vma) -> bool {
    let is_memory =
        [&b"/dev/zero"[..], b"/dev/shm/", b"/dev/hugepages/"].iter().any(|name| line.name.starts_with(name));
    // A ring of tracefs, wherever that is mounted (`tracing_buffers_mmap`).
    let is_trace = line.name.ends_with(b"/trace_pipe_raw");
    is_trace || line.name.starts_with(b"anon_inode:") || line.name.starts_with(b"/dev/") && !is_memory
}

/// Whether mmap with these flags takes the place of what lies there.
pub(super) fn replaces(flags: u32) -> bool {
    flags & map::FIXED != 0 && flags & map::FIXED_NOREPLACE == 0
}

/// Size of the huge pages, in bytes, that a call maps: 2 MiB unless its flags say otherwise (linux/mman.h). None where it maps
/// ordinary ones, or a file, which has pages of its own size whatever the flags say (`ksys_mmap_pgoff`).
pub(super) fn huge_page_of(call: &Call) -> Option<u64> {
    let Call::Mmap { flags, .. } = *call else { return None };
    match flags >> map::HUGE_SHIFT & 0x3f {
        _ if flags & map::ANONYMOUS == 0 || flags & map::HUGETLB == 0 => None,
        0 => Some(map::HUGE_PAGE),
        log2 => Some(1 << log2),
    }
}
