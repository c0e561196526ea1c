//! `docs/syscalls.md` is made from the table.

use imsup_bpf_filters::table::Conjunction;
use imsup_bpf_filters::{Action, Condition, Families, Row, Sockets, TABLE, Test, confine};

const ABOUT: &str = "\
# System calls

Made from the table in `bpf-filters/src/table.rs`, which also drives the filter and the supervisor's dispatcher, by
`IMSUP_REGENERATE=1 cargo test -p imsup-bpf-filters --test filters`. Do not edit.

## Of the program

Everything that is not listed goes straight to the kernel, which does not even run the filter for it: `read`, `write`,
`send`, `recv`, `accept`, `epoll_wait`, `poll`, `close`, `dup`, `fork` and all others cost what they cost natively.

A call that is *handled* is put before the program's supervisor, which does it, or does it differently, or lets it
through. A call that is *refused* fails with the errno given. Calls of other architectures (i386, and x32 on x86-64)
fail with ENOSYS.

Where the supervisor may not duplicate the program's descriptors (pidfd_getfd(2) refused: a container without CAP_SYS_PTRACE),
one call more is handled; it is marked *without pidfd_getfd*.

While the address family of a port that is retained for a host is not known, because no program has listened on it yet, `accept` is handled
too; it is marked *at a port's first boot*.

";

const ABOUT_CONFINEMENT: &str = "
## Of imsup itself

Once its program runs, a supervisor gives up what it needs no more (`bpf-filters/confinement.json`). These fail with
EPERM for it:

";

const ABOUT_HELPERS: &str = "
The process that makes resolvers' sockets, and the broker's threads that answer names, relay published ports and ask the kernel for
peers, can do none of these, nor any of the following:

";

fn when(conjunctions: &[Conjunction]) -> String {
    let texts: Vec<String> = conjunctions.iter().map(|conjunction| all(conjunction)).collect();
    texts.join(", or ")
}

fn all(conditions: &[Condition]) -> String {
    let texts: Vec<String> = conditions
        .iter()
        .map(|Condition { argument, test }| match *test {
            Test::NotEqual(0) => format!("argument {argument} is not null"),
            Test::NotEqual(value) => format!("argument {argument} is not {value:#x}"),
            Test::MaskedEqual { mask, value: 0 } => format!("argument {argument} has {mask:#x} not set"),
            Test::MaskedEqual { mask, value } if mask == value => format!("argument {argument} has {value:#x} set"),
            Test::MaskedEqual { mask, value } if mask == u64::from(u32::MAX) => {
                format!("argument {argument} is exactly {value:#x}")
            }
            Test::MaskedEqual { mask, value } => format!("argument {argument} & {mask:#x} is {value:#x}"),
        })
        .collect();
    texts.join(" and ")
}

fn line(row: &Row) -> String {
    let done = match row.action {
        Action::Notify { when: [], .. } => "handled".to_owned(),
        Action::Notify { when: conjunctions, .. } => format!("handled where {}", when(conjunctions)),
        Action::Refuse { errno: libc::ENOSYS } => "refused: ENOSYS".to_owned(),
        Action::Refuse { errno } => format!("refused: errno {errno}"),
    };
    let only = match row.only {
        None => "",
        Some(Sockets::Duplicated) => "*with pidfd_getfd:* ",
        Some(Sockets::Made) => "*without pidfd_getfd:* ",
    };
    let first = match row.while_families {
        None => "",
        Some(Families::Known) => "*at later boots:* ",
        Some(Families::Unknown) => "*at a port's first boot:* ",
    };
    format!("| `{}` | {only}{first}{done} | {} |\n", row.name, row.why)
}

fn document() -> String {
    let mut text = ABOUT.to_owned();
    text.push_str("| call | what is done (arguments count from 0) | why |\n|---|---|---|\n");
    text.extend(TABLE.iter().map(line));
    text.push_str(ABOUT_CONFINEMENT);
    let policy: serde_json::Value = serde_json::from_str(confine::POLICY).expect("the policy is JSON");
    text.push_str(&names(&policy, "supervisor"));
    text.push_str(ABOUT_HELPERS);
    text.push_str(&names(&policy, "helper"));
    text
}

/// The calls that a policy refuses, in a sentence.
fn names(policy: &serde_json::Value, filter: &str) -> String {
    let rules = policy[filter]["filter"].as_array().expect("the policy has rules");
    let names: Vec<String> = rules
        .iter()
        .map(|rule| format!("`{}`", rule["syscall"].as_str().expect("a rule names a call")))
        .collect();
    format!("{}.\n", names.join(", "))
}

#[test]
fn the_document_is_up_to_date() {
    crate::compare_with_file("docs/syscalls.md", &document(), "The table or the policy changed.");
}
