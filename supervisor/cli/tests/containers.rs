//! Hosts with images: the same compose file as under docker compose, booted by the first connection.

mod common;

#[path = "../../../broker/images/tests/images/archive.rs"]
#[allow(dead_code)] // each test binary uses its own part of these
mod archive;
#[path = "../../../broker/images/tests/images/image.rs"]
#[allow(dead_code)]
mod image;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use archive::Layer;
use common::command::{self, LIMIT};
use common::{Project, client, imsup, wait_until};
use image::{Compression, Image};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Debian's static busybox, with whatever else the layer has.
fn busybox() -> Layer {
    let paths = ["/bin/busybox", "/usr/bin/busybox"];
    let found = paths.iter().find_map(|path| fs::read(path).ok());
    let program = found.expect("busybox-static is needed: scripts/setup.sh installs it");
    let layer = Layer::of_root()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("tmp", 0o1777)
        .file_with("bin/busybox", 0o755, program)
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:82:82::/www:/bin/sh\n")
        .file("etc/group", "root:x:0:\nwww:x:82:\n");
    let applets = [
        "sh", "cat", "chmod", "chown", "echo", "hostname", "httpd", "id", "ls", "nc", "rm", "sleep", "touch", "wget",
    ];
    applets.iter().fold(layer, |layer, name| {
        layer.symbolic_link(&format!("bin/{name}"), "busybox")
    })
}

/// A web server whose data is a volume.
fn site() -> Image {
    let owner: &[(&str, &[u8])] = &[("uid", b"82"), ("gid", b"82")];
    let layer = busybox()
        .directory("www", 0o755)
        .file("www/index.html", "hello from the image")
        .records(owner)
        .directory("data", 0o700)
        .records(owner)
        .file("data/seed", "seeded");
    let config = json!({
        "Cmd": ["httpd", "-f", "-p", "8080", "-h", "/www"],
        "ExposedPorts": {"8080/tcp": {}},
        "Env": ["A=image", "B=image"],
        "WorkingDir": "/www",
        "Volumes": {"/data": {}},
        // A first process of a pid namespace is not ended by signals that it does not handle
        // (pid_namespaces(7)).
        "StopSignal": "SIGKILL",
    });
    Image::new(&config, vec![layer], Compression::Gzip)
}

/// A project of this compose file, for which an image `site` is in the store.
fn project(compose: &str) -> Project {
    let project = Project::new("containers", compose);
    site().write(&project.path("layout"), Some("site:latest"));
    of_store(&project, &["load", "layout"]);
    project
}

/// A verb of the store, which is about no project.
#[track_caller]
fn of_store(project: &Project, arguments: &[&str]) -> String {
    let finished = command::run(project.command(imsup(), arguments), LIMIT);
    finished.expect_success(&arguments.join(" "))
}

/// What the server of a host sends.
fn get(project: &Project, host: &str, path: &str) -> String {
    let mut stream = client::connect(project.at(host, 8080)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let answer = all(stream);
    answer
        .split_once("\r\n\r\n")
        .map_or(answer.clone(), |(_, body)| body.to_owned())
}

fn all(mut stream: TcpStream) -> String {
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn an_image_boots_with_its_first_connection_sleeps_and_wakes() {
    let project = project("services: {web: {image: site, x-imsup: {idle_after: 100ms}}}");
    project.ok(&["up", "-d"]);
    assert_eq!(project.host("web").state, "imaginary");
    assert_eq!(get(&project, "web", "/"), "hello from the image");
    project.wait_state("web", "suspended");
    assert_eq!(get(&project, "web", "/"), "hello from the image");
    assert_eq!(project.host("web").boots, 1);
    project.ok(&["stop", "web"]);
    assert_eq!(get(&project, "web", "/"), "hello from the image");
    assert_eq!(project.host("web").boots, 2);
}

#[test]
fn a_command_on_a_terminal_has_one_of_its_root() {
    let project = project("services: {web: {image: site}}");
    project.ok(&["up", "-d"]);
    let exec = format!(
        "{} exec -p {} web sh -c 'tty; ls -1 /dev/pts; echo $TERM; sh -ic \"case \\$- in *m*) echo controls jobs;; esac\" 2>&1'",
        imsup().display(),
        project.name
    );
    // script(1) gives the command a terminal, with names of this machine.
    let said = command::run(project.command("script", &["-qec", &exec, "/dev/null"]), LIMIT).expect_success(&exec);
    // script(1) types an end of its input, which may be echoed before.
    let said = said.replace('\r', "");
    for text in ["/dev/pts/0\n0\nptmx\nxterm\n", "\ncontrols jobs\n"] {
        assert!(said.contains(text), "no '{text}': {said}");
    }
}

#[test]
fn a_command_beside_a_program_has_its_root_variables_and_directory() {
    let project = project(
        "services:
  web:
    image: site
    hostname: face
    environment: {B: file}
    extra_hosts: [\"machine:host-gateway\", \"far=10.0.0.7\"]
    healthcheck: {test: \"echo -n $$A $$B $$(hostname) $$PWD > /tmp/checked\"}
  other: {image: site}
",
    );
    project.ok(&["up", "-d"]);
    let said = |arguments: &[&str]| project.ok(&[&["exec"], arguments].concat());
    assert_eq!(
        said(&[
            "web",
            "--",
            "sh",
            "-c",
            "echo $A $B $(hostname) $PWD; ls -d /proc/1 /data; test -e /usr || echo no usr"
        ]),
        "image file face /www\n/data\n/proc/1\nno usr\n"
    );
    assert_eq!(
        said(&["-w", "/tmp", "-e", "C=own", "web", "--", "sh", "-c", "echo $PWD $C"]),
        "/tmp own\n"
    );
    let names = said(&["web", "--", "cat", "/etc/hosts", "/etc/hostname"]);
    assert!(
        names.starts_with("127.0.0.1\tlocalhost\n") && names.ends_with("\nface\n"),
        "{names}"
    );
    // The machine's own services, by the name that its host has for it; another host has none.
    let machine = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = machine.local_addr().unwrap().port();
    let answering = thread::spawn(move || {
        let (mut client, _) = machine.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        client.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe machine").unwrap();
    });
    let url = format!("http://machine:{port}/");
    assert_eq!(said(&["web", "--", "wget", "-q", "-O", "-", &url]), "the machine");
    answering.join().unwrap();
    assert!(
        !project
            .imsup(&["exec", "other", "--", "wget", "-q", "-O", "-", &url])
            .success()
    );
    // So has a health check.
    let checked = project.wait_event("web", "healthy", 1);
    assert_eq!(checked.by, None, "{:?}", checked.json);
    assert_eq!(said(&["web", "--", "cat", "/tmp/checked"]), "image file face /www");
    // Names of other hosts, and a connection that boots one.
    assert_eq!(
        said(&["web", "--", "wget", "-q", "-O", "-", "http://other:8080/"]),
        "hello from the image"
    );
    assert_eq!(project.host("other").boots, 1);
}

#[test]
fn changes_stay_until_down_and_volumes_stay_for_ever() {
    let project = project(
        "services:\n  web: {image: site, volumes: [\"kept:/kept\", \"data:/data\", /own]}\nvolumes: {kept: {}, data: {}}\n",
    );
    let sh = |script: &str| project.ok(&["exec", "web", "--", "sh", "-c", script]);
    project.ok(&["up", "-d"]);
    // A new volume takes the content of the image, and the owner.
    assert_eq!(sh("cat /data/seed; touch /changed /kept/there /data/there"), "seeded");
    project.ok(&["stop", "web"]);
    assert_eq!(
        sh("touch /own/there; ls -d /changed /kept/there"),
        "/changed\n/kept/there\n"
    );
    // What is made anew begins with its image; also anonymous volumes stay.
    assert!(project.ok(&["up", "-d"]).contains("nothing has changed"));
    let file = fs::read_to_string(project.path("compose.yaml")).unwrap();
    project.write_compose(&file.replace("image: site,", "image: site, environment: {A: anew},"));
    assert!(project.ok(&["up", "-d"]).contains("web: changed (environment)"));
    let list = "echo $A; ls -d /changed /own/there /kept/there /data/there 2>/dev/null; true";
    assert_eq!(sh(list), "anew\n/data/there\n/kept/there\n/own/there\n");
    project.ok(&["down"]);
    project.ok(&["up", "-d"]);
    assert_eq!(
        sh("ls -d /changed /kept/there /data/there 2>/dev/null; cat /data/seed"),
        "/data/there\n/kept/there\nseeded"
    );
    // -v takes the volumes as well; those of others stay.
    let other = project.path("state/.volumes/others");
    fs::create_dir(&other).unwrap();
    let said = project.imsup(&["down", "-v"]);
    assert!(
        said.success() && said.stderr.contains("volume '") && said.stderr.contains("_data'"),
        "{said}"
    );
    assert!(other.exists());
    project.ok(&["up", "-d"]);
    assert_eq!(
        sh("ls -d /kept/there /data/there 2>/dev/null; cat /data/seed"),
        "seeded"
    );
}

#[test]
fn the_files_mounts_are_there() {
    let project = project(
        "services:\n  web:\n    image: site\n    read_only: true\n    security_opt: [\"no-new-privileges:true\", \"seccomp=unconfined\"]\n    tmpfs: [/scratch]\n    devices: [\"/dev/null:/dev/mine:rwm\"]\n    secrets: [key]\n    configs: [{source: conf, target: /etc/conf}]\n    \
         volumes: [\"./mine:/mine\", \"./mine:/never:ro\"]\nsecrets: {key: {file: ./key}}\nconfigs: {conf: {content: \"a $${b}\"}}\n",
    );
    fs::write(project.path("key"), "secret").unwrap();
    fs::create_dir(project.path("mine")).unwrap();
    fs::write(project.path("mine/file"), "of the machine").unwrap();
    project.ok(&["up", "-d"]);
    let sh = |script: &str| project.ok(&["exec", "web", "--", "sh", "-c", script]);
    assert_eq!(
        sh("cat /run/secrets/key /etc/conf /mine/file"),
        "secreta ${b}of the machine"
    );
    assert_eq!(
        sh("for f in /x /etc/x /never/x /scratch/x /mine/x; do touch $f 2>/dev/null && echo $f; done; true"),
        "/scratch/x\n/mine/x\n"
    );
    assert_eq!(sh("echo x > /dev/mine && echo written; cat /dev/mine"), "written\n");
    for process in ["1", "self"] {
        let status = sh(&format!("cat /proc/{process}/status"));
        assert!(status.contains("NoNewPrivs:\t1\n"), "{process}: {status}");
    }
    assert!(project.path("mine/x").exists());
}

#[test]
fn a_user_of_the_image_owns_what_it_makes() {
    let project = project(
        "services:\n  web:\n    image: site\n    user: www\n    entrypoint: [\"\"]\n    command: [sh, -c, \"id -u; id -g; touch /data/own && ls /data; exec nc -l -p 7000 </dev/null\"]\n    expose: [\"7000\"]\n",
    );
    project.ok(&["up", "-d"]);
    let stream = client::connect(project.at("web", 7000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(stream), "");
    assert_eq!(project.ok(&["logs", "web"]), "82\n82\nown\nseed\n");
}

/// The pattern of the images of postgres, redis and mysql: the entrypoint gives the data to the
/// server's user as root, and becomes that user.
#[test]
fn an_entrypoint_that_leaves_root_serves() {
    const ENTRY: &str = "#!/bin/sh\nset -e\nif [ $(id -u) = 0 ]; then\n  chown -R www:www /data\n  exec busybox su www -s /bin/sh -c 'exec /entry'\nfi\n\
                         id -u; touch /data/pid; exec httpd -f -p 8080 -h /data\n";
    let owner: &[(&str, &[u8])] = &[("uid", b"82"), ("gid", b"82")];
    let layer = busybox()
        .file_with("entry", 0o755, ENTRY)
        .records(owner)
        .directory("data", 0o700)
        .records(owner)
        .file("data/index.html", "data");
    let config = json!({"Entrypoint": ["/entry"], "ExposedPorts": {"8080/tcp": {}}, "Volumes": {"/data": {}}, "StopSignal": "9"});
    let image = Image::new(&config, vec![layer], Compression::Gzip);
    let project = Project::new("containers", "services: {db: {image: db}}");
    image.write(&project.path("layout"), Some("db:latest"));
    of_store(&project, &["load", "layout"]);
    project.ok(&["up", "-d"]);
    assert_eq!(get(&project, "db", "/"), "data");
    assert_eq!(project.ok(&["logs", "db"]), "82\n");
}

/// A service without ports that nobody mentions starts with `up`, and sleeps while it waits.
#[test]
fn a_worker_starts_with_up_and_sleeps_while_it_waits() {
    let project = Project::new(
        "containers",
        "services:\n  worker: {image: plain, command: [sh, -c, \"echo at work; exec cat /pipe/jobs\"], volumes: [\"./pipe:/pipe\"], x-imsup: {idle_after: 100ms}}\n  \
         other: {image: plain, command: [cat], x-imsup: {start: connection}}\n",
    );
    let image = Image::new(&json!({"StopSignal": "9"}), vec![busybox()], Compression::Gzip);
    image.write(&project.path("layout"), Some("plain:latest"));
    of_store(&project, &["load", "layout"]);
    fs::create_dir(project.path("pipe")).unwrap();
    let jobs = project.path("pipe/jobs");
    rustix::fs::mkfifoat(rustix::fs::CWD, &jobs, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    project.ok(&["up", "-d"]);
    project.wait_state("worker", "suspended");
    assert_eq!(project.ok(&["logs", "worker"]), "at work\n");
    assert_eq!(project.host("other").state, "imaginary");
    fs::write(&jobs, "a job\n").unwrap();
    project.wait_event("worker", "exit", 1);
    assert_eq!(project.ok(&["logs", "worker"]), "at work\na job\n");
}

#[test]
fn what_cannot_be_had_is_said_and_nothing_is_left() {
    let fails = |compose: &str| {
        let project = project(compose);
        let finished = project.imsup(&["up", "-d"]);
        assert_eq!(finished.code(), Some(1), "{finished}");
        for directory in ["run", "state"] {
            assert!(!project.path(directory).join(&project.name).exists(), "{directory}");
        }
        finished.stderr
    };
    let never = fails("services: {web: {image: nosuch, pull_policy: never}}");
    assert!(
        never.contains("nosuch:latest is not in the store") && never.contains("imsup load"),
        "{never}"
    );
    let bad = fails("services: {web: {image: 'Not A Name'}}");
    assert!(bad.contains("Not A Name"), "{bad}");
    let user = fails("services: {web: {image: site, user: stranger}}");
    assert!(user.contains("no user 'stranger' in its image"), "{user}");
    let source = fails(
        "services: {web: {image: site, volumes: [{type: bind, source: ./none, target: /x, bind: {create_host_path: false}}]}}",
    );
    assert!(source.contains("none") && source.contains("does not exist"), "{source}");
    let external = fails("services: {web: {image: site, volumes: ['v:/x']}}\nvolumes: {v: {external: true}}");
    assert!(external.contains("'v' is external"), "{external}");
}

/// Ctrl-C while a registry answers slowly: it answers for a minute, unless nobody listens any more.
#[test]
fn an_up_that_is_interrupted_leaves_no_puller() {
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/app", registry.local_addr().unwrap());
    let project = Project::new("containers", &format!("services: {{web: {{image: '{image}'}}}}"));
    let mut up = project
        .imsup_command(&["up", "-d"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut asked, _) = registry.accept().unwrap();
    kill_process(Pid::from_child(&up), Signal::INT).unwrap();
    assert!(!up.wait().unwrap().success());
    asked
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
        .unwrap();
    let is_gone = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        asked.write_all(b" ").is_err()
    });
    assert!(is_gone, "the puller goes on");
}

#[test]
fn an_image_in_use_is_not_pruned() {
    let project = project("services: {web: {image: site}}");
    project.ok(&["up", "-d"]);
    let listed: Value = serde_json::from_str(&of_store(&project, &["images", "--format", "json"])).unwrap();
    assert_eq!(listed["used_by"], json!([project.name]));
    of_store(&project, &["images", "prune", "--all"]);
    assert_eq!(get(&project, "web", "/"), "hello from the image");
    project.ok(&["down"]);
    let listed: Value = serde_json::from_str(&of_store(&project, &["images", "--format", "json"])).unwrap();
    assert_eq!(listed["used_by"], json!([]));
    assert!(of_store(&project, &["images", "prune", "--all"]).starts_with("removed 1 name and 1 layer"));
}

/// A program may open its output by its name, as under docker: nothing that it has printed is lost, and
/// a program that is another user may as well.
#[test]
fn output_may_be_opened_by_its_name() {
    let project = project(
        "services:
  web:
    image: site
    command: [sh, -c, \"echo a; echo b > /dev/stdout; echo c; echo d > /dev/stderr; echo e >&2; cat /data/go; echo f > /dev/stdout; exec sleep 1000\"]
    x-imsup: {start: up}
    volumes: [\"./data:/data\"]
  other:
    image: site
    user: \"82\"
    command: [sh, -c, \"echo a; echo b > /dev/stdout; exec sleep 1000\"]
    x-imsup: {start: up}
",
    );
    let go = project.path("data/go");
    fs::create_dir(project.path("data")).unwrap();
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    project.ok(&["up", "-d", "--wait"]);
    let prints = |host: &str, lines: &str| {
        wait_until("the output to be in the log", || {
            project.ok(&["logs", "--no-log-prefix", host]) == lines
        });
    };
    prints("web", "a\nb\nc\nd\ne\n");
    prints("other", "a\nb\n");
    // The next broker goes on reading.
    project.kill(project.broker());
    fs::write(&go, "").unwrap();
    prints("web", "a\nb\nc\nd\ne\nf\n");
}
