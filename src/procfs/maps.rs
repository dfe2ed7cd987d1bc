//! /proc/PID/maps: proc_pid_maps(5), fs/proc/task_mmu.c `show_map_vma`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;

use crate::event::{Prot, Sharing, Vma};
use crate::sys::{self, MapsLine, MapsQuery};
use crate::units::{Addr, Range, Tid};

/// The address space of a task as the kernel has it.
///
/// Empty once the task is a zombie: read it through one that lives.
///
/// Line by line where the kernel can be asked that (Linux 6.11). The text is read without the lock of the address space since
/// Linux 6.17, and can leave out the rest of a line that another thread splits at that moment: the part that was told ends where it
/// was split, but what is told next lies behind where the line ended when it was looked up (mm/mmap_lock.c `lock_next_vma`).
/// A question begins where the last answer ended.
pub fn read(tid: Tid) -> io::Result<Box<[Vma]>> {
    let asked = of_open(&File::open(format!("/proc/{tid}/maps"))?).filter(|lines| !lines.is_empty());
    asked.map_or_else(|| Ok(parse(&super::read(tid, "maps")?)), Ok)
}

/// The line that holds `addr`, and the one right below it, if there is one.
///
/// Where the kernel can be asked for single lines (Linux 6.11) this costs microseconds, however many there are.
pub fn around(tid: Tid, addr: Addr) -> Option<(Option<Vma>, Vma)> {
    let maps = File::open(format!("/proc/{tid}/maps")).ok()?;
    let Ok(line) = query_at(&maps, addr) else {
        return around_in(&read(tid).ok()?, addr);
    };
    let line = line?;
    let below = query_at(&maps, Addr(line.range.start().0.checked_sub(1)?)).ok()?;
    Some((below, line))
}

/// The line that holds `addr`, if there is one.
pub fn line_at(tid: Tid, addr: Addr) -> Option<Vma> {
    let maps = File::open(format!("/proc/{tid}/maps")).ok()?;
    query_at(&maps, addr).unwrap_or_else(|_| read(tid).ok()?.into_iter().find(|vma| vma.range.contains(addr)))
}

/// The line that holds `addr`; an error where the kernel cannot be asked for a single line.
pub(super) fn query_at(maps: &File, addr: Addr) -> io::Result<Option<Vma>> {
    let line = sys::query_maps(maps.as_fd(), MapsQuery::At, addr)?;
    Ok(line.and_then(|line| Vma::try_from(line).ok()))
}

fn around_in(maps: &[Vma], addr: Addr) -> Option<(Option<Vma>, Vma)> {
    let at = maps.iter().position(|vma| vma.range.contains(addr))?;
    let below = at.checked_sub(1).and_then(|below| maps.get(below));
    let adjoins = below.filter(|below| below.range.end() == maps[at].range.start());
    Some((adjoins.cloned(), maps[at].clone()))
}

/// All executable lines, lowest first.
///
/// # Errors
/// When there is no such task.
pub fn executable(tid: Tid) -> io::Result<Box<[Vma]>> {
    let maps = File::open(format!("/proc/{tid}/maps"))?;
    if let Some(lines) = ask(&maps, MapsQuery::NextExecutable) {
        return Ok(lines);
    }
    let all = read(tid)?.into_iter();
    Ok(all.filter(|vma| vma.prot.contains(Prot::EXEC)).collect())
}

/// What an open /proc/PID/maps shows, line by line: with Linux 6.11 also of an address space whose process is gone, while
/// that is held. None where the kernel is older, the address space has ended, or a name is too long for an answer.
pub fn of_open(maps: &File) -> Option<Box<[Vma]>> {
    ask(maps, MapsQuery::Next)
}

fn ask(maps: &File, query: MapsQuery) -> Option<Box<[Vma]>> {
    let mut lines = Vec::new();
    let mut from = Addr(0);
    while let Some(line) = sys::query_maps(maps.as_fd(), query, from).ok()? {
        let Ok(line) = Vma::try_from(line) else { break };
        from = line.range.end();
        lines.push(line);
    }
    Some(in_order(lines.into_iter()))
}

/// Lines as they were read, without what a line repeats of the one before it.
///
/// The kernel gives lines one after the other, or a page of them at once, and lets go in between. A line that has meanwhile
/// become one with the line before it (madvise, mprotect, a mapping beside it) is given whole, although the part below has been
/// told already. What lies behind the line before is as the kernel had it then.
fn in_order(lines: impl Iterator<Item = Vma>) -> Box<[Vma]> {
    let mut told = Addr(0);
    let behind = lines.filter_map(|vma| {
        let range = Range::new(vma.range.start().max(told), vma.range.end())?;
        told = range.end();
        let skipped = range.start().0 - vma.range.start().0;
        let offset = if vma.is_file() { vma.offset.wrapping_add(skipped) } else { vma.offset };
        Some(Vma { range, offset, ..vma })
    });
    behind.collect()
}

impl TryFrom<MapsLine> for Vma {
    type Error = ();

    /// Fails where the bounds are no range.
    fn try_from(line: MapsLine) -> Result<Vma, ()> {
        const SHARED: u64 = 8;
        let [start, end] = line.bounds;
        Ok(Vma {
            range: Range::new(Addr(start), Addr(end)).ok_or(())?,
            prot: Prot::from_bits((line.flags & 7) as u32),
            sharing: if line.flags & SHARED != 0 { Sharing::Shared } else { Sharing::Private },
            offset: line.offset,
            inode: line.inode,
            device: line.device[0] << 20 | line.device[1],
            name: line.name,
        })
    }
}

/// Whether the line that holds `addr` grows down: VM_GROWSDOWN, which only smaps tells (`show_smap_vma_flags`).
///
/// The kernel walks through all pages below for it: not to be asked of a healthy program often.
pub fn grows_down(tid: Tid, addr: Addr) -> bool {
    File::open(format!("/proc/{tid}/smaps")).is_ok_and(|smaps| flagged_down(BufReader::new(smaps), addr))
}

fn flagged_down(smaps: impl BufRead, addr: Addr) -> bool {
    let mut is_it = false;
    for line in smaps.split(b'\n').map_while(Result::ok) {
        if let Some(vma) = parse_line(&line) {
            is_it = vma.range.contains(addr);
        } else if let (true, Some(flags)) = (is_it, line.strip_prefix(b"VmFlags:")) {
            return flags.split(|byte| *byte == b' ').any(|flag| flag == b"gd");
        }
    }
    false
}

/// What was mapped at `addr`, in one piece: another thread's madvise or mlock may have split it by now.
pub fn region_at(tid: Tid, addr: Addr) -> Option<Vma> {
    let mut lines = read(tid).ok()?.into_iter().skip_while(|vma| !vma.range.contains(addr));
    let mut region = lines.next()?;
    for next in lines {
        let goes_on = next.range.start() == region.range.end()
            && (next.inode, next.device) == (region.inode, region.device)
            && (next.prot, next.sharing) == (region.prot, region.sharing)
            && next.offset == region.offset + region.range.bytes();
        match Range::new(region.range.start(), next.range.end()) {
            Some(whole) if goes_on => region.range = whole,
            _ => break,
        }
    }
    Some(region)
}

/// All lines that can be read; others are passed over. They are in order, and none repeats a part of another one.
pub fn parse(text: &[u8]) -> Box<[Vma]> {
    in_order(text.split(|byte| *byte == b'\n').filter_map(parse_line))
}

/// One line: `7f5c-7f5d rw-p 00001000 fe:01 1234   /path`.
fn parse_line(line: &[u8]) -> Option<Vma> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        std::str::from_utf8(word).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let perms = word()?.as_bytes();
    let offset = hex(word()?)?;
    let (major, minor) = word()?.split_once(':')?;
    let device = u32::try_from(hex(major)? << 20 | hex(minor)?).ok()?;
    let inode = word()?.parse().ok()?;
    let name_start = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
    let right = |index: usize, letter: u8, prot: Prot| {
        if perms.get(index) == Some(&letter) { prot } else { Prot::NONE }
    };
    Some(Vma {
        range: Range::new(Addr(hex(start)?), Addr(hex(end)?))?,
        prot: right(0, b'r', Prot::READ).with(right(1, b'w', Prot::WRITE)).with(right(2, b'x', Prot::EXEC)),
        sharing: if perms.get(3) == Some(&b's') { Sharing::Shared } else { Sharing::Private },
        offset,
        inode,
        device,
        name: rest[name_start..].into(),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real lines: a program, its heap, anonymous memory, shared memory that was deleted, and a path with blanks.
    #[test]
    fn lines_of_a_real_process() {
        let text = b"\
55d0a5c00000-55d0a5c01000 r-xp 00001000 fe:01 1312                       /usr/bin/cat
55d0a6b00000-55d0a6b21000 rw-p 00000000 00:00 0                          [heap]
7f1c00000000-7f1c00021000 ---p 00000000 00:00 0 
7f1c10000000-7f1c10001000 rw-s 00000000 00:01 32769                      /SYSV00000000 (deleted)
7f1c20000000-7f1c20001000 r--p 00002000 08:10 7                          /tmp/a b  c\n";
        let maps = parse(text);
        let show: Vec<String> = maps
            .iter()
            .map(|vma| {
                let name = String::from_utf8_lossy(&vma.name).into_owned();
                format!(
                    "{} {:?} {:?} {:x} {:x} {} {name}",
                    vma.range, vma.prot, vma.sharing, vma.offset, vma.device, vma.inode
                )
            })
            .collect();
        assert_eq!(
            show,
            [
                "55d0a5c00000-55d0a5c01000 r-x Private 1000 fe00001 1312 /usr/bin/cat",
                "55d0a6b00000-55d0a6b21000 rw- Private 0 0 0 [heap]",
                "7f1c00000000-7f1c00021000 --- Private 0 0 0 ",
                "7f1c10000000-7f1c10001000 rw- Shared 0 1 32769 /SYSV00000000 (deleted)",
                "7f1c20000000-7f1c20001000 r-- Private 2000 800010 7 /tmp/a b  c",
            ]
        );
    }

    /// The flag of the line that is asked for, and of no other one.
    #[test]
    fn flags_of_smaps() {
        let smaps = b"\
55d0a6b00000-55d0a6b21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
VmFlags: rd wr mr mw me ac 
7ffd10000000-7ffd10021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
VmFlags: rd wr mr mw me gd ac 
7ffd10021000-7ffd10022000 rw-p 00000000 00:00 0 
Size:                  4 kB\n";
        let grows = |addr: u64| flagged_down(&smaps[..], Addr(addr));
        assert_eq!([0x55d0_a6b0_0000, 0x7ffd_1002_0fff, 0x7ffd_1002_1000, 0].map(grows), [false, true, false, false]);
    }

    /// Text that is no maps at all, or is cut off, gives what can be read of it.
    #[test]
    fn damaged_lines_are_passed_over() {
        let text = b"\n\xff\xfe\nnonsense\n1000-2000 rw-p\n2000-1000 rw-p 0 0:0 0\n1000-2000 rw-p 0 0:0 0\n7ff";
        let maps = parse(text);
        assert_eq!(maps.len(), 1);
        assert_eq!(&*maps[0].name, b"");
    }

    /// Lines that became one with the line before it while they were read, as Linux 6.18 gave them: anonymous memory of which a
    /// part was advised, and a file. A line that is told already as a whole is left out.
    #[test]
    fn a_line_that_has_grown_downwards_is_not_told_twice() {
        let text = b"\
1000-3000 rw-p 00000000 00:00 0 
1000-8000 rw-p 00000000 00:00 0 
10000-12000 r--p 00005000 08:10 7                          /tmp/a
11000-14000 rw-p 00006000 08:10 7                          /tmp/a
11000-14000 rw-p 00006000 08:10 7                          /tmp/a
20000-21000 rw-p 00000000 00:00 0 \n";
        let show = |vma: &Vma| format!("{} {:?} {:x}", vma.range, vma.prot, vma.offset);
        let lines: Vec<String> = parse(text).iter().map(show).collect();
        assert_eq!(
            lines,
            ["1000-3000 rw- 0", "3000-8000 rw- 0", "10000-12000 r-- 5000", "12000-14000 rw- 7000", "20000-21000 rw- 0"]
        );
    }

    /// Single lines are those of the whole file, be they asked for one by one or found in it.
    #[test]
    fn single_lines() {
        let own = Tid(std::process::id() as i32);
        let maps = read(own).unwrap();
        let (below, line) = around(own, Addr(single_lines as *const () as u64)).unwrap();
        assert!(maps.contains(&line) && line.prot.contains(Prot::EXEC), "{line:?}");
        assert_eq!(around_in(&maps, line.range.start()), Some((below, line.clone())));
        assert_eq!(around(own, Addr(0)), None);
        assert!(executable(own).unwrap().contains(&line));
    }

    /// This very process can be read.
    #[test]
    fn own_maps_have_a_stack() {
        let maps = read(Tid(std::process::id() as i32)).unwrap();
        assert!(maps.iter().any(|vma| &*vma.name == b"[stack]"));
    }
}
