//! The compose language as docker compose reads it: small files, each with docker compose's own
//! answer. What differs is listed, with the reason, in `deviations.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imsup_compose::{self as compose, Document, LoadOptions, Loaded};
use serde::Deserialize;
use serde_json::Value;

/// A file with docker compose's answer, which is what it shows, or why it refuses.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    /// True if docker compose had to find the files by itself.
    default_files: bool,
    docker: Option<Value>,
    docker_refuses: Option<String>,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/compose")
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(testdata().join("cases.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The reasons of cases that differ on purpose: lines of `"case" = "reason"`.
fn deviations() -> BTreeMap<String, String> {
    let text = fs::read_to_string(testdata().join("deviations.toml")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (case, reason) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let unquote =
            |text: &str| serde_json::from_str::<String>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (unquote(case), unquote(reason))
    };
    lines.map(pair).collect()
}

impl Case {
    /// Writes the files below `root`, and gives their directory.
    fn write(&self, root: &Path) -> PathBuf {
        let directory = root.join("project");
        fs::create_dir(&directory).unwrap();
        for (name, text) in &self.files {
            fs::write(directory.join(name), text).unwrap();
        }
        directory
    }

    fn options(&self, directory: &Path) -> LoadOptions {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut profiles = Vec::new();
        if !self.default_files {
            files.push("compose.yaml".into());
        }
        let mut arguments = self.args.iter();
        while let Some(option) = arguments.next() {
            let value = arguments.next().unwrap();
            match option.as_str() {
                "-f" => files.push(value.into()),
                "--profile" => profiles.push(value.clone()),
                other => panic!("{other}"),
            }
        }
        LoadOptions {
            files,
            profiles,
            directory: directory.to_owned(),
            environment: self.env.clone(),
            ..LoadOptions::default()
        }
    }

    fn resolve(&self, directory: &Path) -> Result<(Loaded, Document), String> {
        let resolved = compose::resolve(&self.options(directory), &mut Vec::new());
        resolved.map_err(|error| error.to_string())
    }

    /// How imsup's answer differs; `None` if it does not.
    fn difference(&self) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let directory = self.write(root.path());
        let resolved = self.resolve(&directory);
        match (&self.docker, &self.docker_refuses, resolved) {
            (Some(expected), _, Ok((_, document))) => {
                let place = |text: String| text.replace(directory.to_str().unwrap(), "@dir@");
                let shown = place(document.json());
                let expected = expected.to_string().replace("@project@", "project");
                let (shown, expected): (Value, Value) = (
                    serde_json::from_str(&shown).unwrap(),
                    serde_json::from_str(&expected).unwrap(),
                );
                (shown != expected).then(|| format!("imsup shows  {shown}\n  docker shows {expected}"))
            }
            (Some(_), _, Err(error)) => Some(format!("imsup refuses: {error}")),
            (None, Some(why), Ok((_, document))) => {
                let shown: Value = serde_json::from_str(&document.json()).unwrap();
                Some(format!("docker refuses: {why}\n  imsup shows {shown}"))
            }
            (None, _, Err(_)) => None,
            (None, None, Ok(_)) => panic!("{}: the case has no answer", self.name),
        }
    }
}

#[test]
fn files_are_read_as_docker_compose_reads_them() {
    let (cases, deviations) = (cases(), deviations());
    let mut failures = Vec::new();
    let mut agreeing = 0;
    for case in &cases {
        let deviates = deviations.contains_key(&case.name);
        match case.difference() {
            None if deviates => failures.push(format!("{}: agrees by now: take it out of the deviations", case.name)),
            None => agreeing += 1,
            Some(_) if deviates => {}
            Some(difference) => failures.push(format!("{}: {difference}", case.name)),
        }
    }
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    failures.extend(
        deviations
            .keys()
            .filter(|name| !names.contains(name.as_str()))
            .map(|name| format!("{name}: no such case")),
    );
    println!(
        "{agreeing} of {} cases agree, {} deviate on purpose",
        cases.len(),
        deviations.len()
    );
    assert!(
        failures.is_empty(),
        "{} cases differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What imsup shows can be loaded again, as YAML and as JSON, and is the same cluster.
#[test]
fn what_is_shown_is_read_back() {
    for case in cases() {
        let root = tempfile::tempdir().unwrap();
        let directory = case.write(root.path());
        let Ok((loaded, document)) = case.resolve(&directory) else {
            continue;
        };
        for (name, shown) in [("shown.yaml", document.yaml()), ("shown.json", document.json())] {
            fs::write(directory.join(name), &shown).unwrap();
            let options = LoadOptions {
                files: vec![name.into()],
                ..case.options(&directory)
            };
            let (again, document_again) = compose::resolve(&options, &mut Vec::new())
                .unwrap_or_else(|error| panic!("{}: {error}\n{shown}", case.name));
            assert_eq!(again.cluster, loaded.cluster, "{}: {shown}", case.name);
            assert_eq!(document_again.value(), document.value(), "{}: {shown}", case.name);
        }
    }
}

/// Every deviation is told to users.
#[test]
fn deviations_are_documented() {
    let document = fs::read_to_string(testdata().join("../../docs/compose.md")).unwrap();
    let document = document.split_whitespace().collect::<Vec<_>>().join(" ");
    for (case, reason) in deviations() {
        assert!(
            document.contains(&reason),
            "docs/compose.md lacks the reason of '{case}': {reason}"
        );
    }
}
