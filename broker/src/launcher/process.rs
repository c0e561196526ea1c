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
use imsup_wire::ExitStatus;
use mio::Registry;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal};

use crate::own_program;

use super::child;
use super::child::pidfd_of;
use super::leftovers::{self, Children, HostProcesses};
use super::supervisors::Supervisors;
use super::zygote::{BootReply, Reply, Zygote};
use super::{Launch, LaunchError, LaunchEvent, Launcher, Leftovers, Outcome, Standing};
use crate::ids::InstanceId;

/// Starts supervisors as children of this process, which must be the subreaper of its descendants:
/// by the zygote, else as `imsup run`.
#[derive(Debug)]
pub struct ProcessLauncher {
    /// The path of this program, for people: [`own_program::command`] finds the program itself.
    executable: PathBuf,
    zygote: Zygote,
    supervisors: Supervisors,
    /// What nobody was told yet.
    outcomes: Vec<Outcome>,
    /// Whether the zygote may be started: the starter of the broker waits until no process has the
    /// output any more, and the zygote inherits the output.
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
            supervisors: Supervisors::new(registry.try_clone()?),
            outcomes: Vec::new(),
            prepared: false,
            executable,
            descriptor_limit,
            children: Arc::new(Mutex::new(Children::of_this_process())),
        })
    }

    /// Has the zygote make the supervisor; `None` if the zygote cannot, or for an unusual start:
    /// executing the supervisor reports the fault.
    fn ask(&mut self, launch: &Launch<'_>, log: &File) -> Option<()> {
        // Settings of imsup itself, which the zygote has already read.
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

    /// The process, unless the zygote will tell of it.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<Option<u32>, LaunchError> {
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
        Ok(Some(pid))
    }

    /// Takes the zygote's replies.
    fn hear(&mut self) {
        for said in self.zygote.hear() {
            self.take(&said);
        }
        let mut children = self.children.lock();
        if children.asked == 0 {
            children.early.clear();
        }
    }

    fn take(&mut self, said: &BootReply) {
        // A boot of which was told already goes on under another token.
        let instance = self.supervisors.asked_for(said.boot).filter(|_| !said.was_late);
        let status = self.children.lock().heard(said.reply);
        match (said.reply, instance) {
            (Reply::Late | Reply::None, Some(instance)) => {
                let event = match self.supervisors.is_made_already(instance) {
                    true => LaunchEvent::Started,
                    false => LaunchEvent::Unanswered,
                };
                self.tell(instance, event);
            }
            (Reply::Late | Reply::None, None) => {}
            (Reply::Made(pid), Some(instance)) => self.is_made(instance, pid, status),
            // Its introduction came before the zygote's late reply: it is the supervisor of the boot.
            (Reply::Made(pid), None) if self.supervisors.has(pid) => {}
            // Not reaped yet: the number is still its own.
            (Reply::Made(pid), None) if status.is_none() => kill(pid),
            (Reply::Made(_), None) => {}
        }
    }

    fn is_made(&mut self, instance: InstanceId, pid: u32, status: Option<ExitStatus>) {
        self.supervisors.made(instance, pid, status);
        self.tell(instance, LaunchEvent::Started);
        if status.is_some() {
            self.supervisors.end(instance);
            self.tell(instance, LaunchEvent::Ended);
        }
    }

    fn tell(&mut self, instance: InstanceId, event: LaunchEvent) {
        self.outcomes.push(Outcome { instance, event });
    }
}

/// The prefix of the variables that imsup itself reads.
const SETTINGS: &str = "IMSUP_";

/// A file of memory that holds a request, to be read from the start.
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

fn kill(pid: u32) {
    if let Some(process) = child::open(pid) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Opens the file for the program's output: the log, or /dev/null if that fails (a full disk),
/// after a warning. The end of a pipe instead, if there is one.
fn open_log(launch: &Launch<'_>) -> Result<File, LaunchError> {
    let failed = |source| LaunchError::Log {
        path: launch.log.clone(),
        source,
    };
    if let Some(output) = launch.output {
        return output.try_clone().map(File::from).map_err(failed);
    }
    // O_NONBLOCK: a user may have put a pipe there, and the loop waits for no reader of the pipe
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
        self.supervisors.ask(launch.instance, launch.boot);
        match self.launch(launch) {
            Ok(None) => {}
            Ok(Some(pid)) => self.is_made(launch.instance, pid, None),
            Err(error) => self.tell(launch.instance, LaunchEvent::Failed(error)),
        }
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        self.hear();
        std::mem::take(&mut self.outcomes)
    }

    fn due(&mut self) -> Option<Duration> {
        self.zygote.due()
    }

    fn start_helper(
        &mut self,
        arguments: &[&OsStr],
        stdin: OwnedFd,
        output: Option<OwnedFd>,
    ) -> io::Result<(Pid, OwnedFd)> {
        let (stdout, stderr) = match output {
            Some(output) => (Stdio::from(output.try_clone()?), Stdio::from(output)),
            None => (Stdio::null(), Stdio::null()),
        };
        // Held while the child is made, as for a supervisor.
        let mut children = self.children.lock();
        let child = own_program::command(&self.executable)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        let pid = Pid::from_child(&child);
        let process = pidfd_of(child)?;
        children.supervisors.insert(pid.as_raw_pid().unsigned_abs());
        Ok((pid, process))
    }

    fn adopt(&mut self, instance: InstanceId, pid: u32) -> Vec<PathBuf> {
        self.supervisors.adopt(instance, pid)
    }

    fn note_program(&mut self, instance: InstanceId, pid: u32) {
        self.supervisors.note_program(instance, pid);
    }

    fn process(&self, instance: InstanceId) -> Option<u32> {
        self.supervisors.process(instance)
    }

    fn standing(&self, instance: InstanceId) -> Standing {
        self.supervisors.standing(instance)
    }

    fn signal(&mut self, instance: InstanceId, signal: Signal) {
        self.supervisors.signal(instance, signal);
    }

    fn look_at(&mut self, instance: InstanceId) {
        if self.supervisors.is_over(instance) {
            self.reap();
            self.supervisors.end(instance);
            self.tell(instance, LaunchEvent::Ended);
        }
    }

    fn reap(&mut self) {
        loop {
            // Not nix's wait(2), which knows no real-time signals, and fails with EINVAL for a
            // child that nix has reaped.
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(reaped)) => reaped,
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => return,
            };
            let Some(status) = parse(status) else { continue };
            let pid = pid.as_raw_pid().unsigned_abs();
            let mut children = self.children.lock();
            if children.reap(pid) {
                self.supervisors.reaped(pid, status);
            } else if children.asked > 0 {
                // Perhaps the zygote has made the supervisor, and has not replied yet.
                children.early.insert(pid, status);
            }
        }
    }

    fn forget(&mut self, instance: InstanceId) -> Option<ExitStatus> {
        self.supervisors.forget(instance)
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.supervisors.cgroups()
    }

    fn clear(&mut self, left: &Leftovers<'_>, done: Box<dyn FnOnce() + Send>) {
        let children = Arc::clone(&self.children);
        let tree = HostProcesses {
            boots: left.boot.into_iter().collect(),
            pids: self.supervisors.pids(left),
        };
        let host = left.host.clone();
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

/// The exit status of a child, if it has ended.
fn parse(status: WaitStatus) -> Option<ExitStatus> {
    let exited = status.exit_status().map(ExitStatus::Code);
    exited.or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use mio::Poll;
    use slotmap::SlotMap;

    use super::*;

    /// A launcher with an instance that is asked for by token 1.
    fn asked() -> (ProcessLauncher, InstanceId) {
        let poll = Poll::new().unwrap();
        let mut launcher = ProcessLauncher::new("/proc/self/exe".into(), None, poll.registry()).unwrap();
        let instance = SlotMap::with_key().insert(());
        launcher.supervisors.ask(instance, 1);
        (launcher, instance)
    }

    fn said(reply: Reply, was_late: bool) -> BootReply {
        BootReply {
            boot: 1,
            reply,
            was_late,
        }
    }

    /// Whether a supervisor ends by itself, after a reply that came late.
    fn ends_by_itself(mut launcher: ProcessLauncher, introduced: bool, instance: InstanceId) -> bool {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        if introduced {
            launcher.adopt(instance, child.id());
        }
        launcher.take(&said(Reply::Late, false));
        launcher.take(&said(Reply::Made(child.id()), true));
        drop(child.stdin.take());
        child.wait().unwrap().success()
    }

    #[test]
    fn a_supervisor_that_has_introduced_itself_survives_the_late_reply() {
        let (launcher, instance) = asked();
        assert!(ends_by_itself(launcher, true, instance));
    }

    #[test]
    fn a_supervisor_that_comes_late_is_killed() {
        let (launcher, instance) = asked();
        assert!(!ends_by_itself(launcher, false, instance));
    }
}
