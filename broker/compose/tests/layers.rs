//! Several files as one project: `extends`, `include`, and which files and variables are meant.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use imsup_compose::{self as compose, Document, LoadOptions};
use serde_json::{Value, json};

/// A directory with these files.
fn files(texts: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in texts {
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    directory
}

fn options(directory: &Path) -> LoadOptions {
    LoadOptions {
        directory: directory.to_owned(),
        project: Some("test".to_owned()),
        ..LoadOptions::default()
    }
}

fn resolve(options: &LoadOptions) -> Result<Document, String> {
    let resolved = compose::resolve(options, &mut Vec::new());
    resolved
        .map(|(_, document)| document)
        .map_err(|error| error.to_string())
}

/// What is shown of these files, with `@` for their directory.
fn shown(texts: &[(&str, &str)]) -> Value {
    let directory = files(texts);
    let document = resolve(&options(directory.path())).unwrap_or_else(|error| panic!("{error}"));
    let text = document.value().to_string();
    serde_json::from_str(&text.replace(directory.path().to_str().unwrap(), "@")).unwrap()
}

fn message(texts: &[(&str, &str)]) -> String {
    let directory = files(texts);
    resolve(&options(directory.path())).expect_err("refused")
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

#[test]
fn services_extend_others_also_of_other_files() {
    let found = shown(&[
        (
            "compose.yaml",
            "services:\n  web:\n    extends: {service: base, file: common/base.yaml}\n    environment: {B: web}\n    command: web\n  \
             second: {extends: web, environment: {C: second}}\n",
        ),
        (
            "common/base.yaml",
            "services:\n  base:\n    extends: {file: ../deep.yaml, service: deepest}\n    environment: {A: base, B: base}\n    \
             volumes: [\"./data:/data\"]\n    env_file: base.env\n  unused: {command: [1]}\n"
                .replace("[1]", "u")
                .leak(),
        ),
        ("common/base.env", "FROM_FILE=1\n"),
        ("deep.yaml", "services: {deepest: {expose: [80], command: deep, user: nobody}}\n"),
    ]);
    let second = &found["services"]["second"];
    assert_eq!(
        second["environment"],
        json!({"FROM_FILE": "1", "A": "base", "B": "web", "C": "second"})
    );
    assert_eq!(
        (&second["command"], &second["expose"]),
        (&json!(["web"]), &json!(["80"]))
    );
    assert_eq!(second["volumes"][0]["source"], "@/common/data");
    assert_eq!(second["user"], "nobody");
    assert_eq!(found["services"].as_object().unwrap().len(), 2);
}

#[test]
fn extends_that_leads_nowhere_is_refused() {
    let text = "services: {a: {extends: b, command: a}, b: {extends: c}, c: {extends: a}}";
    assert!(message(&[("compose.yaml", text)]).contains("extends itself: a -> b -> c -> a"));
    let text = "services: {a: {extends: bas, command: a}, base: {command: b}}";
    assert!(message(&[("compose.yaml", text)]).contains("there is no service 'bas'; did you mean 'base'?"));
    let text = "services: {a: {extends: {file: gone.yaml, service: b}}}";
    assert!(message(&[("compose.yaml", text)]).contains("gone.yaml' cannot be read"));
}

#[test]
fn included_files_have_their_own_directory_and_variables() {
    let found = shown(&[
        (
            "compose.yaml",
            "include:\n  - sub/compose.yaml\n  - {path: [other.yaml, over.yaml], env_file: other.env, project_directory: elsewhere}\n\
             services: {web: {command: \"web $V\", depends_on: [db]}}\n",
        ),
        (".env", "V=outer\n"),
        ("sub/.env", "V=inner\nW=inner\n"),
        (
            "sub/compose.yaml",
            "name: ignored\nservices: {db: {command: \"db $V $W\", volumes: [\"./d:/d\", \"data:/e\"]}}\nvolumes: {data: {}}\n",
        ),
        ("other.env", "X=1\n"),
        (
            "other.yaml",
            "services: {cache: {command: \"cache $X\", volumes: [\"./c:/c\"], user: a}}\n",
        ),
        ("over.yaml", "services: {cache: {user: b}}\n"),
    ]);
    let service = |name: &str| found["services"][name].clone();
    assert_eq!(service("web")["command"], json!(["web", "outer"]));
    assert_eq!(service("db")["command"], json!(["db", "outer", "inner"]));
    assert_eq!(service("db")["volumes"][0]["source"], "@/sub/d");
    assert_eq!(service("cache")["command"], json!(["cache", "1"]));
    assert_eq!(service("cache")["volumes"][0]["source"], "@/elsewhere/c");
    assert_eq!(service("cache")["user"], "b");
    assert_eq!(found["volumes"]["data"]["name"], "test_data");
    assert_eq!(found["name"], "test");
}

#[test]
fn includes_that_contradict_or_include_themselves_are_refused() {
    let same = "services: {a: {command: x}}";
    let both = |other: &'static str| {
        [
            ("compose.yaml", "include: [b.yaml]\nservices: {a: {command: x}}"),
            ("b.yaml", other),
        ]
    };
    let directory = files(&both(same));
    assert!(resolve(&options(directory.path())).is_ok(), "the same twice");
    assert!(message(&both("services: {a: {command: y}}")).contains("services.a: is also in the included b.yaml"));
    let circle = [
        ("compose.yaml", "include: [b.yaml]"),
        ("b.yaml", "include: [compose.yaml]"),
    ];
    assert!(message(&circle).contains("includes itself"));
}

#[test]
fn dotenv_names_files_profiles_and_the_project() {
    let directory = files(&[
        (
            ".env",
            "COMPOSE_FILE=a.yaml;b.yaml\nCOMPOSE_PATH_SEPARATOR=;\nCOMPOSE_PROFILES=p\nCOMPOSE_PROJECT_NAME=named\n",
        ),
        ("a.yaml", "services: {a: {command: a}}"),
        ("b.yaml", "services: {b: {command: b, profiles: [p]}}"),
        ("compose.yaml", "services: {c: {command: c}}"),
    ]);
    let with = |options: LoadOptions| resolve(&options).unwrap().value();
    let plain = || LoadOptions {
        project: None,
        ..options(directory.path())
    };
    let found = with(plain());
    assert_eq!(found["name"], "named");
    let names: Vec<&String> = found["services"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["a", "b"]);
    let overridden = with(LoadOptions {
        environment: variables(&[("COMPOSE_FILE", "compose.yaml")]),
        ..plain()
    });
    assert!(overridden["services"]["c"].is_object());
    let all = with(LoadOptions {
        files: vec!["b.yaml".into()],
        profiles: vec!["*".to_owned()],
        environment: variables(&[("COMPOSE_PROFILES", "")]),
        ..plain()
    });
    assert!(all["services"]["b"].is_object());
}

#[test]
fn a_directory_named_dotenv_is_no_file_of_variables() {
    let directory = files(&[("compose.yaml", "services: {a: {command: a}}"), (".env/x", "")]);
    assert!(resolve(&options(directory.path())).is_ok());
}

#[test]
fn standard_input_environment_files_and_the_directory_are_chosen() {
    let directory = files(&[
        ("one.env", "A=1\nB=1\n"),
        ("two.env", "B=2\n"),
        (".env", "A=0\nC=0\n"),
        ("deep/x", ""),
    ]);
    let text = "services: {web: {command: \"x $A $B ${C:-unset}\", volumes: [\"./d:/d\"]}}";
    let chosen = LoadOptions {
        files: vec!["-".into()],
        stdin: Some(text.as_bytes().into()),
        env_files: vec!["one.env".into(), "two.env".into()],
        project_directory: Some("deep".into()),
        ..options(directory.path())
    };
    let web = resolve(&chosen).unwrap().value()["services"]["web"].clone();
    assert_eq!(web["command"], json!(["x", "1", "2", "unset"]));
    let source = web["volumes"][0]["source"].as_str().unwrap();
    assert_eq!(Path::new(source), directory.path().join("deep/d"));
    let missing = LoadOptions {
        env_files: vec!["gone.env".into()],
        ..chosen
    };
    assert!(resolve(&missing).unwrap_err().contains("gone.env: cannot be read"));
}

#[test]
fn labels_come_from_files_as_well() {
    let found = shown(&[
        (
            "compose.yaml",
            "services: {a: {command: a, label_file: [l.txt], labels: {b: own}}}",
        ),
        ("l.txt", "a=file\nb=file\n"),
    ]);
    assert_eq!(found["services"]["a"]["labels"], json!({"a": "file", "b": "own"}));
}

#[test]
fn what_is_noticed_is_told_also_with_an_error() {
    let directory = files(&[(
        "compose.yaml",
        "services:\n  a: {image: x, tty: true, restart: sometimes}\n  b: {command: b, tty: true, volumes: [/x]}\n",
    )]);
    let mut warnings = Vec::new();
    compose::load_with(&options(directory.path()), &mut warnings).unwrap_err();
    let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("compose.yaml:2: services.a.tty: not honoured")
            || told[0].contains("/compose.yaml:2: services.a.tty"),
        "{told:?}"
    );
    assert!(told[0].ends_with("; the same: services.b.tty (line 3)"), "{told:?}");
}

#[test]
fn the_model_has_typed_values() {
    let directory = files(&[(
        "compose.yaml",
        "services:\n  a:\n    command: a\n    image: x\n    build: {context: ., args: {V: 1}}\n    volumes: [\"data:/d:ro\", \"./b:/b\", {type: tmpfs, target: /t, tmpfs: {size: 1m}}]\n    \
         secrets: [key]\n    shm_size: 64m\n    ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}\n    network_mode: service:b\n    \
         healthcheck: {test: curl x, interval: 1m30s, retries: 3}\n    extra_hosts: [\"h:1.2.3.4\"]\n    pull_policy: always\n  \
         b: {command: b, devices: [\"/dev/x\"], depends_on: []}\nvolumes: {data: {external: true}}\nsecrets: {key: {file: k}}\n",
    )]);
    let model = resolve(&options(directory.path())).unwrap().model().unwrap();
    let a = &model.services["a"];
    assert_eq!(a.shm_size, Some(64 << 20));
    assert_eq!(
        a.network_mode,
        Some(compose::model::NetworkMode::Service("b".to_owned()))
    );
    assert_eq!(a.pull_policy, Some(compose::model::PullPolicy::Always));
    assert_eq!(a.volumes.len(), 3);
    assert!(a.volumes[0].read_only && a.volumes[1].bind.create_host_path);
    assert_eq!(a.volumes[2].tmpfs.size, Some(1 << 20));
    assert_eq!(a.secrets[0].target.as_deref(), Some("/run/secrets/key"));
    assert_eq!(a.extra_hosts, [("h".to_owned(), "1.2.3.4".to_owned())]);
    assert_eq!(a.ulimits["nofile"], compose::model::Ulimit::Both(10));
    let health = a.healthcheck.as_ref().unwrap();
    assert_eq!(
        (health.interval.map(|time| time.as_secs()), health.retries),
        (Some(90), Some(3))
    );
    assert!(a.depends_on["b"].restart);
    assert!(model.volumes["data"].external && model.volumes["data"].name == "data");
    assert_eq!(model.services["b"].devices[0].permissions, "rwm");
}
