//! What a service wants of an image: which one, for which platform, and when it is pulled. Pure but
//! for [`Wanted::find`].

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::platform::{Platform, PlatformError};
use crate::reference::{Reference, ReferenceError};
use crate::store::{Image, Store, StoreError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// When an image is asked for (`pull_policy` of compose files).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Each time.
    Always,
    /// If it is not here: first of Docker and Podman, then of its registry.
    #[default]
    Missing,
    /// If it is not here, or was pulled longer ago than this.
    Older(Duration),
    /// Never of its registry; of Docker and Podman if it is not here.
    Never,
}

/// An image, as a service wants it. As text: `NAME[,platform=PLATFORM][,pull=POLICY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image.
    pub name: Reference,
    /// The platform; this machine's if `None`.
    pub platform: Option<Platform>,
    /// When it is asked for.
    pub pull: Pull,
}

/// Where an image is asked for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Docker and Podman.
    pub daemons: bool,
    /// Its registry.
    pub registry: bool,
}

/// What the store has of a wanted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The image, which is taken as it is.
    Here(Box<Image>),
    /// None, or one that is to be asked for again.
    Elsewhere(Sources),
}

/// A text that is no [`Pull`].
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is no pull policy: it is one of always, missing, if_not_present, never, build, daily, weekly, refresh, or every_ \
     with a time, such as every_12h"
)]
pub struct PullError(String);

/// A text that is no [`Wanted`].
#[derive(Debug, thiserror::Error)]
pub enum WantedError {
    /// The name.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// The platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The policy.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// Anything else.
    #[error("'{0}' is neither platform=PLATFORM nor pull=POLICY")]
    Option(String),
}

impl Pull {
    /// Whether an image of the store is taken that was loaded or pulled so long ago.
    pub fn keeps(self, age: Duration) -> bool {
        match self {
            Self::Always => false,
            Self::Missing | Self::Never => true,
            Self::Older(limit) => age <= limit,
        }
    }

    /// Where an image is asked for that is not taken from the store.
    pub fn sources(self) -> Sources {
        Sources {
            // What Docker has may be as old as what is here.
            daemons: matches!(self, Self::Missing | Self::Never),
            registry: self != Self::Never,
        }
    }
}

impl FromStr for Pull {
    type Err = PullError;

    /// As docker compose: `refresh` alone is `missing`. What is built is in no registry.
    fn from_str(text: &str) -> Result<Self, PullError> {
        Ok(match text {
            "always" => Self::Always,
            "missing" | "if_not_present" | "refresh" => Self::Missing,
            "never" | "build" => Self::Never,
            "daily" => Self::Older(DAY),
            "weekly" => Self::Older(WEEK),
            _ => {
                let time = text.strip_prefix("every_").and_then(duration);
                Self::Older(time.ok_or_else(|| PullError(text.to_owned()))?)
            }
        })
    }
}

/// Whole numbers with the units w, d, h, m and s.
fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(end);
        let unit = tail.chars().next()?;
        let unit_seconds = match unit {
            'w' => WEEK.as_secs(),
            'd' => DAY.as_secs(),
            'h' => 60 * 60,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(unit_seconds)?;
        seconds = seconds.checked_add(part)?;
        rest = &tail[unit.len_utf8()..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

impl fmt::Display for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Missing => f.write_str("missing"),
            Self::Older(limit) => write!(f, "every_{}s", limit.as_secs()),
            Self::Never => f.write_str("never"),
        }
    }
}

impl Wanted {
    /// The platform that is asked for.
    pub fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::of_machine)
    }

    /// The store's image, if it is taken as it is. `now` is the wall clock.
    ///
    /// # Errors
    /// As [`Store::resolve`].
    pub fn find(&self, store: &Store, now: SystemTime) -> Result<Found, StoreError> {
        if let Some(image) = store.resolve(&self.name, &self.platform())? {
            // Content that is pinned grows no older.
            let age = store.age(&self.name, now)?.unwrap_or_default();
            if self.pull.keeps(age) {
                return Ok(Found::Here(Box::new(image)));
            }
        }
        Ok(Found::Elsewhere(self.pull.sources()))
    }
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        // No name has a comma.
        let mut parts = text.split(',');
        let mut wanted = Self {
            name: parts.next().unwrap_or_default().parse()?,
            platform: None,
            pull: Pull::default(),
        };
        for part in parts {
            match part.split_once('=') {
                Some(("platform", platform)) => wanted.platform = Some(platform.parse()?),
                Some(("pull", pull)) => wanted.pull = pull.parse()?,
                _ => return Err(WantedError::Option(part.to_owned())),
            }
        }
        Ok(wanted)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.familiar())?;
        if let Some(platform) = &self.platform {
            write!(f, ",platform={platform}")?;
        }
        write!(f, ",pull={}", self.pull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn pull(text: &str) -> Pull {
        text.parse().unwrap()
    }

    #[test]
    fn policies_mean_what_they_mean_to_compose() {
        for (text, meant) in [
            ("always", Pull::Always),
            ("missing", Pull::Missing),
            ("if_not_present", Pull::Missing),
            ("refresh", Pull::Missing),
            ("never", Pull::Never),
            ("build", Pull::Never),
            ("daily", Pull::Older(DAY)),
            ("weekly", Pull::Older(WEEK)),
            ("every_12h", Pull::Older(12 * HOUR)),
            (
                "every_1w2d3h4m5s",
                Pull::Older(WEEK + 2 * DAY + 3 * HOUR + Duration::from_secs(245)),
            ),
        ] {
            assert_eq!(pull(text), meant, "{text}");
            assert_eq!(pull(&meant.to_string()), meant, "{text}");
        }
        for text in [
            "",
            "Always",
            "every_",
            "every_12",
            "every_h",
            "every_1y",
            "every_1µs",
            "every_99999999999999999w",
        ] {
            let error = text.parse::<Pull>().unwrap_err().to_string();
            assert!(error.contains("no pull policy"), "{text}: {error}");
        }
    }

    #[test]
    fn a_policy_decides_whether_and_where_an_image_is_asked_for() {
        let asked = |daemons, registry| Sources { daemons, registry };
        for (policy, at_once, later, sources) in [
            ("always", false, false, asked(false, true)),
            ("missing", true, true, asked(true, true)),
            ("daily", true, false, asked(false, true)),
            ("every_48h", true, true, asked(false, true)),
            ("never", true, true, asked(true, false)),
        ] {
            let policy = pull(policy);
            assert_eq!(
                (policy.keeps(Duration::ZERO), policy.keeps(DAY + HOUR), policy.sources()),
                (at_once, later, sources),
                "{policy}"
            );
        }
    }

    #[test]
    fn a_wanted_image_is_a_text() {
        for (text, whole) in [
            ("nginx", "nginx:latest,pull=missing"),
            (
                "localhost:5000/app:1,pull=daily,platform=arm64",
                "localhost:5000/app:1,platform=linux/arm64,pull=every_86400s",
            ),
        ] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.to_string(), whole);
            assert_eq!(whole.parse::<Wanted>().unwrap(), wanted);
        }
        for (text, reason) in [
            ("", "empty"),
            (",pull=always", "empty"),
            ("a,pull=x", "no pull policy"),
            ("a,platform=/", "platform"),
            ("a,missing", "neither"),
            ("a,", "neither"),
        ] {
            let error = text.parse::<Wanted>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
