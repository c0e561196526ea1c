//! The tables of compose's keys: what each key holds, and what imsup does with it.

mod file;
mod service;

pub(super) use self::file::{FILE, INCLUDE};
pub(super) use self::service::SERVICE;

/// The treatment of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// The key has its effect.
    Honoured,
    /// The key has no effect here, or is true of every imaginary machine anyway.
    Silent,
    /// The key is not supported; the reason, or an alternative.
    Not(&'static str),
    /// The key has its effect in the root of an image; the reason why it has none elsewhere.
    InRoot(&'static str),
}

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Anything, kept as written.
    Any,
    Text,
    /// A file or directory, relative to the file's own.
    Path,
    Bool,
    Whole,
    Number,
    Bytes,
    Duration,
    /// A number, or `all`.
    Count,
    /// The permissions of a file, in octal.
    Mode,
    /// Text, or a number or boolean as text.
    Scalar,
    /// A list of text.
    Texts,
    /// A list of text and numbers.
    Words,
    /// Text, or a list of text.
    OneOrTexts,
    /// A file, or a list of files.
    OneOrPaths,
    /// A command: a list of words, or a text that is split into words.
    Command,
    /// The test of a health check.
    Test,
    /// A mapping of names to text, or a list of `NAME=VALUE`.
    Pairs,
    /// As `Pairs`, if a name without a value is a variable of the caller.
    Variables,
    /// Build contexts by name.
    Contexts,
    /// These keys.
    Keys(&'static [Key]),
    /// Names chosen by the user.
    Named(&'static Shape),
    /// A list.
    Items(&'static Shape),
    // Values with a short form, which becomes the long one.
    Build,
    DependsOn,
    Devices,
    EnvFiles,
    External,
    ExtraHosts,
    Gpus,
    Ipam,
    Logging,
    Models,
    Mounts,
    Networks,
    Ports,
    Ulimit,
    Volumes,
}

impl Shape {
    /// The shape of a value without short forms.
    pub fn long(self) -> Self {
        use service as keys;
        match self {
            Self::Build => Self::Keys(keys::BUILD),
            Self::DependsOn => Self::Named(&Self::Keys(keys::DEPENDENCY)),
            Self::Devices => Self::Items(&Self::Keys(keys::DEVICE)),
            Self::EnvFiles => Self::Items(&Self::Keys(keys::ENV_FILE)),
            Self::Gpus => Self::Items(&Self::Keys(keys::GPU)),
            Self::Ipam => Self::Items(&Self::Keys(file::IPAM_CONFIG)),
            Self::Logging => Self::Keys(keys::LOGGING),
            Self::Models => Self::Named(&Self::Keys(keys::MODEL)),
            Self::Mounts => Self::Items(&Self::Keys(keys::MOUNT)),
            Self::Networks => Self::Named(&Self::Keys(keys::SERVICE_NETWORK)),
            Self::Ports => Self::Items(&Self::Keys(keys::PORT)),
            Self::Volumes => Self::Items(&Self::Keys(keys::VOLUME)),
            other => other,
        }
    }
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub how: How,
    pub shape: Shape,
    /// Values of an unsupported key that request no action.
    pub harmless: &'static [&'static str],
    /// Whether `false`, 0 and an empty value differ from no value.
    pub keeps_zero: bool,
}

pub(super) const fn key(name: &'static str, how: How, shape: Shape) -> Key {
    Key {
        name,
        how,
        shape,
        harmless: &["false", "0"],
        keeps_zero: false,
    }
}

const fn honoured(name: &'static str, shape: Shape) -> Key {
    key(name, How::Honoured, shape)
}

const fn silent(name: &'static str, shape: Shape) -> Key {
    key(name, How::Silent, shape)
}

const fn not(name: &'static str, shape: Shape, why: &'static str) -> Key {
    key(name, How::Not(why), shape)
}

/// A key of a root, in which an image's program runs.
const fn in_root(name: &'static str, shape: Shape, why: &'static str) -> Key {
    key(name, How::InRoot(why), shape)
}

/// An unsupported key, unless the value is one of `harmless`.
const fn unless(name: &'static str, harmless: &'static [&'static str], shape: Shape, why: &'static str) -> Key {
    Key {
        harmless,
        ..not(name, shape, why)
    }
}

/// The same key, if zero is a value of its own.
const fn zero(key: Key) -> Key {
    Key {
        keeps_zero: true,
        ..key
    }
}

/// The key with this name.
pub(super) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// The name most similar to `name`, if any is similar.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    // Typing errors change few letters; more than a third of different letters makes another word.
    let allowed = (lower.chars().count() / 3).max(1);
    known
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice_in_a_table() {
        fn check(shape: Shape) {
            match shape.long() {
                Shape::Keys(keys) => {
                    for (index, key) in keys.iter().enumerate() {
                        let others = &keys[index + 1..];
                        assert!(others.iter().all(|other| other.name != key.name), "{}", key.name);
                        check(key.shape);
                    }
                }
                Shape::Named(inner) | Shape::Items(inner) => check(*inner),
                _ => {}
            }
        }
        check(Shape::Keys(FILE));
    }

    #[test]
    fn typing_errors_are_recognized() {
        let service = |name| nearest(name, SERVICE.iter().map(|key| key.name));
        assert_eq!(service("comand"), Some("command"));
        assert_eq!(service("Ports"), Some("ports"));
        assert_eq!(service("enviroment"), Some("environment"));
        assert_eq!(service("depend_on"), Some("depends_on"));
        assert_eq!(service("working-dir"), Some("working_dir"));
        assert_eq!(service("frobnicate"), None);
    }
}
