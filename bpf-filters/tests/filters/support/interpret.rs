//! Running a program over a call.

use super::Verdict;
use super::program::{Comparison, Instruction, Program};

/// A call as the filter sees it: `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub nr: u32,
    pub arch: u32,
    pub instruction_pointer: u64,
    pub arguments: [u64; 6],
}

impl Call {
    pub fn new(nr: u32, arch: u32, arguments: [u64; 6]) -> Self {
        Self {
            nr,
            arch,
            instruction_pointer: 0x0000_5555_dead_beef,
            arguments,
        }
    }

    /// The 32-bit word at a byte offset.
    fn word(&self, offset: u32) -> u32 {
        let long = |value: u64, offset: u32| {
            let bytes = value.to_ne_bytes();
            let half = if offset.is_multiple_of(8) {
                &bytes[..4]
            } else {
                &bytes[4..]
            };
            u32::from_ne_bytes(half.try_into().expect("four bytes"))
        };
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => long(self.instruction_pointer, offset),
            _ => long(self.arguments[(offset as usize - 16) / 8], offset),
        }
    }
}

impl Program {
    /// The filter's verdict on a call.
    pub fn run(&self, call: &Call) -> Verdict {
        let value = self.execute(|offset| Some(call.word(offset)));
        Verdict::from_return_value(value.expect("every word is known"))
    }

    /// True if the kernel, on taking the filter, would find that this number is allowed for all
    /// arguments, so that the filter is never run for it (kernel/seccomp.c,
    /// `seccomp_is_const_allow`).
    pub fn is_constantly_allowed(&self, nr: u32, arch: u32) -> bool {
        let value = self.execute(|offset| match offset {
            0 => Some(nr),
            4 => Some(arch),
            _ => None,
        });
        value.map(Verdict::from_return_value) == Some(Verdict::Allow)
    }

    /// The return value; `None` if an unknown word is loaded.
    fn execute(&self, word: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let next = at + 1;
            at = match self.0[at] {
                Instruction::Load(offset) => {
                    accumulator = word(offset)?;
                    next
                }
                Instruction::And(mask) => {
                    accumulator &= mask;
                    next
                }
                Instruction::Jump(to) => to,
                Instruction::Branch {
                    comparison,
                    value,
                    yes,
                    no,
                } => {
                    let holds = match comparison {
                        Comparison::Equal => accumulator == value,
                        Comparison::Greater => accumulator > value,
                        Comparison::GreaterOrEqual => accumulator >= value,
                        Comparison::AnyBit => accumulator & value != 0,
                    };
                    if holds { yes } else { no }
                }
                Instruction::Return(value) => return Some(value),
            };
        }
    }
}
