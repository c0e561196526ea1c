//! The compiled filters, instruction by instruction, against `testdata/bpf/`: changes there are
//! seen in review.

use imsup_bpf_filters::{Families, Sockets, notify_filter};

use crate::support::program::Program;

fn compare(name: &str, program: &Program) {
    let path = format!("testdata/bpf/{name}.{}.txt", std::env::consts::ARCH);
    let version = libseccomp::ScmpVersion::current().unwrap();
    let hint = format!(
        "It was made by libseccomp 2.5.4 and seccompiler 0.5.0, this is libseccomp {version}; the tests of \
         every_syscall.rs say whether the filter still decides as it must."
    );
    crate::compare_with_file(&path, &program.disassemble(), &hint);
}

#[test]
fn the_notify_filters_are_the_golden_ones() {
    let filter = |sockets, families| Program::of_libc(notify_filter(sockets, families));
    compare("notify", &filter(Sockets::Duplicated, Families::Known));
    compare("notify-made", &filter(Sockets::Made, Families::Known));
    compare("notify-first", &filter(Sockets::Duplicated, Families::Unknown));
    compare("notify-made-first", &filter(Sockets::Made, Families::Unknown));
}

#[test]
fn the_confinement_is_the_golden_one() {
    let compiled = imsup_bpf_filters::confinement().unwrap();
    compare("confinement", &Program::of_seccompiler(&compiled["supervisor"]));
    compare("confinement-helper", &Program::of_seccompiler(&compiled["helper"]));
}
