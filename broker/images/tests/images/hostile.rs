//! Layers that want out, or want too much.

use std::fs;
use std::os::unix::fs::MetadataExt;

use imsup_images::unpack::{Limits, UnpackError};
use tar::EntryType;

use crate::archive::Layer;
use crate::unpacking::{limits, try_unpack, unpack};

fn refusal(layer: Layer) -> String {
    refusal_within(layer, limits()).to_string()
}

fn refusal_within(layer: Layer, limits: Limits) -> UnpackError {
    let (unpacked, result) = try_unpack(&layer.tar(), limits);
    assert_eq!(fs::read_to_string(unpacked.outside("secret")).unwrap(), "secret");
    result.expect_err("the layer must be refused")
}

#[test]
fn dots_are_refused() {
    for path in ["../escaped", "a/../../escaped", "..", "/../escaped", "a/.."] {
        let error = refusal(Layer::new().file(path, "x"));
        assert!(error.contains("leads out of its directory"), "{path}: {error}");
        refusal(Layer::new().symbolic_link(path, "x"));
        refusal(Layer::new().hard_link("a", path));
    }
    for path in ["a/.wh...", "a/.wh..", "a/.wh."] {
        let error = refusal(Layer::new().file(path, ""));
        assert!(error.contains("deletes a name that is none"), "{path}: {error}");
    }
    for kind in [EntryType::Regular, EntryType::Fifo, EntryType::Symlink] {
        refusal(Layer::new().special("./", kind));
    }
}

#[test]
fn absolute_paths_are_in_the_layer() {
    let unpacked = unpack(
        Layer::new()
            .file("/etc/imsup-escaped", "x")
            .hard_link("/again", "/etc/imsup-escaped"),
    );
    assert_eq!(unpacked.text("etc/imsup-escaped") + &unpacked.text("again"), "xx");
    assert!(!fs::exists("/etc/imsup-escaped").unwrap());
}

#[test]
fn links_lead_nowhere_else() {
    // What links out is created, if at all, inside.
    let unpacked = unpack(
        Layer::new()
            .directory("up", 0o755)
            .symbolic_link("out", "../../../..")
            .file("out/up/through", "x")
            .symbolic_link("absolute", "/up")
            .file("absolute/too", "y"),
    );
    assert_eq!(unpacked.text("up/through") + &unpacked.text("up/too"), "xy");
    let secret = || Layer::new().symbolic_link("out", "../secret");
    // A file in the place of a link replaces the link.
    let unpacked = unpack(secret().file("out", "mine"));
    assert_eq!(fs::read_to_string(unpacked.outside("secret")).unwrap(), "secret");
    assert!(refusal(secret().hard_link("secret", "out/x")).contains("opening the directory of"));
    assert!(refusal(secret().file("out/x", "x")).contains("dangling"));
    assert!(refusal(Layer::new().hard_link("a", "secret")).contains("linking"));
    assert!(refusal(Layer::new().hard_link("a", "a")).contains("link to itself"));
    assert!(refusal(Layer::new().symbolic_link("loop", "loop").file("loop/x", "")).contains("opening"));
    assert!(refusal(Layer::new().directory("d", 0o755).hard_link("a", "d")).contains("linking"));
    // The kernel's own links (/proc/PID/root) are links out too, but there is no /proc in a layer.
    assert!(refusal(Layer::new().symbolic_link("p", "/proc/self/root").file("p/x", "")).contains("dangling"));
    // A hard link of a link is the link, not its target.
    let unpacked = unpack(secret().hard_link("again", "out").file("again", "mine"));
    assert_eq!(fs::read_to_string(unpacked.outside("secret")).unwrap(), "secret");
}

#[test]
fn what_becomes_a_link_between_two_entries_is_followed_inside_only() {
    let unpacked = unpack(
        Layer::new()
            .directory("d", 0o755)
            .file("d/one", "1")
            .symbolic_link("d", "..")
            .file("d/two", "2")
            .deleted("d/three"),
    );
    assert_eq!(unpacked.text("two"), "2");
    assert!(!unpacked.outside("two").exists());
    // Attributes of directories are set at the end: not on whatever a link leads to.
    let (unpacked, result) = try_unpack(
        &Layer::new().directory("d", 0o777).symbolic_link("d", "..").tar(),
        limits(),
    );
    result.unwrap();
    assert_ne!(fs::metadata(unpacked.outside("")).unwrap().mode() & 0o777, 0o777);
    assert_ne!(fs::metadata(unpacked.path("")).unwrap().mode() & 0o777, 0o777);
}

#[test]
fn too_much_is_refused() {
    let few = Limits {
        entries: 100,
        ..limits()
    };
    let many = |count: usize| (0..count).fold(Layer::new(), |layer, n| layer.file(&n.to_string(), ""));
    assert!(try_unpack(&many(100).tar(), few).1.is_ok());
    let error = refusal_within(many(101), few).to_string();
    assert_eq!(error, "the layer has more than 100 files: it is refused");
    // Directories that no entry names count too.
    let deep = Layer::new().file(&("d/".repeat(150) + "x"), "");
    assert!(matches!(refusal_within(deep, few), UnpackError::Limit { .. }));
    let small = Limits {
        bytes: 1000,
        entries: 1,
        ..limits()
    };
    assert!(matches!(
        refusal_within(Layer::new().file("a", [0; 1001]), small),
        UnpackError::Limit { .. }
    ));
    // Skipped content counts too.
    let skipped = Layer::new().file(".wh..wh.x", [0; 8000]);
    assert!(refusal_within(skipped, small).to_string().contains("more than"));
    let paths = Limits {
        directory_path_bytes: 10,
        ..limits()
    };
    let long = Layer::new().directory("abcdefghijk", 0o755);
    assert!(matches!(refusal_within(long, paths), UnpackError::Limit { .. }));
}

#[test]
fn what_linux_does_not_allow_is_a_clear_error() {
    let error = refusal(Layer::new().file(&"n".repeat(256), ""));
    assert!(error.contains("replacing 'nnn") && error.len() < 400, "{error}");
    let error = refusal(Layer::new().file(&("d/".repeat(2048) + "x"), ""));
    assert!(error.contains("Linux allows 4096"), "{error}");
    assert!(refusal(Layer::new().symbolic_link("a", "")).contains("to nothing"));
    assert!(refusal(Layer::new().file("a", "").file("a/b", "")).contains("opening the directory"));
    assert!(refusal(Layer::new().special("a", EntryType::GNUSparse)).contains("'S'"));
    let (_, result) = try_unpack(&Layer::new().file("a", [7; 5000]).tar()[..3000], limits());
    assert!(result.unwrap_err().to_string().contains("reading the archive"));
}

#[test]
fn a_deep_directory_is_replaced_at_once() {
    let deep = "d/".repeat(300) + "x";
    let unpacked = unpack(Layer::new().file(&deep, "").file("d", "replaced"));
    assert_eq!(unpacked.text("d"), "replaced");
}
