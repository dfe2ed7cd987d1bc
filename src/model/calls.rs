//! What each system call does to an address space, by its arguments and its result.

use syscalls::Errno;

use super::mapping::{Kind, Made, Mapping};
use super::space::{AddressSpace, Area, Backing, HalfMoved, Marks, Refusal};
use crate::abi::{madv, map, mremap, prot, set_mm};
use crate::event::{Call, Prot, Sharing, Syscall, Vma};
use crate::units::{Addr, CallStackId, PAGE, Range, Tid, Time, page_down, page_up};

/// shmat(2): takes the place of what lies there.
const SHM_REMAP: i32 = 0o40000;

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
    fn prot(self, prot: Prot) -> Prot {
        if self.read_implies_exec && prot.contains(Prot::READ) { prot.with(Prot::EXEC) } else { prot }
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
            Call::Mmap { len, prot, flags, offset, .. } => {
                let addr = Addr(result);
                let huge = if flags & map::HUGETLB != 0 { huge_page_bytes(flags) } else { 1 };
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
                let prot = caller.prot(Prot::from_bits(prot));
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
            Call::Shmat { .. } => {
                let vma = syscall.mapped.as_ref().ok_or(Unclear)?;
                let kind = Kind::Shm { inode: vma.inode };
                self.map_observed(vma.range, vma, Mapping::new(kind, Some(made)));
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
            // These may have been about MADV_DONTFORK: the iovec tells which pages, and an io_uring can be given madvise.
            Call::ProcessMadvise { advice: madv::DONTFORK | madv::DOFORK, .. } | Call::IoUringSetup { .. } => {
                self.has_unseen = true;
            }
            // shmdt and io_destroy succeed although they leave alone what is sealed, and advice ends at it halfway.
            Call::Mseal { .. } => (self.has_unseen, self.has_undetachable) = (true, true),
            Call::ProcessMadvise { .. }
            | Call::Personality { .. }
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

    /// The pages that mmap has mapped when `asked` was asked for, by the kernel's line: those of files of huge pages are
    /// more. Where the line goes on because of a neighbour that is alike, the model has that already.
    fn as_mapped(&self, asked: Range, line: &Vma) -> Range {
        let beyond = Range::new(asked.end(), line.range.end());
        let is_known =
            beyond.is_some_and(|beyond| self.areas.at(beyond.start()).is_some_and(|(_, area)| area.is_like(line)));
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
        if had_hole { Err(Unclear) } else { Ok(()) }
    }

    fn apply_mremap(&mut self, old: Addr, old_len: u64, new_len: u64, flags: u32, made: Made) -> Result<(), Unclear> {
        let to = Range::of_len(Addr(made.result), new_len).ok_or(Unclear)?;
        let first = Range::of_len(old, 1).ok_or(Unclear)?;
        let has_grown = !self.is_partial && self.may_have_grown(Range::of_len(old, old_len).unwrap_or(first));
        if !self.is_partial {
            self.claim_growth(first);
        }
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
        if has_grown { Err(Unclear) } else { Ok(()) }
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
    fn apply_madvise(&mut self, addr: Addr, len: u64, advice: i32) {
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

    fn apply_failure(&mut self, caller: Caller, call: &Call, errno: Errno) -> Result<(), Unclear> {
        match *call {
            Call::Mprotect { addr, len, prot: bits } | Call::PkeyMprotect { addr, len, prot: bits, .. } => {
                let Some(range) = Range::of_len(addr, len) else {
                    return Ok(());
                };
                if bits & (prot::GROWSDOWN | prot::GROWSUP) != 0 {
                    return if errno == Errno::EINVAL { Ok(()) } else { Err(Unclear) };
                }
                // Where one region is known there may be several: mseal(2) makes them, and maps that were taken over do not show
                // which of a file's pages were mapped by one that may be written to.
                let may_be_several = errno == Errno::EPERM || errno == Errno::EACCES && self.has_unseen;
                // It may have gone on where a stack had grown.
                let has_grown = errno != Errno::EINVAL && !self.is_partial && self.may_have_grown(range);
                match self.areas.first_hole(range) {
                    Some(_) if has_grown => {
                        self.disturb(range);
                        self.refused(call, errno);
                        self.perhaps_a_hole = (errno == Errno::ENOMEM).then_some(range);
                        Err(Unclear)
                    }
                    // With ENOMEM because of a hole, the pages before it have been changed.
                    Some(hole) if errno == Errno::ENOMEM => {
                        if let Some(before) = Range::new(addr, hole) {
                            self.protect(before, caller.prot(Prot::from_bits(bits)));
                        }
                        Ok(())
                    }
                    // Refused somewhere in the middle: what comes before has been changed (mprotect goes on region
                    // by region). Of a single region nothing has.
                    _ if !addr.0.is_multiple_of(PAGE)
                        || !may_be_several && self.areas.overlapping(range).nth(1).is_none() =>
                    {
                        self.refused(call, errno);
                        Ok(())
                    }
                    _ => {
                        self.refused(call, errno);
                        Err(Unclear)
                    }
                }
            }
            Call::Madvise { addr, len, advice } if errno == Errno::ENOMEM => {
                // One of the holes may be none: a stack may have grown there, and is not to be copied by fork now.
                let has_grown = Range::of_len(addr, len).is_some_and(|range| self.may_have_grown(range));
                let stays = matches!(advice, madv::DONTFORK | madv::DOFORK);
                self.has_unseen |= stays && has_grown;
                self.apply_madvise(addr, len, advice);
                Ok(())
            }
            // Some of it may have been advised, or sealed, before the rest was refused.
            Call::ProcessMadvise { advice: madv::DONTFORK | madv::DOFORK, .. } => {
                self.has_unseen = true;
                Ok(())
            }
            Call::Mseal { .. } => {
                (self.has_unseen, self.has_undetachable) = (true, true);
                Ok(())
            }
            Call::Mmap { addr, len, flags, .. } => {
                self.refused(call, errno);
                // The kernel may have unmapped what lay there before it failed.
                if let (true, Some(range)) = (replaces(flags), Range::of_len(addr, len)) {
                    self.disturb(range);
                }
                self.unclear_if(replaces(flags) && errno != Errno::EBADF, Range::of_len(addr, len))
            }
            Call::Mremap { old, old_len, new, new_len, flags } => {
                self.refused(call, errno);
                // What lay at the target has been unmapped first, and of several regions those before the one that was
                // refused have been moved, unless the arguments are wrong in themselves.
                let fixed = flags & mremap::FIXED != 0 && (errno != Errno::EINVAL || is_possible_move(call));
                if !fixed {
                    return Ok(());
                }
                let Some(from) = Range::of_len(old, old_len) else { return Err(Unclear) };
                self.disturb(from);
                Range::of_len(new, new_len).into_iter().for_each(|to| self.disturb(to));
                self.half_moved = Some(HalfMoved { from, to: new, stays: flags & mremap::DONTUNMAP != 0 });
                Err(Unclear)
            }
            // A driver, or what is lacking, may have refused it when the old mapping was gone.
            Call::RemapFilePages { addr, len, .. } => {
                let early = matches!(errno, Errno::EINVAL | Errno::EPERM);
                self.unclear_if(!early, Range::of_len(addr, len))
            }
            Call::Shmat { addr, flags, .. } if flags & SHM_REMAP != 0 => {
                self.refused(call, errno);
                let early = matches!(errno, Errno::EINVAL | Errno::EACCES | Errno::EPERM | Errno::EIDRM);
                Range::of_len(addr, 1).into_iter().for_each(|start| self.disturb(start));
                self.unclear_if(!early && addr.0 != 0, Range::of_len(addr, u64::MAX >> 16))
            }
            Call::Clone(_) | Call::Shmat { .. } | Call::Munmap { .. } | Call::IoSetup { .. } => {
                self.refused(call, errno);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn unclear_if(&self, condition: bool, range: Option<Range>) -> Result<(), Unclear> {
        let lost_something = range.is_some_and(|range| self.areas.overlapping(range).next().is_some());
        if condition && lost_something { Err(Unclear) } else { Ok(()) }
    }

    /// Counts a failure that says that something has run out.
    fn refused(&mut self, call: &Call, errno: Errno) {
        if !matches!(errno, Errno::EAGAIN | Errno::ENOMEM) {
            return;
        }
        let wanted_bytes = match *call {
            Call::Mmap { len, .. } => page_up(len),
            Call::Mremap { old_len, new_len, .. } => page_up(new_len).saturating_sub(page_up(old_len)),
            _ => 0,
        };
        let call = call.name();
        let known = self.refusals.iter().position(|refusal| refusal.call == call && refusal.errno == errno);
        let before = known.map_or(0, |known| self.refusals.remove(known).count);
        // The latest one comes last: the limits that are seen next are its own.
        self.refusals.push(Refusal { call, errno, count: before + 1, wanted_bytes, limits: None });
        self.perhaps_a_hole = None;
    }

    /// Takes the latest refusal back where the kernel's maps, just taken over, show that it was for a hole.
    pub(super) fn excuse_hole(&mut self) {
        let was_hole = self.perhaps_a_hole.take().is_some_and(|range| self.areas.first_hole(range).is_some());
        if was_hole && let Some(mut refusal) = self.refusals.pop() {
            refusal.count -= 1;
            self.refusals.extend((refusal.count > 0).then_some(refusal));
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
    line.name.starts_with(b"anon_inode:") || line.name.starts_with(b"/dev/") && !is_memory
}

/// Whether the kernel may have begun to do what these arguments ask for (`check_mremap_params`).
fn is_possible_move(call: &Call) -> bool {
    let Call::Mremap { old, old_len, new_len, flags, new } = *call else { return false };
    let known = mremap::MAYMOVE | mremap::FIXED | mremap::DONTUNMAP;
    let overlap = Range::of_len(old, old_len).zip(Range::of_len(new, new_len));
    flags & !known == 0
        && flags & mremap::MAYMOVE != 0
        && (flags & mremap::DONTUNMAP == 0 || page_up(old_len) == page_up(new_len))
        && old.0.is_multiple_of(PAGE)
        && new.0.is_multiple_of(PAGE)
        && new_len != 0
        && overlap.is_none_or(|(old, new)| old.intersection(new).is_none())
}

/// Whether mmap with these flags takes the place of what lies there.
fn replaces(flags: u32) -> bool {
    flags & map::FIXED != 0 && flags & map::FIXED_NOREPLACE == 0
}

/// Size of the huge pages that a mapping was asked for: 2 MiB unless the flags say otherwise (linux/mman.h).
fn huge_page_bytes(flags: u32) -> u64 {
    match flags >> map::HUGE_SHIFT & 0x3f {
        0 => 2 << 20,
        log2 => 1 << log2,
    }
}
