//! Every system call, through the compiled filters by interpretation: the verdict agrees with the
//! table.

use imsup_bpf_filters::table::{FOREIGN_ARCHITECTURE_ERRNO, row_of};
use imsup_bpf_filters::{Action, Condition, Confined, Families, Sockets, TABLE, Test};
use proptest::prelude::*;

use crate::support::interpret::Call;
use crate::support::program::Program;
use crate::support::{Verdict, audit_arch};

/// Beyond the last number of Linux 6.18 by far.
const NUMBERS: std::ops::RangeInclusive<u32> = 0..=600;

/// The filters that there are.
const ALL: [(Sockets, Families); 4] = [
    (Sockets::Duplicated, Families::Known),
    (Sockets::Duplicated, Families::Unknown),
    (Sockets::Made, Families::Known),
    MOST,
];

/// The filter that traps the most calls.
const MOST: (Sockets, Families) = (Sockets::Made, Families::Unknown);

fn notify_filter((sockets, families): (Sockets, Families)) -> Program {
    Program::of_libc(imsup_bpf_filters::notify_filter(sockets, families))
}

/// The verdict of the table.
fn expected(call: &Call, (sockets, families): (Sockets, Families)) -> Verdict {
    let skipped_by_a_tracer = call.nr == u32::MAX;
    let x32 = cfg!(target_arch = "x86_64") && call.nr >= 0x4000_0000 && !skipped_by_a_tracer;
    if call.arch != audit_arch::NATIVE || x32 {
        return Verdict::Errno(FOREIGN_ARCHITECTURE_ERRNO);
    }
    let row = row_of(i64::from(call.nr)).filter(|row| row.applies(sockets, families));
    match row.map(|row| row.action) {
        None => Verdict::Allow,
        Some(Action::Refuse { errno }) => Verdict::Errno(errno),
        Some(action) if action.notifies(&call.arguments) => Verdict::Notify,
        Some(Action::Notify { .. }) => Verdict::Allow,
    }
}

fn native(number: libc::c_long, arguments: [u64; 6]) -> Call {
    Call::new(u32::try_from(number).unwrap(), audit_arch::NATIVE, arguments)
}

#[test]
fn every_number_has_the_verdict_of_the_table() {
    for which in ALL {
        let filter = notify_filter(which);
        for nr in NUMBERS {
            for arguments in [[0; 6], [2; 6], [u64::MAX; 6], [1 << 32; 6]] {
                let call = Call::new(nr, audit_arch::NATIVE, arguments);
                assert_eq!(filter.run(&call), expected(&call, which), "{which:?}: {call:x?}");
            }
        }
    }
}

#[test]
fn calls_of_other_architectures_do_not_exist() {
    let filter = notify_filter(MOST);
    for arch in [
        audit_arch::X86_64,
        audit_arch::I386,
        audit_arch::AARCH64,
        audit_arch::ARM,
        audit_arch::RISCV64,
        0,
    ] {
        if arch == audit_arch::NATIVE {
            continue;
        }
        for nr in NUMBERS.chain([u32::MAX]) {
            let call = Call::new(nr, arch, [0; 6]);
            assert_eq!(filter.run(&call), Verdict::Errno(libc::ENOSYS), "{call:x?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_calls_do_not_exist() {
    let (notify, confinement) = (notify_filter(MOST), confinement("supervisor"));
    for nr in NUMBERS
        .map(|nr| nr | crate::support::X32_SYSCALL_BIT)
        .chain([0x7fff_ffff, 0x8000_0000, 0xffff_fffe])
    {
        let call = Call::new(nr, audit_arch::X86_64, [0; 6]);
        assert_eq!(notify.run(&call), Verdict::Errno(libc::ENOSYS), "{call:x?}");
        assert_eq!(confinement.run(&call), Verdict::Errno(libc::ENOSYS), "{call:x?}");
    }
}

/// A tracer makes the kernel skip a call by setting its number to -1, and sets the result itself;
/// an errno of the filter would overwrite the result (seccomp(2)).
#[test]
fn calls_skipped_by_a_tracer_stay_skipped() {
    let call = Call::new(u32::MAX, audit_arch::NATIVE, [0; 6]);
    assert_eq!(notify_filter(MOST).run(&call), Verdict::Allow);
    assert_eq!(confinement("supervisor").run(&call), Verdict::Allow);
}

/// The kernel runs no filter for these calls: an untrapped call is as fast as natively.
#[test]
fn calls_outside_the_table_are_in_the_kernels_bitmap() {
    for which in ALL {
        let filter = notify_filter(which);
        for nr in NUMBERS {
            assert_eq!(
                filter.is_constantly_allowed(nr, audit_arch::NATIVE),
                row_of(i64::from(nr)).is_none_or(|row| !row.applies(which.0, which.1)),
                "{which:?}: number {nr}"
            );
        }
    }
}

/// The table, spelled out by hand for calls whose arguments matter.
#[test]
fn arguments_decide_as_designed() {
    let filter = notify_filter(MOST);
    let with = |argument: usize, value: u64| {
        let mut arguments = [0; 6];
        arguments[argument] = value;
        arguments
    };
    let handover = imsup_bpf_filters::HANDOVER_FLAG as u64;
    let no_signal = libc::MSG_NOSIGNAL as u64;
    for (number, arguments, verdict, what) in [
        (libc::SYS_socket, [2, 1, 0, 0, 0, 0], Verdict::Notify, "IPv4"),
        (libc::SYS_socket, [10, 2, 0, 0, 0, 0], Verdict::Notify, "IPv6"),
        (libc::SYS_socket, [1, 1, 0, 0, 0, 0], Verdict::Allow, "UNIX"),
        (libc::SYS_socket, [16, 3, 0, 0, 0, 0], Verdict::Allow, "netlink"),
        (libc::SYS_socket, [17, 3, 0, 0, 0, 0], Verdict::Allow, "packet"),
        (libc::SYS_socket, [40, 1, 0, 0, 0, 0], Verdict::Allow, "vsock"),
        (
            libc::SYS_socket,
            [2 | 1 << 32, 1, 0, 0, 0, 0],
            Verdict::Notify,
            "IPv4 under garbage",
        ),
        (libc::SYS_sendto, [3, 4096, 5, 0, 0, 0], Verdict::Allow, "send"),
        (
            libc::SYS_sendto,
            [3, 4096, 5, 0, 0x7ffc_0000_0010, 16],
            Verdict::Notify,
            "sendto an address",
        ),
        (
            libc::SYS_sendto,
            with(4, 1 << 32),
            Verdict::Notify,
            "an address whose low half is 0",
        ),
        (
            libc::SYS_sendto,
            with(4, 1),
            Verdict::Notify,
            "an address whose high half is 0",
        ),
        (
            libc::SYS_sendto,
            with(5, 16),
            Verdict::Allow,
            "a length without an address",
        ),
        (libc::SYS_sendmsg, with(2, 0), Verdict::Notify, "sendmsg"),
        (
            libc::SYS_sendmsg,
            with(2, no_signal),
            Verdict::Notify,
            "its destination cannot be seen",
        ),
        (
            libc::SYS_sendmsg,
            with(2, handover | no_signal),
            Verdict::Allow,
            "the listener",
        ),
        (
            libc::SYS_sendmsg,
            with(2, !handover),
            Verdict::Notify,
            "all but the flag of that",
        ),
        (
            libc::SYS_sendmsg,
            with(2, handover << 32 | no_signal),
            Verdict::Notify,
            "garbage that is not that flag",
        ),
        (libc::SYS_sendmmsg, with(3, no_signal), Verdict::Notify, "sendmmsg"),
        (
            libc::SYS_getsockopt,
            [3, 1, 30, 4096, 4096, 0],
            Verdict::Notify,
            "SO_ACCEPTCONN",
        ),
        (
            libc::SYS_getsockopt,
            [3, 1, 4, 4096, 4096, 0],
            Verdict::Allow,
            "SO_ERROR",
        ),
        (
            libc::SYS_getsockopt,
            [3, 6, 30, 4096, 4096, 0],
            Verdict::Allow,
            "option 30 of TCP",
        ),
        (
            libc::SYS_bind,
            [u64::MAX; 6],
            Verdict::Notify,
            "bind, whatever its arguments",
        ),
    ] {
        assert_eq!(filter.run(&native(number, arguments)), verdict, "{what}");
    }
}

#[test]
fn accept_is_trapped_only_while_a_family_is_unknown() {
    for (sockets, families) in ALL {
        let filter = notify_filter((sockets, families));
        let verdict = match families {
            Families::Known => Verdict::Allow,
            Families::Unknown => Verdict::Notify,
        };
        for number in [libc::SYS_accept, libc::SYS_accept4] {
            assert_eq!(
                filter.run(&native(number, [3, 0, 0, 0, 0, 0])),
                verdict,
                "{sockets:?}: {number}"
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn only_musls_way_of_reading_is_a_trapped_open() {
    let filter = notify_filter(MOST);
    for (flags, verdict, what) in [
        (0x88000, Verdict::Notify, "musl's fopen for reading"),
        (0xffff_ffff_0008_8000, Verdict::Notify, "the same under garbage"),
        (0x80000, Verdict::Allow, "O_RDONLY|O_CLOEXEC, without O_LARGEFILE"),
        (0x88001, Verdict::Allow, "for writing"),
        (0x88002, Verdict::Allow, "for both"),
        (0x88040, Verdict::Allow, "creating"),
        (0x8000, Verdict::Allow, "without O_CLOEXEC"),
        (0, Verdict::Allow, "plain"),
    ] {
        let call = native(libc::SYS_open, [4096, flags, 0, 0, 0, 0]);
        assert_eq!(filter.run(&call), verdict, "{what}");
    }
}

fn confinement(name: &str) -> Program {
    Program::of_seccompiler(&imsup_bpf_filters::confinement().unwrap()[name])
}

#[test]
fn the_confinement_refuses_what_its_policy_names_and_nothing_else() {
    let policy: serde_json::Value = serde_json::from_str(imsup_bpf_filters::confine::POLICY).unwrap();
    for name in Confined::Helper.filters() {
        refuses_what_it_names(&policy, name);
    }
}

fn refuses_what_it_names(policy: &serde_json::Value, name: &str) {
    let rules = policy[name]["filter"].as_array().unwrap();
    let refused: Vec<u32> = rules
        .iter()
        .map(|rule| {
            assert!(rule.get("args").is_none(), "the expectation below knows no arguments");
            let name = rule["syscall"].as_str().unwrap();
            let number = libseccomp::ScmpSyscall::from_name(name).unwrap().as_raw_syscall();
            u32::try_from(number).unwrap()
        })
        .collect();
    let filter = confinement(name);
    for nr in NUMBERS {
        let call = Call::new(nr, audit_arch::NATIVE, [u64::MAX; 6]);
        let refuse = refused.contains(&nr);
        let verdict = if refuse {
            Verdict::Errno(libc::EPERM)
        } else {
            Verdict::Allow
        };
        assert_eq!(filter.run(&call), verdict, "number {nr}");
        assert_eq!(
            filter.is_constantly_allowed(nr, audit_arch::NATIVE),
            !refuse,
            "number {nr}"
        );
    }
    let i386 = Call::new(0, audit_arch::I386, [0; 6]);
    assert_eq!(filter.run(&i386), Verdict::KillProcess);
}

/// Numbers; numbers of the table are as frequent as all others together.
fn numbers() -> impl Strategy<Value = u32> {
    let of_table: Vec<u32> = TABLE.iter().map(|row| u32::try_from(row.number).unwrap()).collect();
    prop_oneof![proptest::sample::select(of_table), NUMBERS, any::<u32>()]
}

/// Values near a condition's edge: the compared value, on its own and with any other bits around.
fn near(condition: Condition) -> BoxedStrategy<u64> {
    match condition.test {
        Test::NotEqual(value) => prop_oneof![
            Just(value),
            any::<u64>(),
            (0..64_u32).prop_map(move |bit| value ^ (1 << bit))
        ]
        .boxed(),
        Test::MaskedEqual { mask, value } => prop_oneof![
            any::<u64>().prop_map(move |around| (around & !mask) | value),
            (any::<u64>(), 0..64_u32).prop_map(move |(around, bit)| ((around & !mask) | value) ^ (1 << bit)),
            any::<u64>(),
        ]
        .boxed(),
    }
}

/// Calls of the table with conditions, with arguments near these conditions.
fn calls_near_conditions() -> impl Strategy<Value = (&'static str, Call)> {
    let conditional: Vec<_> = TABLE
        .iter()
        .filter_map(|row| match row.action {
            Action::Notify { when, .. } => Some(when.iter().map(move |conjunction| (row, *conjunction))),
            Action::Refuse { .. } => None,
        })
        .flatten()
        .collect();
    proptest::sample::select(conditional).prop_flat_map(|(row, conjunction)| {
        let tested: Vec<_> = conjunction.iter().map(|condition| near(*condition)).collect();
        (any::<[u64; 6]>(), tested).prop_map(move |(mut arguments, tested)| {
            for (condition, value) in conjunction.iter().zip(tested) {
                arguments[usize::from(condition.argument)] = value;
            }
            (row.name, native(row.number, arguments))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_call_has_the_verdict_of_the_table(
        nr in numbers(),
        arch in prop_oneof![8 => Just(audit_arch::NATIVE), 1 => any::<u32>()],
        arguments in any::<[u64; 6]>(),
    ) {
        let call = Call::new(nr, arch, arguments);
        for which in ALL {
            prop_assert_eq!(notify_filter(which).run(&call), expected(&call, which));
        }
    }

    #[test]
    fn calls_near_a_condition_have_the_verdict_of_the_table((name, call) in calls_near_conditions()) {
        for which in ALL {
            prop_assert_eq!(notify_filter(which).run(&call), expected(&call, which), "{}", name);
        }
    }
}
