//! Pulling from Debian's docker-registry.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use imsup_images::registry::{Credentials, Pulled, pull};
use imsup_images::{Platform, Store};
use serde_json::json;

use crate::archive::Layer;
use crate::image::{Compression, Image, index};
use crate::server::{LOGIN, Registry};
use crate::sources::{World, sample};

pub fn pull_with(store: &Store, name: &str, credentials: &Credentials) -> Result<Pulled, String> {
    let name = name.parse().unwrap();
    pull(store, &name, &Platform::of_machine(), credentials, &()).map_err(|error| error.to_string())
}

fn pull_from(world: &World, name: &str) -> Result<Pulled, String> {
    pull_with(&world.store, name, &Credentials::default())
}

/// The file of `docker login`.
fn config(path: &Path, registry: &str, password: &str) -> Credentials {
    let auth = BASE64_STANDARD.encode(format!("{}:{password}", LOGIN.0));
    fs::write(path, json!({"auths": {registry: {"auth": auth}}}).to_string()).unwrap();
    Credentials::read(path.to_owned()).unwrap()
}

#[test]
fn images_are_pulled_by_tag_and_by_digest() {
    let registry = Registry::open();
    for (tag, compression) in [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("tar", Compression::None),
    ] {
        let world = World::new();
        let image = sample(compression);
        registry.push("team/app", tag, &image);
        let name = registry.name(&format!("team/app:{tag}"));
        let pulled = pull_from(&world, &name).unwrap();
        assert_eq!((pulled.digest, pulled.was_there), (image.digest(), false));
        let stored = world.image(&name).unwrap();
        assert_eq!(fs::read_to_string(stored.layers[1].join("etc/motd")).unwrap(), "two");
        assert!(pull_from(&world, &name).unwrap().was_there);
        let pinned = registry.name(&format!("team/app@{}", image.digest()));
        assert!(pull_from(&world, &pinned).unwrap().was_there);
        assert_eq!(world.image(&pinned).unwrap().layers, stored.layers);
        assert_eq!(fs::read_dir(world.path("store/partial")).unwrap().count(), 0);
    }
}

#[test]
fn the_machines_variant_of_an_index_is_pulled() {
    let registry = Registry::open();
    let world = World::new();
    let here = sample(Compression::Gzip);
    let far = Image::for_architecture(
        "s390x",
        &json!({}),
        vec![Layer::new().file("far", "")],
        Compression::Gzip,
    );
    registry.push("app", "here", &here);
    registry.push("app", "far", &far);
    let both = index(&[&far, &here]);
    registry.push_manifest("app", "both", &both);
    let name = registry.name("app:both");
    assert_eq!(pull_from(&world, &name).unwrap().digest, both.digest());
    let stored = world.image(&name).unwrap();
    assert_eq!((stored.digest, stored.manifest), (both.digest(), here.digest()));
    // Another platform's parts come beside, under the same name.
    let s390x: Platform = "linux/s390x".parse().unwrap();
    let name = name.parse().unwrap();
    assert_eq!(world.store.resolve(&name, &s390x).unwrap(), None);
    pull(&world.store, &name, &s390x, &Credentials::default(), &()).unwrap();
    assert_eq!(
        world.store.resolve(&name, &s390x).unwrap().unwrap().manifest,
        far.digest()
    );
    assert!(world.image(&name.to_string()).is_some());
    let mips: Platform = "linux/mips".parse().unwrap();
    let error = pull(&world.store, &name, &mips, &Credentials::default(), &())
        .unwrap_err()
        .to_string();
    assert!(error.contains("no variant for linux/mips"), "{error}");
}

#[test]
fn a_login_is_asked_for_and_used() {
    let registry = Registry::with_login();
    let world = World::new();
    registry.push("app", "1", &sample(Compression::Gzip));
    let name = registry.name("app:1");
    let error = pull_from(&world, &name).unwrap_err();
    assert!(error.contains("wants a login for app (401): 'docker login"), "{error}");
    let path = world.path("config.json");
    let wrong = config(&path, &registry.address, "wrong");
    let error = pull_with(&world.store, &name, &wrong).unwrap_err();
    assert!(
        error.contains("the login in ") && error.contains("was refused"),
        "{error}"
    );
    assert!(!error.contains("wrong"), "{error}");
    // Another registry's login is nobody's business here.
    let other = config(&path, "example.org", LOGIN.1);
    assert!(pull_with(&world.store, &name, &other).is_err());
    let right = config(&path, &registry.address, LOGIN.1);
    pull_with(&world.store, &name, &right).unwrap();
    assert!(world.image(&name).is_some());
    fs::write(&path, "{").unwrap();
    assert!(
        Credentials::read(path)
            .unwrap_err()
            .to_string()
            .contains("config.json cannot be read")
    );
}

#[test]
fn what_is_missing_is_said() {
    let registry = Registry::open();
    let world = World::new();
    registry.push("app", "1", &sample(Compression::Gzip));
    for (name, expected) in [
        (
            registry.name("app:2"),
            registry.name("app:2 does not exist in its registry"),
        ),
        (
            registry.name("none"),
            registry.name("none:latest does not exist in its registry"),
        ),
        (
            registry.name(&format!("app@sha256:{}", "0".repeat(64))),
            registry.name(&format!("app@sha256:{} does not exist in its registry", "0".repeat(64))),
        ),
    ] {
        assert_eq!(pull_from(&world, &name).unwrap_err(), expected);
    }
    let address = registry.address.clone();
    drop(registry);
    let error = pull_from(&world, &format!("{address}/app:1")).unwrap_err();
    assert!(
        error.starts_with(&format!("the registry {address} cannot be reached: ")),
        "{error}"
    );
    assert!(error.contains("refused"), "{error}");
    assert_eq!(world.store.list().unwrap(), []);
}
