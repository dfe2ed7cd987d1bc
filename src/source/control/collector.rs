//! The thread that collects: it takes the signals that are sent to us, and finds out whom else they were sent to.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::meaning::{collected, ends_us, interrupts, is_descendant, is_of_lookout, is_own, meaning, stops_job};
use super::{
    CONTINUED, FORWARD, HELD, Manners, REPORT, STANDS, STATUS, STOP, SUSPEND, Sent, Shared, Timers, WAKE, WRITING,
    locked,
};
use crate::source::group::ProgramGroup;
use crate::sys::sentry::Sentry;
use crate::sys::witness::Witness;
use crate::sys::{self, Received};

/// How often the thread looks after things that have no signal of their own.
const TICK: Duration = Duration::from_millis(20);

/// Who sends to one process after the other, as pkill(1), needs a moment for all of them.
const FORWARD_AFTER: Duration = Duration::from_millis(20);

/// So many signals are taken before something is done.
const MOST_AT_ONCE: usize = 256;

/// So many at once are much for the witness to tell: its pipe holds some thousand.
const MUCH: usize = 256;

/// More do not wait to be taken, as a rule (RLIMIT_SIGPENDING).
const MOST_WAITING: usize = 1 << 16;

/// What the witness has told, and when.
type At = (Instant, Received);

/// A signal that we have got, and of which is not known yet whom else it was sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Undecided {
    since: Instant,
    received: Received,
    /// Whether the program led a process group of its own: then it has not got what our group was sent.
    is_elsewhere: bool,
}

/// Takes those out that the process group was sent, which `heard` tells.
fn take_the_groups(undecided: &mut Vec<Undecided>, heard: &mut VecDeque<At>) -> Vec<Undecided> {
    let is_the_groups = |one: &mut Undecided| {
        let Some(index) = heard.iter().position(|(_, heard)| *heard == one.received) else { return false };
        // Of the others one waits at a time: we may have got two as one, or one by one what somebody else got as one.
        if one.received.signal >= sys::REAL_TIME {
            heard.remove(index);
        }
        true
    };
    undecided.extract_if(.., is_the_groups).collect()
}

/// The thread that collects.
pub(super) struct Collector<'a> {
    shared: &'a Shared,
    manners: Manners,
    set: SigSet,
    program: Option<ProgramGroup>,
    /// Who tells what the process group is sent; none where nobody can.
    witness: Option<Witness>,
    /// Who hands on what neither we nor the witness can take, once the program has a group of its own.
    sentry: Option<Sentry>,
    /// What the witness has told of late.
    heard: VecDeque<At>,
    undecided: Vec<Undecided>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        manners: Manners,
        program: Option<ProgramGroup>,
        witness: Option<Witness>,
    ) -> Collector<'a> {
        let set = collected(manners);
        Collector {
            shared,
            manners,
            set,
            program,
            witness,
            sentry: None,
            heard: VecDeque::new(),
            undecided: Vec::new(),
        }
    }

    fn ask(&self, flags: u32) {
        self.shared.flags.fetch_or(flags, Ordering::AcqRel);
    }

    fn pass_on(&self, received: Received, is_for_group: bool) {
        let Received { signal, sender, value } = received;
        let is_ours_alone = self.witness.is_some() && !is_for_group;
        self.shared.add_signal(Sent { signal, sender, value, is_ours_alone, is_for_group });
        self.ask(FORWARD);
    }

    /// Takes the signals that have come, up to so many, and waits so long for the first.
    fn receive(&mut self, mut patience: Duration, most: usize) {
        for _ in 0..most {
            let Some(received) = sys::wait_signal(&self.set, patience) else { break };
            patience = Duration::ZERO;
            if self.shared.over.load(Ordering::Acquire) && WRITING.load(Ordering::Acquire) && ends_us(received.signal) {
                sys::end_by(received.signal);
            }
            if received.signal == Signal::SIGCONT as i32 {
                // As the kernel does with those that have not been taken.
                self.hear(false);
                self.undecided.retain(|one| !stops_job(one.received.signal));
                self.heard.retain(|(_, heard)| !stops_job(heard.signal));
                locked(&self.shared.signals).retain(|sent| !stops_job(sent.signal));
                self.shared.flags.fetch_and(!(SUSPEND | STANDS), Ordering::AcqRel);
                self.ask(CONTINUED);
            }
            if self.manners == Manners::Launched && received.sender.is_none() && interrupts(received.signal) {
                self.shared.struck.store(received.signal, Ordering::Release);
                if self.shared.main_has_ended.load(Ordering::Acquire) {
                    // Those that are left have it, or are not of the terminal's.
                    self.ask(STOP);
                }
            }
            let is_elsewhere = self.program.as_ref().is_some_and(ProgramGroup::is_elsewhere);
            let meaning = meaning(received, self.manners);
            if (meaning & FORWARD != 0 || is_elsewhere) && !is_of_lookout(received) {
                self.undecided.push(Undecided { since: Instant::now(), received, is_elsewhere });
            }
            self.ask(meaning & !FORWARD);
        }
    }

    /// Listens to the witness: all that was sent before, or what it has told so far.
    fn hear(&mut self, all: bool) {
        let Some(witness) = &mut self.witness else { return };
        match if all { witness.hear() } else { witness.heard() } {
            Some(heard) => {
                let now = Instant::now();
                self.heard.extend(heard.into_iter().map(|heard| (now, heard)));
            }
            None => self.witness = None,
        }
    }

    /// Hands on what was sent to us alone, and what was sent to our process group when the program had left that.
    fn decide(&mut self) {
        let asked_at = Instant::now();
        let is_due = |one: &mut Undecided| one.since + FORWARD_AFTER <= asked_at;
        let any_due = self.undecided.iter_mut().any(is_due);
        let heard = self.heard.len();
        self.hear(any_due);
        if self.heard.len() - heard >= MUCH && !any_due {
            // It must not be kept from taking what it is sent: what waits counts against the user's limit (RLIMIT_SIGPENDING).
            self.hear(true);
        }
        if !self.heard.is_empty() {
            // All that was sent to us at the same time as what the witness has told is among the undecided ones then.
            self.receive(Duration::ZERO, MOST_WAITING);
        }
        for one in take_the_groups(&mut self.undecided, &mut self.heard) {
            // Otherwise the program has got it itself.
            if one.is_elsewhere {
                self.pass_on(one.received, true);
            }
        }
        self.heard.retain(|(since, _)| *since + FORWARD_AFTER > asked_at);
        // What has come since the witness was asked is for the next time.
        let alone: Vec<Undecided> = self.undecided.extract_if(.., is_due).collect();
        for Undecided { received, is_elsewhere, .. } in alone {
            if self.is_for_program(received, is_elsewhere) {
                self.pass_on(received, false);
            }
        }
    }

    /// Whether a signal that the witness has not told of is for the program.
    fn is_for_program(&self, received: Received, is_elsewhere: bool) -> bool {
        match received.sender {
            _ if meaning(received, self.manners) & FORWARD == 0 => false,
            None => true,
            // Without a witness: what a process of the program sends to its group it has got itself.
            Some(sender) if self.witness.is_some() || is_elsewhere => !is_own(sender),
            Some(sender) => !is_descendant(sender),
        }
    }

    /// Looks after the program's process group.
    fn look_after_program(&mut self) {
        let Some(program) = &mut self.program else { return };
        let is_stopped = program.look_after();
        if self.sentry.is_none()
            && program.is_elsewhere()
            && let Some(witness) = &self.witness
        {
            // Without, a stop of the job's is none of the program's.
            self.sentry = Sentry::post(witness.pid(), program.main()).ok();
        }
        // Who is about to be continued by us is not to be waited for.
        let is_to_go_on = self.undecided.iter().any(|one| one.received.signal == Signal::SIGCONT as i32);
        if is_stopped && !is_to_go_on {
            self.ask(STANDS);
        }
    }
}

/// Collects until it is asked no more.
pub(super) fn collect(mut collector: Collector<'_>, timers: Timers, waiter: sys::ThisThread) {
    let shared = collector.shared;
    let mut start = None;
    let mut next_report = timers.report_every;
    let mut next_status = timers.status_every;
    let mut stop_after = timers.stop_after;
    while !shared.done.load(Ordering::Acquire) {
        collector.receive(TICK, MOST_AT_ONCE);
        shared.rounds.fetch_add(1, Ordering::AcqRel);
        // Before it is told to go on.
        collector.look_after_program();
        collector.decide();
        if start.is_none() && shared.armed.load(Ordering::Acquire) {
            start = Some(Instant::now());
        }
        let elapsed = start.map_or(Duration::ZERO, |start| start.elapsed());
        if stop_after.is_some_and(|after| elapsed >= after) {
            stop_after = None;
            collector.ask(STOP);
        }
        for (due, every, flag) in
            [(&mut next_report, timers.report_every, REPORT), (&mut next_status, timers.status_every, STATUS)]
        {
            if let (Some(at), Some(every)) = (*due, every)
                && elapsed >= at
            {
                *due = Some((at + every).max(elapsed));
                collector.ask(flag);
            }
        }
        if shared.holding.load(Ordering::Relaxed) {
            collector.ask(HELD);
        }
        if shared.flags.load(Ordering::Acquire) != 0 {
            waiter.send(WAKE);
        }
    }
    // What was sent before the end was asked for.
    collector.receive(Duration::ZERO, MOST_WAITING);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pid;

    const TERM: i32 = 15;
    const RT: i32 = 40;

    fn received(signal: i32, sender: i32) -> Received {
        Received { signal, sender: Some(Pid(sender)), value: None }
    }

    fn left(undecided: &[Received], heard: &[Received]) -> Vec<Received> {
        let since = Instant::now();
        let one = |received: &Received| Undecided { since, received: *received, is_elsewhere: false };
        let mut heard = heard.iter().map(|one| (since, *one)).collect();
        let mut undecided: Vec<Undecided> = undecided.iter().map(one).collect();
        let all = undecided.len();
        let taken = take_the_groups(&mut undecided, &mut heard);
        assert_eq!(taken.len() + undecided.len(), all);
        undecided.into_iter().map(|one| one.received).collect()
    }

    /// What the group was sent is nobody's to pass on; the rest is.
    #[test]
    fn what_the_group_was_sent_is_not_ours_alone() {
        let (term, other, rt) = (received(TERM, 7), received(TERM, 8), received(RT, 7));
        assert_eq!(left(&[term, other, rt], &[term]), [other, rt]);
        assert_eq!(left(&[term, rt], &[rt, term]), []);
        assert_eq!(left(&[Received { value: Some(1), ..rt }], &[rt]).len(), 1, "another value");
    }

    /// Ordinary signals may come as one here and one by one there; each real-time signal counts.
    #[test]
    fn real_time_signals_are_counted() {
        let (term, rt) = (received(TERM, 7), received(RT, 7));
        assert_eq!(left(&[term, term], &[term]), []);
        assert_eq!(left(&[term], &[term, term]), []);
        assert_eq!(left(&[rt, rt], &[rt]), [rt]);
    }
}
