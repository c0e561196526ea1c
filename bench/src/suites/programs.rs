//! Real programs that are booted.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command;
use crate::compose::Service;
use crate::context::{Context, repository};

/// A command, by its port.
pub type Words = Box<dyn Fn(u16) -> Vec<String>>;

/// A server and the request that it answers.
pub struct Program {
    /// The name as a host.
    pub name: &'static str,
    /// The name of the cluster.
    pub what: &'static str,
    words: Words,
    /// The command with a passed listening socket as descriptor 3 (sd_listen_fds(3)), or the reason
    /// why there is none.
    pub activation: Result<Words, &'static str>,
    /// The port as a host, on the wildcard.
    pub port: u16,
    /// The request and its reply.
    pub request: &'static [u8],
}

impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Program")
            .field("command", &self.command(self.port))
            .finish_non_exhaustive()
    }
}

impl Program {
    /// The command with its port, on the wildcard.
    pub fn command(&self, port: u16) -> Vec<String> {
        (self.words)(port)
    }

    /// The native port: a different one, since natively the wildcard includes every host's address.
    pub fn native_port(&self) -> u16 {
        self.port + 1_000
    }

    /// The port on which another process listens for the server.
    pub fn activated_port(&self) -> u16 {
        self.port + 2_000
    }

    /// The server as a service.
    pub fn service(&self) -> Service {
        Service::new(self.name, self.command(self.port), [self.port])
    }
}

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// The installed programs, and for each missing one its name and the reason.
pub fn all(context: &Context) -> (Vec<Program>, Vec<(&'static str, String)>) {
    let wanted = [
        ("a static C server", c(context)),
        ("a static Go HTTP server", go(context)),
        ("redis-server", redis()),
        ("nginx", nginx(context)),
        ("python3 -m http.server", python()),
        ("node's http", node()),
        ("the JDK's HTTP server", jvm(context)),
    ];
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (what, program) in wanted {
        match program {
            Ok(program) => found.push(program),
            Err(why) => missing.push((what, format!("{why:#}"))),
        }
    }
    (found, missing)
}

fn c(context: &Context) -> Result<Program> {
    let program = file(&context.guests.join("guest-musl"))?;
    let activated = program.clone();
    Ok(Program {
        name: "c",
        what: "a static C server",
        words: Box::new(move |port| strings([&program, "--tcp", &port.to_string()])),
        activation: Ok(Box::new(move |_| strings([&activated, "--listening", "3"]))),
        port: 17001,
        request: b"hello\n",
    })
}

fn go(context: &Context) -> Result<Program> {
    let program = file(&context.guests.join("guest-go"))?;
    let words = move |port: u16| strings([&program, "-listen", &format!(":{port}")]);
    Ok(Program {
        name: "go",
        what: "a static Go HTTP server",
        words: Box::new(words.clone()),
        activation: Ok(Box::new(words)),
        port: 17002,
        request: HTTP,
    })
}

fn redis() -> Result<Program> {
    let program = installed("redis-server", "redis-server")?;
    let words = move |port: u16| {
        let port = port.to_string();
        strings([&program, "--port", &port, "--save", "", "--appendonly", "no"])
    };
    Ok(Program {
        name: "redis",
        what: "redis-server",
        words: Box::new(words),
        activation: Err("it takes no listening socket from whom it is started by"),
        port: 17003,
        request: b"PING\r\n",
    })
}

fn nginx(context: &Context) -> Result<Program> {
    let words = nginx_words(context)?;
    Ok(Program {
        name: "nginx",
        what: "nginx",
        words: Box::new(move |port| words(Ipv4Addr::UNSPECIFIED, port)),
        activation: Err(
            "it takes one as from an nginx that it replaces (NGINX=3;), but not without a master process, as here: nginx 1.22 dies of SIGSEGV",
        ),
        port: 17007,
        request: HTTP,
    })
}

fn python() -> Result<Program> {
    let program = installed("python3", "python3")?;
    let activated = program.clone();
    let script = file(&repository().join("testdata/guests/http_activated.py"))?;
    Ok(Program {
        name: "python",
        what: "python3 -m http.server",
        words: Box::new(move |port| strings([&program, "-m", "http.server", &port.to_string()])),
        activation: Ok(Box::new(move |_| strings([&activated, &script]))),
        port: 17004,
        request: HTTP,
    })
}

fn node() -> Result<Program> {
    let program = installed("node", "nodejs")?;
    let script = file(&repository().join("testdata/guests/http_server.js"))?;
    let words = move |port: u16| strings([&program, &script, &port.to_string()]);
    Ok(Program {
        name: "node",
        what: "node's http",
        words: Box::new(words.clone()),
        activation: Ok(Box::new(words)),
        port: 17005,
        request: HTTP,
    })
}

fn jvm(context: &Context) -> Result<Program> {
    // Not by Debian's alternatives, which containers have not got.
    let program = file(Path::new(&installed("java", "default-jdk-headless")?))?;
    let classes = context.guests.join("java");
    file(&classes.join("Server.class"))?;
    let classes = classes.to_string_lossy().into_owned();
    let words = move |port: u16| {
        let port = port.to_string();
        strings([&program, "-XX:TieredStopAtLevel=1", "-cp", &classes, "Server", &port])
    };
    Ok(Program {
        name: "jvm",
        what: "the JDK's HTTP server",
        words: Box::new(words),
        activation: Err(
            "it binds its own socket; what System.inheritedChannel() gives is no socket of com.sun.net.httpserver's",
        ),
        port: 17006,
        request: HTTP,
    })
}

/// nginx with one small page, by its address.
///
/// # Errors
/// systemd is not installed.
pub fn nginx_words(context: &Context) -> Result<impl Fn(Ipv4Addr, u16) -> Vec<String> + use<>> {
    let program = installed("nginx", "nginx-light")?;
    let (shared, scratch) = (context.sandbox.shared()?, context.sandbox.scratch()?);
    Ok(move |ip: Ipv4Addr, port: u16| {
        let temp = scratch.display();
        let text = format!(
            "daemon off; master_process off; error_log /dev/null; pid {temp}/nginx-{ip}-{port}.pid;\nevents {{}}\nhttp {{ access_log off; \
             keepalive_requests 1000000; client_body_temp_path {temp}; proxy_temp_path {temp}; fastcgi_temp_path {temp}; \
             uwsgi_temp_path {temp}; scgi_temp_path {temp};\n\
             server {{ listen {ip}:{port}; location / {{ return 200 'hello'; }} }} }}\n"
        );
        let file = shared.join(format!("nginx-{ip}-{port}.conf"));
        // A failed write shows when nginx does not start.
        let _ = command::write_file(&file, &text);
        strings([&program, "-c", &file.to_string_lossy()])
    })
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn installed(name: &str, package: &str) -> Result<String> {
    let path = command::find_server(name).with_context(|| format!("{name} is not installed (Debian: {package})"))?;
    Ok(path.to_string_lossy().into_owned())
}

fn file(path: &Path) -> Result<String> {
    let path = path
        .canonicalize()
        .with_context(|| format!("there is no {}: 'make guests' makes it", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}
