//! vmtrace says which address space is still mapped although the thread that owned it is gone, who mapped it, and
//! what should be changed in the source.
//!
//! What happens to an event, in order, is the list of modules: a [`source`] yields events in an order that the
//! [`model`] may believe; the [`target`] is that, and what can be asked about it; the rules of [`diagnose`] read the model and say what leaked; [`report`] prints findings.

pub mod abi;
pub mod cli;
pub mod diagnose;
pub mod event;
pub mod follow;
pub mod inspect;
pub mod model;
pub mod procfs;
pub mod report;
pub mod source;
pub mod symbols;
pub mod sys;
pub mod target;
pub mod tasks;
pub mod threadlib;
pub mod units;
