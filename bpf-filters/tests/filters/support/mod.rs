//! Classic BPF over `seccomp_data`, as run by the kernel: decoding, an interpreter, and a
//! disassembler.

pub mod disassemble;
pub mod interpret;
pub mod program;

/// `AUDIT_ARCH_*` (include/uapi/linux/audit.h).
pub mod audit_arch {
    pub const X86_64: u32 = 0xc000_003e;
    pub const I386: u32 = 0x4000_0003;
    pub const AARCH64: u32 = 0xc000_00b7;
    pub const ARM: u32 = 0x4000_0028;
    pub const RISCV64: u32 = 0xc000_00f3;

    /// The architecture for which the filters were compiled.
    pub const NATIVE: u32 = if cfg!(target_arch = "x86_64") {
        X86_64
    } else if cfg!(target_arch = "aarch64") {
        AARCH64
    } else {
        RISCV64
    };
}

/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h).
#[cfg(target_arch = "x86_64")]
pub const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// The filter's verdict on a call (include/uapi/linux/seccomp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Notify,
    Errno(i32),
    KillProcess,
}

impl Verdict {
    /// Panics for values that no filter of imsup may return.
    pub fn from_return_value(value: u32) -> Self {
        const ACTION: u32 = 0xffff_0000;
        match (value & ACTION, value & !ACTION) {
            (0x7fff_0000, 0) => Self::Allow,
            (0x7fc0_0000, 0) => Self::Notify,
            (0x0005_0000, errno) => Self::Errno(errno as i32),
            (0x8000_0000, 0) => Self::KillProcess,
            _ => panic!("{value:#010x} is no return value of ours"),
        }
    }
}
