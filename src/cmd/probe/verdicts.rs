//! What workers say, compared with what the configuration says of them.

use std::collections::BTreeSet;

use super::Found;
use super::meeting::Outcome;
use super::workers::Declared;
use crate::base::clock;
use crate::config::Severity;
use crate::config::spec::{Runtime, Spec};
use crate::control::{Met, Unwell};
use crate::live::{Snapshot, signals};
use crate::plan::{PoolIx, is_glob, matches};

/// Names that are listed before the rest is counted.
const SHOWN: usize = 5;

/// What is wrong with one worker.
pub(super) fn of_worker(
    worker: &Declared<'_>,
    outcome: &Outcome,
    spec: &Spec,
    found: &mut Found<'_>,
) {
    let key = format!("{}.url", worker.at);
    let name = format!("worker `{}`", worker.key);
    let mut warn = |slug, key: &str, what: String, help: Option<String>| {
        found.add(Severity::Warning, slug, key, format!("{name} {what}"), help);
    };
    let (well, met) = match outcome {
        Outcome::Failed(trouble) => {
            let own = trouble.key.and_then(|key| own_key(worker, key));
            warn(
                trouble.slug,
                own.as_deref().unwrap_or(&key),
                trouble.what.clone(),
                trouble.help.clone(),
            );
            return;
        }
        Outcome::Met { well, met } => (well, met),
    };
    if let Err(Unwell::Status { path, status }) = well {
        let help = match status.as_u16() {
            401 | 403 => Some("it wants a key, or another one: see `api_key`".to_owned()),
            404 => Some("`health.endpoint` of the pool says which path is asked".to_owned()),
            300..=399 => {
                Some("redirects are not followed: is this the URL of the engine?".to_owned())
            }
            _ => None,
        };
        warn(
            "worker-unwell",
            &key,
            format!("is not well: `{path}` answers {}", status.as_u16()),
            help,
        );
    }
    match &met.models {
        Err(status) if matches!(status.as_u16(), 401 | 403) => {
            let what = match worker.worker.api_key.is_some() || worker.pool.api_key.is_some() {
                true => "does not take its `api_key`",
                false => "wants a key",
            };
            let what = format!("{what}: `/v1/models` answers {}", status.as_u16());
            let help = "`api_key` of the worker or of its pool is what it is sent".to_owned();
            let own = own_key(worker, "api_key");
            warn(
                "worker-key",
                own.as_deref().unwrap_or(&key),
                what,
                Some(help),
            );
        }
        Err(status) => {
            let what = format!("lists no models: `/v1/models` answers {}", status.as_u16());
            let known = worker.worker.model.is_some() || !met.learned.models.is_empty();
            if !known {
                let help = "its `model` can be said in the file".to_owned();
                warn("worker-models", &key, what, Some(help));
            }
        }
        Ok(_) => models(worker, met, spec, &key, &mut warn),
    }
    engine(worker, met, &key, &mut warn);
}

fn models(
    worker: &Declared<'_>,
    met: &Met,
    spec: &Spec,
    key: &str,
    warn: &mut impl FnMut(&'static str, &str, String, Option<String>),
) {
    let listed = &met.learned.models;
    if listed.is_empty() {
        if worker.worker.model.is_none() {
            let what = "lists no models: there are none in the answer of `/v1/models`".to_owned();
            let help = "is this the URL of an engine? its `model` can be said in the file";
            warn("worker-models", key, what, Some(help.to_owned()));
        }
        return;
    }
    if let Some(model) = &worker.worker.model {
        if !listed.contains(model) {
            let at = format!("{}.model", worker.at);
            let what = format!("serves {}, not `{model}`", names(listed));
            let help = "requests for the declared name are sent to it all the same".to_owned();
            warn("worker-model", &at, what, Some(help));
        }
        return;
    }
    let asked: Vec<&str> = aims(spec)
        .filter(|aim| aim.pool.is_none_or(|pool| worker.pool.name == *pool))
        .map(|aim| aim.model)
        .collect();
    let serves = |asked: &&str| listed.iter().any(|name| matches(asked, name));
    if !asked.is_empty() && !asked.iter().any(serves) {
        let what = format!(
            "serves {}, and pool `{}` is asked for {}",
            names(listed),
            worker.pool.name,
            names(&asked)
        );
        let help = "it gets no such requests; `model` of the worker can say what it serves";
        warn("worker-model", key, what, Some(help.to_owned()));
    }
}

/// What a pool is asked for by a model of the file.
struct Aim<'a> {
    /// The key that says so.
    key: String,
    /// `None`: the only one.
    pool: Option<&'a str>,
    /// A name or a glob.
    model: &'a str,
}

fn aims(spec: &Spec) -> impl Iterator<Item = Aim<'_>> {
    spec.models.iter().enumerate().flat_map(|(i, model)| {
        let whole = model.split.is_empty().then(|| Aim {
            key: format!("models[{i}].name"),
            pool: model.pool.as_deref(),
            model: &model.name,
        });
        let shares = model.split.iter().enumerate().map(move |(j, share)| Aim {
            key: format!("models[{i}].split[{j}]"),
            pool: Some(&share.pool),
            model: share.model.as_ref().unwrap_or(&model.name),
        });
        whole.into_iter().chain(shares)
    })
}

fn engine(
    worker: &Declared<'_>,
    met: &Met,
    key: &str,
    warn: &mut impl FnMut(&'static str, &str, String, Option<String>),
) {
    if let (Some(declared), Some(said)) = (worker.pool.runtime, met.engine)
        && declared != said
        && declared != Runtime::External
    {
        let what = format!("runs `{said}`, and its pool says `{declared}`");
        let at = format!("pools[{}].runtime", worker.pool_at);
        warn(
            "worker-engine",
            key,
            what,
            Some(format!("`{at}` is how it is spoken to")),
        );
    }
    if worker.pool.dp_aware {
        let runtime = worker.pool.runtime.or(met.learned.runtime);
        if let Err(error) = met.learned.ranks(runtime) {
            warn(
                "worker-ranks",
                key,
                format!("cannot be taken apart into ranks: {error}"),
                None,
            );
        }
    }
}

/// Models of the file that none of the workers that answer serves.
pub(super) fn of_models(spec: &Spec, meetings: &[(&Declared<'_>, Outcome)], found: &mut Found<'_>) {
    for Aim { key, pool, model } in aims(spec) {
        if is_glob(model) {
            continue;
        }
        let of_pool = meetings
            .iter()
            .filter(|(worker, _)| pool.is_none_or(|pool| worker.pool.name == *pool));
        let served: Vec<Vec<String>> = of_pool
            .filter_map(|(worker, outcome)| match (outcome, &worker.worker.model) {
                (Outcome::Met { .. }, Some(declared)) => Some(vec![declared.clone()]),
                (Outcome::Met { met, .. }, None) => Some(met.learned.models.clone()),
                (Outcome::Failed(_), _) => None,
            })
            .collect();
        let serves =
            |names: &Vec<String>| names.is_empty() || names.iter().any(|name| name == model);
        if served.is_empty() || served.iter().any(serves) {
            continue;
        }
        let others: BTreeSet<String> = served.into_iter().flatten().collect();
        let others: Vec<String> = others.into_iter().collect();
        let pool = pool
            .map(|pool| format!(" of pool `{pool}`"))
            .unwrap_or_default();
        found.add(
            Severity::Warning,
            "model-unserved",
            &key,
            format!("no worker{pool} that answers serves `{model}`"),
            Some(format!("they serve {}", names(&others))),
        );
    }
}

/// Policies that would decide without the load of engines that they want to know.
pub(super) fn of_policies(spec: &Spec, snapshot: &Snapshot, found: &mut Found<'_>) {
    for signal in signals(snapshot, clock::now()) {
        if !signal.is_degraded() {
            continue;
        }
        let at = spec
            .models
            .iter()
            .position(|model| model.name == *signal.model);
        let own = at.map(|at| format!("models[{at}].policy"));
        let keys = own.into_iter().chain(["routing.policy".to_owned()]);
        let key = keys.into_iter().find(|key| found.origins.is_set(key));
        let name = at.map(|at| format!("models[{at}].name"));
        let pool = || {
            let mut routes = snapshot.plan.routes.all.iter();
            let route = routes.find(|route| *route.label == *signal.model)?;
            let PoolIx(pool) = route.pool;
            Some(format!("pools[{pool}].name"))
        };
        let key = key.or(name).or_else(pool);
        let key = key.unwrap_or_else(|| "routing.policy".to_owned());
        // A route that is there for whatever name a client says.
        let model = match signal.model {
            "unknown" if at.is_none() => "models that the file does not name".to_owned(),
            model => format!("model `{model}`"),
        };
        found.add(
            Severity::Warning,
            "policy-degraded",
            &key,
            format!(
                "policy `{}` of {model} would run without the load of engines: {}",
                signal.policy,
                signal.reason()
            ),
            Some(
                "SGLang tells it at `/v1/loads`, vLLM at `/metrics`; without it the requests that \
                 the gateway itself has in flight count"
                    .to_owned(),
            ),
        );
    }
}

/// The key of the worker or of its pool, whichever is written.
fn own_key(worker: &Declared<'_>, key: &str) -> Option<String> {
    let tls = |tls: &crate::config::spec::ClientTls| match key {
        "tls.server_name" => tls.server_name.is_some(),
        "tls.ca_paths" => !tls.ca_paths.is_empty(),
        _ => false,
    };
    let (own, pools) = match key {
        "api_key" => (
            worker.worker.api_key.is_some(),
            worker.pool.api_key.is_some(),
        ),
        _ => (tls(&worker.worker.tls), tls(&worker.pool.tls)),
    };
    match (own, pools) {
        (true, _) => Some(format!("{}.{key}", worker.at)),
        // What is wrong is wrong with one worker: its place says more than the pool's.
        (false, _) => None,
    }
}

fn names<S: std::fmt::Display>(all: &[S]) -> String {
    let shown: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
