//! What is tolerated, and that it is tolerated no further than its evidence reaches.

use super::*;
use crate::model::tolerance::Tolerated;

/// A mapping of two pages at 0x10000, which may grow down, and what has to be agreed with.
pub(super) fn compared(flags: u32, maps: &[Vma]) -> (bool, Tolerated) {
    let mut trace = Trace::new();
    trace.mmap_at(MAIN, Addr(0x10_000), 2 * PAGE, RW, flags);
    compare(&mut trace, maps)
}

pub(super) fn compare(trace: &mut Trace, maps: &[Vma]) -> (bool, Tolerated) {
    let id = trace.model.space_of(MAIN).unwrap();
    let space = trace.model.space_mut(id).unwrap();
    (space.compare(maps).is_ok(), space.tolerated)
}

pub(super) fn at(start: u64, pages: u64, prot: Prot) -> Vma {
    line(range(start, pages * PAGE), prot, "")
}

/// The gate page is tolerated where it lies, and nowhere else.
#[test]
fn the_gate_page() {
    let known = at(0x10_000, 2, READ_WRITE);
    let gate = |start: u64, pages: u64| line(range(start, pages * PAGE), Prot::EXEC, "[vsyscall]");
    for (vma, agrees) in [
        (gate(0xffff_ffff_ff60_0000, 1), true),
        (gate(0xffff_ffff_ff60_0000, 2), false),
        (gate(0xffff_ffff_ff60_1000, 1), false),
        (gate(0x7fff_0000_0000, 1), false),
    ] {
        let (found, tolerated) = compared(PLAIN, &[known.clone(), vma]);
        assert_eq!((found, tolerated.gate_page), (agrees, u64::from(agrees)));
    }
}

/// Pages for probes are tolerated by the kernel's own names, one private page that cannot be written to.
#[test]
fn pages_for_probes() {
    let known = at(0x10_000, 2, READ_WRITE);
    let page = line(range(0x20_000, PAGE), Prot::EXEC, "[uprobes]");
    let trampoline = line(range(0x20_000, PAGE), Prot::READ.with(Prot::EXEC), "[uprobes-trampoline]");
    let cases = [
        (page.clone(), true),
        (trampoline, true),
        (Vma { prot: READ_WRITE, ..page.clone() }, false),
        (Vma { sharing: Sharing::Shared, ..page.clone() }, false),
        (Vma { inode: 9, ..page.clone() }, false),
        (Vma { range: range(0x20_000, 2 * PAGE), ..page.clone() }, false),
        (Vma { name: (*b"/tmp/[uprobes]").into(), ..page.clone() }, false),
        (Vma { name: (*b"[anon:uprobes]").into(), ..page }, false),
    ];
    for (vma, agrees) in cases {
        let (found, tolerated) = compared(PLAIN, &[known.clone(), vma.clone()]);
        assert_eq!((found, tolerated.uprobes), (agrees, u64::from(agrees)), "{vma:?}");
    }
}

/// The vDSO is mapped once more where nothing else is.
#[test]
fn vdso_once_more() {
    let known = at(0x10_000, 2, READ_WRITE);
    let vdso = line(range(0x20_000, 2 * PAGE), Prot::READ.with(Prot::EXEC), "[vdso]");
    let named = |name: &[u8]| Vma { name: name.into(), ..vdso.clone() };
    let cases = [
        (vdso.clone(), true),
        (named(b"[vvar]"), true),
        (named(b"[vvar_vclock]"), true),
        (named(b""), false),
        (named(b"/tmp/[vdso]"), false),
        (Vma { prot: READ_WRITE, ..vdso.clone() }, false),
        (Vma { sharing: Sharing::Shared, ..vdso.clone() }, false),
        (Vma { inode: 9, ..vdso.clone() }, false),
        (Vma { range: range(0x11_000, 2 * PAGE), ..vdso.clone() }, false),
    ];
    for (vma, agrees) in cases {
        let (found, tolerated) = compared(PLAIN, &[known.clone(), vma.clone()]);
        assert_eq!((found, tolerated.vdso), (agrees, u64::from(agrees)), "{vma:?}");
    }
}
