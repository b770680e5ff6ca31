//! The inference endpoints: one read, one scan, one change at most, then the worker's own words.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::admission::{self, Entered};
use super::{decision, quota, rerank};
use crate::api::error::ErrorCode;
use crate::api::scan::{Fields, ScanError};
use crate::api::skim::Cuts;
use crate::api::{Endpoint, Payload, members, scan};
use crate::base::clock;
use crate::dispatch::{self, Answered, Call, Job, Routed};
use crate::live::Snapshot;
use crate::plan::{DestinationIx, Found, Route, RouteIx, TenantIx, Unroutable};
use crate::serve::body::Body;
use crate::serve::error::Refusal;
use crate::serve::gate::Gate;
use crate::serve::intake::{self, Taken};
use crate::state::Reservation;
use crate::telemetry::metrics::{self as names, Metric};
use crate::upstream::headers::X_REQUEST_ID;

const X_SMG_ROUTED_WORKER_ID: HeaderName = HeaderName::from_static("x-smg-routed-worker-id");

/// Serves `endpoint`.
pub(crate) async fn inference(
    gate: &Gate,
    mut call: Box<Call>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Incoming,
) -> Response<Body> {
    if let Err(refusal) = quota::arrive(&mut call, &headers, &body) {
        Box::pin(intake::discard(gate, &headers, body)).await;
        return refusal.into_response(call);
    }
    let refused = |call, refusal: Refusal| {
        count_refused(endpoint, &refusal);
        refusal.into_response(call)
    };
    if let Err(refusal) = check_type(&headers) {
        Box::pin(intake::discard(gate, &headers, body)).await;
        return refused(call, refusal);
    }
    let server = &call.snapshot.plan.server;
    let (max, by) = (server.max_payload, call.started + server.request_timeout);
    let taken =
        match intake::read(body, &call.snapshot.memory, max, by, &gate.listener.limits).await {
            Ok(taken) => taken,
            Err(refusal) => return refused(call, refusal),
        };
    call.bytes_in = taken.payload.len() as u64;
    let Prepared {
        asked,
        mut aim,
        ranking,
        memory,
    } = match prepare(&mut call, endpoint, headers, taken) {
        Ok(prepared) => prepared,
        Err(refusal) => return refused(call, refusal),
    };
    if let Err(refusal) = quota::reserve(&mut call, endpoint, &asked.payload, &asked.fields) {
        return refusal.into_response(call);
    }
    match admission::enter(gate, &mut call, aim.destination).await {
        Ok(Entered::AtOnce) => {}
        Ok(Entered::Waited) => match asked.aim_anew(&mut call) {
            Ok(anew) => aim = anew,
            Err(refusal) => return refusal.into_response(call),
        },
        Err(refusal) => return refusal.into_response(call),
    }
    let copied = aim.copied.take();
    let asks_usage = quota::asks_usage(&call, endpoint, &asked.fields);
    let rename = aim.rename.clone().filter(|_| asks_usage);
    let mut job = match job(asked, aim, memory) {
        Ok(job) => job,
        Err(refusal) => return refusal.into_response(call),
    };
    if let Some(copied) = copied {
        copy(&call, &job, &copied);
    }
    if asks_usage && let Err(refusal) = ask_usage(&call, &mut job, rename.as_deref()) {
        return refusal.into_response(call);
    }
    let id = call.id.clone();
    match dispatch::run(call, job).await {
        Err((call, error)) => Refusal::failed(&call, error).into_response(call),
        Ok(answer) => {
            let shown = Shown::of(gate, answer.body());
            let mut response = match ranking {
                Some(ranking) if answer.status().is_success() => {
                    Box::pin(rerank::answer(ranking, answer)).await
                }
                _ => answer.map(Body::worker),
            };
            response.headers_mut().insert(X_REQUEST_ID, id);
            shown.put(response.headers_mut());
            response
        }
    }
}

/// A request that has been read and that waits for nothing but to be let in.
struct Prepared {
    asked: Asked,
    aim: Aim,
    ranking: Option<rerank::Ranking>,
    /// What the body takes up.
    memory: Reservation,
}

/// What a client asked for.
struct Asked {
    endpoint: Endpoint,
    headers: HeaderMap,
    payload: Payload,
    fields: Fields,
    /// Decides among the shares of a model.
    chance: u64,
    /// Who asks, where it is a tenant that is configured.
    tenant: Option<TenantIx>,
}

/// Where a request goes, as things stood when that was decided.
struct Aim {
    /// Of the model that the client meant, whichever share or fallback serves.
    destination: DestinationIx,
    route: RouteIx,
    /// The model that the worker is asked for.
    model: Arc<str>,
    /// The name to send instead of the client's.
    rename: Option<Arc<str>>,
    copied: Option<Copied>,
}

/// What a copy is to ask for: the model that the client meant.
struct Copied {
    destination: DestinationIx,
    /// As the workers of the copy know it.
    model: Arc<str>,
    /// The name to send instead of the client's.
    name: Option<Arc<str>>,
    /// Whether that is what the original sends.
    as_sent: bool,
}

fn prepare(
    call: &mut Call,
    endpoint: Endpoint,
    headers: HeaderMap,
    taken: Taken,
) -> Result<Prepared, Refusal> {
    let body_read = clock::now();
    let snapshot = Arc::clone(&call.snapshot);
    let Taken {
        payload,
        skimmed,
        mut memory,
    } = taken;
    let (skeleton, cuts) = match skimmed {
        Some(skimmer) => skimmer
            .skeleton(payload.pieces())
            .map(|(text, cuts)| (Some(text), cuts))?,
        None => (None, Cuts::default()),
    };
    let text = skeleton
        .as_deref()
        .or_else(|| payload.pieces().first().map(|piece| &**piece));
    let found = scan::scan(text.unwrap_or_default()).map_err(|error| cuts.error(error))?;
    let fields = cuts.fields(&found.fields);
    let model = match (found.fields.model, fields.model) {
        // So long that it was cut; it will lead nowhere, but it is a name.
        (Some(short), Some(whole)) if short.len() < whole.len() => Some(
            payload
                .text(whole)
                .map(Cow::Owned)
                .ok_or(ScanError::InvalidJson {
                    offset: whole.start,
                })?,
        ),
        _ => found.model,
    };
    let model = model.as_deref();
    if let (Some(trace), Some(model)) = (call.trace.as_mut(), model) {
        trace.name(model);
    }
    let asked = Asked {
        endpoint,
        headers,
        payload: payload.clone(),
        fields,
        chance: fastrand::u64(..),
        tenant: call.caller.tenant,
    };
    let aim = asked.aim(&snapshot, model)?;
    let (route, parts) = snapshot
        .route(aim.route)
        .ok_or_else(|| Refusal::unroutable(Unroutable::Unknown, model))?;
    let ranking = match endpoint {
        Endpoint::Rerank => {
            if !memory.grow(payload.len()) {
                return Err(Refusal::no_memory());
            }
            let whole = payload.pieces().concat();
            Some(rerank::Ranking::check(&whole, &fields, model)?)
        }
        _ => None,
    };
    call.routed = Some(Routed {
        endpoint,
        route: aim.route,
        model: Arc::clone(&parts.model),
        label: Arc::clone(&route.label),
        streaming: asked.streaming(),
        worker: None,
        placed: None,
        prefill: None,
        said: None,
        attempts: 0,
        reached: AtomicBool::new(false),
        body_read,
        queued: Duration::ZERO,
        sent: None,
        head: None,
        first_event: None,
        answered: None,
        last_event: None,
        usage: None,
        complete: false,
    });
    Ok(Prepared {
        asked,
        aim,
        ranking,
        memory,
    })
}

impl Asked {
    /// Whether a stream is to be the answer. A ranking is read whole, whatever the client says.
    fn streaming(&self) -> bool {
        self.endpoint != Endpoint::Rerank && self.fields.streaming()
    }

    /// Where it goes as things stand now. `model` is what it calls the model.
    fn aim(&self, snapshot: &Snapshot, model: Option<&str>) -> Result<Aim, Refusal> {
        let (endpoint, headers) = (self.endpoint, &self.headers);
        let (meant, target) =
            dispatch::target::target(snapshot, endpoint, model, headers, self.chance)
                .map_err(|why| Refusal::unroutable(why, model))?;
        check_tenant(snapshot, self.tenant, &meant)?;
        let (route, _) = snapshot
            .route(target.route)
            .ok_or_else(|| Refusal::unroutable(Unroutable::Unknown, model))?;
        check_pair(endpoint, route)?;
        let copied = match snapshot.mirror(meant.destination) {
            Some((mirror, _)) if snapshot.can_serve(route) => {
                let name = meant.rename();
                let route = snapshot.route(mirror.route);
                route.map(|(copies, _)| Copied {
                    destination: meant.destination,
                    model: meant.model(name, copies),
                    name: name.cloned(),
                    as_sent: name == target.rename,
                })
            }
            _ => None,
        };
        Ok(Aim {
            destination: meant.destination,
            route: target.route,
            model: meant.model(target.rename, route),
            rename: target.rename.cloned(),
            copied,
        })
    }

    /// The same after a wait, in which workers may have gone or come; `call` is told.
    fn aim_anew(&self, call: &mut Call) -> Result<Aim, Refusal> {
        let snapshot = Arc::clone(&call.snapshot);
        let named = self.fields.model.and_then(|span| self.payload.text(span));
        let aim = self.aim(&snapshot, named.as_deref())?;
        if let (Some(routed), Some((route, parts))) =
            (call.routed.as_mut(), snapshot.route(aim.route))
        {
            routed.route = aim.route;
            routed.model = Arc::clone(&parts.model);
            routed.label = Arc::clone(&route.label);
        }
        Ok(aim)
    }
}

/// What a worker is to be asked, in `memory`.
fn job(asked: Asked, aim: Aim, mut memory: Reservation) -> Result<Job, Refusal> {
    let streaming = asked.streaming();
    let Asked {
        endpoint,
        headers,
        payload,
        fields,
        ..
    } = asked;
    let body = renamed(&payload, &fields, aim.rename.as_ref(), &mut memory)?;
    Ok(Job {
        endpoint,
        route: aim.route,
        model: aim.model,
        headers,
        body,
        original: payload,
        fields,
        streaming,
        hides_usage: false,
        memory: Arc::new(memory),
    })
}

/// Has the worker tell the usage of its stream, which the client has not asked for.
fn ask_usage(call: &Call, job: &mut Job, rename: Option<&str>) -> Result<(), Refusal> {
    let Some(asking) = members::told_usage(&job.original, &job.fields, rename) else {
        return Ok(());
    };
    job.hides_usage = true;
    job.body = match asking.pieces() {
        // The one that is a copy of all.
        [whole] => {
            let room = call.snapshot.memory.try_reserve(whole.len());
            let room = room.ok_or_else(Refusal::no_memory)?;
            room.around(Vec::from(whole.clone())).into()
        }
        _ => asking,
    };
    Ok(())
}

/// Sends a copy of a request that was let in, where one is due.
fn copy(call: &Call, job: &Job, copied: &Copied) {
    let Some(mirror) = call.snapshot.mirror(copied.destination) else {
        return;
    };
    let snapshot = &call.snapshot;
    let marks = (&call.id, call.trace.as_ref().map(|trace| trace.link()));
    dispatch::mirror::send(snapshot, mirror, marks, fastrand::f64(), |_| {
        let (body, memory) = if copied.as_sent {
            (job.body.clone(), Arc::clone(&job.memory))
        } else {
            let mut memory = snapshot.memory.try_reserve(job.original.len())?;
            let name = copied.name.as_ref();
            let body = renamed(&job.original, &job.fields, name, &mut memory).ok()?;
            (body, Arc::new(memory))
        };
        Some(Job {
            endpoint: job.endpoint,
            route: job.route,
            model: Arc::clone(&copied.model),
            headers: job.headers.clone(),
            body,
            original: job.original.clone(),
            memory,
            fields: job.fields,
            streaming: job.streaming,
            hides_usage: false,
        })
    });
}

/// The body with another model name, if any, for which `memory` makes room where it is a copy.
fn renamed(
    payload: &Payload,
    fields: &Fields,
    name: Option<&Arc<str>>,
    memory: &mut Reservation,
) -> Result<Payload, Refusal> {
    let Some(name) = name else {
        return Ok(payload.clone());
    };
    let changed = members::renamed(payload, fields, name);
    if changed.pieces().len() == 1 && !memory.grow(changed.len()) {
        return Err(Refusal::no_memory());
    }
    Ok(changed)
}

/// Counts a request that was refused before it had a route.
fn count_refused(endpoint: Endpoint, refusal: &Refusal) {
    let (status, code) = (refusal.status().as_u16(), refusal.code().as_str());
    let Some(error_type) = dispatch::error_type(status, code) else {
        return;
    };
    let labels = [
        ("router_type", "http"),
        ("backend_type", "regular"),
        ("connection_mode", "http"),
        ("model", "unknown"),
        ("endpoint", endpoint.label()),
        ("error_type", error_type),
    ];
    names::counter(Metric::RouterRequestErrors, &labels).increment(1);
}

/// What the listener lets a client see of how its answer came about.
struct Shown {
    worker: Option<HeaderValue>,
    decision: Option<HeaderValue>,
}

impl Shown {
    fn of(gate: &Gate, answer: &Answered) -> Self {
        let call = answer.call();
        let worker = call.filter(|_| gate.listener.expose_worker_id);
        let worker = worker.and_then(|call| {
            let worker = call.routed.as_ref()?.worker?;
            Some(call.snapshot.worker(worker)?.parts.id.clone())
        });
        let decision = call.filter(|_| gate.listener.expose_decision);
        let decision = decision.and_then(decision::header);
        Self { worker, decision }
    }

    fn put(self, headers: &mut HeaderMap) {
        if let Some(worker) = self.worker {
            headers.insert(X_SMG_ROUTED_WORKER_ID, worker);
        }
        if let Some(decision) = self.decision {
            headers.insert(decision::X_SMG_DECISION, decision);
        }
    }
}

/// Whether the tenant may use the model. What stands in for that model is the operator's choice.
pub(crate) fn check_tenant(
    snapshot: &Snapshot,
    tenant: Option<TenantIx>,
    meant: &Found<'_>,
) -> Result<(), Refusal> {
    let Some(tenant) = tenant.and_then(|ix| snapshot.plan.auth.tenant(ix)) else {
        return Ok(());
    };
    let model = snapshot.plan.routes.meant(meant);
    match tenant.may_ask(meant.asked.unwrap_or(model), model) {
        true => Ok(()),
        false => Err(Refusal::model_not_allowed(meant.asked.unwrap_or_default())),
    }
}

/// Whether the workers of `route` do what `endpoint` asks for.
pub(crate) fn check_pair(endpoint: Endpoint, route: &Route) -> Result<(), Refusal> {
    if endpoint.generates() || !route.legs.is_pair() {
        return Ok(());
    }
    Err(Refusal::only_generated())
}

/// Whether the body is JSON, as far as the headers say.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let kind = value.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json")
                || kind.len() > 5 && kind.to_ascii_lowercase().ends_with("+json")
        });
    if !json {
        return Err(Refusal::bad_request(
            ErrorCode::JsonParseError,
            "the content type must be `application/json`",
        ));
    }
    let coded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::UnsupportedEncoding,
            "request bodies with a content encoding are not accepted",
        )
        .and_close());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_content_types() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            check_type(&headers).is_ok()
        };
        assert!(check("application/json") && check("Application/JSON; charset=utf-8"));
        assert!(check("application/vnd.api+json"));
        assert!(!check("text/plain") && !check("application/jsonp") && !check("+json"));
        assert!(check_type(&HeaderMap::new()).is_err());
    }
}
