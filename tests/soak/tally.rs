//! Random choices, and what was done.

use std::fmt;
use std::time::Duration;

/// xorshift64*
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Lets a random time pass, short ones as often as long ones.
    pub fn pause(&mut self, most: Duration) {
        let bits = 64 - (most.as_micros() as u64).leading_zeros();
        let scale = 1 << self.below(bits.into());
        std::thread::sleep(Duration::from_micros(scale + self.below(scale)).min(most));
    }
}

/// Counts of what was done, in the order in which they first came up.
#[derive(Default)]
pub struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    pub fn add(&mut self, what: &'static str, count: u64) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((what, count)),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| done | times |\n|---|---:|")?;
        for (name, count) in &self.0 {
            writeln!(f, "| {name} | {count} |")?;
        }
        Ok(())
    }
}
