//! The workspace as the rules see it: its packages by `cargo metadata`, its Rust files parsed.

use proc_macro2::TokenStream;
use serde_json::Value;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Workspace {
    pub packages: Vec<Package>,
    pub files: Vec<SourceFile>,
}

pub struct Package {
    pub name: String,
    pub dependencies: Vec<Dependency>,
    /// The crate roots whose code reaches users: libraries, programs, build scripts, examples.
    pub roots: Vec<PathBuf>,
}

pub struct Dependency {
    pub name: String,
    pub is_for_tests: bool,
}

pub struct SourceFile {
    /// The path below the root of the workspace.
    pub path: PathBuf,
    /// The package whose directory the file is in, if any.
    pub package: Option<String>,
    /// True for a file of the package's `src` directory and for its build script.
    pub is_source: bool,
    pub text: String,
}

impl Workspace {
    /// Reads this repository.
    pub fn read() -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
        let root = PathBuf::from(string(&metadata["workspace_root"]));
        let mut packages = Vec::new();
        let mut directories = Vec::new();
        for package in array(&metadata["packages"]) {
            let below_root = |path: &Value| {
                let path = Path::new(string(path));
                path.strip_prefix(&root).expect("members are below the root").to_owned()
            };
            let manifest = below_root(&package["manifest_path"]);
            let directory = manifest.parent().expect("a file has a parent").to_owned();
            directories.push((directory, string(&package["name"]).to_owned()));
            packages.push(Package {
                name: string(&package["name"]).to_owned(),
                dependencies: array(&package["dependencies"])
                    .iter()
                    .map(|dependency| Dependency {
                        name: string(&dependency["name"]).to_owned(),
                        is_for_tests: dependency["kind"] == "dev",
                    })
                    .collect(),
                roots: array(&package["targets"])
                    .iter()
                    .filter(|target| !array(&target["kind"]).contains(&"test".into()))
                    .map(|target| below_root(&target["src_path"]))
                    .collect(),
            });
        }
        // A package inside another one's directory is the owner of its files.
        directories.sort_by_key(|(directory, _)| std::cmp::Reverse(directory.components().count()));
        let mut paths = Vec::new();
        rust_files(&root, &mut paths);
        paths.sort();
        let files = paths
            .into_iter()
            .map(|path| {
                let text = fs::read_to_string(&path).expect("sources are readable UTF-8");
                let path = path.strip_prefix(&root).expect("found there").to_owned();
                SourceFile::new(path, text, &directories)
            })
            .collect();
        Self { packages, files }
    }
}

impl SourceFile {
    /// A file that belongs to the first of these directories (with their packages) that contains
    /// it.
    pub fn new(path: PathBuf, text: String, directories: &[(PathBuf, String)]) -> Self {
        let owner = directories
            .iter()
            .find_map(|(directory, name)| Some((path.strip_prefix(directory).ok()?, name)));
        let is_source = owner.is_some_and(|(inner, _)| inner.starts_with("src") || inner == Path::new("build.rs"));
        let package = owner.map(|(_, name)| name.clone());
        Self {
            path,
            package,
            is_source,
            text,
        }
    }

    pub fn syntax(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| self.fail(&error))
    }

    /// The tokens: comments are gone, strings are one token each.
    pub fn tokens(&self) -> TokenStream {
        self.text.parse().unwrap_or_else(|error| self.fail(&error))
    }

    fn fail(&self, error: &dyn std::fmt::Display) -> ! {
        panic!("{}: {error}", self.path.display())
    }
}

/// All Rust files below a directory, except what builds have made.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the repository is readable") {
        let entry = entry.expect("the repository is readable");
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type().expect("the kind is known");
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && !hidden && name != "target" {
            rust_files(&path, found);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn string(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a string here")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("cargo metadata has an array here")
}
