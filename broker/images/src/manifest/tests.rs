use serde_json::{Value, json};

use super::*;

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content.as_bytes()), "size": content.len()})
}

fn manifest(layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": descriptor(media_type::CONFIG, "config"),
        "layers": [descriptor(layer, "layer")],
    })
}

fn parse(document: &Value) -> Result<Document, ManifestError> {
    Document::parse(document.to_string().as_bytes())
}

fn refusal(document: &Value) -> String {
    parse(document).unwrap_err().to_string()
}

fn on(platform: &str, content: &str) -> Value {
    let mut descriptor = descriptor(media_type::MANIFEST, content);
    let words: Vec<&str> = platform.split('/').collect();
    descriptor["platform"] = json!({"os": words[0], "architecture": words[1]});
    if let Some(variant) = words.get(2) {
        descriptor["platform"]["variant"] = json!(variant);
    }
    descriptor
}

fn index(manifests: &[Value]) -> Index {
    let document = json!({"schemaVersion": 2, "manifests": manifests});
    match parse(&document).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index was read as a manifest"),
    }
}

#[test]
fn manifests_of_oci_and_docker_are_read() {
    for layer in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
    ] {
        let Document::Manifest(read) = parse(&manifest(layer)).unwrap() else {
            panic!("a manifest was read as an index");
        };
        assert_eq!(read.layers[0].digest, Digest::of(b"layer"));
    }
    let mut docker = manifest("application/vnd.docker.image.rootfs.diff.tar.gzip");
    docker["mediaType"] = json!(media_type::DOCKER_MANIFEST);
    docker["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    docker["config"]["annotations"] = json!(null);
    parse(&docker).unwrap();
    docker.as_object_mut().unwrap().remove("mediaType");
    parse(&docker).unwrap();
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let tar = media_type::LAYER;
    let mut chart = manifest(tar);
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    assert!(refusal(&chart).contains("helm"), "{}", refusal(&chart));
    let mut both = manifest(tar);
    both["manifests"] = json!([]);
    assert!(refusal(&both).contains("both"));
    assert!(refusal(&json!({"schemaVersion": 1, "fsLayers": []})).contains("schema 1"));
    assert!(refusal(&manifest(&format!("{tar}+encrypted"))).contains("cannot unpack"));
    assert!(refusal(&manifest(FOREIGN[1])).contains("Windows"));
    let mut many = manifest(tar);
    many["layers"] = vec![descriptor(tar, "layer"); MOST_LAYERS + 1].into();
    assert!(refusal(&many).contains("501 layers"));
    let mut path = manifest(tar);
    path["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
    assert!(refusal(&path).contains("64 digits"));
    assert!(refusal(&json!({"schemaVersion": 2})).contains("no image"));
    assert!(
        Document::parse(b"<html>")
            .unwrap_err()
            .to_string()
            .contains("no manifest")
    );
    let long = vec![b' '; MOST_DOCUMENT_BYTES as usize + 1];
    assert!(matches!(Document::parse(&long), Err(ManifestError::TooLong(_))));
}

#[test]
fn the_platforms_own_manifest_is_chosen() {
    let index = index(&[
        on("unknown/unknown", "attestation"),
        on("linux/arm64/v8", "arm64"),
        on("linux/arm/v6", "v6"),
        on("linux/arm/v7", "v7"),
        on("linux/amd64", "amd64"),
    ]);
    for (platform, content) in [
        ("linux/amd64", "amd64"),
        ("linux/arm64", "arm64"),
        ("linux/arm/v7", "v7"),
    ] {
        let chosen = index.choose(&platform.parse().unwrap()).unwrap();
        assert_eq!(chosen.digest, Digest::of(content.as_bytes()), "{platform}");
    }
    let error = index.choose(&"linux/s390x".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(
        error,
        "it has no variant for linux/s390x; it has linux/arm64, linux/arm/v6, linux/arm/v7, linux/amd64"
    );
}

#[test]
fn a_manifest_without_a_platform_is_the_last_resort() {
    let plain = descriptor(media_type::MANIFEST, "plain");
    let amd64 = "linux/amd64".parse().unwrap();
    let both = index(&[plain.clone(), on("linux/amd64", "amd64")]);
    assert_eq!(both.choose(&amd64).unwrap().digest, Digest::of(b"amd64"));
    let one = index(&[plain]);
    assert_eq!(one.choose(&amd64).unwrap().digest, Digest::of(b"plain"));
    let attestation = index(&[on("unknown/unknown", "attestation")]);
    let error = attestation.choose(&amd64).unwrap_err().to_string();
    assert!(error.ends_with("it has none"), "{error}");
}

#[test]
fn what_is_written_is_read_back() {
    let config = Descriptor::new(media_type::CONFIG, Digest::of(b"config"), 6);
    let layer = Descriptor::new(media_type::LAYER, Digest::of(b"layer"), 5);
    let written = Manifest::new(config, vec![layer.clone()]);
    let text = serde_json::to_vec(&written).unwrap();
    assert_eq!(Document::parse(&text).unwrap(), Document::Manifest(written));
    let written = Index::new(vec![layer.for_platform(&Platform::of_machine())]);
    let text = serde_json::to_vec(&written).unwrap();
    assert_eq!(Document::parse(&text).unwrap(), Document::Index(written));
}
