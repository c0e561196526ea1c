//! imsup's own confinement: the rights that a supervisor gives up once its program runs, and the
//! rights that processes and threads which only answer others never need.
//!
//! The policies are in `confinement.json`, in seccompiler's format: each policy names the calls
//! that fail with EPERM, all others are allowed. They are a second wall, in case hostile bytes from
//! the application or the network take over the process. The machine itself is protected from the
//! application by the kernel's ordinary permissions.

use std::collections::HashMap;
use std::sync::OnceLock;

use seccompiler::{BpfProgram, TargetArch, sock_filter};

/// The policies' text.
pub const POLICY: &str = include_str!("../confinement.json");

/// The subject of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confined {
    /// A supervisor whose program runs.
    Supervisor,
    /// A process or thread that reads and answers messages, and neither starts nor looks at other
    /// processes.
    Helper,
}

impl Confined {
    /// The names of the subject's filters in the policies: a helper may do less than a supervisor.
    pub fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Supervisor => &["supervisor"],
            Self::Helper => &["supervisor", "helper"],
        }
    }
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// seccompiler does not know the processor.
    #[error("there is no confinement for this processor architecture: {0}")]
    Architecture(#[source] seccompiler::BackendError),
    /// The policy does not compile.
    #[error("confinement.json does not compile: {0}; please report this")]
    Policy(#[source] seccompiler::Error),
    /// The policy compiles, and lacks a filter.
    #[error("confinement.json has no filter '{0}'; please report this")]
    NoFilter(&'static str),
    /// The kernel refused the filter.
    #[error("the kernel refused imsup's own seccomp filter: {0}; `imsup doctor` shows which features are missing")]
    Install(#[source] seccompiler::Error),
}

/// The policies compiled for this machine, by name: compiled once for a process and all forks.
///
/// # Errors
/// Any [`ConfineError`] but [`ConfineError::Install`].
pub fn confinement() -> Result<&'static HashMap<String, BpfProgram>, ConfineError> {
    static COMPILED: OnceLock<HashMap<String, BpfProgram>> = OnceLock::new();
    if let Some(compiled) = COMPILED.get() {
        return Ok(compiled);
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(ConfineError::Architecture)?;
    let compiled = confinement_for(arch)?;
    Ok(COMPILED.get_or_init(|| compiled))
}

/// Confines the calling thread, and the threads and processes that it makes from now on, for good.
/// Sets no-new-privs, without which an ordinary user may not install a filter (seccomp(2)); other
/// threads are left unchanged.
///
/// A supervisor calls this after the execve(2) of the program, and before reading the first
/// notification.
///
/// # Errors
/// Any [`ConfineError`]; with [`ConfineError::Install`] (EINVAL: the kernel has no seccomp filters,
/// ENOMEM) no-new-privs may be set already.
pub fn confine(whom: Confined) -> Result<(), ConfineError> {
    let compiled = confinement()?;
    for name in whom.filters() {
        let program = compiled.get(*name).ok_or(ConfineError::NoFilter(name))?;
        seccompiler::apply_filter(program).map_err(ConfineError::Install)?;
    }
    Ok(())
}

fn confinement_for(arch: TargetArch) -> Result<HashMap<String, BpfProgram>, ConfineError> {
    let x86_64 = matches!(arch, TargetArch::x86_64);
    let mut programs = seccompiler::compile_from_json(POLICY.as_bytes(), arch).map_err(ConfineError::Policy)?;
    if x86_64 {
        // Without this, x32 numbers, unknown to seccompiler, would bypass a policy that names
        // refused calls.
        for program in programs.values_mut() {
            program.splice(ARCH_CHECK_LENGTH..ARCH_CHECK_LENGTH, refuse_x32());
        }
    }
    Ok(programs)
}

/// How many instructions seccompiler begins with: load the architecture, compare, kill.
const ARCH_CHECK_LENGTH: usize = 3;

/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h).
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Instructions that refuse every x32 call, and leave -1 alone, by which tracers skip a call
/// (seccomp(2)).
fn refuse_x32() -> [sock_filter; 4] {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_GREATER_OR_EQUAL, 0, 2, X32_SYSCALL_BIT),
        instruction(JUMP_IF_EQUAL, 1, 0, u32::MAX),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_call_of_the_policy_is_compared_on_every_architecture_seccompiler_knows() {
        const COMPARE: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let policy: serde_json::Value = serde_json::from_str(POLICY).unwrap();
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            // The architecture, and the number that is no x32 call.
            let others = if matches!(arch, TargetArch::x86_64) { 2 } else { 1 };
            let compiled = confinement_for(arch).unwrap();
            for name in Confined::Helper.filters() {
                let calls = policy[*name]["filter"].as_array().unwrap().len();
                let instructions = compiled[*name].iter();
                let compared: HashSet<u32> = instructions
                    .filter(|instruction| instruction.code == COMPARE)
                    .map(|instruction| instruction.k)
                    .collect();
                assert_eq!(compared.len(), calls + others, "{name} {arch:?}");
            }
        }
    }

    #[test]
    fn a_confined_thread_cannot_execute_and_still_works() {
        // In a thread of its own, since a confinement cannot be undone.
        let executed = std::thread::spawn(|| {
            confine(Confined::Supervisor).unwrap();
            std::fs::read("/proc/self/stat").unwrap();
            std::process::Command::new("/bin/true").status()
        });
        let error = executed.join().unwrap().expect_err("execve must be refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    /// A filter belongs to a thread: other threads of the process, and other threads' children, are
    /// unchanged.
    #[test]
    fn a_confined_helper_has_both_filters_and_other_threads_have_none() {
        std::thread::spawn(|| {
            confine(Confined::Helper).unwrap();
            std::thread::spawn(|| ())
                .join()
                .expect("it may have threads of its own");
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("Seccomp_filters:\t2"), "{status}");
            let refused = std::process::Command::new("/bin/true")
                .status()
                .expect_err("execve is refused");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        })
        .join()
        .unwrap();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    }
}
