//! Durations and sizes: text with a unit, never a bare number.

use std::time::Duration;

use bytesize::ByteSize;
use chrono::TimeDelta;

/// Reads a size such as `8MiB` or `500kB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let complaint = || format!("must be a size with a unit such as \"8MiB\", not {text:?}");
    if !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(complaint());
    }
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| complaint())
}

/// Reads a size from `least` to `most`, both inclusive.
pub(super) fn bytes_within(text: &str, least: &str, most: &str) -> Result<u64, String> {
    let given = bytes(text)?;
    if (bytes(least)?..=bytes(most)?).contains(&given) {
        Ok(given)
    } else {
        Err(format!("must be from {least} to {most}, not {text}"))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let complaint = || format!("must be a duration with a unit such as \"10s\" or \"30d\", not {text:?}");
    if !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(complaint());
    }
    humantime::parse_duration(text).map_err(|_| complaint())
}

/// Reads a duration from `least` to `most`, both inclusive.
pub(super) fn timeout_within(text: &str, least: &str, most: &str) -> Result<Duration, String> {
    let given = duration(text)?;
    if (duration(least)?..=duration(most)?).contains(&given) {
        Ok(given)
    } else {
        Err(format!("must be from {least} to {most}, not {text}"))
    }
}

/// Reads an age of at most a hundred years of 365 days; `0s` is one.
pub(super) fn age(text: &str) -> Result<TimeDelta, String> {
    let given = TimeDelta::from_std(duration(text)?).ok();
    let within = given.filter(|age| *age <= TimeDelta::days(36_500));
    within.ok_or_else(|| format!("must be at most 36500d, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_a_number_with_a_unit() {
        assert_eq!(bytes("8MiB"), Ok(8 << 20));
        assert_eq!(bytes("500 kB"), Ok(500_000));
        assert_eq!(bytes("0B"), Ok(0));
        for text in ["8", "", "MiB", "-1MiB", "8 parsecs", "eight"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
        assert!(bytes_within("4MiB", "4MiB", "256MiB").is_ok());
        assert!(bytes_within("256MiB", "4MiB", "256MiB").is_ok());
        let refusal = bytes_within("3MiB", "4MiB", "256MiB").unwrap_err();
        assert_eq!(refusal, "must be from 4MiB to 256MiB, not 3MiB");
    }

    #[test]
    fn duration_is_numbers_with_units() {
        assert_eq!(timeout_within("1m 30s", "1s", "7d"), Ok(Duration::from_secs(90)));
        assert_eq!(age("30d"), Ok(TimeDelta::days(30)));
        assert_eq!(age("0s"), Ok(TimeDelta::zero()));
        for text in ["30", "", "d", "-1d", "thirty days", "101years"] {
            assert!(age(text).is_err(), "{text:?}");
        }
        assert!(timeout_within("8d", "1s", "7d").is_err());
    }
}
