//! Durations as people write them: `500ms`, `30s`, `2m`, `1h`.

use std::time::Duration;

/// Reads a duration: a whole or decimal number and a unit.
///
/// # Errors
/// A line that says how durations are written.
pub fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("'{text}' is no duration: write 500ms, 30s, 2m or 1h");
    let digits = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(error)?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(error()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(error());
    }
    let number: f64 = number.parse().map_err(|_| error())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| error())?;
    if duration.is_zero() { Err(format!("'{text}' is no time at all: give a duration above 0")) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let parsed = ["500ms", "30s", "2m", "1h", "1.5s"].map(|text| parse(text).unwrap().as_millis());
        assert_eq!(parsed, [500, 30_000, 120_000, 3_600_000, 1_500]);
    }

    /// What is no duration says how to write one.
    #[test]
    fn nonsense() {
        for text in ["", "s", "30", "-1s", "1d", "1e9s", "0s", "inf s", "1.2.3s"] {
            assert!(parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
