//! A program as text, for the golden files: jump targets are absolute, and numbers have names by
//! use.

use std::fmt::Write;

use imsup_bpf_filters::TABLE;
use libseccomp::ScmpSyscall;

use super::program::{Comparison, Instruction, Program};
use super::{Verdict, audit_arch};

impl Program {
    /// One line per instruction.
    pub fn disassemble(&self) -> String {
        let mut text = String::new();
        let loaded = self.loaded_words();
        for (at, instruction) in self.0.iter().enumerate() {
            let (line, comment) = match *instruction {
                Instruction::Load(offset) => (format!("ld   [{offset}]"), word_name(offset)),
                Instruction::And(mask) => (format!("and  #{mask:#x}"), String::new()),
                Instruction::Jump(to) => (format!("ja   {to}"), String::new()),
                Instruction::Branch {
                    comparison,
                    value,
                    yes,
                    no,
                } => {
                    let mnemonic = match comparison {
                        Comparison::Equal => "jeq ",
                        Comparison::Greater => "jgt ",
                        Comparison::GreaterOrEqual => "jge ",
                        Comparison::AnyBit => "jset",
                    };
                    let comment = loaded[at].map_or_else(String::new, |offset| value_name(offset, value));
                    (format!("{mnemonic} #{value:#x}, {yes}, {no}"), comment)
                }
                Instruction::Return(value) => (
                    format!("ret  #{value:#010x}"),
                    format!("{:?}", Verdict::from_return_value(value)),
                ),
            };
            let whole = format!("{at:3}: {line:28} ; {comment}");
            writeln!(text, "{}", whole.trim_end_matches([' ', ';'])).expect("a String takes everything");
        }
        text
    }

    /// The offset of the word in the accumulator before each instruction, if all paths there agree.
    /// Jumps only go forward, so a single pass finds the word.
    fn loaded_words(&self) -> Vec<Option<u32>> {
        let mut before: Vec<Option<Option<u32>>> = vec![None; self.0.len()];
        before[0] = Some(None);
        for (at, instruction) in self.0.iter().enumerate() {
            let here = before[at].flatten();
            let after = match *instruction {
                Instruction::Load(offset) => Some(offset),
                _ => here,
            };
            let targets = match *instruction {
                Instruction::Load(_) | Instruction::And(_) => vec![at + 1],
                Instruction::Jump(to) => vec![to],
                Instruction::Branch { yes, no, .. } => vec![yes, no],
                Instruction::Return(_) => vec![],
            };
            for target in targets {
                before[target] = match before[target] {
                    Some(other) if other != after => Some(None),
                    _ => Some(after),
                };
            }
        }
        before.into_iter().map(Option::flatten).collect()
    }
}

fn word_name(offset: u32) -> String {
    match offset {
        0 => "number".to_owned(),
        4 => "architecture".to_owned(),
        8 | 12 => "instruction pointer".to_owned(),
        _ => {
            let little = cfg!(target_endian = "little");
            let half = if offset.is_multiple_of(8) == little {
                "low"
            } else {
                "high"
            };
            format!("argument {}, {half} half", (offset - 16) / 8)
        }
    }
}

fn value_name(offset: u32, value: u32) -> String {
    match (offset, value) {
        (4, audit_arch::X86_64) => "x86_64".to_owned(),
        (4, audit_arch::AARCH64) => "aarch64".to_owned(),
        (4, audit_arch::RISCV64) => "riscv64".to_owned(),
        (0, 0x4000_0000) => "x32".to_owned(),
        (0, u32::MAX) => "-1: skipped by a tracer".to_owned(),
        (0, number) => call_name(number),
        _ => String::new(),
    }
}

fn call_name(number: u32) -> String {
    let in_table = TABLE.iter().find(|row| row.number == i64::from(number));
    in_table.map_or_else(
        || ScmpSyscall::from(number as i32).get_name().unwrap_or_default(),
        |row| row.name.to_owned(),
    )
}
