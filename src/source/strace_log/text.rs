//! A place in a line of text, and the few shapes that strace's lines are made of.

use memchr::memchr;
use memchr::memmem;

/// Where a line is not what was expected there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Bytes before the place.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
}

/// A place in a line, which moves on as it is read.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a line.
    pub fn new(text: &'a [u8]) -> Cursor<'a> {
        Cursor { text, at: 0 }
    }

    /// What is still to be read.
    pub fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Bytes before the place.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte.
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Moves on over so many bytes, at most to the end.
    pub fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.text.len());
    }

    /// Moves on over blanks.
    pub fn skip_blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Whether `what` stands here; moves on over it if so.
    pub fn eat(&mut self, what: &[u8]) -> bool {
        let is_here = self.rest().starts_with(what);
        if is_here {
            self.at += what.len();
        }
        is_here
    }

    /// Moves on behind the next `what`, and gives what stands before it; none where there is none.
    pub fn until(&mut self, what: &[u8]) -> Option<&'a [u8]> {
        let rest = self.rest();
        let length = match what {
            [one] => memchr(*one, rest)?,
            _ => memmem::find(rest, what)?,
        };
        self.at += length + what.len();
        Some(&rest[..length])
    }

    /// The damage that `expected` is not here.
    pub fn damage(&self, expected: &'static str) -> Damage {
        Damage { at: self.at, expected }
    }

    /// Moves on over `what`.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn expect(&mut self, what: &[u8], expected: &'static str) -> Result<(), Damage> {
        if self.eat(what) { Ok(()) } else { Err(self.damage(expected)) }
    }

    /// Decimal digits as a number, which saturates; none where there is no digit.
    pub fn digits(&mut self) -> Option<u64> {
        let start = self.at;
        let mut number: u64 = 0;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at > start).then_some(number)
    }

    /// A number as strace writes it: `NULL`, `0x7f00`, `42`, `-1`, `010` in octal, and a comment behind it where there is one.
    /// Negative ones are two's complement.
    ///
    /// # Errors
    /// No number stands here, or one of more than 64 bits.
    pub fn number(&mut self) -> Result<u64, Damage> {
        let number = match self.peek() {
            Some(b'N') if self.eat(b"NULL") => 0,
            Some(b'0') if self.eat(b"0x") => self.hex()?,
            Some(b'0') => self.octal()?,
            Some(b'-') => {
                self.at += 1;
                let number = self.digits().ok_or(self.damage("a number"))?;
                number.wrapping_neg()
            }
            _ => self.digits().ok_or(self.damage("a number"))?,
        };
        self.skip_comment();
        Ok(number)
    }

    /// Hexadecimal digits, without the prefix.
    fn hex(&mut self) -> Result<u64, Damage> {
        let start = self.at;
        let mut number: u64 = 0;
        while let Some(byte) = self.peek() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => break,
            };
            number = number << 4 | u64::from(digit);
            self.at += 1;
        }
        let digits = self.at - start;
        if digits == 0 || digits > 16 { Err(Damage { at: start, expected: "a number" }) } else { Ok(number) }
    }

    fn octal(&mut self) -> Result<u64, Damage> {
        let start = self.at;
        let mut number: u64 = 0;
        while let Some(digit @ b'0'..=b'7') = self.peek() {
            number = number << 3 | u64::from(digit - b'0');
            self.at += 1;
        }
        if self.at - start > 22 { Err(Damage { at: start, expected: "a number" }) } else { Ok(number) }
    }

    /// Moves on over ` /* MAP_??? */`.
    pub fn skip_comment(&mut self) {
        if self.rest().starts_with(b" /*") {
            let before = self.at;
            if self.until(b"*/").is_none() {
                self.at = before;
            }
        }
    }

    /// A name: letters, digits and underscores; empty where none is here.
    pub fn name(&mut self) -> &'a [u8] {
        const IN_NAMES: [bool; 256] = {
            let mut table = [false; 256];
            let mut byte = 0;
            while byte < table.len() {
                table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
                byte += 1;
            }
            table
        };
        let rest = self.rest();
        let length = rest.iter().position(|byte| !IN_NAMES[usize::from(*byte)]).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Moves on over `, `.
    ///
    /// # Errors
    /// No further argument stands here.
    pub fn comma(&mut self) -> Result<(), Damage> {
        self.expect(b",", "a comma and another argument")?;
        self.skip_blanks();
        Ok(())
    }

    /// Moves on over one argument of any kind, up to the `,` or the closing bracket behind it.
    pub fn skip_argument(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.at += 1;
                    self.skip_string();
                    continue;
                }
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' if depth == 0 => return,
                b')' | b']' | b'}' => depth -= 1,
                b',' if depth == 0 => return,
                b' ' if self.rest().starts_with(b" /*") => {
                    let before = self.at;
                    self.skip_comment();
                    if self.at > before {
                        continue;
                    }
                }
                b' ' if depth == 0 && self.rest().starts_with(b" =>") => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Moves on behind the end of a string, whose opening quote has been read.
    pub fn skip_string(&mut self) {
        while let Some(byte) = self.peek() {
            self.skip(if byte == b'\\' { 2 } else { 1 });
            if byte == b'"' {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All notations of one number, and none for what is no number.
    #[test]
    fn numbers() {
        let number = |text: &str| Cursor::new(text.as_bytes()).number().ok();
        assert_eq!(number("NULL, 1"), Some(0));
        assert_eq!(number("0x7f001000"), Some(0x7f00_1000));
        assert_eq!(number("10489856,"), Some(10_489_856));
        assert_eq!(number("-1"), Some(u64::MAX));
        assert_eq!(number("010"), Some(8));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("0xffffffffffffffff"), Some(u64::MAX));
        assert_eq!(number("0x1ffffffffffffffff"), None);
        assert_eq!(["", "x", "0x", "-", "[1]"].map(number), [None; 5]);
        let mut cursor = Cursor::new(b"0x66 /* MADV_??? */) = 0");
        assert_eq!(cursor.number(), Ok(0x66));
        assert_eq!(cursor.rest(), b") = 0");
    }

    /// Commas and brackets within an argument do not end it.
    #[test]
    fn arguments_of_any_kind() {
        let rest = |text: &'static str| {
            let mut cursor = Cursor::new(text.as_bytes());
            cursor.skip_argument();
            std::str::from_utf8(cursor.rest()).unwrap()
        };
        assert_eq!(rest(r#""a, \"b)", 3"#), ", 3");
        assert_eq!(rest("[\"x\", \"y\"], 0x1 /* 2, vars */)"), ", 0x1 /* 2, vars */)");
        assert_eq!(rest("0x1 /* 2, vars */) = 0"), ") = 0");
        assert_eq!(rest("{a=[1, {b}]} => {c}"), " => {c}");
        assert_eq!(rest(r#""unclosed, "#), "");
    }
}
