//! The program of this process, to be executed once more: for supervisors, the zygote, and what
//! else the broker starts.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The executable of the executing process. Until execve(2), a child has the executable of the
/// parent. So this is the very file that the broker was executed from, even if the file was
/// replaced or deleted (proc_pid_exe(5)), and no descriptor of the file is needed.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A command that executes this process's own program. In `ps`, the process has the name `shown`,
/// the program's former path.
pub fn command(shown: &Path) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(shown);
    command
}

/// Gives this process the name that an execution by the shown path would give (proc_pid_comm(5)):
/// [`command`] makes the name `exe`. For a starting process with a single thread.
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
