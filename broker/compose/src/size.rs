//! Amounts: bytes of memory (`512M`), processors (`0.5`).

/// Why text is not taken as an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number of bytes.
    #[error("'{0}' is no amount of memory: write bytes, or a number with k, m or g, such as 512m")]
    Bytes(String),
    /// No number of processors.
    #[error("'{0}' is no number of processors: write for example 0.5 or 2")]
    Cpus(String),
}

/// Bytes, in units of 1024: `1g`, `512M`, `1.5GiB`, `1048576`.
pub(super) fn bytes(text: &str) -> Result<u64, SizeError> {
    let error = || SizeError::Bytes(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim_start();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(error()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(error);
    }
    let bytes = decimal(number).ok_or_else(error)? * f64::from(2).powi(shift);
    // 2^63 is exact in f64, so a comparison is enough to keep the conversion inside u64.
    if bytes < 9_223_372_036_854_775_808.0 {
        Ok(bytes as u64)
    } else {
        Err(error())
    }
}

/// Thousandths of a processor.
pub(super) fn milli_cpus(text: &str) -> Result<u64, SizeError> {
    let error = || SizeError::Cpus(text.to_owned());
    let cpus = decimal(text.trim())
        .filter(|cpus| *cpus <= 1_000_000.0)
        .ok_or_else(error)?;
    let milli = (cpus * 1000.0).round() as u64;
    if milli == 0 && cpus > 0.0 {
        Err(error())
    } else {
        Ok(milli)
    }
}

/// Digits with at most one point: `f64` parses more (`inf`, `1e9`).
fn decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units() {
        for (text, expected) in [
            ("1024", 1024),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("512mb", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("1 g", 1 << 30),
            ("10b", 10),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "m",
            "-1m",
            "1x",
            "1e9",
            "inf",
            "1.2.3g",
            "99999999999g",
            "1ib",
            "1mm",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_have_three_decimals() {
        assert_eq!(milli_cpus("0.5"), Ok(500));
        assert_eq!(milli_cpus("2"), Ok(2000));
        assert_eq!(milli_cpus("0"), Ok(0));
        for bad in ["", "-1", "0.0001", "1e3", "many", "NaN", "99999999"] {
            assert!(milli_cpus(bad).is_err(), "{bad}");
        }
    }
}
