//! Where a user's store is.

use std::path::PathBuf;

/// The directory of this user's images: `IMSUP_IMAGE_DIR`, else `/var/lib/imsup/images` for root
/// and `$XDG_DATA_HOME/imsup/images` (`~/.local/share/imsup/images`) for other users; below /tmp
/// for a user without a home.
pub fn default_path() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    choose(rustix::process::getuid().as_raw(), |name| {
        variable(name).map(PathBuf::from)
    })
}

fn choose(uid: u32, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let usual = || match uid {
        0 => Some(PathBuf::from("/var/lib")),
        _ => absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share"))),
    };
    variable("IMSUP_IMAGE_DIR")
        .or_else(|| Some(usual()?.join("imsup/images")))
        .unwrap_or_else(|| format!("/tmp/imsup-{uid}-images").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_users_own() {
        let place = |uid, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| PathBuf::from(value))
            };
            choose(uid, variable).display().to_string()
        };
        assert_eq!(place(0, &[("HOME", "/root")]), "/var/lib/imsup/images");
        assert_eq!(
            place(7, &[("HOME", "/home/ann")]),
            "/home/ann/.local/share/imsup/images"
        );
        assert_eq!(
            place(7, &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "/data")]),
            "/data/imsup/images"
        );
        assert_eq!(place(7, &[("IMSUP_IMAGE_DIR", "/x"), ("HOME", "/h")]), "/x");
        assert_eq!(place(7, &[]), "/tmp/imsup-7-images");
    }
}
