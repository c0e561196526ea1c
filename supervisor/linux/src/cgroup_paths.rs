//! The paths of a process's cgroups, and the names of imsup's own: cgroups(7),
//! proc_pid_mountinfo(5). Text in, paths out.
//!
//! | name | what |
//! |---|---|
//! | `imsup.PROJECT.HOST` | a host's cgroup, below that of its supervisor |
//! | `imsup.PROJECT` | the leaf of a project's broker and supervisors, where cgroup v2 is delegated; hosts are beside it |

use std::path::{Path, PathBuf};

/// The controllers that hold limits, in both versions.
pub const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The name of a host's cgroup. A supervisor without a host's name uses its process number instead.
pub fn of_host(project: &str, host: &str) -> String {
    format!("imsup.{project}.{host}")
}

/// The name of the leaf of a project's broker and supervisors: a cgroup that gives controllers to
/// its children has no processes (cgroup-v2.rst, "No Internal Process Constraint").
pub fn leaf(project: &str) -> String {
    format!("imsup.{project}")
}

/// The parent of hosts' cgroups for a supervisor in `directory`: beside a [`leaf`], below any other
/// cgroup. No project has a dot in its name.
pub fn base(directory: &Path) -> &Path {
    let name = directory.file_name().and_then(|name| name.to_str());
    let project = name.and_then(|name| name.strip_prefix("imsup."));
    match (project, directory.parent()) {
        (Some(project), Some(parent)) if !project.contains('.') => parent,
        _ => directory,
    }
}

/// The directories of a process's cgroup of version 2, in every mount, by its /proc/PID/cgroup and
/// our mountinfo.
pub fn unified(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    own.map_or_else(Vec::new, |own| {
        mounted(own, mountinfo, |system| system.starts_with("cgroup2 "))
    })
}

/// The same of the hierarchy of version 1 that has this controller.
pub fn of_controller(controller: &str, cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let own = cgroup.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, own) = line.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(own)
    });
    // The last field has the file system's own options, with its controllers.
    let has_it = |system: &str| {
        system.starts_with("cgroup ")
            && system
                .rsplit(' ')
                .next()
                .is_some_and(|options| options.split(',').any(|option| option == controller))
    };
    own.map_or_else(Vec::new, |own| mounted(own, mountinfo, has_it))
}

/// The visible paths of a cgroup: each mount may show only the part below a root.
fn mounted(own: &str, mountinfo: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let place = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        is_wanted(file_system).then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(&point).join(below))
    };
    mountinfo.lines().filter_map(place).collect()
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes in mountinfo.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 24 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw
34 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 31 0:29 /user.slice /mnt rw - cgroup2 none rw
";
    const OWN: &str = "4:memory:/a\n1:cpu,cpuacct:/\n9:name=systemd:/\n0::/user.slice/x\n";

    #[test]
    fn a_cgroup_is_found_below_every_mount() {
        let found = [Path::new("/sys/fs/cgroup/uni fied/user.slice/x"), Path::new("/mnt/x")];
        assert_eq!(unified(OWN, HYBRID), found);
        assert!(unified("4:memory:/a\n", HYBRID).is_empty(), "cgroup v1 only");
        assert!(unified(OWN, "").is_empty());
    }

    #[test]
    fn a_mount_of_a_part_shows_what_is_below_it() {
        let part = "33 31 0:29 /user.slice /sys/fs/cgroup rw - cgroup2 none rw\n";
        assert_eq!(unified("0::/user.slice/x\n", part), [Path::new("/sys/fs/cgroup/x")]);
        assert!(unified("0::/system.slice\n", part).is_empty());
        // In a container: the root of the mount is outside of the cgroup namespace.
        assert!(unified("0::/\n", "33 31 0:29 /../x /sys/fs/cgroup rw - cgroup2 none rw\n").is_empty());
    }

    #[test]
    fn a_controller_of_version_1_is_found_in_its_hierarchy() {
        let of = |controller| of_controller(controller, OWN, HYBRID);
        assert_eq!(of("memory"), [Path::new("/sys/fs/cgroup/memory/a")]);
        assert_eq!(of("cpu"), [Path::new("/sys/fs/cgroup/cpu,cpuacct")]);
        assert!(of("pids").is_empty());
        assert!(of_controller("memory", "0::/\n", HYBRID).is_empty());
    }

    #[test]
    fn hosts_are_beside_a_leaf_and_below_anything_else() {
        for (directory, expected) in [
            ("/sys/fs/cgroup/x.scope/imsup.shop", "/sys/fs/cgroup/x.scope"),
            (
                "/sys/fs/cgroup/x.scope/imsup.shop.web",
                "/sys/fs/cgroup/x.scope/imsup.shop.web",
            ),
            ("/sys/fs/cgroup/imsup", "/sys/fs/cgroup/imsup"),
            ("/", "/"),
        ] {
            assert_eq!(base(Path::new(directory)), Path::new(expected));
        }
        assert_eq!(of_host("shop", "web"), format!("{}.web", leaf("shop")));
    }
}
