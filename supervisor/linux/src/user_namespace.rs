//! An ordinary user with subordinate ids (subuid(5)) as root of a user namespace
//! (user_namespaces(7)), for a process that makes files with other owners.
//!
//! Blocking: in the processes of verbs for images, which have no loop.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use imsup_wire::Ids;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgid, setuid};

use crate::root::ids;
use crate::root::subordinate::ids_of_caller;
use crate::single_thread::SingleThread;

/// Why subordinate ids cannot be used, though the user has some.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process outside of the namespace.
    #[error("starting a process that sets this user's subordinate ids: {0}")]
    Helper(#[source] io::Error),
    /// No namespace.
    #[error(
        "this user's subordinate ids (/etc/subuid, /etc/subgid) need a user namespace, which the kernel refuses: {0}; \
         are user namespaces allowed here (sysctl user.max_user_namespaces)?"
    )]
    Refused(#[source] Errno),
    /// The ids were not given, with the text of an [`ids::IdsError`].
    #[error("this user's subordinate ids (/etc/subuid, /etc/subgid) cannot be used: {0}")]
    Ids(String),
    /// Root of the namespace.
    #[error("becoming root of a user namespace: {0}")]
    Become(#[source] Errno),
}

/// Makes this process root of a user namespace that has the user's subordinate ids, and returns
/// true. Returns false, and changes nothing, for root and for a user without subordinate ids of both
/// kinds ([`ids_of_caller`]).
///
/// # Errors
/// [`NamespaceError`]. The process may have lost its ids, and can only end.
pub fn enter_subordinate(_: &SingleThread) -> Result<bool, NamespaceError> {
    let ids = ids_of_caller();
    if !matches!(ids, Ids::Ranges { .. }) {
        return Ok(false);
    }
    let this = Pid::this();
    let (mut child_go, go) = io::pipe().map_err(NamespaceError::Helper)?;
    let (failure, mut child_failure) = io::pipe().map_err(NamespaceError::Helper)?;
    // The ids come from a process outside of the namespace: inside, the setuid bits of newuidmap(1)
    // and newgidmap(1) mean nothing. SAFETY: there is no other thread (the token), so the child may
    // do anything.
    let child = match unsafe { fork() }.map_err(|errno| NamespaceError::Helper(errno.into()))? {
        ForkResult::Child => {
            drop((go, failure));
            give(this, &ids, &mut child_go, &mut child_failure);
            // SAFETY: _exit runs no destructors, as what they would undo is the parent's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    drop((child_go, child_failure));
    let given = match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => ask(go, failure),
        Err(errno) => {
            // The child reads the end of the pipe, and does nothing.
            drop(go);
            Err(NamespaceError::Refused(errno))
        }
    };
    waitpid(child, None).map_err(|errno| NamespaceError::Helper(errno.into()))?;
    given?;
    setgid(Gid::from_raw(0)).map_err(NamespaceError::Become)?;
    setuid(Uid::from_raw(0)).map_err(NamespaceError::Become)?;
    Ok(true)
}

/// The child's part: waits until there is a namespace, sets its ids, and writes why they cannot be
/// set.
fn give(parent: Pid, ids: &Ids, go: &mut PipeReader, failure: &mut PipeWriter) {
    if go.read_exact(&mut [0]).is_err() {
        return;
    }
    let said = match ids::set(parent, ids) {
        Ok(()) => DONE.to_owned(),
        Err(error) => error.to_string(),
    };
    // If the parent is gone, nobody needs the ids.
    let _ = failure.write_all(said.as_bytes());
}

/// What the child writes if the ids are set: a child that was killed writes nothing.
const DONE: &str = "done";

/// The parent's part: lets the child set the ids, and waits for the result.
fn ask(mut go: PipeWriter, mut failure: PipeReader) -> Result<(), NamespaceError> {
    let mut said = String::new();
    let asked = go.write_all(&[1]).and_then(|()| failure.read_to_string(&mut said));
    asked.map_err(NamespaceError::Helper)?;
    match said.as_str() {
        DONE => Ok(()),
        "" => Err(NamespaceError::Helper(io::ErrorKind::UnexpectedEof.into())),
        _ => Err(NamespaceError::Ids(said)),
    }
}
