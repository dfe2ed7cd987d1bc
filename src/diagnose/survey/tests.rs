//! Looks at made-up processes.

use super::*;
use crate::procfs::maps::parse;

/// A program, two stacks with guards, one without, and free memory.
const MAPS: &[u8] = b"\
401000-402000 r-xp 00001000 fe:01 1312 /bin/app
700000000000-700000001000 ---p 00000000 00:00 0 
700000001000-700000011000 rw-p 00000000 00:00 0 
700000100000-700000101000 ---p 00000000 00:00 0 
700000101000-700000111000 rw-p 00000000 00:00 0 
700000200000-700000210000 rw-p 00000000 00:00 0 
";
const FIRST: u64 = 0x7000_0000_0000;
const SECOND: u64 = 0x7000_0010_0000;

fn range(start: u64, end: u64) -> Range {
    Range::new(Addr(start), Addr(end)).unwrap()
}

fn stack(start: u64, standing: Standing) -> KnownStack {
    KnownStack { range: range(start, start + 0x11000), guard_bytes: PAGE, start_routine: Addr(0x40_1234), standing }
}

/// The highest page of both, and no other.
fn used_at_the_top() -> [Range; 2] {
    [FIRST, SECOND].map(|start| range(start + 0x10000, start + 0x11000))
}

fn look(
    maps: &[u8],
    resident: &[Range],
    stacks: Option<&[KnownStack]>,
    stack_pointers: &[Addr],
    without: usize,
) -> Survey {
    survey(&Snapshot {
        pid: Pid(7),
        maps: &parse(maps),
        resident,
        stacks,
        arenas: &[],
        stack_pointers,
        without_pointer: without,
        functions: &HashMap::from([(Addr(0x40_1234), CodeId(7))]),
    })
}

fn show(survey: &Survey) -> Vec<String> {
    let line = |finding: &Finding| {
        let (regions, bytes) = (finding.members.len(), finding.virtual_bytes());
        let resident = finding.resident_bytes.unwrap();
        format!("{:?} {:?} {regions} {bytes:x} {resident:x}", finding.reason, finding.confidence)
    };
    survey.diagnosis.findings.iter().map(line).collect()
}

fn virtual_of(survey: &Survey, kind: Kind) -> u64 {
    survey.breakdown.iter().filter(|share| share.kind == kind).map(|share| share.virtual_bytes).sum()
}

/// Left stacks of one size and function are one finding, of its strongest member's confidence; live ones are none.
#[test]
fn left_stacks_are_grouped() {
    let left = [FIRST, SECOND].map(|start| stack(start, Standing::Orphaned(Confidence::Probable)));
    let mut sure = left;
    sure[0].standing = Standing::Orphaned(Confidence::Definite);
    let found = look(MAPS, &used_at_the_top(), Some(&sure), &[], 0);
    assert_eq!(show(&found), ["Unjoined Definite 2 22000 2000"]);
    assert_eq!(found.diagnosis.findings[0].origin.function, Some(CodeId(7)));
    assert_eq!(virtual_of(&found, Kind::OrphanedStacks), 0x22000);
    assert_eq!(show(&look(MAPS, &[], Some(&left), &[], 0)), ["Unjoined Probable 2 22000 0"]);

    let live = [stack(FIRST, Standing::Live), stack(SECOND, Standing::Cached)];
    let found = look(MAPS, &used_at_the_top(), Some(&live), &[], 0);
    assert_eq!(show(&found), [""; 0]);
    assert_eq!((virtual_of(&found, Kind::LiveStacks), virtual_of(&found, Kind::CachedStacks)), (0x11000, 0x11000));
    assert_eq!(found.diagnosis.notes.iter().map(|note| note.kind).collect::<Vec<_>>(), [NoteKind::StackCache]);
}

/// A stack that was unmapped between the look at the lists and that at the maps is none, also where only a part is gone.
#[test]
fn what_is_not_mapped_any_more() {
    let stacks = [0x8000, FIRST + 0x1000].map(|start| stack(start, Standing::Orphaned(Confidence::Definite)));
    assert_eq!(show(&look(MAPS, &[], Some(&stacks), &[], 0)), [""; 0]);
}

/// Mappings in a stack's shape are possible leaks only where they were used from the top, nobody is on one, all tasks'
/// places are known, and there are two of them.
#[test]
fn shapes_of_stacks() {
    let used = used_at_the_top();
    let (of_none, unknown) = (Some(&[][..]), None);
    assert_eq!(show(&look(MAPS, &used, of_none, &[], 0)), ["Unmanaged Possible 2 22000 2000"]);
    assert_eq!(show(&look(MAPS, &used, of_none, &[], 1)), [""; 0], "a task may be on it");
    assert_eq!(show(&look(MAPS, &used[..1], of_none, &[], 0)), [""; 0], "a single one");
    assert_eq!(show(&look(MAPS, &[], of_none, &[], 0)), [""; 0], "never used: a signal stack, a reserve");
    let throughout = [range(FIRST + 0x1000, FIRST + 0x11000), range(SECOND + 0x1000, SECOND + 0x11000)];
    assert_eq!(show(&look(MAPS, &throughout, of_none, &[], 0)), [""; 0], "used from below: a heap");
    let on_first = look(MAPS, &used, of_none, &[Addr(FIRST + 0x10800)], 0);
    assert_eq!((show(&on_first), virtual_of(&on_first, Kind::LiveStacks)), (vec![], 0x11000));

    // Where the lists cannot be read, they may be cached.
    let found = look(MAPS, &used, unknown, &[], 0);
    assert_eq!(show(&found), [""; 0]);
    assert_eq!(found.diagnosis.notes[0].kind, NoteKind::UnprovenStacks);
}

/// Signal stacks of Rust (16 KiB above a guard), reserves of heaps (large guards), and named or shared memory are no stacks.
#[test]
fn what_has_another_shape() {
    let alike = |text: &str| {
        let (first, second) = (text.replace("XX", "70"), text.replace("XX", "71"));
        let maps = parse(format!("{first}{second}").as_bytes());
        let top = |vma: &Vma| Range::new(Addr(vma.range.end().0 - PAGE), vma.range.end()).unwrap();
        let resident = [top(&maps[1]), top(&maps[3])];
        let text = format!("{first}{second}");
        show(&look(text.as_bytes(), &resident, Some(&[]), &[], 0)).len()
    };
    let shape = |guard_end: &str, end: &str, prot: &str, name: &str| {
        format!(
            "XX00000000-XX{guard_end} ---p 00000000 00:00 0 \nXX{guard_end}-XX{end} {prot} 00000000 00:00 0 {name}\n"
        )
    };
    assert_eq!(alike(&shape("00001000", "00011000", "rw-p", "")), 1);
    assert_eq!(alike(&shape("00001000", "00005000", "rw-p", "")), 0);
    assert_eq!(alike(&shape("00200000", "00211000", "rw-p", "")), 0);
    assert_eq!(alike(&shape("00001000", "00011000", "rwxp", "")), 0);
    assert_eq!(alike(&shape("00001000", "00011000", "rw-s", "")), 0);
    assert_eq!(alike(&shape("00001000", "00011000", "rw-p", "[anon:v8]")), 0);
}
