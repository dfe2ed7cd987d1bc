//! mremap(2): what moves, what is copied, and what fails halfway (mm/mremap.c).

use super::*;

/// The mappings that a call of mremap with MREMAP_DONTUNMAP has added, by those that they are copies of.
type Copies = HashMap<u32, u32>;

impl Kernel {
    /// mremap(2), with whole pages for lengths (mm/mremap.c).
    pub(super) fn mremap(
        &mut self,
        old: Addr,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: Addr,
        fate: Fate,
    ) -> Answer {
        let (fixed, keep) = (flags & mremap::FIXED != 0, flags & mremap::DONTUNMAP != 0);
        let start = index_of(old).ok_or(Errno::EINVAL)?;
        let (old_count, new_count) = ((old_len / PAGE) as usize, (new_len / PAGE) as usize);
        if new_count == 0 {
            return Err(Errno::EINVAL);
        }
        if fixed || keep {
            let overlaps = fixed && old.0 + old_len > new.0 && new.0 + new_len > old.0;
            let resizes = keep && old_count != new_count;
            let target = index_of(new).and_then(|to| self.span(to, new_count));
            if flags & mremap::MAYMOVE == 0 || resizes || overlaps || target.is_none() {
                return Err(Errno::EINVAL);
            }
        }
        if fixed && old_count == new_count {
            return self.move_several(start, old_count, index_of(new).ok_or(Errno::EINVAL)?, keep, fate);
        }
        if start >= PAGES || self.pages[start].is_none() {
            return Err(Errno::EFAULT);
        }
        self.check_seal(start..start + 1)?;
        let grows = new_count > old_count;
        if !grows && !fixed && !keep {
            // Shrinking may go over other regions and holes.
            let tail = (start + new_count).min(PAGES)..(start + old_count).min(PAGES);
            self.check_seal(tail.clone())?;
            self.unmap(tail);
            return Ok(old.0);
        }
        if start + old_count.min(new_count) > self.vma(start).end {
            return Err(Errno::EFAULT);
        }
        if old_count == 0 && self.pages[start].is_some_and(|page| page.sharing == Sharing::Private) {
            return Err(Errno::EINVAL);
        }
        if fate == Fate::Refused {
            return Err(Errno::ENOMEM);
        }
        if grows && !fixed && old_count > 0 && self.vma(start).end == start + old_count {
            let more = self.span(start + old_count, new_count - old_count);
            if let Some(more) = more.filter(|more| self.pages[more.clone()].iter().all(Option::is_none)) {
                self.grow(more);
                return Ok(old.0);
            }
        }
        if grows && flags & mremap::MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        let to = if fixed { index_of(new) } else { self.free(new_count) }.ok_or(Errno::ENOMEM)?;
        let mut copies = keep.then(Copies::new);
        self.move_one(start..start + old_count, to..to + new_count, copies.as_mut(), fate)?;
        Ok(address_of(to).0)
    }

    /// `remap_move`: region by region, with the gaps between them kept, and what lies in these at the target too.
    fn move_several(&mut self, start: usize, count: usize, to: usize, keep: bool, fate: Fate) -> Answer {
        let end = (start + count).min(PAGES);
        if start >= end || self.pages[start].is_none() {
            return Err(Errno::EFAULT);
        }
        let mut copies = keep.then(Copies::new);
        let mut at = start;
        while let Some(first) = (at..end).find(|&at| self.pages[at].is_some()) {
            let whole = self.vma(first);
            let vma = first..whole.end.min(end);
            if self.pages[first].is_some_and(is_segment) && (first > start || whole.end < start + count) {
                return Err(Errno::EFAULT);
            }
            self.check_seal(vma.clone())?;
            let target = to + (first - start);
            // Refused on the way, if at all.
            let fate = if first > start { fate } else { Fate::Normal };
            self.move_one(vma.clone(), target..target + vma.len(), copies.as_mut(), fate)?;
            at = vma.end;
        }
        Ok(address_of(to).0)
    }

    /// `move_vma`: pages of one region become those of `to`.
    fn move_one(
        &mut self,
        from: Span<usize>,
        to: Span<usize>,
        mut copies: Option<&mut Copies>,
        fate: Fate,
    ) -> Result<(), Errno> {
        if fate == Fate::Refused {
            return Err(Errno::ENOMEM);
        }
        self.check_seal(to.clone())?;
        self.unmap(to.clone());
        let first = self.pages[from.start].ok_or(Errno::EFAULT)?;
        let kept = from.len().min(to.len());
        let tail = from.start + kept..from.end.clamp(from.start + kept, PAGES);
        self.check_seal(tail.clone())?;
        self.unmap(tail);
        if fate == Fate::RefusedLate {
            return Err(Errno::ENOMEM);
        }
        if from.is_empty() {
            let mapping = self.new_name();
            self.put(to, Page { mapping, guard: false, ..first });
            return Ok(());
        }
        for (old, new) in from.clone().zip(to.clone()) {
            let Some(page) = self.pages[old] else { continue };
            // Guards are in the page tables, which move even where the region stays.
            self.pages[old] = copies.as_ref().map(|_| Page { guard: false, ..page });
            self.pages[new] = Some(match &mut copies {
                Some(copies) => {
                    Page { mapping: *copies.entry(page.mapping).or_insert_with(|| self.new_name()), ..page }
                }
                None => page,
            });
        }
        if to.len() > kept {
            self.grow(to.start + kept..to.end);
        }
        Ok(())
    }
}
