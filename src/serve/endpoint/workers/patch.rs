//! The body of `PATCH /workers/{id}`: what of a worker is to be different from now on.

use std::collections::BTreeMap;

use http::HeaderValue;
use serde_json::Value;

use super::fields::{Fault, Fields};
use super::limits;
use crate::base::secret::Secret;
use crate::config::spec::MAX_PRIORITY;
use crate::plan::Override;

/// What is to change, and the names of what cannot.
///
/// # Errors
/// Where a field is wrong, or nothing would change.
pub(super) fn read(mut body: Fields) -> Result<(Override, Vec<String>), Fault> {
    let mut ignored = Vec::new();
    let with = Override {
        priority: priority(&mut body)?,
        cost: cost(&mut body)?,
        labels: labels(&mut body)?,
        api_key: api_key(&mut body)?,
        health: limits::health(&mut body, &mut ignored)?,
        circuit_breaker: limits::breaker(&mut body, &mut ignored)?,
        drain: body.flag("drain")?,
    };
    body.leave(&mut ignored);
    if with == Override::default() {
        return Err(Fault::Nothing);
    }
    Ok((with, ignored))
}

/// Which workers are used first.
///
/// # Errors
/// Where it is wrong.
pub(super) fn priority(body: &mut Fields) -> Result<Option<u8>, Fault> {
    body.take("priority", "a whole number from 0 to 100", |value| {
        let priority = u8::try_from(value.as_u64()?).ok()?;
        (priority <= MAX_PRIORITY).then_some(priority)
    })
}

/// How much its load counts.
///
/// # Errors
/// Where it is wrong.
pub(super) fn cost(body: &mut Fields) -> Result<Option<f64>, Fault> {
    body.take("cost", "a number greater than 0", |value| {
        value
            .as_f64()
            .filter(|cost| *cost > 0.0 && cost.is_finite())
    })
}

/// Its key. It is the value itself: what a caller names must not make the gateway read its own files
/// or variables.
///
/// # Errors
/// Where it cannot be sent.
pub(super) fn api_key(body: &mut Fields) -> Result<Option<Secret>, Fault> {
    let expected = "a string that is not empty and can stand in a header";
    body.take("api_key", expected, |value| {
        let key = value.as_str().filter(|key| !key.is_empty())?;
        HeaderValue::from_str(key).ok()?;
        Some(Secret::literal(key))
    })
}

/// Labels; null takes one away.
///
/// # Errors
/// Where one is no string.
fn labels(body: &mut Fields) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let Some(mut fields) = body.inner("labels")? else {
        return Ok(BTreeMap::new());
    };
    let pairs: Vec<(String, Value)> = fields.drain().collect();
    pairs
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, Some(text))),
            Value::Null => Ok((name, None)),
            _ => Err(Fault::Wrong {
                field: fields.path(&name),
                expected: "a string, or null to remove it",
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<(Override, Vec<String>), Fault> {
        super::read(Fields::of(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn everything_that_may_change() {
        let (with, ignored) = read(&json!({
            "priority": 0, "cost": 2, "labels": { "a": "1", "b": null }, "api_key": "k",
            "health": { "timeout_secs": 1 }, "resilience": { "cb_window_secs": 5 }, "drain": false,
            "models": ["x"], "runtime": "vllm",
        }))
        .unwrap();
        assert_eq!(
            (with.priority, with.cost, with.drain),
            (Some(0), Some(2.0), Some(false))
        );
        assert_eq!(with.labels["a"].as_deref(), Some("1"));
        assert_eq!(with.labels["b"], None);
        assert_eq!(with.api_key.unwrap().expose(), Some("k"));
        assert!(with.health.timeout.is_some() && with.circuit_breaker.window.is_some());
        assert_eq!(ignored, ["models", "runtime"]);
    }

    #[test]
    fn nothing_is_no_change() {
        for body in [
            json!({}),
            json!({ "priority": null }),
            json!({ "labels": {}, "health": {} }),
            json!({ "unknown": 1 }),
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn wrong_values_name_their_field() {
        for (body, field) in [
            (json!({ "priority": 101 }), "priority"),
            (json!({ "priority": -1 }), "priority"),
            (json!({ "priority": 1.5 }), "priority"),
            (json!({ "cost": 0 }), "cost"),
            (json!({ "cost": "1" }), "cost"),
            (json!({ "labels": [] }), "labels"),
            (json!({ "labels": { "a": 1 } }), "labels.a"),
            (json!({ "api_key": "" }), "api_key"),
            (json!({ "api_key": "ca\nnary" }), "api_key"),
            (json!({ "api_key": { "env": "HOME" } }), "api_key"),
            (json!({ "drain": "yes" }), "drain"),
        ] {
            let message = read(&body).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("`{field}` must be ")),
                "{message}"
            );
            assert!(!message.contains("nary"), "{message}");
        }
    }
}
