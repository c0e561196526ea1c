//! Scalars as YAML's core schema and docker compose's reader resolve them: `0o10` is 8, `1e3` is
//! 1000, `on` is text.

/// The type of a scalar that stands without quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scalar {
    #[default]
    Text,
    Whole,
    Fraction,
    Boolean,
    /// A date, with or without a time.
    Time,
}

/// The type of `text` if it stands without quotes.
pub(super) fn resolve(text: &str) -> Scalar {
    if boolean(text).is_some() {
        return Scalar::Boolean;
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Scalar::Text;
    }
    if is_time(text) {
        Scalar::Time
    } else if whole(text).is_some() {
        Scalar::Whole
    } else if fraction(text).is_some() {
        Scalar::Fraction
    } else {
        Scalar::Text
    }
}

/// True if `text` is null if it stands without quotes.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A whole number: decimal, or with one of the prefixes `0x`, `0o`, `0b` and `0`.
pub(super) fn whole(text: &str) -> Option<i128> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let found = prefixes
        .iter()
        .find_map(|(prefix, radix)| Some((digits.strip_prefix(prefix)?, *radix)));
    let (digits, radix) = match found {
        Some(found) => found,
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    let number = sign * i128::from(magnitude);
    (number >= i128::from(i64::MIN)).then_some(number)
}

/// A number with a fraction or an exponent, infinity, or no number (`.nan`).
pub(super) fn fraction(text: &str) -> Option<f64> {
    match text.trim_start_matches(['+', '-']) {
        ".inf" | ".Inf" | ".INF" if text.starts_with('-') => return Some(f64::NEG_INFINITY),
        ".inf" | ".Inf" | ".INF" => return Some(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if text.starts_with('.') => return Some(f64::NAN),
        _ => {}
    }
    let plain = text.replace('_', "");
    let fits = plain.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    // A number that is out of range is text.
    plain.parse().ok().filter(|number: &f64| fits && number.is_finite())
}

/// True for `YYYY-M-D`, alone or with a time behind it.
fn is_time(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let number = |part: Option<&str>, length: std::ops::RangeInclusive<usize>, most: u32| {
        part.is_some_and(|part| {
            length.contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse().is_ok_and(|number: u32| number <= most)
        })
    };
    let is_date = number(parts.next(), 4..=4, 9999)
        && number(parts.next(), 1..=2, 12)
        && number(parts.next(), 1..=2, 31)
        && parts.next().is_none();
    let is_clock = |time: &str| {
        let mut parts = time.splitn(3, ':');
        number(parts.next(), 1..=2, 23) && number(parts.next(), 1..=2, 59) && parts.next().is_some()
    };
    is_date && time.is_none_or(is_clock)
}

/// A number as docker compose passes it on: the shortest digits, with an exponent below 1e-4 and
/// from 1e6 up.
pub(super) fn show(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The text that a scalar is for a program: numbers and booleans in one notation.
pub(super) fn as_text(text: &str, scalar: Scalar) -> Option<String> {
    match scalar {
        Scalar::Text => None,
        Scalar::Whole => whole(text).map(|number| number.to_string()),
        Scalar::Fraction => fraction(text).map(show),
        Scalar::Boolean => boolean(text).map(|value| value.to_string()),
        Scalar::Time => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_what_docker_compose_reads() {
        for (text, scalar, expected) in [
            ("true", Scalar::Boolean, "true"),
            ("TRUE", Scalar::Boolean, "true"),
            ("on", Scalar::Text, "on"),
            ("No", Scalar::Text, "No"),
            ("1.0", Scalar::Fraction, "1"),
            ("1e3", Scalar::Fraction, "1000"),
            ("1e6", Scalar::Fraction, "1e+06"),
            ("0o10", Scalar::Whole, "8"),
            ("010", Scalar::Whole, "8"),
            ("08", Scalar::Fraction, "8"),
            ("0x1F", Scalar::Whole, "31"),
            ("1_000", Scalar::Whole, "1000"),
            ("1.", Scalar::Fraction, "1"),
            ("+1", Scalar::Whole, "1"),
            ("-0", Scalar::Whole, "0"),
            (".inf", Scalar::Fraction, "+Inf"),
            (".nan", Scalar::Fraction, "NaN"),
            ("1e400", Scalar::Text, "1e400"),
            ("0.00005", Scalar::Fraction, "5e-05"),
            ("100000000.5", Scalar::Fraction, "1.000000005e+08"),
            ("3.14159265358979", Scalar::Fraction, "3.14159265358979"),
            ("22:22", Scalar::Text, "22:22"),
            ("1.2.3", Scalar::Text, "1.2.3"),
            ("-", Scalar::Text, "-"),
            ("0x", Scalar::Text, "0x"),
        ] {
            assert_eq!(resolve(text), scalar, "{text}");
            assert_eq!(as_text(text, scalar).as_deref().unwrap_or(text), expected, "{text}");
        }
        for time in ["2020-01-01", "2020-1-1 10:00:00", "2001-12-14t21:59:43.10-05:00"] {
            assert_eq!(resolve(time), Scalar::Time, "{time}");
        }
        assert_eq!(resolve("2020-13-01"), Scalar::Text);
    }
}
