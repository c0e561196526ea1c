//! What the fuzzers do with an input; also run by `cargo test -p imsup-images` over mutated seeds.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imsup_images::config::ConfigFile;
use imsup_images::decompress::decompress;
use imsup_images::manifest::Document;
use imsup_images::unpack::{Limits, Owners, unpack};
use imsup_images::{Digest, Platform, Reference};

/// Small, so that an input takes little time.
const LIMITS: Limits = Limits {
    entries: 200,
    bytes: 1 << 20,
    directory_path_bytes: 1 << 16,
};
const BLOCK: usize = 512;

/// Unpacks an input: byte 0 chooses between the bytes as they are and the bytes with the checksums
/// of headers mended, which no fuzzer guesses. Panics if anything outside of the directory changes.
/// Returns whether the layer was taken.
pub fn layer(input: &[u8]) -> bool {
    let [how, layer @ ..] = input else {
        return false;
    };
    let mut layer = layer.to_vec();
    if how % 2 == 1 {
        layer.chunks_exact_mut(BLOCK).for_each(mend);
    }
    let base = tempfile::tempdir().unwrap();
    for directory in ["layer", "discarded", "other"] {
        fs::create_dir(base.path().join(directory)).unwrap();
    }
    fs::write(base.path().join("other/file"), "untouched").unwrap();
    let before = outside(base.path());
    let owners = match rustix::process::geteuid().is_root() {
        true => Owners::Recorded,
        false => Owners::Own,
    };
    let stream = decompress(&layer[..]);
    let taken = stream.is_ok_and(|stream| {
        let (directory, discarded) = (base.path().join("layer"), base.path().join("discarded"));
        unpack(stream, &directory, &discarded, owners, LIMITS).is_ok()
    });
    assert_eq!(outside(base.path()), before, "the layer has left its directory");
    assert_eq!(fs::read(base.path().join("other/file")).unwrap(), b"untouched");
    open_up(base.path());
    taken
}

/// Puts the checksum into a block, as if it were a header.
fn mend(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Names, modes and times of all that is beside the layer's directory.
fn outside(base: &Path) -> Vec<(OsString, u32, i64, u64)> {
    let files = ["", "other", "other/file"].map(|path| base.join(path));
    let names = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.into_iter().chain(names.filter(|path| path.is_file())).collect();
    found.sort();
    let described = found.into_iter().map(|path| {
        let file = fs::symlink_metadata(&path).unwrap();
        (path.into_os_string(), file.mode(), file.mtime(), file.nlink())
    });
    described.collect()
}

/// An ordinary user could not remove closed directories.
fn open_up(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Reads an input as each kind of document and as a name. Panics if a name has two meanings.
pub fn document(input: &[u8]) {
    if let Ok(Document::Index(index)) = Document::parse(input) {
        let _ = index.choose(&Platform::of_machine());
    }
    let _ = ConfigFile::parse(input);
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
        assert_eq!(name.familiar().parse::<Reference>().unwrap(), name);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}
