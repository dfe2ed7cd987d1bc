//! Events by perf_event_open(2): tracepoints, without stopping anybody.

pub mod points;
pub mod record;
pub mod rings;
pub mod sorter;
pub mod tracefs;
