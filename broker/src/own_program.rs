//! The program of this process, to be executed once more: for supervisors, the zygote, and what else the broker starts.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The executable of whoever executes it. A child has that of the process that made it until it executes, so this is the very file that the broker was
/// executed from, also once another was put in its place or it was deleted (proc_pid_exe(5)), and no descriptor of it need be kept.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A command that executes this process's own program. It is called `shown`, the path that it had, in `ps`.
pub fn command(shown: &Path) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(shown);
    command
}

/// Gives this process the name that executing it by the path it is called by would have given (proc_pid_comm(5)): [`command`] makes that `exe`. For a
/// process that has one thread, as it starts.
pub fn take_name() {
    let name = rustix::thread::name();
    let shown = std::env::args_os().next().map(PathBuf::from);
    let (Ok(name), Some(shown)) = (name, shown) else { return };
    if name.as_bytes() == OWN_PROGRAM.rsplit('/').next().unwrap_or_default().as_bytes()
        && let Some(file) = shown.file_name()
        && let Ok(file) = CString::new(file.as_bytes())
    {
        // The kernel takes the first 15 bytes.
        let _ = rustix::thread::set_name(&file);
    }
}
