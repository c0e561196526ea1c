//! Processes and files of others, which are left alone.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use imsup_broker::down_without_broker;
use imsup_wire::HostState;
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::trial;
use crate::world::{World, exists, kill, no_starts, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_pid_of_another_namespace_ends_nobody", foreign_pid),
        trial("what_the_broker_was_started_beside_lives_on", started_beside),
        trial("the_number_in_a_hosts_file_ends_nobody", foreign_number),
    ]
}

const SERVES: &str = "listen:8080 settle serve";

/// A process unrelated to imsup that leads a session.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let starts = no_starts();
        let child = Command::new("setsid")
            .args(["sleep", "1000"])
            .stdin(Stdio::null())
            .spawn();
        drop(starts);
        let stranger = Self(child.unwrap());
        let pid = stranger.0.id();
        until("a session", || (session_of(pid) == Some(pid)).then_some(()));
        stranger
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The session of a process, or 0 if its leader is of an outer pid namespace, as in many CI
/// containers. rustix's `getsid` panics at that 0.
fn session_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// The process that runs a host, according to its locked file.
fn supervisor_of(world: &World, host: &str) -> u32 {
    let text = std::fs::read_to_string(world.paths.running(host)).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn foreign_pid() {
    let mut stranger = Stranger::new();
    let number = stranger.0.id();
    let world = World::up(&format!("web tcp=8080 -- claims:{number} {SERVES}"));
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(world.host("web").pid, Some(number), "it is shown");
    kill(supervisor_of(&world, "web"), Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    assert!(stranger.lives());
}

fn started_beside() {
    let mut world = World::prepare(&format!("web tcp=8080 -- {SERVES}"));
    let original = world.command();
    let variables = original.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let list = world.path("beside");
    let script = "setsid sleep 1000 >&- & echo $! >\"$LIST\"; sleep 1001 >&- & echo $! >>\"$LIST\"; exec \"$0\" broker";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(std::env::current_exe().unwrap());
    command.envs(variables).env("LIST", &list);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let starts = no_starts();
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    drop(starts);
    world.broker = Some(child);
    let beside: Vec<u32> = std::fs::read_to_string(&list)
        .unwrap()
        .lines()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(beside.len(), 2);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    kill(supervisor_of(&world, "web"), Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    let live: Vec<bool> = beside.iter().map(|pid| exists(*pid)).collect();
    for (pid, _) in beside.iter().zip(&live).filter(|(_, live)| **live) {
        kill(*pid, Signal::KILL);
    }
    assert_eq!(live, [true, true]);
}

fn foreign_number() {
    let mut stranger = Stranger::new();
    let world = World::prepare("web tcp=8080 -- serve");
    let path = world.paths.running("web");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "").unwrap();
    let starts = no_starts();
    let mut holder = Command::new("flock")
        .args(["--no-fork", path.to_str().unwrap(), "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    drop(starts);
    until("the lock", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.contains(&format!(" {} ", holder.id())).then_some(())
    });
    std::fs::write(&path, format!("{}\n", stranger.0.id())).unwrap();
    assert_eq!(down_without_broker(&world.project, &world.paths).unwrap(), ["web"]);
    let end = holder.try_wait().unwrap();
    let _ = holder.kill();
    let _ = holder.wait();
    assert!(end.is_some(), "it is the one that was to be ended");
    assert!(stranger.lives());
}
