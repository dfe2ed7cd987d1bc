//! From lines to events, each case in the lines that strace writes.

mod joining;
mod notations;
mod numbers;
mod order;
mod random;

use super::gaps::{Kin, Seen};
use super::join::{Item, Joiner, UNNAMED};
use super::reconcile::Reconciler;
use super::times::Kind;
use crate::event::Event;
use crate::report::{Clock, notation};
use crate::units::Time;

/// A log that has been read.
struct Read {
    items: Vec<Item>,
    seen: Seen,
    kind: Kind,
    end: Time,
}

fn read(log: &str) -> Read {
    let mut joiner = Joiner::default();
    let mut items = Vec::new();
    for line in log.lines() {
        joiner.line(line.as_bytes(), UNNAMED, &mut items);
    }
    Read { items, kind: joiner.times.kind(), end: joiner.times.now(), seen: joiner.seen }
}

/// The events of a log, in order.
fn events(log: &str) -> (Vec<Event>, Kin) {
    let read = read(log);
    let mut order = Reconciler::new(super::beginning::who_was_there(&read.items));
    let mut events: Vec<Event> = read.items.into_iter().filter_map(|item| order.pass(item)).collect();
    order.finish();
    events.extend(std::iter::from_fn(|| order.pop()));
    (events, order.kin())
}

/// The events of a log in strace's notation, without times.
fn told(log: &str) -> Vec<String> {
    let clock = Clock::new("2019-02-21T23:00:00[UTC]".parse().unwrap());
    let line = |event: &Event| notation::event(event, &clock).split_once(' ').unwrap().1.to_owned();
    events(log).0.iter().map(line).collect()
}

/// What is said of a log itself.
fn notes(log: &str) -> Vec<String> {
    let kin = events(log).1;
    let read = read(log);
    read.seen.notes(read.kind, kin, crate::units::Pid(1)).into_iter().map(|note| note.text).collect()
}
