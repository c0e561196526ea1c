//! A small disk, in a mount namespace of the test's own: a tmpfs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const MARK: &str = "IMSUP_TEST_OWN_DISK";

/// The size of the disk, in bytes.
const SIZE: usize = 16 << 20;

/// The disk, empty at first.
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Runs the calling test once more with such a disk. `Some` inside, for the test to do its
    /// work; `None` outside, after its success.
    ///
    /// An ordinary user mounts it as root of a user namespace, and works in another namespace
    /// inside, as the same ordinary user as before.
    #[track_caller]
    #[must_use]
    pub fn own() -> Option<Self> {
        if let Some(directory) = std::env::var_os(MARK) {
            return Some(Self {
                directory: directory.into(),
            });
        }
        let thread = std::thread::current();
        let test = thread.name().expect("a test's thread has its name");
        let directory = tempfile::Builder::new().prefix("imsup-disk").tempdir().unwrap();
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let mount = format!("mount -t tmpfs -o size={SIZE},mode=1777 imsup-test \"${MARK}\"");
        let mut command = Command::new("unshare");
        if user.is_root() {
            command.args(["--mount", "--", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
        } else {
            let again = format!(
                "{mount} && exec unshare --user --map-user={} --map-group={} -- \"$@\"",
                user.as_raw(),
                group.as_raw()
            );
            command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", &again, "sh"]);
        }
        let status = command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(MARK, directory.path())
            .status()
            .expect("unshare(1), of the package util-linux: run 'make setup'");
        assert!(
            status.success(),
            "{test} with a disk of its own: {status} (an ordinary user needs user namespaces: sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone)"
        );
        None
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Leaves no byte free.
    #[track_caller]
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filling()).unwrap();
        let block = vec![0; 1 << 16];
        let error = std::iter::repeat_with(|| file.write_all(&block))
            .find_map(Result::err)
            .expect("a disk has an end");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    /// Frees the filled space.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.filling());
    }

    fn filling(&self) -> PathBuf {
        self.directory.join("filling")
    }
}
