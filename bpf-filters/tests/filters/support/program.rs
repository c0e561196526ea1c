//! A decoded program. Decoding checks the same as the kernel before it takes a filter
//! (kernel/seccomp.c, `seccomp_check_filter`; net/core/filter.c, `bpf_check_classic`).

/// Bytes of `struct seccomp_data`.
const SECCOMP_DATA_BYTES: u32 = 64;

/// The comparisons of a conditional jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// An instruction, with absolute jump targets. Only the instructions that libseccomp and
/// seccompiler emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Loads the 32-bit word at this offset of `seccomp_data`.
    Load(u32),
    And(u32),
    Jump(usize),
    Branch {
        comparison: Comparison,
        value: u32,
        yes: usize,
        no: usize,
    },
    Return(u32),
}

/// A program that the kernel would take.
pub struct Program(pub Vec<Instruction>);

impl Program {
    pub fn of_libc(program: &[libc::sock_filter]) -> Self {
        Self::decode(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)))
    }

    pub fn of_seccompiler(program: &[seccompiler::sock_filter]) -> Self {
        Self::decode(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)))
    }

    /// Panics if the kernel would refuse the program.
    fn decode(raw: impl Iterator<Item = (u16, u8, u8, u32)>) -> Self {
        let program: Vec<Instruction> = raw
            .enumerate()
            .map(|(at, (code, jt, jf, k))| {
                let target = |distance: usize| at + 1 + distance;
                let branch = |comparison| Instruction::Branch {
                    comparison,
                    value: k,
                    yes: target(jt.into()),
                    no: target(jf.into()),
                };
                match code {
                    0x20 => Instruction::Load(k),
                    0x54 => Instruction::And(k),
                    0x05 => Instruction::Jump(target(k as usize)),
                    0x15 => branch(Comparison::Equal),
                    0x25 => branch(Comparison::Greater),
                    0x35 => branch(Comparison::GreaterOrEqual),
                    0x45 => branch(Comparison::AnyBit),
                    0x06 => Instruction::Return(k),
                    _ => panic!("instruction {at} has the unexpected code {code:#06x}"),
                }
            })
            .collect();
        for (at, instruction) in program.iter().enumerate() {
            match *instruction {
                Instruction::Load(offset) => assert!(
                    offset.is_multiple_of(4) && offset < SECCOMP_DATA_BYTES,
                    "instruction {at} loads outside seccomp_data"
                ),
                Instruction::Jump(to) => assert!(to < program.len(), "instruction {at} jumps out"),
                Instruction::Branch { yes, no, .. } => {
                    assert!(yes.max(no) < program.len(), "instruction {at} jumps out");
                }
                Instruction::And(_) | Instruction::Return(_) => {}
            }
        }
        assert!(
            matches!(program.last(), Some(Instruction::Return(_))),
            "the last instruction must return"
        );
        Self(program)
    }
}
