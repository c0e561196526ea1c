//! The store: sharing, crashes, pruning.

use std::fs;
use std::process::Command;

use imsup_images::Store;
use imsup_images::digest::Digest;
use imsup_images::store::{LayerSource, StoreError};
use serde_json::json;

use crate::archive::Layer;
use crate::image::{Compression, Image};
use crate::sources::{World, sample};

fn entries(world: &World, directory: &str) -> usize {
    fs::read_dir(world.path("store").join(directory)).unwrap().count()
}

fn layers(world: &World) -> usize {
    entries(world, "layers/recorded") + entries(world, "layers/own")
}

fn load(world: &World, name: &str, image: &Image) {
    let path = world.path("layout");
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    image.write(&path, Some(name));
    world.load(&path).unwrap();
}

fn with_layer(content: &str) -> Image {
    let common = || Layer::new().file("common", "common");
    let own = Layer::new().file("own", content);
    Image::new(&json!({}), vec![common(), own], Compression::None)
}

#[test]
fn layers_are_shared_and_pruned_with_their_last_image() {
    let world = World::new();
    for name in ["one:1", "two:1"] {
        load(&world, name, &with_layer(name));
    }
    assert_eq!(layers(&world), 3);
    let listed = world.store.list().unwrap();
    let sizes: Vec<(String, u64)> = listed.iter().map(|image| (image.name.familiar(), image.size)).collect();
    assert_eq!(sizes, [("one:1".to_owned(), 11), ("two:1".to_owned(), 11)]);
    assert_eq!(world.store.prune(false).unwrap().layers, 0);
    // A name that moves leaves the image that had the name.
    load(&world, "two:1", &with_layer("another"));
    assert_eq!(layers(&world), 4);
    let pruned = world.store.prune(false).unwrap();
    assert_eq!((pruned.names, pruned.layers, pruned.bytes), (0, 1, 5));
    assert!(world.image("one:1").is_some() && world.image("two:1").is_some());
    let pruned = world.store.prune(true).unwrap();
    assert_eq!((pruned.names, pruned.layers), (2, 3));
    for directory in ["blobs/sha256", "locks", "temporary", "partial"] {
        assert_eq!(entries(&world, directory), 0, "{directory}");
    }
    assert_eq!((layers(&world), world.image("one:1")), (0, None));
}

#[test]
fn what_a_project_uses_is_kept_until_its_down() {
    let world = World::new();
    load(&world, "app:1", &with_layer("old"));
    let runtime = world.path("run/shop");
    fs::create_dir_all(&runtime).unwrap();
    let used = world.image("app:1").unwrap();
    world
        .store
        .use_images("shop", &runtime, std::slice::from_ref(&used))
        .unwrap();
    assert_eq!(world.store.list().unwrap()[0].used_by, ["shop"]);
    load(&world, "app:1", &with_layer("new"));
    assert_eq!(world.store.list().unwrap()[0].used_by, Vec::<String>::new());
    let pruned = world.store.prune(true).unwrap();
    assert_eq!((pruned.names, pruned.layers), (1, 1));
    assert!(used.layers.iter().all(|layer| layer.is_dir()));
    fs::remove_dir(&runtime).unwrap();
    assert_eq!(world.store.prune(false).unwrap().layers, 2);
    assert_eq!(entries(&world, "projects"), 0);
    let error = world.store.use_images("shop", &runtime, &[used]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image docker.io/library/app:1 was removed meanwhile"
    );
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let world = World::new();
    let addition = world.store.add().unwrap();
    let tar = Layer::new().file("a", "a").file("../b", "b").tar();
    let id = Digest::of(&tar);
    let source = || LayerSource {
        stream: Box::new(&tar[..]),
        digest: Some(id),
        bytes: tar.len() as u64,
    };
    let error = addition.layer(id, || Ok::<_, StoreError>(source())).unwrap_err();
    assert!(error.to_string().contains("leads out of its directory"), "{error}");
    assert_eq!((layers(&world), entries(&world, "temporary")), (0, 0));
    let wrong = addition.layer(Digest::of(b"x"), || {
        Ok::<_, StoreError>(LayerSource {
            digest: None,
            ..source()
        })
    });
    assert!(wrong.is_err() && layers(&world) == 0);
}

/// Runs a test in a process with a file system of 1 MiB, as root of a user namespace. In this
/// process, gives a store on that file system.
pub fn on_small_disk(test: &str) -> Option<Store> {
    const SMALL: &str = "IMSUP_TEST_SMALL_DISK";
    if let Some(path) = std::env::var_os(SMALL) {
        return Some(Store::open(path).unwrap());
    }
    let disk = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$1\" && exec \"$2\" --exact \"$3\"";
    let ended = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(disk.path())
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(SMALL, disk.path())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    None
}

#[test]
fn a_full_disk_is_said_and_leaves_the_store_whole() {
    if let Some(store) = on_small_disk("store::a_full_disk_is_said_and_leaves_the_store_whole") {
        let addition = store.add().unwrap();
        let add = |bytes: usize| {
            let tar = Layer::new().file("small", "x").file("large", vec![7; bytes]).tar();
            addition.layer(Digest::of(&tar), || {
                Ok::<_, StoreError>(LayerSource {
                    stream: Box::new(&tar[..]),
                    digest: None,
                    bytes: tar.len() as u64,
                })
            })
        };
        let error = add(2 << 20).unwrap_err().to_string();
        assert!(error.contains("no space left on the disk of the images"), "{error}");
        assert_eq!(fs::read_dir(store.path().join("temporary")).unwrap().count(), 0);
        assert!(add(100 << 10).unwrap());
    }
}

/// The process that this test starts is this test itself, with a variable that makes it die in the
/// middle of a layer.
#[test]
fn what_a_killed_process_leaves_is_removed_by_the_next() {
    const DIE: &str = "IMSUP_TEST_DIE_IN";
    if let Some(path) = std::env::var_os(DIE) {
        let store = Store::open(path).unwrap();
        let addition = store.add().unwrap();
        let tar = Layer::new().file("a", vec![7; 1 << 20]).tar();
        let dies = Dies(tar.len() / 2, &tar);
        let _ = addition.layer(Digest::of(&tar), || {
            Ok::<_, StoreError>(LayerSource {
                stream: Box::new(dies),
                digest: None,
                bytes: tar.len() as u64,
            })
        });
        unreachable!("the process has killed itself");
    }
    let world = World::new();
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::what_a_killed_process_leaves_is_removed_by_the_next"])
        .env(DIE, world.path("store"))
        .output()
        .unwrap();
    assert!(!killed.status.success());
    assert_eq!((layers(&world), entries(&world, "temporary")), (0, 1));
    // Work that goes on is not disturbed.
    let _addition = world.store.add().unwrap();
    Store::open(world.path("store")).unwrap();
    assert_eq!(entries(&world, "temporary"), 0);
}

/// A stream that kills its process in the middle.
struct Dies<'a>(usize, &'a [u8]);

impl std::io::Read for Dies<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL)?;
        }
        let length = self.0.min(buffer.len());
        buffer[..length].copy_from_slice(&self.1[..length]);
        (self.0, self.1) = (self.0 - length, &self.1[length..]);
        Ok(length)
    }
}

#[test]
fn a_layer_is_unpacked_once_however_many_want_it() {
    let world = World::new();
    let tar = Layer::new().file("a", "a").tar();
    let opened = std::sync::atomic::AtomicUsize::new(0);
    let want = || {
        // Each with a store of its own, as processes have it.
        let store = Store::open(world.path("store")).unwrap();
        let addition = store.add().unwrap();
        let added = addition.layer(Digest::of(&tar), || {
            opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, StoreError>(LayerSource {
                stream: Box::new(&tar[..]),
                digest: None,
                bytes: tar.len() as u64,
            })
        });
        added.unwrap();
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(want);
        }
    });
    assert_eq!(opened.into_inner(), 1);
}

#[test]
fn damage_is_said_or_mended() {
    let world = World::new();
    let image = sample(Compression::None);
    load(&world, "app:1", &image);
    // A blob that a crash of the machine has emptied is as good as none, and loaded again.
    let blob = world.path("store/blobs/sha256").join(image.digest().hex());
    fs::write(&blob, "").unwrap();
    assert_eq!(world.image("app:1"), None);
    load(&world, "app:1", &image);
    assert!(world.image("app:1").is_some());
    fs::write(world.path("store/names.json"), "{").unwrap();
    let error = world.store.list().unwrap_err().to_string();
    assert!(
        error.contains("names.json is damaged") && error.contains("load or pull"),
        "{error}"
    );
}
