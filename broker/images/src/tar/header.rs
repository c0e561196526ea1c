//! The header block of an entry (pax(1), "ustar Interchange Format").

use super::{BLOCK, TarError};

/// The fields of a header that matter for layers.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let checksum = number(&block[148..156]).ok_or(TarError::Damaged("a checksum is no number"))?;
        let counted = |(index, byte): (usize, &u8)| match index {
            148..156 => i64::from(b' '),
            _ => i64::from(*byte),
        };
        if block.iter().enumerate().map(counted).sum::<i64>() != checksum {
            return Err(TarError::Damaged("a header's checksum is wrong"));
        }
        let natural = |field: &[u8]| {
            let value = number(field).and_then(|value| u64::try_from(value).ok());
            value.ok_or(TarError::Damaged("a header's field is no number"))
        };
        let name = text(&block[..100]);
        // GNU's own format has other fields in place of the prefix.
        let prefix = match &block[257..263] == b"ustar\0" {
            true => text(&block[345..500]),
            false => &[],
        };
        let path = match prefix.is_empty() {
            true => name.to_vec(),
            false => [prefix, name].join(&b'/'),
        };
        Ok(Self {
            path,
            link: text(&block[157..257]).to_vec(),
            kind: block[156],
            mode: (natural(&block[100..108])? & 0o7777) as u32,
            uid: natural(&block[108..116])?,
            gid: natural(&block[116..124])?,
            size: natural(&block[124..136])?,
            mtime: number(&block[136..148]).ok_or(TarError::Damaged("a time is no number"))?,
        })
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// An octal number, or GNU's binary one, which has the first bit set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        let text = text(field).trim_ascii();
        let digit = |value: i64, byte: &u8| match byte {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
            _ => None,
        };
        return text.iter().try_fold(0, digit);
    }
    // Two's complement in seven bits, then eight each.
    let first = i64::from(field[0] & 0x3f) - i64::from(field[0] & 0x40);
    field[1..].iter().try_fold(first, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"00008\0", None),
            (b"-1\0", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"777777777777777777777777777777", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
