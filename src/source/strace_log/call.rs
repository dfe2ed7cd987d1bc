//! A system call from its line: its arguments, and what it returned.

use memchr::memmem;
use syscalls::Errno;

use super::clone;
use super::leader;
use super::text::{Cursor, Damage};
use super::words;
use crate::abi::clone::{VFORK, VM};
use crate::event::{Call, CloneArgs, CloneCall};
use crate::units::Addr;

/// A call that is followed, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the kernel's names
pub enum Name {
    Mmap,
    Munmap,
    Mprotect,
    PkeyMprotect,
    Mremap,
    Madvise,
    Brk,
    Shmat,
    Shmdt,
    RemapFilePages,
    IoSetup,
    IoDestroy,
    MapShadowStack,
    Personality,
    Clone,
    Clone3,
    Fork,
    Vfork,
    Execve,
    Execveat,
    Exit,
    ExitGroup,
}

impl Name {
    /// The followed call of this name.
    #[inline]
    pub fn of(name: &[u8]) -> Option<Name> {
        // By its length first: what is left to be compared are one or two words.
        Some(match name.len() {
            3 => match name {
                b"brk" => Name::Brk,
                _ => return None,
            },
            4 => match name {
                b"mmap" => Name::Mmap,
                b"exit" => Name::Exit,
                b"fork" => Name::Fork,
                _ => return None,
            },
            5 => match name {
                b"clone" => Name::Clone,
                b"mmap2" => Name::Mmap,
                b"vfork" => Name::Vfork,
                b"shmat" => Name::Shmat,
                b"shmdt" => Name::Shmdt,
                b"_exit" => Name::Exit,
                _ => return None,
            },
            6 => match name {
                b"munmap" => Name::Munmap,
                b"clone3" => Name::Clone3,
                b"mremap" => Name::Mremap,
                b"execve" => Name::Execve,
                _ => return None,
            },
            7 => match name {
                b"madvise" => Name::Madvise,
                _ => return None,
            },
            8 => match name {
                b"mprotect" => Name::Mprotect,
                b"old_mmap" => Name::Mmap,
                b"io_setup" => Name::IoSetup,
                b"execveat" => Name::Execveat,
                _ => return None,
            },
            _ => match name {
                b"exit_group" => Name::ExitGroup,
                b"io_destroy" => Name::IoDestroy,
                b"personality" => Name::Personality,
                b"pkey_mprotect" => Name::PkeyMprotect,
                b"remap_file_pages" => Name::RemapFilePages,
                b"map_shadow_stack" => Name::MapShadowStack,
                _ => return None,
            },
        })
    }

    /// Whether a success makes a task.
    pub fn is_birth(self) -> bool {
        matches!(self, Name::Clone | Name::Clone3 | Name::Fork | Name::Vfork)
    }
}

/// What a line says of the arguments of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Called {
    /// All of them.
    Call(Call),
    /// exit(2) or exit_group(2) with this code.
    Exit(i32),
    /// clone3(2), of whose arguments strace shows but the address.
    UnseenClone3,
}

/// What stands behind the equals sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the call returned; none for `?`: it did not return, or strace did not see it.
    pub result: Option<Result<u64, Errno>>,
    /// How long it took, in nanoseconds (`-T`).
    pub took: Option<u64>,
}

/// The arguments of a call, from behind the opening bracket to behind the closing one, or to the end of the text where
/// strace broke off (`<unfinished ...>`).
///
/// # Errors
/// Where they are not what this call has.
#[inline]
pub fn arguments(name: Name, cursor: &mut Cursor<'_>) -> Result<Called, Damage> {
    cursor.skip_blanks();
    let called = match name {
        Name::Exit | Name::ExitGroup => Called::Exit(cursor.number()? as i32),
        Name::Clone => Called::Call(Call::Clone(clone::clone(cursor)?)),
        Name::Clone3 => clone::clone3(cursor)?.map_or(Called::UnseenClone3, |args| Called::Call(Call::Clone(args))),
        _ => Called::Call(call(name, cursor)?),
    };
    cursor.skip_blanks();
    if cursor.rest().is_empty() {
        return Ok(called);
    }
    cursor.expect(b")", ") behind the arguments")?;
    Ok(called)
}

#[inline]
fn call(name: Name, cursor: &mut Cursor<'_>) -> Result<Call, Damage> {
    Ok(match name {
        Name::Mmap => mmap(cursor)?,
        Name::Munmap => Call::Munmap { addr: addr(cursor)?, len: next(cursor)? },
        Name::Mprotect => Call::Mprotect { addr: addr(cursor)?, len: next(cursor)?, prot: next_prot(cursor)? },
        Name::PkeyMprotect => Call::PkeyMprotect {
            addr: addr(cursor)?,
            len: next(cursor)?,
            prot: next_prot(cursor)?,
            pkey: next(cursor)? as i32,
        },
        Name::Mremap => {
            let (old, old_len, new_len) = (addr(cursor)?, next(cursor)?, next(cursor)?);
            cursor.comma()?;
            let flags = words::mremap(cursor)?;
            let new = if cursor.peek() == Some(b',') { next(cursor)? } else { 0 };
            Call::Mremap { old, old_len, new_len, flags, new: Addr(new) }
        }
        Name::Madvise => {
            let (addr, len) = (addr(cursor)?, next(cursor)?);
            cursor.comma()?;
            Call::Madvise { addr, len, advice: words::advice(cursor)? }
        }
        Name::Brk => Call::Brk { addr: addr(cursor)? },
        Name::Shmat => {
            let (id, addr) = (cursor.number()? as i32, Addr(next(cursor)?));
            cursor.comma()?;
            Call::Shmat { id, addr, flags: words::shm(cursor)? as i32 }
        }
        Name::Shmdt => Call::Shmdt { addr: addr(cursor)? },
        Name::RemapFilePages => {
            let (addr, len, prot, pgoff) = (addr(cursor)?, next(cursor)?, next_prot(cursor)?, next(cursor)?);
            cursor.comma()?;
            Call::RemapFilePages { addr, len, prot, pgoff, flags: words::map(cursor)? }
        }
        Name::IoSetup => {
            let nr_events = cursor.number()? as u32;
            // The handle that the kernel has stored: `[0x7f6892419000]`.
            if cursor.peek() == Some(b',') {
                cursor.comma()?;
                cursor.skip_argument();
            }
            Call::IoSetup { nr_events, ctxp: Addr(0) }
        }
        Name::IoDestroy => Call::IoDestroy { ctx: addr(cursor)? },
        Name::MapShadowStack => {
            let (addr, len) = (addr(cursor)?, next(cursor)?);
            cursor.comma()?;
            Call::MapShadowStack { addr, len, flags: words::shadow_stack(cursor)? }
        }
        Name::Personality => Call::Personality { persona: words::persona(cursor)? },
        Name::Fork => Call::Clone(forked(CloneCall::Fork, 0)),
        Name::Vfork => Call::Clone(forked(CloneCall::Vfork, VM | VFORK)),
        Name::Execve => {
            skip_arguments(cursor, 3);
            Call::Execve { path: Addr(0), argv: Addr(0), envp: Addr(0) }
        }
        Name::Execveat => {
            skip_arguments(cursor, 5);
            Call::Execveat { dirfd: libc::AT_FDCWD, path: Addr(0), argv: Addr(0), envp: Addr(0), flags: 0 }
        }
        Name::Clone | Name::Clone3 | Name::Exit | Name::ExitGroup => return Err(cursor.damage("a mapping call")),
    })
}

fn forked(call: CloneCall, flags: u64) -> CloneArgs {
    CloneArgs { exit_signal: libc::SIGCHLD as u32, ..CloneArgs::bare(call, flags) }
}

#[inline]
fn mmap(cursor: &mut Cursor<'_>) -> Result<Call, Damage> {
    // Old strace on i386 shows the block of arguments: `old_mmap({0, 4096, …})`.
    let in_a_block = cursor.eat(b"{");
    let (addr, len, prot) = (addr(cursor)?, next(cursor)?, next_prot(cursor)?);
    cursor.comma()?;
    let flags = words::map(cursor)?;
    let fd = next(cursor)? as i32;
    if cursor.peek() == Some(b'<') {
        // The file (-y) may have any name, with commas and brackets in it; the offset is the last argument.
        let rest = cursor.rest();
        let arguments = &rest[..end_of_arguments(rest)];
        cursor.skip(memmem::rfind(arguments, b", ").ok_or(cursor.damage("the offset"))?);
    }
    let offset = next(cursor)?;
    if in_a_block {
        cursor.expect(b"}", "} behind the arguments")?;
    }
    Ok(Call::Mmap { addr, len, prot, flags, fd, offset })
}

/// Where the arguments end whose last one is a number: before `)`, blanks and `= `, or at the end of the text.
fn end_of_arguments(text: &[u8]) -> usize {
    let mut end = text.len();
    while let Some(equals) = memmem::rfind(&text[..end], b"= ") {
        let before = text[..equals].trim_ascii_end();
        if before.ends_with(b")") {
            return before.len() - 1;
        }
        end = equals;
    }
    text.len()
}

#[inline]
fn addr(cursor: &mut Cursor<'_>) -> Result<Addr, Damage> {
    cursor.number().map(Addr)
}

#[inline]
fn next(cursor: &mut Cursor<'_>) -> Result<u64, Damage> {
    cursor.comma()?;
    cursor.number()
}

#[inline]
fn next_prot(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    cursor.comma()?;
    words::prot(cursor)
}

fn skip_arguments(cursor: &mut Cursor<'_>, most: usize) {
    for number in 0..most {
        if number > 0 && cursor.comma().is_err() {
            return;
        }
        cursor.skip_argument();
    }
}

/// What stands behind the arguments: `  = 0x7f6891825000 <0.000012>`.
///
/// # Errors
/// There is no result, or none that is written in a known way.
#[inline]
pub fn outcome(cursor: &mut Cursor<'_>) -> Result<Outcome, Damage> {
    cursor.skip_blanks();
    cursor.expect(b"=", "= and the result")?;
    cursor.skip_blanks();
    let result = match cursor.peek() {
        Some(b'0'..=b'9') => Some(Ok(cursor.number()?)),
        Some(b'?') => {
            cursor.skip(1);
            cursor.skip_blanks();
            errno(cursor).map(Err)
        }
        Some(b'-') => {
            let number = cursor.number()?;
            cursor.skip_blanks();
            match errno(cursor) {
                Some(errno) => Some(Err(errno)),
                None if number == u64::MAX => Some(Err(numbered_errno(cursor))),
                None => Some(Ok(number)),
            }
        }
        _ => Some(Ok(cursor.number()?)),
    };
    Ok(Outcome { result, took: took(cursor.rest()) })
}

/// The number of a new task: as strace sees it, where the caller sees another (`2 /* 1234 in strace's PID NS */`).
pub fn child(text: &[u8]) -> Option<u64> {
    let comment = memmem::find(text, b" /* ")?;
    let mut cursor = Cursor::new(&text[comment + 4..]);
    let number = cursor.digits()?;
    cursor.eat(b" in strace's PID NS").then_some(number)
}

/// The name of an error.
fn errno(cursor: &mut Cursor<'_>) -> Option<Errno> {
    let mut ahead = cursor.clone();
    let name = ahead.name();
    if !name.starts_with(b"E") {
        return None;
    }
    *cursor = ahead;
    Some(errno_of(name))
}

/// `-1 (errno 133)`
fn numbered_errno(cursor: &mut Cursor<'_>) -> Errno {
    let number = if cursor.eat(b"(errno ") { cursor.digits() } else { None };
    Errno::new(number.and_then(|number| i32::try_from(number).ok()).unwrap_or(0))
}

fn errno_of(name: &[u8]) -> Errno {
    match name {
        b"ENOMEM" => Errno::ENOMEM,
        b"EAGAIN" => Errno::EAGAIN,
        b"EINVAL" => Errno::EINVAL,
        b"ENOENT" => Errno::ENOENT,
        b"EWOULDBLOCK" => Errno::EWOULDBLOCK,
        _ => {
            const LAST: i32 = 530;
            let known = |number: &i32| Errno::new(*number).name().is_some_and(|known| known.as_bytes() == name);
            Errno::new((1..=LAST).find(known).unwrap_or(0))
        }
    }
}

/// The duration at the end of the line (`-T`), in nanoseconds.
#[inline]
pub fn took(rest: &[u8]) -> Option<u64> {
    if !rest.ends_with(b">") {
        return None;
    }
    let start = memchr::memrchr(b'<', rest)?;
    let mut cursor = Cursor::new(&rest[start + 1..]);
    let took = leader::duration(&mut cursor)?;
    (cursor.rest() == b">").then_some(took)
}

/// The strings of an execve's `argv`, from behind the opening bracket of the call; what strace cut short stays so.
pub fn command(name: Name, text: &[u8]) -> Option<Vec<String>> {
    let mut cursor = Cursor::new(text);
    let before = if name == Name::Execveat { 2 } else { 1 };
    for _ in 0..before {
        cursor.skip_argument();
        cursor.comma().ok()?;
    }
    cursor.expect(b"[", "").ok()?;
    let mut command = Vec::new();
    while cursor.eat(b"\"") {
        let start = cursor.rest();
        let before = cursor.at();
        cursor.skip_string();
        let length = cursor.at() - before;
        command.push(unescaped(start.get(..length.checked_sub(1)?)?));
        if cursor.eat(b"...")
            && let Some(last) = command.last_mut()
        {
            last.push('…');
        }
        if cursor.comma().is_err() {
            break;
        }
    }
    Some(command)
}

/// A string without strace's backslashes.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut cursor = Cursor::new(text);
    while let Some(byte) = cursor.peek() {
        cursor.skip(1);
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some(escaped) = cursor.peek() else { break };
        cursor.skip(1);
        bytes.push(match escaped {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'x' => coded(&mut cursor, 16, 2, 0),
            b'0'..=b'7' => coded(&mut cursor, 8, 2, escaped - b'0'),
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn coded(cursor: &mut Cursor<'_>, base: u8, most: usize, first: u8) -> u8 {
    let mut value = first;
    for _ in 0..most {
        let digit = cursor.peek().and_then(|byte| char::from(byte).to_digit(base.into()));
        let Some(digit) = digit else { break };
        value = value.wrapping_mul(base).wrapping_add(digit as u8);
        cursor.skip(1);
    }
    value
}
