//! Hosts as processes of this machine.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use imsup_protocol::zygote::{self, BOOT_VARIABLE, SpawnRequest};
use imsup_wire::{ExitStatus, HostName};
use mio::Registry;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, pidfd_send_signal};

use crate::own_program;

use super::child;
use super::child::pidfd_of;
use super::leftovers::{self, Children, Tree};
use super::zygote::{Reply, Zygote};
use super::{Launch, LaunchError, LaunchResult, Launched, Launcher, Outcome, Pids};

/// Starts supervisors as children of this process, which must be the subreaper of its descendants:
/// by the zygote, else as `imsup run`.
#[derive(Debug)]
pub struct ProcessLauncher {
    /// The path of this program, for people: [`own_program::command`] finds the program itself.
    executable: PathBuf,
    zygote: Zygote,
    /// What nobody was told yet.
    outcomes: Vec<Outcome>,
    /// Whether it may be started: whoever started the broker waits until nobody has its output any
    /// more, and the zygote inherits that.
    prepared: bool,
    /// The soft limit of descriptors that programs start with.
    descriptor_limit: Option<u64>,
    /// Any other child was orphaned by a supervisor that died.
    children: Arc<Mutex<Children>>,
}

impl ProcessLauncher {
    /// A launcher that starts this program, at the path `executable`. Makes the process the
    /// subreaper of its descendants.
    ///
    /// # Errors
    /// prctl(2), dup(2).
    pub fn new(executable: PathBuf, descriptor_limit: Option<u64>, registry: &Registry) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self {
            zygote: Zygote::new(executable.clone(), registry.try_clone()?),
            outcomes: Vec::new(),
            prepared: false,
            executable,
            descriptor_limit,
            children: Arc::new(Mutex::new(Children::of_this_process())),
        })
    }

    /// Has the zygote make the supervisor; `None` where it cannot, or something is out of the
    /// ordinary: executing it says what.
    fn ask(&mut self, launch: &Launch<'_>, log: &File) -> Option<()> {
        // Settings of imsup itself: the zygote has read its own.
        if launch.program.environment.keys().any(|name| name.starts_with(SETTINGS)) {
            return None;
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed())
            .open(launch.program.supervisor_dir())
            .ok()?;
        let fds = vec![log.try_clone().ok()?.into(), directory.into()];
        self.zygote.ask(self.request(launch), fds).then_some(())
    }

    fn request(&self, launch: &Launch<'_>) -> SpawnRequest {
        let mut program = launch.program.clone();
        program.descriptor_limit = program.descriptor_limit.or(self.descriptor_limit);
        SpawnRequest {
            program,
            host: launch.host.clone(),
            boot: launch.boot,
            expires_us: None,
        }
    }

    /// Executes the supervisor.
    fn execute(&self, launch: &Launch<'_>, log: File) -> Result<u32, LaunchError> {
        let log_again = log.try_clone().map_err(|source| LaunchError::Log {
            path: launch.log.clone(),
            source,
        })?;
        let spawn_error = |source| LaunchError::Spawn {
            path: self.executable.clone(),
            source,
        };
        let request = file_of(&self.request(launch)).map_err(spawn_error)?;
        let settings = launch.program.environment.iter();
        let child = own_program::command(&self.executable)
            // The command is in the request: everybody can read a command line.
            .args(["run", "--project", launch.project, "--host", launch.host.as_str()])
            .args(["--boot", &launch.boot.to_string()])
            .envs(settings.filter(|(name, _)| name.starts_with(SETTINGS)))
            .env(BOOT_VARIABLE, launch.boot.to_string())
            // systemd's variable, for the broker: a program that saw it would speak in the broker's
            // name (sd_notify(3)).
            .env_remove("NOTIFY_SOCKET")
            .current_dir(launch.program.supervisor_dir())
            .stdin(request)
            .stdout(log)
            .stderr(log_again)
            .spawn();
        let child = child.map_err(|source| {
            let path = launch.program.supervisor_dir().to_owned();
            // spawn(2) does not say if the directory or the program is missing.
            match std::fs::metadata(&path) {
                Err(source) => LaunchError::WorkingDirectory { path, source },
                Ok(metadata) if !metadata.is_dir() => LaunchError::WorkingDirectory {
                    path,
                    source: io::Error::from(io::ErrorKind::NotADirectory),
                },
                Ok(_) => spawn_error(source),
            }
        })?;
        Ok(child.id())
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<Option<Launched>, LaunchError> {
        let log = open_log(launch)?;
        // Locked while the child is made, so that the unknown child is not taken for an orphan.
        let children = Arc::clone(&self.children);
        let mut children = children.lock();
        if !launch.again && self.ask(launch, &log).is_some() {
            children.asked += 1;
            return Ok(None);
        }
        let pid = self.execute(launch, log)?;
        if self.prepared {
            children.supervisors.extend(self.zygote.start(launch.project));
        }
        children.supervisors.insert(pid);
        Ok(Some(running(pid)))
    }

    /// Takes what the zygote has said.
    fn hear(&mut self) {
        let heard = self.zygote.hear();
        let mut children = self.children.lock();
        for said in heard {
            let result = match said.reply {
                // It may come still: it is one of those that may have been made.
                Reply::Late => LaunchResult::Unanswered,
                Reply::None => {
                    children.asked = children.asked.saturating_sub(1);
                    LaunchResult::Unanswered
                }
                Reply::Made(pid) => {
                    children.asked = children.asked.saturating_sub(1);
                    let status = children.early.remove(&pid);
                    let launched = status.map_or_else(
                        || running(pid),
                        |status| Launched {
                            pid: Some(pid),
                            ended: None,
                            status: Some(status),
                        },
                    );
                    if status.is_none() {
                        children.supervisors.insert(pid);
                    }
                    LaunchResult::Started(launched)
                }
            };
            match result {
                // Its boot was told of already, and goes on under another token.
                LaunchResult::Started(launched) if said.was_late => kill(&launched),
                _ if said.was_late => {}
                result => self.outcomes.push(Outcome {
                    boot: said.boot,
                    result,
                }),
            }
        }
        if children.asked == 0 {
            children.early.clear();
        }
    }
}

/// What the names of variables begin with that are read by imsup itself.
const SETTINGS: &str = "IMSUP_";

/// A file of memory that holds a request, to be read from its start.
fn file_of(request: &SpawnRequest) -> io::Result<File> {
    let fd = rustix::fs::memfd_create(c"imsup-program", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    let mut buffered = BufWriter::new(&mut file);
    zygote::write(request, &mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.rewind()?;
    Ok(file)
}

fn kill(launched: &Launched) {
    if let Some(process) = &launched.ended {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Opens the file for the program's output: the log, or /dev/null if that fails (a full disk),
/// after a warning.
fn open_log(launch: &Launch<'_>) -> Result<File, LaunchError> {
    let failed = |source| LaunchError::Log {
        path: launch.log.clone(),
        source,
    };
    // O_NONBLOCK: somebody may have put a pipe there, and the loop waits for no reader of it
    // (fifo(7)). The program has the log as ever.
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
        children.supervisors.extend(self.zygote.start(project));
    }

    fn finish(&mut self) {
        self.zygote.end();
        // After `down`, no process is left: a supervisor leaves its AIO contexts to a process that
        // outlives the supervisor for some 20 ms.
        let children = self.children.lock().clone();
        leftovers::await_children(&children);
    }

    fn start(&mut self, launch: &Launch<'_>) {
        let result = match self.launch(launch) {
            Ok(None) => return,
            Ok(Some(launched)) => LaunchResult::Started(launched),
            Err(error) => LaunchResult::Failed(error),
        };
        self.outcomes.push(Outcome {
            boot: launch.boot,
            result,
        });
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        self.hear();
        std::mem::take(&mut self.outcomes)
    }

    fn due(&mut self) -> Option<Duration> {
        self.zygote.due()
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
            // Not nix's wait(2), which knows no real-time signals, and fails with EINVAL for a
            // child that nix has reaped.
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
                // Perhaps the zygote has made it, and has not said so yet.
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
        // In a temporary thread: /proc is read several times, and the loop serves other hosts
        // meanwhile.
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
        ended: child::open(pid),
        status: None,
    }
}

/// The exit status of a child, if it has ended.
fn parse(status: WaitStatus) -> Option<ExitStatus> {
    let exited = status.exit_status().map(ExitStatus::Code);
    exited.or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}
