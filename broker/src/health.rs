//! When a host's health is checked, and what the checks say. Pure.
//!
//! A check runs soon after the boot and then less and less often, until one succeeds: a host that
//! waits for another starts as soon as the other is healthy, not at the next interval. Failures make
//! a host unhealthy as late as under docker, which counts one failure an interval.

use std::time::{Duration, Instant};

use imsup_compose::cluster::HealthCheck;
use imsup_wire::Health as Verdict;

/// The time from the boot to the first check; doubled from check to check.
const FIRST: Duration = Duration::from_millis(100);

/// Docker's defaults (docs.docker.com, Dockerfile reference, HEALTHCHECK).
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// The health of a host since its boot.
#[derive(Debug)]
pub(crate) struct Health {
    since: Instant,
    verdict: Verdict,
    /// Checks in a row without success.
    failures: u32,
    last_failure: Option<String>,
    interval: Duration,
    start_period: Duration,
    start_interval: Duration,
    timeout: Duration,
    retries: u32,
}

impl Health {
    /// Of a host that has booted at this moment.
    pub(crate) fn new(check: &HealthCheck, since: Instant) -> Self {
        Self {
            since,
            verdict: Verdict::Starting,
            failures: 0,
            last_failure: None,
            interval: check.interval.unwrap_or(INTERVAL),
            start_period: check.start_period.unwrap_or_default(),
            start_interval: check.start_interval.unwrap_or(START_INTERVAL),
            timeout: check.timeout.unwrap_or(TIMEOUT),
            retries: check.retries.unwrap_or(RETRIES),
        }
    }

    /// What the checks say so far.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What the last failed check said.
    pub(crate) fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// The time since the boot.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// The time that a check may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The time until the next check; `None` if there is nothing left to find out.
    pub(crate) fn next_in(&self, now: Instant) -> Option<Duration> {
        if self.verdict == Verdict::Healthy {
            return None;
        }
        let pace = match self.age(now) < self.start_period {
            true => self.interval.min(self.start_interval),
            false => self.interval,
        };
        Some(pace.min(FIRST * (1 << self.failures.min(16))))
    }

    /// A check has succeeded. True if that is news.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.last_failure = None;
        std::mem::replace(&mut self.verdict, Verdict::Healthy) != Verdict::Healthy
    }

    /// A check has failed. True if the host is unhealthy from now on.
    pub(crate) fn failed(&mut self, why: String, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(why);
        let patience = self.start_period + self.interval * self.retries;
        if self.verdict == Verdict::Unhealthy || self.age(now) < patience {
            return false;
        }
        self.verdict = Verdict::Unhealthy;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(interval: u64, start_period: u64) -> HealthCheck {
        HealthCheck {
            interval: Some(Duration::from_secs(interval)),
            start_period: Some(Duration::from_secs(start_period)),
            retries: Some(2),
            ..HealthCheck::default()
        }
    }

    #[test]
    fn checks_come_soon_and_then_at_the_interval_until_one_succeeds() {
        let start = Instant::now();
        let mut health = Health::new(&check(1, 0), start);
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(health.next_in(start).unwrap().as_millis());
            health.failed("no".to_owned(), start);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert!(health.succeeded());
        assert_eq!(health.next_in(start), None);
        assert!(!health.succeeded(), "told once");
    }

    #[test]
    fn a_host_is_unhealthy_as_late_as_under_docker_and_may_recover() {
        let start = Instant::now();
        let mut health = Health::new(&check(10, 60), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in 0..80 {
            assert!(!health.failed("no".to_owned(), at(seconds)), "{seconds}");
        }
        assert_eq!(
            health.next_in(at(59)),
            Some(Duration::from_secs(5)),
            "in the start period"
        );
        assert_eq!(health.verdict(), Verdict::Starting);
        assert!(health.failed("connection refused".to_owned(), at(80)));
        assert!(!health.failed("connection refused".to_owned(), at(90)), "told once");
        assert_eq!(health.verdict(), Verdict::Unhealthy);
        assert_eq!(health.last_failure(), Some("connection refused"));
        assert_eq!(health.next_in(at(90)), Some(Duration::from_secs(10)));
        assert!(health.succeeded());
        assert_eq!(health.verdict(), Verdict::Healthy);
    }
}
