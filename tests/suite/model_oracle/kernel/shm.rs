//! shmat(2) and shmdt(2) (ipc/shm.c).

use super::*;

impl Kernel {
    pub(super) fn shmat(&mut self, id: i32, addr: Addr, flags: i32) -> Result<Vma, Errno> {
        let [read_only, remap, exec] = SHM.map(|flag| flags & flag != 0);
        let count = 1 + id.unsigned_abs() as usize % 5;
        let at =
            if addr.0 == 0 { self.free(count).ok_or(Errno::ENOMEM)? } else { index_of(addr).ok_or(Errno::EINVAL)? };
        let target = self.span(at, count).ok_or(Errno::EINVAL)?;
        if !remap && self.pages[target.clone()].iter().any(Option::is_some) {
            return Err(Errno::EINVAL);
        }
        self.check_seal(target.clone())?;
        self.unmap(target.clone());
        let page = Page {
            mapping: self.new_name(),
            heap: false,
            prot: self.prot(if read_only { 1 } else { 3 } | if exec { 4 } else { 0 }),
            sharing: Sharing::Shared,
            file: Some(self.new_file(FileKind::Segment)),
            dont_fork: false,
            guard: false,
            grows_down: false,
            sealed: false,
        };
        self.segments.insert(self.files, (page.mapping, count));
        self.put(target.clone(), page);
        Ok(self.line(target, page))
    }

    /// shmdt(2): what is where shmat has put it of the first segment that has such a region, as far as the segment
    /// reaches (`ksys_shmdt`).
    pub(super) fn shmdt(&mut self, addr: Addr) -> Answer {
        let start = index_of(addr).ok_or(Errno::EINVAL)?;
        let mut found: Option<(u64, usize)> = None;
        let mut at = start;
        while at < PAGES {
            let vma = at..self.vma(at).end;
            let segment = self.segment_in_place(at, start);
            if found.is_some_and(|(_, size)| self.pages[at].is_some() && vma.end - start > size) {
                break;
            }
            if let Some(inode) = segment.filter(|inode| found.is_none_or(|(first, _)| first == *inode)) {
                found.get_or_insert((inode, self.segments[&inode].1));
                self.unmap(vma.clone());
            }
            at = vma.end;
        }
        found.map(|_| 0).ok_or(Errno::EINVAL)
    }

    /// The segment that has, at this page, what shmat puts there when it attaches it at `start`.
    fn segment_in_place(&self, at: usize, start: usize) -> Option<u64> {
        let file = self.pages[at]?.file?;
        let in_place = file.kind == FileKind::Segment && at.checked_sub(start)? as u64 == file.number;
        in_place.then_some(file.inode)
    }

    /// Whether all that lies as if attached at `addr` is of one segment and one call of shmat. Else the file that
    /// shmat has opened and the segment's size decide, of which no call tells.
    pub(super) fn is_as_attached(&self, addr: Addr) -> bool {
        let Some(start) = index_of(addr) else { return true };
        let in_place: Vec<(usize, u64)> =
            (start..PAGES).filter_map(|at| Some((at, self.segment_in_place(at, start)?))).collect();
        in_place.iter().all(|&(at, inode)| {
            let (mapping, size) = self.segments[&inode];
            let same = self.pages[at].is_some_and(|page| page.mapping == mapping);
            same && at - start < size && inode == in_place[0].1
        })
    }
}
