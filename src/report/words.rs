//! Numbers for people: counts, sizes, durations.

use std::time::Duration;

/// Binary units, largest first.
const UNITS: [(u64, &str); 5] =
    [(1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

/// A number with its thousands set apart: `10,489,856`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many things: `1 thread`, `1,024 threads`. For nouns that take an s.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A size in bytes, rounded to a tenth of its unit: `150.1 MiB`, `10 MiB`, `512 bytes`.
pub fn size(bytes: u64) -> String {
    // From here on a tenth of the next smaller unit would be rounded up to 1024.
    let rounds_up_to = |unit: u64| unit - unit / 20480;
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= rounds_up_to(*unit)) else {
        return counted(bytes, "byte");
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}

/// A size in bytes, exactly, in the largest unit of which it is a multiple: `10 MiB`, `9,766 KiB`, `16,048 bytes`.
pub fn exact_size(bytes: u64) -> String {
    match UNITS.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", count(bytes / unit)),
        None => counted(bytes, "byte"),
    }
}

/// A duration, with as much detail as a reader can use: `120 ms`, `60.0 s`, `15 min 2 s`, `3 d 4 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = seconds.round() as u64;
    let parts = |large: u64, large_name, small: u64, small_name| match small {
        0 => format!("{large} {large_name}"),
        _ => format!("{large} {large_name} {small} {small_name}"),
    };
    match whole {
        _ if seconds < 0.000_999_5 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 0.999_5 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 99.95 => format!("{seconds:.1} s"),
        0..3600 => parts(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => parts(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => parts(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// A rate per day, hour, minute or second: the longest that is not far (200 times) beyond what was `observed`.
///
/// Fourteen minutes of a leak may be told per day, `+14.1 GiB a day`; a burst of a millisecond may not.
pub fn growth(bytes_per_second: f64, observed: Duration) -> String {
    let spans = [("a day", 86_400.0), ("an hour", 3600.0), ("a minute", 60.0)];
    let reach = observed.as_secs_f64() * 200.0;
    let (name, seconds) = spans.into_iter().find(|(_, seconds)| *seconds <= reach).unwrap_or(("a second", 1.0));
    format!("+{} {name}", size((bytes_per_second * seconds) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three digits at a time, and a plural where one is due.
    #[test]
    fn counts() {
        assert_eq!([0, 999, 1000, 10_489_856].map(count), ["0", "999", "1,000", "10,489,856"]);
        assert_eq!([0, 1, 2].map(|number| counted(number, "thread")), ["0 threads", "1 thread", "2 threads"]);
    }

    /// One decimal unless the size is whole, and never 1024.0 of a unit.
    #[test]
    fn sizes() {
        let sizes = [1, 1023, 4096, 10_485_760, 157_347_840, 306_231_427_072, (1 << 30) - 1, (1 << 20) - 60];
        let texts = sizes.map(size);
        assert_eq!(
            texts,
            ["1 byte", "1,023 bytes", "4 KiB", "10 MiB", "150.1 MiB", "285.2 GiB", "1.0 GiB", "1023.9 KiB"]
        );
    }

    /// What stands behind an equals sign must be exact.
    #[test]
    fn exact_sizes() {
        let texts = [0, 4096, 10_485_760, 10_000_384, 16_048].map(exact_size);
        assert_eq!(texts, ["0 bytes", "4 KiB", "10 MiB", "9,766 KiB", "16,048 bytes"]);
    }

    /// Detail shrinks as durations grow, and no unit shows as many as make the next.
    #[test]
    fn durations() {
        let texts = [0.000_012, 0.120, 0.999_6, 1.0, 60.0, 99.96, 902.1, 3599.7, 11_100.0, 273_600.0]
            .map(|seconds| duration(Duration::from_secs_f64(seconds)));
        assert_eq!(
            texts,
            ["12 µs", "120 ms", "1.0 s", "1.0 s", "60.0 s", "1 min 40 s", "15 min 2 s", "1 h", "3 h 5 min", "3 d 4 h"]
        );
    }

    /// What was seen for a millisecond is not extrapolated to a day.
    #[test]
    fn growths() {
        let texts = [840, 60, 2, 0].map(|seconds| growth(174_830.93, Duration::from_secs(seconds)));
        assert_eq!(texts, ["+14.1 GiB a day", "+600.2 MiB an hour", "+10.0 MiB a minute", "+170.7 KiB a second"]);
    }
}
