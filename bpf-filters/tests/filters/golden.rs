//! The compiled filters, instruction by instruction, against `testdata/bpf/`: what changes there is seen in review.

use imsup_bpf_filters::{Families, Sockets};

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
    let compile = |sockets, families| Program::of_libc(&imsup_bpf_filters::compile(sockets, families).unwrap());
    compare("notify", &compile(Sockets::Duplicated, Families::Known));
    compare("notify-made", &compile(Sockets::Made, Families::Known));
    compare("notify-first", &compile(Sockets::Duplicated, Families::Unknown));
    compare("notify-made-first", &compile(Sockets::Made, Families::Unknown));
}

#[test]
fn the_confinement_is_the_golden_one() {
    let compiled = imsup_bpf_filters::confinement().unwrap();
    compare("confinement", &Program::of_seccompiler(&compiled["supervisor"]));
    compare("confinement-helper", &Program::of_seccompiler(&compiled["helper"]));
}

#[test]
fn compiling_twice_gives_the_same_program() {
    let compile = || Program::of_libc(&imsup_bpf_filters::compile(Sockets::Made, Families::Unknown).unwrap());
    assert_eq!(compile().0, compile().0);
}
