//! The body of `POST /workers` and of a `PUT` that replaces: everything that is said of a worker.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{self, Fault, Fields};
use super::show::UNKNOWN;
use super::{limits, patch};
use crate::config::spec::{CircuitBreakerOverride, HealthOverride, Runtime, Worker, WorkerUrl};
use crate::plan::{Added, Role, Source};

/// A worker as it is said to be.
#[derive(Debug)]
pub(super) struct Declared {
    /// The pool, where it is named.
    pub(super) pool: Option<String>,
    /// What it does there, where that is said.
    pub(super) role: Option<Role>,
    /// So many attempts to reach it.
    pub(super) attempts: Option<u32>,
    /// Names of fields that mean nothing here.
    pub(super) ignored: Vec<String>,
    worker: Worker,
    models: Vec<String>,
    runtime: Option<Runtime>,
    health: HealthOverride,
    breaker: CircuitBreakerOverride,
}

impl Declared {
    /// What `body` says.
    ///
    /// # Errors
    /// Where a field is wrong.
    pub(super) fn read(mut body: Fields) -> Result<Self, Fault> {
        let mut ignored = Vec::new();
        let url = body.text("url")?.ok_or(Fault::Missing("url"))?;
        let url: WorkerUrl = url
            .trim()
            .parse()
            .map_err(|error| Fault::unfit("url", format!("{error}")))?;
        connection_mode(&mut body)?;
        let plain = Worker::from(url);
        let worker = Worker {
            labels: labels(&mut body)?,
            priority: patch::priority(&mut body)?.unwrap_or(plain.priority),
            cost: patch::cost(&mut body)?.unwrap_or(plain.cost),
            api_key: patch::api_key(&mut body)?,
            bootstrap_port: body.take("bootstrap_port", "a port from 1 to 65535", |value| {
                let port = u16::try_from(value.as_u64()?).ok()?;
                (port > 0).then_some(port)
            })?,
            drain: body.flag("drain")?.unwrap_or(false),
            ..plain
        };
        let declared = Self {
            pool: body.text("pool")?,
            role: role(&mut body)?,
            attempts: body.count("max_connection_attempts")?,
            worker,
            models: models(&mut body, &mut ignored)?,
            runtime: runtime(&mut body)?,
            health: limits::health(&mut body, &mut ignored)?,
            breaker: limits::breaker(&mut body, &mut ignored)?,
            ignored: Vec::new(),
        };
        body.leave(&mut ignored);
        Ok(Self {
            ignored,
            ..declared
        })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &WorkerUrl {
        &self.worker.url
    }

    /// What is added to a pool in which it does what `role` says.
    ///
    /// # Errors
    /// Where something said of it does not go with that.
    pub(super) fn added(&self, role: Role) -> Result<Added, Fault> {
        if self.worker.bootstrap_port.is_some() && role != Role::Prefill {
            let why = "only prefill workers have one: decode workers fetch from it";
            return Err(Fault::unfit("bootstrap_port", why));
        }
        Ok(Added {
            source: Source::Api,
            role,
            worker: self.worker.clone(),
            models: self.models.clone(),
            runtime: self.runtime,
            health: self.health.clone(),
            circuit_breaker: self.breaker.clone(),
        })
    }
}

fn connection_mode(body: &mut Fields) -> Result<(), Fault> {
    match body.text("connection_mode")?.as_deref() {
        None | Some("http") => Ok(()),
        Some("grpc") => Err(Fault::unfit(
            "connection_mode",
            "`grpc` is not available in this version",
        )),
        Some(_) => Err(Fault::Wrong {
            field: "connection_mode".to_owned(),
            expected: "`http`",
        }),
    }
}

fn role(body: &mut Fields) -> Result<Option<Role>, Fault> {
    let expected = "`regular`, `prefill` or `decode`";
    body.take("worker_type", expected, |value| match value.as_str()? {
        "regular" => Some(Role::Regular),
        "prefill" => Some(Role::Prefill),
        "decode" => Some(Role::Decode),
        _ => None,
    })
}

/// The engine: `runtime`, also called `runtime_type`; a provider of one's own is an external one.
fn runtime(body: &mut Fields) -> Result<Option<Runtime>, Fault> {
    let mut word = |name: &'static str| -> Result<Option<Runtime>, Fault> {
        let word = body.text(name)?;
        word.map(|word| word.parse())
            .transpose()
            .map_err(|error| Fault::unfit(name, format!("{error}")))
    };
    let (short, long) = (word("runtime")?, word("runtime_type")?);
    if short.is_some() && long.is_some() && short != long {
        return Err(Fault::unfit(
            "runtime_type",
            "`runtime` says something else",
        ));
    }
    let provider = match body.text("provider")?.as_deref() {
        None => None,
        Some("custom") => Some(Runtime::External),
        Some("openai" | "xai" | "anthropic" | "gemini") => {
            let why = "providers are not available in this version";
            return Err(Fault::unfit("provider", why));
        }
        Some(_) => {
            return Err(Fault::Wrong {
                field: "provider".to_owned(),
                expected: "`openai`, `xai`, `anthropic`, `gemini` or `custom`",
            });
        }
    };
    Ok(short.or(long).or(provider))
}

/// The names of the models: the ids of the cards in `models`, or `model_id`.
fn models(body: &mut Fields, ignored: &mut Vec<String>) -> Result<Vec<String>, Fault> {
    // What an answer said comes back in a request: this is how a worker that names no model is shown.
    let short = body.text("model_id")?.filter(|name| name != UNKNOWN);
    let Some(cards) = body.list("models")? else {
        return Ok(short.into_iter().collect());
    };
    if short.is_some() {
        ignored.push("model_id".to_owned());
    }
    let mut names: Vec<String> = Vec::with_capacity(cards.len());
    for (at, card) in cards {
        let name = match card {
            Value::String(_) => fields::text(card),
            card => match Fields::at(at.clone(), card) {
                Some(mut card) => {
                    let id = card.text("id")?;
                    card.leave(ignored);
                    id
                }
                None => None,
            },
        };
        let name = name.ok_or(Fault::Wrong {
            field: at,
            expected: "a card with an `id`, or the name of a model",
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn labels(body: &mut Fields) -> Result<BTreeMap<String, String>, Fault> {
    let Some(mut fields) = body.inner("labels")? else {
        return Ok(BTreeMap::new());
    };
    let pairs: Vec<(String, Value)> = fields.drain().collect();
    pairs
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            _ => Err(Fault::Wrong {
                field: fields.path(&name),
                expected: "a string",
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::units::Millis;

    fn read(body: &Value) -> Result<Declared, Fault> {
        Declared::read(Fields::of(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn a_url_is_enough() {
        let declared = read(&json!({ "url": "http://Host:80/" })).unwrap();
        assert_eq!(declared.url().as_str(), "http://host");
        assert_eq!((declared.pool.as_deref(), declared.role), (None, None));
        let added = declared.added(Role::Regular).unwrap();
        assert_eq!(added.worker, Worker::from(declared.url().clone()));
        assert_eq!(added.source, Source::Api);
        assert!(added.models.is_empty() && added.runtime.is_none());
        assert!(declared.ignored.is_empty());
    }

    #[test]
    fn everything_that_can_be_said() {
        let declared = read(&json!({
            "url": "http://h:8000", "pool": "p", "worker_type": "prefill", "connection_mode": "http",
            "models": [{ "id": "a", "aliases": ["b"] }, "c", { "id": "a" }], "model_id": "z",
            "runtime": "sglang", "runtime_type": "sglang", "provider": "custom",
            "labels": { "zone": "x" }, "priority": 100, "cost": 0.5, "api_key": "k",
            "bootstrap_port": 8998, "kv_role": "both", "max_connection_attempts": 3,
            "health": { "timeout_secs": 1, "x": 1 }, "resilience": { "cb_timeout_secs": 2 },
            "dp_rank": 3, "unheard_of": null,
        }))
        .unwrap();
        assert_eq!(
            (declared.pool.as_deref(), declared.role),
            (Some("p"), Some(Role::Prefill))
        );
        assert_eq!(declared.attempts, Some(3));
        let added = declared.added(Role::Prefill).unwrap();
        assert_eq!(added.models, ["a", "c"]);
        assert_eq!(added.runtime, Some(Runtime::Sglang));
        assert_eq!((added.worker.priority, added.worker.cost), (100, 0.5));
        assert_eq!(added.worker.labels["zone"], "x");
        assert_eq!(added.worker.api_key.unwrap().expose(), Some("k"));
        assert_eq!(added.worker.bootstrap_port, Some(8998));
        assert_eq!(added.health.timeout, Some(Millis::secs(1)));
        assert_eq!(added.circuit_breaker.timeout, Some(Millis::secs(2)));
        assert_eq!(
            declared.ignored,
            [
                "model_id",
                "models[0].aliases",
                "health.x",
                "kv_role",
                "dp_rank",
                "unheard_of"
            ]
        );
        let error = declared_with_port().added(Role::Decode).unwrap_err();
        assert!(
            error.to_string().starts_with("`bootstrap_port`: "),
            "{error}"
        );
    }

    fn declared_with_port() -> Declared {
        read(&json!({ "url": "http://h", "bootstrap_port": 1 })).unwrap()
    }

    #[test]
    fn one_model_has_a_short_form() {
        let declared = read(&json!({ "url": "http://h", "model_id": "m" })).unwrap();
        assert_eq!(declared.added(Role::Regular).unwrap().models, ["m"]);
    }

    #[test]
    fn a_worker_is_taken_back_as_it_is_shown() {
        let shown = json!({
            "id": "x", "url": "http://h", "model_id": "unknown", "models": [], "runtime": null,
            "bootstrap_port": null, "labels": {}, "is_healthy": true, "job_status": { "status": "failed" },
        });
        let declared = read(&shown).unwrap();
        assert!(declared.added(Role::Regular).unwrap().models.is_empty());
    }

    #[test]
    fn mistakes_name_their_field() {
        for (field, value) in [
            ("url", json!("h:1")),
            ("url", json!("grpcs://h")),
            ("url", json!("http://user:canary@h")),
            ("url", json!(1)),
            ("url", json!("")),
            ("models", json!({})),
            ("models[1]", json!(["a", {}])),
            ("models[0]", json!([3])),
            ("models[0].id", json!([{ "id": "" }])),
            ("model_id", json!("")),
            ("pool", json!(7)),
            ("worker_type", json!("both")),
            ("connection_mode", json!("grpc")),
            ("connection_mode", json!("HTTP")),
            ("runtime", json!("canary")),
            ("runtime", json!("openai")),
            ("runtime_type", json!(1)),
            ("provider", json!("openai")),
            ("provider", json!("canary")),
            ("labels", json!([])),
            ("labels.a", json!({ "a": null })),
            ("priority", json!(101)),
            ("cost", json!(0)),
            ("api_key", json!({ "file": "/etc/passwd" })),
            ("bootstrap_port", json!(0)),
            ("bootstrap_port", json!(65536)),
            ("max_connection_attempts", json!(0)),
            ("drain", json!(1)),
        ] {
            let mut body = json!({ "url": "http://h" });
            let key = field.split(['.', '[']).next().unwrap();
            body[key] = value;
            let message = read(&body).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("`{field}`")),
                "{field}: {message}"
            );
            assert!(!message.contains(":canary"), "{message}");
        }
        let message = read(&json!({})).unwrap_err().to_string();
        assert_eq!(message, "`url` is required");
        let both = json!({ "url": "http://h", "runtime": "vllm", "runtime_type": "mlx" });
        assert!(read(&both).is_err());
    }
}
