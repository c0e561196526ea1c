//! The image of the containers: empty mount points for the machine's programs. So the program in a
//! container is the very program that runs natively and as a host.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::api::Api;
use crate::command;
use crate::context::{Context, repository};

/// Its name.
pub const NAME: &str = "imsup-bench:1";

/// The directories of programs and their libraries.
const DIRECTORIES: [&str; 3] = ["/usr", "/lib", "/lib64"];

/// Debian's JDK has its configuration there, and links to it.
fn java_configuration() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/etc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("java-"))
        .map(|entry| entry.path())
        .collect()
}

/// Has the daemon make the image, and returns the mounts for it.
pub fn import(context: &Context, api: &mut Api) -> Result<Vec<String>> {
    let root = tempfile::tempdir_in(context.sandbox.directory()).context("making the image's directory")?;
    let root = root.path();
    // nginx, started by root, asks for these names.
    std::fs::create_dir_all(root.join("etc"))?;
    command::write_file(
        &root.join("etc/passwd"),
        "root:x:0:0::/:\nnobody:x:65534:65534::/:\nwww-data:x:33:33::/:\n",
    )?;
    command::write_file(&root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n")?;
    let scratch = context.sandbox.scratch()?;
    std::fs::create_dir_all(root.join(scratch.strip_prefix("/").context("a relative directory")?))?;
    let shared = context.sandbox.shared()?;
    let (guests, tests) = (context.guests.clone(), repository().join("testdata"));
    let java = java_configuration();
    let mut mounted = vec![context.this.as_path(), shared.as_path(), &guests, &tests];
    mounted.extend(java.iter().map(PathBuf::as_path));
    for directory in DIRECTORIES {
        let path = Path::new(directory);
        // On a machine with a merged /usr, the others are links into it.
        match std::fs::read_link(path) {
            Ok(target) => {
                symlink(&target, root.join(directory.trim_start_matches('/')))
                    .with_context(|| format!("making the image's {directory}"))?;
            }
            Err(_) if path.is_dir() => mounted.push(path),
            Err(_) => {}
        }
    }
    let archive = context.sandbox.directory().join("image.tar");
    command::output(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root)
            .arg("."),
    )?;
    let archive = std::fs::read(&archive).context("reading the image")?;
    let (repository, tag) = NAME.split_once(':').context("an image without a tag")?;
    api.upload(
        &format!("/images/create?fromSrc=-&repo={repository}&tag={tag}"),
        &archive,
    )?;
    Ok(mounted
        .into_iter()
        .map(|path| format!("{0}:{0}:ro", path.display()))
        .collect())
}
