//! Limits of hosts (`mem_limit`, `cpus`, `pids_limit`, `deploy.resources.limits`): a check that the
//! limits hold here, with a single warning when a project comes up.

use anyhow::{Result, anyhow};
use imsup_compose::cluster::{Cluster, HostSpec};
use imsup_linux::delegation::{self, Lack};
use imsup_linux::limits::Controller;

use super::failure::hinted;

/// Prepares this process, the future broker, for its hosts' limits; `warn` is called with the
/// limits that do not hold.
///
/// # Errors
/// Errors of `warn`; if strict, a limit that does not hold.
pub fn prepare(cluster: &Cluster, strict: bool, mut warn: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut wanted: Vec<Controller> = cluster
        .hosts
        .iter()
        .flat_map(|host| Controller::of(&host.program.limits))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(());
    }
    let lacking = delegation::prepare(&cluster.project, &wanted);
    let lines: Vec<String> = lacking
        .iter()
        .map(|(controller, lack)| sentence(&cluster.hosts, *controller, lack))
        .collect();
    if strict && !lines.is_empty() {
        return Err(hinted(anyhow!("{}", lines.join("\n")), fix(&lacking)));
    }
    for line in lines {
        warn(&format!("{line}; {}", fix(&lacking)))?;
    }
    Ok(())
}

/// The limit that does not hold, the hosts, and the reason.
fn sentence(hosts: &[HostSpec], controller: Controller, lack: &Lack) -> String {
    const NAMED: usize = 5;
    let of_it: Vec<&str> = hosts
        .iter()
        .filter(|host| Controller::of(&host.program.limits).contains(&controller))
        .map(|host| host.name.as_str())
        .collect();
    let (older, key) = match controller {
        Controller::Memory => ("mem_limit", "memory"),
        Controller::Cpu => ("cpus", "cpus"),
        Controller::Pids => ("pids_limit", "pids"),
    };
    let mut names = of_it[..of_it.len().min(NAMED)].join(", ");
    if of_it.len() > NAMED {
        names += &format!(" and {} more", of_it.len() - NAMED);
    }
    format!(
        "'{older}' (deploy.resources.limits.{key}) of {names} does not hold: the cgroup controller '{controller}' cannot be used: {lack}"
    )
}

/// The remedy that would make the limits hold.
fn fix(lacking: &[(Controller, Lack)]) -> &'static str {
    let is_unified = |lack: &Lack| matches!(lack, Lack::NotDelegated(_) | Lack::Shared { .. });
    if lacking.iter().any(|(_, lack)| matches!(lack, Lack::NoPidfdGetfd)) {
        return "allow pidfd_getfd(2): in a container by its seccomp profile, or with CAP_SYS_PTRACE";
    }
    let is_root = nix::unistd::geteuid().is_root();
    match (is_root, lacking.iter().any(|(_, lack)| is_unified(lack))) {
        (true, true) => "start it in a cgroup of its own: systemd-run --scope -p Delegate=yes imsup up",
        (true, false) => "that needs a writable /sys/fs/cgroup with this controller",
        (false, true) => "start it in a cgroup of its own: systemd-run --user --scope -p Delegate=yes imsup up",
        (false, false) => {
            "start it as root, or in a cgroup of its own where systemd gives one: systemd-run --user --scope -p Delegate=yes imsup up"
        }
    }
}

#[cfg(test)]
mod tests {
    use imsup_compose::LoadOptions;

    use super::*;

    #[test]
    fn the_key_the_hosts_and_the_way_out_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("compose.yaml");
        std::fs::write(
            &file,
            "services: {web: {command: a, mem_limit: 64m}, db: {command: b, cpus: 1}}",
        )
        .unwrap();
        let options = LoadOptions {
            files: vec![file],
            ..LoadOptions::default()
        };
        let hosts = imsup_compose::load(&options).unwrap().cluster.hosts;
        let lack = Lack::NotWritable("/sys/fs/cgroup/memory".into());
        assert_eq!(
            sentence(&hosts, Controller::Memory, &lack),
            "'mem_limit' (deploy.resources.limits.memory) of web does not hold: the cgroup controller 'memory' cannot be used: \
             /sys/fs/cgroup/memory is not writable"
        );
        assert!(fix(&[(Controller::Memory, lack)]).contains("root") || nix::unistd::geteuid().is_root());
        assert!(fix(&[(Controller::Cpu, Lack::NotDelegated("/".into()))]).contains("Delegate=yes"));
    }
}
