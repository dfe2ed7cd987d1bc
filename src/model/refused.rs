//! What system calls that failed have done all the same, by their arguments and their error.

use syscalls::Errno;

use super::calls::{Caller, Unclear, replaces};
use super::space::{AddressSpace, HalfMoved, Refusal};
use crate::abi::{SHM_REMAP, madv, map, mremap, prot};
use crate::event::{Call, Prot};
use crate::units::{Addr, PAGE, Range, page_down, page_up};

/// Behind all that a program can map.
const END: Addr = Addr(!(PAGE - 1));

impl AddressSpace {
    /// Does what a failed call has done before it did. Err where only the kernel knows.
    pub(super) fn apply_failure(&mut self, caller: Caller, call: &Call, errno: Errno) -> Result<(), Unclear> {
        match *call {
            Call::Mprotect { addr, len, prot } | Call::PkeyMprotect { addr, len, prot, .. } => {
                self.fail_mprotect(caller, call, Range::of_len(addr, len), prot, errno)
            }
            // Resources of the kernel's may have run out, or a device been in the way, behind what has been advised.
            Call::Madvise { addr, len, advice: madv::DONTFORK | madv::DOFORK } if errno != Errno::ENOMEM => {
                self.has_unseen |= addr.0.is_multiple_of(PAGE) && len > PAGE;
                Ok(())
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
                // The kernel may have unmapped what lay there before it failed: whole huge pages, if there were to be some.
                let whole = if may_map_huge(addr, flags) { map::GIGANTIC_PAGE } else { PAGE };
                let range = len.checked_next_multiple_of(whole).and_then(|len| Range::of_len(addr, len));
                if let (true, Some(range)) = (replaces(flags), range) {
                    self.disturb(range);
                }
                self.unclear_if(replaces(flags) && errno != Errno::EBADF, range)
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
            // What lies behind the file may have refused it, for whatever reason, when the old mapping was gone.
            Call::RemapFilePages { addr, prot, .. } => {
                self.unclear_if(prot == 0, Range::of_len(Addr(page_down(addr.0)), PAGE))
            }
            // i386's ipc(2) has attached it before it finds that it cannot store where.
            Call::Shmat { .. } if errno == Errno::EFAULT => Err(Unclear),
            Call::Shmat { addr, flags, .. } if flags & SHM_REMAP != 0 => {
                self.refused(call, errno);
                let start = Addr(page_down(addr.0));
                Range::of_len(start, PAGE).into_iter().for_each(|start| self.disturb(start));
                self.unclear_if(start.0 != 0, Range::new(start, END))
            }
            Call::Clone(_) | Call::Shmat { .. } | Call::Munmap { .. } | Call::IoSetup { .. } => {
                self.refused(call, errno);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// mprotect goes on region by region: what comes before the one that was refused has been changed.
    fn fail_mprotect(
        &mut self,
        caller: Caller,
        call: &Call,
        range: Option<Range>,
        bits: u32,
        errno: Errno,
    ) -> Result<(), Unclear> {
        let Some(range) = range.filter(|_| !is_wrong_in_itself(call)) else { return Ok(()) };
        if bits & (prot::GROWSDOWN | prot::GROWSUP) != 0 {
            return Err(Unclear);
        }
        let prot = caller.prot(Prot::from_bits(bits));
        // It may have gone on where a stack had grown.
        let has_grown = !self.is_partial && self.may_have_grown(range);
        match self.areas.first_hole(range) {
            Some(_) if has_grown => {
                self.disturb(range);
                self.refused(call, errno);
                self.perhaps_a_hole = (errno == Errno::ENOMEM).then_some(range);
                Err(Unclear)
            }
            Some(hole) if errno == Errno::ENOMEM => {
                let Some(before) = Range::new(range.start(), hole) else { return Ok(()) };
                // A limit may have been in its way before the hole was: RLIMIT_DATA, or that of regions.
                self.protect(before, prot);
                Err(Unclear)
            }
            _ => {
                self.refused(call, errno);
                // Where one region is known the kernel may have several: by advice, by mlock(2), by mseal(2), or of files
                // that were opened with other rights, and have been moved, or were seen, side by side.
                if range.bytes() == PAGE { Ok(()) } else { Err(Unclear) }
            }
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

/// Whether mmap with these arguments may be about huge pages: a file may have some.
fn may_map_huge(addr: Addr, flags: u32) -> bool {
    let may_be_file = flags & map::ANONYMOUS == 0 && addr.0.is_multiple_of(map::HUGE_PAGE);
    may_be_file || flags & map::HUGETLB != 0
}

/// Whether mprotect refuses these arguments before it looks at any page (`do_mprotect_pkey`, `arch_validate_prot`).
fn is_wrong_in_itself(call: &Call) -> bool {
    let (Call::Mprotect { addr, prot, .. } | Call::PkeyMprotect { addr, prot, .. }) = *call else { return false };
    let known = prot::READ | prot::WRITE | prot::EXEC | prot::SEM | prot::GROWSDOWN | prot::GROWSUP;
    !addr.0.is_multiple_of(PAGE) || prot & !known != 0
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
