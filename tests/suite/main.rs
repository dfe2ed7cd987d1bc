//! What only a whole run can show, on programs of our own and of others. One program, because each would have to be linked.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod attach;
mod cli;
mod conformance;
mod corpora;
mod follow_threads;
mod glibcs;
mod hostile;
mod inspect;
mod job_control;
mod leaving;
mod manifest;
mod model_oracle;
mod perf;
mod places;
mod programs;
mod random_calls;
mod real_programs;
mod recording;
mod replay;
mod servers;
mod signals;
mod thread_lists;
mod transparency;
mod unwind;
