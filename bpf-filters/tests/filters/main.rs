//! The compiled filters: the decisions, instruction by instruction, and the documentation.
//!
//! `IMSUP_REGENERATE=1 cargo test -p imsup-bpf-filters --test filters` writes the compared files
//! anew.

// The document shows the table of x86-64, which alone has open(2).
#[cfg(target_arch = "x86_64")]
mod documentation;
mod every_syscall;
mod golden;
mod support;

/// Compares with a file of the repository, after writing the file if this was requested.
fn compare_with_file(path: &str, text: &str, hint: &str) {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("IMSUP_REGENERATE").is_some() {
        std::fs::write(&whole, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let golden =
        std::fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{path}: {error}; IMSUP_REGENERATE=1 makes it"));
    assert!(
        golden == text,
        "{path} is not what is made now. {hint} Where the change is meant, write it with IMSUP_REGENERATE=1. Now:\n{text}"
    );
}
