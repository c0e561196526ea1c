//! Images on the command line: `load`, `images`, `pull`.

mod common;

// The images and registries of the tests of the crate that keeps images.
#[path = "../../../broker/images/tests/images/archive.rs"]
#[allow(dead_code)] // each test binary uses its own part of these
mod archive;
#[path = "../../../broker/images/tests/images/image.rs"]
#[allow(dead_code)]
mod image;
#[path = "../../../broker/images/tests/images/server.rs"]
#[allow(dead_code)]
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use archive::Layer;
use common::command::{self, Finished, LIMIT};
use common::{Project, imsup};
use image::{Compression, Image};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use server::{Answer, Faulty, LOGIN, Registry};

fn sample() -> Image {
    let layer = Layer::new().file("etc/motd", "hello");
    Image::new(&json!({"Cmd": ["sh"]}), vec![layer], Compression::Gzip)
}

fn project() -> Project {
    Project::new("images", "services: {web: {image: app}}")
}

fn imsup_in(project: &Project, arguments: &[&str]) -> Command {
    let mut command = project.command(imsup(), arguments);
    command.env_remove("DOCKER_CONFIG");
    command
}

fn run(project: &Project, arguments: &[&str]) -> Finished {
    command::run(imsup_in(project, arguments), LIMIT)
}

#[track_caller]
fn ok(project: &Project, arguments: &[&str]) -> String {
    run(project, arguments).expect_success(&arguments.join(" "))
}

#[track_caller]
fn fails(project: &Project, arguments: &[&str]) -> String {
    let finished = run(project, arguments);
    assert_eq!(finished.code(), Some(1), "{finished}");
    finished.stderr
}

fn listed(project: &Project) -> Vec<Value> {
    let text = ok(project, &["images", "--format", "json"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An executable script in the directory `bin` of the project, which is first in the PATH.
fn script(project: &Project, name: &str, text: &str) -> String {
    let bin = project.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_file_is_loaded_listed_and_pruned() {
    let project = project();
    let image = sample();
    image.write(&project.path("layout"), Some("app:1"));
    let pinned = format!("app:1@{}\n", image.digest());
    assert_eq!(ok(&project, &["load", "layout"]), pinned);
    fs::write(project.path("saved.tar"), image.docker_archive(&["other/app:2"])).unwrap();
    assert!(ok(&project, &["load", "saved.tar"]).starts_with("other/app:2@sha256:"));
    let mut load = imsup_in(&project, &["load"]);
    load.stdin(fs::File::open(project.path("saved.tar")).unwrap());
    let loaded = load.stdout(Stdio::piped()).output().unwrap();
    assert!(
        loaded.status.success() && loaded.stdout.starts_with(b"other/app:2@sha256:"),
        "{loaded:?}"
    );
    let images = listed(&project);
    assert_eq!(images[0]["name"], "app:1");
    assert_eq!(images[0]["digest"], image.digest().to_string());
    assert_eq!(
        (images[0]["size"].as_u64(), &images[0]["used_by"]),
        (Some(5), &json!([]))
    );
    assert_eq!((images.len(), images[1]["name"].as_str()), (2, Some("other/app:2")));
    let table = ok(&project, &["images"]);
    assert!(
        table.starts_with("NAME         DIGEST               SIZE  USED BY\napp:1        sha256:"),
        "{table}"
    );
    assert_eq!(
        ok(&project, &["images", "prune"]),
        "removed 0 names and 0 layers, 0 B in all\n"
    );
    assert_eq!(
        ok(&project, &["images", "prune", "--all"]),
        "removed 2 names and 1 layer, 5 B in all\n"
    );
    assert_eq!(listed(&project), Vec::<Value>::new());
}

#[test]
fn what_cannot_be_loaded_is_said() {
    let project = project();
    fs::write(project.path("text"), "no image").unwrap();
    let error = fails(&project, &["load", "text"]);
    assert!(
        error.starts_with("imsup: loading text: text: reading the archive"),
        "{error}"
    );
    let error = fails(&project, &["load", "nosuch"]);
    assert!(error.contains("No such file"), "{error}");
    let hostile = Image::new(
        &json!({}),
        vec![Layer::new().file("../../escaped", "x")],
        Compression::None,
    );
    hostile.write(&project.path("layout"), Some("hostile"));
    let error = fails(&project, &["load", "layout"]);
    assert!(error.contains("'../../escaped' leads out of its directory"), "{error}");
    assert_eq!(listed(&project), Vec::<Value>::new());
    assert_eq!(fs::read_dir(project.path("images/temporary")).unwrap().count(), 0);
}

#[test]
fn the_images_of_services_are_pulled() {
    let registry = Registry::open();
    let image = sample();
    registry.push("app", "1", &image);
    registry.push("db", "latest", &image);
    let compose = format!(
        "services:\n  web: {{image: '{0}/app:1'}}\n  worker: {{image: '{0}/app:1'}}\n  db: {{image: '{0}/db'}}\n  \
         built: {{image: nosuch, build: .}}\n  off: {{image: nosuch, profiles: [extra]}}\n",
        registry.address
    );
    let project = Project::new("images", &compose);
    let name = registry.name("db:latest");
    let pulled = project.imsup(&["pull", "db"]);
    assert_eq!(pulled.stdout, format!("{name}@{}\n", image.digest()), "{pulled}");
    assert!(pulled.stderr.contains(&format!("{name}: 1 of 1 layers, ")), "{pulled}");
    let pulled = project.imsup(&["pull", "--quiet"]);
    assert_eq!(
        (pulled.stdout.lines().count(), pulled.stderr.as_str()),
        (2, ""),
        "{pulled}"
    );
    let names: Vec<Value> = listed(&project).iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, [json!(registry.name("app:1")), json!(name)]);
    let error = project.fails(1, &["pull", "dbb"]);
    assert!(
        error.contains("no service 'dbb' with an image") && error.contains("hint: it has images for web"),
        "{error}"
    );
    project.write_compose(&format!("services: {{web: {{image: '{}/app:2'}}}}", registry.address));
    let error = project.fails(1, &["pull"]);
    let missing = registry.name("app:2");
    assert!(
        error.starts_with(&format!("imsup: {missing} does not exist in its registry")),
        "{error}"
    );
}

#[test]
fn a_pull_policy_decides_whether_the_registry_is_asked() {
    let registry = Registry::open();
    let project = project();
    let name = registry.name("app:1");
    let push = |content: &str| {
        let layer = Layer::new().file("etc/motd", content);
        let image = Image::new(&json!({}), vec![layer], Compression::Gzip);
        registry.push("app", "1", &image);
        format!("{name}@{}\n", image.digest())
    };
    let puller = |policy: &str| {
        let finished = run(&project, &["puller", &format!("{name},pull={policy}")]);
        assert_eq!(finished.code(), Some(0), "{finished}");
        finished
    };
    let error = fails(&project, &["puller", &format!("{name},pull=never")]);
    assert!(
        error.contains("is not in the store") && error.contains("\nhint: build it"),
        "{error}"
    );
    let first = push("1");
    assert_eq!(puller("missing").stdout, first);
    let second = push("2");
    for policy in ["missing", "never", "build", "daily"] {
        let kept = puller(policy);
        assert_eq!((kept.stdout, kept.stderr), (first.clone(), String::new()), "{policy}");
    }
    assert_eq!(puller("always").stdout, second);
    // As if that had been on the first of January 1970.
    let names = project.path("images/names.json");
    let mut pulled: Value = serde_json::from_slice(&fs::read(&names).unwrap()).unwrap();
    pulled["names"][&name]["since"] = json!(0);
    fs::write(&names, pulled.to_string()).unwrap();
    let third = push("3");
    assert_eq!(puller("missing").stdout, second);
    assert_eq!(puller("weekly").stdout, third);
    assert_eq!(puller("every_1h").stderr, "");
    let far = puller("never,platform=linux/s390x");
    assert!(
        far.stderr.contains("warning: the image ") && far.stderr.contains(", not for linux/s390x"),
        "{far}"
    );
}

#[test]
fn logins_that_cannot_be_read_are_no_reason_not_to_pull() {
    let registry = Registry::open();
    registry.push("app", "1", &sample());
    let project = project();
    fs::create_dir(project.path(".docker")).unwrap();
    fs::write(project.path(".docker/config.json"), "{").unwrap();
    let pulled = run(&project, &["puller", "--quiet", &registry.name("app:1")]);
    assert_eq!(pulled.code(), Some(0), "{pulled}");
    assert!(
        pulled.stderr.contains("config.json cannot be read") && pulled.stderr.contains("without a login"),
        "{pulled}"
    );
}

#[test]
fn a_credential_helper_is_asked() {
    let registry = Registry::with_login();
    registry.push("app", "1", &sample());
    let project = project();
    let helper = format!(
        "read server\n[ \"$1 $server\" = 'get {}' ] || exit 1\necho '{{\"Username\": \"{}\", \"Secret\": \"{}\"}}'\n",
        registry.address, LOGIN.0, LOGIN.1
    );
    let path = script(&project, "docker-credential-test", &helper);
    fs::create_dir(project.path(".docker")).unwrap();
    let config = json!({"credHelpers": {registry.address.clone(): "test"}, "auths": {registry.address.clone(): {}}});
    fs::write(project.path(".docker/config.json"), config.to_string()).unwrap();
    let pull = |path: Option<&str>| {
        let name = registry.name("app:1");
        let mut command = imsup_in(&project, &["puller", &name]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command::run(command, LIMIT)
    };
    let error = pull(None).stderr;
    assert!(
        error.contains("(401); docker-credential-test failed: No such file"),
        "{error}"
    );
    pull(Some(&path)).expect_success("puller");
}

#[test]
fn dockers_own_store_is_asked_before_a_registry() {
    let project = project();
    let image = sample();
    fs::write(project.path("saved.tar"), image.docker_archive(&["localhost/app:1"])).unwrap();
    let docker = format!(
        "case \"$1 $2\" in\n'image inspect') [ \"$5\" = app:1 ] ;;\n'save app:1') cat {} ;;\n*) exit 1 ;;\nesac\n",
        project.path("saved.tar").display()
    );
    let path = script(&project, "docker", &docker);
    script(&project, "podman", "exit 125\n");
    let puller = |arguments: &[&str]| {
        let mut command = imsup_in(&project, &[&["puller"], arguments].concat());
        command.env("PATH", &path);
        command::run(command, LIMIT)
    };
    let pulled = puller(&["app:1"]).expect_success("puller");
    assert!(pulled.starts_with("app:1@sha256:"), "{pulled}");
    // From now on it is in the store.
    fs::remove_file(project.path("saved.tar")).unwrap();
    assert_eq!(puller(&["app:1"]).expect_success("puller"), pulled);
    // What Docker does not have comes from the registry, where nobody listens.
    let error = puller(&["127.0.0.1:1/app:2"]).stderr;
    assert_eq!(
        error,
        "imsup: the image 127.0.0.1:1/app:2: the registry 127.0.0.1:1 cannot be reached: Connection refused (os error \
         111); does it run?\n"
    );
}

#[test]
fn an_interrupted_pull_leaves_what_the_next_one_uses() {
    let image = Arc::new(sample());
    let (layer, asked) = mpsc::channel();
    // The first question for a layer gets no answer.
    let (served, stalls) = (Arc::clone(&image), Mutex::new(Some(layer)));
    let registry = Faulty::new(move |asked, _| {
        let wanted = asked.path.rsplit('/').next().unwrap();
        let found = served.blobs.iter().find(|blob| blob.digest().to_string() == wanted);
        let is_layer = wanted == served.blobs[0].digest().to_string();
        let first = stalls.lock().unwrap().take_if(|_| is_layer);
        if let Some(layer) = first {
            layer.send(()).unwrap();
            // Until the process ends.
            loop {
                std::thread::park();
            }
        }
        match found {
            Some(blob) => Answer::ok(blob.content.clone()),
            None if wanted == "1" => Answer::ok(served.manifest().content.clone()),
            None => Answer::ok("{}"),
        }
    });
    let project = project();
    let name = format!("{}/app:1", registry.address);
    let mut puller = imsup_in(&project, &["puller", &name])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    asked.recv_timeout(LIMIT).unwrap();
    kill_process(Pid::from_child(&puller), Signal::INT).unwrap();
    assert!(!puller.wait().unwrap().success());
    assert_eq!(listed(&project), Vec::<Value>::new());
    ok(&project, &["puller", &name]);
    assert_eq!(listed(&project).len(), 1);
    for directory in ["temporary", "partial"] {
        let path = project.path("images").join(directory);
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{directory}");
    }
}
