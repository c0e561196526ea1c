//! Docker for tests: a daemon of the test's own, apart from the machine's, and containers without a
//! network.
//!
//! Everything dies with the daemon's PID namespace, and with this process; cgroups and files are
//! removed on drop.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::command::{Finished, LIMIT, run, wait_exit};
use super::{guest, imsup};

/// In a mount namespace: writes of dockerd and containerd outside their directories (/run,
/// /etc/docker, /opt/containerd) are invisible elsewhere, and gone with them.
const HIDE: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
if [ -d /opt ]; then mount -t tmpfs tmpfs /opt; fi
exec \"$@\"";

/// The name of the image.
pub const IMAGE: &str = "imsup-test:1";

/// The directory in the image that belongs to its user, and receives its files.
const HOME: &str = "/home/app";

/// The image's ordinary user.
pub const USER: &str = "1000:1000";

/// A running daemon with an image.
pub struct Docker {
    directory: TempDir,
    daemon: Child,
    cgroups: String,
}

impl Docker {
    /// Starts the daemon, and makes an image of local files: the machine's programs and imsup are
    /// mounted, `files` are in [`HOME`], the working directory.
    pub fn start(files: &[(&str, &str)]) -> Self {
        assert!(geteuid().is_root(), "only root can start dockerd: sudo make test");
        let directory = tempfile::Builder::new().prefix("imsup-d").tempdir().unwrap();
        let cgroups = format!("imsup-test-{}-{}", std::process::id(), name_of(directory.path()));
        let path = |name: &str| directory.path().join(name);
        let log = std::fs::File::create(path("log")).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
            ])
            .args(["--kill-child", "sh", "-c", HIDE, "sh", "dockerd"])
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg(format!("--host=unix://{}", path("sock").display()))
            .arg(format!("--cgroup-parent={cgroups}"))
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
            ])
            .args([
                "--ip-masq=false",
                "--userland-proxy=false",
                "--storage-driver=vfs",
                "--group=",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let daemon = command.spawn().expect("setpriv and unshare (util-linux) start dockerd");
        let mut docker = Self {
            directory,
            daemon,
            cgroups,
        };
        docker.wait();
        docker.import(files);
        docker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(self.path("sock")).is_err() {
            let ended = self.daemon.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!("dockerd does not listen (scripts/setup.sh installs docker.io): {ended:?}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn import(&self, files: &[(&str, &str)]) {
        let root = self.path("image");
        let home = root.join(HOME.trim_start_matches('/'));
        for directory in [
            "etc", "tmp", "usr", "imsup", "guests", "proc", "dev", "sys", "run", "var/lib",
        ] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::create_dir_all(&home).unwrap();
        for directory in ["bin", "sbin", "lib", "lib64"] {
            // On a machine with a merged /usr, these are links into it.
            match std::fs::read_link(Path::new("/").join(directory)) {
                Ok(target) => symlink(target, root.join(directory)).unwrap(),
                Err(_) => std::fs::create_dir_all(root.join(directory)).unwrap(),
            }
        }
        let accounts = format!("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::{HOME}:/bin/sh\n");
        std::fs::write(root.join("etc/passwd"), accounts).unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
        for (name, text) in files {
            std::fs::write(home.join(name), text).unwrap();
        }
        for directory in [root.join("tmp"), home] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o1777)).unwrap();
        }
        let archive = self.path("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".");
        run(tar, LIMIT).expect_success("tar");
        self.ok(&["import", archive.to_str().unwrap(), IMAGE]);
    }

    /// The value of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("sock").display())
    }

    /// A command of docker's, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(arguments)
            .env("DOCKER_HOST", self.host())
            .env("HOME", self.directory.path())
            .env_remove("DOCKER_CONTEXT");
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        run(self.command(arguments), LIMIT).expect_success(&format!("docker {}", arguments.join(" ")))
    }

    /// Starts a container with docker's own defaults: its seccomp profile, its capabilities. `user`
    /// is the image's.
    pub fn run(&self, user: &str, command: &[&str]) -> Container<'_> {
        self.run_with(&[], user, command)
    }

    /// The same, with options of `docker run`.
    pub fn run_with(&self, options: &[&str], user: &str, command: &[&str]) -> Container<'_> {
        let imsup = format!("{}:/imsup/imsup:ro", imsup().display());
        let guests = format!("{}:/guests:ro", guest("guest").parent().unwrap().display());
        let mut arguments = vec![
            "run",
            "--detach",
            "--network",
            "none",
            "--user",
            user,
            "--workdir",
            HOME,
        ];
        arguments.extend(options);
        arguments.extend(["--env", "PATH=/imsup:/guests:/usr/bin:/usr/sbin"]);
        arguments.extend([
            "--volume",
            &imsup,
            "--volume",
            &guests,
            "--volume",
            "/usr:/usr:ro",
            IMAGE,
        ]);
        arguments.extend(command);
        Container {
            docker: self,
            id: self.ok(&arguments).trim().to_owned(),
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // The first process of a PID namespace is gone only when all the others are
        // (pid_namespaces(7)), and unshare waits for it.
        let unshare = self.daemon.id();
        let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
        let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let killed = first
            .and_then(Pid::from_raw)
            .map(|first| kill_process(first, Signal::KILL));
        if killed.is_none() || !wait_exit(unshare, LIMIT) {
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
        remove_cgroups(Path::new("/sys/fs/cgroup"), &self.cgroups);
    }
}

/// A container; ends with the daemon.
pub struct Container<'a> {
    docker: &'a Docker,
    id: String,
}

impl Container<'_> {
    /// Runs a command in the container, as its user.
    pub fn exec(&self, command: &[&str]) -> Finished {
        let mut arguments = vec!["exec", self.id.as_str()];
        arguments.extend(command);
        run(self.docker.command(&arguments), LIMIT)
    }

    /// Runs a command in the container that must succeed, and returns its output.
    #[track_caller]
    pub fn ok(&self, command: &[&str]) -> String {
        let finished = self.exec(command);
        assert!(
            finished.success(),
            "{}: {finished}\n-- the container\n{}",
            command.join(" "),
            self.logs()
        );
        finished.stdout
    }

    /// The output of the main process so far.
    pub fn logs(&self) -> String {
        run(self.docker.command(&["logs", &self.id]), LIMIT).to_string()
    }

    /// Waits until the main process has printed this; fails if the process ends before.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let mut command = self.docker.command(&["logs", "--follow", &self.id]);
        // Both streams in one.
        let (reader, writer) = std::io::pipe().unwrap();
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer);
        let mut follower = command.spawn().unwrap();
        drop(command);
        let (sender, receiver) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + LIMIT;
        let said = loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        let _ = follower.kill();
        let _ = follower.wait();
        assert!(said, "it never said '{text}': {}", self.logs());
    }

    /// The exit status.
    pub fn wait(&self) -> i32 {
        self.docker.ok(&["wait", &self.id]).trim().parse().unwrap()
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .trim_start_matches('.')
        .to_owned()
}

/// Removes the cgroups of this name in all hierarchies, with their children: dockerd leaves them
/// behind.
fn remove_cgroups(directory: &Path, name: &str) {
    for path in subdirectories(directory) {
        if path.file_name().is_some_and(|found| found == name) {
            remove_tree(&path);
        } else {
            remove_cgroups(&path, name);
        }
    }
}

fn remove_tree(directory: &Path) {
    for path in subdirectories(directory) {
        remove_tree(&path);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    // EBUSY until the last zombie is reaped.
    while std::fs::remove_dir(directory).is_err() && directory.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}
