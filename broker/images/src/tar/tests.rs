use ::tar::{Builder, EntryType, Header};

use super::*;

fn all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(50);
    header.set_mtime(7);
    header.set_size(size);
    header
}

fn archive(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

#[test]
fn entries_of_every_kind_are_read() {
    let long = "d/".repeat(150) + "file";
    let archive = archive(|builder| {
        builder
            .append_data(&mut header(EntryType::Directory, 0), "d/", &b""[..])
            .unwrap();
        builder
            .append_data(&mut header(EntryType::Regular, 600), &long, &[b'x'; 600][..])
            .unwrap();
        builder
            .append_link(&mut header(EntryType::Link, 0), "hard", &long)
            .unwrap();
        builder
            .append_link(&mut header(EntryType::Symlink, 0), "soft", "../out")
            .unwrap();
        builder
            .append_data(&mut header(EntryType::Char, 0), "null", &b""[..])
            .unwrap();
        builder
            .append_data(&mut header(EntryType::Fifo, 0), "pipe", &b""[..])
            .unwrap();
    });
    let found = all(&archive).unwrap();
    let kinds: Vec<&Kind> = found.iter().map(|(entry, _)| &entry.kind).collect();
    let target = Kind::HardLink(long.clone().into_bytes());
    let soft = Kind::SymbolicLink(b"../out".to_vec());
    assert_eq!(
        kinds,
        [
            &Kind::Directory,
            &Kind::File,
            &target,
            &soft,
            &Kind::Device,
            &Kind::Fifo
        ]
    );
    let (file, content) = &found[1];
    assert_eq!(
        (file.path.as_slice(), file.size, content.len()),
        (long.as_bytes(), 600, 600)
    );
    assert_eq!((file.mode, file.uid, file.gid, file.mtime), (0o4755, 1000, 50, (7, 0)));
}

#[test]
fn pax_records_win() {
    let archive = archive(|builder| {
        let records = [
            ("path", &b"pax"[..]),
            ("uid", b"70000"),
            ("mtime", b"9.5"),
            ("SCHILY.xattr.security.capability", b"\x01\0\n="),
        ];
        builder.append_pax_extensions(records).unwrap();
        builder
            .append_data(&mut header(EntryType::Regular, 2), "plain", &b"ab"[..])
            .unwrap();
        builder
            .append_data(&mut header(EntryType::Regular, 1), "next", &b"c"[..])
            .unwrap();
    });
    let found = all(&archive).unwrap();
    let entry = &found[0].0;
    assert_eq!(
        (entry.path.as_slice(), entry.uid, entry.mtime),
        (&b"pax"[..], 70000, (9, 500_000_000))
    );
    assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), b"\x01\0\n=".to_vec())]);
    assert_eq!((found[1].0.path.as_slice(), found[1].0.uid), (&b"next"[..], 1000));
}

#[test]
fn the_end_may_be_careless_but_not_in_the_middle() {
    let whole = archive(|builder| {
        builder
            .append_data(&mut header(EntryType::Regular, 3), "a", &b"abc"[..])
            .unwrap();
    });
    for end in [1024, 1536, 2048] {
        assert_eq!(all(&whole[..end]).unwrap().len(), 1, "{end}");
    }
    assert_eq!(all(&[]).unwrap().len(), 0);
    for end in [1, 511, 513, 1023] {
        assert!(all(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let raw = |kind: u8, size: u64| {
        let mut header = header(EntryType::new(kind), size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    for kind in [b'L', b'K', b'x'] {
        let error = all(&raw(kind, 1 << 40)).unwrap_err();
        assert!(matches!(error, TarError::Extension(_)), "{error}");
    }
    let long = archive(|builder| {
        let path = "d/".repeat(2049);
        builder.append_pax_extensions([("path", path.as_bytes())]).unwrap();
        builder
            .append_data(&mut header(EntryType::Regular, 0), "x", &b""[..])
            .unwrap();
    });
    assert!(matches!(all(&long), Err(TarError::Path(4098))));
    assert!(matches!(all(&raw(b'S', 0)), Err(TarError::Kind(b'S'))));
    assert!(matches!(all(&[1; BLOCK]), Err(TarError::Damaged(_))));
    // The content of a hard link is not there, whatever the header says.
    let mut link = raw(b'1', 1 << 40);
    link.extend(raw(b'0', 0));
    assert_eq!(all(&link).unwrap().len(), 2);
    let mut owner = header(EntryType::Regular, 0);
    owner.set_uid(u64::from(u32::MAX));
    owner.set_cksum();
    assert!(matches!(all(owner.as_bytes()), Err(TarError::Damaged(_))));
}
