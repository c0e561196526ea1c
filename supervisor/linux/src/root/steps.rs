//! The steps to a root, which a forked child takes: async-signal-safe calls only
//! (signal-safety(7)), and no memory is allocated.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::target::{Kind, Target};
use crate::socket::errno_of;
use crate::syscall::syscall;

/// One step.
#[derive(Debug)]
pub(super) enum Step {
    /// No mount of ours is seen outside, and none of the machine's later mounts is seen here.
    OwnMounts,
    /// Takes a file or directory of the machine into a slot, with all that is mounted below it.
    Take {
        slot: usize,
        source: CString,
        attributes: Attributes,
    },
    /// Makes a file system, in a slot.
    Make {
        slot: usize,
        kind: CString,
        options: Vec<(CString, CString)>,
        attributes: Attributes,
    },
    /// Mounts the layers. Lower layers are named relative to a directory, as all options are at
    /// most a page (mount(2)).
    Layers {
        base: CString,
        options: CString,
        at: CString,
    },
    /// Makes a directory of the machine the root. The machine's files are gone from then on, except
    /// for what is in the slots.
    Pivot { at: CString },
    /// Mounts the content of a slot.
    Attach {
        slot: usize,
        target: Target,
        kind: Option<Kind>,
    },
    /// Makes a symbolic link, unless something is there.
    Link { to: CString, at: CString },
    /// A directory that exists afterwards.
    Directory { target: Target },
    /// What is mounted there cannot be written to any more. Nothing is done if nothing is there.
    Protect { target: Target },
    /// Hides a file or a directory. Nothing is done if nothing is there.
    Hide { target: Target },
    /// The root itself cannot be written to any more.
    ProtectRoot,
    /// The name of the uts namespace.
    Hostname(CString),
    /// Writes a file.
    Write { file: CString, content: CString },
}

/// What may not be done with a mount, as `MOUNT_ATTR_*` (mount_setattr(2)).
pub(super) type Attributes = MountAttrFlags;

/// Mounts that wait to be attached.
#[derive(Debug)]
pub(crate) struct Slots {
    mounts: Vec<Option<OwnedFd>>,
    /// Whether the mount in the slot is a directory.
    kinds: Vec<Kind>,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            mounts: (0..count).map(|_| None).collect(),
            kinds: vec![Kind::Directory; count],
        }
    }

    fn put(&mut self, slot: usize, mount: OwnedFd, kind: Kind) -> Result<(), Errno> {
        *self.mounts.get_mut(slot).ok_or(Errno::EBADF)? = Some(mount);
        *self.kinds.get_mut(slot).ok_or(Errno::EBADF)? = kind;
        Ok(())
    }

    fn take(&mut self, slot: usize) -> Result<(OwnedFd, Kind), Errno> {
        let mount = self.mounts.get_mut(slot).and_then(Option::take).ok_or(Errno::EBADF)?;
        Ok((mount, *self.kinds.get(slot).ok_or(Errno::EBADF)?))
    }
}

impl Step {
    pub(super) fn take(&self, slots: &mut Slots) -> Result<(), Errno> {
        match self {
            Self::OwnMounts => {
                let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
                rustix::mount::mount_change(c"/", private).map_err(errno_of)
            }
            Self::Take {
                slot,
                source,
                attributes,
            } => {
                let mount = copy(source)?;
                let kind = kind_of(&mount)?;
                set_attributes(mount.as_fd(), *attributes, libc::AT_RECURSIVE)?;
                slots.put(*slot, mount, kind)
            }
            Self::Make {
                slot,
                kind,
                options,
                attributes,
            } => slots.put(*slot, make(kind, options, *attributes)?, Kind::Directory),
            Self::Layers { base, options, at } => {
                rustix::process::chdir(base.as_c_str()).map_err(errno_of)?;
                let mounted = rustix::mount::mount(
                    c"overlay",
                    at.as_c_str(),
                    c"overlay",
                    MountFlags::NODEV,
                    options.as_c_str(),
                );
                mounted.map_err(errno_of)
            }
            Self::Pivot { at } => pivot(at),
            Self::Attach { slot, target, kind } => {
                let (mount, own) = slots.take(*slot)?;
                attach(&mount, &target.open(kind.unwrap_or(own))?)
            }
            Self::Link { to, at } => match rustix::fs::symlink(to.as_c_str(), at.as_c_str()) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno_of(errno)),
            },
            Self::Directory { target } => target.open(Kind::Directory).map(drop),
            Self::Protect { target } => match copy(target.path()) {
                Ok(mount) => {
                    set_attributes(mount.as_fd(), Attributes::MOUNT_ATTR_RDONLY, libc::AT_RECURSIVE)?;
                    attach(&mount, &target.open(kind_of(&mount)?)?)
                }
                Err(errno) => is_missing(errno),
            },
            Self::Hide { target } => hide(target),
            Self::ProtectRoot => {
                let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno_of)?;
                set_attributes(root.as_fd(), Attributes::MOUNT_ATTR_RDONLY, 0)
            }
            Self::Hostname(name) => rustix::system::sethostname(name.to_bytes()).map_err(errno_of),
            Self::Write { file, content } => {
                let opened = rustix::fs::open(file.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                let opened = opened.map_err(errno_of)?;
                rustix::io::write(&opened, content.to_bytes())
                    .map(drop)
                    .map_err(errno_of)
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        let text = |text: &CStr| text.to_string_lossy().into_owned();
        match self {
            Self::OwnMounts => "separating mounts from the machine's".to_owned(),
            Self::Take { source, .. } => format!("taking {} of the machine", text(source)),
            Self::Make { kind, .. } => format!("making a file system of the kind {}", text(kind)),
            Self::Layers { base, .. } => format!("mounting the layers in {}", text(base)),
            Self::Pivot { at } => format!("entering the root at {}", text(at)),
            Self::Attach { target, .. } => format!("mounting at {}", text(target.path())),
            Self::Link { at, .. } => format!("making the link {}", text(at)),
            Self::Directory { target } => format!("making the directory {}", text(target.path())),
            Self::Protect { target } | Self::Hide { target } => format!("protecting {}", text(target.path())),
            Self::ProtectRoot => "protecting the root".to_owned(),
            Self::Hostname(name) => format!("setting the host name {}", text(name)),
            Self::Write { file, content } => format!("writing {} to {}", text(content), text(file)),
        }
    }
}

/// A detached copy of a mount, or of a part of one (open_tree(2), 5.2).
fn copy(source: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, source, flags).map_err(errno_of)
}

fn kind_of(mount: &OwnedFd) -> Result<Kind, Errno> {
    let stat = rustix::fs::fstat(mount).map_err(errno_of)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    Ok(if kind.is_dir() { Kind::Directory } else { Kind::File })
}

/// A new file system, detached (fsopen(2), 5.2).
fn make(kind: &CStr, options: &[(CString, CString)], attributes: Attributes) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno_of)?;
    for (key, value) in options {
        let set = match value.is_empty() {
            true => rustix::mount::fsconfig_set_flag(&context, key.as_c_str()),
            false => rustix::mount::fsconfig_set_string(&context, key.as_c_str(), value.as_c_str()),
        };
        set.map_err(errno_of)?;
    }
    rustix::mount::fsconfig_create(&context).map_err(errno_of)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(errno_of)
}

fn attach(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags).map_err(errno_of)
}

/// pivot_root(2), "pivot_root(".", ".")": the old root is mounted over the new one, and removed.
fn pivot(at: &CStr) -> Result<(), Errno> {
    rustix::process::chdir(at).map_err(errno_of)?;
    rustix::process::pivot_root(c".", c".").map_err(errno_of)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(errno_of)?;
    rustix::process::chdir(c"/").map_err(errno_of)
}

/// An empty read-only directory, or the null device, over what is to be hidden.
fn hide(target: &Target) -> Result<(), Errno> {
    let mount = match copy(target.path()) {
        Ok(mount) => mount,
        Err(errno) => return is_missing(errno),
    };
    let kind = kind_of(&mount)?;
    let cover = match kind {
        Kind::Directory => make(
            c"tmpfs",
            &[],
            Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NODEV,
        )?,
        Kind::File => copy(c"/dev/null")?,
    };
    attach(&cover, &target.open(kind)?)
}

/// What is not there needs no protection. EACCES: files of /proc that only the machine's root may
/// look up.
fn is_missing(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES => Ok(()),
        errno => Err(errno),
    }
}

/// mount_setattr(2), 5.12: flags are added, and none is removed.
fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes, flags: libc::c_int) -> Result<(), Errno> {
    if attributes.is_empty() {
        return Ok(());
    }
    let attributes = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
    let flags = libc::AT_EMPTY_PATH | flags;
    // SAFETY: the kernel reads the path and the structure of that size.
    unsafe {
        syscall!(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path,
            flags,
            &raw const attributes,
            size
        )
    }?;
    Ok(())
}

/// prctl(2), PR_CAPBSET_DROP. EINVAL: the kernel knows no more capabilities.
pub(super) fn limit_capabilities(kept: u64) -> Result<(), Errno> {
    for capability in 0..64 {
        if kept & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: the call takes numbers only.
        match unsafe { syscall!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability) } {
            Ok(_) => {}
            Err(Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
