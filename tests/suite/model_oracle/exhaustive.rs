//! Every way to cut into one, two or three pieces, rather than random ones.

use std::collections::HashMap;
use std::ops::Range as Span;
use std::time::Duration;

use vmtrace::abi::{map, mremap};
use vmtrace::event::{Call, Prot, Syscall};
use vmtrace::model::calls::Caller;
use vmtrace::model::mapping::MappingId;
use vmtrace::model::page_map::PageMap;
use vmtrace::model::space::AddressSpace;
use vmtrace::units::{PAGE, Pid, Tid, Time};

use super::kernel::{Fate, Kernel, address_of, range};
use super::{check_invariants, check_pages};

/// All ranges within so many pages.
fn ranges(pages: usize) -> impl Iterator<Item = Span<usize>> {
    (0..pages).flat_map(move |start| (start + 1..=pages).map(move |end| start..end))
}

/// All ways to lay one, two or three pieces, touching or not, into so many pages.
fn layouts(pages: usize) -> Vec<Vec<Span<usize>>> {
    let mut layouts: Vec<Vec<Span<usize>>> = ranges(pages).map(|piece| vec![piece]).collect();
    let mut extended = layouts.clone();
    for _ in 0..2 {
        extended = extended
            .iter()
            .flat_map(|layout| {
                let end = layout.last().map_or(0, |piece| piece.end);
                ranges(pages).filter(move |piece| piece.start >= end).map(|piece| {
                    let mut longer = layout.clone();
                    longer.push(piece);
                    longer
                })
            })
            .collect();
        layouts.extend(extended.iter().cloned());
    }
    layouts
}

/// All ways to give each piece one of two values.
fn valued(layout: &[Span<usize>]) -> impl Iterator<Item = Vec<(Span<usize>, u8)>> {
    (0..1_u8 << layout.len())
        .map(|values| layout.iter().enumerate().map(|(index, piece)| (piece.clone(), values >> index & 1)).collect())
}

/// The map holds exactly the dense values, in as few pieces as can be.
fn check_map(map: &PageMap<u8>, dense: &[Option<u8>]) {
    let mut expected: Vec<(Span<usize>, u8)> = Vec::new();
    for (at, value) in dense.iter().enumerate() {
        match (value, expected.last_mut()) {
            (Some(value), Some((piece, last))) if piece.end == at && last == value => piece.end += 1,
            (Some(value), _) => expected.push((at..at + 1, *value)),
            (None, _) => {}
        }
    }
    let expected: Vec<_> = expected.into_iter().map(|(piece, value)| (range(piece), value)).collect();
    let pieces: Vec<_> = map.iter().map(|(piece, value)| (piece, *value)).collect();
    assert_eq!(pieces, expected);
    assert_eq!(map.len(), expected.len());
}

/// Whatever is set, cut or updated in whatever lay there, the map is what an array would be.
#[test]
fn a_page_map_is_an_array() {
    const N: usize = 6;
    for layout in layouts(N) {
        for pieces in valued(&layout) {
            let (mut map, mut dense) = (PageMap::default(), [None; N]);
            for (piece, value) in pieces {
                dense[piece.clone()].fill(Some(value));
                map.set(range(piece), value);
            }
            check_map(&map, &dense);
            for window in ranges(N) {
                check_changes(&map, &dense, window);
            }
        }
    }
}

fn check_changes(map: &PageMap<u8>, dense: &[Option<u8>], window: Span<usize>) {
    let seen: Vec<_> = map.overlapping(range(window.clone())).map(|(piece, value)| (piece, *value)).collect();
    let hole = window.clone().find(|&at| dense[at].is_none());
    assert_eq!(map.first_hole(range(window.clone())), hole.map(address_of));

    let (mut changed, mut expected) = (map.clone(), dense.to_vec());
    assert_eq!(changed.cut(range(window.clone())).collect::<Vec<_>>(), seen, "what is cut is what was there");
    expected[window.clone()].fill(None);
    check_map(&changed, &expected);

    for new in [0, 2] {
        let (mut changed, mut expected) = (map.clone(), dense.to_vec());
        changed.set(range(window.clone()), new);
        expected[window.clone()].fill(Some(new));
        check_map(&changed, &expected);
    }
    for change in [|_| 0, |_| 2, |value| value, |value| 1 - value] {
        let (mut changed, mut expected) = (map.clone(), dense.to_vec());
        changed.update(range(window.clone()), change);
        for value in expected[window.clone()].iter_mut() {
            *value = value.map(change);
        }
        check_map(&changed, &expected);
    }
}

/// Both sides, after the same calls.
#[derive(Clone)]
struct Pair {
    space: AddressSpace,
    kernel: Kernel,
    names: HashMap<u32, MappingId>,
}

impl Pair {
    /// Pieces of one, two or three calls of mmap: anonymous memory that differs in its rights, or parts of a file.
    fn new(pieces: &[(Span<usize>, u8)]) -> Pair {
        let kernel = Kernel::new();
        let space = AddressSpace::new(Pid(1), &kernel.maps(|_| false), None);
        let mut pair = Pair { space, kernel, names: HashMap::new() };
        for (piece, value) in pieces {
            pair.call(mmap(piece.clone(), u32::from(*value), map::ANONYMOUS));
        }
        pair
    }

    fn call(&mut self, call: Call) {
        let outcome = self.kernel.call(&call, Fate::Normal);
        let caller = Caller { at: Time(Duration::ZERO), tid: Tid(1), call_stack: None, read_implies_exec: false };
        let syscall = Syscall { call, result: outcome.result, mapped: outcome.mapped };
        let unclear = self.space.apply(caller, &syscall).is_err();
        assert!(outcome.open || !unclear, "{call:?} leaves nothing open");
        if unclear {
            self.space.adopt(&self.kernel.maps(|_| false));
        }
    }

    fn check(mut self) {
        check_pages(&self.space, &self.kernel, &mut self.names);
        check_invariants(&self.space);
        assert_eq!(self.space.compare(&self.kernel.maps(|_| false)), Ok(()));
        assert_eq!(self.space.compare(&self.kernel.maps(|_| true)), Ok(()));
    }
}

fn mmap(pages: Span<usize>, prot: u32, kind: u32) -> Call {
    let (addr, len) = (address_of(pages.start), pages.len() as u64 * PAGE);
    Call::Mmap { addr, len, prot, flags: map::PRIVATE | map::FIXED | kind, fd: -1, offset: 0 }
}

/// Unmapping, protecting and mapping any range over any one, two or three mappings.
#[test]
fn every_range_can_be_unmapped_protected_and_mapped_over() {
    const N: usize = 5;
    for layout in layouts(N) {
        for pieces in valued(&layout) {
            let before = Pair::new(&pieces);
            before.clone().check();
            for window in ranges(N) {
                let (addr, len) = (address_of(window.start), window.len() as u64 * PAGE);
                let protect = |prot: Prot| Call::Mprotect { addr, len, prot: u32::from(prot.contains(Prot::READ)) };
                let calls = [
                    Call::Munmap { addr, len },
                    protect(Prot::NONE),
                    protect(Prot::READ),
                    mmap(window, 1, map::ANONYMOUS),
                ];
                for call in calls {
                    let mut pair = before.clone();
                    pair.call(call);
                    pair.check();
                }
            }
        }
    }
}

/// mremap of any range over any one, two or three mappings: in place, moved, copied, resized, onto other mappings.
#[test]
fn every_range_can_be_remapped() {
    const N: usize = 4;
    const TARGET: usize = 8;
    const MOVE: u32 = mremap::MAYMOVE;
    for layout in layouts(N) {
        let pieces: Vec<_> = layout.into_iter().zip([1, 0, 1]).collect();
        for shared in [map::ANONYMOUS, 0] {
            let mut before = Pair::new(&[]);
            for (piece, prot) in &pieces {
                before.call(mmap(piece.clone(), *prot, shared));
            }
            // What lies at the target, with a hole in it.
            before.call(mmap(TARGET..TARGET + 2, 1, map::ANONYMOUS));
            before.call(mmap(TARGET + 3..TARGET + 6, 3, map::ANONYMOUS));
            before.clone().check();
            for window in ranges(N) {
                for new_pages in 1..=N + 1 {
                    for flags in [0, MOVE, MOVE | mremap::FIXED, MOVE | mremap::FIXED | mremap::DONTUNMAP] {
                        let mut pair = before.clone();
                        pair.call(Call::Mremap {
                            old: address_of(window.start),
                            old_len: window.len() as u64 * PAGE,
                            new_len: new_pages as u64 * PAGE,
                            flags,
                            new: address_of(TARGET),
                        });
                        pair.check();
                    }
                }
            }
        }
    }
}
