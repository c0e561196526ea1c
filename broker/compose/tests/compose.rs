//! Compose files as users write them: golden files, several files as one, the command line's
//! choices, hostile input.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imsup_compose::cluster::{Cluster, HostSpec, ProgramSpec, Settings};
use imsup_compose::{self as compose, ComposeError, LoadOptions, Loaded, WarningKind};
use imsup_wire::Transport;
use proptest::prelude::*;

fn testdata(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/compose")
        .join(kind)
}

/// The golden cases of a directory: every `NAME.yaml` but the second files of cases
/// (`NAME.over.yaml`).
fn cases(kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(testdata(kind)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.ends_with(".yaml") && !name.ends_with(".over.yaml")
    });
    files.sort();
    assert!(files.len() > 3, "{kind}: the golden files are gone");
    files
}

/// Options of a golden case: `# strict` and `# profiles: a b` at its top, `NAME.over.yaml` beside
/// it.
fn options_of(case: &Path) -> LoadOptions {
    let head = String::from_utf8_lossy(&fs::read(case).unwrap()).into_owned();
    let directives = || head.lines().take_while(|line| line.starts_with('#'));
    let profiles = directives().filter_map(|line| line.strip_prefix("# profiles:"));
    let name = case.file_name().unwrap();
    let over = case.with_extension("over.yaml");
    let mut files = vec![PathBuf::from(name)];
    files.extend(over.exists().then(|| PathBuf::from(over.file_name().unwrap())));
    LoadOptions {
        files,
        directory: case.parent().unwrap().canonicalize().unwrap(),
        profiles: profiles.flat_map(str::split_whitespace).map(str::to_owned).collect(),
        environment: variables(&[("HOME", "/root"), ("TAG", "7")]),
        strict: directives().any(|line| line == "# strict"),
        ..LoadOptions::default()
    }
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// A host as comments, without what is as by default.
fn describe(host: &HostSpec) -> String {
    let program = &host.program;
    let default = ProgramSpec::new(Vec::<String>::new());
    let runs = match &host.container {
        None => format!("runs {:?} in {}", program.command_text(), program.working_dir.display()),
        Some(container) => format!("runs {container:?}"),
    };
    let mut lines = vec![format!("host {}", host.name), format!("  {runs}")];
    let mut line = |is_told: bool, name: &str, value: String| {
        if is_told {
            lines.push(format!("  {name} {value}"));
        }
    };
    line(host.hostname != host.name.as_str(), "reports", host.hostname.clone());
    line(!host.aliases.is_empty(), "is also", host.aliases.join(", "));
    line(host.address.is_some(), "at", format!("{:?}", host.address));
    line(program.user.is_some(), "user", format!("{:?}", program.user));
    line(
        !program.environment.is_empty(),
        "variables",
        format!("{:?}", *program.environment),
    );
    line(!program.limits.is_empty(), "limits", format!("{:?}", program.limits));
    line(
        program.stop_signal != default.stop_signal,
        "ends by",
        program.stop_signal.to_string(),
    );
    line(
        program.stop_grace != default.stop_grace,
        "ends in",
        format!("{:?}", program.stop_grace),
    );
    line(
        program.logging != default.logging,
        "logs",
        format!("{:?}", program.logging),
    );
    line(!host.expose.is_empty(), "ports", format!("{:?}", host.expose));
    line(!host.published.is_empty(), "publishes", format!("{:?}", host.published));
    line(host.restart.is_some(), "restarts", format!("{:?}", host.restart));
    line(
        !host.dependencies.is_empty(),
        "needs",
        format!("{:?}", host.dependencies),
    );
    line(!host.labels.is_empty(), "labels", format!("{:?}", host.labels));
    line(
        host.imsup != Settings::default(),
        "settings",
        format!("{:?}", host.imsup),
    );
    lines.iter().map(|line| format!("# {line}\n")).collect()
}

/// Compares with the golden file, or writes the file if `IMSUP_BLESS` is set.
fn compare(golden: &Path, found: &str, failures: &mut Vec<String>) {
    if std::env::var_os("IMSUP_BLESS").is_some() {
        fs::write(golden, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    if expected != found {
        failures.push(format!(
            "{}\n--- expected\n{expected}\n--- found\n{found}",
            golden.display()
        ));
    }
}

#[test]
fn good_files_give_these_clusters() {
    let mut failures = Vec::new();
    for case in cases("good") {
        let options = options_of(&case);
        let resolved = compose::resolve(&options, &mut Vec::new());
        let (loaded, document) = resolved.unwrap_or_else(|error| panic!("{}: {error}", case.display()));
        let warnings: String = loaded.warnings.iter().map(|warning| format!("# {warning}\n")).collect();
        let hosts: String = loaded.cluster.hosts.iter().map(describe).collect();
        let found = format!("{warnings}{}{hosts}", document.yaml());
        let found = found.replace(options.directory.to_str().unwrap(), "/DIRECTORY");
        compare(&case.with_extension("expected"), &found, &mut failures);
        for shown in [document.yaml(), document.json()] {
            assert_eq!(reloaded(&loaded.cluster, &shown), loaded.cluster, "{}", case.display());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn bad_files_give_these_errors() {
    let mut failures = Vec::new();
    for case in cases("bad") {
        let error = match compose::load(&options_of(&case)) {
            Ok(_) => panic!("{} was taken", case.display()),
            Err(error) => error.to_string(),
        };
        let shown = error.replace(
            case.parent().unwrap().canonicalize().unwrap().to_str().unwrap(),
            "/DIRECTORY",
        );
        compare(&case.with_extension("error"), &(shown + "\n"), &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The cluster that results from loading what is shown of a cluster.
fn reloaded(cluster: &Cluster, shown: &str) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shown.yaml");
    fs::write(&file, shown).unwrap();
    let loaded = compose::load(&LoadOptions {
        files: vec![file],
        project_directory: Some(cluster.directory.clone()),
        ..LoadOptions::default()
    });
    loaded.unwrap_or_else(|error| panic!("{error}\n{shown}")).cluster
}

/// JSON that is YAML as well: YAML has not all characters unescaped.
fn ascii(value: &serde_json::Value) -> String {
    let mut units = [0; 2];
    value.to_string().chars().fold(String::new(), |mut text, c| {
        match c {
            ' '..='~' => text.push(c),
            c => c
                .encode_utf16(&mut units)
                .iter()
                .for_each(|unit| text += &format!("\\u{unit:04x}")),
        }
        text
    })
}

fn load_in(directory: &Path) -> Result<Loaded, ComposeError> {
    compose::load(&LoadOptions {
        directory: directory.to_owned(),
        ..LoadOptions::default()
    })
}

/// Loads one file's text.
fn load_text(text: &str) -> Result<Loaded, ComposeError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("compose.yaml"), text).unwrap();
    compose::load(&LoadOptions {
        directory: directory.path().to_owned(),
        project: Some("test".to_owned()),
        ..LoadOptions::default()
    })
}

fn message(text: &str) -> String {
    load_text(text).expect_err(text).to_string()
}

#[test]
fn without_a_file_the_error_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = load_in(directory.path()).unwrap_err().to_string();
    for part in [
        "compose.yaml, compose.yml, docker-compose.yaml, docker-compose.yml",
        "-f FILE",
        "services:",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");
}

#[test]
fn the_found_file_is_overridden_and_a_named_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("compose.yaml", "services: {web: {command: a, ports: [\"80\"]}}");
    write(
        "compose.override.yaml",
        "services: {web: {command: b, ports: [\"81\"]}}",
    );
    let below = directory.path().join("deep");
    fs::create_dir(&below).unwrap();
    let web = load_in(&below).unwrap().cluster.hosts.remove(0);
    assert_eq!(web.program.command, ["b"]);
    assert_eq!(web.expose, [(Transport::Tcp, 80), (Transport::Tcp, 81)]);
    assert_eq!(web.program.working_dir, directory.path());

    let named = compose::load(&LoadOptions {
        files: vec!["../compose.yaml".into()],
        directory: below,
        ..LoadOptions::default()
    });
    assert_eq!(named.unwrap().cluster.hosts[0].program.command, ["a"]);
}

#[test]
fn names_of_projects_come_from_the_nearest_choice() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("My.Shop");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("compose.yaml");
    fs::write(&file, "services: {web: {command: \"a ${COMPOSE_PROJECT_NAME}\"}}").unwrap();
    let mut options = LoadOptions {
        files: vec![file.clone()],
        ..LoadOptions::default()
    };
    let project = |options: &LoadOptions| compose::load(options).map(|loaded| loaded.cluster.project);
    let loaded = compose::load(&options).unwrap();
    assert_eq!(
        (
            loaded.cluster.project.as_str(),
            loaded.cluster.hosts[0].program.command_text()
        ),
        ("myshop", vec!["a".to_owned(), "myshop".to_owned()])
    );
    fs::write(&file, "name: \"In the ${WHERE}\"\nservices: {web: {command: a}}").unwrap();
    options.environment = variables(&[("WHERE", "file")]);
    assert_eq!(project(&options).unwrap(), "inthefile");
    fs::write(directory.join(".env"), "COMPOSE_PROJECT_NAME=dotenv\n").unwrap();
    assert_eq!(project(&options).unwrap(), "dotenv");
    options.environment = variables(&[("COMPOSE_PROJECT_NAME", "process"), ("WHERE", "file")]);
    assert_eq!(project(&options).unwrap(), "process");
    options.project = Some("option".to_owned());
    assert_eq!(project(&options).unwrap(), "option");
    options.project = Some("No Good".to_owned());
    assert!(
        project(&options)
            .unwrap_err()
            .to_string()
            .contains("for example 'nogood'")
    );
}

#[test]
fn the_name_is_known_where_services_cannot_run() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("compose.yaml"),
        "name: shop\nservices: {web: {image: nginx, environment: {A: \"${NO:?way}\"}}}",
    )
    .unwrap();
    let options = LoadOptions {
        directory: directory.path().to_owned(),
        ..LoadOptions::default()
    };
    assert!(compose::load(&options).is_err());
    assert_eq!(compose::project_of(&options).unwrap().0, "shop");
}

#[test]
fn variables_come_from_the_process_then_from_dotenv() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(".env", "A=dotenv\nB=${A}-b\n");
    write("web.env", "FROM_FILE=${A}\nOVER=file\nPASSED\nNOWHERE\n");
    write(
        "compose.yaml",
        "services:\n  web:\n    command: [x, $A, $B, '$C']\n    env_file: web.env\n    environment: {OVER: here, PASSED2: , NOWHERE2: }\n",
    );
    let loaded = compose::load(&LoadOptions {
        directory: directory.path().to_owned(),
        environment: variables(&[("A", "process"), ("PASSED", "1"), ("PASSED2", "2")]),
        ..LoadOptions::default()
    });
    let loaded = loaded.unwrap();
    let web = &loaded.cluster.hosts[0];
    assert_eq!(web.program.command, ["x", "process", "process-b", ""]);
    let expected = [
        ("FROM_FILE", "process"),
        ("OVER", "here"),
        ("PASSED", "1"),
        ("PASSED2", "2"),
    ];
    assert_eq!(*web.program.environment, variables(&expected));
    let shown = |warning: &compose::Warning| {
        warning
            .to_string()
            .replace(&format!("{}/", directory.path().display()), "")
    };
    let warnings: Vec<_> = loaded.warnings.iter().map(|w| (w.kind, shown(w))).collect();
    let expected = "compose.yaml:3: services.web.command[3]: the variable C is not set, and was taken as empty";
    assert_eq!(warnings, [(WarningKind::UnsetVariable, expected.to_owned())]);

    write(".env", "A=1\nB C=2\n");
    assert!(
        load_in(directory.path())
            .unwrap_err()
            .to_string()
            .contains(".env:2: 'B C' cannot be")
    );
}

#[test]
fn profiles_choose_services() {
    let text = "services:\n  a: {command: a}\n  b: {command: b, profiles: [dev]}\n  c: {image: c, profiles: [never]}\n";
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("compose.yaml"), text).unwrap();
    let names = |profiles: &[&str], environment| {
        let loaded = compose::load(&LoadOptions {
            directory: directory.path().to_owned(),
            profiles: profiles.iter().map(|name| name.to_string()).collect(),
            environment,
            ..LoadOptions::default()
        });
        let hosts = loaded.map(|loaded| loaded.cluster.hosts);
        hosts.map(|hosts| hosts.into_iter().map(|host| host.name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(names(&[], BTreeMap::new()).unwrap(), ["a"]);
    assert_eq!(names(&["dev"], BTreeMap::new()).unwrap(), ["a", "b"]);
    assert_eq!(
        names(&[], variables(&[("COMPOSE_PROFILES", "x, dev")])).unwrap(),
        ["a", "b"]
    );
    assert_eq!(names(&["*"], BTreeMap::new()).unwrap(), ["a", "b", "c"]);
}

#[test]
fn replicas_are_hosts_of_their_own() {
    let text = "services:\n  web: {command: a, deploy: {replicas: 3}, ports: [\"8000-8004:80\", \"90\"]}\n  none: {command: a, scale: 0}\n";
    let hosts = load_text(text).unwrap().cluster.hosts;
    let shown: Vec<_> = hosts
        .iter()
        .map(|host| {
            let ports: Vec<_> = host.published.iter().map(|publish| publish.machine_port).collect();
            (
                host.name.as_str(),
                host.hostname.as_str(),
                host.aliases.join(" "),
                ports,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("web-1", "web-1", "web".to_owned(), vec![Some(8000), None]),
            ("web-2", "web-2", "web".to_owned(), vec![Some(8001), None]),
            ("web-3", "web-3", "web".to_owned(), vec![Some(8002), None]),
        ]
    );
}

#[test]
fn strict_makes_errors_of_what_has_no_effect_but_not_of_images() {
    let load = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("compose.yaml"), text).unwrap();
        compose::load(&LoadOptions {
            directory: directory.path().to_owned(),
            project: Some("test".to_owned()),
            strict: true,
            ..LoadOptions::default()
        })
    };
    assert!(load("services: {a: {command: a, image: b, privileged: false, volumes: []}}").is_ok());
    for (body, part) in [
        ("comand: b", "services.a.comand: unknown key; did you mean 'command'?"),
        ("volumes: [/b]", "services.a.volumes: not honoured"),
    ] {
        let error = load(&format!("services: {{a: {{command: a, {body}}}}}")).unwrap_err();
        assert!(matches!(&error, ComposeError::Strict(all) if all.len() == 1), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn hostile_files_fail_cleanly() {
    let mut bomb = String::from("x-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..20 {
        bomb += &format!(
            "x-{level}: &a{level} [{}]\n",
            vec![format!("*a{}", level - 1); 9].join(", ")
        );
    }
    assert!(message(&bomb).contains("expand to more than 64 MiB"));
    for text in [
        "[".repeat(1_000_000),
        "{a: ".repeat(1_000_000),
        "- ".repeat(1_000_000),
        "a: ".repeat(100_000),
    ] {
        assert!(message(&text).contains("malformed YAML"));
    }
    let doubling: String = (1..64).map(|n| format!("V{n}=$V{}$V{}\n", n - 1, n - 1)).collect();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("compose.yaml"), "services: {a: {command: a}}").unwrap();
    fs::write(directory.path().join(".env"), "V0=xxxxxxxx\n".to_owned() + &doubling).unwrap();
    assert!(
        load_in(directory.path())
            .unwrap_err()
            .to_string()
            .contains("longer than 1 MiB")
    );
    let control = message("services: {a: {command: a, restart: \"\\e[31mred\"}}");
    assert!(!control.contains('\u{1b}'), "{control:?}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let load = |file: &str| {
        compose::load(&LoadOptions {
            files: vec![file.into()],
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        })
        .unwrap_err()
    };
    assert!(
        load("gone.yaml")
            .to_string()
            .starts_with("gone.yaml: cannot be read: No such file")
    );
    assert!(matches!(load("."), ComposeError::Read { .. }));
    fs::write(directory.path().join("binary.yaml"), b"a: b\n\xff\xfe\n").unwrap();
    assert!(matches!(load("binary.yaml"), ComposeError::NotText { line: 2, .. }));
    assert!(matches!(load("/dev/zero"), ComposeError::TooLarge { .. }));
}

#[test]
fn ten_thousand_services_load() {
    let mut text =
        String::from("x-app: &app {environment: {A: 1}, stop_signal: INT, x-imsup: {idle_after: never}}\nservices:\n");
    for number in 0..10_000 {
        text += &format!(
            "  s{number}:\n    <<: *app\n    command: [a, \"{number}\"]\n    expose: [80]\n    depends_on: [first]\n"
        );
    }
    text += "  first: {command: first}\n";
    let cluster = load_text(&text).unwrap().cluster;
    assert_eq!(cluster.hosts.len(), 10_001);
    let last = &cluster.hosts[9_999];
    assert_eq!(
        (last.name.as_str(), last.program.stop_signal, last.imsup.idle_after),
        ("s9999", 2, None)
    );
    let pinned = message(&format!("x-imsup: {{subnet: 127.77.3.0/24}}\n{text}"));
    assert!(pinned.contains("x-imsup.subnet: there are 10001 hosts"), "{pinned}");
}

#[test]
fn defaults_are_these() {
    let host = load_text("services: {web: {command: a}}")
        .unwrap()
        .cluster
        .hosts
        .remove(0);
    assert_eq!(
        (host.program.stop_signal, host.program.stop_grace),
        (15, Duration::from_secs(10))
    );
    assert_eq!(host.restart, None);
    assert_eq!(host.imsup, Settings::default());
    assert_eq!((host.hostname.as_str(), &*host.aliases), ("web", &[][..]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// All words, variables and labels of a cluster, YAML's own syntax and `$` included, survive
    /// rendering.
    #[test]
    fn what_is_shown_loads_as_it_was(
        words in prop::collection::vec("[^\0]{0,12}", 1..4),
        special in prop::sample::select(vec!["no", "~", "null", "1.0", "0x1f", "- a", "a: b", "#", "&a", "*a", "!x", "|", ">", "{", "[", "%", "@", "`", "'", "\"", "\\", " a ", "a\n", "\n\na", "\t", "${X}", "$", "<<", "=", "2001-01-01", "é", "\u{85}", "\u{2028}", "\u{feff}", "\r\n"]),
        value in "[^\0]{0,20}",
    ) {
        let words: Vec<String> = std::iter::once("x".to_owned()).chain(words).chain([special.to_owned()]).collect();
        let escape = |text: &str| text.replace('$', "$$");
        let command: Vec<String> = words.iter().map(|word| escape(word)).collect();
        let file = serde_json::json!({"services": {"web": {
            "command": command,
            "environment": {"A": escape(&value), "B": escape(special)},
            "labels": {"a b": escape(&value), special: escape(special)},
            "ports": ["127.0.0.1:1:2/udp"],
        }}});
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("compose.yaml"), ascii(&file)).unwrap();
        let options = LoadOptions {
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        };
        let (loaded, document) = compose::resolve(&options, &mut Vec::new()).unwrap();
        let program = &loaded.cluster.hosts[0].program;
        prop_assert_eq!(program.command_text(), words);
        prop_assert_eq!(&*program.environment, &variables(&[("A", &value), ("B", special)]));
        prop_assert_eq!(&loaded.cluster.hosts[0].labels, &variables(&[("a b", &value), (special, special)]));
        for shown in [document.yaml(), document.json()] {
            prop_assert_eq!(&reloaded(&loaded.cluster, &shown), &loaded.cluster);
        }
    }

    /// Files with plausible errors, and worse: never a panic, and messages on separate lines.
    #[test]
    fn damaged_files_are_clusters_or_errors(
        case in prop::sample::select(cases("good")),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..8usize, "[-a-z0-9 \n:\"'{}\\[\\],&*!|>%@$#~\t]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = fs::read_to_string(case).unwrap().chars().collect();
        for (place, removed, added) in edits {
            let start = place.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
            prop_assume!(!text.is_empty());
        }
        if let Err(error) = load_text(&text.into_iter().collect::<String>()) {
            prop_assert!(!error.to_string().contains(|c: char| c.is_control() && c != '\n'));
        }
    }

    #[test]
    fn any_text_is_a_cluster_or_an_error(text in "[ -~\n]*") {
        let _ = load_text(&text);
    }
}

#[test]
fn an_environment_file_that_nobody_would_ever_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("web.env");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file = directory.path().join("compose.yaml");
    fs::write(&file, "services: { web: { command: nginx, env_file: web.env } }").unwrap();
    let options = LoadOptions {
        files: vec![file],
        directory: directory.path().to_owned(),
        ..LoadOptions::default()
    };
    let error = compose::load(&options).unwrap_err().to_string();
    assert!(error.contains("web.env") && error.contains("FIFO"), "{error}");
}
