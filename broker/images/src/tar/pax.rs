//! The records of an extended header (pax(1), "pax Extended Header").

use super::TarError;

/// The records that matter for layers.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

const DAMAGED: TarError = TarError::Damaged("an extended header has a record that is none");

impl Extensions {
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, TarError> {
        let mut found = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or(DAMAGED)?;
            found.add(key, value)?;
            text = rest;
        }
        Ok(found)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let natural = || text(value).and_then(|text| text.parse().ok()).ok_or(DAMAGED);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(natural()?),
            b"uid" => self.uid = Some(natural()?),
            b"gid" => self.gid = Some(natural()?),
            b"mtime" => self.mtime = Some(time(value).ok_or(DAMAGED)?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(TarError::Kind(b'S')),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The key and the value of the first record, and the rest: `LENGTH KEY=VALUE\n`. The length counts
/// the whole record, and the value may contain anything.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &text[length..]))
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Seconds since the Unix epoch with a fraction: `1700000000.25`, `-1.5`.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = text(value)?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    match seconds.starts_with('-') && nanoseconds > 0 {
        true => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((whole, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_contain_anything() {
        let text = b"31 SCHILY.xattr.user.x=a\nb=c\0d\n11 path=a\n\n20 mtime=-1.5000000\n";
        let found = Extensions::parse(text).unwrap();
        assert_eq!(found.xattrs, [(b"user.x".to_vec(), b"a\nb=c\0d".to_vec())]);
        assert_eq!(found.path, Some(b"a\n".to_vec()));
        assert_eq!(found.mtime, Some((-2, 500_000_000)));
    }

    #[test]
    fn records_that_are_none_are_refused() {
        for text in [
            &b"path=a\n"[..],
            b"9 path=a",
            b"99 path=a\n",
            b"3 path=a\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b"18446744073709551615 path=a\n",
            b"8 pathx\n",
            b"9 uid=-1\n",
            b"11 mtime=x\n",
        ] {
            assert!(Extensions::parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn times_are_exact_to_the_nanosecond() {
        assert_eq!(time(b"1.123456789"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"5"), Some((5, 0)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!((time(b"1.x"), time(b"")), (None, None));
    }
}
