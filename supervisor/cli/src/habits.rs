//! What the fingers of docker compose's users type: options before the verb, and verbs that imsup
//! calls otherwise. Pure.

use std::ffi::{OsStr, OsString};

/// Options before the verb, and what is behind the verb instead; `None` for those without a meaning
/// here.
const OPTIONS: &[(&[&str], Option<&str>)] = &[
    (&["-f", "--file"], Some("--file")),
    (&["-p", "--project-name", "--project"], Some("--project")),
    (&["--profile"], Some("--profile")),
    (&["--env-file"], Some("--env-file")),
    (&["--project-directory"], Some("--project-directory")),
    (&["--ansi"], None),
    (&["--progress"], None),
    (&["--parallel"], None),
];

/// Options before the verb without a value, and without a meaning here.
const FLAGS: &[&str] = &["--compatibility", "--all-resources", "--verbose"];

/// Verbs that take a compose file.
const OF_PROJECTS: &[&str] = &[
    "broker",
    "config",
    "down",
    "events",
    "exec",
    "hosts",
    "keep-awake",
    "kill",
    "logs",
    "port",
    "ps",
    "pull",
    "resolve",
    "restart",
    "resume",
    "run",
    "start",
    "stop",
    "suspend",
    "top",
    "up",
    "usage",
    "wake",
    "why",
];

/// Verbs that take profiles. To the others the project is the same with all.
const WITH_PROFILES: &[&str] = &["broker", "config", "pull", "up"];

/// Verbs of docker compose that imsup does not have, and its words for them.
const VERBS: &[(&str, &str)] = &[
    (
        "attach",
        "`imsup logs -f HOST` shows what its program prints, `imsup exec HOST -- CMD` runs a command beside it",
    ),
    ("bridge", "imsup runs compose files as they are"),
    (
        "build",
        "build with docker, podman or buildah: `imsup up` takes the image from their stores",
    ),
    ("commit", "imsup makes no images"),
    (
        "cp",
        "`imsup exec HOST -- cat FILE` prints a file of its root; volumes and binds are directories of this machine",
    ),
    ("create", "`imsup up -d`: every host exists then, and none runs"),
    ("export", "imsup makes no images"),
    ("pause", "`imsup suspend HOST`: it sleeps until the next signal"),
    ("publish", "imsup makes no images"),
    ("push", "imsup makes no images"),
    (
        "rm",
        "`imsup stop HOST` ends its program; `imsup up --remove-orphans` removes hosts that the file does not have",
    ),
    (
        "scale",
        "set deploy.replicas in the compose file, and run `imsup up -d`",
    ),
    ("stats", "`imsup usage` shows what hosts have used"),
    ("unpause", "`imsup resume HOST`"),
    (
        "volumes",
        "named volumes are directories below .volumes in the state directory",
    ),
    (
        "wait",
        "`imsup events --follow HOST` ends with the project, and shows each exit",
    ),
    ("watch", "`imsup up -d` applies what has changed in the compose file"),
];

/// imsup's word for a verb of docker compose.
pub fn word_for(verb: &str) -> Option<&'static str> {
    VERBS.iter().find(|(name, _)| *name == verb).map(|(_, word)| *word)
}

/// Options of docker compose's verbs that imsup does not have, and its words for them.
const OPTIONS_OF_VERBS: &[(&[&str], &str)] = &[
    (
        &[
            "--abort-on-container-exit",
            "--abort-on-container-failure",
            "--exit-code-from",
        ],
        "`imsup up -d`, and then the test by `imsup exec HOST -- CMD` or `imsup run -- CMD`, which end with its status",
    ),
    (
        &["--attach", "--no-attach", "--attach-dependencies"],
        "`imsup up -d`, and then `imsup logs -f HOST`",
    ),
    (
        &["--build"],
        "build with docker, podman or buildah: `imsup up` takes the image from their stores",
    ),
    (
        &["--no-start"],
        "`imsup up -d` starts what waits for no connection; `x-imsup: {start: connection}` keeps a service from that",
    ),
];

/// imsup's word for an option of a verb of docker compose.
pub fn word_for_option(option: &str) -> Option<&'static str> {
    let found = OPTIONS_OF_VERBS.iter().find(|(names, _)| names.contains(&option));
    found.map(|(_, word)| *word)
}

/// The arguments with the options before the verb behind it. What is not understood stays as it is.
pub fn arrange(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut moved: Vec<(&str, OsString)> = Vec::new();
    let mut rest = arguments.iter().skip(1);
    let verb = loop {
        let Some(argument) = rest.next() else { return arguments };
        let Some(text) = argument.to_str() else {
            return arguments;
        };
        if !text.starts_with('-') {
            break argument.clone();
        }
        if FLAGS.contains(&text) {
            continue;
        }
        let Some((name, value)) = split(text) else {
            return arguments;
        };
        let Some(value) = value.or_else(|| rest.next().cloned()) else {
            return arguments;
        };
        moved.extend(name.map(|name| (name, value)));
    };
    let mut arranged: Vec<OsString> = arguments.first().cloned().into_iter().collect();
    let takes = |option: &str| {
        let takers = if option == "--profile" {
            WITH_PROFILES
        } else {
            OF_PROJECTS
        };
        takers.iter().any(|taker| verb == *taker)
    };
    arranged.push(verb.clone());
    for (option, value) in moved.into_iter().filter(|(option, _)| takes(option)) {
        let mut argument = OsString::from(option);
        argument.push("=");
        argument.push(&value);
        arranged.push(argument);
    }
    arranged.extend(rest.cloned());
    arranged
}

/// An option with a value: its name behind the verb, and the value if it is in the same argument.
fn split(text: &str) -> Option<(Option<&'static str>, Option<OsString>)> {
    let (long, value) = match text.split_once('=') {
        Some((long, value)) if long.starts_with("--") => (long, Some(OsString::from(value))),
        _ => (text, None),
    };
    let exact = |names: &&[&str]| names.contains(&long);
    if let Some((_, name)) = OPTIONS.iter().find(|(names, _)| exact(names)) {
        return Some((*name, value));
    }
    // -fFILE, -pNAME.
    let (short, value) = text.split_at_checked(2)?;
    let (_, name) = OPTIONS.iter().find(|(names, _)| names.contains(&short))?;
    Some((*name, Some(OsStr::new(value).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from).collect();
        let words = arrange(arguments).into_iter().map(|word| word.into_string().unwrap());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_before_the_verb_are_options_of_the_verb() {
        for (line, expected) in [
            (
                "imsup -f a.yaml -f b.yaml -p shop up -d",
                "imsup up --file=a.yaml --file=b.yaml --project=shop -d",
            ),
            ("imsup --profile dev --ansi never up", "imsup up --profile=dev"),
            ("imsup --file=a.yaml --profile dev ps -q", "imsup ps --file=a.yaml -q"),
            ("imsup -fa.yaml logs -f web", "imsup logs --file=a.yaml -f web"),
            ("imsup --compatibility exec web -- ls -l", "imsup exec web -- ls -l"),
            ("imsup -p shop version", "imsup version"),
            ("imsup run -f a.yaml -- ls -f", "imsup run -f a.yaml -- ls -f"),
            ("imsup --help", "imsup --help"),
            ("imsup --nosuch up", "imsup --nosuch up"),
            ("imsup -f", "imsup -f"),
            ("imsup", "imsup"),
        ] {
            assert_eq!(arranged(line), expected, "{line}");
        }
    }
}
