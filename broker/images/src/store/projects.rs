//! Which projects use which images.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{Image, Store, StoreError, failed};
use crate::digest::Digest;

/// A project and its images: a file of `projects/`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Project {
    pub(super) project: String,
    /// The project's runtime directory, which `down` and a restart of the machine remove.
    runtime: PathBuf,
    /// The digests of the manifests of the platform.
    pub(super) images: Vec<Digest>,
}

impl Project {
    fn is_live(&self) -> bool {
        self.runtime.is_dir()
    }
}

impl Store {
    /// Notes that a project uses these images, and no others, until its runtime directory is
    /// removed. The images are kept as long.
    ///
    /// # Errors
    /// An image is not whole any more, or the store cannot be written.
    pub fn use_images(&self, project: &str, runtime: &Path, images: &[Image]) -> Result<(), StoreError> {
        let _adding = Lock::shared(&self.path.join("adding.lock"))?;
        for image in images {
            let whole = self.blob_path(image.manifest).exists() && image.layers.iter().all(|layer| layer.is_dir());
            if !whole {
                return Err(StoreError::Removed(image.name.clone()));
            }
        }
        let record = Project {
            project: project.to_owned(),
            runtime: runtime.to_owned(),
            images: images.iter().map(|image| image.manifest).collect(),
        };
        let text = serde_json::to_vec(&record).map_err(|error| failed("writing", runtime)(error.into()))?;
        self.write_file(&self.project_path(runtime), &text)
    }

    /// Projects of the same name may have several runtime directories.
    fn project_path(&self, runtime: &Path) -> PathBuf {
        let name = Digest::of(runtime.as_os_str().as_encoded_bytes()).hex();
        self.path.join("projects").join(name)
    }

    /// The projects that are up. Records of others, and damaged ones, are passed over.
    pub(super) fn live_projects(&self) -> Result<Vec<Project>, StoreError> {
        let projects = self.projects()?.into_iter();
        Ok(projects
            .filter_map(|(_, project)| project.filter(Project::is_live))
            .collect())
    }

    fn projects(&self) -> Result<Vec<(PathBuf, Option<Project>)>, StoreError> {
        let directory = self.path.join("projects");
        let entries = std::fs::read_dir(&directory).map_err(failed("reading", &directory))?;
        let read = entries.map(|entry| {
            let path = entry.map_err(failed("reading", &directory))?.path();
            let text = std::fs::read(&path).unwrap_or_default();
            Ok((path, serde_json::from_slice(&text).ok()))
        });
        read.collect()
    }

    /// Removes the records of projects that are not up any more.
    pub(super) fn forget_dead_projects(&self) -> Result<(), StoreError> {
        for (path, project) in self.projects()? {
            if !project.is_some_and(|project| project.is_live()) {
                std::fs::remove_file(&path).map_err(failed("removing", &path))?;
            }
        }
        Ok(())
    }
}
