//! systemd's unit files, as we write them.

use std::net::SocketAddrV4;

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The name, with the suffix of its type.
    pub name: String,
    /// Its file.
    pub text: String,
}

/// Independent of the machine's boot, and without systemd's usual limit on starts.
const UNIT: &str = "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n";

/// A socket that is listened on; a connection starts the service.
pub fn socket(name: &str, at: SocketAddrV4, service: &str, slice: Option<&str>) -> Unit {
    Unit {
        name: format!("{name}.socket"),
        text: format!(
            "{UNIT}[Socket]\nListenStream={at}\nNoDelay=yes\nTriggerLimitIntervalSec=0\nService={service}.service\n{}",
            within(slice)
        ),
    }
}

/// A service; `kind` is its `Type=`, and `more` further lines of `[Unit]`.
pub fn service(name: &str, kind: &str, words: &[String], more: &str, slice: Option<&str>) -> Unit {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Unit {
        name: format!("{name}.service"),
        text: format!(
            "{UNIT}{more}[Service]\nType={kind}\nStandardOutput=null\nExecStart={}\n{}",
            words.join(" "),
            within(slice)
        ),
    }
}

/// The target that starts all of these.
pub fn target<'a>(name: &str, wanted: impl IntoIterator<Item = &'a Unit>) -> Unit {
    let wants = wanted.into_iter().map(|unit| format!("Wants={}\n", unit.name));
    Unit {
        name: format!("{name}.target"),
        text: UNIT.to_owned() + &wants.collect::<String>(),
    }
}

fn within(slice: Option<&str>) -> String {
    slice.map_or_else(String::new, |slice| format!("Slice={slice}.slice\n"))
}

/// A word of a command line, without quotes, specifiers or variables (systemd.service(5),
/// systemd.syntax(7)).
fn quoted(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_are() {
        let words = ["/bin/x", "", "a b", "\"%h\" $HOME \\"].map(str::to_owned);
        let text = service("x", "simple", &words, "", None).text;
        let line = r#"ExecStart="/bin/x" "" "a b" "\"%%h\" $$HOME \\""#;
        assert!(text.lines().any(|found| found == line), "{text}");
    }

    #[test]
    fn a_target_wants_the_units_it_is_given() {
        let at = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 7000);
        let units = [socket("a", at, "a", Some("some")), socket("b", at, "b", None)];
        assert!(units[0].text.ends_with(
            "ListenStream=127.0.0.1:7000\nNoDelay=yes\nTriggerLimitIntervalSec=0\nService=a.service\nSlice=some.slice\n"
        ));
        assert!(target("all", &units).text.ends_with("Wants=a.socket\nWants=b.socket\n"));
    }
}
