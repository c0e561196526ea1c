//! The compose files that are measured.

use std::fmt::Write;

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its command.
    pub command: Vec<String>,
    /// The ports, as compose writes them.
    pub expose: Vec<String>,
    /// The `x-imsup` section as YAML; empty for a host that never sleeps.
    pub settings: &'static str,
}

impl Service {
    /// A service with one command and its ports.
    pub fn new<C: Into<String>, P: ToString>(
        name: impl Into<String>,
        command: impl IntoIterator<Item = C>,
        expose: impl IntoIterator<Item = P>,
    ) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            expose: expose.into_iter().map(|port| port.to_string()).collect(),
            settings: "",
        }
    }

    /// The same service with these settings, such as `idle_after: 5s`.
    pub fn with(mut self, settings: &'static str) -> Self {
        self.settings = settings;
        self
    }
}

/// The file. Hosts are not suspended unless their service asks for that, and stopped programs are
/// killed: the time that a program takes to end is not imsup's.
pub fn file<'a>(services: impl IntoIterator<Item = &'a Service>) -> String {
    let mut text = String::from("x-imsup: {idle_after: never}\nservices:\n");
    for service in services {
        // JSON strings and lists are YAML's too.
        let list = |items: &[String]| serde_json::Value::from(items).to_string();
        let _ = write!(
            text,
            "  {}:\n    command: {}\n    expose: {}\n    stop_signal: SIGKILL\n",
            service.name,
            list(&service.command),
            list(&service.expose)
        );
        if !service.settings.is_empty() {
            let _ = writeln!(text, "    x-imsup: {{{}}}", service.settings);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_block_yaml_with_json_lists() {
        let text = file(&[Service::new("a", ["x", "--save", ""], ["7001-7003"])]);
        assert_eq!(
            text,
            "x-imsup: {idle_after: never}\nservices:\n  a:\n    command: [\"x\",\"--save\",\"\"]\n    \
             expose: [\"7001-7003\"]\n    stop_signal: SIGKILL\n"
        );
        let text = file(&[Service::new("a", ["x"], [1]).with("idle_after: 1h")]);
        assert!(text.ends_with("    x-imsup: {idle_after: 1h}\n"), "{text}");
    }
}
