//! The tables of a LiteLLM file beside `model_list`: each key to one of ours, or the reason why not.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::super::document::{Document, printable};
use super::super::hidden::Hidden;
use super::models::{fits, secret};
use super::yaml::{self, Yaml};
use super::{attempts, seconds};

/// What is set by one key.
pub(super) struct Setter<'a> {
    pub(super) document: &'a mut Document,
    pub(super) hidden: &'a mut Hidden,
}

/// The policy that comes nearest to a routing strategy.
pub(super) fn policy(strategy: &str) -> Option<&'static str> {
    Some(match strategy {
        "simple-shuffle" => "random",
        "least-busy"
        | "usage-based-routing"
        | "usage-based-routing-v2"
        | "latency-based-routing"
        | "cost-based-routing" => "least_load",
        _ => return None,
    })
}

impl Setter<'_> {
    /// Reads `router_settings`, `litellm_settings` or `general_settings`.
    pub(super) fn section(&mut self, name: &str, section: &Yaml) {
        for (key, value) in yaml::entries(section).into_iter().flatten() {
            let path = format!("{name}.{}", printable(key));
            if !value.is_null()
                && let Err(why) = self.key(key, value, &path)
            {
                self.document.leave(format!("`{path}`"), why);
            }
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// Why it has no counterpart.
    fn key(&mut self, key: &str, value: &Yaml, path: &str) -> Result<(), String> {
        let number = || yaml::number(value).ok_or("is no number");
        let duration = || {
            let duration = yaml::number(value).and_then(seconds);
            duration.ok_or("is no number of seconds above 0")
        };
        match key {
            "routing_strategy" => {
                let word = value.as_str().unwrap_or_default();
                let policy = policy(word).ok_or("is no strategy that is known")?;
                self.set("routing.policy", Value::from(policy), path);
                if policy == "least_load" {
                    self.document.note(format!(
                        "`{path}`: the nearest policy is `least_load`; `cache_aware` also looks at \
                         what a worker has in its cache"
                    ));
                }
            }
            "num_retries" => {
                let most = attempts(value).ok_or("is no number")?;
                self.set("reliability.retry.max_retries", Value::from(most), path);
                self.document
                    .note("`max_retries` counts the first attempt, so it is one more than there");
            }
            "retry_after" => {
                let wait = duration()?;
                self.set("reliability.retry.initial_backoff", Value::from(wait), path);
            }
            "timeout" | "request_timeout" => {
                let limit = duration()?;
                self.set("server.request_timeout", Value::from(limit), path);
            }
            "stream_timeout" => {
                let limit = duration()?;
                self.set("reliability.timeouts.first_token", Value::from(limit), path);
            }
            "allowed_fails" => {
                let fails = number()?;
                if !(0.0..1e6).contains(&fails) {
                    return Err("is no number of failures".to_owned());
                }
                #[expect(clippy::cast_possible_truncation, reason = "it is below a million")]
                let fails = fails as i64 + 1;
                let threshold = "reliability.circuit_breaker.failure_threshold";
                self.set(threshold, Value::from(fails), path);
                self.document
                    .note("`failure_threshold` counts failures in a row, not those of one minute");
            }
            "cooldown_time" => {
                let pause = duration()?;
                let timeout = "reliability.circuit_breaker.timeout";
                self.set(timeout, Value::from(pause), path);
            }
            "disable_cooldowns" => {
                let off = value.as_bool().ok_or("is neither true nor false")?;
                let enabled = "reliability.circuit_breaker.enabled";
                self.set(enabled, Value::from(!off), path);
            }
            "fallbacks" => self.fallbacks(value, path)?,
            "model_group_alias" => self.aliases(value, path)?,
            "json_logs" => {
                if value.as_bool() == Some(true) {
                    self.set("logging.format", Value::from("json"), path);
                }
            }
            "set_verbose" => {
                if value.as_bool() == Some(true) {
                    self.set("logging.level", Value::from("debug"), path);
                }
            }
            "master_key" => {
                let text = value.as_str().ok_or("is no text")?;
                if text.trim().is_empty() {
                    return Err("is empty".to_owned());
                }
                let key = secret(text, "SMG_API_KEY", self.hidden).ok_or("names no variable")?;
                self.set("auth.api_key", key, path);
                self.document.note(
                    "`auth.api_key` lets callers in; who may change the gateway is said by \
                     `[auth.control_plane]`, and keys of teams stand in `[[auth.tenants]]`",
                );
            }
            "global_max_parallel_requests" => {
                let most = number()?;
                if !(1.0..4e9).contains(&most) {
                    return Err("is no number of requests".to_owned());
                }
                #[expect(clippy::cast_possible_truncation, reason = "it is below the limit")]
                let most = most as i64;
                let limit = "reliability.admission.max_concurrent_requests";
                self.set(limit, Value::from(most), path);
            }
            "max_request_size_mb" => {
                let size = number()?;
                if !(1.0..1e6).contains(&size) {
                    return Err("is no size".to_owned());
                }
                #[expect(clippy::cast_possible_truncation, reason = "it is below a million")]
                let size = format!("{}MiB", size as i64);
                self.set("server.max_payload_size", Value::from(size), path);
            }
            "health_check_interval" => {
                let interval = duration()?;
                self.set("reliability.health.interval", Value::from(interval), path);
            }
            "background_health_checks" => {}
            key => return Err(reason(key).to_owned()),
        }
        Ok(())
    }

    /// Sets a key, unless one that was read before has set it.
    fn set(&mut self, key: &str, value: Value, from: &str) {
        if let Some(first) = self.document.comments.get(key) {
            let why = format!("`{first}` says it, too, and comes first");
            self.document.leave(format!("`{from}`"), why);
            return;
        }
        let mut table = &mut self.document.table;
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap_or(key);
        for part in parts {
            let inner = table
                .entry(part.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => table = inner,
                _ => return,
            }
        }
        table.insert(last.to_owned(), value);
        self.document
            .comments
            .insert(key.to_owned(), from.to_owned());
    }

    /// `[{model: [other, …]}, …]`.
    fn fallbacks(&mut self, value: &Yaml, path: &str) -> Result<(), String> {
        let items = value.as_sequence().ok_or("is not a list")?;
        for (i, item) in items.iter().enumerate() {
            let entries = yaml::entries(item).unwrap_or_default();
            if entries.is_empty() {
                let what = format!("`{path}[{i}]`");
                self.document
                    .leave(what, "is not a mapping of a model to others");
            }
            for (model, others) in entries {
                let place = format!("`{path}[{i}].{}`", printable(model));
                let others: Vec<&str> = match others {
                    Yaml::Sequence(others) => others.iter().filter_map(Yaml::as_str).collect(),
                    other => other.as_str().into_iter().collect(),
                };
                for other in others {
                    if let Err(why) = self.fallback(model, other) {
                        self.document.leave(&place, why);
                    }
                }
            }
        }
        Ok(())
    }

    fn fallback(&mut self, model: &str, other: &str) -> Result<(), String> {
        let edges = self.edges();
        if !edges.contains_key(model) {
            return Err("the model is not there".to_owned());
        }
        if !edges.contains_key(other) || other.contains('*') {
            return Err(format!("`{}` is not there", printable(other)));
        }
        // Whoever is reached from the other model must not be this one.
        let (mut seen, mut open) = (BTreeSet::new(), vec![other]);
        while let Some(name) = open.pop() {
            if name == model {
                return Err(format!("with `{}` it would be a circle", printable(other)));
            }
            if seen.insert(name) {
                open.extend(edges.get(name).into_iter().flatten().map(String::as_str));
            }
        }
        let Some(table) = self.model(model) else {
            return Ok(());
        };
        let list = table
            .entry("fallback")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list
            && !list.iter().any(|present| present.as_str() == Some(other))
        {
            list.push(Value::from(other));
            self.document.note(
                "a `fallback` is asked while no worker of the model can serve, not after an answer \
                 that failed; that is tried again at another worker",
            );
        }
        Ok(())
    }

    /// Each model with those that are asked in its place.
    fn edges(&self) -> BTreeMap<String, Vec<String>> {
        let models = self.document.table.get("models").and_then(Value::as_array);
        let models = models.into_iter().flatten().filter_map(Value::as_table);
        models
            .filter_map(|model| {
                let list = model.get("fallback").and_then(Value::as_array);
                let list = list.into_iter().flatten().filter_map(Value::as_str);
                let name = model.get("name")?.as_str()?.to_owned();
                Some((name, list.map(str::to_owned).collect()))
            })
            .collect()
    }

    fn model(&mut self, name: &str) -> Option<&mut Table> {
        let models = self.document.table.get_mut("models")?.as_array_mut()?;
        models
            .iter_mut()
            .filter_map(Value::as_table_mut)
            .find(|model| model.get("name").and_then(Value::as_str) == Some(name))
    }

    /// `{alias: model}`, or `{alias: {model: …, hidden: …}}`.
    fn aliases(&mut self, value: &Yaml, path: &str) -> Result<(), String> {
        let entries = yaml::entries(value).ok_or("is not a mapping")?;
        for (alias, target) in entries {
            let model = match yaml::get(target, "model") {
                Some(model) => model.as_str(),
                None => target.as_str(),
            };
            let why = match model {
                None => Some("is no name".to_owned()),
                Some(model) => self.alias(alias, model).err(),
            };
            if let Some(why) = why {
                let what = format!("`{path}.{}`", printable(alias));
                self.document.leave(what, why);
            }
        }
        Ok(())
    }

    fn alias(&mut self, alias: &str, model: &str) -> Result<(), String> {
        if !fits(alias) || alias.contains('*') {
            return Err("is no name".to_owned());
        }
        let models = self.document.table.get("models").and_then(Value::as_array);
        let taken = models.into_iter().flatten().any(|model| {
            let aliases = model.get("aliases").and_then(Value::as_array);
            let mut names = aliases.into_iter().flatten().chain(model.get("name"));
            names.any(|name| name.as_str() == Some(alias))
        });
        if taken {
            return Err("is a name already".to_owned());
        }
        if model.contains('*') {
            return Err("a pattern has no aliases".to_owned());
        }
        let table = self.model(model).ok_or("the model is not there")?;
        let list = table
            .entry("aliases")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(Value::from(alias));
        }
        Ok(())
    }
}

/// Why a key has no counterpart.
fn reason(key: &str) -> &'static str {
    const REASONS: &[(&str, &str)] = &[
        (
            "context_window_fallbacks",
            "an answer that refuses a long prompt goes to the caller; `fallback` is for workers that \
             cannot serve",
        ),
        (
            "content_policy_fallbacks",
            "an answer that refuses goes to the caller; `fallback` is for workers that cannot serve",
        ),
        (
            "default_fallbacks",
            "write `fallback` under each model that needs it",
        ),
        (
            "max_fallbacks",
            "each model names its own `fallback`, all of which are tried",
        ),
        ("retry_policy", "see `reliability.retry.status_codes`"),
        (
            "model_group_retry_policy",
            "see `reliability.retry` under a model",
        ),
        ("allowed_fails_policy", "see `reliability.circuit_breaker`"),
        ("redis_*", "gateways share no state"),
        ("cache*", "answers are not cached; workers cache prompts"),
        (
            "caching_groups",
            "answers are not cached; workers cache prompts",
        ),
        (
            "enable_pre_call_checks",
            "requests are not judged by their length",
        ),
        (
            "routing_strategy_args",
            "see the options of `routing.policy`",
        ),
        (
            "enable_tag_filtering",
            "requests do not choose workers by tags",
        ),
        ("provider_budget_config", "money is not counted"),
        ("default_litellm_params", "requests go on as they come"),
        (
            "default_max_parallel_requests",
            "see `reliability.admission`",
        ),
        ("drop_params", "requests go on as they come"),
        ("modify_params", "requests go on as they come"),
        ("callbacks", SEEN),
        ("success_callback", SEEN),
        ("failure_callback", SEEN),
        ("service_callback", SEEN),
        ("callback_settings", SEEN),
        (
            "turn_off_message_logging",
            "prompts and answers are never logged",
        ),
        ("redact_user_api_key_info", "keys are never logged"),
        ("guardrails", "requests are not judged"),
        ("max_budget", "money is not counted"),
        ("budget_duration", "money is not counted"),
        ("default_internal_user_params", KEYS),
        ("default_team_settings", KEYS),
        ("database_*", KEYS),
        (
            "store_model_in_db",
            "models stand in the file, which is reloaded when it changes",
        ),
        ("custom_auth", "see `[auth]`: keys, tenants and JWT"),
        ("enable_jwt_auth", "see `[auth.jwt]`"),
        ("litellm_jwtauth", "see `[auth.jwt]`"),
        ("alerting*", "see the alert rules for the metrics"),
        ("alert_*", "see the alert rules for the metrics"),
        (
            "pass_through_endpoints",
            "only the endpoints of the API are served",
        ),
        ("allowed_ips", "see `listeners[].address`, and a firewall"),
        ("max_parallel_requests", "see `reliability.admission`"),
        (
            "max_response_size_mb",
            "answers are not bounded; they are streamed",
        ),
        (
            "ui_*",
            "there is a console, on listeners that serve `console`",
        ),
        ("proxy_*", "money is not counted"),
        (
            "key_management_*",
            "secrets come from `{ env }`, `{ file }` or `{ credential }`",
        ),
        (
            "use_client_credentials_pass_through_routes",
            "see `pools[].forward_authorization`",
        ),
        (
            "forward_client_headers_to_llm_api",
            "see `pools[].forward_authorization`",
        ),
        ("infer_model_from_keys", "models are named by requests"),
        (
            "ssl_verify",
            "certificates are always verified; see `pools[].tls.ca_paths`",
        ),
        ("ssl_certificate", "see `pools[].tls`"),
    ];
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => pattern == key,
    };
    let found = REASONS.iter().find(|(pattern, _)| matches(pattern));
    found.map_or("has no counterpart", |(_, why)| *why)
}

const SEEN: &str = "see metrics, `[tracing]` and the log for what can be seen";
const KEYS: &str = "keys and limits stand in `[[auth.tenants]]`; there is no database";
