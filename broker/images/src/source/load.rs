//! `imsup load`: images from a directory, an archive, or a stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::docker::DockerArchive;
use super::files::{Directory, Files};
use super::layout::{Layout, Named};
use super::{Source, SourceError};
use crate::add::{AddError, add};
use crate::decompress::{decompress, is_compressed};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Index, ManifestError};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::{Reference, ReferenceError};
use crate::store::{Addition, Store, StoreError};
use crate::tar::TarError;

/// An image that is in the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name.
    pub name: Reference,
    /// The digest that the name stands for.
    pub digest: Digest,
}

/// Images that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// One of the images.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The archive is none.
    #[error("{}: {source}", .path.display())]
    Archive {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: TarError,
    },
    /// Files, but of no image.
    #[error("{} is neither an OCI layout nor an archive of 'docker save' or 'podman save'", .0.display())]
    NoImages(PathBuf),
    /// A name of the source that is none.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// Images without names, of which only one could have the name of the file.
    #[error("{} has {count} images without a name; load them one by one, each with a name", .path.display())]
    Unnamed {
        /// Where.
        path: PathBuf,
        /// How many.
        count: usize,
    },
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        Self::Add(error.into())
    }
}

impl From<SourceError> for LoadError {
    fn from(error: SourceError) -> Self {
        Self::Add(error.into())
    }
}

impl From<ManifestError> for LoadError {
    fn from(error: ManifestError) -> Self {
        StoreError::from(error).into()
    }
}

/// Loads the images of an OCI layout's directory, or of an archive. An image without a name gets
/// `name`, or that of the file or directory.
///
/// # Errors
/// See [`LoadError`].
pub fn load_path(
    store: &Store,
    path: &Path,
    name: Option<&Reference>,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>, LoadError> {
    let unreadable = |source| SourceError::File {
        path: path.to_owned(),
        source,
    };
    let addition = store.add()?;
    let loader = Loader {
        addition: &addition,
        name,
        stem: stem(path),
        platform,
        progress,
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if found.is_dir() {
        return loader.files(Directory(path.to_owned()));
    }
    let file = File::open(path).map_err(unreadable)?;
    if !found.is_file() || is_compressed(&file).map_err(unreadable)? {
        return loader.stream(file, path);
    }
    loader.archive(file, path)
}

/// Loads the images of an archive from a stream, such as standard input.
///
/// # Errors
/// See [`LoadError`].
pub fn load_stream(
    store: &Store,
    stream: impl Read + Send,
    name: Option<&Reference>,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>, LoadError> {
    let addition = store.add()?;
    let loader = Loader {
        addition: &addition,
        name,
        stem: None,
        platform,
        progress,
    };
    loader.stream(stream, Path::new("standard input"))
}

/// `busybox` of `/tmp/busybox.tar.gz`, as far as it can be an image's name.
fn stem(path: &Path) -> Option<String> {
    let name = path.canonicalize().ok()?.file_name()?.to_str()?.to_lowercase();
    let endings = [".gz", ".zst", ".tgz", ".tar", ".oci"];
    let stem = endings
        .iter()
        .fold(name.as_str(), |name, ending| name.strip_suffix(ending).unwrap_or(name));
    stem.parse::<Reference>().ok().map(|_| stem.to_owned())
}

struct Loader<'a> {
    addition: &'a Addition,
    name: Option<&'a Reference>,
    stem: Option<String>,
    platform: &'a Platform,
    progress: &'a dyn Progress,
}

impl Loader<'_> {
    /// Keeps a stream as a file for as long as it is loaded: its index may come last.
    fn stream(&self, stream: impl Read + Send, place: &Path) -> Result<Vec<Loaded>, LoadError> {
        let (_temporary, mut file) = self.addition.temporary_file()?;
        let copied = decompress(stream).and_then(|mut archive| io::copy(&mut archive, &mut file));
        copied.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull => {
                LoadError::from(StoreError::DiskFull(self.addition.store().path().to_owned()))
            }
            _ => SourceError::File {
                path: place.to_owned(),
                source,
            }
            .into(),
        })?;
        self.archive(file, place)
    }

    fn archive(&self, file: File, place: &Path) -> Result<Vec<Loaded>, LoadError> {
        let archive = Archive::open(file, place).map_err(|source| LoadError::Archive {
            path: place.to_owned(),
            source,
        })?;
        self.files(archive)
    }

    fn files(&self, files: impl Files) -> Result<Vec<Loaded>, LoadError> {
        let place = files.place().to_owned();
        let unreadable = |source| SourceError::File {
            path: place.clone(),
            source,
        };
        if Layout::is_one(&files).map_err(unreadable)? {
            let layout = Layout(files);
            return self.layout(&layout, &place, layout.images()?);
        }
        match DockerArchive::open(files)? {
            Ok(archive) => {
                let images = archive.images().iter();
                let images = images.map(|(names, descriptor)| Ok((names.as_slice(), descriptor.clone())));
                let images: Result<Vec<_>, LoadError> = images.collect();
                self.images(&archive, &place, images?)
            }
            Err(_) => Err(LoadError::NoImages(place)),
        }
    }

    /// The variants of a name are one image, of which the platform's is chosen.
    fn layout(&self, source: &dyn Source, place: &Path, listed: Vec<Named>) -> Result<Vec<Loaded>, LoadError> {
        let mut names: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for (name, descriptor) in listed {
            names.entry(name).or_default().push(descriptor);
        }
        // Beside images with names, one without is an attestation or is left over.
        if names.len() > 1 {
            names.remove(&None);
        }
        let mut images = Vec::new();
        for (name, variants) in &names {
            let chosen = match &variants[..] {
                [only] => only.clone(),
                several => Index::new(several.to_vec()).choose(self.platform)?.clone(),
            };
            images.push((name.as_slice(), chosen));
        }
        self.images(source, place, images)
    }

    fn images(
        &self,
        source: &dyn Source,
        place: &Path,
        images: Vec<(&[String], Descriptor)>,
    ) -> Result<Vec<Loaded>, LoadError> {
        let unnamed = images.iter().filter(|(names, _)| names.is_empty()).count();
        if images.is_empty() {
            return Err(LoadError::NoImages(place.to_owned()));
        }
        if unnamed > 1 || (unnamed == 1 && self.name.is_none() && self.stem.is_none()) {
            return Err(LoadError::Unnamed {
                path: place.to_owned(),
                count: unnamed,
            });
        }
        let mut loaded = Vec::new();
        for (names, descriptor) in images {
            let names = self.names(names)?;
            add(self.addition, source, &descriptor, &names, self.platform, self.progress)?;
            let digest = descriptor.digest;
            loaded.extend(names.into_iter().map(|name| Loaded { name, digest }));
        }
        Ok(loaded)
    }

    fn names(&self, names: &[String]) -> Result<Vec<Reference>, ReferenceError> {
        let stem = || self.stem.as_deref().unwrap_or_default();
        match (names, self.name) {
            ([], Some(name)) => Ok(vec![name.clone()]),
            ([], None) => Ok(vec![stem().parse()?]),
            // A tag alone belongs to the name that the directory has.
            ([tag], Some(name)) if is_tag(tag) => Ok(vec![name.clone()]),
            ([tag], None) if is_tag(tag) && self.stem.is_some() => Ok(vec![format!("{}:{tag}", stem()).parse()?]),
            (names, _) => names.iter().map(|name| name.parse()).collect(),
        }
    }
}

fn is_tag(name: &str) -> bool {
    !name.contains(['/', ':', '@'])
}
