//! Who was there before a log begins, as far as its first lines show.

use std::collections::{HashMap, HashSet};

use super::join::{Item, UNNAMED, What};
use super::reconcile::{number_of_list, runs_or_exits};
use crate::event::Call;
use crate::units::{Addr, Pid, Tid};

/// Who was there before a log.
#[derive(Debug)]
pub struct WhoWasThere {
    /// The process that the log is about.
    pub main: Pid,
    /// Its tasks.
    pub others: Vec<Tid>,
    /// Whether the log begins with the program's being executed.
    pub is_launched: bool,
    /// Whether it shows how tasks end, and not only their calls of exit.
    pub has_ends: bool,
}

/// The process that the log is about, and all its tasks that were there before the log, as far as the window shows: those
/// that were not made in it. The process is the one that strace says it has attached to, or executes first, or has the lowest
/// number.
pub fn who_was_there(window: &[Item]) -> WhoWasThere {
    let mut attached = None;
    let mut told = None;
    let mut born = HashSet::new();
    // Which of the items is a task's first, and which is that of the birth that it is about.
    let mut first = HashMap::new();
    let mut begun = HashMap::new();
    for (index, item) in window.iter().enumerate() {
        match &item.what {
            What::Attached => {
                attached.get_or_insert(item.tid);
                continue;
            }
            What::Number(number) if item.tid == UNNAMED => {
                told.get_or_insert(*number);
            }
            What::Entered(name, _) if name.is_birth() => {
                begun.insert(item.tid, index);
            }
            What::Returned(Call::Clone(_), Ok(_)) | What::MadeSomehow(_) => {
                let child = match item.what {
                    What::Returned(_, Ok(child)) => i32::try_from(child).ok().map(Tid),
                    What::MadeSomehow(child) => Some(child),
                    _ => None,
                };
                let begun = begun.remove(&item.tid).unwrap_or(index);
                // Who was there before it is another one, whose number is that of the child in a namespace.
                born.extend(child.filter(|child| first.get(child).is_none_or(|first| *first > begun)));
            }
            _ => {}
        }
        first.entry(item.tid).or_insert(index);
    }
    born.extend(born_by_evidence(window));
    let mut others: Vec<Tid> = first.into_keys().filter(|tid| *tid != UNNAMED && !born.contains(tid)).collect();
    others.sort_unstable();
    let launched = window.first().filter(|first| attached.is_none() && is_exec(&first.what)).map(|first| first.tid);
    let main = attached.or(launched.filter(|tid| *tid != UNNAMED)).or(others.first().copied()).or(told);
    if launched.is_some() {
        // Whoever has another number than those that were made has been made with another number.
        others.clear();
    }
    let has_ends = window.iter().any(|item| matches!(item.what, What::Ended(_)));
    WhoWasThere { main: Pid(main.unwrap_or(UNNAMED).0), others, is_launched: launched.is_some(), has_ends }
}

/// Whether a task becomes a program.
fn is_exec(what: &What) -> bool {
    match what {
        What::Returned(call, Ok(_)) => matches!(call, Call::Execve { .. } | Call::Execveat { .. }),
        what => matches!(what, What::Command(_)),
    }
}

/// Tasks that were made in the log, whatever numbers their makers were told: that begin, after a birth has, with a list of
/// locks beside a number that is kept for a child; or during a birth, to execute a program.
fn born_by_evidence(items: &[Item]) -> HashSet<Tid> {
    let births = items.iter().filter_map(|item| match &item.what {
        What::Returned(Call::Clone(args), Ok(_)) => Some(args.child_tid).filter(|addr| addr.0 != 0),
        _ => None,
    });
    let kept: HashSet<Addr> = births.collect();
    let (mut shown, mut during_birth, mut making) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut has_births = false;
    let mut is_born = |item: &Item| {
        let is_first = shown.insert(item.tid);
        if is_first && !making.is_empty() {
            during_birth.insert(item.tid);
        }
        match item.what {
            What::Entered(name, _) if name.is_birth() => {
                has_births = true;
                making.insert(item.tid);
            }
            What::Returned(Call::Clone(_), _) => {
                has_births = true;
                making.remove(&item.tid);
            }
            // Where a process of fork has its list, its maker had it before.
            What::RobustList(list) if is_first && has_births => {
                return number_of_list(list).any(|addr| kept.contains(&addr));
            }
            _ => return runs_or_exits(&item.what) && during_birth.contains(&item.tid),
        }
        false
    };
    items.iter().filter(|item| is_born(item)).map(|item| item.tid).collect()
}
