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
///
/// Millions of lines are read with it, so what it does for each byte is done by the compiler in the reader of the line: small
/// functions are inlined, and what stands here is looked at by its first byte first.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Bytes of the whole line.
    length: usize,
}

/// The value of each byte as a hexadecimal digit, or more than 15.
const DIGITS: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            digit @ b'A'..=b'F' => digit - b'A' + 10,
            _ => 0xff,
        };
        byte += 1;
    }
    table
};

impl<'a> Cursor<'a> {
    /// The beginning of a line.
    #[inline]
    pub fn new(text: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: text, length: text.len() }
    }

    /// What is still to be read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes before the place.
    #[inline]
    pub fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    /// The next byte.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Moves on over so many bytes, at most to the end.
    #[inline]
    pub fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Moves on over blanks.
    #[inline]
    pub fn skip_blanks(&mut self) {
        while let [b' ', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Whether `what` stands here; moves on over it if so.
    #[inline]
    pub fn eat(&mut self, what: &[u8]) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Moves on behind the next `what`, and gives what stands before it; none where there is none.
    pub fn until(&mut self, what: &[u8]) -> Option<&'a [u8]> {
        let rest = self.rest;
        let length = match what {
            [one] => memchr(*one, rest)?,
            _ => memmem::find(rest, what)?,
        };
        self.skip(length + what.len());
        Some(&rest[..length])
    }

    /// The damage that `expected` is not here.
    #[inline]
    pub fn damage(&self, expected: &'static str) -> Damage {
        Damage { at: self.at(), expected }
    }

    /// Moves on over `what`.
    ///
    /// # Errors
    /// Something else stands here.
    #[inline]
    pub fn expect(&mut self, what: &[u8], expected: &'static str) -> Result<(), Damage> {
        if self.eat(what) { Ok(()) } else { Err(self.damage(expected)) }
    }

    /// Decimal digits as a number, which saturates; none where there is no digit.
    #[inline]
    pub fn digits(&mut self) -> Option<u64> {
        /// So many digits are less than 2^64.
        const FIT: usize = 19;
        let start = self.rest;
        let mut number: u64 = 0;
        while let [digit @ b'0'..=b'9', rest @ ..] = self.rest {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.rest = rest;
        }
        match start.len() - self.rest.len() {
            0 => None,
            1..=FIT => Some(number),
            length => Some(saturated(&start[..length])),
        }
    }

    /// A number as strace writes it: `NULL`, `0x7f00`, `42`, `-1`, `010` in octal, and a comment behind it where there is one.
    /// Negative ones are two's complement.
    ///
    /// # Errors
    /// No number stands here, or one of more than 64 bits.
    #[inline]
    pub fn number(&mut self) -> Result<u64, Damage> {
        let number = match self.rest {
            [b'0', b'x', rest @ ..] => {
                self.rest = rest;
                self.hex()?
            }
            [b'1'..=b'9', ..] => self.digits().unwrap_or_default(),
            _ => self.unusual_number()?,
        };
        self.skip_comment();
        Ok(number)
    }

    fn unusual_number(&mut self) -> Result<u64, Damage> {
        match self.rest {
            [b'N', b'U', b'L', b'L', rest @ ..] => {
                self.rest = rest;
                Ok(0)
            }
            [b'0', ..] => self.octal(),
            [b'-', rest @ ..] => {
                self.rest = rest;
                let number = self.digits().ok_or(self.damage("a number"))?;
                Ok(number.wrapping_neg())
            }
            _ => Err(self.damage("a number")),
        }
    }

    /// Hexadecimal digits, without the prefix.
    #[inline]
    fn hex(&mut self) -> Result<u64, Damage> {
        let start = self.at();
        let mut number: u64 = 0;
        while let [byte, rest @ ..] = self.rest {
            let digit = DIGITS[usize::from(*byte)];
            if digit > 0xf {
                break;
            }
            number = number << 4 | u64::from(digit);
            self.rest = rest;
        }
        let digits = self.at() - start;
        if digits == 0 || digits > 16 { Err(Damage { at: start, expected: "a number" }) } else { Ok(number) }
    }

    fn octal(&mut self) -> Result<u64, Damage> {
        let start = self.at();
        let mut number: u64 = 0;
        while let [digit @ b'0'..=b'7', rest @ ..] = self.rest {
            number = number << 3 | u64::from(digit - b'0');
            self.rest = rest;
        }
        if self.at() - start > 22 { Err(Damage { at: start, expected: "a number" }) } else { Ok(number) }
    }

    /// Moves on over ` /* MAP_??? */`.
    #[inline]
    pub fn skip_comment(&mut self) {
        if let [b' ', b'/', b'*', ..] = self.rest {
            self.until(b"*/");
        }
    }

    /// A name: letters, digits and underscores; empty where none is here.
    #[inline]
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
        let length = self.rest.iter().position(|byte| !IN_NAMES[usize::from(*byte)]).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name
    }

    /// Moves on over `, `.
    ///
    /// # Errors
    /// No further argument stands here.
    #[inline]
    pub fn comma(&mut self) -> Result<(), Damage> {
        self.expect(b",", "a comma and another argument")?;
        self.skip_blanks();
        Ok(())
    }

    /// Moves on over one argument of any kind, up to the `,` or the closing bracket behind it.
    pub fn skip_argument(&mut self) {
        let mut depth = 0_usize;
        // Where one comment is not closed no later one is: it is not looked for again.
        let mut comments = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip(1);
                    self.skip_string();
                    continue;
                }
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' if depth == 0 => return,
                b')' | b']' | b'}' => depth -= 1,
                b',' if depth == 0 => return,
                b' ' if comments && self.rest.starts_with(b" /*") => {
                    comments = self.until(b"*/").is_some();
                    if comments {
                        continue;
                    }
                }
                b' ' if depth == 0 && self.rest.starts_with(b" =>") => return,
                _ => {}
            }
            self.skip(1);
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

/// Too many digits for 64 bits, unless they begin with zeroes.
#[cold]
fn saturated(digits: &[u8]) -> u64 {
    let add = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    digits.iter().fold(0, add)
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
        assert_eq!(number("9999999999999999999"), Some(9_999_999_999_999_999_999));
        assert_eq!(["18446744073709551615", "18446744073709551616"].map(number), [Some(u64::MAX); 2]);
        assert_eq!(Cursor::new(b"00000000000000000000042").digits(), Some(42));
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

    /// Comments that are not closed are looked for once. (With one search for each, this would take hours.)
    #[test]
    fn comments_without_an_end() {
        let text = " /*".repeat(4 << 20);
        let mut cursor = Cursor::new(text.as_bytes());
        cursor.skip_argument();
        assert!(cursor.rest().is_empty());
        let mut cursor = Cursor::new(b"{1 /* , */, 2} /* ), */ /*, 3");
        cursor.skip_argument();
        assert_eq!(cursor.rest(), b", 3");
    }
}
