//! The kernel's offers, probed as values: `imsup doctor`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use imsup_bpf_filters::Families;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use rustix::net::{AddressFamily, SocketType};
use serde::Serialize;

use super::cgroup::Cgroup;
use super::memory::{TargetMemory, ThreadMemory};
use super::stopped::{self, StopError};
use super::support::{self, Support};
use super::{capabilities, privileges, process_vm, socket, spawn};

/// A facility of the kernel or machine that imsup uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// The name, as a man page has it.
    pub name: &'static str,
    /// The use that imsup makes of it.
    pub needed_for: &'static str,
    /// True if the facility is available.
    pub present: bool,
    /// The evidence.
    pub detail: String,
    /// The loss without it.
    pub lost_without: &'static str,
    /// True if imsup cannot run hosts at all without it.
    pub indispensable: bool,
}

/// Probes everything. Starts children, which end at once; the caller must have a single thread.
pub fn probe() -> Vec<Feature> {
    vec![
        notification(),
        feature(
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            "calls that are not torn by signals while they are handled",
            "Go programs, whose runtime signals itself, make no progress (Linux 5.19)",
            true,
            if spawn::knows_wait_killable() {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            },
        ),
        duplicates(),
        process_memory(),
        feature(
            "/proc/PID/mem",
            "reading the addresses that programs pass to the kernel, where process_vm_readv(2) is refused",
            "no trapped call can be understood where process_vm_readv(2) is refused",
            !Support::present().process_vm,
            read_own_memory(),
        ),
        feature(
            "loopback planes",
            "addresses of hosts inside 127.0.0.0/8",
            "hosts have no addresses",
            true,
            bind_inet(
                AddressFamily::INET,
                SocketAddr::from((Ipv4Addr::new(127, 77, 255, 254), 0)),
            ),
        ),
        feature(
            "AF_INET6 sockets",
            "programs that listen on dual-stack sockets (Go, Node, Java)",
            "such programs use IPv4 by themselves; nothing else is lost",
            false,
            bind_inet(
                AddressFamily::INET6,
                SocketAddr::from((Ipv4Addr::new(127, 77, 255, 254).to_ipv6_mapped(), 0)),
            ),
        ),
        feature(
            "SO_COOKIE",
            "telling sockets apart through dup and fork",
            "programs see the addresses of their host's planes instead of those they bound",
            true,
            tcp().and_then(|socket| socket::cookie(socket.as_fd()).map(drop)),
        ),
        feature(
            "/proc/PID/task/TID/children",
            "ending everything a program started",
            "orphans of a program that was killed may stay (CONFIG_PROC_CHILDREN)",
            false,
            std::fs::read_to_string("/proc/thread-self/children")
                .map(drop)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::ENOENT))),
        ),
        freezer(),
        feature(
            "ptrace(2)",
            "seeing what the threads of an idle host wait for, and stopping them where there is no freezer",
            "hosts are not suspended (x86-64; a container may deny it: --cap-add SYS_PTRACE)",
            false,
            stop_a_child(),
        ),
        privileged_ports(),
        descriptors(),
    ]
}

fn feature(
    name: &'static str,
    needed_for: &'static str,
    lost_without: &'static str,
    indispensable: bool,
    result: Result<(), Errno>,
) -> Feature {
    Feature {
        name,
        needed_for,
        present: result.is_ok(),
        detail: match result {
            Ok(()) => "there".to_owned(),
            Err(errno) => errno.desc().to_owned(),
        },
        lost_without,
        indispensable,
    }
}

fn notification() -> Feature {
    let filter = imsup_bpf_filters::notify_filter(Support::present().sockets(), Families::Unknown);
    let result = spawn::try_listener(filter);
    Feature {
        name: "seccomp user notification",
        needed_for: "seeing the calls that give sockets their addresses",
        present: result.is_ok(),
        detail: result.map_or_else(
            |error| error.to_string(),
            |()| "a filter with a listener can be installed".to_owned(),
        ),
        lost_without: "no host can run",
        indispensable: true,
    }
}

fn duplicates() -> Feature {
    let used = Support::present().pidfd_getfd;
    Feature {
        name: "pidfd_getfd(2)",
        needed_for: "acting on the program's own sockets",
        present: used,
        detail: if used {
            "sockets are duplicated from the program".to_owned()
        } else {
            format!(
                "{}; sockets are made for the program, and copies kept",
                missing(support::try_pidfd_getfd())
            )
        },
        lost_without: "imsup makes the program's sockets itself, which costs one notification and one ADDFD for each socket(2), and a host that \
                       falls asleep is made to hand its descriptors over, which takes ptrace(2) and a dozen stops of one of its threads; in a container, --cap-add SYS_PTRACE allows it",
        indispensable: false,
    }
}

fn process_memory() -> Feature {
    let used = Support::present().process_vm;
    Feature {
        name: "process_vm_readv(2)",
        needed_for: "reading the addresses that programs pass to the kernel",
        present: used,
        detail: if used {
            "memory is read and written in one call".to_owned()
        } else {
            format!(
                "{}; memory is read and written through /proc/PID/mem",
                missing(process_vm::try_process_vm())
            )
        },
        lost_without: "each access takes three system calls instead of one (open, read, close of /proc/PID/mem), and a write one look at /proc/PID/maps",
        indispensable: false,
    }
}

/// The reason why a tried facility is not used.
fn missing<T>(tried: Result<T, Errno>) -> String {
    match tried {
        Ok(_) if Support::present().as_owner => "not for another user's processes, without CAP_SYS_PTRACE".to_owned(),
        Ok(_) => format!("there, but {} says to do without it", support::WITHOUT),
        Err(errno) => errno.desc().to_owned(),
    }
}

fn read_own_memory() -> Result<(), Errno> {
    let value = [7_u8; 8];
    let own = ThreadMemory::by_file(nix::unistd::gettid().as_raw());
    let read = own.read_array::<8>(value.as_ptr().addr() as u64)?;
    if read == value { Ok(()) } else { Err(Errno::EIO) }
}

fn tcp() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(socket::errno_of)
}

fn bind_inet(family: AddressFamily, address: SocketAddr) -> Result<(), Errno> {
    let socket = rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)
        .map_err(socket::errno_of)?;
    socket::bind(socket.as_fd(), address)
}

/// Tried in a cgroup of its own, which is removed again.
fn freezer() -> Feature {
    let frozen = Cgroup::make(&format!("imsup.doctor.{}", std::process::id()))
        .map_err(|error| error.to_string())
        .and_then(|cgroup| {
            let path = cgroup.path().display().to_string();
            let frozen = cgroup.freeze(Duration::from_secs(1));
            cgroup.remove();
            frozen.map(|()| path).map_err(|error| error.to_string())
        });
    Feature {
        name: "freezer",
        needed_for: "suspending idle hosts, each in a cgroup v2 of its own",
        present: frozen.is_ok(),
        detail: match frozen {
            Ok(path) => match path.rsplit_once('/') {
                Some((parent, _)) => format!("cgroups can be made and frozen in {parent}"),
                None => path,
            },
            Err(reason) => reason,
        },
        lost_without: "the threads of a suspended host are stopped with ptrace(2) instead, which keeps debuggers from it; \
                       systemd's Delegate=yes, or a writable /sys/fs/cgroup, mends it",
        indispensable: false,
    }
}

/// Stops and reads a child that waits for a pipe, and ends the child.
fn stop_a_child() -> Result<(), Errno> {
    let (reader, writer) =
        std::io::pipe().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // Not a shell: a root directory may have none. SAFETY: close(2), read(2) and _exit(2) are
    // async-signal-safe, and the child makes no other call.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop(writer);
            let _ = rustix::io::read(&reader, &mut [0_u8]);
            // SAFETY: runs no destructors, as a forked child wants it.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    let pid = child.as_raw();
    let stopped = stopped::stop(&|| vec![pid], Duration::from_secs(1));
    let result = match stopped {
        Ok(stopped) if stopped.threads().is_empty() => Err(Errno::ESRCH),
        Ok(_) => Ok(()),
        Err(StopError::Refused { errno, .. }) => Err(errno),
        Err(StopError::Traced { .. }) => Err(Errno::EPERM),
        Err(StopError::Busy { .. }) => Err(Errno::EBUSY),
        Err(StopError::NoTracer) => Err(Errno::EAGAIN),
    };
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    result
}

/// Ports below this may only be bound with CAP_NET_BIND_SERVICE (ip(7)).
fn privileged_ports() -> Feature {
    let start = privileges::first_unprivileged_port();
    let able = capabilities::has_capability(privileges::CAP_NET_BIND_SERVICE);
    Feature {
        name: "privileged ports",
        needed_for: "hosts that listen below port 1024",
        present: able || start <= 1,
        detail: if able {
            "CAP_NET_BIND_SERVICE".to_owned()
        } else {
            format!("ports from {start} on")
        },
        lost_without: "hosts cannot listen on ports below that; `setcap cap_net_bind_service+ep` on imsup, or \
                       `sysctl net.ipv4.ip_unprivileged_port_start=0`, mends it",
        indispensable: false,
    }
}

/// Every retained socket is a descriptor of the broker.
fn descriptors() -> Feature {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let (present, detail) = match limit {
        Ok((soft, hard)) => (hard >= 4096, format!("{hard} (soft limit {soft}, raised by imsup)")),
        Err(errno) => (false, errno.desc().to_owned()),
    };
    Feature {
        name: "RLIMIT_NOFILE",
        needed_for: "a retained socket for every port of every host",
        present,
        detail,
        lost_without: "clusters with more ports than that cannot be brought up; raise the hard limit",
        indispensable: false,
    }
}
