//! Where a request would go, and why. Asks everything that a request asks, in the same order and with
//! the same code, but sends nothing, moves no cursor and teaches no memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::endpoint::{Ranking, check_pair, check_tenant, check_type};
use super::error::Refusal;
use super::routes;
use crate::api::error::ErrorCode;
use crate::api::prompt::Prompt;
use crate::api::{Endpoint, scan};
use crate::base::clock;
use crate::config::spec::{self, Policy};
use crate::dispatch::CallError;
use crate::dispatch::choose::{self, Chosen, Usable};
use crate::dispatch::target;
use crate::live::{LegParts, Snapshot, WorkerRef};
use crate::plan::{
    Destination, Found, Identity, Leg, Route, RouteIx, Target, TenantIx, Unroutable, is_glob,
};
use crate::policy::{Mode, Notes, Refused};
use crate::state::BreakerState;

/// Where a request would go, and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// 200 where a worker would be asked, else the status of the refusal.
    pub status: u16,
    /// Code of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the client would read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The listener it comes in at.
    pub listener: String,
    /// Who asks, as limits are counted.
    pub identity: String,
    /// The endpoint that the path leads to; absent for paths that lead to no worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The model that the client names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// How the name was found, step by step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// The model that the worker is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The entry whose memory is used: a declared name or glob, an advertised name, or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The legs: one, or prefill and decode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegExplained>,
}

/// The choice in one leg.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LegExplained {
    /// `regular`, `prefill` or `decode`.
    pub role: String,
    /// The policy.
    pub policy: String,
    /// Which algorithm of it runs, where it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// URL of the chosen worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Its opaque id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// The policy's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Prompt tokens that the policy expects in the worker's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_cached_tokens: Option<u32>,
    /// Every worker of the leg that serves the model.
    pub candidates: Vec<CandidateExplained>,
}

/// One worker that serves the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CandidateExplained {
    /// Its URL.
    pub worker: String,
    /// Its opaque id.
    pub worker_id: String,
    /// `candidate`, or why it is none.
    pub state: String,
    /// Its breaker: `closed`, `open` or `half_open`.
    pub breaker: String,
    /// Whether it was chosen.
    pub chosen: bool,
    /// Its priority.
    pub priority: u8,
    /// What a request there counts.
    pub cost: f64,
    /// Requests in flight.
    pub load: usize,
    /// The figures that the policy looked at, by name.
    pub scores: BTreeMap<String, f64>,
}

/// Explains `request` against `snapshot` as it stands now. `seed` decides what the policies leave to
/// chance.
pub fn explain(snapshot: &Snapshot, request: &spec::Request, seed: u64) -> Explanation {
    let mut told = Explanation {
        listener: request.listener.clone(),
        identity: Identity::Anonymous.to_string(),
        ..Explanation::default()
    };
    match follow(snapshot, request, seed, &mut told) {
        Ok(()) => told.status = 200,
        Err(refusal) => {
            told.status = refusal.status().as_u16();
            told.code = Some(refusal.code().to_string());
            told.message = Some(refusal.message().to_owned());
        }
    }
    told
}

fn follow(
    snapshot: &Snapshot,
    request: &spec::Request,
    seed: u64,
    told: &mut Explanation,
) -> Result<(), Refusal> {
    let Some(endpoint) = endpoint(snapshot, request)? else {
        told.steps.push("no worker is chosen for this path".into());
        return Ok(());
    };
    told.endpoint = Some(endpoint.label().to_owned());
    let tenant = tenant(snapshot, request)?;
    if let Some(tenant) = tenant.and_then(|ix| snapshot.plan.auth.tenant(ix)) {
        told.identity = Identity::Tenant(Arc::clone(&tenant.name)).to_string();
    }
    let headers = headers(request)?;
    check_type(&headers)?;
    let body = Bytes::from(serde_json::Value::Object(request.body.clone()).to_string());
    let found = scan::scan(&body)?;
    told.asked = found.model.as_deref().map(str::to_owned);
    let asked = found.model.as_deref();
    let (meant, target) = target::target(snapshot, endpoint, asked, &headers, seed)
        .map_err(|why| Refusal::unroutable(why, asked))?;
    check_tenant(snapshot, tenant, &meant)?;
    let (route, parts) = snapshot
        .route(target.route)
        .ok_or_else(|| Refusal::unroutable(Unroutable::Unknown, asked))?;
    let model = meant.model(target.rename, route);
    if let (Some(asked), Some(name)) = (asked, meant.rename()) {
        told.steps.push(format!("`{asked}` stands for `{name}`"));
    }
    describe(snapshot, &meant, &target, route, told);
    told.model = Some(model.to_string());
    check_pair(endpoint, route)?;
    if endpoint == Endpoint::Rerank {
        Ranking::check(&body, &found.fields, asked)?;
    }

    let pieces = [body.clone()];
    let asking = choose::Request {
        route: target.route,
        prompt: Prompt::new(endpoint, &pieces, &found.fields),
        model: &model,
        headers: &headers,
        mode: Mode::Peek,
        now: clock::now(),
        seed,
    };
    let mut refused = None;
    for leg in route.legs.iter() {
        let Some(parts) = parts.leg(leg.role) else {
            continue;
        };
        let (explained, outcome) = one_leg(snapshot, &asking, leg, parts);
        told.legs.push(explained);
        match outcome {
            Ok(()) => {}
            // A leg without anybody is what the client reads about, whatever the other says.
            Err(Refused::Nobody) if route.legs.is_pair() => {
                refused = match refused {
                    Some(CallError::NoLeg(_)) => refused,
                    _ => Some(CallError::NoLeg(leg.role)),
                };
            }
            Err(why) => {
                refused.get_or_insert_with(|| why.into());
            }
        }
    }
    refused.map_or(Ok(()), |why| Err(why.into()))
}

/// The endpoint that the request leads to; `None` for a path that asks no worker.
fn endpoint(snapshot: &Snapshot, request: &spec::Request) -> Result<Option<Endpoint>, Refusal> {
    let listener = snapshot
        .plan
        .listeners
        .iter()
        .find(|listener| *listener.name == *request.listener)
        .ok_or_else(|| {
            Refusal::bad_request(
                ErrorCode::InvalidType,
                format!("there is no listener `{}`", request.listener),
            )
        })?;
    let path = request.path.split('?').next().unwrap_or_default();
    let found = routes::find(path, listener.serve).ok_or_else(Refusal::unknown_url)?;
    let method = Method::from_bytes(request.method.as_bytes()).unwrap_or_default();
    match found.goal(&method) {
        Some(_) => Ok(found.endpoint()),
        None => Err(Refusal::method(found.allow)),
    }
}

/// The tenant that asks, where the request names one.
fn tenant(snapshot: &Snapshot, request: &spec::Request) -> Result<Option<TenantIx>, Refusal> {
    let Some(name) = request.identity.as_deref() else {
        return Ok(None);
    };
    let mut tenants = (0u32..).zip(&snapshot.plan.auth.tenants);
    match tenants.find(|(_, tenant)| *tenant.name == *name) {
        Some((ix, _)) => Ok(Some(TenantIx(ix))),
        None => Err(Refusal::bad_request(
            ErrorCode::InvalidType,
            format!("there is no tenant `{name}`"),
        )),
    }
}

fn headers(request: &spec::Request) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &request.headers {
        let malformed = || {
            Refusal::bad_request(
                ErrorCode::InvalidType,
                format!("`{name}` and its value are no header"),
            )
        };
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_str(value).map_err(|_| malformed())?;
        headers.insert(known, value);
    }
    Ok(headers)
}

fn describe(
    snapshot: &Snapshot,
    meant: &Found<'_>,
    target: &Target<'_>,
    route: &Route,
    told: &mut Explanation,
) {
    let pool_of = |ix: RouteIx| {
        let route = snapshot.route(ix).map(|(route, _)| route);
        route.map(|route| &*snapshot.plan.pool(route.pool).name)
    };
    told.entry = Some(route.entry.to_string());
    told.pool = pool_of(target.route).map(str::to_owned);
    let steps = &mut told.steps;
    if *route.entry == *"*" {
        steps.push("covered by workers that serve any model".to_owned());
    } else if is_glob(&route.entry) {
        steps.push(format!("covered by `{}`", route.entry));
    }
    let routes = &snapshot.plan.routes;
    let Some(own) = routes.destination(meant.destination) else {
        return;
    };
    let is_here = |destination: &Destination| {
        let mut shares = destination.shares.iter();
        shares.any(|share| share.route == target.route)
    };
    let wanted = meant.asked.unwrap_or(&own.label);
    let mut taken = own;
    if !is_here(own) {
        for fallback in &own.fallback {
            let Some(other) = routes.destination(fallback.destination) else {
                continue;
            };
            let outcome = if is_here(other) {
                "is asked instead"
            } else {
                "cannot either"
            };
            steps.push(format!(
                "no worker serves `{wanted}` now: `{}` {outcome}",
                fallback.model
            ));
            if is_here(other) {
                taken = other;
                break;
            }
        }
    }
    if taken.shares.len() > 1 {
        let total: f64 = taken.shares.iter().map(|share| share.weight).sum();
        let shares = taken.shares.iter().map(|share| {
            let name = pool_of(share.route).unwrap_or_default();
            format!("`{name}` {:.1} %", share.weight / total * 100.0)
        });
        let shares: Vec<String> = shares.collect();
        let pool = told.pool.as_deref().unwrap_or_default();
        steps.push(format!("drawn from {}: `{pool}`", shares.join(", ")));
    }
    if let Some(mirror) = &own.mirror {
        let pool = pool_of(mirror.route).unwrap_or_default();
        let percent = mirror.fraction * 100.0;
        steps.push(format!("{percent:.1} % of requests are copied to `{pool}`"));
    }
}

fn one_leg(
    snapshot: &Snapshot,
    asking: &choose::Request<'_>,
    leg: &Leg,
    parts: &LegParts,
) -> (LegExplained, Result<(), Refused>) {
    let usable = choose::usable(snapshot, leg, &[], asking.now);
    let notes = Notes::default();
    let outcome = choose::choose(snapshot, asking, leg.role, &usable, Some(&notes));
    let mut explained = LegExplained {
        role: leg.role.as_str().to_owned(),
        policy: leg.policy.as_str().to_owned(),
        algorithm: match &leg.policy {
            Policy::CacheAware(options) => Some(options.runs().to_string()),
            _ => None,
        },
        ..LegExplained::default()
    };
    let chosen = outcome.as_ref().ok();
    if let Some(chosen) = chosen {
        explained.worker = Some(chosen.worker.plan.key.to_string());
        explained.worker_id = Some(chosen.worker.parts.id_str().to_owned());
        explained.reason = Some(chosen.reason.to_owned());
        explained.expected_cached_tokens = chosen.expected.cached_tokens;
    }
    explained.candidates = leg
        .candidates
        .iter()
        .enumerate()
        .filter_map(|(position, ix)| {
            let worker = snapshot.worker(*ix)?;
            Some(candidate(
                snapshot, asking.now, worker, position, &usable, chosen,
            ))
        })
        .collect();
    for (index, name, value) in notes.into_inner() {
        let position = usable.get(index).map(|usable| usable.position);
        if let Some(told) = position.and_then(|at| explained.candidates.get_mut(at)) {
            told.scores.insert(name.to_owned(), value);
        }
    }
    debug_assert_eq!(parts.lanes.len(), leg.candidates.len());
    (explained, outcome.map(|_| ()))
}

fn candidate(
    snapshot: &Snapshot,
    now: Instant,
    worker: WorkerRef<'_>,
    position: usize,
    usable: &[Usable<'_>],
    chosen: Option<&Chosen<'_>>,
) -> CandidateExplained {
    let breaker = &worker.parts.cell.breaker;
    let breaker = breaker.state(&worker.plan.breaker, now);
    let state = if usable.iter().any(|usable| usable.position == position) {
        "candidate"
    } else if !worker.plan.is_admitted() {
        "not registered yet"
    } else if !snapshot.is_usable(worker) {
        "not ready"
    } else if snapshot.is_open_to(worker, now) {
        "of lower priority"
    } else if breaker == BreakerState::Open {
        "breaker open"
    } else {
        "breaker half open, enough requests try it"
    };
    CandidateExplained {
        worker: worker.plan.key.to_string(),
        worker_id: worker.parts.id_str().to_owned(),
        state: state.to_owned(),
        breaker: breaker.as_str().to_owned(),
        chosen: chosen.is_some_and(|chosen| chosen.worker.ix == worker.ix),
        priority: worker.plan.priority,
        cost: worker.plan.cost,
        load: worker.parts.cell.load(),
        scores: BTreeMap::new(),
    }
}
