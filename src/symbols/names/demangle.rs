//! Names as the source has them, from names as the linker has them. They come from files of the target's choice.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longer names are cut, in bytes.
pub const MOST: usize = 4 << 10;

/// C++ names nest at most so deep; cpp_demangle recurses at every level.
const DEEPEST: u32 = 96;

/// The name to show for a symbol. What no language has mangled stays as it is, a C function `h` too, which the C++ ABI
/// reads as the type `unsigned char`.
pub fn demangle(symbol: &str) -> String {
    let mut name = Bounded::default();
    let whole = symbol.len() <= MOST && (rust(symbol, &mut name) || cpp(symbol, &mut name));
    if whole { name.0 } else { cut(symbol).to_owned() }
}

/// Whether it looks like a name of C++ or Rust as the linker has it.
pub fn is_mangled(symbol: &str) -> bool {
    ["_Z", "__Z", "_R"].iter().any(|start| symbol.starts_with(start))
}

/// The beginning of a text, at most [`MOST`] bytes.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST)]
}

/// Rust's names begin with `_R`, or end, as C++'s, with a hash for a last part: `17h<16 digits>E`.
fn rust(symbol: &str, name: &mut Bounded) -> bool {
    let rust = symbol.starts_with("_R") || (symbol.starts_with("_ZN") && has_hash(symbol));
    let Some(demangled) = rust.then(|| rustc_demangle::try_demangle(symbol).ok()).flatten() else { return false };
    name.write(|out| write!(out, "{demangled:#}"))
}

fn has_hash(symbol: &str) -> bool {
    symbol.match_indices("17h").any(|(at, _)| {
        let hash = symbol.as_bytes().get(at + 3..at + 20);
        hash.is_some_and(|hash| hash[16] == b'E' && hash[..16].iter().all(u8::is_ascii_hexdigit))
    })
}

fn cpp(symbol: &str, name: &mut Bounded) -> bool {
    if !symbol.starts_with("_Z") && !symbol.starts_with("__Z") {
        return false;
    }
    let parsing = ParseOptions::default().recursion_limit(DEEPEST);
    let Ok(parsed) = Symbol::new_with_options(symbol, &parsing) else { return false };
    let options = DemangleOptions::default().recursion_limit(DEEPEST);
    name.write(|out| parsed.structured_demangle(&mut Plain(out), &options))
}

/// Text of at most [`MOST`] bytes: a name of a hundred bytes can stand for one of gigabytes, by references to itself.
#[derive(Default)]
struct Bounded(String);

impl Bounded {
    /// Whether `write` succeeded, or was stopped by the bound.
    fn write(&mut self, write: impl FnOnce(&mut Bounded) -> fmt::Result) -> bool {
        self.0.clear();
        write(self).is_ok() || self.0.len() == MOST
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MOST - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        // Fills up what a character of several bytes has left, so that the length tells that the bound was met.
        while self.0.len() < MOST {
            self.0.push('.');
        }
        Err(fmt::Error)
    }
}

/// Writes a demangled name without its structure.
struct Plain<'a>(&'a mut Bounded);

impl cpp_demangle::DemangleWrite for Plain<'_> {
    fn write_string(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C names are not touched, also those that the C++ ABI reads as types or that look like the start of a mangled one.
    #[test]
    fn c_names_stay() {
        for name in ["h", "i", "main", "_Read", "_R", "_Z", "__Z", "_ZN", "f.part.0", "", "Ri", "_ZZZZZ"] {
            assert_eq!(demangle(name), name);
        }
    }

    /// Both of Rust's manglings lose their hash, and C++ is read.
    #[test]
    fn mangled_names_are_read() {
        assert_eq!(demangle("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"), "core::fmt::Formatter::pad");
        assert_eq!(demangle("_ZN3foo3bar17h05af221e174051e9E.llvm.123"), "foo::bar");
        assert_eq!(demangle("_RNvNtCs1234_7mycrate3foo3bar"), "mycrate::foo::bar");
        assert_eq!(demangle("_ZN3foo3barEv"), "foo::bar()");
        assert_eq!(demangle("_Z1hi"), "h(int)");
        assert_eq!(demangle("_Z4jobsv.cold"), "jobs() [clone .cold]");
    }

    /// Names that grow or nest without end are stopped.
    #[test]
    fn hostile_names_are_bounded() {
        let long = "x".repeat(100_000);
        assert_eq!(demangle(&long).len(), MOST);
        assert_eq!(demangle(&format!("_Z{long}")).len(), MOST);
        for nested in [format!("_Z1f{}i", "P".repeat(4000)), format!("_Z{}", "N".repeat(4000))] {
            assert!(demangle(&nested).len() <= MOST);
        }
        // Each level doubles what it stands for.
        let mut doubling = "_Z1f1aIiiE".to_owned();
        for reference in "_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".chars().take(30) {
            let reference = if reference == '_' { "S_".to_owned() } else { format!("S{reference}_") };
            doubling.push_str(&format!("1aI{reference}{reference}E"));
        }
        assert!(demangle(&doubling).len() <= MOST);
        // What nests deeper than it is followed stays as the linker has it.
        for (deep, read) in [(DEEPEST as usize / 4, true), (DEEPEST as usize + 4, false)] {
            let pointers = format!("_Z1f{}i", "P".repeat(deep));
            let expected = if read { format!("f(int{})", "*".repeat(deep)) } else { pointers.clone() };
            assert_eq!(demangle(&pointers), expected);
        }
        assert_eq!(demangle("é".repeat(5000).as_str()).len(), MOST);
        assert!(demangle(&format!("_RNvC{}", "B_".repeat(2000))).len() <= MOST);
    }
}
