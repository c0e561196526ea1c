//! Which compose file is meant when none is named.

use std::path::{Path, PathBuf};

use super::DEFAULT_NAMES;
use super::error::ComposeError;

/// The compose file of `start_dir`: a file with a default name there, or in the nearest directory
/// above with a compose file.
///
/// # Errors
/// [`ComposeError::NotFound`] if there is none.
pub fn find(start_dir: &Path) -> Result<PathBuf, ComposeError> {
    start_dir
        .ancestors()
        .flat_map(|directory| DEFAULT_NAMES.iter().map(move |name| directory.join(name)))
        .find(|file| file.is_file())
        .ok_or_else(|| ComposeError::NotFound {
            directory: start_dir.to_owned(),
        })
}

/// The file beside a compose file found by [`find`] that overrides it, if any:
/// `compose.override.yaml` and similar names. Files named by the user are not overridden.
pub fn find_override(file: &Path) -> Option<PathBuf> {
    let stem = file.file_stem()?.to_str()?;
    ["yaml", "yml"]
        .iter()
        .map(|extension| file.with_file_name(format!("{stem}.override.{extension}")))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_with_the_preferred_name_wins() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.path().join("compose.yaml"), "").unwrap();
        assert_eq!(find(&deep).unwrap(), root.path().join("compose.yaml"));
        std::fs::write(root.path().join("a/docker-compose.yml"), "").unwrap();
        assert_eq!(find(&deep).unwrap(), root.path().join("a/docker-compose.yml"));
        std::fs::write(root.path().join("a/compose.yml"), "").unwrap();
        assert_eq!(find(&deep).unwrap(), root.path().join("a/compose.yml"));
    }

    #[test]
    fn the_override_beside_it_has_its_stem() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("docker-compose.yml");
        std::fs::write(root.path().join("compose.override.yml"), "").unwrap();
        assert_eq!(find_override(&file), None, "another stem");
        std::fs::write(root.path().join("docker-compose.override.yaml"), "").unwrap();
        assert_eq!(
            find_override(&file),
            Some(root.path().join("docker-compose.override.yaml"))
        );
    }
}
