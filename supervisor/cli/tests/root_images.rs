//! As root: images of a user with subordinate ids, which are a file of a private /etc, and of
//! Docker's own store.

mod common;

#[path = "../../../broker/images/tests/images/archive.rs"]
#[allow(dead_code)] // each test binary uses its own part of these
mod archive;
#[path = "../../../broker/images/tests/images/image.rs"]
#[allow(dead_code)]
mod image;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use archive::Layer;
use common::command::{self, Finished, LIMIT};
use common::docker::{Docker, IMAGE};
use common::{imsup, need};
use image::{Compression, Image};
use serde_json::json;
use tempfile::TempDir;

/// The user, and the line of subuid(5) and subgid(5).
const USER: u32 = 65534;
const SUBORDINATE: &str = "65534:100000:65536\n";

/// A directory of the user.
fn directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("imsup-t").tempdir().unwrap();
    fs::write(directory.path().join("ids"), SUBORDINATE).unwrap();
    chown(directory.path(), Some(USER), Some(USER)).unwrap();
    directory
}

/// Runs imsup as the user, who has subordinate ids in a mount namespace.
fn run(directory: &Path, arguments: &[&str]) -> Finished {
    let script = "mount --bind ids /etc/subuid && mount --bind ids /etc/subgid && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(imsup())
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env("IMSUP_RUNTIME_DIR", directory.join("run"))
        .env("IMSUP_STATE_DIR", directory.join("state"))
        .env("IMSUP_IMAGE_DIR", directory.join("images"));
    command::run(command, LIMIT)
}

/// The only layer of the store.
fn layer(directory: &Path) -> PathBuf {
    let mut layers = fs::read_dir(directory.join("images/layers/recorded")).unwrap();
    layers.next().expect("a layer").unwrap().path().join("root")
}

#[test]
fn files_belong_to_the_subordinate_ids_of_their_owners() {
    need(&["newuidmap", "newgidmap"]);
    let directory = directory();
    let layer_of = |owner: &[(&str, &[u8])]| {
        Layer::of_root()
            .file("roots", "")
            .records(owner)
            .directory("closed", 0o700)
            .records(owner)
            .file_with("closed/setuid", 0o4755, "")
            .deleted("gone")
            .opaque("closed")
    };
    let image = Image::new(
        &json!({}),
        vec![layer_of(&[("uid", b"999"), ("gid", b"998")])],
        Compression::Gzip,
    );
    image.write(&directory.path().join("layout"), Some("app:1"));
    let loaded = run(directory.path(), &["load", "layout"]).expect_success("load");
    assert_eq!(loaded, format!("app:1@{}\n", image.digest()));
    let layer = layer(directory.path());
    let owner = |path: &str| {
        let file = fs::symlink_metadata(layer.join(path)).unwrap();
        (file.uid(), file.gid())
    };
    assert_eq!(
        (owner("roots"), owner("closed/setuid")),
        ((USER, USER), (100_998, 100_997))
    );
    assert_eq!(
        fs::metadata(layer.join("closed/setuid")).unwrap().mode() & 0o7777,
        0o4755
    );
    // To look takes no namespace, to remove what is others' does.
    let listed = run(directory.path(), &["images", "--format", "json"]).expect_success("images");
    assert!(listed.starts_with(r#"{"name":"app:1","#), "{listed}");
    let pruned = run(directory.path(), &["images", "prune", "-a"]).expect_success("prune");
    assert_eq!(pruned, "removed 1 name and 1 layer, 0 B in all\n");
    assert!(!layer.exists());
    // An owner beyond the ids.
    let beyond = Image::new(&json!({}), vec![layer_of(&[("uid", b"70000")])], Compression::Gzip);
    fs::remove_dir_all(directory.path().join("layout")).unwrap();
    beyond.write(&directory.path().join("layout"), Some("app:1"));
    let error = run(directory.path(), &["load", "layout"]).stderr;
    assert!(
        error.contains("belongs to user 70000") && error.contains("subordinate ids"),
        "{error}"
    );
}

#[test]
fn an_image_of_dockers_store_is_taken() {
    let docker = Docker::start(&[("hello", "of docker")]);
    let directory = directory();
    let puller = |arguments: &[&str]| {
        let mut command = Command::new(imsup());
        command
            .arg("puller")
            .args(arguments)
            .env("DOCKER_HOST", docker.host())
            .env("HOME", directory.path())
            .env("IMSUP_IMAGE_DIR", directory.path().join("images"));
        command::run(command, LIMIT)
    };
    let pulled = puller(&[IMAGE]).expect_success("puller");
    assert!(pulled.starts_with(&format!("{IMAGE}@sha256:")), "{pulled}");
    let hello = layer(directory.path()).join("home/app/hello");
    assert_eq!(fs::read_to_string(hello).unwrap(), "of docker");
    assert_eq!(puller(&[IMAGE]).expect_success("puller"), pulled);
}

/// Takes the project of a directory down, also if its test fails.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        run(self.0, &["down"]);
    }
}

/// Programs of an image run as whom they want, and `down` removes what they made.
#[test]
fn a_host_has_the_users_of_its_image() {
    need(&["newuidmap", "newgidmap"]);
    let busybox = fs::read("/bin/busybox").expect("busybox-static is needed: scripts/setup.sh installs it");
    const ENTRY: &str = "#!/bin/busybox sh\nmkdir -m 700 /mine && busybox chown 999:998 /mine && \
                         exec busybox su app -s /bin/sh -c 'busybox id -u; exec busybox nc -l -p 7000'\n";
    let layer = Layer::of_root()
        .directory("bin", 0o755)
        .file_with("bin/busybox", 0o755, busybox)
        .symbolic_link("bin/sh", "busybox")
        .symbolic_link("bin/mkdir", "busybox")
        .file_with("entry", 0o755, ENTRY)
        .file("etc/passwd", "app:x:999:998::/:/bin/sh\n");
    let config = json!({"Entrypoint": ["/entry"], "ExposedPorts": {"7000/tcp": {}}});
    let directory = directory();
    Image::new(&config, vec![layer], Compression::Gzip).write(&directory.path().join("layout"), Some("app:1"));
    let compose = "name: ids\nservices: {web: {image: 'app:1', stop_grace_period: 100ms}}\n";
    fs::write(directory.path().join("compose.yaml"), compose).unwrap();
    chown(directory.path().join("compose.yaml"), Some(USER), Some(USER)).unwrap();
    let ok = |arguments: &[&str]| run(directory.path(), arguments).expect_success(&arguments.join(" "));
    ok(&["load", "layout"]);
    let _down = Down(directory.path());
    ok(&["up", "-d"]);
    ok(&["wake", "web"]);
    let address = ok(&["resolve", "web"]);
    drop(std::net::TcpStream::connect(format!("{}:7000", address.trim())).unwrap());
    assert_eq!(ok(&["logs", "web"]), "999\n");
    let mine = directory.path().join("state/ids/roots/web/upper/mine");
    assert_eq!(fs::metadata(&mine).unwrap().uid(), 100_998);
    ok(&["down"]);
    assert!(!directory.path().join("state/ids").exists());
}
