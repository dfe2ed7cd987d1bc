//! What the stops cost the target: of the time in which its tasks wanted to run, the share that they stood stopped for us.

use std::time::{Duration, Instant};

use crate::procfs::task;
use crate::units::Pid;

/// It is judged anew at this interval.
const EVERY: Duration = Duration::from_secs(1);

/// Before a stop is noticed and after the task was let go: two changes of context that nobody sees the time of.
const UNSEEN: Duration = Duration::from_micros(8);

/// Above this the user is told of what costs less, in percent.
const WORTH_A_WORD: f64 = 10.0;

/// What following is allowed to cost, and does.
#[derive(Debug)]
pub struct Overhead {
    pid: Pid,
    /// At most, in percent; none if the user has not said.
    most: Option<f64>,
    since: Instant,
    /// The target's processor time at that moment; none before the first look.
    ran: Option<Duration>,
    /// For how long tasks have stood stopped since, all together.
    stopped: Duration,
    has_warned: bool,
}

/// What is to be done about it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// The user should know that it costs so much, in percent.
    Warn(f64),
    /// It costs so much, in percent, which is more than is allowed.
    TooMuch(f64),
}

impl Overhead {
    /// Of a process whose following may cost `most` percent.
    pub fn new(pid: Pid, most: Option<f64>) -> Overhead {
        let since = Instant::now();
        Overhead { pid, most, since, ran: None, stopped: Duration::ZERO, has_warned: false }
    }

    /// A task of `pid` that was noticed to have stopped at `noticed` goes on. Those of other processes, which the target has
    /// forked, are not counted, as their processor time is not.
    pub fn add(&mut self, pid: Pid, noticed: Instant) {
        if pid == self.pid {
            self.stopped += noticed.elapsed() + UNSEEN;
        }
    }

    /// Looks at what the last second has cost, if it is over.
    pub fn judge(&mut self, now: Instant) -> Option<Verdict> {
        if now.duration_since(self.since) < EVERY {
            return None;
        }
        self.since = now;
        let stopped = std::mem::take(&mut self.stopped);
        let ran = task::processor_time(self.pid)?;
        let percent = share(stopped, ran.saturating_sub(self.ran.replace(ran)?))?;
        match self.most {
            Some(most) if percent > most => Some(Verdict::TooMuch(percent)),
            None if percent > WORTH_A_WORD && !self.has_warned => {
                self.has_warned = true;
                Some(Verdict::Warn(percent))
            }
            _ => None,
        }
    }
}

/// Percent of the time that was spent stopped rather than running; none where there was neither to speak of.
fn share(stopped: Duration, ran: Duration) -> Option<f64> {
    /// Half a percent of a second: the kernel counts processor time in hundredths.
    const LEAST: Duration = Duration::from_millis(5);
    // Rounding may not make it more than all of it.
    (stopped > LEAST).then(|| (100.0 * stopped.as_secs_f64() / (stopped + ran).as_secs_f64()).min(100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that stands still half of its time has an overhead of 50 %; what hardly ever stops has none to speak of.
    #[test]
    fn shares() {
        let ms = Duration::from_millis;
        assert_eq!(share(ms(300), ms(300)), Some(50.0));
        assert_eq!(share(ms(100), ms(900)), Some(10.0));
        assert_eq!(share(ms(5), ms(0)), None);
    }

    /// What never runs has an overhead of 100 % and no more, which `--max-overhead 100` allows.
    #[test]
    fn all_of_the_time_is_the_most() {
        for nanoseconds in 5_000_001..5_100_000 {
            assert!(share(Duration::from_nanos(nanoseconds), Duration::ZERO).is_some_and(|percent| percent <= 100.0));
        }
    }

    /// The stops of other processes cost the target nothing.
    #[test]
    fn stops_of_children() {
        let target = Pid(std::process::id() as i32);
        let mut overhead = Overhead::new(target, None);
        let noticed = Instant::now() - Duration::from_millis(300);
        overhead.add(Pid(target.0 + 1), noticed);
        assert_eq!(overhead.stopped, Duration::ZERO);
        overhead.add(target, noticed);
        assert!(overhead.stopped >= Duration::from_millis(300));
    }
}
