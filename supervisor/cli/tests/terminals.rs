//! `imsup exec` on a terminal, as `docker compose exec`.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use common::{Background, LIMIT, Project, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const COMPOSE: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  twins: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], deploy: { replicas: 2 } }
"#;

/// What a person sits at.
struct Screen {
    window: OwnedFd,
    terminal: OwnedFd,
    seen: String,
}

impl Screen {
    fn new() -> Self {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        unlockpt(&window).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = ioctl_tiocgptpeer(&window, flags).unwrap();
        let mut screen = Self {
            window,
            terminal,
            seen: String::new(),
        };
        screen.resize(33, 101);
        screen
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.window, size).unwrap();
    }

    fn start(&self, command: Command) -> Background {
        let terminal = || Stdio::from(self.terminal.try_clone().unwrap());
        Background::spawn_on(command, terminal(), terminal(), terminal())
    }

    fn type_in(&self, text: &str) {
        rustix::io::write(&self.window, text.as_bytes()).unwrap();
    }

    /// Waits until this has been shown after what was waited for before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let limit = Timespec::try_from(LIMIT).unwrap();
        while !self.seen.contains(text) {
            let mut polled = [PollFd::new(&self.window, PollFlags::IN)];
            assert_eq!(
                poll(&mut polled, Some(&limit)),
                Ok(1),
                "'{text}' is not in: {}",
                self.seen
            );
            let mut bytes = [0; 4096];
            let read = rustix::io::read(&self.window, &mut bytes).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    fn reads_lines(&self) -> bool {
        let modes = tcgetattr(self.terminal.as_fd()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON) && modes.contains(LocalModes::ECHO)
    }
}

#[test]
fn a_command_has_a_terminal_if_its_caller_has() {
    let project = Project::up("terminals", COMPOSE);
    let exec = |arguments: &[&str]| project.imsup_command(&[&["exec"], arguments].concat());
    let mut screen = Screen::new();

    // Size, its changes, and Ctrl-C.
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 7' INT; \
                  tty; stty size; echo begun >/dev/tty; while :; do sleep 60 & wait; done";
    let command = screen.start(exec(&["-it", "web", "--", "bash", "-c", script]));
    screen.shows("/dev/pts/");
    screen.shows("33 101");
    screen.shows("begun");
    assert!(!screen.reads_lines());
    screen.resize(44, 102);
    command.signal(Signal::WINCH);
    screen.shows("44 102");
    screen.type_in("\u{3}");
    screen.shows("interrupted");
    assert_eq!(command.finish(LIMIT).code(), Some(7));
    assert!(screen.reads_lines());

    // Job control.
    let command = screen.start(exec(&["-e", "PS1=prompt+", "web", "bash", "--norc", "-i"]));
    screen.shows("prompt+");
    screen.type_in("sh -c 'echo $((41 + 1)); exec cat'\n");
    screen.shows("42\r\n");
    screen.type_in("an echo\n");
    screen.shows("an echo\r\nan echo\r\n");
    screen.type_in("\u{1a}");
    screen.shows("Stopped");
    screen.shows("prompt+");
    screen.type_in("fg\n");
    screen.shows("exec cat'\r\n");
    screen.type_in("again\n");
    screen.shows("again\r\nagain\r\n");
    screen.type_in("\u{4}");
    screen.shows("prompt+");
    screen.type_in("exit $((40 + 2))\n");
    assert_eq!(command.finish(LIMIT).code(), Some(42));
    assert!(screen.reads_lines());

    // A caller that is ended hands the signal on, and leaves its terminal as it was.
    let script = "trap 'echo terminated; exit 9' TERM; echo waits; while :; do sleep 60 & wait; done";
    let command = screen.start(exec(&["web", "bash", "-c", script]));
    screen.shows("waits");
    command.signal(Signal::TERM);
    screen.shows("terminated");
    assert_eq!(command.finish(LIMIT).code(), Some(9));
    assert!(screen.reads_lines());

    // All that was printed is shown.
    let command = screen.start(exec(&["web", "seq", "20000"]));
    screen.shows("20000\r\n");
    assert_eq!(command.finish(LIMIT).code(), Some(0));
    let command = screen.start(exec(&[
        "-T",
        "web",
        "sh",
        "-c",
        "exec 2>&1; echo same $(stty -F /dev/stdin size)",
    ]));
    screen.shows("same");
    assert_eq!(command.finish(LIMIT).code(), Some(0));

    // Without a terminal.
    assert_eq!(project.imsup(&["exec", "-it", "web", "tty"]).stdout, "not a tty\n");
    let made = project.path("made");
    project.ok(&["exec", "-d", "web", "sh", "-c", "echo $$ > made.new; mv made.new made"]);
    wait_until("the command in the background", || made.exists());
    let name = |index: &str| project.ok(&["exec", "--index", index, "twins", "hostname"]);
    assert_eq!((&*name("1"), &*name("2")), ("twins-1\n", "twins-2\n"));
    assert!(
        project
            .fails(125, &["exec", "--index", "3", "twins", "true"])
            .contains("there are 2")
    );
    assert!(
        project
            .fails(125, &["exec", "--privileged", "web", "true"])
            .contains("cap_add")
    );
}
