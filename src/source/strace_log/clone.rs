//! The arguments of clone(2) and clone3(2), of which each version of strace has its own notation.
//!
//! | | |
//! |---|---|
//! | 4.x | `clone(child_stack=0x…, flags=…, parent_tidptr=0x…, tls=0x…, child_tidptr=0x…)`, all of it when the call returns |
//! | 5.x, 6.x | `clone(child_stack=0x…, flags=…, parent_tid=[…], tls=0x…, child_tidptr=0x…)` |
//! | 5.x, 6.x | `clone3({flags=…, child_tid=0x…, parent_tid=0x…, exit_signal=0, stack=0x…, stack_size=0x…, tls=0x…} => {parent_tid=[…]}, 88)` |
//! | i386 | `tls={entry_number=12, base_addr=0x…, …}` |
//! | raw | `clone(0x3d0f00, 0x…, 0x…, 0x…, 0x…)`, and of clone3 the address of its arguments |

use memchr::memchr;

use super::text::{Cursor, Damage};
use super::words;
use crate::event::{CloneArgs, CloneCall};
use crate::units::Addr;

/// The lowest byte of clone's flags is the signal to the parent (CSIGNAL in linux/sched.h).
const SIGNAL: u64 = 0xff;

/// The arguments of clone, up to the closing bracket.
///
/// # Errors
/// They are written in no known way.
pub fn clone(cursor: &mut Cursor<'_>) -> Result<CloneArgs, Damage> {
    let mut args = CloneArgs::bare(CloneCall::Clone, 0);
    cursor.skip_blanks();
    if cursor.peek().is_some_and(|byte| byte.is_ascii_digit() || byte == b'N') {
        raw(cursor, &mut args)?;
    } else {
        fields(cursor, &mut args)?;
    }
    args.exit_signal = (args.flags & SIGNAL) as u32;
    args.flags &= !SIGNAL;
    Ok(args)
}

/// The arguments of clone3, up to the closing bracket; none where strace shows but their address.
///
/// # Errors
/// They are written in no known way.
pub fn clone3(cursor: &mut Cursor<'_>) -> Result<Option<CloneArgs>, Damage> {
    let mut args = CloneArgs::bare(CloneCall::Clone3, 0);
    cursor.skip_blanks();
    if !cursor.eat(b"{") {
        cursor.number()?;
        cursor.skip_argument();
        return rest_of_clone3(cursor).map(|()| None);
    }
    fields(cursor, &mut args)?;
    cursor.expect(b"}", "} behind the arguments")?;
    rest_of_clone3(cursor)?;
    Ok(Some(args))
}

/// What the kernel has stored, and the size of the arguments.
fn rest_of_clone3(cursor: &mut Cursor<'_>) -> Result<(), Damage> {
    if cursor.eat(b" => ") {
        cursor.skip_argument();
    }
    while cursor.peek() == Some(b',') {
        cursor.comma()?;
        cursor.skip_argument();
    }
    Ok(())
}

/// The arguments in the order of the registers on x86-64.
fn raw(cursor: &mut Cursor<'_>, args: &mut CloneArgs) -> Result<(), Damage> {
    args.flags = cursor.number()?;
    for argument in [&mut args.stack, &mut args.parent_tid, &mut args.child_tid, &mut args.tls] {
        if cursor.peek() != Some(b',') {
            break;
        }
        cursor.comma()?;
        *argument = Addr(cursor.number()?);
    }
    Ok(())
}

/// `name=value` for each argument.
fn fields(cursor: &mut Cursor<'_>, args: &mut CloneArgs) -> Result<(), Damage> {
    loop {
        match cursor.peek() {
            // `{flags=…, ...}`
            Some(b'.') => cursor.skip_argument(),
            Some(b'a'..=b'z') => field(cursor, args)?,
            _ => return Ok(()),
        }
        if cursor.peek() != Some(b',') {
            return Ok(());
        }
        cursor.comma()?;
    }
}

fn field(cursor: &mut Cursor<'_>, args: &mut CloneArgs) -> Result<(), Damage> {
    let name = cursor.name();
    cursor.expect(b"=", "= and the argument")?;
    match name {
        b"flags" => args.flags = words::clone(cursor)?,
        b"child_stack" | b"stack" => args.stack = address(cursor)?,
        b"stack_size" => args.stack_size = cursor.number()?,
        b"exit_signal" => args.exit_signal = exit_signal(cursor)?,
        b"tls" | b"newtls" => args.tls = thread_local_storage(cursor)?,
        b"parent_tid" | b"parent_tidptr" => args.parent_tid = address(cursor)?,
        b"child_tid" | b"child_tidptr" => args.child_tid = address(cursor)?,
        _ => {}
    }
    cursor.skip_argument();
    Ok(())
}

/// An address; 0 where strace shows what lies there instead: `[1234]`.
fn address(cursor: &mut Cursor<'_>) -> Result<Addr, Damage> {
    if cursor.peek() == Some(b'[') { Ok(Addr(0)) } else { cursor.number().map(Addr) }
}

fn exit_signal(cursor: &mut Cursor<'_>) -> Result<u32, Damage> {
    if cursor.peek().is_some_and(|byte| byte.is_ascii_uppercase()) {
        return Ok(words::signal(cursor.name()).unwrap_or(0) as u32);
    }
    cursor.number().map(|number| number as u32)
}

/// i386 passes a descriptor (set_thread_area(2)), of which the base is what matters.
fn thread_local_storage(cursor: &mut Cursor<'_>) -> Result<Addr, Damage> {
    if cursor.peek() != Some(b'{') {
        return cursor.number().map(Addr);
    }
    // No further than the closing bracket: there may be any number of them.
    let rest = cursor.rest();
    let mut inside = Cursor::new(&rest[..memchr(b'}', rest).unwrap_or(rest.len())]);
    if inside.until(b"base_addr=").is_none() {
        return Ok(Addr(0));
    }
    inside.number().map(Addr).map_err(|damage| Damage { at: cursor.at() + damage.at, ..damage })
}
