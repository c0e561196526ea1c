//! Brokers that die, of projects that have more descriptors than programs may have open.

mod common;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use common::client::ask;
use common::command::run;
use common::{LIMIT, Project, client, imsup, wait_until};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Declared ports: more than the soft limit of descriptors.
const PORTS: std::ops::Range<u16> = 8000..8100;
/// The sockets that the program listens on, which has that limit.
const LISTENS: std::ops::Range<u16> = 8000..8040;

#[test]
fn more_sockets_than_the_soft_limit_of_descriptors_outlive_the_broker() {
    let ports: Vec<String> = PORTS.map(|port| format!("\"{port}\"")).collect();
    let ports = ports.join(", ");
    let project = Project::new(
        "many",
        &format!(
            r#"
services:
  web: {{ command: ["@guest@", --tcp, "8000-8039"], expose: [{ports}] }}
  says: {{ command: [sh, -c, 'ulimit -S -n; ulimit -H -n; exit 3'] }}
"#
        ),
    );
    let line = r#"ulimit -S -n 64 && ulimit -H -n 4096 && exec "$0" up -p "$1" -d"#;
    let imsup = imsup();
    let up = project.command("sh", &["-c", line, &imsup.to_string_lossy(), &project.name]);
    run(up, LIMIT).expect_success("up");
    let mut broker = project.broker();
    let web = project.host("web").address;
    for _ in 0..2 {
        project.kill(broker);
        // The first connections come while there is no broker. All share the resulting boot, and
        // the limit passes from one broker to the next.
        let answers = LISTENS.map(|port| client::ask_line((web, port).into(), "hello"));
        for (port, answer) in LISTENS.zip(answers) {
            let answer = answer.unwrap_or_else(|error| panic!("port {port}: {error}"));
            assert!(answer.contains("host=web "), "{answer}");
        }
        let next = project.broker();
        assert_ne!(next, broker);
        broker = next;
        project.ok(&["stop", "web"]);
    }
    project.fails(1, &["wake", "says"]);
    let log = project.ok(&["logs", "says"]);
    assert!(log.contains("64\n4096\n"), "{log}");
    project.down();
}

/// Descriptors that the user of the project has under way in messages that nobody takes: more than
/// the broker may have open.
const UNDER_WAY: usize = 400;

/// Sends descriptors that stay unreceived.
fn send_descriptors() -> (UnixStream, UnixStream) {
    const A_MESSAGE: usize = 200;
    let (from, to) = UnixStream::pair().unwrap();
    let fds: [BorrowedFd<'_>; A_MESSAGE] = [from.as_fd(); A_MESSAGE];
    for _ in 0..UNDER_WAY / A_MESSAGE {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(A_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&from, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    }
    (from, to)
}

fn keepers(project: &Project) -> Vec<u32> {
    let mark = format!("{} keeper", imsup().display());
    let all = project.processes().into_iter();
    all.filter(|process| process.command.starts_with(&mark))
        .map(|process| process.pid)
        .collect()
}

/// Whether a process has the socket that listens there.
fn has_listener(pid: u32, at: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = at else { panic!("{at}") };
    let local = format!("{:08X}:{:04X} ", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    // A socket for both families is bound to the mapped address.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap());
    let of_address = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter(|line| line.contains(&local));
    // In state LISTEN (proc_pid_net(5)): connections to it have its address as well.
    let line = of_address
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|words| words[3] == "0A")
        .expect("a listener");
    let inode = line[9];
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let mut links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.any(|link| link.to_str() == Some(&format!("socket:[{inode}]")))
}

/// The kernel lets no user have more descriptors under way than the sender may have open
/// (ETOOMANYREFS, unix(7)); root may.
#[test]
fn what_the_kernel_does_not_let_the_keeper_have_it_has_later() {
    let compose = "services:\n  web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }\n";
    let project = Project::new("underway", compose);
    let line = r#"ulimit -n 256 && exec "$0" up -p "$1" -d"#;
    let up = project.command("sh", &["-c", line, &imsup().to_string_lossy(), &project.name]);
    run(up, LIMIT).expect_success("up");
    let web = project.at("web", 8080);
    let broker = project.broker();
    let before = project.keeper();
    wait_until("the keeper to have the listener", || has_listener(before, web));
    let under_way = send_descriptors();
    project.kill(before);
    let next = || keepers(&project).into_iter().find(|pid| *pid != before);
    wait_until("another keeper", || next().is_some());
    let keeper = next().unwrap();
    // The broker goes on.
    assert_eq!(project.host("web").boots, 0);
    if !rustix::process::geteuid().is_root() {
        assert!(!has_listener(keeper, web), "there was no limit");
    }
    drop(under_way);
    wait_until("the keeper to have the listener", || has_listener(keeper, web));
    project.kill(broker);
    assert_eq!(ask(web).value("host"), "web");
    project.down();
}
