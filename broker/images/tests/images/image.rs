//! Images for tests, as OCI layouts and as archives of `docker save`.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use imsup_images::digest::Digest;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::archive::Layer;

/// How layers are compressed.
#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Content by its digest, and what an index says of it.
pub struct Blob {
    pub content: Vec<u8>,
    pub descriptor: Value,
}

impl Blob {
    pub fn new(media_type: &str, content: Vec<u8>) -> Self {
        let descriptor = json!({"mediaType": media_type, "digest": Digest::of(&content), "size": content.len()});
        Self { content, descriptor }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.content)
    }
}

/// An image of one platform. The last blob is its manifest.
pub struct Image {
    pub blobs: Vec<Blob>,
    /// The layers as tar.
    pub tars: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub architecture: String,
}

impl Image {
    /// An image for this machine.
    pub fn new(config: &Value, layers: Vec<Layer>, compression: Compression) -> Self {
        let architecture = imsup_images::Platform::of_machine().architecture;
        Self::for_architecture(&architecture, config, layers, compression)
    }

    pub fn for_architecture(architecture: &str, config: &Value, layers: Vec<Layer>, compression: Compression) -> Self {
        let tars: Vec<Vec<u8>> = layers.into_iter().map(Layer::tar).collect();
        let ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = config.to_string().into_bytes();
        let mut blobs: Vec<Blob> = tars.iter().map(|tar| compressed(tar, compression)).collect();
        let layers: Vec<Value> = blobs.iter().map(|blob| blob.descriptor.clone()).collect();
        let config_blob = Blob::new("application/vnd.oci.image.config.v1+json", config.clone());
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config_blob.descriptor, "layers": layers,
        });
        blobs.push(config_blob);
        blobs.push(Blob::new(manifest_type, manifest.to_string().into_bytes()));
        Self {
            blobs,
            tars,
            config,
            architecture: architecture.to_owned(),
        }
    }

    pub fn manifest(&self) -> &Blob {
        self.blobs.last().unwrap()
    }

    pub fn digest(&self) -> Digest {
        self.manifest().digest()
    }

    /// Adds the image to an OCI layout, which is made if it does not exist.
    pub fn write(&self, directory: &Path, name: Option<&str>) {
        let mut descriptor = self.manifest().descriptor.clone();
        descriptor["platform"] = json!({"os": "linux", "architecture": self.architecture});
        write_blobs(directory, &self.blobs);
        add_to_index(directory, descriptor, name);
    }

    /// The image as `docker save` of before version 25 writes it.
    pub fn docker_archive(&self, names: &[&str]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let mut add = |path: &str, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content).unwrap();
        };
        let mut paths = Vec::new();
        for tar in &self.tars {
            let path = format!("{}/layer.tar", Digest::of(tar).hex());
            add(&path, tar);
            paths.push(path);
        }
        let config = format!("{}.json", Digest::of(&self.config).hex());
        add(&config, &self.config);
        let manifest = json!([{"Config": config, "RepoTags": names, "Layers": paths}]);
        add("manifest.json", manifest.to_string().as_bytes());
        archive.into_inner().unwrap()
    }
}

fn compressed(tar: &[u8], compression: Compression) -> Blob {
    let layer = "application/vnd.oci.image.layer.v1.tar";
    match compression {
        Compression::None => Blob::new(layer, tar.to_vec()),
        Compression::Gzip => Blob::new(&format!("{layer}+gzip"), gzip(tar)),
        Compression::Zstd => Blob::new(
            &format!("{layer}+zstd"),
            compress_to_vec(tar, CompressionLevel::Fastest),
        ),
    }
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// An index of images of several platforms.
pub fn index(images: &[&Image]) -> Blob {
    let manifests = images.iter().map(|image| {
        let mut descriptor = image.manifest().descriptor.clone();
        descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
        descriptor
    });
    let index_type = "application/vnd.oci.image.index.v1+json";
    let manifests: Vec<Value> = manifests.collect();
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests});
    Blob::new(index_type, index.to_string().into_bytes())
}

pub fn write_blobs(directory: &Path, blobs: &[Blob]) {
    let place = directory.join("blobs/sha256");
    fs::create_dir_all(&place).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for blob in blobs {
        fs::write(place.join(blob.digest().hex()), &blob.content).unwrap();
    }
}

pub fn add_to_index(directory: &Path, mut descriptor: Value, name: Option<&str>) {
    if let Some(name) = name {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let path = directory.join("index.json");
    let mut index = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap(),
        Err(_) => json!({"schemaVersion": 2, "manifests": []}),
    };
    index["manifests"].as_array_mut().unwrap().push(descriptor);
    fs::write(path, index.to_string()).unwrap();
}

/// A directory as a tar archive.
pub fn tar_of(directory: &Path) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    archive.append_dir_all(".", directory).unwrap();
    archive.into_inner().unwrap()
}
