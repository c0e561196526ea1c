//! The command of a host with an image. Pure.

use imsup_compose::cluster::Container;
use imsup_images::ImageConfig;

/// Neither the file nor the image says what to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its image has neither ENTRYPOINT nor CMD: set `command`")]
pub struct NoCommand;

/// The words of ENTRYPOINT and CMD, by Docker's rules: an entrypoint of the file drops both of the
/// image's, and an entrypoint of one empty word is none.
pub(super) fn command(container: &Container, image: &ImageConfig) -> Result<Vec<String>, NoCommand> {
    let asked = container.command.clone().unwrap_or_default();
    let (entrypoint, cmd) = match &container.entrypoint {
        Some(entrypoint) if !entrypoint.is_empty() => (entrypoint.clone(), asked),
        // `entrypoint: []` takes the image's away, and leaves its CMD.
        Some(empty) => (empty.clone(), or(asked, &image.cmd)),
        None => (image.entrypoint.clone(), or(asked, &image.cmd)),
    };
    let entrypoint = match entrypoint.as_slice() {
        [word] if word.is_empty() => Vec::new(),
        _ => entrypoint,
    };
    let words: Vec<String> = entrypoint.into_iter().chain(cmd).collect();
    if words.is_empty() { Err(NoCommand) } else { Ok(words) }
}

fn or(asked: Vec<String>, of_image: &[String]) -> Vec<String> {
    if asked.is_empty() { of_image.to_vec() } else { asked }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_are_joined_as_docker_does() {
        let joined = |entrypoint: Option<&[&str]>, command: Option<&[&str]>, image: (&[&str], &[&str])| {
            let container = Container {
                entrypoint: entrypoint.map(words),
                command: command.map(words),
                ..crate::testing::container("app")
            };
            let image = ImageConfig {
                entrypoint: words(image.0),
                cmd: words(image.1),
                ..ImageConfig::default()
            };
            command_text(&container, &image)
        };
        let image: (&[&str], &[&str]) = (&["entry.sh"], &["serve", "80"]);
        assert_eq!(joined(None, None, image), "entry.sh serve 80");
        assert_eq!(joined(None, Some(&["--fast"]), image), "entry.sh --fast");
        assert_eq!(joined(None, Some(&[]), image), "entry.sh serve 80");
        assert_eq!(joined(Some(&["own"]), None, image), "own");
        assert_eq!(joined(Some(&["own"]), Some(&["x"]), image), "own x");
        assert_eq!(joined(Some(&[]), None, image), "serve 80");
        assert_eq!(joined(Some(&[""]), Some(&["x"]), image), "x");
        assert_eq!(joined(Some(&[""]), None, image), "-");
        assert_eq!(joined(None, None, (&[], &[])), "-");
        assert_eq!(joined(None, None, (&[], &["sh"])), "sh");
    }

    fn command_text(container: &Container, image: &ImageConfig) -> String {
        command(container, image).map_or("-".to_owned(), |words| words.join(" "))
    }
}
