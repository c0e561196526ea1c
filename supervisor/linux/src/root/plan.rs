//! The steps to a root, decided before the fork. Pure.

use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use imsup_wire::root::{Mount, MountSource};
use imsup_wire::{Ids, RootSpec};

use super::steps::{Attributes, Step};
use super::target::{Kind, Target};
use super::{MAX_MOUNT_OPTIONS, Root};

/// Devices of the machine that every root has (the devices of the OCI runtime specification,
/// config-linux.md, "Default Devices").
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links of /dev (config-linux.md, "Default symlinks").
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// What tells of the machine, or changes it (Docker's masked paths).
const HIDDEN: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's read-only paths.
const PROTECTED: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The group of terminals in every distribution, which devpts gives them.
const TTY_GROUP: u32 = 5;

/// Why a root cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A path with a NUL.
    #[error("a path, name or option of its root contains a NUL byte")]
    Nul(#[from] NulError),
    /// Not a place in a root.
    #[error("'{}' is no absolute path without '..', so nothing can be mounted there", .0.display())]
    Target(PathBuf),
    /// No layers.
    #[error("its image has no layers")]
    NoLayers,
    /// The options of the mount exceed a page.
    #[error(
        "its image has too many layers ({layers}): their paths take {bytes} bytes, and mount(2) reads {MAX_MOUNT_OPTIONS}"
    )]
    TooManyLayers {
        /// The number of layers.
        layers: usize,
        /// The length of the options.
        bytes: usize,
    },
}

pub(super) fn plan(spec: &RootSpec, working_dir: &Path) -> Result<Root, PlanError> {
    let mut plan = Plan::default();
    plan.steps.push(Step::OwnMounts);
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    // Parents before children, as under docker.
    mounts.sort_by_key(|mount| mount.target.as_ref().components().count());
    let own = mounts.iter().map(|mount| plan.source(mount));
    let own = own.collect::<Result<Vec<_>, _>>()?;
    let system = plan.system(spec)?;
    plan.steps.push(layers(spec)?);
    plan.steps.push(Step::Pivot {
        at: path(spec.mount_point.as_ref())?,
    });
    for (slot, at, kind) in system {
        let target = place(Path::new(&at), false)?;
        plan.steps.push(Step::Attach { slot, target, kind });
    }
    for (to, at) in LINKS {
        let (to, at) = (CString::new(to)?, CString::new(at)?);
        plan.steps.push(Step::Link { to, at });
    }
    for (slot, mount) in own.into_iter().zip(mounts) {
        let target = place(mount.target.as_ref(), true)?;
        plan.steps.push(Step::Attach {
            slot,
            target,
            kind: None,
        });
    }
    for (key, value) in &spec.sysctls {
        let file = CString::new(format!("/proc/sys/{}", key.replace('.', "/")))?;
        let content = CString::new(value.as_str())?;
        plan.steps.push(Step::Write { file, content });
    }
    for hidden in HIDDEN {
        let target = place(Path::new(hidden), false)?;
        plan.steps.push(Step::Hide { target });
    }
    for protected in PROTECTED {
        let target = place(Path::new(protected), false)?;
        plan.steps.push(Step::Protect { target });
    }
    plan.steps.push(Step::Hostname(CString::new(spec.hostname.as_str())?));
    plan.steps.push(Step::Directory {
        target: place(working_dir, true)?,
    });
    if spec.read_only {
        plan.steps.push(Step::ProtectRoot);
    }
    Ok(Root {
        ids: spec.ids.clone(),
        steps: plan.steps,
        slots: plan.slots,
        working_dir: path(working_dir)?,
        capabilities: spec.capabilities,
    })
}

/// The steps so far, and the slots that they use.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    slots: usize,
}

impl Plan {
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    fn take(&mut self, source: &Path, attributes: Attributes) -> Result<usize, PlanError> {
        let (slot, source) = (self.slot(), path(source)?);
        self.steps.push(Step::Take {
            slot,
            source,
            attributes,
        });
        Ok(slot)
    }

    fn make(&mut self, kind: &str, options: &[(&str, String)], attributes: Attributes) -> Result<usize, PlanError> {
        let option = |(key, value): &(&str, String)| Ok((CString::new(*key)?, CString::new(value.as_str())?));
        let options = options.iter().map(option).collect::<Result<_, PlanError>>()?;
        let (slot, kind) = (self.slot(), CString::new(kind)?);
        self.steps.push(Step::Make {
            slot,
            kind,
            options,
            attributes,
        });
        Ok(slot)
    }

    /// The source of a mount of the specification.
    fn source(&mut self, mount: &Mount) -> Result<usize, PlanError> {
        let mut attributes = Attributes::empty();
        attributes.set(Attributes::MOUNT_ATTR_RDONLY, mount.read_only);
        let no_devices = attributes | Attributes::MOUNT_ATTR_NODEV;
        match &mount.source {
            MountSource::Bind(source) => self.take(source.as_ref(), no_devices),
            MountSource::Device(source) => self.take(source.as_ref(), attributes),
            MountSource::Tmpfs { bytes, mode } => {
                let mut options = vec![("mode", format!("{mode:o}"))];
                options.extend(bytes.map(|bytes| ("size", bytes.to_string())));
                self.make("tmpfs", &options, no_devices | Attributes::MOUNT_ATTR_NOSUID)
            }
        }
    }

    /// The file systems of every root: slot, place and kind. They are made before the root is
    /// entered: a new /proc is allowed to a user namespace only as long as the machine's is in sight
    /// (fs/namespace.c, mount_too_revealing).
    fn system(&mut self, spec: &RootSpec) -> Result<Vec<(usize, String, Option<Kind>)>, PlanError> {
        let no_suid = Attributes::MOUNT_ATTR_NOSUID;
        let no_execution = no_suid | Attributes::MOUNT_ATTR_NOEXEC;
        let none = no_execution | Attributes::MOUNT_ATTR_NODEV;
        let dev = [("mode", "755".to_owned()), ("size", "65536k".to_owned())];
        let shm = [("mode", "1777".to_owned()), ("size", spec.shm_bytes.to_string())];
        let mut pts = vec![("ptmxmode", "0666".to_owned()), ("mode", "0620".to_owned())];
        if has_group(&spec.ids, TTY_GROUP) {
            pts.push(("gid", TTY_GROUP.to_string()));
        }
        let directory = Some(Kind::Directory);
        let mut system = vec![
            (self.make("proc", &[], none)?, "/proc".to_owned(), directory),
            (
                self.take(Path::new("/sys"), none | Attributes::MOUNT_ATTR_RDONLY)?,
                "/sys".to_owned(),
                directory,
            ),
            (self.make("tmpfs", &dev, no_suid)?, "/dev".to_owned(), directory),
            (
                self.make("devpts", &pts, no_execution)?,
                "/dev/pts".to_owned(),
                directory,
            ),
            (self.make("tmpfs", &shm, none)?, "/dev/shm".to_owned(), directory),
            (self.make("mqueue", &[], none)?, "/dev/mqueue".to_owned(), directory),
        ];
        for device in DEVICES {
            let device = format!("/dev/{device}");
            let slot = self.take(Path::new(&device), no_execution)?;
            system.push((slot, device, Some(Kind::File)));
        }
        Ok(system)
    }
}

fn has_group(ids: &Ids, group: u32) -> bool {
    match ids {
        Ids::Identity => true,
        Ids::One { gid, .. } => *gid == group,
        Ids::Ranges { groups, .. } => groups.iter().any(|range| {
            group
                .checked_sub(range.inside)
                .is_some_and(|offset| offset < range.count)
        }),
    }
}

/// The mount of the layers. Whiteouts and opaque directories are marked by attributes of users
/// (`userxattr`), so that a user's store and root's are alike.
fn layers(spec: &RootSpec) -> Result<Step, PlanError> {
    let first = spec.layers.first().ok_or(PlanError::NoLayers)?.as_ref();
    let mut base = first.parent().unwrap_or(Path::new("/"));
    while !spec.layers.iter().all(|layer| layer.as_ref().starts_with(base)) {
        base = base.parent().unwrap_or(Path::new("/"));
    }
    let mut options = b"userxattr,index=off,metacopy=off,lowerdir=".to_vec();
    for (index, layer) in spec.layers.iter().rev().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        escape(
            layer.as_ref().strip_prefix(base).unwrap_or(layer.as_ref()),
            &mut options,
        );
    }
    let changes = spec.changes.as_ref();
    options.extend_from_slice(b",upperdir=");
    escape(&changes.join("upper"), &mut options);
    options.extend_from_slice(b",workdir=");
    escape(&changes.join("work"), &mut options);
    if options.len() > MAX_MOUNT_OPTIONS {
        return Err(PlanError::TooManyLayers {
            layers: spec.layers.len(),
            bytes: options.len(),
        });
    }
    Ok(Step::Layers {
        base: path(base)?,
        options: CString::new(options)?,
        at: path(spec.mount_point.as_ref())?,
    })
}

/// A path among overlayfs's options (fs/overlayfs/params.c, ovl_next_opt and ovl_unescape).
fn escape(path: &Path, options: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if [b'\\', b':', b','].contains(byte) {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

fn path(path: &Path) -> Result<CString, PlanError> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn place(path: &Path, follow: bool) -> Result<Target, PlanError> {
    Target::new(path, follow).ok_or_else(|| PlanError::Target(path.to_owned()))
}
