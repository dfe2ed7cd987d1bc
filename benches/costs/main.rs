//! What following costs: ratios within one run, as medians of runs in turn. Never a pass or a failure. See README.md.

mod contenders;
mod measures;
mod model;
mod redis;
mod table;

use std::env;

/// So many runs are made of each, in turn.
const ROUNDS: usize = 5;

fn main() {
    if env::var_os(measures::CHILD).is_some() {
        return measures::many_events();
    }
    // cargo bench passes --bench; whatever else there is names what is wanted.
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let programs = contenders::build();
    for (name, measure) in measures::ALL {
        if is_wanted(name) {
            eprintln!("{name} …");
            measure(&programs).print(name);
        }
    }
}
