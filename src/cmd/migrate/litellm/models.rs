//! `model_list`: deployments to pools and models.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::super::document::{Document, printable};
use super::super::flags::in_variable;
use super::super::hidden::{Hidden, upper};
use super::super::line;
use super::provider::{self, Provider};
use super::seconds;
use super::yaml::{self, Yaml};
use crate::config::spec::WorkerUrl;

/// A deployment that a worker can be.
#[derive(Debug)]
struct Deployment {
    /// Its place in the file.
    path: String,
    /// The name that clients ask for.
    name: String,
    /// The name that the worker is asked for.
    upstream: String,
    /// The engine, as the file writes it.
    runtime: &'static str,
    url: String,
    key: Option<Value>,
    /// Its share of the requests, where it says one.
    weight: Option<f64>,
    timeout: Option<String>,
    attempts: Option<i64>,
}

/// Adds pools and models for the deployments of `list`. With `weighted` their weights count.
pub(super) fn add(items: &[Yaml], weighted: bool, document: &mut Document, hidden: &mut Hidden) {
    let mut deployments = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let mut reader = Reader {
            path: format!("model_list[{i}]"),
            document,
            hidden,
        };
        deployments.extend(reader.deployment(item));
    }
    let mut names: Vec<&str> = Vec::new();
    for deployment in &deployments {
        if !names.contains(&deployment.name.as_str()) {
            names.push(&deployment.name);
        }
    }
    let mut builder = Builder {
        taken: BTreeSet::new(),
        pools: Vec::new(),
        models: Vec::new(),
        document,
    };
    for name in names {
        let own: Vec<&Deployment> = deployments.iter().filter(|d| d.name == name).collect();
        builder.model(name, &own, weighted);
    }
    let Builder { pools, models, .. } = builder;
    for (key, tables) in [("pools", pools), ("models", models)] {
        if !tables.is_empty() {
            let tables = tables.into_iter().map(Value::Table).collect();
            document.table.insert(key.to_owned(), Value::Array(tables));
        }
    }
}

struct Reader<'a> {
    path: String,
    document: &'a mut Document,
    hidden: &'a mut Hidden,
}

/// Keys of `litellm_params` that are read.
const READ: &[&str] = &[
    "model",
    "api_base",
    "base_url",
    "api_key",
    "weight",
    "rpm",
    "tpm",
    "timeout",
    "max_retries",
    "num_retries",
    "custom_llm_provider",
];

/// The keys that say where a deployment is.
const BASES: [&str; 2] = ["api_base", "base_url"];

/// Why other keys of `litellm_params` have no counterpart.
const PARAMS: &[(&str, &str)] = &[
    (
        "stream_timeout",
        "see `reliability.timeouts.first_token` under the model",
    ),
    (
        "max_parallel_requests",
        "see `admission` under the model, which bounds what it is asked at once",
    ),
    ("order", "see `priority` of a worker"),
    ("organization", "headers of a worker's own are not sent"),
    ("extra_headers", "headers of a worker's own are not sent"),
    ("headers", "headers of a worker's own are not sent"),
    ("api_version", "no parameters are added to the URL"),
    ("input_cost_per_token", "costs are not counted"),
    ("output_cost_per_token", "costs are not counted"),
    ("drop_params", "requests go on as they come"),
    ("additional_drop_params", "requests go on as they come"),
    (
        "merge_reasoning_content_in_choices",
        "answers go on as they come",
    ),
    (
        "mock_response",
        "answers come from workers; see `smg sample-worker`",
    ),
    (
        "tags",
        "see `labels` of a worker; requests do not choose by them",
    ),
    (
        "cooldown_time",
        "see `reliability.circuit_breaker.timeout` under the pool",
    ),
    (
        "use_in_pass_through",
        "nothing but the OpenAI API is passed through",
    ),
];

impl Reader<'_> {
    fn deployment(&mut self, item: &Yaml) -> Option<Deployment> {
        let Some(entries) = yaml::entries(item) else {
            self.leave("", "is not a mapping");
            return None;
        };
        for (key, _) in entries {
            match key {
                "model_name" | "litellm_params" => {}
                "model_info" => self.leave(".model_info", "describes the model and sets nothing"),
                key => self.leave(&format!(".{key}"), "has no counterpart"),
            }
        }
        let name = yaml::get(item, "model_name").and_then(Yaml::as_str);
        let Some(name) = name.filter(|name| fits(name)) else {
            self.leave(".model_name", "is no name: the entry is left out");
            return None;
        };
        let Some(params) = yaml::get(item, "litellm_params").filter(|p| p.is_mapping()) else {
            self.leave(".litellm_params", "is not a mapping: the entry is left out");
            return None;
        };
        let Some(model) = yaml::get(params, "model").and_then(Yaml::as_str) else {
            self.leave(".litellm_params.model", "is no text: the entry is left out");
            return None;
        };
        let (provider, upstream) = self.provider(params, model)?;
        if !fits(&upstream) {
            self.leave(".litellm_params.model", "is no name: the entry is left out");
            return None;
        }
        // What stands for the `*` would go into the other name: `a/*` with `openai/*` asks for less
        // than the client did.
        if name.contains('*') && upstream != name {
            self.leave(
                ".model_name",
                "a pattern keeps the name that the client asked for, and the worker knows another: \
                 write an entry for each model",
            );
            return None;
        }
        if upstream.contains('*') && upstream != name && upstream != "*" {
            self.leave(
                ".litellm_params.model",
                "a pattern is no model that a worker can be asked for: the entry is left out",
            );
            return None;
        }
        let (runtime, url, key) = match provider {
            Provider::Vllm => ("vllm", None, None),
            Provider::OpenAi(url, key) => ("external", url, key),
            Provider::Other => return None,
        };
        let url = self.url(params, url)?;
        let key = self.key(params, name, key);
        self.others(params);
        Some(Deployment {
            path: self.path.clone(),
            name: name.to_owned(),
            upstream,
            runtime,
            url,
            key,
            weight: ["weight", "rpm", "tpm"]
                .iter()
                .find_map(|key| yaml::get(params, key).and_then(yaml::number))
                .filter(|weight| *weight > 0.0),
            timeout: self.timeout(params),
            attempts: self.attempts(params),
        })
    }

    fn leave(&mut self, key: &str, why: &str) {
        let what = format!("`{}{key}`", self.path);
        self.document.leave(what, why);
    }

    /// The provider and the name that it knows the model by.
    fn provider(&mut self, params: &Yaml, model: &str) -> Option<(Provider, String)> {
        let written = yaml::get(params, "custom_llm_provider").and_then(Yaml::as_str);
        let (word, upstream) = match (written, model.split_once('/')) {
            (Some(word), Some((start, rest))) if start == word => (Some(word), rest),
            (Some(word), _) => (Some(word), model),
            (None, Some((word, rest))) if provider::named(word).is_some() => (Some(word), rest),
            (None, _) => (provider::of_model(model), model),
        };
        let has_base = BASES.iter().any(|key| yaml::get(params, key).is_some());
        let known = word.and_then(provider::named);
        match (known, word) {
            (Some(Provider::Other), Some(word)) => {
                let why = format!(
                    "the API of provider `{word}` is not available in this version: the entry is \
                     left out"
                );
                self.leave(".litellm_params.model", &why);
                None
            }
            (Some(provider), _) => Some((provider, upstream.to_owned())),
            (None, _) if has_base => Some((Provider::OpenAi(None, None), upstream.to_owned())),
            (None, _) => {
                self.leave(
                    ".litellm_params.model",
                    "names no provider that is known, and there is no `api_base`: the entry is left \
                     out",
                );
                None
            }
        }
    }

    /// The URL of the worker; request paths begin with `/v1` by themselves.
    fn url(&mut self, params: &Yaml, default: Option<&str>) -> Option<String> {
        let (key, text) = match BASES
            .iter()
            .find_map(|key| yaml::get(params, key).map(|value| (*key, value)))
        {
            Some((key, value)) => (key, value.as_str().unwrap_or_default()),
            None => match default {
                Some(url) => return Some(url.to_owned()),
                None => {
                    self.leave(
                        ".litellm_params.api_base",
                        "is missing: the entry is left out",
                    );
                    return None;
                }
            },
        };
        let place = format!(".litellm_params.{key}");
        if text.starts_with("os.environ/") {
            self.leave(
                &place,
                "a URL is written in the file, where `${NAME}` stands for a variable: the entry is \
                 left out",
            );
            return None;
        }
        let trimmed = text.trim().trim_end_matches('/');
        let base = trimmed.strip_suffix("/v1").unwrap_or(trimmed);
        match base.parse::<WorkerUrl>() {
            Ok(url) => {
                let path = url.as_str().split("://").nth(1).unwrap_or_default();
                if base == trimmed && path.contains('/') {
                    self.leave(
                        &place,
                        "does not end in `/v1`, which is what the gateway appends: see whether the \
                         worker answers there",
                    );
                }
                Some(url.as_str().to_owned())
            }
            Err(error) => {
                self.leave(&place, &format!("{error}: the entry is left out"));
                None
            }
        }
    }

    fn key(&mut self, params: &Yaml, model: &str, default: Option<&str>) -> Option<Value> {
        /// What people write where none is needed.
        const NONE: &[&str] = &["", "none", "null", "empty", "dummy", "fake-key", "no-key"];
        let Some(value) = yaml::get(params, "api_key").filter(|value| !value.is_null()) else {
            // The key of a service is not for whoever stands at another URL.
            let elsewhere = BASES.iter().any(|key| yaml::get(params, key).is_some());
            return default.filter(|_| !elsewhere).map(in_variable);
        };
        let Some(text) = value.as_str() else {
            self.leave(".litellm_params.api_key", "is no text");
            return None;
        };
        if NONE.contains(&text.to_ascii_lowercase().as_str()) {
            return None;
        }
        match secret(text, &format!("{}_API_KEY", upper(model)), self.hidden) {
            Some(value) => Some(value),
            None => {
                self.leave(".litellm_params.api_key", "does not name a variable");
                None
            }
        }
    }

    fn timeout(&mut self, params: &Yaml) -> Option<String> {
        let value = yaml::get(params, "timeout")?;
        let duration = yaml::number(value).and_then(seconds);
        if duration.is_none() {
            self.leave(".litellm_params.timeout", "is no number of seconds");
        }
        duration
    }

    fn attempts(&mut self, params: &Yaml) -> Option<i64> {
        let (key, value) = ["max_retries", "num_retries"]
            .iter()
            .find_map(|key| Some((*key, yaml::get(params, key)?)))?;
        let attempts = super::attempts(value);
        if attempts.is_none() {
            self.leave(&format!(".litellm_params.{key}"), "is no number");
        }
        attempts
    }

    fn others(&mut self, params: &Yaml) {
        for (key, _) in yaml::entries(params).into_iter().flatten() {
            if ["rpm", "tpm"].contains(&key) {
                self.leave(
                    &format!(".litellm_params.{key}"),
                    "rates of a worker are not limited; see `auth.tenants[].limits` for those of \
                     callers",
                );
            }
            if READ.contains(&key) {
                continue;
            }
            let reason = PARAMS.iter().find(|(name, _)| *name == key);
            let why = reason.map_or("requests go on as they come", |(_, why)| *why);
            self.leave(&format!(".litellm_params.{}", printable(key)), why);
        }
    }
}

/// Where a secret is that LiteLLM writes as `os.environ/NAME` or as itself; `None` if it names no
/// variable.
pub(super) fn secret(text: &str, wanted: &str, hidden: &mut Hidden) -> Option<Value> {
    match text.strip_prefix("os.environ/") {
        Some(name) => line::is_name(name).then(|| in_variable(name)),
        None => Some(in_variable(&hidden.variable(text, wanted))),
    }
}

/// Whether a text can be the name of a model.
pub(super) fn fits(name: &str) -> bool {
    !name.trim().is_empty() && !name.contains(|c: char| c.is_control() || "?[]{}".contains(c))
}

struct Builder<'a> {
    taken: BTreeSet<String>,
    pools: Vec<Table>,
    models: Vec<Table>,
    document: &'a mut Document,
}

impl Builder<'_> {
    /// The pools and the entry of one model.
    fn model(&mut self, name: &str, own: &[&Deployment], weighted: bool) {
        let first = own.iter().find_map(|d| d.weight);
        let uneven = weighted && own.len() > 1 && own.iter().any(|d| d.weight != first);
        // Workers of one pool are asked for the same name, and share alike.
        let mut shares: Vec<Vec<&Deployment>> = Vec::new();
        for deployment in own {
            let fits = |share: &&mut Vec<&Deployment>| {
                share.iter().all(|other| {
                    other.upstream == deployment.upstream
                        && other.runtime == deployment.runtime
                        && other.url != deployment.url
                        && (!uneven || other.weight == deployment.weight)
                })
            };
            match shares.iter_mut().find(fits) {
                Some(share) => share.push(deployment),
                None => shares.push(vec![deployment]),
            }
        }
        let mut split = Vec::new();
        for share in &shares {
            let pool = self.pool(name, share);
            let each = match uneven {
                true => share.first().and_then(|d| d.weight).unwrap_or(1.0),
                false => 1.0,
            };
            let count = f64::from(u32::try_from(share.len()).unwrap_or(u32::MAX));
            let upstream = share.first().map_or(name, |d| d.upstream.as_str());
            split.push((pool, each * count, upstream.to_owned()));
        }
        let mut model = Table::new();
        model.insert("name".to_owned(), Value::from(name));
        match split.as_slice() {
            [(pool, _, upstream)] if upstream == name || upstream == "*" => {
                model.insert("pool".to_owned(), Value::from(pool.as_str()));
            }
            shares => {
                let shares = shares.iter().map(|(pool, weight, upstream)| {
                    let mut share = Table::new();
                    share.insert("pool".to_owned(), Value::from(pool.as_str()));
                    share.insert("weight".to_owned(), whole(*weight));
                    if upstream != name && upstream != "*" {
                        share.insert("model".to_owned(), Value::from(upstream.as_str()));
                    }
                    Value::Table(share)
                });
                model.insert("split".to_owned(), Value::Array(shares.collect()));
            }
        }
        self.reliability(&mut model, own);
        let path = format!("models[{}]", self.models.len());
        let places: Vec<&str> = own.iter().map(|d| d.path.as_str()).collect();
        self.document.comments.insert(path, places.join(", "));
        self.models.push(model);
    }

    /// Deadline and attempts of a model: those of its first deployment that says any.
    fn reliability(&mut self, model: &mut Table, own: &[&Deployment]) {
        let mut differs = |same: bool, key: &str| {
            if let (false, Some(first)) = (same, own.first()) {
                self.document.leave(
                    format!("`{}.litellm_params.{key}`", first.path),
                    "differs between deployments of one model; the first holds for all",
                );
            }
        };
        let mut reliability = Table::new();
        let mut timeouts = own.iter().filter_map(|d| d.timeout.as_ref());
        if let Some(timeout) = timeouts.next() {
            differs(timeouts.all(|other| other == timeout), "timeout");
            let total = [("total".to_owned(), Value::from(timeout.as_str()))];
            let total = Value::Table(Table::from_iter(total));
            reliability.insert("timeouts".to_owned(), total);
        }
        let mut attempts = own.iter().filter_map(|d| d.attempts);
        if let Some(most) = attempts.next() {
            differs(attempts.all(|other| other == most), "max_retries");
            let retry = [("max_retries".to_owned(), Value::from(most))];
            let retry = Value::Table(Table::from_iter(retry));
            reliability.insert("retry".to_owned(), retry);
        }
        if !reliability.is_empty() {
            model.insert("reliability".to_owned(), Value::Table(reliability));
        }
    }

    /// Adds a pool of these deployments and returns its name.
    fn pool(&mut self, model: &str, share: &[&Deployment]) -> String {
        let name = self.name(model);
        let mut pool = Table::new();
        pool.insert("name".to_owned(), Value::from(name.as_str()));
        let runtime = share.first().map_or("external", |d| d.runtime);
        pool.insert("runtime".to_owned(), Value::from(runtime));
        let workers = share.iter().map(|deployment| {
            let mut worker = Table::new();
            worker.insert("url".to_owned(), Value::from(deployment.url.as_str()));
            // What a service of somebody else advertises is more than what is meant.
            if deployment.runtime == "external" && deployment.upstream != "*" {
                worker.insert(
                    "model".to_owned(),
                    Value::from(deployment.upstream.as_str()),
                );
            }
            if let Some(key) = &deployment.key {
                worker.insert("api_key".to_owned(), key.clone());
            }
            match worker.len() {
                1 => Value::from(deployment.url.as_str()),
                _ => Value::Table(worker),
            }
        });
        pool.insert("workers".to_owned(), Value::Array(workers.collect()));
        let path = format!("pools[{}]", self.pools.len());
        if runtime == "external" {
            let off = [("enabled".to_owned(), Value::Boolean(false))];
            pool.insert("health".to_owned(), Value::Table(Table::from_iter(off)));
            self.document.comments.insert(
                format!("{path}.health.enabled"),
                "what is no engine of your own is not probed".to_owned(),
            );
        }
        let places: Vec<&str> = share.iter().map(|d| d.path.as_str()).collect();
        self.document.comments.insert(path, places.join(", "));
        self.pools.push(pool);
        name
    }

    /// A name for a pool that is not taken, after that of the model.
    fn name(&mut self, model: &str) -> String {
        let fold = |c: char| match c.is_ascii_alphanumeric() || "._-".contains(c) {
            true => c.to_ascii_lowercase(),
            false => '-',
        };
        let slug: String = model.chars().take(60).map(fold).collect();
        let slug = match slug.trim_matches('-') {
            "" => "models",
            slug => slug,
        };
        let mut name = slug.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{slug}-{number}");
            number += 1;
        }
        name
    }
}

/// A number without a fraction where it has none.
fn whole(number: f64) -> Value {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is a whole number below the limit"
    )]
    match number.fract() == 0.0 && number < 1e15 {
        true => Value::Integer(number as i64),
        false => Value::Float(number),
    }
}
