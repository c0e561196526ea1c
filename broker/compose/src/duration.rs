//! Durations in compose's notation: `1m30s`, `500ms`, `1.5h`.

use std::time::Duration;

/// Longest accepted duration.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Units, longest first, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("w", 7 * 24 * 3600 * 1_000_000_000),
    ("d", 24 * 3600 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("µs", 1000),
];

/// Why text is not taken as a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum DurationError {
    /// The text is malformed.
    #[error("'{0}' is no duration: write numbers with units, such as 1m30s, 10s or 500ms")]
    Malformed(String),
    /// A number without a unit.
    #[error("'{0}' has no unit: write {0}s for seconds or {0}ms for milliseconds")]
    NoUnit(String),
    /// The duration is negative.
    #[error("'{0}' is negative: a duration is 0s or more")]
    Negative(String),
    /// The duration is outside the range of its key.
    #[error("'{text}' is too {what}: the {bound} here is {limit}")]
    Range {
        text: String,
        /// `long` or `short`.
        what: &'static str,
        /// `longest` or `shortest`.
        bound: &'static str,
        limit: String,
    },
}

/// The duration that `text` says.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if let Some(rest) = text.strip_prefix('-') {
        let is_number = rest.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        return Err(if is_number {
            DurationError::Negative(text.to_owned())
        } else {
            malformed()
        });
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() && number == text && number.parse::<f64>().is_ok() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        nanoseconds = nanoseconds.saturating_add(scaled(number, *scale).ok_or_else(malformed)?);
        rest = after;
    }
    let longest = LONGEST.as_nanos();
    if nanoseconds > longest {
        return Err(too_long(text, LONGEST));
    }
    Ok(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
}

/// The duration that `text` says, within `shortest..=longest`.
///
/// # Errors
/// [`DurationError`]: the text is no duration, or is outside these bounds.
pub fn parse_within(text: &str, shortest: Duration, longest: Duration) -> Result<Duration, DurationError> {
    let duration = match parse(text) {
        Ok(duration) if duration <= longest => duration,
        // The limit of this key, not that of any duration.
        Ok(_) | Err(DurationError::Range { .. }) => return Err(too_long(text.trim(), longest)),
        Err(error) => return Err(error),
    };
    if duration < shortest {
        return Err(DurationError::Range {
            text: text.to_owned(),
            what: "short",
            bound: "shortest",
            limit: format(shortest),
        });
    }
    Ok(duration)
}

fn too_long(text: &str, longest: Duration) -> DurationError {
    DurationError::Range {
        text: text.to_owned(),
        what: "long",
        bound: "longest",
        limit: format(longest),
    }
}

/// `number` (digits with at most one point) times `scale`, without rounding errors above a
/// nanosecond.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| -> Option<u128> { if text.is_empty() { Some(0) } else { text.parse().ok() } };
    let fraction = &fraction[..fraction.len().min(18)];
    let parts = digits(fraction)?.checked_mul(u128::from(scale))? / 10u128.pow(fraction.len() as u32);
    digits(whole)?.checked_mul(u128::from(scale))?.checked_add(parts)
}

/// A duration in the notation of [`parse`], without loss.
pub(super) fn format(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (unit, scale) in &UNITS[1..7] {
        let count = left / u128::from(*scale);
        if count > 0 {
            text += &format!("{count}{unit}");
            left %= u128::from(*scale);
        }
    }
    if left > 0 {
        // Nanoseconds have no unit here, but are written as a fraction of a microsecond.
        text += &format!("0.{left:03}us");
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A duration as docker compose shows it: seconds with a fraction, no units of zero.
pub(super) fn shortest(duration: Duration) -> String {
    let mut text = String::new();
    let mut seconds = duration.as_secs();
    for (unit, scale) in [("w", 7 * 24 * 3600), ("d", 24 * 3600), ("h", 3600), ("m", 60)] {
        let count = seconds / scale;
        if count > 0 {
            text += &format!("{count}{unit}");
            seconds %= scale;
        }
    }
    let rest = Duration::new(seconds, duration.subsec_nanos());
    if rest.is_zero() && !text.is_empty() {
        return text;
    }
    let nanoseconds = rest.as_nanos() as f64;
    let (unit, scale) = match rest.as_nanos() {
        _ if !text.is_empty() => ("s", 1e9),
        0 | 1_000_000_000.. => ("s", 1e9),
        1_000_000.. => ("ms", 1e6),
        _ => ("us", 1e3),
    };
    text + &format!("{}{unit}", nanoseconds / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compose_durations() {
        for (text, milliseconds) in [
            ("1m30s", 90_000),
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1h5m30s20ms", 3_930_020),
            ("1d", 86_400_000),
            ("0", 0),
            ("0s", 0),
            ("1500us", 1),
        ] {
            assert_eq!(parse(text).map(|d| d.as_millis()), Ok(milliseconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_named() {
        use DurationError::*;
        assert!(matches!(parse("10"), Err(NoUnit(_))));
        assert!(matches!(parse("-5s"), Err(Negative(_))));
        for bad in ["", "s", "5 s", "1x", "1.2.3s", "5s3", "soon", "-", "-x", ".s", "1m30"] {
            assert!(matches!(parse(bad), Err(Malformed(_))), "{bad:?}: {:?}", parse(bad));
        }
        assert!(matches!(
            parse("9999999999999999999999999999999999999999h"),
            Err(Malformed(_))
        ));
        assert!(matches!(parse("100000h"), Err(Range { .. })));
        let error = parse_within("1ms", Duration::from_secs(1), Duration::from_secs(90)).unwrap_err();
        assert_eq!(error.to_string(), "'1ms' is too short: the shortest here is 1s");
        let error = parse_within("1h", Duration::from_secs(1), Duration::from_secs(90)).unwrap_err();
        assert_eq!(error.to_string(), "'1h' is too long: the longest here is 1m30s");
        let error = parse_within("100000h", Duration::from_secs(1), Duration::from_secs(90)).unwrap_err();
        assert_eq!(error.to_string(), "'100000h' is too long: the longest here is 1m30s");
    }

    #[test]
    fn durations_are_shown_as_docker_compose_does() {
        for text in [
            "0s", "10s", "1m30s", "1.5s", "500ms", "1.5ms", "1h", "1d12h", "1w", "1m0.5s", "20us",
        ] {
            assert_eq!(shortest(parse(text).unwrap()), text);
        }
        assert_eq!(shortest(parse("90s").unwrap()), "1m30s");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanoseconds in 0..31_622_400_000_000_000u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
            prop_assert_eq!(parse(&shortest(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_a_duration_or_an_error(text in "[-+0-9.a-zµ ]*") {
            let _ = parse(&text);
        }
    }
}
