//! Page faults extend what grows down, and no call tells of it: what may have grown, and what becomes of it.

use super::tolerance::{at, compare, compared};
use super::*;
use crate::model::tolerance::Tolerated;

const GROWS: u32 = PLAIN | map::GROWSDOWN;

/// A program followed from its start, with a mapping of two pages at 0x10000 that grows down.
fn growing() -> Trace {
    let mut trace = Trace::new();
    trace.exec(MAIN, MAIN);
    trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, GROWS);
    trace
}

/// The kernel's maps were looked at.
fn look(trace: &mut Trace, maps: &[Vma]) {
    trace.happen(MAIN, EventKind::Maps(maps.into()));
}

/// Stacks grow downwards, with their own rights, from where they begin; nothing else does.
#[test]
fn growth_of_stacks() {
    let known = at(0x10_000, 2, READ_WRITE);
    let grown = [at(0xc_000, 6, READ_WRITE)];
    let (agrees, tolerated) = compared(GROWS, &grown);
    assert!(agrees);
    assert_eq!(tolerated, Tolerated { stack_growth: 1, ..Tolerated::default() });
    let shared = Vma { sharing: Sharing::Shared, ..at(0xf_000, 1, READ_WRITE) };
    let wrong: [(&str, u32, Vec<Vma>); 6] = [
        ("what does not grow", PLAIN, grown.to_vec()),
        ("upwards", GROWS, vec![at(0x10_000, 3, READ_WRITE)]),
        ("not adjoining", GROWS, vec![at(0xe_000, 1, READ_WRITE), known.clone()]),
        ("with other rights", GROWS, vec![at(0xf_000, 1, Prot::READ), known.clone()]),
        ("with another sharing", GROWS, vec![shared, known.clone()]),
        ("growth alone", GROWS, vec![at(0xf_000, 1, READ_WRITE)]),
    ];
    for (what, flags, maps) in wrong {
        assert_eq!(compared(flags, &maps), (false, Tolerated::default()), "{what}");
    }
}

/// What has grown and was cut by a call stays below the cut, and only there.
#[test]
fn growth_below_a_cut() {
    let known = at(0x10_000, 2, READ_WRITE);
    let cases = [
        (vec![at(0xb_000, 2, READ_WRITE), at(0xe_000, 4, READ_WRITE)], true),
        (vec![at(0xb_000, 1, READ_WRITE), at(0xe_000, 4, READ_WRITE)], false),
        (vec![at(0xb_000, 2, Prot::READ), known.clone()], false),
        (vec![known], true),
    ];
    for (maps, agrees) in cases {
        let mut trace = Trace::new();
        trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, GROWS);
        trace.munmap(range(0xd_000, PAGE));
        assert_eq!(compare(&mut trace, &maps).0, agrees, "{maps:?}");
    }
}

/// What has grown keeps its rights when those above it change, also below a later cut.
#[test]
fn growth_below_a_change_and_a_cut() {
    let mut trace = Trace::new();
    let known = trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, GROWS);
    trace.mprotect(MAIN, known, 1);
    trace.munmap(range(0xd_000, PAGE));
    let maps = [at(0xb_000, 2, READ_WRITE), at(0xe_000, 2, READ_WRITE), at(0x10_000, 2, Prot::READ)];
    assert!(compare(&mut trace, &maps).0);
}

/// What has grown below a cut grows on.
#[test]
fn growth_goes_on_below_a_cut() {
    let mut trace = Trace::new();
    trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, GROWS);
    trace.munmap(range(0xd_000, PAGE));
    assert!(compare(&mut trace, &[at(0xb_000, 2, READ_WRITE), at(0xe_000, 4, READ_WRITE)]).0);
    assert!(compare(&mut trace, &[at(0x9_000, 4, READ_WRITE), at(0xe_000, 4, READ_WRITE)]).0);
}

/// A call that succeeds over pages that have grown unseen is for the kernel to tell.
#[test]
fn advice_over_growth_is_unclear() {
    let advise = |result| {
        let mut trace = Trace::new();
        trace.exec(MAIN, MAIN);
        trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, GROWS);
        let call = Call::Madvise { addr: Addr(0xf_000), len: 2 * PAGE, advice: madv::DONTFORK };
        let unclear = trace.call(MAIN, call, result).unclear.is_some();
        (unclear, trace.space().has_unseen)
    };
    assert_eq!(advise(Ok(0)), (true, false));
    // There is a hole for certain, but where it is the model cannot know.
    assert_eq!(advise(Err(Errno::ENOMEM)), (false, true));
}

/// Lock, name and advice split what has grown, at places that the model does not have.
#[test]
fn growth_in_several_lines() {
    let maps = [at(0xb_000, 2, READ_WRITE), at(0xd_000, 2, READ_WRITE), at(0xf_000, 3, READ_WRITE)];
    assert!(compare(&mut growing(), &maps).0);
    // A part with other rights is no growth.
    let other = [at(0xb_000, 2, READ_WRITE), at(0xd_000, 2, Prot::READ), at(0xf_000, 3, READ_WRITE)];
    assert!(!compare(&mut growing(), &other).0);
}

/// What has grown down to another one that grows is one line with it when advice makes them equal.
#[test]
fn growth_down_to_another() {
    let mut trace = growing();
    trace.mmap_at(MAIN, Addr(0x8_000), PAGE, RW, GROWS);
    assert!(compare(&mut trace, &[at(0x8_000, 10, READ_WRITE)]).0);
    // Below the other one it is the other one's.
    assert!(compare(&mut trace, &[at(0x6_000, 12, READ_WRITE)]).0);
}

/// mprotect that meets a hole has gone on over what had grown up to there.
#[test]
fn refused_changes_over_growth_are_unclear() {
    let protect = |trace: &mut Trace, addr, len, errno| {
        let call = Call::Mprotect { addr: Addr(addr), len, prot: 1 };
        trace.call(MAIN, call, Err(errno)).unclear.is_some()
    };
    assert!(protect(&mut growing(), 0xf_000, 4 * PAGE, Errno::ENOMEM));
    assert!(protect(&mut growing(), 0xf_000, 2 * PAGE, Errno::EACCES));
    assert!(!protect(&mut growing(), 0xf_001, 2 * PAGE, Errno::EINVAL));
    // Nothing lies before the hole.
    assert!(!protect(&mut growing(), 0x40_000, 4 * PAGE, Errno::ENOMEM));
}

/// mprotect that meets a hole below a stack has lacked nothing; where the stack had grown there, it has. mono closes pages
/// below the stack of its first thread so, which are not there yet.
#[test]
fn a_hole_below_a_stack_is_no_lack() {
    let lacking = |maps: &[Vma]| {
        let mut trace = growing();
        let call = Call::Mprotect { addr: Addr(0xf_000), len: PAGE, prot: 0 };
        assert!(trace.call(MAIN, call, Err(Errno::ENOMEM)).unclear.is_some());
        let id = trace.model.space_of(MAIN).unwrap();
        trace.model.space_mut(id).unwrap().adopt(maps);
        trace.space().refusals.len()
    };
    assert_eq!(lacking(&[at(0x10_000, 2, READ_WRITE)]), 0);
    assert_eq!(lacking(&[at(0xf_000, 3, READ_WRITE)]), 1);
}

/// What a look has found below what grows down grows on, piece by piece, whatever rights calls have given it.
#[test]
fn growth_goes_on_after_a_look() {
    let mut trace = growing();
    look(&mut trace, &[at(0xc_000, 2, READ_WRITE), at(0xe_000, 4, Prot::READ)]);
    assert!(compare(&mut trace, &[at(0xa_000, 4, READ_WRITE), at(0xe_000, 4, Prot::READ)]).0);
    // What lay apart from it has not grown.
    let mut trace = growing();
    look(&mut trace, &[at(0xc_000, 2, READ_WRITE), at(0x10_000, 2, READ_WRITE)]);
    assert!(!compare(&mut trace, &[at(0xb_000, 3, READ_WRITE), at(0x10_000, 2, READ_WRITE)]).0);
}

/// A call that has succeeded on pages that had grown is done to them before the kernel is asked: below them, what else has
/// grown keeps what it had.
#[test]
fn changes_over_growth() {
    let mut trace = growing();
    trace.mprotect(MAIN, range(0xe_000, 3 * PAGE), 1);
    let maps = [at(0xc_000, 2, READ_WRITE), at(0xe_000, 3, Prot::READ), at(0x11_000, 1, READ_WRITE)];
    assert!(compare(&mut trace, &maps).0);
}

/// What has grown, and is moved, grows on where it has come to lie.
#[test]
fn growth_that_is_moved() {
    let mut trace = growing();
    let call =
        Call::Mremap { old: Addr(0xe_000), old_len: 2 * PAGE, new_len: 2 * PAGE, flags: mremap::MAYMOVE, new: Addr(0) };
    assert!(trace.call(MAIN, call, Ok(0x30_000)).unclear.is_some());
    look(&mut trace, &[at(0x10_000, 2, READ_WRITE), at(0x30_000, 2, READ_WRITE)]);
    assert!(compare(&mut trace, &[at(0x10_000, 2, READ_WRITE), at(0x2d_000, 5, READ_WRITE)]).0);
}

/// What has grown, and may have the rights of before or after a change, is moved: where it is now it grows on.
#[test]
fn growth_of_unknown_rights_is_moved() {
    let mut trace = growing();
    trace.mprotect(MAIN, range(0x10_000, 2 * PAGE), 1);
    let to = range(0x30_000, 4 * PAGE);
    let (flags, new) = (mremap::MAYMOVE, Addr(0));
    let call = Call::Mremap { old: Addr(0xf_000), old_len: PAGE, new_len: to.bytes(), flags, new };
    assert!(trace.call(MAIN, call, Ok(to.start().0)).unclear.is_some());
    let known = at(0x10_000, 2, Prot::READ);
    look(&mut trace, &[known.clone(), at(0x30_000, 4, Prot::READ)]);
    assert!(compare(&mut trace, &[known, at(0x2e_000, 6, Prot::READ)]).0);
}

/// What has grown in a hole of what is moved (Linux 6.17) moves too, and takes the place of what lay there.
#[test]
fn growth_within_what_is_moved() {
    let mut trace = growing();
    trace.mmap_at(MAIN, Addr(0x8_000), PAGE, RW, PLAIN);
    // The right to grow is gone from above it, and the note of it moves.
    trace.mprotect(MAIN, range(0x10_000, 2 * PAGE), 1);
    trace.munmap(range(0xf_000, 3 * PAGE));
    trace.mmap_at(MAIN, Addr(0xf_000), PAGE, 1, PLAIN);
    let (from, to) = (range(0x8_000, 8 * PAGE), range(0x108_000, 8 * PAGE));
    trace.mremap(from, to);
    let moved = |low| {
        [at(0x108_000, 1, READ_WRITE), at(low, (0x10f_000 - low) / PAGE, READ_WRITE), at(0x10f_000, 1, Prot::READ)]
    };
    look(&mut trace, &moved(0x10d_000));
    assert!(compare(&mut trace, &moved(0x10b_000)).0);
}

/// Where something may have grown in a hole of what is moved, only the kernel knows what has become of the target.
#[test]
fn a_move_with_growth_is_unclear() {
    let mut trace = growing();
    trace.mmap_at(MAIN, Addr(0x8_000), PAGE, RW, PLAIN);
    let (flags, new) = (mremap::MAYMOVE | mremap::FIXED, Addr(0x100_000));
    let mut remap = |old, pages| {
        let call = Call::Mremap { old: Addr(old), old_len: pages * PAGE, new_len: pages * PAGE, flags, new };
        trace.call(MAIN, call, Ok(new.0)).unclear.is_some()
    };
    assert!(remap(0x8_000, 9));
    assert!(!remap(0x11_000, 1));
}

/// An mremap of several mappings that failed on the way has moved the first ones, and their right to grow with them.
#[test]
fn growth_that_is_half_moved() {
    let mut trace = growing();
    trace.mmap_at(MAIN, Addr(0x12_000), PAGE, RW, map::SHARED);
    let call = Call::Mremap {
        old: Addr(0x10_000),
        old_len: 3 * PAGE,
        new_len: 3 * PAGE,
        flags: mremap::MAYMOVE | mremap::FIXED,
        new: Addr(0x100_000),
    };
    assert!(trace.call(MAIN, call, Err(Errno::EFAULT)).unclear.is_some());
    let shared = Vma { sharing: Sharing::Shared, inode: 7, ..at(0x12_000, 1, READ_WRITE) };
    look(&mut trace, &[shared.clone(), at(0x100_000, 2, READ_WRITE)]);
    assert!(compare(&mut trace, &[shared, at(0xfd_000, 5, READ_WRITE)]).0);
}

/// With MREMAP_DONTUNMAP the source is still there: what has come to lie at the target grows.
#[test]
fn growth_that_is_half_copied() {
    let mut trace = growing();
    trace.mmap_at(MAIN, Addr(0x12_000), PAGE, RW, map::SHARED);
    trace.mmap_at(MAIN, Addr(0x100_000), 2 * PAGE, NONE, PLAIN);
    let call = Call::Mremap {
        old: Addr(0x10_000),
        old_len: 3 * PAGE,
        new_len: 3 * PAGE,
        flags: mremap::MAYMOVE | mremap::FIXED | mremap::DONTUNMAP,
        new: Addr(0x100_000),
    };
    assert!(trace.call(MAIN, call, Err(Errno::EFAULT)).unclear.is_some());
    let source = at(0x10_000, 2, READ_WRITE);
    let shared = Vma { sharing: Sharing::Shared, inode: 7, ..at(0x12_000, 1, READ_WRITE) };
    look(&mut trace, &[source.clone(), shared.clone(), at(0x100_000, 2, READ_WRITE)]);
    assert!(compare(&mut trace, &[source, shared, at(0xfd_000, 5, READ_WRITE)]).0);
}

/// mmap that fails may have unmapped what had grown: what lies below it has grown too.
#[test]
fn growth_below_a_mapping_that_failed() {
    let mut trace = growing();
    let (flags, prot) = (PLAIN | map::FIXED, RW);
    let call = Call::Mmap { addr: Addr(0xd_000), len: PAGE, prot, flags, fd: -1, offset: 0 };
    trace.call(MAIN, call, Err(Errno::ENOMEM));
    assert!(compare(&mut trace, &[at(0xb_000, 2, READ_WRITE), at(0xe_000, 4, READ_WRITE)]).0);
}

/// Advice on forks that met a hole may have reached what had grown behind it, so that each child is looked at.
#[test]
fn advice_on_forks_over_growth() {
    let advised = |addr, pages, advice| {
        let mut trace = growing();
        trace.mmap_at(MAIN, Addr(0x8_000), PAGE, RW, PLAIN);
        let call = Call::Madvise { addr: Addr(addr), len: pages * PAGE, advice };
        trace.call(MAIN, call, Err(Errno::ENOMEM));
        trace.space().has_unseen
    };
    assert!(advised(0x8_000, 6, madv::DONTFORK));
    assert!(advised(0x8_000, 9, madv::DOFORK));
    assert!(!advised(0x8_000, 9, madv::GUARD_INSTALL));
    assert!(!advised(0x10_000, 9, madv::DONTFORK));
}

/// What has grown before or after advice on forks cannot be told apart, so that each child is looked at.
#[test]
fn growth_around_advice_on_forks() {
    let mut trace = growing();
    trace.madvise(MAIN, range(0x10_000, 2 * PAGE), madv::DONTFORK);
    assert!(!trace.space().has_unseen);
    assert!(compare(&mut trace, &[at(0xd_000, 5, READ_WRITE)]).0);
    assert!(trace.space().has_unseen);
}
