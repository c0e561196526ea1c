//! The places of a project's files. See "Files" in ARCHITECTURE.md.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The directories of one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    runtime: PathBuf,
    state: PathBuf,
}

impl Paths {
    /// The directories of `project` for the user `uid`, by the environment that `variable` looks
    /// up, and by the directories that are `usable`. If the usual place cannot be made (`docker run
    /// --user`, a read-only root, another user's home), all are below /tmp.
    pub fn new(
        project: &str,
        uid: u32,
        variable: impl Fn(&str) -> Option<PathBuf>,
        usable: impl Fn(&Path) -> bool,
    ) -> Self {
        let choose = |explicit: &str, usual: Option<PathBuf>, last: String| {
            let fallback = || PathBuf::from(last);
            variable(explicit).unwrap_or_else(|| usual.filter(|path| usable(path)).unwrap_or_else(fallback))
        };
        let root = uid == 0;
        let runtime = match root {
            true => Some(PathBuf::from("/run/imsup")),
            false => variable("XDG_RUNTIME_DIR").map(|directory| directory.join("imsup")),
        };
        let state = match root {
            true => Some(PathBuf::from("/var/lib/imsup")),
            false => variable("XDG_STATE_HOME")
                .map(|directory| directory.join("imsup"))
                .or_else(|| variable("HOME").map(|home| home.join(".local/state/imsup"))),
        };
        Self {
            runtime: choose("IMSUP_RUNTIME_DIR", runtime, format!("/tmp/imsup-{uid}")).join(project),
            state: choose("IMSUP_STATE_DIR", state, format!("/tmp/imsup-{uid}-state")).join(project),
        }
    }

    /// The directories of `project` for this process.
    pub fn of(project: &str) -> Self {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        // An existing project stays in place, even if the file system has become read-only.
        let usable = |base: &Path| base.join(project).is_dir() || can_be_made(base);
        Self::new(project, rustix::process::getuid().as_raw(), variable, usable)
    }

    /// The runtime directory: sockets and locks, gone after `down`.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The project's state directory: events and logs, gone after `down`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The broker's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("broker.sock")
    }

    /// The file that the broker locks with flock(2).
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("broker.lock")
    }

    /// The file that the keeper locks with flock(2).
    pub(crate) fn keeper(&self) -> PathBuf {
        self.runtime.join("keeper.lock")
    }

    /// Which directory the project's compose file is in: [`Paths::directory_of_file`].
    pub(crate) fn directory(&self) -> PathBuf {
        self.runtime.join("directory")
    }

    /// The directory of the running project's compose file, as noted by the broker; `None` without
    /// a compose file, or if the project is not up.
    pub fn directory_of_file(&self) -> Option<PathBuf> {
        std::fs::read(self.directory())
            .ok()
            .map(|path| OsString::from_vec(path).into())
    }

    /// Lines for /etc/hosts.
    pub fn hosts(&self) -> PathBuf {
        self.runtime.join("hosts")
    }

    /// Directories in which supervisors of the project make cgroups, a directory per line: places
    /// of possible leftovers.
    pub fn cgroups(&self) -> PathBuf {
        self.runtime.join("cgroups")
    }

    /// The subnet of the hosts' addresses, and the routes made for the subnet.
    pub fn subnet(&self) -> PathBuf {
        self.runtime.join("subnet")
    }

    /// The file that a host's supervisor locks with flock(2).
    pub fn running(&self, host: &str) -> PathBuf {
        self.runtime.join("running").join(host)
    }

    /// The directory of the logs of hosts.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The output of a host's program.
    pub fn log(&self, host: &str) -> PathBuf {
        self.logs().join(format!("{host}.log"))
    }

    /// The directory of the roots of hosts with images.
    pub fn roots(&self) -> PathBuf {
        self.state.join("roots")
    }

    /// The directory of named volumes, which outlive projects. No project has such a name.
    pub fn volumes(&self) -> PathBuf {
        self.state.with_file_name(".volumes")
    }

    /// The history of events since `up`.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// The identity of the broker's lock, for processes that do not find the lock at the path any
    /// more.
    pub fn lock_note(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// When the project was brought up: microseconds since the Unix epoch.
    pub fn up(&self) -> PathBuf {
        self.state.join("up")
    }

    /// The names of hosts that have done their work since `up`.
    pub(crate) fn completed(&self) -> PathBuf {
        self.state.join("completed")
    }

    /// The cluster that is to take the place of the project's, for an instant (`up`).
    pub fn next(&self) -> PathBuf {
        self.runtime.join("next.json")
    }

    /// Leases of `imsup keep-awake`: the end of each host's lease, in microseconds since the Unix
    /// epoch.
    pub fn leases(&self) -> PathBuf {
        self.state.join("leases.json")
    }

    /// What all projects tell of their hosts, by network ([`crate::shared_networks`]).
    pub(crate) fn networks(&self) -> PathBuf {
        self.runtime.with_file_name(".networks")
    }

    /// All projects' blocks and learned ports; kept across `down`.
    pub fn projects(&self) -> PathBuf {
        match self.state.parent() {
            Some(base) => base.join("projects.json"),
            None => self.state.join("projects.json"),
        }
    }
}

/// Whether a directory is there and can be written, or can be made: access(2) of the nearest that
/// is there.
fn can_be_made(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.exists());
    nearest.is_some_and(|path| path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(uid: u32, variables: &[(&str, &str)], unusable: &[&str]) -> (String, String) {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        };
        let paths = Paths::new("shop", uid, variable, |path| {
            !unusable.iter().any(|start| path.starts_with(start))
        });
        (paths.runtime.display().to_string(), paths.state.display().to_string())
    }

    #[test]
    fn the_usual_places_give_way_where_they_cannot_be_made() {
        let both = |runtime: &str, state: &str| (runtime.to_owned(), state.to_owned());
        assert_eq!(places(0, &[], &[]), both("/run/imsup/shop", "/var/lib/imsup/shop"));
        assert_eq!(
            places(0, &[], &["/run", "/var"]),
            both("/tmp/imsup-0/shop", "/tmp/imsup-0-state/shop")
        );
        let home = [("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            places(7, &home, &[]),
            both("/run/user/7/imsup/shop", "/home/ann/.local/state/imsup/shop")
        );
        // `docker run --user 7`, without a home.
        assert_eq!(
            places(7, &[("HOME", "/")], &["/"]),
            both("/tmp/imsup-7/shop", "/tmp/imsup-7-state/shop")
        );
        // Explicit values are obeyed.
        let said = [("IMSUP_RUNTIME_DIR", "/a"), ("IMSUP_STATE_DIR", "/b")];
        assert_eq!(places(7, &said, &["/"]), both("/a/shop", "/b/shop"));
    }

    #[test]
    fn what_can_be_made_is_below_what_can_be_written() {
        let base = tempfile::tempdir().unwrap();
        assert!(can_be_made(base.path()) && can_be_made(&base.path().join("a/b")));
        std::fs::write(base.path().join("file"), "").unwrap();
        assert!(!can_be_made(&base.path().join("file/b")));
    }
}
