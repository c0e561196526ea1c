use std::fs;
use std::time::Duration;

use imsup_compose::cluster::ContainerMount;
use imsup_wire::root::HostPath;

use super::*;
use crate::testing::{container, host};

/// An ordinary user's.
const ONE: Ids = Ids::One { uid: 0, gid: 0 };

struct Completed {
    host: HostSpec,
    missing: Vec<u16>,
}

impl Completed {
    fn root(&self) -> &RootSpec {
        self.host.program.root.as_deref().unwrap()
    }

    fn targets(&self) -> Vec<String> {
        let targets = self.root().mounts.iter();
        targets
            .map(|mount| mount.target.as_ref().display().to_string())
            .collect()
    }
}

/// The host `web` after its image has been found.
fn completed(change: impl FnOnce(&mut HostSpec, &mut Container), config: &ImageConfig, ids: &Ids) -> Completed {
    let mut host = host("web");
    host.program.command.clear();
    host.program.working_dir = PathBuf::new();
    let mut container = container("app");
    change(&mut host, &mut container);
    host.container = Some(Box::new(container));
    let paths = Paths::new("shop", 0, |_| None, |_| true);
    let image = Unpacked {
        config,
        layers: &["/images/low".into(), "/images/high".into()],
    };
    let missing = complete(&mut host, image, ids, &paths, &mut Volumes::default()).unwrap();
    Completed { host, missing }
}

fn config() -> ImageConfig {
    ImageConfig {
        cmd: vec!["serve".to_owned()],
        env: vec![
            ("A".to_owned(), "image".to_owned()),
            ("B".to_owned(), "image".to_owned()),
        ],
        working_dir: Some("/srv".into()),
        user: Some("7:8".to_owned()),
        exposed_ports: vec![(80, Transport::Tcp), (8080, Transport::Tcp)],
        volumes: vec!["/data".into()],
        stop_signal: Some("SIGQUIT".to_owned()),
        ..ImageConfig::default()
    }
}

#[test]
fn the_file_is_over_the_image() {
    let Completed { host, .. } = completed(
        |host, container| {
            host.program.environment.insert("A".to_owned(), "file".to_owned());
            host.program.user = Some("1".to_owned());
            host.expose.push((Transport::Tcp, 80));
            container.working_dir = Some("sub".to_owned());
        },
        &config(),
        &Ids::Identity,
    );
    let program = &host.program;
    assert_eq!(program.command_text(), ["serve"]);
    assert_eq!(
        (&*program.environment["A"], &*program.environment["B"]),
        ("file", "image")
    );
    assert_eq!(program.working_dir, Path::new("/srv/sub"));
    assert_eq!(program.user.as_deref(), Some("1"));
    assert_eq!(program.stop_signal, 3);
    assert_eq!(host.expose, [(Transport::Tcp, 80), (Transport::Tcp, 8080)]);
}

#[test]
fn the_files_health_check_is_over_the_images_value_by_value() {
    let seconds = |count| Some(Duration::from_secs(count));
    let of_image = Healthcheck {
        test: vec!["CMD".to_owned(), "ready".to_owned()],
        interval: seconds(7),
        retries: Some(9),
        ..Healthcheck::default()
    };
    let of_file = |test: &[&str]| HealthCheck {
        test: test.iter().map(|word| (*word).to_owned()).collect(),
        interval: seconds(1),
        ..HealthCheck::default()
    };
    assert_eq!(health(None, None), None);
    let own = health(Some(of_file(&["CMD-SHELL", "true"])), Some(&of_image)).unwrap();
    assert_eq!(own.command().unwrap(), ["/bin/sh", "-c", "true"]);
    assert_eq!((own.interval, own.retries), (seconds(1), Some(9)));
    let images = health(Some(of_file(&[])), Some(&of_image)).unwrap();
    assert_eq!(
        (images.command().unwrap(), images.interval),
        (vec!["ready".to_owned()], seconds(1))
    );
    assert_eq!(
        health(Some(of_file(&["NONE"])), Some(&of_image)).unwrap().command(),
        None
    );
}

#[test]
fn an_ordinary_user_has_the_programs_id_and_no_low_port() {
    let found = completed(|_, _| {}, &config(), &ONE);
    assert_eq!(found.root().ids, Ids::One { uid: 7, gid: 8 });
    let low = (!rustix::process::geteuid().is_root()).then_some(80);
    assert_eq!(found.missing, Vec::from_iter(low));
    assert!(found.host.expose.contains(&(Transport::Tcp, 8080)));
    assert_eq!(
        completed(|_, _| {}, &config(), &Ids::Identity).root().ids,
        Ids::Identity
    );
}

#[test]
fn sysctls_are_set_by_roots_user_0_only() {
    let set = |user: &str, ids: &Ids| {
        let change = |_: &mut HostSpec, container: &mut Container| {
            container.sysctls.push(("kernel.msgmax".to_owned(), "8192".to_owned()));
        };
        let config = ImageConfig {
            user: Some(user.to_owned()),
            ..config()
        };
        completed(change, &config, ids).root().sysctls.len()
    };
    assert_eq!((set("7", &ONE), set("0", &ONE), set("7", &Ids::Identity)), (0, 1, 1));
}

#[test]
fn a_program_that_becomes_another_user_has_the_id_of_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    rustix::fs::setxattr(
        &data,
        imsup_wire::root::OWNER_MARK,
        b"999:998",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let config = ImageConfig { user: None, ..config() };
    let layers = [directory.path().to_owned()];
    assert_eq!(one_id(None, &config, &layers), Ok(Ids::One { uid: 999, gid: 998 }));
    let without = ImageConfig {
        volumes: Vec::new(),
        ..config
    };
    assert_eq!(one_id(None, &without, &layers), Ok(Ids::One { uid: 0, gid: 0 }));
}

#[test]
fn volumes_of_the_image_are_there_unless_the_file_mounts_something_at_their_place() {
    let found = completed(|_, _| {}, &config(), &Ids::Identity);
    assert_eq!(found.targets().last().unwrap(), "/data");
    let bind = ContainerMount {
        target: "/data".into(),
        source: ContainerSource::Bind {
            path: "/machine".into(),
            make: true,
        },
        read_only: true,
    };
    let found = completed(|_, container| container.mounts.push(bind), &config(), &Ids::Identity);
    let data: Vec<_> = { found.root().mounts.iter() }
        .filter(|mount| mount.target == HostPath::from("/data"))
        .collect();
    assert_eq!(data.len(), 1);
    assert_eq!(data[0].source, MountSource::Bind("/machine".into()));
    assert!(data[0].read_only);
}

#[test]
fn what_an_image_cannot_say_is_refused() {
    let error = |config: ImageConfig| {
        let mut host = host("web");
        host.container = Some(Box::new(container("app")));
        let paths = Paths::new("shop", 0, |_| None, |_| true);
        let image = Unpacked {
            config: &config,
            layers: &[],
        };
        complete(&mut host, image, &ONE, &paths, &mut Volumes::default())
            .unwrap_err()
            .to_string()
    };
    let none = ImageConfig::default();
    assert!(error(none).contains("neither ENTRYPOINT nor CMD"));
    let signal = ImageConfig {
        stop_signal: Some("SIGWRONG".to_owned()),
        ..config()
    };
    assert!(error(signal).contains("'SIGWRONG'"));
    let user = ImageConfig {
        user: Some("nobody-here".to_owned()),
        ..config()
    };
    assert!(error(user).contains("nobody-here"));
}

#[test]
fn volumes_are_made_and_what_has_to_be_there_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = |need: &dyn Fn(&mut Volumes)| {
        let mut volumes = Volumes::default();
        need(&mut volumes);
        volumes.meet_needs()
    };
    made(&|volumes| volumes.bind(at("bind"), true)).unwrap();
    made(&|volumes| volumes.named(at("named"), "named", false)).unwrap();
    made(&|volumes| volumes.content(at("content/0"), "secret".to_owned(), 0o400)).unwrap();
    assert!(at("bind").is_dir() && at("named").is_dir());
    assert_eq!(fs::read_to_string(at("content/0")).unwrap(), "secret");
    let missing = made(&|volumes| volumes.bind(at("missing"), false))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("does not exist"), "{missing}");
    let external = made(&|volumes| volumes.named(at("other"), "other", true))
        .unwrap_err()
        .to_string();
    assert!(external.contains("mkdir -p"), "{external}");
}
