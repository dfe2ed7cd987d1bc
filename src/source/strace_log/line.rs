//! What a line of an strace log says, besides who and when.

use super::text::{Cursor, Damage};
use super::words;
use crate::event::Exit;
use crate::units::Tid;

/// What a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// A call begins, and may end: the cursor stands behind the opening bracket.
    Call(&'a [u8]),
    /// A call goes on that began in an earlier line: the cursor stands behind `resumed>`.
    Resumed(&'a [u8]),
    /// `+++ exited with 0 +++`
    Ended(Exit),
    /// `+++ superseded by execve in pid 1234 +++`
    Superseded(Tid),
    /// strace has come to a process that was there before: with its number of threads where it says so.
    Attached(Tid),
    /// A table of counts (`-c`) follows.
    Table,
    /// Nothing that matters here: a signal, a frame of a call stack, a hex dump, a message.
    Other,
}

/// Reads on behind what [`super::leader`] has read.
///
/// # Errors
/// It is none of what strace writes.
#[inline]
pub fn body<'a>(cursor: &mut Cursor<'a>) -> Result<Body<'a>, Damage> {
    if cursor.peek().is_some_and(|first| first.is_ascii_lowercase()) {
        let mut ahead = cursor.clone();
        let name = ahead.name();
        if ahead.eat(b"(") {
            *cursor = ahead;
            return Ok(Body::Call(name));
        }
    }
    unusual(cursor)
}

fn unusual<'a>(cursor: &mut Cursor<'a>) -> Result<Body<'a>, Damage> {
    let damage = cursor.damage("a call: its name and (");
    let Some(first) = cursor.peek() else { return Err(damage) };
    match first {
        b'<' => resumed(cursor),
        b'+' => ended(cursor),
        b'-' if cursor.rest().starts_with(b"---") => Ok(Body::Other),
        b' ' if [&b" > "[..], b" | "].iter().any(|start| cursor.rest().starts_with(start)) => Ok(Body::Other),
        b'%' if cursor.rest().starts_with(b"% time") => Ok(Body::Table),
        b'[' if cursor.rest().starts_with(b"[ Process PID=") => Ok(Body::Other),
        b'?' => Ok(Body::Other),
        _ => {
            let name = cursor.name();
            if !name.is_empty() && cursor.eat(b"(") {
                return Ok(Body::Call(name));
            }
            match name {
                b"strace" if cursor.eat(b": ") => Ok(message(cursor)),
                b"Process" => Ok(message(&mut Cursor::new(cursor.rest()))),
                _ => Err(damage),
            }
        }
    }
}

/// `<... mmap resumed>`, or `<detached ...>`.
fn resumed<'a>(cursor: &mut Cursor<'a>) -> Result<Body<'a>, Damage> {
    if !cursor.eat(b"<... ") {
        return if cursor.rest().ends_with(b" ...>") {
            Ok(Body::Other)
        } else {
            Err(cursor.damage("<... NAME resumed>"))
        };
    }
    let name = cursor.name();
    cursor.expect(b" resumed>", "resumed>")?;
    Ok(Body::Resumed(name))
}

fn ended<'a>(cursor: &mut Cursor<'a>) -> Result<Body<'a>, Damage> {
    cursor.expect(b"+++ ", "+++ and how it ended")?;
    let damage = cursor.damage("how it ended");
    let body = if cursor.eat(b"exited with ") {
        let code = cursor.digits().and_then(|code| i32::try_from(code).ok()).ok_or(damage)?;
        Body::Ended(Exit::Code(code))
    } else if cursor.eat(b"killed by ") {
        let signal = match cursor.peek() {
            Some(b'0'..=b'9') => cursor.digits(),
            _ => words::signal(cursor.name()),
        };
        let signal = signal.and_then(|signal| i32::try_from(signal).ok()).ok_or(damage)?;
        Body::Ended(Exit::Signal(signal))
    } else if cursor.eat(b"superseded by execve in pid ") {
        let tid = cursor.digits().and_then(|tid| i32::try_from(tid).ok()).ok_or(damage)?;
        Body::Superseded(Tid(tid))
    } else {
        Body::Other
    };
    cursor.until(b" +++").or_else(|| cursor.until(b"+++")).ok_or(cursor.damage("+++"))?;
    Ok(body)
}

/// What strace has to say itself. That it has come to a task that was just born tells nothing new.
fn message<'a>(cursor: &mut Cursor<'a>) -> Body<'a> {
    cursor.eat(b"Process");
    let number = if cursor.eat(b" ") { cursor.digits() } else { None };
    match number.and_then(|number| i32::try_from(number).ok()) {
        Some(number) if number > 0 && cursor.rest().starts_with(b" attached with ") => Body::Attached(Tid(number)),
        _ => Body::Other,
    }
}

/// The task that strace tells to have attached to in the middle of another line, which it does when both go to a
/// terminal, and what stood before that: `clone(…strace: Process 1234 attached`.
pub fn interrupted(line: &[u8]) -> Option<&[u8]> {
    let before = line.strip_suffix(b" attached")?;
    let digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let before = before[..before.len() - digits].strip_suffix(b"Process ")?;
    let before = before.strip_suffix(b"strace: ").unwrap_or(before);
    (digits > 0 && !before.is_empty()).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Body<'_>, Damage> {
        body(&mut Cursor::new(text.as_bytes()))
    }

    /// Everything that strace writes besides calls.
    #[test]
    fn bodies() {
        let cases = [
            ("mmap(NULL, 4096", Body::Call(b"mmap")),
            ("<... mmap resumed>) = 0x7f", Body::Resumed(b"mmap")),
            ("<detached ...>", Body::Other),
            ("+++ exited with 3 +++", Body::Ended(Exit::Code(3))),
            ("+++ killed by SIGSEGV (core dumped) +++", Body::Ended(Exit::Signal(11))),
            ("+++ killed by SIGRT_2 +++", Body::Ended(Exit::Signal(34))),
            ("+++ superseded by execve in pid 26063 +++", Body::Superseded(Tid(26063))),
            ("--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=2} ---", Body::Other),
            ("--- stopped by SIGSTOP ---", Body::Other),
            (" > /usr/lib/libc.so.6(mmap64+0x4b) [0x10ba3b]", Body::Other),
            (" | 00000  68 65 6c 6c 6f                                    hello            |", Body::Other),
            ("strace: Process 31108 attached with 24 threads", Body::Attached(Tid(31108))),
            ("Process 31108 attached with 24 threads - interrupt to quit", Body::Attached(Tid(31108))),
            ("strace: Process 26009 attached", Body::Other),
            ("Process 26009 detached", Body::Other),
            ("[ Process PID=1234 runs in 32 bit mode. ]", Body::Other),
            ("% time     seconds  usecs/call     calls    errors syscall", Body::Table),
            ("???? ( <unfinished ...>", Body::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    /// What is no line of strace's.
    #[test]
    fn damage() {
        for text in ["", "hello", "mmap", "mma\u{0}p(", "<... mmap", "+++ exited with x +++", "{\"json\": 1}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    /// Both versions of the message, in the middle of a line.
    #[test]
    fn interrupted_lines() {
        assert_eq!(interrupted(b"clone(strace: Process 12 attached"), Some(&b"clone("[..]));
        assert_eq!(interrupted(b"[pid 3] clone(Process 12 attached"), Some(&b"[pid 3] clone("[..]));
        assert_eq!(interrupted(b"strace: Process 12 attached"), None);
        assert_eq!(interrupted(b"write(1, \"Process attached\") = 3"), None);
    }
}
