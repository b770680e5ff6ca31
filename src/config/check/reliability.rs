//! Checks of `reliability`, wherever it stands.

use super::Check;
use crate::base::units::Millis;
use crate::config::origin::Origin;
use crate::config::spec::{
    CircuitBreakerOverride, HealthOverride, Model, Retry, RetryOverride, TimeoutsOverride,
};

impl Check<'_> {
    pub(super) fn reliability(&mut self) {
        let global = &self.spec.reliability;
        let at = "reliability";
        self.health(
            &format!("{at}.health"),
            &HealthOverride::from(&global.health),
        );
        self.at_least_one(
            &format!("{at}.health.max_in_flight_probes"),
            global.health.max_in_flight_probes,
        );
        self.timeouts(
            &format!("{at}.timeouts"),
            &TimeoutsOverride::from(&global.timeouts),
        );
        self.retry(
            &format!("{at}.retry"),
            &RetryOverride::from(&global.retry),
            &Retry::default(),
        );
        self.breaker(
            &format!("{at}.circuit_breaker"),
            &CircuitBreakerOverride::from(&global.circuit_breaker),
        );
        for (i, pool) in self.spec.pools.iter().enumerate() {
            let at = format!("pools[{i}].reliability");
            self.health(&format!("{at}.health"), &pool.reliability.health);
            self.timeouts(&format!("{at}.timeouts"), &pool.reliability.timeouts);
            self.retry(
                &format!("{at}.retry"),
                &pool.reliability.retry,
                &global.retry,
            );
            self.breaker(
                &format!("{at}.circuit_breaker"),
                &pool.reliability.circuit_breaker,
            );
        }
        for (i, model) in self.spec.models.iter().enumerate() {
            let at = format!("models[{i}].reliability");
            self.timeouts(&format!("{at}.timeouts"), &model.reliability.timeouts);
            let wider = self.retry_of_pool(model);
            self.retry(&format!("{at}.retry"), &model.reliability.retry, &wider);
        }
        self.switched_off();
    }

    fn health(&mut self, at: &str, health: &HealthOverride) {
        let key = |name: &str| format!("{at}.{name}");
        for (name, value) in [
            ("failure_threshold", health.failure_threshold),
            ("success_threshold", health.success_threshold),
        ] {
            self.at_least_one(&key(name), value.unwrap_or(1));
        }
        for (name, value) in [
            ("timeout", health.timeout),
            ("interval", health.interval),
            ("startup_timeout", health.startup_timeout),
            ("startup_check_interval", health.startup_check_interval),
        ] {
            self.positive(&key(name), value.unwrap_or(Millis::secs(1)));
        }
        if let Some(endpoint) = &health.endpoint
            && (!endpoint.starts_with('/') || endpoint.parse::<http::uri::PathAndQuery>().is_err())
        {
            let message = format!("`{endpoint}` is no path: it begins with `/`, as in `/health`");
            self.error("invalid-value", &key("endpoint"), message);
        }
    }

    fn timeouts(&mut self, at: &str, timeouts: &TimeoutsOverride) {
        for (name, value) in [
            ("connect", timeouts.connect),
            ("headers", timeouts.headers),
            ("first_token", timeouts.first_token),
            ("idle", timeouts.idle),
            ("total", timeouts.total),
        ] {
            self.positive(&format!("{at}.{name}"), value.unwrap_or(Millis::secs(1)));
        }
    }

    fn retry(&mut self, at: &str, retry: &RetryOverride, wider: &Retry) {
        let key = |name: &str| format!("{at}.{name}");
        self.positive(
            &key("initial_backoff"),
            retry.initial_backoff.unwrap_or(Millis::secs(1)),
        );
        if retry
            .backoff_multiplier
            .is_some_and(|factor| !factor.is_finite() || factor < 1.0)
        {
            self.range(&key("backoff_multiplier"), "finite and at least 1");
        }
        if retry
            .jitter_factor
            .is_some_and(|share| !(0.0..=1.0).contains(&share))
        {
            self.range(&key("jitter_factor"), "from 0 to 1");
        }
        for (i, status) in retry.status_codes.iter().flatten().enumerate() {
            if !(400..=599).contains(status) {
                self.range(
                    &key(&format!("status_codes[{i}]")),
                    "an error status, from 400 to 599",
                );
            }
        }
        if let Some(budget) = retry.budget {
            if !(0.0..=1.0).contains(&budget.ratio) {
                self.range(&key("budget.ratio"), "from 0 to 1");
            }
            if !budget.min_per_second.is_finite() || budget.min_per_second < 0.0 {
                self.range(&key("budget.min_per_second"), "finite and at least 0");
            }
        }
        let force = retry.over(wider);
        let written = retry.max_backoff.is_some() || retry.initial_backoff.is_some();
        if written && force.max_backoff < force.initial_backoff {
            let max = key("max_backoff");
            let key = if self.origins.is_set(&max) {
                max
            } else {
                key("initial_backoff")
            };
            let message = format!(
                "`max_backoff` ({}) is shorter than `initial_backoff` ({})",
                force.max_backoff, force.initial_backoff
            );
            self.error("backoff", &key, message);
        }
    }

    fn breaker(&mut self, at: &str, breaker: &CircuitBreakerOverride) {
        for (name, value) in [
            ("failure_threshold", breaker.failure_threshold),
            ("success_threshold", breaker.success_threshold),
        ] {
            self.at_least_one(&format!("{at}.{name}"), value.unwrap_or(1));
        }
        for (name, value) in [("timeout", breaker.timeout), ("window", breaker.window)] {
            self.positive(&format!("{at}.{name}"), value.unwrap_or(Millis::secs(1)));
        }
    }

    /// The retry keys in force around a model.
    fn retry_of_pool(&self, model: &Model) -> Retry {
        let pools = &self.spec.pools;
        let pool = match &model.pool {
            Some(name) => pools.iter().find(|pool| pool.name == *name),
            None => pools.first().filter(|_| pools.len() == 1),
        };
        let global = &self.spec.reliability.retry;
        pool.map_or_else(
            || global.clone(),
            |pool| pool.reliability.retry.over(global),
        )
    }

    /// Keys beside an `enabled = false` do nothing, unless a narrower level turns it on again.
    fn switched_off(&mut self) {
        let spec = self.spec;
        let pools = || spec.pools.iter().map(|pool| &pool.reliability);
        let mut tables = Vec::new();
        let retry_again = pools().any(|r| r.retry.enabled == Some(true))
            || spec
                .models
                .iter()
                .any(|m| m.reliability.retry.enabled == Some(true));
        let breaker_again = pools().any(|r| r.circuit_breaker.enabled == Some(true));
        if !spec.reliability.circuit_breaker.enabled && !breaker_again {
            tables.push("reliability.circuit_breaker".to_owned());
        }
        let health_again = pools().any(|r| r.health.enabled == Some(true));
        if !spec.reliability.retry.enabled && !retry_again {
            tables.push("reliability.retry".to_owned());
        }
        if !spec.reliability.health.enabled && !health_again {
            tables.push("reliability.health".to_owned());
        }
        for (i, pool) in pools().enumerate() {
            if pool.health.enabled == Some(false) {
                tables.push(format!("pools[{i}].reliability.health"));
            }
            if pool.circuit_breaker.enabled == Some(false) {
                tables.push(format!("pools[{i}].reliability.circuit_breaker"));
            }
        }
        for (i, model) in spec.models.iter().enumerate() {
            if model.reliability.retry.enabled == Some(false) {
                tables.push(format!("models[{i}].reliability.retry"));
            }
        }
        for table in tables {
            // Turned off for once by a flag, the keys of the file are still meant.
            if !matches!(
                self.origins.of(&format!("{table}.enabled")),
                Origin::File { .. }
            ) {
                continue;
            }
            for key in self.origins.keys_of(&table) {
                if !key.ends_with(".enabled") && !key.ends_with(".max_in_flight_probes") {
                    self.without_effect(&key, &format!("`{table}.enabled` is false"));
                }
            }
        }
    }
}
