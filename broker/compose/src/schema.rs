//! Walks a file along the table of keys, and names keys without effect.

use super::command::has_image;
use super::error::{Notice, WarningKind};
use super::keys::{FILE, How, Key, Shape, find, nearest};
use super::problem::did_you_mean;
use super::read::Path;
use super::tree::{Location, Map, Node, Value};

/// Names the keys of the merged file that are unknown or not honoured, in the order of the file.
/// Services for which `skip` says so are passed over.
pub(super) fn warnings(file: &Node, skip: &dyn Fn(&str) -> bool) -> Vec<Notice> {
    let mut walk = Walk {
        skip,
        in_root: false,
        notices: Vec::new(),
    };
    if let Value::Map(map) = &file.value {
        walk.keys(map, FILE, &Path::Root);
        walk.networks(map);
    }
    walk.notices
}

struct Walk<'a> {
    skip: &'a dyn Fn(&str) -> bool,
    /// Whether the service at hand has an image.
    in_root: bool,
    notices: Vec<Notice>,
}

impl Walk<'_> {
    fn keys(&mut self, map: &Map, known: &'static [Key], path: &Path<'_>) {
        for (name, entry) in map.iter() {
            if name.starts_with("x-") {
                continue;
            }
            let path = path.key(name);
            let Some(key) = find(known, name) else {
                let suggestion = nearest(name, known.iter().map(|key| key.name));
                let message = format!("unknown key{}", did_you_mean(suggestion));
                self.warn(WarningKind::UnknownKey, entry.key_at, &path, message);
                continue;
            };
            match key.how {
                How::InRoot(_) if self.in_root => self.inside(&entry.node, key.shape, &path),
                How::Not(why) | How::InRoot(why) if !asks_nothing(&entry.node, key) => {
                    self.warn(
                        WarningKind::NotHonoured,
                        entry.key_at,
                        &path,
                        format!("not honoured: {why}"),
                    );
                }
                How::Not(_) | How::InRoot(_) => {}
                How::Honoured | How::Silent => self.inside(&entry.node, key.shape, &path),
            }
        }
    }

    fn inside(&mut self, node: &Node, shape: Shape, path: &Path<'_>) {
        match (shape.long(), &node.value) {
            (Shape::Keys(known), Value::Map(map)) => self.keys(map, known, path),
            (Shape::Named(inner), Value::Map(map)) => {
                let is_services = path.keys::<1>() == Some(["services"]);
                for (name, entry) in map.iter() {
                    if is_services {
                        self.in_root = has_image(&entry.node);
                    }
                    if !(is_services && (self.skip)(name)) {
                        self.inside(&entry.node, *inner, &path.key(name));
                    }
                }
            }
            (Shape::Items(inner), Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.inside(item, *inner, &path.item(index));
                }
            }
            _ => {}
        }
    }

    /// Networks that are told apart in order to keep hosts apart do not.
    fn networks(&mut self, file: &Map) {
        let Some(entry) = file.get("networks") else { return };
        let Value::Map(networks) = &entry.node.value else {
            return;
        };
        if networks.keys().filter(|name| !name.starts_with("x-")).count() > 1 {
            self.warn(
                WarningKind::NotHonoured,
                entry.key_at,
                &Path::Root.key("networks"),
                "not honoured as a separation: hosts of all networks reach each other".to_owned(),
            );
        }
    }

    fn warn(&mut self, kind: WarningKind, at: Location, path: &Path<'_>, message: String) {
        self.notices.push(Notice {
            kind,
            at,
            path: path.to_string(),
            message,
        });
    }
}

/// True if the value requests only the present behaviour: `privileged: false`, `volumes: []`.
fn asks_nothing(node: &Node, key: &Key) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Text(text) => key.harmless.contains(&&**text),
        Value::List(items) => items.is_empty(),
        Value::Map(map) => map.is_empty(),
    }
}
