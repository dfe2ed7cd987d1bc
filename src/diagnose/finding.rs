//! What a rule says: findings and notes, in the words of the report's contract.

use serde::{Deserialize, Serialize};

use crate::event::Call;
use crate::units::{Addr, CallStackId, CodeId, Pid, Range, Tid, Time};

/// How sure it is that the owner is gone and that nothing but the missing call will free this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// It looks so, and an innocent reading exists.
    Possible,
    /// What was seen has no innocent reading so far.
    Probable,
    /// Proven.
    Definite,
}

/// Which rule speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A stack whose last owner has ended and that nothing is going to reuse or free.
    OrphanedStack,
    /// Memory that is no stack, mapped by a thread that has ended, again and again, and never unmapped.
    OrphanedMapping,
}

/// Why it is a leak.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The thread library keeps the stack until somebody joins or detaches the thread.
    Unjoined,
    /// The program made the stack and does not free it.
    Unmanaged,
    /// Part of the stack was unmapped and the rest stayed.
    PartlyUnmapped,
    /// Mapped by threads that are gone, and unmapped by nobody.
    NeverUnmapped,
}

/// How regularly the site leaks, by the threads that it made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recurrence {
    /// Every ended thread left its stack, two or more.
    Recurrent,
    /// Some did.
    Occasional,
    /// It made one thread.
    OneTime,
}

/// A place in the program.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Path of the mapped file.
    pub module: String,
    /// Offset into it, in bytes.
    pub offset: u64,
    /// Function, demangled.
    pub symbol: Option<String>,
    /// Source file.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
}

impl Frame {
    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Frame>() + self.module.len() + length(&self.symbol) + length(&self.file)
    }
}

/// Regions that were left behind in the same way.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// Why.
    pub reason: Reason,
    /// How sure: that of the strongest member.
    pub confidence: Confidence,
    /// How regularly.
    pub recurrence: Option<Recurrence>,
    /// Process whose address space it is.
    pub pid: Pid,
    /// How many threads the site has made, if that is known.
    pub created: Option<u64>,
    /// Size of each mapping as it was made, in bytes.
    pub region_bytes: u64,
    /// Size of each mapping's guard, in bytes.
    pub guard_bytes: u64,
    /// Physical memory behind the members, in bytes; none where that could not be seen.
    pub resident_bytes: Option<u64>,
    /// Where in the program they came from, as captured. The names for it are in the three fields behind.
    pub origin: Origin,
    /// The function that the threads ran.
    pub thread_function: Option<Frame>,
    /// Call stack at the creation of the threads, innermost first.
    pub site: Vec<Frame>,
    /// Call stack at the mapping call of the program's own stacks (of the first where it was captured), or of memory.
    pub mapped_site: Vec<Frame>,
    /// What proves it, in a line.
    pub proof: String,
    /// What to do about it, in a line.
    pub advice: String,
    /// Whether one of its stacks that was mapped after the end of another's owner would prove it: the program's own, of
    /// a place that has let go of none.
    pub awaits_proof: bool,
    /// The regions, oldest first; never empty.
    pub members: Vec<Member>,
}

impl Finding {
    /// What is still mapped of all members, in bytes.
    pub fn virtual_bytes(&self) -> u64 {
        self.members.iter().map(|member| member.virtual_bytes).sum()
    }
}

/// Where in the program something came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// Where the threads were created.
    pub created: Option<CallStackId>,
    /// Where the memory was mapped, if that is another place.
    pub mapped: Option<CallStackId>,
    /// What the threads ran.
    pub function: Option<CodeId>,
}

/// One region that was left behind.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// From the first to the last page that is still mapped.
    pub range: Range,
    /// What is still mapped, in bytes.
    pub virtual_bytes: u64,
    /// The pieces that are still mapped, lowest first.
    pub pieces: Vec<Range>,
    /// The thread whose stack it was, or which mapped it; none where it ended before we came.
    pub owner: Option<Tid>,
    /// The thread that created the owner; none where that was before we came.
    pub creator: Option<Tid>,
    /// When it was mapped; none where that was before we came.
    pub mapped_at: Option<Time>,
    /// When its last owner was created; none where that was before we came.
    pub born_at: Option<Time>,
    /// When its owner ended.
    pub exited_at: Option<Time>,
    /// The calls that made it what it is, in order.
    pub evidence: Vec<Evidence>,
}

/// A call that counts as evidence.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// When it returned.
    pub at: Time,
    /// Who called.
    pub tid: Tid,
    /// What was called.
    pub what: EvidenceCall,
}

/// What evidence consists of.
#[derive(Clone, PartialEq, Debug)]
pub enum EvidenceCall {
    /// A call and what it returned.
    Returned {
        /// The call.
        call: Call,
        /// Its result.
        result: u64,
    },
    /// The owner's end.
    Ended(crate::event::Exit),
}

/// Something that matters to the reader and is no leak.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// Process, where it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// How many.
    pub regions: u64,
    /// How large together, in bytes.
    pub virtual_bytes: u64,
    /// In a sentence.
    pub text: String,
}

impl Note {
    /// A note on something that could not be seen.
    pub fn incomplete(pid: Option<Pid>, regions: u64, text: String) -> Note {
        Note { kind: NoteKind::Incomplete, pid, regions, virtual_bytes: 0, text }
    }
}

/// Kinds of notes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteKind {
    /// Stacks that the thread library keeps for reuse.
    StackCache,
    /// Idle stacks of the thread library of which system calls alone do not tell whether they are cached or leaked.
    UnprovenStacks,
    /// Stacks that the program keeps and reuses.
    StackPool,
    /// Idle stacks of which the thread library says what the system calls contradict.
    EvidenceConflict,
    /// malloc's arenas.
    MallocArenas,
    /// A call failed because a limit was met.
    LimitHit,
    /// Something could not be seen; findings may be missing.
    Incomplete,
    /// The target had to be stopped for a moment.
    Paused,
}

/// What the rules make of one address space.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Diagnosis {
    /// Leaks, largest first.
    pub findings: Vec<Finding>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
}

/// What is known of a region.
impl Member {
    /// A region that was there before we came: nothing but where it lies is known.
    pub fn unseen(range: Range) -> Member {
        Member {
            range,
            virtual_bytes: range.bytes(),
            pieces: vec![range],
            owner: None,
            creator: None,
            mapped_at: None,
            born_at: None,
            exited_at: None,
            evidence: Vec::new(),
        }
    }

    /// First address.
    pub fn start(&self) -> Addr {
        self.range.start()
    }
}
