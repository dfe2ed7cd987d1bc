//! What a row of regions tells together: their interval, their growth, how long they have been idle.

use std::time::Duration;

use super::finding::Finding;
use crate::units::Time;

/// How far an interval may be from the median one and still count as the same beat.
const STEADY: f64 = 0.2;

/// Logs with times of whole seconds are off by up to this much.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// How long the members' owners have been gone.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Idle {
    /// The one that ended first.
    pub oldest: Duration,
    /// The one that ended last.
    pub youngest: Duration,
}

impl Finding {
    /// The steady interval at which members came, when there are three or more and it was steady.
    pub fn period(&self) -> Option<Duration> {
        let times = self.birth_times();
        if times.len() < 3 {
            return None;
        }
        let mut intervals: Vec<Duration> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        intervals.sort_unstable();
        let median = intervals[intervals.len() / 2];
        if median.is_zero() {
            return None;
        }
        let whole_seconds = times.iter().all(|time| time.0.subsec_nanos() == 0);
        let slack = median.mul_f64(STEADY).max(if whole_seconds { CLOCK_STEP } else { Duration::ZERO });
        let strays = intervals.iter().filter(|interval| interval.abs_diff(median) > slack).count();
        (strays * 10 <= intervals.len()).then_some(median)
    }

    /// Address space lost per second, from the first member to the last; none with fewer than three.
    pub fn growth_bytes_per_second(&self) -> Option<f64> {
        let times = self.birth_times();
        let (first, last) = (times.first()?, times.last()?);
        let span = last.since(*first).as_secs_f64();
        (times.len() >= 3 && span > 0.0).then(|| {
            let each = self.virtual_bytes() as f64 / self.members.len() as f64;
            each * (times.len() - 1) as f64 / span
        })
    }

    /// How long the owners have been gone at `now`; none where an end was not seen.
    pub fn idle(&self, now: Time) -> Option<Idle> {
        let ends: Option<Vec<Time>> = self.members.iter().map(|member| member.exited_at).collect();
        let ends = ends?;
        let (first, last) = (ends.iter().min()?, ends.iter().max()?);
        Some(Idle { oldest: now.since(*first), youngest: now.since(*last) })
    }

    /// When the members' owners were created, in order, as far as that was seen.
    fn birth_times(&self) -> Vec<Time> {
        let mut times: Vec<Time> = self.members.iter().filter_map(|member| member.born_at).collect();
        times.sort_unstable();
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::finding::{Confidence, Member, Origin, Reason, Rule};
    use crate::units::{Addr, PAGE, Pid, Range, Tid};

    /// Stacks of the documented size, of threads that were born at these milliseconds and ended a second later.
    fn born_at(births: &[u64]) -> Finding {
        let range = Range::of_len(Addr(PAGE), 10_489_856).unwrap();
        let time = |milliseconds| Some(Time(Duration::from_millis(milliseconds)));
        let member = |birth: &u64| Member {
            range,
            virtual_bytes: range.bytes(),
            pieces: vec![range],
            owner: Some(Tid(2)),
            creator: Some(Tid(1)),
            mapped_at: time(*birth),
            born_at: time(*birth),
            exited_at: time(birth + 1000),
            evidence: vec![],
        };
        Finding {
            rule: Rule::OrphanedStack,
            reason: Reason::Unjoined,
            confidence: Confidence::Definite,
            recurrence: None,
            pid: Pid(1),
            created: None,
            region_bytes: range.bytes(),
            guard_bytes: PAGE,
            resident_bytes: None,
            origin: Origin::default(),
            thread_function: None,
            site: vec![],
            mapped_site: vec![],
            proof: String::new(),
            advice: String::new(),
            awaits_proof: false,
            members: births.iter().map(member).collect(),
        }
    }

    /// The documented case: 15 stacks of 10 MiB and a guard, one a minute.
    #[test]
    fn one_a_minute_is_fourteen_gibibytes_a_day() {
        let births: Vec<u64> = (0..15).map(|minute| minute * 60_000).collect();
        let finding = born_at(&births);
        assert_eq!(finding.virtual_bytes(), 157_347_840);
        assert_eq!(finding.period(), Some(Duration::from_secs(60)));
        let gibibytes_a_day = finding.growth_bytes_per_second().unwrap() * 86_400.0 / (1_u64 << 30) as f64;
        assert_eq!(format!("{gibibytes_a_day:.1}"), "14.1");
    }

    /// Two are no series, and neither are several at once.
    #[test]
    fn too_few_have_no_period() {
        assert_eq!(born_at(&[0, 60_000]).period(), None);
        assert_eq!(born_at(&[0, 60_000]).growth_bytes_per_second(), None);
        assert_eq!(born_at(&[500, 500, 500]).period(), None);
        assert_eq!(born_at(&[500, 500, 500]).growth_bytes_per_second(), None);
    }

    /// Jitter within a fifth, and one stray in ten, leave a beat steady; no beat, no period.
    #[test]
    fn a_steady_beat_may_jitter() {
        assert_eq!(born_at(&[0, 950, 2000, 3010, 4000]).period(), Some(Duration::from_millis(1010)));
        let mut births: Vec<u64> = (0..11).map(|beat| beat * 1000).collect();
        births.push(60_000);
        assert_eq!(born_at(&births).period(), Some(Duration::from_secs(1)));
        assert_eq!(born_at(&births[6..]).period(), None);
        assert_eq!(born_at(&[0, 10, 2000, 2010, 9000]).period(), None);
    }

    /// A log that rounds its times to seconds may be off by one either way.
    #[test]
    fn whole_seconds_get_a_second_of_slack() {
        assert_eq!(born_at(&[0, 3000, 5000, 8000]).period(), Some(Duration::from_secs(3)));
        assert_eq!(born_at(&[0, 3000, 5000, 8100]).period(), None);
    }

    /// Idle counts from the owners' ends; where one end is unknown, nothing is claimed.
    #[test]
    fn idle_is_counted_from_the_end() {
        let mut finding = born_at(&[0, 5000]);
        let now = Time(Duration::from_secs(10));
        assert_eq!(finding.idle(now), Some(Idle { oldest: Duration::from_secs(9), youngest: Duration::from_secs(4) }));
        finding.members[0].exited_at = None;
        assert_eq!(finding.idle(now), None);
    }
}
