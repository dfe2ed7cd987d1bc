//! From lines to items: the two halves of a call that strace broke off are put together, and what does not matter is
//! left out. Plain data in, plain data out.

use std::time::Duration;

use syscalls::Errno;

use super::call::{self, Called, Name, Outcome};
use super::gaps::Seen;
use super::leader::{Leader, unusual, usual};
use super::line::{Body, body, interrupted};
use super::plain::Plain;
use super::text::{Cursor, Damage};
use super::times::Times;
use crate::event::{Call, CloneArgs, CloneCall, Exit};
use crate::units::{Addr, NumberMap, Tid, Time};

/// The task of lines that do not say whose they are.
pub const UNNAMED: Tid = Tid(0);

/// Texts of calls that are kept for those of later ones, at most.
const SPARE: usize = 64;

/// Something that a log says.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// When: at the beginning of a call that is broken off, otherwise at its end as far as that is known.
    pub at: Time,
    /// To whom.
    pub tid: Tid,
    /// What.
    pub what: What,
}

/// What a log says of a task.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// It is there, and does something that does not matter here.
    Shown,
    /// It calls, and something else comes before the call returns. Of some calls the arguments are shown at the return.
    Entered(Name, Option<Call>),
    /// It calls exit(2) or exit_group(2).
    Exiting(Name, i32),
    /// A call has returned.
    Returned(Call, Result<u64, Errno>),
    /// A call that was entered has not returned, or what it returned cannot be read.
    Lost(Name),
    /// It was made by clone3(2), of whose arguments nothing is known.
    MadeSomehow(Tid),
    /// It is about to become this program.
    Command(Box<[String]>),
    /// It has ended.
    Ended(Exit),
    /// Another task of the process has called execve, and goes on under this one's number.
    Superseded(Tid),
    /// strace has attached to its process.
    Attached,
    /// It is told that this is its number: another one than its lines have, if they have any.
    Number(Tid),
    /// The thread library has its list of locks there, in its descriptor (set_robust_list(2)).
    RobustList(Addr),
}

/// Puts lines together.
#[derive(Debug, Default)]
pub struct Joiner {
    /// The times of the log.
    pub times: Times,
    /// What the log has, and lacks.
    pub seen: Seen,
    tasks: NumberMap<Tid, Task>,
    /// How many tasks have ended: after each, all that still do something are shown again.
    ends: u32,
    /// What need not be looked at again: tasks that were shown after the last end, and calls that are not followed.
    plain: Plain,
    /// A line that a message of strace's own has cut in two.
    interrupted: Option<Vec<u8>>,
    /// Room for the texts of calls that will be broken off.
    spare: Vec<Vec<u8>>,
    /// A table of counts has begun, and nothing else follows.
    in_table: bool,
}

/// What is known of a task.
#[derive(Debug, Default)]
struct Task {
    /// A call that was broken off, from its name on.
    begun: Option<(Name, Vec<u8>)>,
    /// After how many ends it was last shown, from 1 on.
    shown: u32,
}

impl Joiner {
    /// Takes the next line, without its newline. `of` is the task whose file it is from, for lines that do not say.
    #[inline]
    pub fn line(&mut self, text: &[u8], of: Tid, out: &mut Vec<Item>) {
        self.seen.lines += 1;
        let usual = usual(text);
        if let Some(usual) = &usual
            && self.is_plain(usual, text)
        {
            return;
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if (self.interrupted.is_some() || text.ends_with(b" attached")) && self.interruption(text, of, out) {
            return;
        }
        self.whole_line(usual, text, of, out);
    }

    /// Whether this is a line that tells nothing new but its time, which is taken.
    #[inline]
    fn is_plain(&mut self, usual: &(Leader, usize), text: &[u8]) -> bool {
        let (Leader { tid: Some(tid), stamp }, behind) = *usual else { return false };
        let is_plain = self.plain.is_known(&text[behind..])
            && self.plain.was_shown(tid)
            && !self.seen.is_filtered()
            // It may be the first half of what a message has cut in two, or the second.
            && !matches!(text.last(), Some(b'd' | b'\r'))
            && self.interrupted.is_none();
        if is_plain {
            self.times.take(stamp);
            self.seen.task(Some(tid), tid);
        }
        is_plain
    }

    /// A line that a message has cut in two, or may go on one. True where that is all.
    #[cold]
    fn interruption(&mut self, text: &[u8], of: Tid, out: &mut Vec<Item>) -> bool {
        if let Some(before) = self.interrupted.take() {
            let goes_on = [&b" =>"[..], b",", b" <unfinished", b")", b"}"].iter().any(|start| text.starts_with(start));
            let (whole, is_rest) = if goes_on { ([&before, text].concat(), true) } else { (before, false) };
            let unfinished = [&whole[..], b" <unfinished ...>"].concat();
            let whole = if is_rest { &whole } else { &unfinished };
            self.whole_line(usual(whole), whole, of, out);
            if is_rest {
                return true;
            }
        }
        self.interrupted = interrupted(text).map(<[u8]>::to_vec);
        self.interrupted.is_some()
    }

    /// A line of which `leader` is what stands before the call, and its length, where it is usual.
    fn whole_line(&mut self, leader: Option<(Leader, usize)>, text: &[u8], of: Tid, out: &mut Vec<Item>) {
        if let Err(damage) = self.try_line(leader, text, of, out)
            && !text.is_empty()
            && !self.in_table
        {
            self.seen.damaged(damage, text);
        }
    }

    fn try_line(
        &mut self,
        usual: Option<(Leader, usize)>,
        text: &[u8],
        of: Tid,
        out: &mut Vec<Item>,
    ) -> Result<(), Damage> {
        let mut cursor = Cursor::new(text);
        let Leader { tid, stamp } = match usual {
            Some((leader, behind)) => {
                cursor.skip(behind);
                leader
            }
            None => unusual(&mut cursor)?,
        };
        let body = body(&mut cursor)?;
        self.times.take(stamp);
        let tid = self.seen.task(tid, of);
        if let Body::Call(name) = body
            && Name::of(name).is_none()
        {
            self.other_call(name, tid, &cursor, text, out);
            return Ok(());
        }
        let at = self.times.now();
        let mut tell = |what| out.push(Item { at, tid, what });
        match body {
            Body::Call(name) => {
                if let Some(name) = Name::of(name) {
                    return self.call(name, at, tid, &mut cursor, text, out);
                }
            }
            Body::Resumed(name) => match Name::of(name) {
                Some(name) => return self.resumed(name, at, tid, cursor.rest(), out),
                None => {
                    self.seen.is_log = true;
                    if name != b"rseq" {
                        self.show(tid, out);
                    }
                }
            },
            Body::Ended(exit) => {
                self.seen.ended();
                self.ends += 1;
                self.plain.show_again();
                self.tasks.remove(&tid);
                tell(What::Ended(exit));
            }
            Body::Superseded(by) => {
                tell(What::Superseded(by));
                self.plain.show_again();
                if let Some(task) = self.tasks.remove(&by) {
                    self.tasks.insert(tid, task);
                }
            }
            Body::Attached(process) => {
                self.seen.is_log = true;
                out.push(Item { at, tid: process, what: What::Attached });
            }
            Body::Table => self.in_table = true,
            Body::Other => {}
        }
        Ok(())
    }

    /// A call that is not followed, from behind its opening bracket.
    #[inline]
    fn other_call(&mut self, name: &[u8], tid: Tid, cursor: &Cursor<'_>, line: &[u8], out: &mut Vec<Item>) {
        self.seen.other_call(name, line, cursor.at());
        match name {
            // The first thing that a thread does, as a rule: whose child it is the next will tell.
            b"rseq" => return,
            b"set_robust_list" => {
                if let Ok(head) = Cursor::new(cursor.rest()).number() {
                    out.push(Item { at: self.times.now(), tid, what: What::RobustList(Addr(head)) });
                }
            }
            b"set_tid_address" => {}
            _ => self.plain.know(&line[cursor.at() - name.len() - 1..]),
        }
        if let Some(number) = own_number(name, cursor.rest(), tid)
            && number != tid
        {
            out.push(Item { at: self.times.now(), tid, what: What::Number(number) });
        }
        self.show(tid, out);
    }

    /// Tells of a task of which nothing was told yet, or not since another one ended.
    #[inline]
    fn show(&mut self, tid: Tid, out: &mut Vec<Item>) {
        if !self.plain.was_shown(tid) {
            self.show_again(tid, out);
        }
    }

    #[cold]
    fn show_again(&mut self, tid: Tid, out: &mut Vec<Item>) {
        self.plain.shown(tid);
        let now = self.ends + 1;
        let task = self.tasks.entry(tid).or_default();
        if task.shown != now {
            task.shown = now;
            out.push(Item { at: self.times.now(), tid, what: What::Shown });
        }
    }

    /// A followed call, from behind its opening bracket.
    #[inline]
    fn call(
        &mut self,
        name: Name,
        at: Time,
        tid: Tid,
        cursor: &mut Cursor<'_>,
        line: &[u8],
        out: &mut Vec<Item>,
    ) -> Result<(), Damage> {
        self.seen.is_log = true;
        if line.ends_with(b" ...>") {
            let rest = cursor.rest();
            let end = memchr::memrchr(b'<', rest).unwrap_or(rest.len());
            self.begun(name, at, tid, &rest[..end], out);
            return Ok(());
        }
        let inside = cursor.rest();
        let called = call::arguments(name, cursor)?;
        let outcome = call::outcome(cursor)?;
        let call = if let Called::Call(call) = &called { Some(call) } else { None };
        self.seen.called(name, call, at);
        let at = match outcome.took {
            Some(took) => Time(at.0.saturating_add(Duration::from_nanos(took))),
            None => at,
        };
        if let Called::Exit(code) = called {
            out.push(Item { at, tid, what: What::Exiting(name, code) });
        }
        self.returned(name, at, tid, called, outcome, inside, out);
        Ok(())
    }

    /// strace broke a call off.
    fn begun(&mut self, name: Name, at: Time, tid: Tid, text: &[u8], out: &mut Vec<Item>) {
        let text = text.trim_ascii_end();
        let called = call::arguments(name, &mut Cursor::new(text)).ok().filter(|_| !text.is_empty());
        let what = match called {
            Some(Called::Exit(code)) => What::Exiting(name, code),
            Some(Called::Call(call)) => What::Entered(name, Some(call)),
            _ if matches!(name, Name::Exit | Name::ExitGroup) => What::Exiting(name, 0),
            _ => What::Entered(name, None),
        };
        let call = if let What::Entered(_, call) = &what { call.as_ref() } else { None };
        self.seen.called(name, call, at);
        out.push(Item { at, tid, what });
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(text);
        if let Some((_, never_resumed)) = self.tasks.entry(tid).or_default().begun.replace((name, kept)) {
            self.keep(never_resumed);
        }
    }

    /// `<... mmap resumed>` and what follows.
    fn resumed(&mut self, name: Name, at: Time, tid: Tid, rest: &[u8], out: &mut Vec<Item>) -> Result<(), Damage> {
        self.seen.is_log = true;
        let (tid, begun) = self.take_begun(name, tid);
        let begins_here = begun.is_none();
        let mut text = begun.or_else(|| self.spare.pop()).unwrap_or_default();
        // Blanks stand between the halves in strace 4.x, and none in 5 and 6.
        text.extend_from_slice(rest);
        let mut cursor = Cursor::new(&text);
        let read = call::arguments(name, &mut cursor).and_then(|called| Ok((called, call::outcome(&mut cursor)?)));
        match read {
            Ok((called, outcome)) => self.returned(name, at, tid, called, outcome, &text, out),
            Err(_) => out.push(Item { at, tid, what: What::Lost(name) }),
        }
        self.keep(text);
        match read {
            // It was called before the log begins, or its first half is missing.
            Err(_) if begins_here => self.seen.headless += 1,
            Err(damage) => return Err(damage),
            Ok(_) => {}
        }
        Ok(())
    }

    /// Keeps the room of a text that is done with.
    fn keep(&mut self, mut text: Vec<u8>) {
        /// A longer one is not worth its room.
        const LONG: usize = 4096;
        if self.spare.len() < SPARE && text.capacity() <= LONG {
            text.clear();
            self.spare.push(text);
        }
    }

    /// The first half of a call, and whose it is: where lines have a task's number only while there are several tasks, one
    /// half may have it and the other not.
    fn take_begun(&mut self, name: Name, tid: Tid) -> (Tid, Option<Vec<u8>>) {
        let mut take = |tid: Tid| {
            let task = self.tasks.get_mut(&tid)?;
            task.begun.take_if(|(begun, _)| *begun == name).map(|(_, text)| text)
        };
        if let Some(text) = take(tid) {
            return (tid, Some(text));
        }
        if tid != UNNAMED {
            return (tid, take(UNNAMED));
        }
        let mut others = self.tasks.iter().filter(|(_, task)| task.begun.as_ref().is_some_and(|begun| begun.0 == name));
        match (others.next().map(|(tid, _)| *tid), others.next()) {
            (Some(other), None) => (other, self.tasks.get_mut(&other).and_then(|task| Some(task.begun.take()?.1))),
            _ => (tid, None),
        }
    }

    /// A call has ended, one way or the other; `inside` is its text from behind the opening bracket.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    fn returned(
        &mut self,
        name: Name,
        at: Time,
        tid: Tid,
        called: Called,
        outcome: Outcome,
        inside: &[u8],
        out: &mut Vec<Item>,
    ) {
        let mut tell = |what| out.push(Item { at, tid, what });
        let Some(mut result) = outcome.result else {
            tell(What::Lost(name));
            return;
        };
        self.seen.result();
        if name.is_birth()
            && result.is_ok()
            && let Some(child) = call::child(inside)
        {
            result = Ok(child);
        }
        match (called, result) {
            (Called::Exit(_), _) => tell(What::Lost(name)),
            (Called::UnseenClone3, Ok(child)) => {
                self.seen.unseen_births += 1;
                match i32::try_from(child) {
                    Ok(child) if child > 0 => tell(What::MadeSomehow(Tid(child))),
                    _ => tell(What::Lost(name)),
                }
            }
            (Called::UnseenClone3, Err(errno)) => {
                let args = CloneArgs::bare(CloneCall::Clone3, 0);
                tell(What::Returned(Call::Clone(args), Err(errno)));
            }
            (Called::Call(call), result) => {
                if let (Call::Execve { .. } | Call::Execveat { .. }, Ok(_)) = (call, result)
                    && let Some(command) = call::command(name, inside)
                {
                    tell(What::Command(command.into_boxed_slice()));
                }
                tell(What::Returned(call, result));
            }
        }
    }
}

/// What a task is told of its own number, as strace sees it if it says so.
fn own_number(name: &[u8], rest: &[u8], tid: Tid) -> Option<Tid> {
    // A thread is told its process's.
    let is_told = matches!(name, b"gettid" | b"set_tid_address") || (name == b"getpid" && tid == UNNAMED);
    if !is_told {
        return None;
    }
    let mut cursor = Cursor::new(rest);
    cursor.until(b"= ")?;
    let number = call::child(cursor.rest()).or_else(|| cursor.digits())?;
    i32::try_from(number).ok().filter(|number| *number > 0).map(Tid)
}
