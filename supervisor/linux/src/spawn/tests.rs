//! The child of [`super::prepare`] in a process with many threads: the child does not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use imsup_bpf_filters::{Families, Sockets};
use imsup_wire::{Ids, RootSpec};
use nix::sys::wait::{WaitStatus, waitpid};

use super::*;

/// The process that may allocate; the children may not.
static ALLOCATES: AtomicI32 = AtomicI32::new(0);

/// The exit status of a child that allocates.
const HAS_ALLOCATED: i32 = 70;

struct Guard;

#[global_allocator]
static GUARD: Guard = Guard;

fn check() {
    let parent = ALLOCATES.load(Ordering::Relaxed);
    if parent != 0 && Pid::this().as_raw() != parent {
        // SAFETY: _exit runs no other code.
        unsafe { libc::_exit(HAS_ALLOCATED) }
    }
}

// SAFETY: all is done by `System`.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Ends the other threads, also if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn program<'a>(
    command: &'a [CString],
    environment: Option<&'a [CString]>,
    credentials: Option<&'a Credentials>,
) -> Program<'a> {
    Program {
        command,
        environment,
        credentials,
        new_session: true,
        signals: SigSet::empty(),
        descriptor_limit: Some(64),
        cgroup: None,
        no_new_privs: true,
        place: Place::Machine,
    }
}

/// Executes a program, or fails to, without a word of the child's guard.
#[track_caller]
fn assert_executed(program: &Program<'_>, expected: Result<(), Errno>) {
    let filter = imsup_bpf_filters::notify_filter(Sockets::Duplicated, Families::Known);
    // SAFETY: the child does only what is async-signal-safe, which is what is tested.
    let thread = unsafe { SingleThread::unproven() };
    let prepared = prepare(program, filter, &thread).unwrap();
    let pid = prepared.pid();
    let executed = prepared.execute().map(drop);
    let status = waitpid(pid, None);
    assert_eq!(executed, expected, "{status:?}");
    let code = if expected.is_ok() { 0 } else { 127 };
    assert_eq!(status, Ok(WaitStatus::Exited(pid, code)));
}

/// A root with nothing in it.
fn empty_root(directory: &Path) -> Root {
    for name in ["layer", "upper", "work", "root"] {
        std::fs::create_dir(directory.join(name)).unwrap();
    }
    let spec = RootSpec {
        layers: vec![directory.join("layer").into()],
        changes: directory.into(),
        mount_point: directory.join("root").into(),
        read_only: true,
        // Sysctls of an ipc namespace belong to user 0 (ipc/ipc_sysctl.c, ipc_permissions).
        ids: Ids::One { uid: 0, gid: 0 },
        hostname: "empty".to_owned(),
        mounts: Vec::new(),
        shm_bytes: 1 << 20,
        capabilities: 0,
        sysctls: vec![("kernel.msgmax".to_owned(), "8192".to_owned())],
        no_new_privs: false,
    };
    Root::plan(&spec, Path::new("/")).unwrap()
}

/// fork(2): in the child of a process with several threads only async-signal-safe functions may be
/// called, which malloc(3) is not (signal-safety(7)).
#[test]
fn the_child_of_a_process_with_threads_allocates_nothing() {
    ALLOCATES.store(Pid::this().as_raw(), Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    let own = Credentials {
        uid: Uid::current(),
        gid: Gid::current(),
        groups: vec![Gid::current()],
    };
    // Only root may set groups.
    let credentials = Uid::effective().is_root().then_some(&own);
    let (there, missing) = (vec![c"true".to_owned()], vec![c"imsup-no-such-program".to_owned()]);
    let environment = vec![c"PATH=/usr/bin:/bin".to_owned()];
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(std::hint::black_box(vec![0_u8; 64]));
                }
            });
        }
        for (command, expected) in [(&there, Ok(())), (&missing, Err(Errno::ENOENT))] {
            for environment in [None, Some(environment.as_slice())] {
                let program = program(command, environment, credentials);
                assert_executed(&program, expected);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let root = empty_root(directory.path());
        let program = Program {
            place: Place::Root(&root),
            ..program(&missing, None, None)
        };
        assert_executed(&program, Err(Errno::ENOENT));
    });
}
