//! Lines that tell nothing new: of a task that was shown already, a call that is not followed. Most lines are like that, so
//! they are known at a glance, by what lines before them had.

use crate::units::Tid;

/// So many tasks and names of calls are known at once.
const TASKS: usize = 64;
const NAMES: usize = 64;

/// What was seen before.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Tasks that were shown, each at its place.
    tasks: [Option<Tid>; TASKS],
    /// Names of calls that are not followed, with the bracket behind them.
    names: [Word; NAMES],
}

/// Up to 16 bytes of text, and zeroes behind them.
type Word = [u64; 2];

impl Default for Plain {
    fn default() -> Plain {
        Plain { tasks: [None; TASKS], names: [[0; 2]; NAMES] }
    }
}

impl Plain {
    /// Whether the task was shown, as far as is remembered.
    #[inline]
    pub fn was_shown(&self, tid: Tid) -> bool {
        self.tasks[place(tid)] == Some(tid)
    }

    /// The task has been shown.
    pub fn shown(&mut self, tid: Tid) {
        self.tasks[place(tid)] = Some(tid);
    }

    /// All tasks are to be shown again.
    pub fn show_again(&mut self) {
        self.tasks = [None; TASKS];
    }

    /// Whether a text begins with the name of a call and a bracket that were there before.
    #[inline]
    pub fn is_known(&self, text: &[u8]) -> bool {
        name(text).is_some_and(|(word, place)| self.names[place] == word)
    }

    /// A call that is not followed, and whose name is right, begins with this text.
    pub fn know(&mut self, text: &[u8]) {
        if let Some((word, place)) = name(text) {
            self.names[place] = word;
        }
    }
}

fn place(tid: Tid) -> usize {
    tid.0.cast_unsigned() as usize % TASKS
}

/// What stands before the first bracket of a text, with it, and its place in the table; none where that is not among the
/// first 16 bytes, or there are not so many.
#[inline]
fn name(text: &[u8]) -> Option<(Word, usize)> {
    let (first, rest) = text.split_first_chunk()?;
    let (second, _) = rest.split_first_chunk()?;
    let (first, second) = (u64::from_le_bytes(*first), u64::from_le_bytes(*second));
    let word = match (up_to_bracket(first), up_to_bracket(second)) {
        (0, 0) => return None,
        (0, mask) => [first, second & mask],
        (mask, _) => [first & mask, 0],
    };
    let mixed = (word[0] ^ word[1].rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some((word, (mixed >> 58) as usize % NAMES))
}

/// All bits of the bytes up to the first bracket; none where there is none.
#[inline]
fn up_to_bracket(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let brackets = word ^ (LOW * b'(' as u64);
    // The highest bit of the first byte that is zero, and perhaps of later ones.
    let zeroes = brackets.wrapping_sub(LOW) & !brackets & (LOW << 7);
    if zeroes == 0 { 0 } else { zeroes ^ zeroes.wrapping_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is the same whatever stands behind its bracket, and no other one.
    #[test]
    fn names() {
        let mut plain = Plain::default();
        for name in ["read(", "epoll_wait(", "futex(", "clock_nanosleep("] {
            let text = |behind: &str| format!("{name}{behind}").into_bytes();
            assert!(!plain.is_known(&text("7, (x), 0x7f0000)")), "{name}");
            plain.know(&text("7, (x), 0x7f0000)"));
            assert!(plain.is_known(&text("8, ((((((((((((((((")), "{name}");
            assert!(!plain.is_known(&text("8")) || name.len() == 16, "{name} of too few bytes");
        }
        for other in ["rea(7, 0x7f0000) = 8", "read\0(7, 0x7f0000) =", "read7, 0x7f0000) = 8", "readv(7, 0x7f0000) = 8"]
        {
            assert!(!plain.is_known(other.as_bytes()), "{other}");
        }
        assert!(!plain.is_known(b"a_name_that_is_longer_than_the_table_has("));
    }

    /// Tasks that share a place forget each other, and are shown once more.
    #[test]
    fn tasks() {
        let mut plain = Plain::default();
        assert!(!plain.was_shown(Tid(0)));
        plain.shown(Tid(0));
        plain.shown(Tid(7));
        assert!(plain.was_shown(Tid(0)) && plain.was_shown(Tid(7)));
        plain.shown(Tid(64));
        assert!(!plain.was_shown(Tid(0)) && plain.was_shown(Tid(64)));
        plain.show_again();
        assert!(!plain.was_shown(Tid(7)));
    }
}
