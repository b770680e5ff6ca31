//! The settings of probes and breakers that one worker may have for itself: as bodies write them and as
//! answers show them.

use std::time::Duration;

use serde_json::{Number, Value, json};

use super::fields::{Fault, Fields};
use crate::base::units::Millis;
use crate::config::spec::{CircuitBreakerOverride, HealthOverride};
use crate::plan::{Breaker, Health};

/// The longest duration in seconds that a body may give: a year. Longer ones would leave the range of
/// the clock.
const LONGEST: f64 = 31_536_000.0;

/// `health` of a body; what nobody knows goes to `ignored`.
///
/// # Errors
/// Where a field is wrong.
pub(super) fn health(
    body: &mut Fields,
    ignored: &mut Vec<String>,
) -> Result<HealthOverride, Fault> {
    let Some(mut fields) = body.inner("health")? else {
        return Ok(HealthOverride::default());
    };
    let health = HealthOverride {
        timeout: positive(&mut fields, "timeout_secs")?,
        interval: positive(&mut fields, "check_interval_secs")?,
        success_threshold: fields.count("success_threshold")?,
        failure_threshold: fields.count("failure_threshold")?,
        enabled: fields.flag("disable_health_check")?.map(|off| !off),
        drain_settle: fields.take(
            "drain_settle_secs",
            "a number of seconds from 0 to a year",
            |value| seconds(&value),
        )?,
        ..HealthOverride::default()
    };
    fields.leave(ignored);
    Ok(health)
}

/// `resilience` of a body; what nobody knows goes to `ignored`.
///
/// # Errors
/// Where a field is wrong.
pub(super) fn breaker(
    body: &mut Fields,
    ignored: &mut Vec<String>,
) -> Result<CircuitBreakerOverride, Fault> {
    let Some(mut fields) = body.inner("resilience")? else {
        return Ok(CircuitBreakerOverride::default());
    };
    let breaker = CircuitBreakerOverride {
        enabled: fields.flag("disable_circuit_breaker")?.map(|off| !off),
        failure_threshold: fields.count("cb_failure_threshold")?,
        success_threshold: fields.count("cb_success_threshold")?,
        timeout: positive(&mut fields, "cb_timeout_secs")?,
        window: positive(&mut fields, "cb_window_secs")?,
    };
    fields.leave(ignored);
    Ok(breaker)
}

fn positive(fields: &mut Fields, name: &str) -> Result<Option<Millis>, Fault> {
    let expected = "a number of seconds above 0 and up to a year";
    fields.take(name, expected, |value| {
        seconds(&value).filter(|length| !length.is_zero())
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range was looked at before"
)]
fn seconds(value: &Value) -> Option<Millis> {
    let seconds = value.as_f64()?;
    let within = (0.0..=LONGEST).contains(&seconds);
    within.then(|| Millis::new((seconds * 1000.0).round() as u64))
}

/// The probe settings in force.
pub(super) fn show_health(health: &Health) -> Value {
    json!({
        "timeout_secs": in_seconds(health.timeout),
        "check_interval_secs": in_seconds(health.interval),
        "success_threshold": health.success_threshold,
        "failure_threshold": health.failure_threshold,
        "disable_health_check": !health.enabled,
        "drain_settle_secs": in_seconds(health.drain_settle),
    })
}

/// The breaker settings in force.
pub(super) fn show_breaker(breaker: &Breaker) -> Value {
    json!({
        "cb_failure_threshold": breaker.failure_threshold,
        "cb_success_threshold": breaker.success_threshold,
        "cb_timeout_secs": in_seconds(breaker.timeout),
        "cb_window_secs": in_seconds(breaker.window),
        "disable_circuit_breaker": !breaker.enabled,
    })
}

/// Whole seconds as a whole number.
fn in_seconds(length: Duration) -> Value {
    if length.subsec_nanos() == 0 {
        return length.as_secs().into();
    }
    Number::from_f64(length.as_secs_f64()).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_written_alike() {
        let body = json!({
            "health": {
                "timeout_secs": 2, "check_interval_secs": 0.25, "success_threshold": 1,
                "failure_threshold": 7, "disable_health_check": false, "drain_settle_secs": 0,
                "probe_path": "/x",
            },
            "resilience": {
                "cb_failure_threshold": 4, "cb_success_threshold": 2, "cb_timeout_secs": 9,
                "cb_window_secs": 60, "disable_circuit_breaker": true, "retry_max": 3,
            },
        });
        let mut fields = Fields::of(body.to_string().as_bytes()).unwrap();
        let mut ignored = Vec::new();
        let health = health(&mut fields, &mut ignored).unwrap();
        assert_eq!(health.timeout, Some(Millis::secs(2)));
        assert_eq!(health.interval, Some(Millis::new(250)));
        assert_eq!(
            (health.success_threshold, health.failure_threshold),
            (Some(1), Some(7))
        );
        assert_eq!(
            (health.enabled, health.drain_settle),
            (Some(true), Some(Millis::ZERO))
        );
        assert_eq!((health.endpoint, health.startup_timeout), (None, None));
        let breaker = breaker(&mut fields, &mut ignored).unwrap();
        assert_eq!(breaker.enabled, Some(false));
        assert_eq!(
            (breaker.failure_threshold, breaker.success_threshold),
            (Some(4), Some(2))
        );
        assert_eq!(breaker.timeout, Some(Millis::secs(9)));
        assert_eq!(breaker.window, Some(Millis::secs(60)));
        assert_eq!(ignored, ["health.probe_path", "resilience.retry_max"]);
        assert_eq!(in_seconds(Duration::from_millis(250)), json!(0.25));
        assert_eq!(in_seconds(Duration::from_secs(60)), json!(60));
    }

    #[test]
    fn what_the_configuration_would_refuse_is_refused() {
        for (table, field, value) in [
            ("health", "timeout_secs", json!(0)),
            ("health", "timeout_secs", json!(-1)),
            ("health", "timeout_secs", json!(1e300)),
            ("health", "timeout_secs", json!("5s")),
            ("health", "check_interval_secs", json!(0.0001)),
            ("health", "success_threshold", json!(0)),
            ("health", "failure_threshold", json!(1.5)),
            ("health", "failure_threshold", json!(4_294_967_296_u64)),
            ("health", "disable_health_check", json!("yes")),
            ("health", "drain_settle_secs", json!(-1)),
            ("resilience", "cb_failure_threshold", json!(0)),
            ("resilience", "cb_success_threshold", json!([])),
            ("resilience", "cb_timeout_secs", json!(0)),
            ("resilience", "cb_window_secs", json!({})),
            ("resilience", "disable_circuit_breaker", json!(0)),
        ] {
            let body = json!({ table: { field: value } }).to_string();
            let mut fields = Fields::of(body.as_bytes()).unwrap();
            let mut ignored = Vec::new();
            let error = match table {
                "health" => health(&mut fields, &mut ignored).map(|_| ()),
                _ => breaker(&mut fields, &mut ignored).map(|_| ()),
            };
            let message = error.unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("`{table}.{field}` must be ")),
                "{message}"
            );
        }
    }
}
