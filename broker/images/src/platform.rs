//! Platforms: which of an image's variants runs here.

use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, as images name them: `linux/arm64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux` for all that imsup runs.
    pub os: String,
    /// The processor by Go's name: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// The version of the processor, if it matters: `v7`.
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no platform: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, for example linux/amd64")]
pub struct PlatformError(String);

impl Platform {
    /// A platform in the usual words: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`,
    /// `arm` is `arm/v7` (as containerd's platforms package has it).
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (os, architecture) = (os.to_lowercase(), architecture.to_lowercase());
        let variant = variant.map(str::to_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant.filter(|variant| *variant != "v1")),
            ("aarch64" | "arm64", variant) => ("arm64", variant.filter(|variant| !matches!(*variant, "8" | "v8"))),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("i386" | "x86", _) => ("386", None),
            (other, variant) => (other, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// The platform of this machine.
    pub fn of_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// How well a variant of an image fits a request for `self`: the higher the better, `None` if
    /// it does not run there. An ARM of version 7 also runs the programs of versions 6 and 5.
    pub fn fit(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(u8::MAX);
        }
        let version = |platform: &Self| {
            let variant = platform.variant.as_deref();
            variant.and_then(|variant| variant.strip_prefix('v')?.parse::<u8>().ok())
        };
        match (self.architecture.as_str(), version(self), version(offered)) {
            ("arm", Some(wanted), Some(offered)) => (offered < wanted).then_some(offered),
            // Later versions of the processor run whatever earlier ones run.
            ("amd64" | "arm64", Some(_), None) => Some(0),
            ("amd64" | "arm64", Some(wanted), Some(offered)) => (offered < wanted).then_some(offered),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_word = |word: &&str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.len() <= 32 && word.chars().all(fits)
        };
        let words: Vec<&str> = text.split('/').collect();
        if !words.iter().all(is_word) {
            return Err(PlatformError(text.to_owned()));
        }
        match words[..] {
            ["linux"] => Ok(Self::of_machine()),
            // Docker takes a processor alone for one of Linux.
            [architecture] => Ok(Self::new("linux", architecture, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_has_one_spelling() {
        for (text, usual) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AArch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("linux/ppc64le", "linux/ppc64le"),
        ] {
            assert_eq!(platform(text).to_string(), usual, "{text}");
        }
        for text in ["", "linux/", "/amd64", "linux/amd64/v2/x", "linux/am d64", "../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_older_processors_variant_fits_less_well() {
        let fit = |wanted: &str, offered: &str| platform(wanted).fit(&platform(offered));
        assert!(fit("linux/arm/v7", "linux/arm/v7") > fit("linux/arm/v7", "linux/arm/v6"));
        assert!(fit("linux/arm/v7", "linux/arm/v6") > fit("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(fit("linux/arm/v6", "linux/arm/v7"), None);
        assert!(fit("linux/amd64/v3", "linux/amd64").is_some());
        for other in ["windows/amd64", "linux/arm64", "linux/amd64/v2"] {
            assert_eq!(fit("linux/amd64", other), None, "{other}");
        }
    }
}
