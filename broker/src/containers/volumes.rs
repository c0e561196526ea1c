//! Volumes and files that roots are mounted with, made before the hosts exist.
//!
//! Blocking: before the loop.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use imsup_linux::root::{PlanError, Root};
use imsup_linux::single_thread::SingleThread;
use imsup_linux::spawn::{SpawnError, work_in};
use imsup_wire::RootSpec;
use imsup_wire::root::{Mount, MountSource};

use super::copy;

/// The directory of a root in which volumes are mounted that take the root's content.
const TAKING: &str = "/.imsup-volumes";

/// Why volumes cannot be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum VolumeError {
    /// A path of the file is not there.
    #[error("{}, which the compose file mounts, does not exist: make it, or take the mount out", .0.display())]
    NoSource(PathBuf),
    /// An external volume is not there.
    #[error(
        "the volume '{name}' is external, and does not exist: make it (mkdir -p {}), or take `external` out",
        directory.display()
    )]
    NotThere { name: String, directory: PathBuf },
    /// A directory or file cannot be made.
    #[error("{} cannot be made: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    /// A root cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A root cannot be entered.
    #[error("a volume cannot take the content of its image: {0}")]
    Enter(#[from] SpawnError),
    /// The content could not be copied.
    #[error("the volume {} could not take the content of its image: {}", directory.display(), std::io::Error::from_raw_os_error(*.errno))]
    Fill { directory: PathBuf, errno: i32 },
}

/// What a path has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// A path of the file, and whether a directory is made for it.
    Bind { make: bool },
    /// A directory of ours.
    Directory,
    /// The directory of a volume that is there already.
    External { name: String },
    /// A file.
    Content { text: String, mode: u32 },
}

/// The volumes of a project.
#[derive(Debug, Default)]
pub struct Volumes {
    needs: BTreeMap<PathBuf, Need>,
    /// Roots whose content volumes take if they are empty: the volume, and the place in the root.
    fills: Vec<(RootSpec, Vec<(PathBuf, PathBuf)>)>,
}

impl Volumes {
    pub(super) fn bind(&mut self, path: PathBuf, make: bool) {
        self.needs.entry(path).or_insert(Need::Bind { make });
    }

    pub(super) fn named(&mut self, directory: PathBuf, name: &str, external: bool) {
        let need = match external {
            true => Need::External { name: name.to_owned() },
            false => Need::Directory,
        };
        self.needs.insert(directory, need);
    }

    pub(super) fn anonymous(&mut self, directory: PathBuf) {
        self.needs.insert(directory, Need::Directory);
    }

    pub(super) fn content(&mut self, file: PathBuf, text: String, mode: u32) {
        self.needs.insert(file, Need::Content { text, mode });
    }

    pub(super) fn fill_from(&mut self, root: &RootSpec, targets: Vec<(PathBuf, PathBuf)>) {
        if !targets.is_empty() {
            self.fills.push((root.clone(), targets));
        }
    }

    /// Makes everything. `scratch` is an empty directory for changes that are thrown away.
    ///
    /// # Errors
    /// Any [`VolumeError`].
    pub fn make(&self, scratch: &Path, thread: &SingleThread) -> Result<(), VolumeError> {
        self.meet_needs()?;
        for (root, targets) in &self.fills {
            let empty = targets.iter().filter(|(directory, _)| is_empty(directory));
            let empty: Vec<&(PathBuf, PathBuf)> = empty.collect();
            if !empty.is_empty() {
                fill(root, &empty, scratch, thread)?;
            }
        }
        Ok(())
    }

    pub(super) fn meet_needs(&self) -> Result<(), VolumeError> {
        self.needs.iter().try_for_each(|(path, need)| need.meet(path))
    }
}

impl Need {
    fn meet(&self, path: &Path) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Make {
            path: path.to_owned(),
            source,
        };
        match self {
            Self::Bind { .. } if path.exists() => Ok(()),
            Self::Bind { make: false } => Err(VolumeError::NoSource(path.to_owned())),
            Self::Bind { make: true } | Self::Directory => fs::create_dir_all(path).map_err(failed),
            Self::External { name } if !path.is_dir() => Err(VolumeError::NotThere {
                name: name.clone(),
                directory: path.to_owned(),
            }),
            Self::External { .. } => Ok(()),
            Self::Content { text, mode } => write(path, text, *mode).map_err(failed),
        }
    }
}

/// The file is opened before it gets its mode, which may forbid even the owner to write.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// Copies the content of a root into volumes, in the root: the paths of an image lead nowhere else
/// there, and owners are the root's.
fn fill(
    root: &RootSpec,
    targets: &[&(PathBuf, PathBuf)],
    scratch: &Path,
    thread: &SingleThread,
) -> Result<(), VolumeError> {
    let taking = |number: usize| Path::new(TAKING).join(number.to_string());
    let mounts = targets.iter().enumerate().map(|(number, (directory, _))| Mount {
        target: taking(number).into(),
        source: MountSource::Bind(directory.into()),
        read_only: false,
    });
    let spec = RootSpec {
        changes: scratch.into(),
        read_only: false,
        mounts: mounts.collect(),
        ..root.clone()
    };
    for directory in ["upper", "work"].map(|name| scratch.join(name)) {
        fs::create_dir_all(&directory).map_err(|source| VolumeError::Make {
            path: directory.clone(),
            source,
        })?;
    }
    let mount_point = root.mount_point.as_ref();
    fs::create_dir_all(mount_point).map_err(|source| VolumeError::Make {
        path: mount_point.to_owned(),
        source,
    })?;
    let root = Root::plan(&spec, Path::new("/"))?;
    for (number, (directory, target)) in targets.iter().enumerate() {
        let errno = work_in(&root, thread, || match target.is_dir() {
            true => match copy::directory(target, &taking(number)) {
                Ok(()) => 0,
                Err(error) => error
                    .raw_os_error()
                    .filter(|errno| (1..=255).contains(errno))
                    .unwrap_or(5),
            },
            false => 0,
        })?;
        if errno != 0 {
            return Err(VolumeError::Fill {
                directory: directory.clone(),
                errno,
            });
        }
    }
    Ok(())
}
