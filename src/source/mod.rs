//! Where events come from. A source yields them in an order that the model may believe; how it gets there is its own
//! business.

pub mod control;
mod group;
pub mod job;
pub mod perf;
pub mod ptrace;
pub mod reconcile;
pub mod recording;
pub mod strace_log;

use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::user_regs_struct;
use serde::Serialize;

use crate::diagnose::finding::Note;
use crate::event::{Event, Exit, Vma};
use crate::procfs;
use crate::procfs::memory::HeldMemory;
use crate::report::Engine;
use crate::units::{Addr, Pid, Range, Tid, Time};
use control::Control;
use job::Suspension;
use ptrace::launch::LaunchError;

/// What a source has to tell next.
#[derive(Debug)]
pub enum Next {
    /// Something happened. The task that it happened to stays stopped until the source is asked again, where it can hold tasks.
    Event(Event),
    /// A request has come in, see [`Control::take`], or job control has stopped the target.
    Woken,
    /// After [`Source::close`]: no call that changes mappings is under way, and where the source can see to that none can
    /// begin.
    Quiet,
    /// No task is left.
    Finished,
}

/// How much is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Follow {
    /// All system calls that change the address space, and the lives of tasks.
    Memory,
    /// The lives of tasks alone: no system call ever stops.
    Threads,
}

/// Where a task stood when something happened to it.
#[derive(Clone, Copy, Debug)]
pub enum Stand<'a> {
    /// It is stopped there, and can be asked.
    Stopped,
    /// It runs on, but a copy was made.
    Copied {
        /// Its registers.
        registers: &'a user_regs_struct,
        /// What lay from its stack pointer on.
        stack: &'a [u8],
    },
    /// It runs on, and nobody knows any more.
    Unknown,
}

/// A source that has launched the program that it follows.
pub trait Launched: Source {
    /// Lets the launched process run its program. Signals are to be collected by then.
    ///
    /// # Errors
    /// When it is gone.
    fn go(&mut self) -> Result<(), LaunchError>;

    /// Why the child has ended without running its program; to be asked when no task is left.
    fn not_executed(&self) -> Option<Errno>;

    /// Waits for the end of the launched process, which may have been left to itself before, and stops with it when the terminal
    /// wants that, or has wanted it of late.
    ///
    /// # Errors
    /// When somebody else has taken its status.
    fn wait_for_main(&mut self, control: &Control, suspension: Suspension) -> Result<Exit, Errno>;
}

/// Follows live processes.
pub trait Source {
    /// Which one it is.
    fn engine(&self) -> Engine;

    /// What comes next. Blocks until there is something.
    ///
    /// # Errors
    /// When the kernel refuses what it must not refuse.
    fn next(&mut self, control: &Control) -> Result<Next, Errno>;

    /// The time of an event that happens now.
    fn now(&self) -> Time;

    /// The process that was launched or named.
    fn main_pid(&self) -> Pid;

    /// How it ended.
    fn main_exit(&self) -> Option<Exit>;

    /// Processes that it has left behind, and whose numbers are theirs until this source says otherwise.
    fn others(&self) -> Vec<Pid> {
        Vec::new()
    }

    /// Whether job control has stopped it.
    fn main_is_stopped(&self) -> bool {
        false
    }

    /// Whether tasks run that would wait for this program if it stopped.
    fn others_run(&self) -> bool {
        false
    }

    /// Stops this program by SIGSTOP, because job control has stopped the target; comes back when it goes on.
    fn stop_too(&mut self) {
        job::stop_with(self.main_pid());
    }

    /// How often a task has stopped for us.
    fn stops(&self) -> u64;

    /// How many events are known to have been lost.
    fn lost(&self) -> u64 {
        0
    }

    /// Whether all changes of the task's address space up to the event just told are in the kernel's maps, and no more.
    fn is_settled(&self, tid: Tid) -> bool;

    /// The kernel's maps of a task's address space as of the event just told; none where they may be older or newer.
    fn maps(&mut self, tid: Tid) -> Option<Box<[Vma]>> {
        if !self.is_settled(tid) {
            return None;
        }
        procfs::maps::read(tid).ok().filter(|maps| !maps.is_empty())
    }

    /// Where in these maps calls may have changed something that has not been told.
    fn unsure(&self, _tid: Tid) -> &[Range] {
        &[]
    }

    /// Asks for the kernel's maps of a task's address space among the events, as soon as that can be; false where the
    /// source does not do that.
    fn look_later(&mut self, _tid: Tid) -> bool {
        false
    }

    /// Where the task of the event just told stood.
    fn stand(&self) -> Stand<'_> {
        Stand::Stopped
    }

    /// The memory of a task's process, where it is held so that it can be read beyond the process's end.
    fn held(&self, _tid: Tid) -> Option<Arc<HeldMemory>> {
        None
    }

    /// Tasks of the address space of `tid` that exist already and have not been told of, each with its thread-local
    /// storage or its stack's top.
    fn ahead(&mut self, _tid: Tid) -> Vec<(Tid, Option<Addr>)> {
        Vec::new()
    }

    /// Mappings of this size turn out to be used as a program's own stacks: where they come from is of interest.
    fn expect_stacks(&mut self, _bytes: u64) {}

    /// What is to be said in the report of the following itself.
    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }

    /// Something that the user should know at once, told once.
    fn warning(&mut self) -> Option<String> {
        None
    }

    /// Looks after tasks that wait for something that may never come. To be called when the control asks for it.
    fn look_after_held(&mut self) {}

    /// Comes to an end: [`Next::Quiet`] will say when calls under way are over.
    fn close(&mut self);

    /// Leaves all tasks: none stays stopped, and signals go on as if we had never been there.
    fn detach(&mut self);
}
