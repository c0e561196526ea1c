//! Tests for root: run by `make test` for root, never by a plain `cargo test`.

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::client::{PersistentConnection, ask};
use common::command::run;
use common::{Background, Project, need, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[test]
fn these_tests_are_run_by_root() {
    assert!(rustix::process::geteuid().is_root(), "run them with: sudo make test");
}

#[test]
fn ports_below_1024_are_bound() {
    let project = Project::up(
        "privileged",
        r#"
services:
  web: { command: ["@guest@", --tcp, "80"], expose: ["80"] }
  other: { command: ["@guest@", --bind, any6, --tcp, "80"], expose: ["80"] }
"#,
    );
    for host in ["web", "other"] {
        assert_eq!(ask(project.at(host, 80)).value("host"), host);
    }
}

#[test]
fn a_host_may_run_as_another_user() {
    let project = Project::up(
        "user",
        r#"
services:
  web: { command: [sh, -c, "id -u; exec @guest@ --tcp 8080"], user: "65534:65534", expose: ["8080"] }
"#,
    );
    // The other user must be able to enter the project's directory.
    std::os::unix::fs::chown(project.path(""), Some(65534), Some(65534)).unwrap();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let said = project.ok(&["logs", "web"]);
    assert!(said.contains("65534"), "{said}");
}

#[test]
fn run_is_a_pid_namespaces_first_process() {
    let project = Project::up(
        "entrypoint",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let imsup = common::imsup();
    let script = "setsid sleep 1000 & sleep 0.1; exit 6";
    let inside = [
        "--pid",
        "--fork",
        "--mount-proc",
        imsup.to_str().unwrap(),
        "run",
        "-p",
        &project.name,
        "--",
        "sh",
        "-c",
        script,
    ];
    let finished = run(project.command("unshare", &inside), common::LIMIT);
    assert_eq!(finished.code(), Some(6), "{finished}");
}

#[test]
fn sleepers_are_held_by_the_freezer() {
    let project = Project::up(
        "freezer",
        r#"
x-imsup: { idle_after: 50ms }
services:
  web: { command: ["@guests@/servers", prefork, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    let why = project.why("web");
    assert!(why["method"].as_str().unwrap().contains("freezer"), "{why}");
    // The process tree that was started in the cgroup is the held tree.
    let pid = project.host("web").pid.unwrap();
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(group.contains(&format!("imsup.{}.web", project.name)), "{group}");
}

#[test]
fn a_sleeper_that_is_paged_out_gives_its_memory_back() {
    const FILE_BYTES: usize = 64 << 20;
    // On a disk: pages of tmpfs can only go to swap.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, vec![7; FILE_BYTES]).unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let project = Project::up(
        "reclaim",
        r#"
x-imsup: { idle_after: 300ms, reclaim: true }
services:
  web: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    held.ask("fill 16");
    for round in 1..=2 {
        // Awake, so that it frees no memory before the look.
        project.ok(&["keep-awake", "web", "--for", "1h"]);
        let reclaims = watch.count("web", "reclaim");
        let pid = held.ask(&format!("map {}", file.display())).pid();
        let before = resident_bytes(pid);
        assert!(before > FILE_BYTES, "{before}");
        project.ok(&["keep-awake", "web", "--for", "0s"]);
        wait_until(
            &format!("most of {before} bytes to be given back, round {round}"),
            || before.saturating_sub(resident_bytes(pid)) > FILE_BYTES / 2,
        );
        let reclaim = watch.wait("web", "reclaim", reclaims + 1);
        assert!(
            reclaim.json["detail"].as_str().unwrap().contains("MiB"),
            "{:?}",
            reclaim.json
        );
        held.ask("check");
    }
}

fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// The clocks of such a program are not those of imsup. (CLOCK_REALTIME has no namespace; no test
/// sets it.)
#[test]
fn deadlines_of_a_program_in_a_time_namespace_are_kept() {
    let delay = Duration::from_millis(2500);
    let project = Project::up(
        "time",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 200ms }
services:
  later: { command: [unshare, --time, --monotonic, "100000", --boottime, "200000", --fork, "@guests@/delays", monotonic, "2500", "8080"],
           expose: ["8080"] }
  boottime: { command: [unshare, --time, --monotonic, "100000", --boottime, "200000", --fork, "@guests@/delays", boottime, "2500", "8080"],
           expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut held: Vec<_> = ["later", "boottime"]
        .map(|host| (host, PersistentConnection::connect(project.at(host, 8080))))
        .into();
    for (_, held) in &mut held {
        held.say("hello").unwrap();
    }
    let expect_waited = |answer: &str| {
        let waited: u64 = answer.rsplit_once("waited_us=").unwrap().1.parse().unwrap();
        assert!(Duration::from_micros(waited) >= delay, "{answer}");
    };
    for (host, held) in &mut held {
        let answer = held.hear().unwrap_or_else(|error| panic!("{host}: {error}"));
        expect_waited(&answer);
        // A busy machine may not have let the host sleep meanwhile; or the host slept before the
        // question, which was its first wake.
        let mut asked = Instant::now();
        wait_until(&format!("{host} to be woken by its timer"), || {
            if asked.elapsed() > 2 * delay {
                expect_waited(&held.ask("hello").0);
                asked = Instant::now();
            }
            let wakes = watch.of(host, "wake");
            wakes.iter().any(|wake| wake.cause.as_deref() == Some("timer"))
        });
    }
}

/// Spark looks up the address of its host's name, and uses it unless it is a loopback address.
#[test]
fn spark_needs_no_setting_where_addresses_are_no_loopback_addresses() {
    if !common::network::is_own() {
        return;
    }
    common::spark::one_query("spark-prefix", &["compose.prefix.yaml"]);
}

/// A file system with this little room, while this value lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(path: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let options = "size=256k,nr_inodes=64,mode=0700";
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(path)
    }

    /// Fills all room; returns the file to remove.
    fn fill_room(&self) -> std::path::PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        filler
    }

    /// Takes all room and all names.
    fn fill(&self) -> Vec<std::path::PathBuf> {
        let mut all = vec![self.fill_room()];
        for number in 0.. {
            let path = self.0.join(format!("filler{number}"));
            if std::fs::File::create(&path).is_err() {
                break;
            }
            all.push(path);
        }
        all
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_loses_history_and_output_and_nothing_else() {
    let project = Project::new(
        "full",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  new: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let disk = SmallDisk::at(project.path("state"));
    project.ok(&["up", "-d"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let fillers = disk.fill();
    let boots = |host: &str| project.event_names(host).iter().filter(|name| *name == "boot").count();
    for host in ["web", "new", "web", "new"] {
        project.ok(&["stop", host]);
        assert_eq!(ask(project.at(host, 8080)).value("host"), host);
    }
    assert_eq!(
        (boots("web"), boots("new")),
        (3, 2),
        "told by the broker, if kept by none"
    );
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(ask(project.at("new", 8080)).value("host"), "new");

    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    project.ok(&["stop", "web"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let kept = boots("web");
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(boots("web"), kept, "what happens is kept again");
    project.ok(&["down"]);
    drop(disk);
    project.expect_nothing_left();
}

/// A host that runs as another user finds his own HOME and name, the variables of its compose file,
/// and none of root's.
#[test]
fn another_user_gets_nothing_of_roots() {
    let project = Project::new(
        "others",
        r#"
services:
  nobody: { command: [sh, -c, "env; cat <&9; exec @guest@ --tcp 8080"], user: nobody, expose: ["8080"], environment: { OWN: said } }
  number: { command: [sh, -c, "env; exec @guest@ --tcp 8080"], user: "4711", expose: ["8080"], environment: { LOGNAME: mine } }
  root: { command: [sh, -c, "env; exec @guest@ --tcp 8080"], expose: ["8080"] }
"#,
    );
    // The other users must be able to enter the project's directory.
    std::fs::set_permissions(project.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let secret = project.path("secret");
    std::fs::write(&secret, "from a file of root's").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let up = format!(
        "exec 9<secret; exec {} up -d -p {}",
        common::imsup().display(),
        project.name
    );
    let mut up = project.command("sh", &["-c", &up]);
    up.env("SECRET", "of root's environment").env("LANG", "C.UTF-8");
    run(up, common::LIMIT).expect_success("imsup up");
    // Once by the zygote, once executed.
    for _ in 0..2 {
        for host in ["nobody", "number", "root"] {
            ask(project.at(host, 8080));
            project.ok(&["stop", host]);
        }
        let zygote = project
            .processes()
            .into_iter()
            .find(|process| process.command.contains(" zygote "));
        zygote.iter().for_each(|zygote| project.kill(zygote.pid));
    }
    let said = |host: &str| project.ok(&["logs", host]);
    let count = |host: &str, line: &str| said(host).lines().filter(|said| *said == line).count();
    for (host, line) in [
        ("nobody", "OWN=said"),
        ("nobody", "USER=nobody"),
        ("nobody", "LOGNAME=nobody"),
        ("nobody", "HOME=/nonexistent"),
        ("nobody", "LANG=C.UTF-8"),
        ("number", "HOME=/"),
        ("number", "LOGNAME=mine"),
        ("root", "SECRET=of root's environment"),
    ] {
        assert_eq!(count(host, line), 2, "{host} {line}: {}", said(host));
    }
    for host in ["nobody", "number"] {
        assert!(
            !said(host).contains("root's") && said(host).contains("PATH="),
            "{}",
            said(host)
        );
    }
    let typed = project.ok(&["run", "--user", "nobody", "--", "env"]);
    assert!(
        typed.contains("HOME=/nonexistent\n") && typed.contains("USER=nobody\n"),
        "{typed}"
    );
}

/// A host that runs as another user binds the ports that its program natively may, and so does a
/// host that has dropped its capabilities.
#[test]
fn a_port_needs_the_privilege_that_it_needs_natively() {
    const BIND: &str = "
import socket, sys
for family, kind, address, port in [(socket.AF_INET, socket.SOCK_STREAM, '', 80), (socket.AF_INET, socket.SOCK_DGRAM, '', 53),
        (socket.AF_INET, socket.SOCK_STREAM, '127.0.0.1', 81), (socket.AF_INET6, socket.SOCK_STREAM, '::', 82),
        (socket.AF_INET6, socket.SOCK_DGRAM, '::1', 83), (socket.AF_INET, socket.SOCK_STREAM, '', 8080), (socket.AF_INET, socket.SOCK_STREAM, '', 0)]:
    try:
        socket.socket(family, kind).bind((address, port))
        print(port, 'bound')
    except OSError as error:
        print(port, error.strerror)
";
    need(&["python3", "setpriv"]);
    let project = Project::up(
        "allowed",
        "services: { web: { command: [\"@guest@\", --tcp, \"80\"], expose: [\"80\"] } }",
    );
    let ports = [80, 53, 81, 82, 83, 8080, 0];
    let said = |privileged: &str| -> String {
        let line = |port: &i32| match (1..1024).contains(port) {
            true => format!("{port} {privileged}\n"),
            false => format!("{port} bound\n"),
        };
        ports.iter().map(line).collect()
    };
    let refused = said("Permission denied");
    let bind = ["/usr/bin/python3", "-c", BIND];
    let run = |before: &[&str], within: &[&str]| {
        let arguments = [&["run"], before, &["--"], within, &bind].concat();
        project.ok(&arguments)
    };
    assert_eq!(run(&[], &[]), said("bound"));
    assert_eq!(run(&["--user", "nobody"], &[]), refused);
    assert_eq!(run(&[], &["setpriv", "--reuid", "nobody"]), refused);
    assert_eq!(
        run(&[], &["setpriv", "--inh-caps=-all", "--bounding-set=-net_bind_service"]),
        refused
    );
    let kept = [
        "setpriv",
        "--reuid",
        "nobody",
        "--inh-caps=+net_bind_service",
        "--ambient-caps=+net_bind_service",
    ];
    assert_eq!(run(&[], &kept), said("bound"));
}

/// `sudo imsup ps` in another user's directory would run that user's services as root.
#[test]
fn a_file_of_somebody_elses_is_used_only_where_it_is_named() {
    let project = Project::new(
        "foreign",
        "services: { web: { command: [\"@guest@\", --tcp, \"8080\"] } }",
    );
    std::os::unix::fs::chown(project.path("compose.yaml"), Some(65534), None).unwrap();
    for (status, words) in [(1, &["up", "-d"][..]), (125, &["run", "--", "true"])] {
        let said = project.fails(status, words);
        assert!(
            said.contains("belongs to user 65534") && said.contains(" -f "),
            "{said}"
        );
    }
    let mut by_sudo = project.imsup_command(&["up", "-d"]);
    by_sudo.env("SUDO_UID", "65534");
    run(by_sudo, common::LIMIT).expect_success("sudo imsup up");
    project.down();
    for named in [("COMPOSE_FILE", "compose.yaml"), ("COMPOSE_FILE", "")] {
        let mut up = project.imsup_command(&["up", "-d"]);
        up.env(named.0, named.1);
        let up = run(up, common::LIMIT);
        assert_eq!(up.success(), !named.1.is_empty(), "{up}");
    }
    project.down();
}

/// The locks of hosts and broker need a name, but no room for their content.
#[test]
fn hosts_boot_where_the_runtime_directory_has_no_room() {
    let project = Project::new(
        "roomless",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let disk = SmallDisk::at(project.path("run"));
    project.ok(&["up", "-d"]);
    let filler = disk.fill_room();
    for _ in 0..2 {
        assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
        project.ok(&["stop", "web"]);
    }
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    project.ok(&["down"]);
    std::fs::remove_file(filler).unwrap();
    drop(disk);
    project.expect_nothing_left();
}

/// A file capability makes the broker's process unreadable for its own user
/// (PR_SET_DUMPABLE(2const), proc_pid_fd(5)).
#[test]
fn a_lost_broker_with_file_capabilities_is_found_by_its_user() {
    need(&["setcap", "setpriv"]);
    let user = 4711;
    let project = Project::new(
        "capable",
        "services: { web: { command: [\"@guest@\", --tcp, \"80\"], expose: [\"80\"] } }",
    );
    let imsup = project.path("imsup");
    std::fs::copy(common::imsup(), &imsup).unwrap();
    for path in ["", "imsup", "compose.yaml"] {
        std::os::unix::fs::chown(project.path(path), Some(user), Some(user)).unwrap();
    }
    project.outside(
        "/usr/sbin/setcap",
        &["cap_net_bind_service+ep", imsup.to_str().unwrap()],
    );
    let as_user = |verb: &[&str]| {
        let user = user.to_string();
        let before = ["--reuid", &user, "--regid", &user, "--clear-groups"];
        // setpriv itself has had the capabilities that the file gives.
        let shell = ["sh", "-c", r#"exec "$0" "$@""#];
        let imsup = [imsup.to_str().unwrap(), verb[0], "-p", &project.name];
        project.command("setpriv", &[&before[..], &shell, &imsup, &verb[1..]].concat())
    };
    let verb = |verb: &[&str]| run(as_user(verb), common::LIMIT);
    // The broker of `up -d` is executed by a process that has the capabilities already, and can be
    // inspected.
    let serves = Background::collecting(as_user(&["broker"]));
    wait_until("the broker", || verb(&["ps"]).success());
    let broker = serves.pid();
    let looks = format!("ls /proc/{broker}/fd");
    let user_id = user.to_string();
    let looked = run(
        project.command("setpriv", &["--reuid", &user_id, "--clear-groups", "sh", "-c", &looks]),
        common::LIMIT,
    );
    assert!(!looked.success(), "the broker can be looked into: {looked}");
    let (base, away) = (project.path("run"), project.path("away"));
    wait_until("a directory that is not made anew", || {
        let _ = std::fs::rename(&base, &away);
        let _ = std::fs::remove_dir_all(&away);
        std::fs::write(&base, "").is_ok()
    });
    let up = verb(&["up", "-d"]);
    assert!(
        !up.success() && up.stderr.contains(&format!("its broker is process {broker}")),
        "{up}"
    );
    let down = verb(&["down"]);
    assert!(down.success() && down.stderr.contains("is down"), "{down}");
    serves.finish(common::LIMIT);
    std::fs::remove_file(base).unwrap();
}
