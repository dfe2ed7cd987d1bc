//! brk(2) (mm/mmap.c).

use super::*;

impl Kernel {
    /// brk(2), which returns what the break is now.
    pub(super) fn set_break(&mut self, addr: Addr, fate: Fate) -> u64 {
        let start = HEAP as u64 * PAGE;
        let wanted = addr.0.wrapping_sub(BASE);
        if wanted >= start && wanted <= PAGES as u64 * PAGE && fate == Fate::Normal {
            let (old, new) = ((page_up(self.brk) / PAGE) as usize, (page_up(wanted) / PAGE) as usize);
            let moved = if new < old {
                let occupied = self.pages[new..old].iter().any(Option::is_some);
                occupied && self.check_seal(new..old).is_ok() && {
                    self.unmap(new..old);
                    true
                }
            } else {
                self.pages.get(old..new + 1).is_some_and(|pages| pages.iter().all(Option::is_none)) && {
                    self.grow_heap(old..new);
                    true
                } || new == old
            };
            if moved {
                self.brk = wanted;
            }
        }
        BASE + self.brk
    }

    fn grow_heap(&mut self, more: Span<usize>) {
        if more.is_empty() {
            return;
        }
        let heap = self.pages[HEAP].filter(|page| page.heap).map(|page| page.mapping);
        let page = Page {
            mapping: heap.unwrap_or_else(|| self.new_name()),
            heap: true,
            prot: self.prot(3),
            sharing: Sharing::Private,
            file: None,
            dont_fork: false,
            guard: false,
            grows_down: false,
            sealed: false,
        };
        self.put(more, page);
    }
}
