//! The root of a program in namespaces of its own (mount_namespaces(7), user_namespaces(7),
//! pid_namespaces(7)), and overlayfs (Documentation/filesystems/overlayfs.rst).
//!
//! A root is planned before the fork ([`Root::plan`]), as a list of steps that a forked child can
//! take without memory of its own. The parent gives the child its ids ([`ids`]); the child then
//! takes the steps ([`Root::enter`]).

pub mod accounts;
pub mod ids;
mod join;
mod plan;
mod steps;
pub mod subordinate;
mod target;

use std::ffi::CString;

use imsup_wire::{Ids, RootSpec};
use nix::errno::Errno;

pub use join::Join;
pub(crate) use join::fork_sibling;
pub use plan::PlanError;
pub(crate) use steps::Slots;
use steps::Step;

/// The path limit of mount(2)'s options: a page.
const MAX_MOUNT_OPTIONS: usize = 4095;

/// A root, as the steps to it.
#[derive(Debug)]
pub struct Root {
    ids: Ids,
    steps: Vec<Step>,
    slots: usize,
    working_dir: CString,
    capabilities: u64,
}

/// The files and namespaces of a program.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The machine's files, and our own namespaces.
    Machine,
    /// A new root.
    Root(&'a Root),
    /// The root of another process.
    Beside(&'a Join<'a>),
}

impl<'a> Place<'a> {
    /// The new root.
    pub(crate) fn root(self) -> Option<&'a Root> {
        match self {
            Self::Root(root) => Some(root),
            Self::Machine | Self::Beside(_) => None,
        }
    }

    /// The root that is joined.
    pub(crate) fn join(self) -> Option<&'a Join<'a>> {
        match self {
            Self::Beside(join) => Some(join),
            Self::Machine | Self::Root(_) => None,
        }
    }

    /// Gives up all capabilities that the root does not have, for this process and its descendants
    /// (capabilities(7), the bounding set); async-signal-safe.
    pub(crate) fn limit_capabilities(self) -> Result<(), Errno> {
        match self {
            Self::Machine => Ok(()),
            Self::Root(root) => steps::limit_capabilities(root.capabilities),
            Self::Beside(join) => steps::limit_capabilities(join.capabilities),
        }
    }

    /// Enters the directory in which the program starts; async-signal-safe. The program's user may
    /// not be allowed to, which is an error, as under docker.
    pub(crate) fn enter_working_dir(self) -> Result<(), Errno> {
        let directory = match self {
            Self::Machine => return Ok(()),
            Self::Root(root) => root.working_dir.as_c_str(),
            Self::Beside(join) => join.working_dir.as_c_str(),
        };
        rustix::process::chdir(directory).map_err(crate::socket::errno_of)
    }
}

fn namespaces(ids: &Ids) -> libc::c_int {
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    match ids {
        Ids::Identity => own,
        Ids::One { .. } | Ids::Ranges { .. } => own | libc::CLONE_NEWUSER,
    }
}

/// The step that failed, by number, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// Its number.
    pub number: u32,
    /// The kernel's answer.
    pub errno: Errno,
}

impl Root {
    /// Plans a root whose program starts in `working_dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// Any [`PlanError`].
    pub fn plan(spec: &RootSpec, working_dir: &std::path::Path) -> Result<Self, PlanError> {
        plan::plan(spec, working_dir)
    }

    /// The namespaces that the child is made in, as flags of clone(2).
    pub(crate) fn namespaces(&self) -> libc::c_int {
        namespaces(&self.ids)
    }

    /// Whether the program has a user namespace of its own.
    pub(crate) fn has_own_users(&self) -> bool {
        self.ids != Ids::Identity
    }

    /// The ids of the child, which the parent sets.
    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Room for the descriptors of the steps, made before the fork.
    pub(crate) fn slots(&self) -> Slots {
        Slots::new(self.slots)
    }

    /// Takes all steps. Called by the child, before its filter; async-signal-safe.
    pub(crate) fn enter(&self, slots: &mut Slots) -> Result<(), FailedStep> {
        for (number, step) in (0..).zip(&self.steps) {
            step.take(slots).map_err(|errno| FailedStep { number, errno })?;
        }
        Ok(())
    }

    /// A step that failed, in words: "mounting /srv/data at /data".
    pub fn describe(&self, failed: FailedStep) -> String {
        let number = usize::try_from(failed.number).unwrap_or(usize::MAX);
        self.steps.get(number).map_or_else(String::new, Step::describe)
    }
}
