//! systemd's socket activation, without systemd as process 1: systemd-socket-activate(1) and
//! systemd-socket-proxyd(8).

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::context::{Baseline, Context};
use crate::interrupt;

/// systemd's directories for programs that are not for people.
const LIBRARIES: [&str; 2] = ["/usr/lib/systemd", "/lib/systemd"];
/// A start takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);

/// Both programs.
#[derive(Clone, Debug)]
pub struct Systemd {
    activate: PathBuf,
    proxyd: PathBuf,
}

/// A listening socket that starts a service at its first connection; the service is ended on drop.
#[derive(Debug)]
pub struct Activated(Child);

impl Systemd {
    /// Finds them.
    ///
    /// # Errors
    /// A program is missing, or left out by the command line.
    pub fn find(context: &Context) -> Result<Self> {
        context.wants(Baseline::Systemd)?;
        let activate = command::find("systemd-socket-activate")
            .context("there is no systemd-socket-activate (Debian: systemd)")?;
        let proxyd = library("systemd-socket-proxyd")?;
        Ok(Self { activate, proxyd })
    }

    /// Listens at `at`, and at the first connection becomes the program, which finds the socket as
    /// descriptor 3 (sd_listen_fds(3)).
    ///
    /// # Errors
    /// The service does not start or listen.
    pub fn activate(&self, at: SocketAddrV4, words: &[String]) -> Result<Activated> {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "setsid"])
            .arg(&self.activate)
            .arg("-l")
            .arg(at.to_string())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting systemd-socket-activate by setpriv and setsid (util-linux)")?;
        let mut activated = Activated(child);
        activated.wait(at)?;
        Ok(activated)
    }

    /// Relays from `at` to `to`.
    ///
    /// # Errors
    /// The service does not start or listen.
    pub fn relay(&self, at: SocketAddrV4, to: SocketAddrV4) -> Result<Activated> {
        self.activate(at, &[self.proxyd.to_string_lossy().into_owned(), to.to_string()])
    }
}

impl Activated {
    /// Until a socket listens there, observed without a connection, which would be the signal.
    fn wait(&mut self, at: SocketAddrV4) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !listens(at) {
            if let Some(status) = self.0.try_wait()? {
                bail!("systemd-socket-activate ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("systemd-socket-activate does not listen on {at}");
            }
            interrupt::pause(LOOK)?;
        }
        Ok(())
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of systemd's that is not for people.
///
/// # Errors
/// The socket is missing.
pub fn library(name: &str) -> Result<PathBuf> {
    let mut candidates = LIBRARIES.iter().map(|path| Path::new(path).join(name));
    let found = candidates.find(|path| path.is_file());
    found.with_context(|| format!("there is no {name} (Debian: systemd)"))
}

/// True if a socket listens there.
fn listens(at: SocketAddrV4) -> bool {
    listening(&[at]) == 1
}

/// The number of these addresses with a listening socket, by /proc/net/tcp (proc_pid_net(5)).
pub fn listening(addresses: &[SocketAddrV4]) -> usize {
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // "sl local_address rem_address st ...", with 0A for TCP_LISTEN.
    let listener = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next()?;
        (fields.nth(1) == Some("0A")).then(|| local.to_owned())
    };
    let listeners: HashSet<String> = text.lines().filter_map(listener).collect();
    let found = addresses
        .iter()
        .filter(|at| listeners.contains(&encoded(*at.ip(), at.port())));
    found.count()
}

/// An address as the kernel writes it there: its bytes as one number in the machine's byte order.
fn encoded(ip: Ipv4Addr, port: u16) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_in_the_kernels_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else {
            panic!("not IPv4");
        };
        assert!(listens(at));
        drop(listener);
        // A child that another test starts at this moment has the descriptor, too, until its
        // execve(2).
        let deadline = Instant::now() + TIMEOUT;
        while listens(at) {
            assert!(Instant::now() < deadline, "it is still seen");
            std::thread::sleep(LOOK);
        }
    }
}
