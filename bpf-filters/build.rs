//! Compiles the notify filters with libseccomp: a program for each way to the program's sockets,
//! and for known or unknown families.
//!
//! The programs are embedded as constants, so `imsup` needs no libseccomp at run time.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;
use std::{env, fs};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use table::{Action, Condition, FOREIGN_ARCHITECTURE_ERRNO, Families, Row, Sockets, TABLE, Test};

#[expect(
    dead_code,
    reason = "the supervisor's half of the table: numbers, handlers and reasons"
)]
#[path = "src/table.rs"]
mod table;

/// The programs' files, which `src/notify.rs` includes.
const PROGRAMS: [(&str, Sockets, Families); 4] = [
    ("duplicated_known.rs", Sockets::Duplicated, Families::Known),
    ("duplicated_unknown.rs", Sockets::Duplicated, Families::Unknown),
    ("made_known.rs", Sockets::Made, Families::Known),
    ("made_unknown.rs", Sockets::Made, Families::Unknown),
];

/// The first level of libseccomp's interface with user notification (seccomp_api_get(3)).
const API_WITH_NOTIFICATION: u32 = 5;

/// Bytes of a `struct sock_filter` (include/uapi/linux/filter.h).
const INSTRUCTION_BYTES: usize = 8;

/// libseccomp's `SCMP_FLTATR_CTL_OPTIMIZE` for a binary tree over the call numbers instead of a
/// chain of comparisons.
const BINARY_TREE: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/table.rs");
    let target = env::var("CARGO_CFG_TARGET_ARCH")?;
    if target != env::consts::ARCH {
        // The table and libseccomp's numbers are for the processor that runs this script.
        return Err(format!(
            "imsup for {target} can be built only on {target}, not on {}",
            env::consts::ARCH
        )
        .into());
    }
    // libseccomp asks the running kernel for its features; the programs are for another kernel.
    libseccomp::set_api(API_WITH_NOTIFICATION)
        .map_err(|error| format!("libseccomp 2.5 or newer is needed to build imsup: {error}"))?;
    let directory = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    for (name, sockets, families) in PROGRAMS {
        let program = export(&context(sockets, families)?)?;
        fs::write(Path::new(&directory).join(name), expression(&program)?)?;
    }
    Ok(())
}

/// The table as a libseccomp filter for the native architecture.
fn context(sockets: Sockets, families: Families) -> Result<ScmpFilterContext, Box<dyn Error>> {
    let mut context = ScmpFilterContext::new(ScmpAction::Allow)?;
    // With x86-64 alone in the filter, libseccomp gives x32 numbers the same action.
    context
        .set_act_badarch(ScmpAction::Errno(FOREIGN_ARCHITECTURE_ERRNO))?
        .set_ctl_optimize(BINARY_TREE)?;
    for row in TABLE.iter().filter(|row| row.applies(sockets, families)) {
        add(&mut context, row)
            .map_err(|error| format!("libseccomp does not take the rule for {}: {error}", row.name))?;
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

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Box<dyn Error>> {
    // A pipe has room for a page at least (pipe(7)), and a program has some 500 bytes.
    let (mut reader, writer) = io::pipe()?;
    context.export_bpf(&writer)?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A Rust array of the program's `struct sock_filter`s: u16 code, u8 jt, u8 jf, u32 k, in native
/// byte order.
fn expression(program: &[u8]) -> Result<String, Box<dyn Error>> {
    let (instructions, rest) = program.as_chunks::<INSTRUCTION_BYTES>();
    if instructions.is_empty() || !rest.is_empty() {
        return Err(format!("libseccomp exported {} bytes, which is no BPF program", program.len()).into());
    }
    let mut text = String::from("[\n");
    for &[code0, code1, jt, jf, k0, k1, k2, k3] in instructions {
        let (code, k) = (u16::from_ne_bytes([code0, code1]), u32::from_ne_bytes([k0, k1, k2, k3]));
        writeln!(
            text,
            "    sock_filter {{ code: {code:#06x}, jt: {jt}, jf: {jf}, k: {k:#010x} }},"
        )?;
    }
    text.push_str("]\n");
    Ok(text)
}
