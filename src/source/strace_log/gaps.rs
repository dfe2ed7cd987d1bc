//! What a log has, and what it lacks: what cannot be seen in it is said, and is not claimed.

use std::collections::HashMap;
use std::time::Duration;

use memchr::memmem;
use syscalls::x86_64::Sysno;

use super::call::Name;
use super::join::UNNAMED;
use super::text::Damage;
use super::times::Kind;
use crate::abi::map;
use crate::diagnose::finding::{Confidence, Note};
use crate::event::Call;
use crate::report::words::{count, counted, duration};
use crate::units::{Pid, Tid, Time};

/// The first so many damaged lines are named.
const NAMED: usize = 5;

/// So many sizes of requests are told apart.
const SIZES: usize = 1024;

/// Calls that most programs make and that no filter for memory and processes lets through. So many different ones say that
/// the log shows every call.
const EVERYDAY: &[&[u8]] = &[
    b"read",
    b"write",
    b"futex",
    b"close",
    b"poll",
    b"ppoll",
    b"epoll_wait",
    b"openat",
    b"open",
    b"nanosleep",
    b"clock_nanosleep",
    b"rt_sigprocmask",
    b"set_robust_list",
    b"recvfrom",
    b"sendto",
    b"select",
    b"pselect6",
];
const UNFILTERED: usize = 3;

/// What was seen in a log.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Lines so far.
    pub lines: u64,
    /// Whether there was a line that only strace writes.
    pub is_log: bool,
    /// Second halves of followed calls without their first.
    pub headless: u64,
    /// Tasks made by clone3 whose arguments are not shown.
    pub unseen_births: u64,
    /// The first line that could not be read, why, and what stands there.
    pub first_damage: Option<(u64, Damage, String)>,
    /// Whether the files of several tasks have no times by which to put their lines in order.
    pub is_unordered: bool,
    damaged: u64,
    damaged_lines: Vec<u64>,
    /// Lines with the number of a task, or in a file of one.
    numbered: u64,
    everyday_calls: Vec<&'static [u8]>,
    results: u64,
    mapped: u64,
    unmapped: u64,
    births: u64,
    exits: u64,
    ends: u64,
    requests: HashMap<u64, Requests>,
}

/// Private memory of one size that was asked for.
#[derive(Clone, Copy, Debug)]
struct Requests {
    count: u64,
    first: Time,
    last: Time,
    shortest: Duration,
    longest: Duration,
}

/// What became of the tasks that the log shows being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kin {
    /// Tasks that were made.
    pub born: u64,
    /// Of them, those of which there was at least one more line.
    pub shown: u64,
    /// Tasks that have lines, and of whose birth there is none, but for the first.
    pub strangers: u64,
    /// Of those that were made, those that are certain to have other numbers before their lines, and it is not known which.
    pub elsewhere: u64,
}

impl Seen {
    /// The task of a line: as the line has it, or its file.
    #[inline]
    pub fn task(&mut self, said: Option<Tid>, file: Tid) -> Tid {
        let tid = said.unwrap_or(file);
        self.numbered += u64::from(tid != UNNAMED);
        tid
    }

    /// A line could not be read.
    pub fn damaged(&mut self, damage: Damage, text: &[u8]) {
        self.damaged += 1;
        if self.damaged_lines.len() < NAMED {
            self.damaged_lines.push(self.lines);
        }
        self.doubt(damage, text);
    }

    /// A line does not look like one of strace's.
    fn doubt(&mut self, damage: Damage, text: &[u8]) {
        const SHOWN: usize = 40;
        if self.first_damage.is_none() {
            let rest = &text[damage.at.min(text.len())..];
            let shown = String::from_utf8_lossy(rest).chars().take(SHOWN).collect();
            self.first_damage = Some((self.lines, damage, shown));
        }
    }

    /// A call that is not followed; `at` is where its arguments begin in the line.
    #[inline]
    pub fn other_call(&mut self, name: &[u8], line: &[u8], at: usize) {
        if self.is_filtered() {
            self.judge(name, line, at);
        }
    }

    #[cold]
    fn judge(&mut self, name: &[u8], line: &[u8], at: usize) {
        if !self.is_log {
            let rest = &line[at..];
            let is_whole = rest.ends_with(b" ...>") || memmem::find(rest, b" = ").is_some();
            self.is_log = is_whole && std::str::from_utf8(name).is_ok_and(|name| name.parse::<Sysno>().is_ok());
            if !self.is_log {
                self.doubt(Damage { at: at - name.len() - 1, expected: "a system call and what it returned" }, line);
            }
        }
        if let Some(known) = EVERYDAY.iter().find(|known| **known == name)
            && self.is_log
            && !self.everyday_calls.contains(known)
        {
            self.everyday_calls.push(known);
        }
    }

    /// A followed call stands in the log, with its arguments where they are shown.
    #[inline]
    pub fn called(&mut self, name: Name, call: Option<&Call>, at: Time) {
        match name {
            Name::Mmap => self.mapped += 1,
            Name::Munmap => self.unmapped += 1,
            Name::Exit | Name::ExitGroup => self.exits += 1,
            name if name.is_birth() => self.births += 1,
            _ => {}
        }
        // What was asked for matters where it cannot be seen what it was asked for.
        if self.births == 0
            && let Some(Call::Mmap { len, flags, .. }) = call
            && flags & map::TYPE == map::PRIVATE
            && flags & map::ANONYMOUS != 0
        {
            self.request(*len, at);
        }
    }

    fn request(&mut self, len: u64, at: Time) {
        if self.requests.len() >= SIZES && !self.requests.contains_key(&len) {
            return;
        }
        let new = Requests { count: 0, first: at, last: at, shortest: Duration::MAX, longest: Duration::ZERO };
        let requests = self.requests.entry(len).or_insert(new);
        if requests.count > 0 {
            let since = at.since(requests.last);
            requests.shortest = requests.shortest.min(since);
            requests.longest = requests.longest.max(since);
        }
        requests.count += 1;
        requests.last = at;
    }

    /// A result is shown.
    pub fn result(&mut self) {
        self.results += 1;
    }

    /// The end of a task is shown.
    pub fn ended(&mut self) {
        self.is_log = true;
        self.ends += 1;
    }

    /// Whether the log has been filtered, or may have been.
    #[inline]
    pub fn is_filtered(&self) -> bool {
        self.everyday_calls.len() < UNFILTERED
    }

    /// How much can be claimed at most.
    pub fn ceiling(&self) -> Option<Confidence> {
        // What was unmapped cannot be seen, or not when.
        let is_blind = self.is_filtered() && self.unmapped == 0;
        (is_blind || self.is_unordered).then_some(Confidence::Possible)
    }

    /// What is to be said of the log itself.
    pub fn notes(&self, kind: Kind, kin: Kin, main: Pid) -> Vec<Note> {
        let main = (main.0 != 0).then_some(main);
        let mut notes = Vec::new();
        let mut say = |regions, text: String| notes.push(Note::incomplete(main, regions, text));
        let missing = self.missing();
        if !missing.is_empty() {
            let proof = match self.births == 0 || self.results == 0 {
                true => "nothing can be proven from it",
                false => "less can be proven from it",
            };
            say(0, format!("the log shows {}: {proof} (it may have been filtered)", enumerated(&missing)));
        }
        if self.births == 0 || self.results == 0 {
            say_requests(self.requests.iter(), kind, &mut say);
        }
        if self.is_unordered {
            let text = "the tasks' files have no times (strace -tt writes them): in which order their calls were made is not \
                        known, so little is claimed";
            say(0, text.to_owned());
        } else if kind == Kind::None && self.lines > 0 {
            let text = "the log has no times (strace -tt writes them): how long stacks have been idle is not known, and \
                        what follows from that is not claimed";
            say(0, text.to_owned());
        }
        let unseen = match kin {
            Kin { shown: 0, .. } => kin.born,
            // A child may as well have done nothing so far.
            Kin { strangers: 0, .. } => 0,
            _ => kin.elsewhere,
        };
        if unseen > 0 {
            let text = match kin.strangers {
                0 => {
                    "of the tasks that it shows being made the log has no line (strace -f follows them): whether they have \
                      ended cannot be seen"
                }
                _ => {
                    "tasks have other numbers where they are made than on their lines, as in a container that is logged \
                      from outside (strace --pidns-translation helps): whose stacks they have cannot be seen"
                }
            };
            say(unseen, text.to_owned());
        }
        if self.unseen_births > 0 {
            let calls = counted(self.unseen_births, "call");
            say(
                self.unseen_births,
                format!("the arguments of {calls} of clone3 are not shown: whose stacks are where cannot be seen"),
            );
        }
        if self.headless > 0 {
            let calls = counted(self.headless, "call");
            say(
                self.headless,
                format!("{calls} had begun before the log did, or the line on which they begin is missing"),
            );
        }
        if self.damaged > 0 {
            let lines = self.damaged_lines.iter().map(|line| count(*line)).collect::<Vec<_>>().join(", ");
            let (which, more) = match self.damaged {
                1 => ("line", ""),
                damaged if damaged > NAMED as u64 => ("lines", ", …"),
                _ => ("lines", ""),
            };
            let damaged = counted(self.damaged, "line");
            say(
                self.damaged,
                format!(
                    "{damaged} of the log could not be read and {were} left out: {which} {lines}{more}",
                    were = if self.damaged == 1 { "was" } else { "were" }
                ),
            );
        }
        notes
    }

    /// What is not in the log although it would be in a whole one.
    fn missing(&self) -> Vec<&'static str> {
        if !self.is_filtered() {
            return Vec::new();
        }
        let lacks = [
            (self.results == 0, "no results of calls"),
            (self.births == 0, "no creation of tasks (clone)"),
            (self.exits == 0 && self.ends == 0, "no ends of tasks"),
            (self.unmapped == 0, "no unmapping (munmap)"),
        ];
        lacks.into_iter().filter(|(lacks, _)| *lacks).map(|(_, what)| what).collect()
    }
}

/// The requests that may be those of stacks: most bytes first, and only the first.
fn say_requests<'a>(
    requests: impl Iterator<Item = (&'a u64, &'a Requests)>,
    kind: Kind,
    say: &mut impl FnMut(u64, String),
) {
    const FEW: u64 = 3;
    let repeated = requests.filter(|(_, requests)| requests.count >= FEW);
    let Some((len, requests)) = repeated.max_by_key(|(len, requests)| (len.saturating_mul(requests.count), **len))
    else {
        return;
    };
    let span = requests.last.since(requests.first);
    let period = span / u32::try_from(requests.count - 1).unwrap_or(u32::MAX);
    let slack = period / 5 + Duration::from_secs(1);
    let is_steady = requests.longest.saturating_sub(requests.shortest) <= slack && !period.is_zero();
    let every = match kind {
        Kind::None => String::new(),
        _ if is_steady => format!(", one every {}", duration(period)),
        _ => format!(", in {}", duration(span)),
    };
    let (number, bytes) = (count(requests.count), count(*len));
    say(requests.count, format!("what it still shows: {number} requests for {bytes} bytes of memory (mmap){every}"));
}

/// `a`, `a and b`, `a, b and c`.
fn enumerated(parts: &[&str]) -> String {
    match parts {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
