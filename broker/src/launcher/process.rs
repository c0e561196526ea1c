//! Hosts as processes of this machine.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use imsup_protocol::nursery::Birth;
use imsup_wire::{ExitStatus, HostName};
use mio::Registry;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use crate::own_program;
use imsup_compose::cluster::HostSpec;

use super::child::pidfd_of;
use super::leftovers::{self, Children, Tree};
use super::nursery::Nursery;
use super::{BOOT_VARIABLE, Launch, LaunchError, Launched, Launcher, Made, Pids, Start};

/// Starts supervisors as children of this process, which must be the subreaper of its descendants: by the nursery, else as `imsup run`.
#[derive(Debug)]
pub struct ProcessLauncher {
    /// The path of this program, for people: [`own_program::command`] finds the program itself.
    executable: PathBuf,
    nursery: Nursery,
    /// Whether it may be started: whoever started the broker waits until nobody has its output any more, and the nursery inherits that.
    prepared: bool,
    /// The soft limit of descriptors that programs start with.
    descriptor_limit: Option<u64>,
    /// Any other child was orphaned by a supervisor that died.
    children: Arc<Mutex<Children>>,
}

impl ProcessLauncher {
    /// A launcher that starts this program, whose path is `executable`. Makes the process the subreaper of its descendants.
    ///
    /// # Errors
    /// prctl(2), dup(2).
    pub fn new(executable: PathBuf, descriptor_limit: Option<u64>, registry: &Registry) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self {
            nursery: Nursery::new(executable.clone(), registry.try_clone()?),
            prepared: false,
            executable,
            descriptor_limit,
            children: Arc::new(Mutex::new(Children::of_this_process())),
        })
    }

    /// Has the nursery make the supervisor; `None` where it cannot, or something is out of the ordinary: executing it says what.
    fn ask(&mut self, launch: &Launch<'_>, log: &File) -> Option<()> {
        let host = launch.host;
        let mut environment: Vec<(String, String)> = host.environment.clone().into_iter().collect();
        // What it says to its supervisor may be too late there.
        let is_plain = |(name, value): &(String, String)| {
            !name.is_empty() && !name.starts_with("IMSUP_") && !name.contains(['=', '\0']) && !value.contains('\0')
        };
        if !environment.iter().all(is_plain) {
            return None;
        }
        environment.push((BOOT_VARIABLE.to_owned(), launch.boot.to_string()));
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed())
            .open(&host.working_dir)
            .ok()?;
        let birth = Birth {
            host: host.name.clone(),
            boot: launch.boot,
            descriptor_limit: self.descriptor_limit,
            user: host.user.clone(),
            command: host.command.clone(),
            environment,
            removed: removed_for(host),
        };
        let fds = vec![log.try_clone().ok()?.into(), directory.into()];
        self.nursery.ask(&birth, fds).then_some(())
    }

    /// Executes the supervisor.
    fn execute(&self, launch: &Launch<'_>, log: File) -> Result<u32, LaunchError> {
        let host = launch.host;
        let log_error = |source| LaunchError::Log {
            path: launch.log.clone(),
            source,
        };
        let log_again = log.try_clone().map_err(log_error)?;
        let mut command = own_program::command(&self.executable);
        command
            .args(["run", "--project", launch.project, "--host", host.name.as_str()])
            .args(["--boot", &launch.boot.to_string()]);
        if let Some(limit) = self.descriptor_limit {
            command.args(["--nofile", &limit.to_string()]);
        }
        if let Some(user) = &host.user {
            command.args(["--user", user]);
        }
        command.arg("--").args(&host.command);
        for name in removed_for(host) {
            command.env_remove(name);
        }
        command
            .envs(&host.environment)
            .env(BOOT_VARIABLE, launch.boot.to_string())
            // systemd's, for the broker: a program that saw it would speak in the broker's name (sd_notify(3)).
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&host.working_dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_again);
        let child = command.spawn().map_err(|source| {
            // spawn(2) does not say which of the two it did not find.
            match std::fs::metadata(&host.working_dir) {
                Err(source) => LaunchError::WorkingDirectory {
                    path: host.working_dir.clone(),
                    source,
                },
                Ok(metadata) if !metadata.is_dir() => LaunchError::WorkingDirectory {
                    path: host.working_dir.clone(),
                    source: io::Error::from(io::ErrorKind::NotADirectory),
                },
                Ok(_) => LaunchError::Spawn {
                    path: self.executable.clone(),
                    source,
                },
            }
        })?;
        Ok(child.id())
    }
}

/// Variables of ours that the programs of other users get, too: what `PATH` and the locale are, and what imsup itself is told.
fn is_everybodys(name: &str) -> bool {
    ["PATH", "LANG", "LANGUAGE", "TZ", "TERM"].contains(&name) || name.starts_with("LC_") || name.starts_with("IMSUP_")
}

/// What of our environment a host is not to see: where it runs as another user, who must not read root's secrets there, all but [`is_everybodys`].
fn removed_for(host: &HostSpec) -> Vec<String> {
    let is_others = host.user.as_deref().is_some_and(|user| {
        let name = user.split(':').next().unwrap_or_default();
        rustix::process::geteuid().is_root() && !["root", "0"].contains(&name)
    });
    let own = std::env::vars_os().filter(|_| is_others);
    own.filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| !is_everybodys(name))
        .collect()
}

/// Opens what the program prints to: its log, or nothing where that cannot be (a full disk), which is said.
fn open_log(launch: &Launch<'_>) -> Result<File, LaunchError> {
    let failed = |source| LaunchError::Log {
        path: launch.log.clone(),
        source,
    };
    // O_NONBLOCK: somebody may have put a pipe there, and the loop waits for no reader of it (fifo(7)). The program has the log as ever.
    let mut options = File::options();
    options
        .append(true)
        .create(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    match options.open(&launch.log) {
        Ok(log) => {
            let _ = rustix::io::ioctl_fionbio(&log, false);
            Ok(log)
        }
        Err(error) => {
            tracing::warn!("{}; what it prints is lost", failed(error));
            File::options().append(true).open("/dev/null").map_err(failed)
        }
    }
}

impl Launcher for ProcessLauncher {
    fn prepare(&mut self, project: &str) {
        self.prepared = true;
        let mut children = self.children.lock();
        children.supervisors.extend(self.nursery.start(project));
    }

    fn finish(&mut self) {
        self.nursery.end();
        // Nothing is left once `down` says so: a supervisor leaves its AIO contexts to a process that outlives it for some 20 ms.
        let children = self.children.lock().clone();
        leftovers::await_children(&children);
    }

    fn start(&mut self, launch: &Launch<'_>) -> Result<Start, LaunchError> {
        let log = open_log(launch)?;
        // Held while the child is made, so that nobody takes it for an orphan before it is known.
        let children = Arc::clone(&self.children);
        let mut children = children.lock();
        if !launch.executed && self.ask(launch, &log).is_some() {
            children.asked += 1;
            return Ok(Start::Asked);
        }
        let pid = self.execute(launch, log)?;
        if self.prepared {
            children.supervisors.extend(self.nursery.start(launch.project));
        }
        children.supervisors.insert(pid);
        Ok(Start::Started(running(pid)))
    }

    fn made(&mut self) -> Vec<Made> {
        let heard = self.nursery.hear();
        let mut children = self.children.lock();
        let made = |(boot, pid): (u64, Option<u32>)| {
            children.asked = children.asked.saturating_sub(1);
            let launched = pid.map(|pid| match children.early.remove(&pid) {
                Some(status) => Launched {
                    pid: Some(pid),
                    ended: None,
                    status: Some(status),
                },
                None => {
                    children.supervisors.insert(pid);
                    running(pid)
                }
            });
            if children.asked == 0 {
                children.early.clear();
            }
            Made { boot, launched }
        };
        heard.into_iter().map(made).collect()
    }

    fn start_helper(&mut self, arguments: &[&OsStr], stdin: OwnedFd) -> io::Result<OwnedFd> {
        // Held while the child is made, as for a supervisor.
        let mut children = self.children.lock();
        let child = own_program::command(&self.executable)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        let process = pidfd_of(child)?;
        children.supervisors.insert(pid);
        Ok(process)
    }

    fn reap(&mut self) -> Vec<(u32, ExitStatus)> {
        let mut ended = Vec::new();
        loop {
            // Not nix's: it knows no real-time signals, and fails with EINVAL for a child that it has reaped.
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(reaped)) => reaped,
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => return ended,
            };
            let Some(status) = parse(status) else { continue };
            let pid = pid.as_raw_pid().unsigned_abs();
            let mut children = self.children.lock();
            if children.reap(pid) {
                ended.push((pid, status));
            } else if children.asked > 0 {
                // Perhaps the nursery has made it, and has not said so yet.
                children.early.insert(pid, status);
            }
        }
    }

    fn clear(&self, host: &HostName, boot: Option<u64>, pids: Pids, done: Box<dyn FnOnce() + Send>) {
        let children = Arc::clone(&self.children);
        let tree = Tree {
            boots: boot.into_iter().collect(),
            pids,
        };
        let host = host.clone();
        let work = move || {
            if !leftovers::clear(&tree, Some(&children)) {
                tracing::warn!(%host, "processes of the host could not be ended; they may hold its ports");
            }
            done();
        };
        // A thread for as long as it takes: /proc is read several times, and the loop serves other hosts meanwhile.
        let work = Arc::new(Mutex::new(Some(work)));
        let for_thread = Arc::clone(&work);
        let in_thread = move || {
            if let Some(work) = for_thread.lock().take() {
                work();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("clear".to_owned()).spawn(in_thread) {
            tracing::warn!(%error, "no thread could be made to clean up after a dead supervisor; the loop waits for it");
            let left = work.lock().take();
            left.into_iter().for_each(|work| work());
        }
    }
}

/// A supervisor that is a child of this process, and not reaped yet: the number is its own.
fn running(pid: u32) -> Launched {
    Launched {
        pid: Some(pid),
        ended: leftovers::open(pid),
        status: None,
    }
}

/// How a child ended, if it did.
fn parse(status: WaitStatus) -> Option<ExitStatus> {
    let exited = status.exit_status().map(ExitStatus::Code);
    exited.or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}
