//! Looking into processes of another user: ptrace(2), "Ptrace access mode checking".
//!
//! In a container root has CAP_SETUID but not CAP_SYS_PTRACE, and an image's entrypoint often
//! becomes another user. PTRACE_MODE_FSCREDS applies to reads of /proc/PID: the caller's
//! *file-system* user and group are compared with all three of the target's. So a supervisor that
//! takes them on for a moment (setfsuid(2), of this thread alone) may read. The supervisor's
//! capabilities must include the target's, and the target must be dumpable, which a process that
//! changed its user is not before it executes another program (PR_SET_DUMPABLE(2const)).

use std::os::unix::fs::MetadataExt;

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::support::Support;

/// Runs `look` with the file-system user and group of the process of thread `tid`, if needed.
pub fn as_owner<T>(tid: i32, look: impl FnOnce() -> T) -> T {
    if !Support::present().as_owner {
        return look();
    }
    // The owner of the directory is the effective user and group of a process that is dumpable
    // (proc_pid(5)).
    let Ok(directory) = std::fs::metadata(format!("/proc/{tid}")) else {
        return look();
    };
    let (uid, gid) = (Uid::from_raw(directory.uid()), Gid::from_raw(directory.gid()));
    let _guard = (!uid.is_root()).then(|| Taken::on(uid, gid));
    look()
}

/// The user and group of another; given back at the end.
struct Taken {
    own: (Uid, Gid),
    dumpable: bool,
}

impl Taken {
    fn on(uid: Uid, gid: Gid) -> Self {
        let dumpable = prctl::get_dumpable().unwrap_or(false);
        // The group first: the change needs a capability that is root's.
        let own_gid = setfsgid(gid);
        let own_uid = setfsuid(uid);
        Self {
            own: (own_uid, own_gid),
            dumpable,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        setfsuid(self.own.0);
        setfsgid(self.own.1);
        // A change of file-system user makes a process undumpable (kernel/cred.c, commit_creds),
        // and then its broker, root without CAP_SYS_PTRACE as well, could not see its owner.
        if self.dumpable {
            let _ = prctl::set_dumpable(true);
        }
    }
}
