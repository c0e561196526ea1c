//! Roots in namespaces of their own: namespaces(7), overlayfs, pivot_root(2).

use std::ffi::CString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use imsup_bpf_filters::{Families, Sockets};
use imsup_linux::notify::Listener;
use imsup_linux::root::{Join, Place, PlanError, Root};
use imsup_linux::single_thread::SingleThread;
use imsup_linux::spawn::{self, SpawnError};
use imsup_wire::root::{DEFAULT_CAPABILITIES, Mount, MountSource};
use imsup_wire::{Ids, RootSpec};
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

use crate::notification;

/// A directory with two layers, of which the upper changes the lower, and what a root needs.
struct Image {
    directory: TempDir,
}

impl Image {
    fn new() -> Self {
        let image = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for directory in [
            "lower/bin",
            "lower/etc",
            "lower/kept",
            "upper/kept",
            "changes/upper",
            "changes/work",
            "root",
            "out",
        ] {
            let path = image.path(directory);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox-static is needed: scripts/setup.sh installs it");
        std::fs::copy(busybox, image.path("lower/bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "mount", "umount", "id", "hostname", "ls", "touch", "rm", "test", "mknod", "readlink",
            "chroot",
        ] {
            std::os::unix::fs::symlink("busybox", image.path("lower/bin").join(name)).unwrap();
        }
        image.write("lower/etc/removed", "lower");
        image.write("lower/etc/both", "lower");
        image.write("lower/kept/below", "lower");
        std::fs::create_dir(image.path("upper/etc")).unwrap();
        image.write("upper/etc/both", "upper");
        // A whiteout may be made by anyone (fs/namei.c, vfs_mknod).
        rustix::fs::mknodat(
            CWD,
            image.path("upper/etc/removed"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        rustix::fs::setxattr(
            image.path("upper/kept"),
            "user.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        image
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.directory.path().join(below)
    }

    fn write(&self, below: &str, content: &str) {
        std::fs::write(self.path(below), content).unwrap();
    }

    fn spec(&self, ids: Ids) -> RootSpec {
        RootSpec {
            layers: vec![self.path("lower").into(), self.path("upper").into()],
            changes: self.path("changes").into(),
            mount_point: self.path("root").into(),
            read_only: false,
            ids,
            hostname: "web".to_owned(),
            mounts: vec![Mount {
                target: "/out".into(),
                source: MountSource::Bind(self.path("out").into()),
                read_only: false,
            }],
            shm_bytes: 64 << 20,
            capabilities: DEFAULT_CAPABILITIES,
            sysctls: Vec::new(),
            no_new_privs: false,
        }
    }

    /// The exit status of a script in the root.
    fn run(&self, spec: &RootSpec, script: &str) -> Result<i32, SpawnError> {
        let root = Root::plan(spec, Path::new("/work/here")).unwrap();
        let (child, listener) = start(Place::Root(&root), script)?;
        notification::let_all_through(&listener);
        Ok(exit_code(child))
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("out").join(name))
            .unwrap()
            .trim_end()
            .to_owned()
    }
}

/// A shell with a script.
fn start(place: Place<'_>, script: &str) -> Result<(Pid, Listener), SpawnError> {
    let command = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
    let environment = [c"PATH=/bin".to_owned()];
    let program = spawn::Program {
        command: &command,
        environment: Some(&environment),
        credentials: None,
        new_session: true,
        descriptor_limit: None,
        signals: SigSet::empty(),
        cgroup: None,
        no_new_privs: false,
        place,
    };
    let filter = imsup_bpf_filters::notify_filter(Sockets::Duplicated, Families::Known);
    // SAFETY: the child does only what is async-signal-safe (`spawn::child`), whatever other
    // threads there are.
    let thread = unsafe { SingleThread::unproven() };
    let prepared = spawn::prepare(&program, filter, &thread)?;
    let child = prepared.pid();
    Ok((child, prepared.execute().unwrap()))
}

fn exit_code(child: Pid) -> i32 {
    match nix::sys::wait::waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        status => panic!("{status:?}"),
    }
}

/// The ways to map ids that this user has.
fn ways() -> Vec<Ids> {
    let one = |uid, gid| Ids::One { uid, gid };
    let mut ways = vec![one(0, 0), one(999, 998)];
    if nix::unistd::getuid().is_root() {
        ways.push(Ids::Identity);
    }
    ways
}

#[test]
fn a_program_sees_its_layers_and_nothing_else_of_the_machine() {
    for ids in ways() {
        let image = Image::new();
        let script = "
            exec 2>/out/errors
            echo $$ >/out/pid; pwd >/out/pwd; hostname >/out/hostname; id -u >/out/uid
            ls / >/out/root; ls /etc /kept >/out/files; cat /etc/both >/out/both
            echo changed >/etc/both; touch /etc/new
            ls /dev >/out/devices; echo lost >/dev/null; cat </dev/zero | test -n x
            ls -d /proc/[0-9]* >/out/processes
        ";
        assert_eq!(image.run(&image.spec(ids.clone()), script).unwrap(), 0, "{ids:?}");
        assert_eq!(image.said("pid"), "1");
        assert_eq!(image.said("pwd"), "/work/here");
        assert_eq!(image.said("hostname"), "web");
        let uid = match ids {
            Ids::One { uid, .. } => uid,
            _ => 0,
        };
        assert_eq!(image.said("uid"), uid.to_string());
        assert_eq!(image.said("root"), "bin\ndev\netc\nkept\nout\nproc\nsys\nwork");
        assert_eq!(image.said("files"), "/etc:\nboth\nnew\n\n/kept:".replace("new\n", ""));
        assert_eq!(image.said("both"), "upper");
        assert!(image.said("processes").starts_with("/proc/1"));
        assert_eq!(image.said("errors"), "");
        let devices = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero";
        assert_eq!(image.said("devices"), devices);
        // The layers are as before, and the changes are where they are kept.
        assert_eq!(std::fs::read_to_string(image.path("upper/etc/both")).unwrap(), "upper");
        assert_eq!(
            std::fs::read_to_string(image.path("changes/upper/etc/both")).unwrap(),
            "changed\n"
        );
        assert_eq!(image.run(&image.spec(ids), "cat /etc/both >/out/both").unwrap(), 0);
        assert_eq!(image.said("both"), "changed");
    }
}

#[test]
fn a_root_that_cannot_be_made_says_at_which_step() {
    let image = Image::new();
    let mut spec = image.spec(ways()[0].clone());
    spec.mounts[0].source = MountSource::Bind("/no/such/place".into());
    match image.run(&spec, "true") {
        Err(SpawnError::Root { step, errno }) => {
            assert_eq!(
                (step.as_str(), errno),
                ("taking /no/such/place of the machine", Errno::ENOENT)
            );
        }
        other => panic!("{other:?}"),
    }
    spec.layers.clear();
    assert!(matches!(Root::plan(&spec, Path::new("/")), Err(PlanError::NoLayers)));
}

/// A symbolic link of an image leads to a file of the image, and no magic link leads to what
/// another process has open.
#[test]
fn a_mount_stays_in_the_root() {
    let image = Image::new();
    let outside = image.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(&outside, image.path("lower/data")).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd", image.path("lower/magic")).unwrap();
    let mut spec = image.spec(ways()[0].clone());
    let target = |target: &str| Mount {
        target: target.into(),
        source: MountSource::Tmpfs {
            bytes: Some(1 << 20),
            mode: 0o700,
        },
        read_only: false,
    };
    spec.mounts.push(target("/data/inner"));
    match image.run(&spec, "true") {
        Err(SpawnError::Root { step, errno }) => {
            assert_eq!((step.as_str(), errno), ("mounting at /data/inner", Errno::ENOENT));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    spec.mounts.pop();
    spec.mounts.push(target("/magic/3"));
    assert!(image.run(&spec, "true").is_err());
}

/// setns(2): a program beside another has the same files and processes, and ends alone.
#[test]
fn a_program_joins_the_root_of_another() {
    for ids in ways() {
        let image = Image::new();
        let spec = image.spec(ids);
        let root = Root::plan(&spec, Path::new("/")).unwrap();
        let first = "echo 1 >/etc/new; exec cat /out/gate >/out/told";
        let gate = image.path("out/gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let (child, listener) = start(Place::Root(&root), first).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| notification::let_all_through(&listener));
            // It waits for a writer once the first has opened the gate.
            let mut gate = std::fs::File::options().write(true).open(&gate).unwrap();
            let process = imsup_linux::pidfd::open_process(child.as_raw()).unwrap();
            let join = Join::new(process.as_fd(), &spec, Path::new("/etc")).unwrap();
            let script =
                "cat new >/out/new; hostname >/out/hostname; ls -d /proc/1 >/out/first; echo $$ >/out/pid; exit 7";
            let (beside, other) = start(Place::Beside(&join), script).unwrap();
            notification::let_all_through(&other);
            assert_eq!(exit_code(beside), 7);
            gate.write_all(b"told").unwrap();
        });
        assert_eq!(exit_code(child), 0);
        let said = ["new", "hostname", "first", "told"].map(|name| image.said(name));
        assert_eq!(said, ["1", "web", "/proc/1", "told"]);
        assert_ne!(image.said("pid"), "1");
    }
}

/// Each attempt of a hostile program, and the errors by which it may be refused. The errors are of
/// capabilities(7), of the read-only mounts, and of what is not in sight.
#[test]
fn a_hostile_program_is_refused_everything_of_the_machine() {
    let refused = |attempt: &str, errors: &str, text: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(attempt));
        let said = line.unwrap_or_else(|| panic!("{attempt} was not tried:\n{text}"));
        let error = said.split_once(' ').unwrap().1;
        errors
            .split(' ')
            .any(|expected| expected == error)
            .then_some(())
            .ok_or(said.to_owned())
    };
    let guest = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guests/escape-musl");
    for ids in ways() {
        let image = Image::new();
        std::fs::copy(&guest, image.path("lower/bin/escape")).expect("escape-musl is missing: run 'make guests'");
        image.write("secret", "of the machine");
        let script = format!(
            "exec escape {} {} >/out/said 2>&1",
            image.path("secret").display(),
            std::process::id()
        );
        assert_eq!(image.run(&image.spec(ids.clone()), &script).unwrap(), 0);
        let said = image.said("said");
        let attempts = [
            ("mknod", "EPERM"),
            ("mount", "EPERM"),
            ("remount", "EPERM"),
            ("umount", "EPERM"),
            ("unshare", "EPERM"),
            ("setns", "EPERM"),
            ("reboot", "EPERM"),
            ("init_module", "EPERM ENOSYS"),
            ("sethostname", "EPERM"),
            ("/proc/sysrq-trigger", "EROFS EACCES ENOENT"),
            ("/proc/sys/kernel/core_pattern", "EROFS EACCES"),
            ("/proc/irq/default_smp_affinity", "EROFS EACCES"),
            ("/sys/kernel/uevent_helper", "EROFS EACCES ENOENT"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "EROFS EACCES ENOENT"),
            ("/sys/fs/cgroup/cgroup.procs", "EROFS EACCES ENOENT"),
            ("kcore", "ENODEV EACCES ENOENT"),
            ("file", "ENOENT"),
            ("open_by_handle_at", "EPERM"),
            ("kill", "ESRCH"),
            ("ptrace", "ESRCH"),
            ("raw", "EPERM"),
            ("packet", "EPERM"),
            ("chroot", "ENOENT EPERM"),
        ];
        let allowed: Vec<String> = attempts
            .iter()
            .filter_map(|(attempt, errors)| refused(attempt, errors, &said).err())
            .collect();
        assert_eq!(allowed, Vec::<String>::new(), "{ids:?}");
        assert_eq!(said.lines().count(), attempts.len());
    }
}

/// Work of our own in a root sees the image's files, and changes them.
#[test]
fn work_is_done_in_a_root() {
    for ids in ways() {
        let image = Image::new();
        let root = Root::plan(&image.spec(ids), Path::new("/")).unwrap();
        // SAFETY: the work makes system calls, and allocates nothing.
        let thread = unsafe { SingleThread::unproven() };
        let work = || match rustix::fs::rename(c"/etc/both", c"/out/both") {
            Err(rustix::io::Errno::XDEV) => i32::from(rustix::fs::unlink(c"/etc/both").is_err()),
            _ => 2,
        };
        assert_eq!(spawn::work_in(&root, &thread, work).unwrap(), 0);
        assert_eq!(
            image.run(&image.spec(ways()[0].clone()), "test -e /etc/both").unwrap(),
            1
        );
    }
}
