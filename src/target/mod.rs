//! What is followed, as the follower sees it: it tells what happens, in order, and answers questions about itself.
//!
//! A live process is asked by way of the system ([`live`]). A recording has the answers beside the events, and a log of
//! system calls has none. The follower knows no difference: what cannot be answered is not claimed.

pub mod live;
pub mod origins;

use std::collections::HashMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::diagnose::finding::{Confidence, Finding, Note};
use crate::event::{CloneArgs, Event, Exit, Limits, StackRegion, Vma};
use crate::model::mapping::Imprint;
use crate::model::{Model, SpaceId};
use crate::report::draft::Places;
use crate::report::{Engine, Memory};
use crate::source::control::Control;
use crate::symbols::capture::CallStacks;
use crate::threadlib::{ThreadLists, Unavailable};
use crate::units::{Addr, CodeId, Pid, Range, Tid, Time};

/// What is told next.
#[derive(Debug)]
pub enum Told {
    /// Something happened. Where the source can hold tasks, the one that it happened to stays stopped until the next is asked for.
    Event(Event),
    /// Something is wanted from the follower.
    Asked {
        /// When.
        at: Time,
        /// A report as of now.
        report: bool,
        /// A line on how it stands.
        status: bool,
    },
    /// Following ends although tasks live on: no change of mappings is under way, as far as the source can see to that.
    Quiet(Time),
    /// No task is left.
    Finished(Time),
}

/// Events in an order that the model may believe, and answers.
///
/// Questions are about the moment of what was told last. None is an answer: it cannot be known.
pub trait Target {
    /// What comes next. Blocks until there is something.
    ///
    /// # Errors
    /// When the system refuses what it must not refuse, or a file cannot be read. Following is over then.
    fn next(&mut self, control: &Control) -> io::Result<Told>;

    /// Fills in where the event's task stands, and what a new task is made to run, where that can be seen and is worth
    /// knowing. Before the model learns of the event.
    fn annotate(&mut self, _event: &mut Event, _model: &Model) {}

    /// Takes notice of what the event, which the model knows by now, has turned out to mean.
    fn learn(&mut self, _event: &Event, _model: &Model) {}

    /// Where the stack of a task lies that is being born; where mapping calls are not told.
    fn stack_region(&mut self, _event: &Event, _args: &CloneArgs, _model: &Model) -> Option<StackRegion> {
        None
    }

    /// What lies in an idle stack, or in one whose task ends, that began at `top`: seen through a live task.
    fn imprint(&mut self, _space: SpaceId, _tid: Tid, _top: Addr) -> Option<Imprint> {
        None
    }

    /// The kernel's maps of a task's address space, if no change is under way that has not been told.
    fn maps(&mut self, tid: Tid) -> Option<Box<[Vma]>>;

    /// Where in the maps just given calls may have changed something that has not been told.
    fn unsure(&mut self, _tid: Tid) -> Vec<Range> {
        Vec::new()
    }

    /// Whether what the maps just given have at an address grows down by page faults, by the kernel's own flag.
    fn grows_down(&mut self, _tid: Tid, _at: Addr) -> bool {
        false
    }

    /// Asks for the kernel's maps of a task's address space among the events, as soon as that can be; false where that
    /// is not to be had.
    fn look_later(&mut self, _tid: Tid) -> bool {
        false
    }

    /// What the thread library says of its stacks, seen through a live task; none where it could not tell anything.
    fn library(&mut self, model: &Model, space: SpaceId, tid: Tid) -> Option<Result<Library, Unavailable>>;

    /// How much of each finding lies in physical memory, in bytes.
    fn resident(&mut self, tid: Tid, findings: &[Finding]) -> Option<Vec<u64>>;

    /// What a task's process is like.
    fn process(&mut self, tid: Tid) -> Process;

    /// What the kernel allows a task, and what is used of it.
    fn limits(&mut self, tid: Tid) -> Option<Limits>;

    /// Whether all mappings are told of: those that are there at the beginning, and all changes.
    fn tells_all(&self) -> bool {
        true
    }

    /// How it stands with the source itself.
    fn standing(&mut self) -> Standing;

    /// Something that the user should know at once; asked after everything that was told.
    fn warning(&mut self) -> Option<String> {
        None
    }

    /// The process that was launched or named.
    fn main_pid(&self) -> Pid;

    /// Where the events come from.
    fn engine(&self) -> Engine;

    /// The call stacks and places that events name by number.
    fn captured(&self) -> &CallStacks;

    /// There are findings in this process: who it is will be asked when names are put to them.
    fn remember(&mut self, _pid: Pid) {}

    /// The places of all that these findings come from, to be named later.
    fn places(&self, findings: &[Finding]) -> Places {
        Places::of(findings, self.captured())
    }

    /// The address space has been judged for the last time.
    fn forget(&mut self, _space: SpaceId) {}

    /// Leaves whatever is still alive, untouched.
    fn detach(&mut self) {}
}

/// What the thread library says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Library {
    /// Its lists.
    pub lists: ThreadLists,
    /// The places of the functions that they name.
    pub functions: HashMap<Addr, CodeId>,
}

/// What a process is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Sizes.
    pub memory: Memory,
    /// Whether LeakSanitizer is part of it, which cannot run under ptrace.
    pub has_leak_sanitizer: bool,
}

/// How it stands with a source.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Standing {
    /// How the process that was launched or named ended.
    pub exit: Option<Exit>,
    /// How often a task has stopped for us.
    pub stops: u64,
    /// Events known to have been lost.
    pub lost: u64,
    /// What else is to be said of the following itself.
    pub notes: Vec<Note>,
    /// The most that can be claimed, where less than all was told.
    pub ceiling: Option<Confidence>,
}
