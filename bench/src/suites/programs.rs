//! Real programs that are booted.

use std::path::Path;

use crate::command;
use crate::compose::Service;
use crate::context::{Context, repository};

/// A server and what makes it answer.
#[derive(Debug)]
pub struct Program {
    /// Its name as a host.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Its command up to the port.
    command: Vec<String>,
    /// What comes right before the port's number, in the same word.
    before_port: &'static str,
    /// The rest of its command.
    options: &'static [&'static str],
    /// The port it listens on as a host, on the wildcard.
    pub port: u16,
    /// What it answers.
    pub request: &'static [u8],
}

impl Program {
    /// Its command with the port it listens on, on the wildcard.
    pub fn command(&self, port: u16) -> Vec<String> {
        let mut command = self.command.clone();
        command.push(format!("{}{port}", self.before_port));
        command.extend(self.options.iter().map(|word| (*word).to_owned()));
        command
    }

    /// The port it listens on natively: no other, since there the wildcard includes every host's address.
    pub fn native_port(&self) -> u16 {
        self.port + 1_000
    }

    /// It as a service.
    pub fn service(&self) -> Service {
        Service::new(self.name, self.command(self.port), [self.port])
    }
}

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A command up to the port, or why it is not there.
type Found = Result<Vec<String>, String>;

/// The programs that are there, and for each that is not, what it is and why.
pub fn all(context: &Context) -> (Vec<Program>, Vec<(&'static str, String)>) {
    let with = |words: Found, more: &[&str]| {
        words.map(|words| {
            words
                .into_iter()
                .chain(more.iter().map(|word| (*word).to_owned()))
                .collect()
        })
    };
    let node = installed("node", "nodejs").and_then(|mut words| {
        words.extend(file(&repository().join("testdata/guests/http_server.js"))?);
        Ok(words)
    });
    let classes = context.guests.join("java");
    let java = installed("java", "default-jdk-headless").and_then(|words| {
        // Not by Debian's alternatives, which containers have not got.
        let mut words = file(Path::new(&words[0]))?;
        file(&classes.join("Server.class"))?;
        let options = ["-XX:TieredStopAtLevel=1", "-cp", &classes.to_string_lossy(), "Server"];
        words.extend(options.map(str::to_owned));
        Ok(words)
    });
    let program = |name, what, port, request| Program {
        name,
        what,
        command: Vec::new(),
        before_port: "",
        options: &[],
        port,
        request,
    };
    let wanted = [
        (
            with(file(&context.guests.join("guest-musl")), &["--tcp"]),
            program("c", "a static C server", 17001, b"hello\n"),
        ),
        (
            with(file(&context.guests.join("guest-go")), &["-listen"]),
            Program {
                before_port: ":",
                ..program("go", "a static Go HTTP server", 17002, HTTP)
            },
        ),
        (
            with(installed("redis-server", "redis-server"), &["--port"]),
            Program {
                options: &["--save", "", "--appendonly", "no"],
                ..program("redis", "redis-server", 17003, b"PING\r\n")
            },
        ),
        (
            with(installed("python3", "python3"), &["-m", "http.server"]),
            program("python", "python3 -m http.server", 17004, HTTP),
        ),
        (node, program("node", "node's http", 17005, HTTP)),
        (java, program("jvm", "the JDK's HTTP server", 17006, HTTP)),
    ];
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (command, program) in wanted {
        match command {
            Ok(command) => found.push(Program { command, ..program }),
            Err(why) => missing.push((program.what, why)),
        }
    }
    (found, missing)
}

fn installed(name: &str, package: &str) -> Found {
    let path = command::find(name).ok_or_else(|| format!("{name} is not installed (Debian: {package})"))?;
    Ok(vec![path.to_string_lossy().into_owned()])
}

fn file(path: &Path) -> Found {
    let missing = |_| format!("there is no {}: 'make guests' makes it", path.display());
    let path = path.canonicalize().map_err(missing)?;
    Ok(vec![path.to_string_lossy().into_owned()])
}
