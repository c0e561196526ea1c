//! The filter under which applications run, compiled from [`TABLE`] by libseccomp.
//!
//! Installing it is the supervisor's: it needs flags that libseccomp 2.5 does not know (`WAIT_KILLABLE_RECV`).

use std::io::{self, Read};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use crate::table::{Action, Condition, FOREIGN_ARCHITECTURE_ERRNO, Families, Row, Sockets, TABLE, Test};

/// Bytes of a `struct sock_filter` (include/uapi/linux/filter.h).
const INSTRUCTION_BYTES: usize = 8;

/// libseccomp's `SCMP_FLTATR_CTL_OPTIMIZE` for a binary tree over the call numbers instead of a chain of comparisons.
const BINARY_TREE: u32 = 2;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum FilterError {
    /// libseccomp could not set up an empty filter.
    #[error(
        "libseccomp could not prepare the filter: {0}; it needs libseccomp 2.5 or newer, `imsup doctor` shows what is there"
    )]
    Prepare(#[source] SeccompError),
    /// libseccomp did not take a row of the table, in practice because the kernel lacks user notification.
    #[error(
        "the filter for {call} could not be made: {source}; it needs Linux 5.0 or newer with CONFIG_SECCOMP_FILTER, see `imsup doctor`"
    )]
    Rule { call: &'static str, source: SeccompError },
    /// libseccomp could not write the program.
    #[error("libseccomp could not export the filter: {0}")]
    Export(#[source] SeccompError),
    /// The pipe that carries the program from libseccomp to us failed.
    #[error("the filter's pipe failed: {0}")]
    Pipe(#[from] io::Error),
    /// What libseccomp wrote is not a whole number of instructions.
    #[error("libseccomp exported {0} bytes, which is no BPF program; please report this with its version")]
    Torn(usize),
}

/// Compiles the filter for this way to the program's sockets, and these families of the retained ones.
///
/// # Errors
/// Any [`FilterError`]; a kernel without `SECCOMP_RET_USER_NOTIF` gives [`FilterError::Rule`].
pub fn compile(sockets: Sockets, families: Families) -> Result<Vec<libc::sock_filter>, FilterError> {
    instructions(&export(&context(sockets, families)?)?)
}

/// The table as a libseccomp filter for the native architecture.
fn context(sockets: Sockets, families: Families) -> Result<ScmpFilterContext, FilterError> {
    let mut context = ScmpFilterContext::new(ScmpAction::Allow).map_err(FilterError::Prepare)?;
    // With x86-64 alone in the filter, libseccomp gives x32 numbers the same action.
    context
        .set_act_badarch(ScmpAction::Errno(FOREIGN_ARCHITECTURE_ERRNO))
        .and_then(|context| context.set_ctl_optimize(BINARY_TREE))
        .map_err(FilterError::Prepare)?;
    for row in TABLE.iter().filter(|row| row.applies(sockets, families)) {
        add(&mut context, row).map_err(|source| FilterError::Rule { call: row.name, source })?;
    }
    Ok(context)
}

fn add(context: &mut ScmpFilterContext, row: &Row) -> Result<(), SeccompError> {
    let call = ScmpSyscall::from_name(row.name)?;
    match row.action {
        Action::Refuse { errno } => {
            context.add_rule_exact(ScmpAction::Errno(errno), call)?;
        }
        Action::Notify { when: [], .. } => {
            context.add_rule_exact(ScmpAction::Notify, call)?;
        }
        Action::Notify { when, .. } => {
            for conjunction in when {
                let comparisons: Vec<ScmpArgCompare> = conjunction.iter().map(comparison).collect();
                context.add_rule_conditional_exact(ScmpAction::Notify, call, &comparisons)?;
            }
        }
    }
    Ok(())
}

fn comparison(condition: &Condition) -> ScmpArgCompare {
    let (operation, value) = match condition.test {
        Test::NotEqual(value) => (ScmpCompareOp::NotEqual, value),
        Test::MaskedEqual { mask, value } => (ScmpCompareOp::MaskedEqual(mask), value),
    };
    ScmpArgCompare::new(u32::from(condition.argument), operation, value)
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, FilterError> {
    // Not a memory file, which libseccomp would cut off unnoticed at the limit of a file's size (`ulimit -f`). A pipe has room for a page at least
    // (pipe(7)), and the program some 500 bytes.
    let (mut reader, writer) = io::pipe()?;
    context.export_bpf(&writer).map_err(FilterError::Export)?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads `struct sock_filter`s: u16 code, u8 jt, u8 jf, u32 k, in native byte order.
fn instructions(bytes: &[u8]) -> Result<Vec<libc::sock_filter>, FilterError> {
    let (whole, rest) = bytes.as_chunks::<INSTRUCTION_BYTES>();
    if whole.is_empty() || !rest.is_empty() {
        return Err(FilterError::Torn(bytes.len()));
    }
    Ok(whole
        .iter()
        .map(|&[code0, code1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_ne_bytes([code0, code1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_programs_are_refused() {
        assert!(matches!(instructions(&[]), Err(FilterError::Torn(0))));
        assert!(matches!(instructions(&[0; 9]), Err(FilterError::Torn(9))));
        assert_eq!(instructions(&[6, 0, 1, 2, 0, 0, 0xff, 0x7f]).unwrap()[0].k, 0x7fff_0000);
    }
}
