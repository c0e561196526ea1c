//! `restart`, and `deploy.restart_policy`, which wins as in docker compose.

use std::time::Duration;

use super::duration;
use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, number, text};
use super::tree::Node;
use crate::cluster::{Restart, RestartCondition};

/// The longest `delay` and `window`.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The policy of a service; `None` if the service has none.
pub(super) fn read(service: &Node, path: &Path<'_>) -> Result<Option<Restart>, Fault> {
    let policy = service.get("deploy").and_then(|deploy| deploy.get("restart_policy"));
    if let Some(policy) = policy {
        let deploy = path.key("deploy");
        return of_deploy(policy, &deploy.key("restart_policy")).map(Some);
    }
    let restart = service.get("restart");
    restart.map(|value| of_service(value, &path.key("restart"))).transpose()
}

fn of_service(value: &Node, path: &Path<'_>) -> Result<Restart, Fault> {
    let word = text(value, path)?;
    let count = word.strip_prefix("on-failure:").map(str::parse::<u32>);
    match (condition(word), count) {
        (Some(condition), _) => Ok(Restart::new(condition)),
        (None, Some(Ok(count))) => Ok(Restart {
            // 0 is no bound, as in docker.
            max_attempts: Some(count).filter(|count| *count > 0),
            ..Restart::new(RestartCondition::OnFailure)
        }),
        (None, _) => {
            let problem = Problem::Word {
                expected: "\"no\", always, on-failure or unless-stopped",
                found: word.to_owned(),
            };
            Err(Fault::new(value.at, path, problem))
        }
    }
}

fn of_deploy(policy: &Node, path: &Path<'_>) -> Result<Restart, Fault> {
    let mut restart = match policy.get("condition") {
        Some(value) => of_service(value, &path.key("condition"))?,
        None => Restart::new(RestartCondition::Always),
    };
    if let Some(value) = policy.get("max_attempts") {
        let count: u32 = number(value, &path.key("max_attempts"), "a whole number from 0 up")?;
        restart.max_attempts = Some(count).filter(|count| *count > 0);
    }
    let time = |key| -> Result<Option<Duration>, Fault> {
        let Some(value) = policy.get(key) else { return Ok(None) };
        let path = path.key(key);
        let time = duration::parse_within(text(value, &path)?, Duration::ZERO, LONGEST);
        time.map(Some).map_err(|error| Fault::new(value.at, path, error))
    };
    restart.delay = time("delay")?.unwrap_or(restart.delay);
    restart.window = time("window")?.filter(|window| !window.is_zero());
    Ok(restart)
}

fn condition(word: &str) -> Option<RestartCondition> {
    match word {
        "no" | "false" | "none" => Some(RestartCondition::No),
        "always" | "any" => Some(RestartCondition::Always),
        "unless-stopped" => Some(RestartCondition::UnlessStopped),
        "on-failure" => Some(RestartCondition::OnFailure),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn of(service: &str) -> Result<Option<Restart>, String> {
        let node = parse(service, 0).unwrap().remove(0);
        read(&node, &Path::Root.key("web")).map_err(|fault| format!("{}: {}", fault.path, fault.problem))
    }

    #[test]
    fn what_compose_can_say_is_understood() {
        use RestartCondition::{Always, No, OnFailure, UnlessStopped};
        for (word, condition) in [("\"no\"", No), ("always", Always), ("unless-stopped", UnlessStopped)] {
            assert_eq!(of(&format!("{{restart: {word}}}")), Ok(Some(Restart::new(condition))));
        }
        let three = Restart {
            max_attempts: Some(3),
            ..Restart::new(OnFailure)
        };
        assert_eq!(of("{restart: \"on-failure:3\"}"), Ok(Some(three)));
        assert_eq!(of("{restart: \"on-failure:0\"}"), Ok(Some(Restart::new(OnFailure))));
        assert_eq!(of("{command: a}"), Ok(None));
        assert_eq!(of("{deploy: {restart_policy: {}}}"), Ok(Some(Restart::new(Always))));
        let whole = "{condition: on-failure, delay: 5s, max_attempts: 3, window: 2m}";
        let expected = Restart {
            delay: Duration::from_secs(5),
            window: Some(Duration::from_secs(120)),
            ..three
        };
        let service = format!("{{restart: always, deploy: {{restart_policy: {whole}}}}}");
        assert_eq!(of(&service), Ok(Some(expected)), "deploy wins");
        assert!(of("{restart: sometimes}").is_err());
        assert!(of("{restart: \"on-failure:often\"}").is_err());
        assert!(of("{deploy: {restart_policy: {delay: soon}}}").is_err());
    }
}
