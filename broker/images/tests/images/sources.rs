//! Images from layouts and archives.

use std::fs;
use std::path::Path;

use imsup_images::reference::Reference;
use imsup_images::source::{Loaded, load_path, load_stream};
use imsup_images::{Image as Stored, Platform, Store};
use serde_json::json;
use tempfile::TempDir;

use crate::archive::Layer;
use crate::image::{Compression, Image, add_to_index, gzip, index, tar_of, write_blobs};

/// A store and a place for sources.
pub struct World {
    pub directory: TempDir,
    pub store: Store,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    pub fn load(&self, path: &Path) -> Result<Vec<Loaded>, String> {
        load_path(&self.store, path, None, &Platform::of_machine(), &()).map_err(|error| error.to_string())
    }

    pub fn image(&self, name: &str) -> Option<Stored> {
        let reference = name.parse().unwrap();
        self.store.resolve(&reference, &Platform::of_machine()).unwrap()
    }
}

/// An image of two layers, of which the second changes the first.
pub fn sample(compression: Compression) -> Image {
    let base = Layer::new()
        .directory("etc", 0o755)
        .file("etc/motd", "one")
        .file("etc/gone", "x");
    let top = Layer::new()
        .directory("etc", 0o755)
        .file("etc/motd", "two")
        .deleted("etc/gone");
    Image::new(&json!({"Cmd": ["sh"], "Env": ["A=b"]}), vec![base, top], compression)
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().map(|image| image.name.familiar()).collect()
}

fn motd(image: &Stored) -> Vec<String> {
    let texts = image
        .layers
        .iter()
        .map(|layer| fs::read_to_string(layer.join("etc/motd")).unwrap());
    texts.collect()
}

#[test]
fn a_layout_is_loaded_whatever_its_compression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let world = World::new();
        let image = sample(compression);
        image.write(&world.path("layout"), Some("example.org/app:1.0"));
        let loaded = world.load(&world.path("layout")).unwrap();
        assert_eq!(
            (names(&loaded), loaded[0].digest),
            (vec!["example.org/app:1.0".to_owned()], image.digest())
        );
        let stored = world.image("example.org/app:1.0").unwrap();
        assert_eq!(motd(&stored), ["one", "two"]);
        assert_eq!((stored.digest, stored.manifest), (image.digest(), image.digest()));
        assert_eq!(
            (stored.config.cmd.join(" "), stored.config.env[0].1.clone()),
            ("sh".into(), "b".into())
        );
        assert_eq!(
            world
                .image(&format!("any/name@{}", image.digest()))
                .map(|image| image.layers),
            Some(stored.layers)
        );
        assert_eq!(world.image("example.org/app"), None);
    }
}

#[test]
fn a_layouts_tag_belongs_to_the_directorys_name() {
    let world = World::new();
    sample(Compression::None).write(&world.path("busybox.oci"), Some("1.36"));
    assert_eq!(
        names(&world.load(&world.path("busybox.oci")).unwrap()),
        ["busybox:1.36"]
    );
    sample(Compression::None).write(&world.path("plain"), None);
    assert_eq!(names(&world.load(&world.path("plain")).unwrap()), ["plain:latest"]);
    let given: Reference = "mine:2".parse().unwrap();
    let platform = Platform::of_machine();
    let loaded = load_path(&world.store, &world.path("plain"), Some(&given), &platform, &()).unwrap();
    assert_eq!(names(&loaded), ["mine:2"]);
}

#[test]
fn the_machines_platform_is_chosen() {
    let other = if Platform::of_machine().architecture == "s390x" {
        "amd64"
    } else {
        "s390x"
    };
    let world = World::new();
    let here = sample(Compression::Gzip);
    let layer = || vec![Layer::new().file("etc/motd", "far")];
    let far = Image::for_architecture(other, &json!({}), layer(), Compression::None);
    let index = index(&[&far, &here]);
    let layout = world.path("layout");
    write_blobs(&layout, &here.blobs);
    let (descriptor, digest) = (index.descriptor.clone(), index.digest());
    write_blobs(&layout, &[index]);
    add_to_index(&layout, descriptor, Some("app:1"));
    world.load(&layout).unwrap();
    let stored = world.image("app:1").unwrap();
    assert_eq!((stored.digest, stored.manifest), (digest, here.digest()));
    // The other platform's parts are not in the layout, and so not in the store.
    let far_platform: Platform = format!("linux/{other}").parse().unwrap();
    assert_eq!(
        world.store.resolve(&"app:1".parse().unwrap(), &far_platform).unwrap(),
        None
    );
    let error = load_path(&world.store, &layout, None, &far_platform, &())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is missing in"), "{error}");
    let none: Platform = "linux/mips".parse().unwrap();
    let error = load_path(&world.store, &layout, None, &none, &())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("no variant for linux/mips; it has linux/{other}, ")),
        "{error}"
    );
}

#[test]
fn archives_are_loaded_from_files_and_streams() {
    let world = World::new();
    let image = sample(Compression::Gzip);
    let platform = Platform::of_machine();
    let docker = image.docker_archive(&["one:1", "two:2"]);
    fs::write(world.path("docker.tar"), &docker).unwrap();
    let loaded = world.load(&world.path("docker.tar")).unwrap();
    assert_eq!(names(&loaded), ["one:1", "two:2"]);
    assert_eq!(motd(&world.image("two:2").unwrap()), ["one", "two"]);
    // The same image by another way is the same layers.
    image.write(&world.path("layout"), Some("three:3"));
    let oci = tar_of(&world.path("layout"));
    for archive in [oci.clone(), gzip(&oci)] {
        let loaded = load_stream(&world.store, &archive[..], None, &platform, &()).unwrap();
        assert_eq!(names(&loaded), ["three:3"]);
    }
    assert_eq!(
        world.image("three:3").unwrap().layers,
        world.image("one:1").unwrap().layers
    );
    let compressed = gzip(&docker);
    fs::write(world.path("docker.tar.gz"), compressed).unwrap();
    assert_eq!(
        names(&world.load(&world.path("docker.tar.gz")).unwrap()),
        ["one:1", "two:2"]
    );
    // Without a name, that of the file.
    fs::write(world.path("Alone.tar"), image.docker_archive(&[])).unwrap();
    assert_eq!(names(&world.load(&world.path("Alone.tar")).unwrap()), ["alone:latest"]);
    let error = load_stream(&world.store, &image.docker_archive(&[])[..], None, &platform, &()).unwrap_err();
    assert!(error.to_string().contains("without a name"), "{error}");
}

/// Overlayfs does not look at the root's own mark.
#[test]
fn an_opaque_root_hides_all_lower_layers() {
    let world = World::new();
    let layers = vec![
        Layer::new().file("hidden", ""),
        Layer::new().file(".wh..wh..opq", "").file("etc/motd", "one"),
        Layer::new().file("etc/motd", "two"),
    ];
    Image::new(&json!({}), layers, Compression::None).write(&world.path("layout"), Some("app:1"));
    world.load(&world.path("layout")).unwrap();
    assert_eq!(motd(&world.image("app:1").unwrap()), ["one", "two"]);
}

#[test]
fn what_is_no_image_is_refused() {
    let world = World::new();
    let refusal = |path: &str| world.load(&world.path(path)).unwrap_err();
    assert!(refusal("nosuch").contains("No such file"));
    fs::create_dir(world.path("empty")).unwrap();
    assert!(refusal("empty").contains("neither an OCI layout nor an archive"));
    fs::write(world.path("text"), "Hello").unwrap();
    assert!(refusal("text").contains("reading the archive"), "{}", refusal("text"));
    fs::write(world.path("archive"), Layer::new().file("x", "").tar()).unwrap();
    assert!(refusal("archive").contains("neither"));
    fs::write(
        world.path("cut"),
        &sample(Compression::None).docker_archive(&["a"])[..3000],
    )
    .unwrap();
    refusal("cut");
    let archive = |manifest: &str| {
        fs::write(world.path("bad"), Layer::new().file("manifest.json", manifest).tar()).unwrap();
        refusal("bad")
    };
    assert!(archive("[").contains("EOF"));
    assert!(archive(r#"[{"Config": "x", "Layers": []}]"#).contains("missing"));
    assert!(archive("[]").contains("neither"));
    assert_eq!(world.store.list().unwrap(), []);
}

#[test]
fn a_wrong_digest_adds_nothing() {
    for (blob, what) in [
        (0, "the layer sha256:"),
        (2, "the document sha256:"),
        (3, "the document sha256:"),
    ] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let world = World::new();
            let image = sample(compression);
            image.write(&world.path("layout"), Some("app:1"));
            let path = world.path("layout/blobs/sha256").join(image.blobs[blob].digest().hex());
            let mut content = fs::read(&path).unwrap();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            fs::write(&path, content).unwrap();
            let error = world.load(&world.path("layout")).unwrap_err();
            assert!(error.contains(what) && error.contains("another content"), "{error}");
            assert_eq!(world.image("app:1"), None);
            fs::write(&path, &image.blobs[blob].content[..middle]).unwrap();
            world.load(&world.path("layout")).unwrap_err();
            fs::write(&path, &image.blobs[blob].content).unwrap();
            world.load(&world.path("layout")).unwrap();
        }
    }
}

#[test]
fn a_layer_that_is_not_the_configurations_is_refused() {
    let world = World::new();
    let (honest, other) = (sample(Compression::Gzip), Layer::new().file("evil", ""));
    let other = Image::new(&json!({}), vec![other, Layer::new()], Compression::Gzip);
    // The manifest of one image with the configuration of another.
    let mut manifest: serde_json::Value = serde_json::from_slice(&honest.manifest().content).unwrap();
    let theirs: serde_json::Value = serde_json::from_slice(&other.manifest().content).unwrap();
    manifest["layers"] = theirs["layers"].clone();
    let mixed = crate::image::Blob::new(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().into(),
    );
    let layout = world.path("layout");
    write_blobs(&layout, &honest.blobs);
    write_blobs(&layout, &other.blobs);
    add_to_index(&layout, mixed.descriptor.clone(), Some("app:1"));
    write_blobs(&layout, &[mixed]);
    let error = world.load(&layout).unwrap_err();
    assert!(
        error.contains("the layer's archive") && error.contains("another content"),
        "{error}"
    );
}
