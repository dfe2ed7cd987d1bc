//! Runs what may go wrong, at random moments, for as long as one likes: `./scripts/soak MINUTES [SEED]`.
//!
//! Rounds of all kinds in turn, each in its own way hard on vmtrace or on its target, until the time is up; each kind at
//! least once. Prints what was done, and stops at the first thing that is not as it has to be, with the seed that repeats
//! the choices, though not the moments.

#[path = "../common/mod.rs"]
#[allow(dead_code)] // the suite uses all of it
mod common;
mod rounds;
mod tally;

use std::time::{Duration, Instant};

use tally::{Random, Tally};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let minutes: f64 = match arguments.next().map(|text| text.parse()) {
        None => 0.0,
        Some(Ok(minutes)) => minutes,
        Some(Err(_)) => usage(),
    };
    let seed: u64 = match arguments.next().map(|text| text.parse()) {
        None => u64::from(std::process::id()),
        Some(Ok(seed)) => seed,
        Some(Err(_)) => usage(),
    };
    let (begin, mut random, mut tally) = (Instant::now(), Random::new(seed), Tally::default());
    let end = begin + Duration::from_secs_f64(minutes * 60.0);
    println!("seed {seed}");
    for round in 0.. {
        if round > 0 {
            println!("round {round}, {:.1} minutes", begin.elapsed().as_secs_f64() / 60.0);
        }
        for (name, run) in rounds::KINDS {
            if round > 0 && Instant::now() >= end {
                println!("{:.1} minutes, {round} rounds of each kind\n\n{tally}", begin.elapsed().as_secs_f64() / 60.0);
                return;
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut random, &mut tally)));
            if result.is_err() {
                println!("\nfailed: {name}, round {round} of seed {seed}\n\n{tally}");
                std::process::exit(1);
            }
        }
    }
}

fn usage() -> ! {
    eprintln!("usage: soak [MINUTES [SEED]]");
    std::process::exit(2);
}
