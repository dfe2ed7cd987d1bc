//! Where events come from. A source yields them in an order that the model may believe; how it gets there is its own
//! business.

pub mod control;
pub mod ptrace;

use crate::event::Event;

/// What a source has to tell next.
#[derive(Debug)]
pub enum Next {
    /// Something happened. The task that it happened to stays stopped until the source is asked again.
    Event(Event),
    /// A request has come in, see [`control::Control::take`], or job control has stopped the target.
    Woken,
    /// After [`ptrace::Ptrace::close`]: no call that changes mappings is under way, and none can begin.
    Quiet,
    /// No task is left.
    Finished,
}
