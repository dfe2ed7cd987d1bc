//! Text that fits: what a terminal may be sent, how wide it is there, and where its lines break.

/// Columns that a text report keeps to.
pub const COLUMNS: usize = 100;

/// Text from elsewhere (command lines, names, symbols) made safe for a terminal.
///
/// Control characters become `\x1b`, invisible and direction-changing ones `\u{202e}`; nothing is longer than
/// `columns`.
pub fn printable(text: &str, columns: usize) -> String {
    let mut safe = String::with_capacity(text.len());
    // What is beyond is cut off anyway, and a hostile name may be long.
    for character in text.chars().take(columns + 1) {
        match character {
            '\t' | '\n' => safe.push(' '),
            control if control.is_control() => safe.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => {
                let escaped = other.escape_debug();
                if escaped.len() > 2 { safe.extend(escaped) } else { safe.push(other) }
            }
        }
    }
    elide(&safe, columns)
}

/// The text, or as much of it as fits into `columns` with an ellipsis at its end.
pub fn elide(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short = prefix(text, columns.saturating_sub(1)).trim_end().to_owned();
    short.push('…');
    short
}

/// Words that no line break may separate, such as a number and its unit: [`wrap`] gives the blanks back.
pub fn glue(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// Columns that the text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

/// Breaks text into lines of at most `columns`, at blanks where there are any.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let lines = break_lines(text, columns, |head| head.rfind(' ').map(|blank| blank + 1));
    lines.into_iter().map(|line| line.replace('\u{a0}', " ")).collect()
}

/// Breaks a system call into lines of at most `columns`: behind an argument, or a flag where that is too long.
pub fn wrap_call(text: &str, columns: usize) -> Vec<String> {
    break_lines(text, columns, |head| {
        head.rfind(", ").map(|comma| comma + 2).or_else(|| head.rfind('|').map(|bar| bar + 1))
    })
}

/// Breaks lines where `place` says, given what fits (and the blank behind it); where it says nothing, anywhere.
fn break_lines(text: &str, columns: usize, place: fn(&str) -> Option<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    while width(rest) > columns {
        let fitting = prefix(rest, columns).len().max(rest.chars().next().map_or(1, char::len_utf8));
        let blank = usize::from(rest[fitting..].starts_with(' '));
        let (line, after) = rest.split_at(place(&rest[..fitting + blank]).unwrap_or(fitting));
        lines.push(line.trim_end().to_owned());
        rest = after.trim_start();
    }
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// The longest beginning that fits into `columns`.
fn prefix(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += character_width(*character);
        used > columns
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// Two for East Asian wide characters and pictures, one for the rest: combining ones are escaped before.
fn character_width(character: char) -> usize {
    match u32::from(character) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x2_0000..=0x3_fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread name must not be able to write to the terminal, nor to reverse what stands behind it.
    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(printable("a\x1b[31mb\x07\u{9b}c", 100), r"a\x1b[31mb\x07\x9bc");
        assert_eq!(printable("safe\u{202e}gpj.exe\u{200b}", 100), r"safe\u{202e}gpj.exe\u{200b}");
        assert_eq!(printable("two\nlines\tof", 100), "two lines of");
        assert_eq!(printable(r#"it's "quoted" \ plain: ünï 漢"#, 100), r#"it's "quoted" \ plain: ünï 漢"#);
    }

    /// Lengths are bounded in columns, also where characters take two.
    #[test]
    fn long_text_ends_in_an_ellipsis() {
        assert_eq!(printable(&"x".repeat(1_000_000), 8), "xxxxxxx…");
        assert_eq!(printable("漢字漢字漢字", 8), "漢字漢…");
        assert_eq!(elide("12345678", 8), "12345678");
    }

    /// Words stay whole where they can.
    #[test]
    fn lines_break_at_blanks() {
        assert_eq!(wrap("never joined: its task is gone", 13), ["never joined:", "its task is", "gone"]);
        assert_eq!(wrap("0123456789 ab", 4), ["0123", "4567", "89", "ab"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap(&format!("for {}", glue("2 min 1 s")), 11), ["for", "2 min 1 s"]);
    }

    /// A call breaks behind an argument.
    #[test]
    fn calls_break_behind_arguments() {
        assert_eq!(
            wrap_call("mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE, -1, 0) = 0x7f68", 40),
            ["mmap(NULL, 4096, PROT_READ|PROT_WRITE,", "MAP_PRIVATE, -1, 0) = 0x7f68"]
        );
        assert_eq!(wrap_call("f(AAAA|BBBB|CCCC) = 0", 10), ["f(AAAA|", "BBBB|", "CCCC) = 0"]);
    }
}
