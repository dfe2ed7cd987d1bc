//! mprotect(2) (mm/mprotect.c).

use super::*;

impl Kernel {
    pub(super) fn mprotect(&mut self, addr: Addr, len: u64, prot: u32, fate: Fate) -> Answer {
        let mut index = index_of(addr).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(0);
        }
        let end = index + (page_up(len) / PAGE) as usize;
        if prot & prot::GROWSDOWN != 0 {
            index = (index..end.min(PAGES)).find(|&at| self.pages[at].is_some()).ok_or(Errno::ENOMEM)?;
            if self.pages[index].is_some_and(|page| !page.grows_down) {
                return Err(Errno::EINVAL);
            }
            index = self.vma(index).start;
        }
        // RLIMIT_DATA may be met at any page that counts for it, and the number of regions anywhere.
        let before = self.before_hole(address_of(index), (end - index) as u64 * PAGE);
        let is_limited = before.end == end || self.is_charged(before, prot);
        for at in index..end {
            match fate {
                Fate::Refused if is_limited => return Err(Errno::ENOMEM),
                Fate::RefusedLate if is_limited && at > index => return Err(Errno::ENOMEM),
                _ => {}
            }
            let right = self.prot(prot);
            let Some(page) = self.pages.get_mut(at).and_then(Option::as_mut) else { return Err(Errno::ENOMEM) };
            if page.sealed {
                return Err(Errno::EPERM);
            }
            let read_only = page.file.is_some_and(|file| file.kind == FileKind::ReadOnly);
            if read_only && page.sharing == Sharing::Shared && right.contains(Prot::WRITE) {
                return Err(Errno::EACCES);
            }
            page.prot = right;
        }
        Ok(0)
    }

    /// Whether pages of a file that get these rights become executable, too, unless it is mounted where nothing is.
    pub(super) fn may_be_noexec(&self, prot: u32) -> bool {
        self.read_implies_exec && prot & (prot::READ | prot::EXEC) == prot::READ
    }

    /// The pages that are mapped up to the first one that is not.
    pub(super) fn before_hole(&self, addr: Addr, len: u64) -> Span<usize> {
        let Some(start) = index_of(addr) else { return 0..0 };
        let end = start + (page_up(len) / PAGE) as usize;
        start..(start..end).find(|&at| self.pages.get(at).is_none_or(Option::is_none)).unwrap_or(end)
    }

    /// Whether these rights make some of these pages count for RLIMIT_DATA (`is_data_mapping`).
    pub(super) fn is_charged(&self, pages: Span<usize>, prot: u32) -> bool {
        let counts = |page: &Page| page.sharing == Sharing::Private && !page.prot.contains(Prot::WRITE);
        self.prot(prot).contains(Prot::WRITE) && self.pages[pages].iter().flatten().any(counts)
    }
}
