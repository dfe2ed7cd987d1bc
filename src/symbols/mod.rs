//! Call stacks and names: where in the source a thread was created, and what it ran.
//!
//! The target is stopped for the capture alone: registers and a piece of its stack are read in one go, and unwound by
//! the call frame information of the files that it has mapped ([`unwind`]). What is kept of a frame is a [`places::Place`], an
//! offset into a file, so that names can be looked up whenever a report is written, also when the process is gone.

pub mod capture;
pub mod debug_file;
mod digest;
pub(crate) mod elf;
pub mod module;
pub mod names;
pub mod places;
pub mod plumbing;
pub mod unwind;

pub use digest::digest;
