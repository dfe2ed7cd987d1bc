//! From the times in a log to times that count from its first line.

use std::time::Duration;

use super::leader::Stamp;
use crate::units::Time;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// What the times of a log are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// It has none.
    #[default]
    None,
    /// Times of day (`-t`, `-tt`): of a day that is not known.
    OfDay,
    /// Times since 1970 (`-ttt`).
    Unix,
    /// Times since the line before (`-r`).
    Since,
}

/// Reads the times of a log one after another.
///
/// They never go back: where the clock was put back, it stands still until it has caught up, except at midnight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    kind: Kind,
    /// The first time, in nanoseconds since midnight or 1970.
    start: u64,
    /// The last one, with the days that have passed.
    last: u64,
    days: u64,
}

impl Times {
    /// The time of a line.
    pub fn read(&mut self, stamp: Option<Stamp>) -> Time {
        self.take(stamp);
        self.now()
    }

    /// The time of the last line that had one.
    #[inline]
    pub fn now(&self) -> Time {
        Time(Duration::from_nanos(self.last - self.start))
    }

    /// What the times are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The first time, in nanoseconds since midnight or 1970.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The last time on the scale that all files of one log have in common; none where there is none.
    pub fn common(&self) -> Option<u64> {
        matches!(self.kind, Kind::OfDay | Kind::Unix).then_some(self.last)
    }

    /// Takes the time of a line.
    #[inline]
    pub fn take(&mut self, stamp: Option<Stamp>) {
        let Some(stamp) = stamp else { return };
        let (kind, time) = match stamp {
            Stamp::OfDay(time) => (Kind::OfDay, time.saturating_add(self.days.saturating_mul(DAY))),
            Stamp::Unix(time) => (Kind::Unix, time),
            Stamp::Since(time) => (Kind::Since, self.last.saturating_add(time)),
        };
        if self.kind == Kind::None {
            self.kind = kind;
            (self.start, self.last) = if kind == Kind::Since { (0, 0) } else { (time, time) };
            return;
        }
        if kind != self.kind {
            return;
        }
        // Twelve hours back is midnight; anything less is a clock that was put back.
        let is_midnight = kind == Kind::OfDay && time.saturating_add(DAY / 2) < self.last;
        self.days += u64::from(is_midnight);
        let time = if is_midnight { time.saturating_add(DAY) } else { time };
        self.last = self.last.max(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stamps: impl IntoIterator<Item = Stamp>) -> Vec<u64> {
        let mut times = Times::default();
        stamps.into_iter().map(|stamp| times.read(Some(stamp)).0.as_secs()).collect()
    }

    /// Times of day go on over midnight, and do not follow a clock that is put back a little.
    #[test]
    fn over_midnight() {
        let at = |hour: u64, minute: u64| Stamp::OfDay((hour * 3600 + minute * 60) * SECOND);
        let minutes = read([at(23, 0), at(23, 59), at(0, 1), at(0, 0), at(12, 0), at(23, 0), at(1, 0)]);
        assert_eq!(minutes.iter().map(|time| time / 60).collect::<Vec<_>>(), [0, 59, 61, 61, 780, 1440, 1560]);
    }

    /// Times since 1970 count from the first, and those since the line before add up; the first of them tells nothing.
    #[test]
    fn absolute_and_relative() {
        assert_eq!(read([100, 101, 99, 160].map(|time| Stamp::Unix((time + 1_700_000_000) * SECOND))), [0, 1, 1, 60]);
        assert_eq!(read([5, 1, 0, 2].map(|time| Stamp::Since(time * SECOND))), [0, 1, 1, 3]);
    }

    /// A stray time of another kind changes nothing.
    #[test]
    fn one_kind() {
        let mut times = Times::default();
        times.read(Some(Stamp::OfDay(7)));
        times.read(Some(Stamp::Unix(1 << 60)));
        assert_eq!((times.kind(), times.start(), times.now()), (Kind::OfDay, 7, Time::default()));
        assert_eq!(times.common(), Some(7));
    }
}
