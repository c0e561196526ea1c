//! `projects.json`: the project records, which survive `down` and `up`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use imsup_wire::Transport;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::absent;
use crate::sockets::Family;

/// Maximum number of programs of a host with recorded families.
const MAX_PROGRAMS: usize = 4;

/// Maximum number of ports learned for a host.
const MAX_LEARNED: usize = 256;

/// The interval of tries to take a lock that another process holds.
const LOOK: Duration = Duration::from_millis(5);

/// The reasons why the project records could not be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum ProjectsError {
    /// The file system failed.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The file is not in imsup's format.
    #[error(
        "{path} is not what imsup writes ({source}); remove it: what it holds (addresses, learned ports) is found again"
    )]
    Malformed { path: PathBuf, source: serde_json::Error },
    /// Another process holds the lock.
    #[error(
        "{path} cannot be changed: {} holds the lock of the directory above it (flock(2)), which imsup needs for a moment only; end that process",
        name(*.by)
    )]
    Locked {
        path: PathBuf,
        /// The process, if the kernel reports it.
        by: Option<u32>,
    },
}

fn name(process: Option<u32>) -> String {
    process.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

/// The record of a single project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The project's first block, and the number of blocks.
    pub blocks: Option<(u8, u16)>,
    /// The indexes of the hosts, so that a host keeps its address when the file is edited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<String, u16>,
    /// Ports on which hosts were seen to listen at the VIP.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learned: BTreeMap<String, Vec<(Transport, u16)>>,
    /// The address families with which hosts were last seen to listen at the VIP, by TCP port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Vec<Families>>,
    /// Users other than the broker's as which programs were seen to bind: listeners of these users
    /// are the project's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub users: BTreeSet<u32>,
}

/// The families with which a program of a host listened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// A hash of the program's command and environment. Another program may have other families.
    program: u64,
    /// By port.
    ports: BTreeMap<u16, Family>,
}

impl Recorded {
    /// Notes a port; true if new.
    pub fn learn(&mut self, host: &str, transport: Transport, port: u16) -> bool {
        let known = self.learned.entry(host.to_owned()).or_default();
        let new = known.len() < MAX_LEARNED && !known.contains(&(transport, port));
        if new {
            known.push((transport, port));
        }
        new
    }

    /// The family with which this program of the host listened at a TCP port; `None` if not seen
    /// yet.
    pub fn family(&self, host: &str, program: u64, port: u16) -> Option<Family> {
        self.of_program(host, program)?.ports.get(&port).copied()
    }

    /// True if a boot of this program was seen until all its ports were open.
    pub fn knows_program(&self, host: &str, program: u64) -> bool {
        self.of_program(host, program).is_some()
    }

    /// Notes a complete boot of this program; true for the first.
    pub fn note_program(&mut self, host: &str, program: u64) -> bool {
        if self.knows_program(host, program) {
            return false;
        }
        let known = self.families.entry(host.to_owned()).or_default();
        if known.len() == MAX_PROGRAMS {
            known.remove(0);
        }
        known.push(Families {
            program,
            ..Families::default()
        });
        true
    }

    fn of_program(&self, host: &str, program: u64) -> Option<&Families> {
        self.families.get(host)?.iter().find(|known| known.program == program)
    }

    /// The family of all ports of this program, if all ports have the same.
    pub fn common_family(&self, host: &str, program: u64) -> Option<Family> {
        let families = self.of_program(host, program)?;
        let mut all = families.ports.values().copied();
        let first = all.next()?;
        all.all(|family| family == first).then_some(first)
    }

    /// Notes a family, or forgets it; true if this is a change.
    pub fn learn_family(&mut self, host: &str, program: u64, port: u16, family: Option<Family>) -> bool {
        if self.family(host, program, port) == family {
            return false;
        }
        self.note_program(host, program);
        let known = self.families.get_mut(host).into_iter().flatten();
        let Some(known) = known.into_iter().find(|known| known.program == program) else {
            return false;
        };
        match family {
            Some(_) if known.ports.len() >= MAX_LEARNED && !known.ports.contains_key(&port) => return false,
            Some(family) => known.ports.insert(port, family),
            None => known.ports.remove(&port),
        };
        true
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    projects: BTreeMap<String, Recorded>,
}

/// The record of `project`, and the blocks of all other projects.
///
/// # Errors
/// [`ProjectsError`].
pub fn recall(path: &Path, project: &str) -> Result<(Recorded, Vec<(u8, u16)>), ProjectsError> {
    let mut contents = read(path)?;
    let recorded = contents.projects.remove(project).unwrap_or_default();
    let others = contents
        .projects
        .values()
        .filter_map(|recorded| recorded.blocks)
        .collect();
    Ok((recorded, others))
}

/// Remembers `recorded` of `project`, leaving other projects as they are. Waits no longer than
/// `timeout` for another process that changes the file.
///
/// # Errors
/// [`ProjectsError`].
pub fn remember(path: &Path, project: &str, recorded: &Recorded, timeout: Duration) -> Result<(), ProjectsError> {
    change(path, timeout, |contents| {
        contents.projects.insert(project.to_owned(), recorded.clone());
    })
}

/// Forgets a project (`down --forget`). Waits no longer than `timeout` for another process that
/// changes the file.
///
/// # Errors
/// [`ProjectsError`].
pub fn forget(path: &Path, project: &str, timeout: Duration) -> Result<(), ProjectsError> {
    if !path.exists() {
        return Ok(());
    }
    change(path, timeout, |contents| {
        contents.projects.remove(project);
    })
}

fn read(path: &Path) -> Result<Contents, ProjectsError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ProjectsError::Malformed {
            path: path.to_owned(),
            source,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contents::default()),
        Err(source) => Err(ProjectsError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads, changes and replaces the file, while no other broker does.
///
/// Blocking: for `timeout` at most, which is zero on the loop.
fn change(path: &Path, timeout: Duration, edit: impl FnOnce(&mut Contents)) -> Result<(), ProjectsError> {
    let io_error = |source: io::Error| ProjectsError::Io {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let lock = File::open(directory).map_err(io_error)?;
    let deadline = Instant::now() + timeout;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOOK),
            Err(Errno::WOULDBLOCK) => {
                let (path, by) = (path.to_owned(), absent::holder(directory));
                return Err(ProjectsError::Locked { path, by });
            }
            Err(errno) => return Err(io_error(errno.into())),
        }
    }
    let mut contents = read(path)?;
    edit(&mut contents);
    let text = serde_json::to_vec(&contents).map_err(|source| ProjectsError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    crate::files::replace(path, &text).map_err(io_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_remember_and_forget_apart_from_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("projects.json");
        forget(&path, "nothing", Duration::ZERO).unwrap();
        let mut shop = Recorded {
            blocks: Some((5, 1)),
            ..Recorded::default()
        };
        assert!(shop.learn("web", Transport::Tcp, 80));
        assert!(!shop.learn("web", Transport::Tcp, 80));
        remember(&path, "shop", &shop, Duration::ZERO).unwrap();
        remember(&path, "blog", &Recorded::default(), Duration::ZERO).unwrap();
        assert_eq!(recall(&path, "shop").unwrap(), (shop, vec![]));
        assert_eq!(recall(&path, "blog").unwrap().1, [(5, 1)]);
        forget(&path, "shop", Duration::ZERO).unwrap();
        assert_eq!(recall(&path, "shop").unwrap(), (Recorded::default(), vec![]));
    }

    #[test]
    fn a_family_is_that_of_a_program() {
        let mut shop = Recorded::default();
        assert_eq!(shop.family("web", 1, 80), None);
        assert!(shop.learn_family("web", 1, 80, Some(Family::V6)));
        assert!(!shop.learn_family("web", 1, 80, Some(Family::V6)));
        assert!(shop.learn_family("web", 1, 81, Some(Family::V4)));
        assert_eq!(
            (shop.family("web", 1, 80), shop.family("web", 2, 80)),
            (Some(Family::V6), None)
        );
        let text = serde_json::to_string(&shop).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), shop);
        assert!(shop.learn_family("web", 1, 80, None));
        assert_eq!(
            (shop.family("web", 1, 80), shop.family("web", 1, 81)),
            (None, Some(Family::V4))
        );
        assert!(shop.learn_family("web", 2, 80, Some(Family::V4)));
        assert_eq!(shop.family("web", 1, 81), Some(Family::V4), "of another program");
        for program in 3..=5 {
            assert!(shop.note_program("web", program));
        }
        assert_eq!(shop.family("web", 1, 81), None, "the oldest is forgotten");
    }

    #[test]
    fn whoever_holds_the_lock_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("projects.json");
        let lock = File::open(directory.path()).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        for timeout in [Duration::ZERO, LOOK] {
            let error = remember(&path, "shop", &Recorded::default(), timeout).unwrap_err();
            assert!(matches!(error, ProjectsError::Locked { .. }), "{error}");
            let own = format!("process {} holds", std::process::id());
            assert!(error.to_string().contains(&own), "{error}");
        }
        rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
        remember(&path, "shop", &Recorded::default(), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("projects.json");
        std::fs::write(&path, "{").unwrap();
        let error = recall(&path, "shop").unwrap_err().to_string();
        assert!(error.contains("projects.json") && error.contains("line 1"), "{error}");
    }
}
