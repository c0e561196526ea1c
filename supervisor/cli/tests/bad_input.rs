//! Bad input: a clear error, a non-zero status, no loss, no leftovers.

mod common;

use std::io::{BufRead, BufReader};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use common::client::ask;
use common::command::{Background, run};
use common::{LIMIT, Project};
use imsup_protocol::Request;
use imsup_protocol::codec::encode;
use imsup_protocol::control::Opening;
use imsup_protocol::version::{OURS, Versions};
use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const GOOD: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

/// `up -d` on this file fails, prints all these words, and leaves no process or file.
#[track_caller]
fn refused(label: &str, compose: &str, words: &[&str]) {
    let project = Project::new(label, compose);
    let finished = project.imsup(&["up", "-d"]);
    assert_eq!(finished.code(), Some(1), "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "'{word}' in: {finished}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished}");
    project.expect_nothing_left();
}

#[test]
fn malformed_yaml_is_shown_with_line_and_column() {
    refused(
        "yaml",
        "services:\n  web:\n    command: [a, b\n    expose: 1\n",
        &["compose.yaml:", "malformed YAML"],
    );
    refused("tabs", "services:\n\tweb: {}\n", &["compose.yaml:2:", "tabs"]);
    refused("empty", "", &["compose.yaml"]);
    refused("binary", "\0\x01\x02", &["compose.yaml"]);
    refused("list", "- a\n- b\n", &["compose.yaml"]);
}

#[test]
fn an_unknown_key_is_named_with_its_path_and_the_nearest_is_suggested() {
    let compose = GOOD.replace("expose:", "expoes:");
    let project = Project::new("misspelt", &compose);
    let finished = project.imsup(&["up", "-d"]);
    for word in ["services.web.expoes", "expose"] {
        assert!(finished.stderr.contains(word), "'{word}' in {finished}");
    }
    project.ok(&["down"]);
    let finished = project.imsup(&["up", "-d", "--strict"]);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("services.web.expoes"), "{finished}");
    project.expect_nothing_left();
}

#[test]
fn an_unsupported_key_is_named_once_and_is_an_error_with_strict() {
    let compose = GOOD.replace("expose:", "volumes: [\"./data:/data\"], expose:");
    let project = Project::up("unsupported", &compose);
    let finished = project.imsup(&["config"]);
    assert_eq!(finished.stderr.matches("services.web.volumes").count(), 1, "{finished}");
    assert_eq!(
        ask(project.at("web", 8080)).value("host"),
        "web",
        "the rest is honoured"
    );
    project.down();
    let said = project.fails(1, &["up", "-d", "--strict"]);
    assert!(said.contains("services.web.volumes"), "{said}");
}

#[test]
fn two_services_with_one_address_are_named() {
    refused(
        "addresses",
        r#"
services:
  one: { command: [a], networks: { default: { ipv4_address: 127.77.200.9 } } }
  two: { command: [b], networks: { default: { ipv4_address: 127.77.200.9 } } }
"#,
        &["one", "two", "127.77.200.9"],
    );
}

#[test]
fn a_service_without_a_command_and_an_image_is_told_what_to_add() {
    refused(
        "nothing",
        "services:\n  cache: { expose: [\"80\"] }\n",
        &["services.cache", "command"],
    );
}

#[test]
fn a_missing_program_is_named_when_it_is_needed() {
    let project = Project::up(
        "missing",
        "services:\n  web: { command: [/nowhere/program], expose: [\"8080\"], x-imsup: { hold_timeout: 30s } }\n",
    );
    let said = project.fails(1, &["wake", "web"]);
    assert!(said.contains("/nowhere/program"), "{said}");
}

#[test]
fn an_occupied_published_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    refused(
        "published",
        &format!("services:\n  web: {{ command: [a], ports: [\"127.0.0.1:{port}:80\"] }}\n"),
        &[&port.to_string(), "in use"],
    );
}

#[test]
fn an_occupied_address_is_named() {
    let project = Project::up("first", GOOD);
    let address = project.host("web").address;
    let second = Project::new(
        "second",
        &format!(
            "services:\n  web: {{ command: [a], expose: [\"8080\"], networks: {{ default: {{ ipv4_address: {address} }} }} }}\n"
        ),
    );
    let finished = second.imsup(&["up", "-d"]);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("127.77."), "{finished}");
    second.expect_nothing_left();
    assert_eq!(
        ask(project.at("web", 8080)).value("host"),
        "web",
        "the first is unharmed"
    );
}

#[test]
fn no_compose_file_is_told() {
    let project = Project::new("none", GOOD);
    std::fs::remove_file(project.path("compose.yaml")).unwrap();
    let finished = run(project.command(common::imsup(), &["up", "-d"]), LIMIT);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("compose.yaml"), "{finished}");
    let finished = project.imsup(&["up", "-d", "-f", "nowhere.yaml"]);
    assert!(
        !finished.success() && finished.stderr.contains("nowhere.yaml"),
        "{finished}"
    );
}

#[test]
fn a_second_up_is_told_and_harms_nothing() {
    let project = Project::up("second", GOOD);
    let pid = ask(project.at("web", 8080)).pid();
    assert!(project.ok(&["up", "-d"]).contains("nothing has changed"));
    // In a terminal it shows what the programs print, until Ctrl-C.
    let mut up = Background::conversing(project.imsup_command(&["up"]));
    let mut said = BufReader::new(up.child.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("nothing has changed"));
    up.signal(Signal::INT);
    up.finish(LIMIT);
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
}

#[test]
fn a_socket_left_by_a_dead_broker_is_replaced() {
    let project = Project::new("stale", GOOD);
    std::fs::create_dir_all(project.runtime()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(project.runtime().join("broker.sock")).unwrap());
    std::fs::write(project.runtime().join("broker.lock"), "999999\n").unwrap();
    let said = project.fails(1, &["ps"]);
    assert!(said.contains("died and left its files"), "{said}");
    project.ok(&["up", "-d"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
}

#[test]
fn verbs_without_a_broker_say_what_to_do() {
    let project = Project::new("unreached", GOOD);
    for arguments in [
        &["ps"][..],
        &["events"],
        &["wake"],
        &["stop"],
        &["hosts"],
        &["resolve", "web"],
        &["logs"],
        &["suspend", "web"],
        &["resume", "web"],
        &["keep-awake", "web", "--for", "1m"],
        &["why", "web"],
        &["usage"],
        &["events", "--follow"],
        &["events", "--tree"],
    ] {
        let said = project.fails(1, arguments);
        assert!(said.contains("imsup up"), "{arguments:?}: {said}");
    }
    let finished = project.imsup(&["exec", "web", "--", "true"]);
    assert!(
        !finished.success() && finished.stderr.contains("imsup up"),
        "{finished}"
    );
    assert!(project.imsup(&["down"]).success(), "what is not up is down");
}

#[test]
fn an_unknown_host_is_named_with_the_nearest() {
    let project = Project::up("unknown", GOOD);
    for arguments in [
        &["wake", "wbe"][..],
        &["stop", "wbe"],
        &["restart", "wbe"],
        &["ps", "wbe"],
        &["logs", "wbe"],
        &["events", "wbe"],
        &["events", "--tree", "wbe"],
        &["suspend", "web", "wbe"],
        &["resume", "wbe"],
        &["keep-awake", "wbe", "--for", "1m"],
        &["why", "wbe"],
        &["usage", "wbe"],
    ] {
        let said = project.fails(1, arguments);
        assert!(
            said.contains("'wbe'") && said.contains("did you mean 'web'?"),
            "{arguments:?}: {said}"
        );
    }
    assert_eq!(project.host("web").state, "imaginary", "none of them did anything");
}

#[test]
fn durations_that_are_none_negative_or_absurd_are_told() {
    let project = Project::up("durations", GOOD);
    for (duration, says) in [
        ("", "no duration"),
        ("soon", "such as 1m30s"),
        ("10", "write 10s"),
        ("-5m", "negative"),
        ("1e9s", "no duration"),
        ("366d", "the longest here is 365d"),
        ("99999999999w", "the longest here is 365d"),
    ] {
        let said = project.fails(2, &["keep-awake", "web", "--for", duration]);
        assert!(said.contains(says), "'{duration}': {said}");
    }
    assert_eq!(project.host("web").boots, 0);
}

#[test]
fn suspending_what_does_not_run_is_told() {
    let project = Project::up("absent", GOOD);
    for verb in ["suspend", "resume"] {
        let said = project.fails(1, &[verb, "web"]);
        assert!(said.contains("'web' does not run"), "{verb}: {said}");
    }
    assert_eq!(project.host("web").boots, 0, "neither boots it");
}

#[test]
fn usage_errors_have_status_2() {
    let project = Project::new("usage", GOOD);
    for arguments in [
        &["nosuch"][..],
        &["ps", "--format", "xml"],
        &["run"],
        &["resolve"],
        &["suspend"],
        &["keep-awake", "web"],
        &["events", "--tree", "--follow"],
        &[],
    ] {
        let finished = run(project.command(common::imsup(), arguments), LIMIT);
        assert_eq!(finished.code(), Some(2), "{arguments:?}: {finished}");
        assert!(!finished.stderr.is_empty());
    }
}

#[test]
fn a_supervisor_inside_a_supervisor_is_told_why_not() {
    let project = Project::up("nested", GOOD);
    let imsup = common::imsup();
    let finished = project.run(&[imsup.to_str().unwrap(), "run", "-p", &project.name, "--", "true"]);
    assert!(!finished.success(), "{finished}");
    assert!(
        finished.stderr.contains("seccomp") || finished.stderr.contains("imsup"),
        "{finished}"
    );
    assert!(
        finished.stderr.contains("listener") || finished.stderr.contains("already"),
        "{finished}"
    );
}

/// As on a kernel without seccomp user notification: seccomp(2) fails, by a filter that children of
/// this thread inherit.
#[test]
fn a_kernel_without_user_notification_is_told() {
    let project = Project::up("old-kernel", GOOD);
    let run_true = project.imsup_command(&["run", "--", "true"]);
    let doctor = project.command(common::imsup(), &["doctor"]);
    let [ran, examined] = std::thread::spawn(move || {
        let rules = [(nix::libc::SYS_seccomp, vec![])].into_iter().collect();
        let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(nix::libc::ENOSYS as u32));
        let filter = SeccompFilter::new(rules, allow, refuse, TargetArch::x86_64).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        [run(run_true, LIMIT), run(doctor, LIMIT)]
    })
    .join()
    .unwrap();
    assert_eq!(ran.code(), Some(125), "{ran}");
    assert!(
        ran.stderr.contains("Linux 5") && ran.stderr.contains("imsup doctor"),
        "{ran}"
    );
    assert_eq!(examined.code(), Some(1), "{examined}");
    assert!(examined.stdout.contains("no host can run"), "{examined}");
    assert_eq!(project.host("web").state, "imaginary", "nothing is lost");
}

/// The broker's answer to bytes on its socket; the broker must hang up and go on.
fn send_raw(project: &Project, bytes: &[u8]) {
    let mut stream = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The broker may have hung up while the bytes are being sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the broker hangs up"),
    }
}

#[test]
fn wire_messages_that_are_none_harm_nothing() {
    let project = Project::up("wire", GOOD);
    let asking =
        |versions: Versions, request| [&versions.to_hello()[..], &encode(&Opening::Control(request)).unwrap()].concat();
    let good = asking(OURS, Request::Hosts);
    let newer = asking(newer(), Request::Down);
    let mut trailing = good.clone();
    trailing[OURS.to_hello().len()] += 1;
    trailing.push(0);
    let mut all_versions = good.clone();
    all_versions[8..12].copy_from_slice(&[1, 0, 0xff, 0xff]);
    for bytes in [
        &b""[..],
        b"\x01",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x05\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        &good[..good.len() - 1],
        &trailing,
        &newer,
        &good[..7],
        &good[12..],
        &all_versions,
        &vec![0xff; 2 << 20],
    ] {
        send_raw(&project, bytes);
    }
    let silent: Vec<_> = (0..50)
        .map(|_| UnixStream::connect(project.runtime().join("broker.sock")).unwrap())
        .collect();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    drop(silent);
    assert_eq!(project.ps().len(), 1);
}

/// A range of which this build speaks nothing.
fn newer() -> Versions {
    Versions::new(OURS.highest() + 1, OURS.highest() + 1).unwrap()
}

#[test]
fn a_broker_says_which_versions_it_speaks_to_who_speaks_others() {
    let project = Project::up("version", GOOD);
    let mut stream = UnixStream::connect(project.runtime().join("broker.sock")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let opening = encode(&Opening::Control(Request::Down)).unwrap();
    stream.write_all(&[&newer().to_hello()[..], &opening].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, OURS.to_hello());
    assert_eq!(project.ps().len(), 1, "'down' of another version is not obeyed");
}

#[test]
fn an_error_is_an_object_where_json_is_asked_for() {
    let project = Project::up("json-errors", GOOD);
    let error = |words: &[&str]| {
        let finished = project.imsup(words);
        assert_eq!(finished.code(), Some(1), "{finished}");
        assert_eq!(finished.stdout, "", "{finished}");
        let object: serde_json::Value = serde_json::from_str(&finished.stderr).unwrap();
        let message = object["message"].as_str().unwrap().to_owned();
        (
            object["kind"].as_str().unwrap().to_owned(),
            message,
            object["hint"].clone(),
        )
    };
    let (kind, message, hint) = error(&["why", "wbe", "--format", "json"]);
    assert_eq!(kind, "unknown-host");
    assert!(message.contains("'wbe'") && hint == "did you mean 'web'?", "{message}");
    project.down();
    assert_eq!(error(&["events", "--format", "json"]).0, "not-up");
    std::fs::write(project.path("compose.yaml"), "services: [").unwrap();
    assert_eq!(error(&["config", "--format=json"]).0, "compose-file");
    let finished = project.imsup(&["config"]);
    assert!(finished.stderr.starts_with("imsup: "), "{finished}");
}

/// Commands of a compose file run as the user who brings it up: a file that others may have written
/// is used only if named.
#[test]
fn a_file_that_was_found_and_that_others_can_write_is_refused() {
    let project = Project::new(
        "writable",
        "services: { web: { command: [\"@guest@\", --tcp, \"8080\"] } }",
    );
    let file = project.path("compose.yaml");
    let environment = project.path(".env");
    std::fs::write(&environment, "X=1\n").unwrap();
    for refused in [&file, &environment] {
        std::fs::set_permissions(refused, std::fs::Permissions::from_mode(0o666)).unwrap();
        for (status, words) in [(1, &["up", "-d"][..]), (125, &["run", "--", "true"])] {
            let said = project.fails(status, words);
            let named = format!("-f {}", file.display());
            assert!(
                said.contains(refused.to_str().unwrap()) && said.contains(&named),
                "{said}"
            );
        }
        let named = project.imsup(&["up", "-d", "-f", "compose.yaml"]);
        assert!(named.success(), "{named}");
        project.down();
        std::fs::set_permissions(refused, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A host that is kept awake is for those who bring the project up.
#[test]
fn run_boots_nothing_that_it_does_not_connect_to() {
    let project = Project::new(
        "unnamed",
        "services: { kept: { command: [\"@guest@\", --tcp, \"8080\"], x-imsup: { keep_awake: true } } }",
    );
    let imsup = common::imsup();
    let events = [imsup.to_str().unwrap(), "events", "-p", &project.name];
    let said = project.run(&events).expect_success("imsup run");
    assert!(said.contains("run-1") && !said.contains("kept"), "{said}");
    project.ok(&["up", "-d"]);
    project.wait_event("kept", "boot", 1);
}
