//! The images that services name, for `imsup pull`.

use super::error::Fault;
use super::read::{Path, map, text};
use super::tree::Node;

/// A service's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImage {
    /// The service.
    pub service: String,
    /// The image's name, as the file has it.
    pub image: String,
    /// `platform`.
    pub platform: Option<String>,
    /// `pull_policy`.
    pub pull_policy: Option<String>,
    /// Whether the service also says how the image is built.
    pub is_built: bool,
}

/// The images of all services that are not `disabled`, in the order of the file.
pub(super) fn of_file(file: &Node, disabled: impl Fn(&str) -> bool) -> Result<Vec<ServiceImage>, Fault> {
    let path = Path::Root.key("services");
    let services = file.get("services").map(|node| map(node, &path)).transpose()?;
    let mut images = Vec::new();
    for (name, entry) in services.into_iter().flat_map(|services| services.iter()) {
        let path = path.key(name);
        let value = |key: &str| {
            let node = entry.node.get(key);
            let value = node.map(|node| text(node, &path.key(key)));
            value.transpose().map(|value| value.map(str::to_owned))
        };
        let Some(image) = value("image")?.filter(|_| !disabled(name)) else {
            continue;
        };
        images.push(ServiceImage {
            service: name.to_string(),
            image,
            platform: value("platform")?,
            pull_policy: value("pull_policy")?,
            is_built: entry.node.get("build").is_some(),
        });
    }
    Ok(images)
}
