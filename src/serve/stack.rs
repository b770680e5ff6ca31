//! The way of a request from a parsed head to an endpoint, outermost first.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tower::util::BoxCloneService;
use tower::{Service, ServiceBuilder, ServiceExt};

use super::body::{Body, Busy};
use super::endpoint;
use super::error::Refusal;
use super::gate::Gate;
use super::layer::{Arrival, CorsLayer, Panic, PanicLayer, allows};
use super::observe;
use super::request_id;
use super::routes::{self, Class, Goal};
use super::{console, identity, intake};
use crate::api::error::ErrorCode;
use crate::dispatch::{Call, Trace};
use crate::live::{Phase, Snapshot};
use crate::plan::{Cors, Limits};
use crate::telemetry::access;
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE};

type Layered = BoxCloneService<Arrival, Response<Body>, Infallible>;

/// Serves the requests of one connection.
#[derive(Clone)]
pub(crate) struct Stack {
    gate: Arc<Gate>,
    inner: Inner,
}

/// The layers of a listener. Most have no CORS, and then nothing is boxed for it.
#[derive(Clone)]
enum Inner {
    Plain(Panic<Core>),
    Cors(Layered),
}

/// Builds the stack of a connection.
pub(crate) fn build(gate: Gate) -> Stack {
    let gate = Arc::new(gate);
    let inner = layers(&gate, gate.listener.cors.as_ref());
    Stack { gate, inner }
}

/// The layers under these cross-origin rules, outermost first.
fn layers(gate: &Arc<Gate>, cors: Option<&Cors>) -> Inner {
    let core = Core {
        gate: Arc::clone(gate),
    };
    match cors {
        None => Inner::Plain(
            ServiceBuilder::new()
                // Outermost: a panic in any layer must not take the connection down.
                .layer(PanicLayer)
                .service(core),
        ),
        Some(rules) => Inner::Cors(
            ServiceBuilder::new()
                .layer(PanicLayer)
                // Outside the routes: preflights need neither a route nor a credential.
                .layer(CorsLayer::new(rules.clone()))
                .service(core)
                .boxed_clone(),
        ),
    }
}

impl Stack {
    /// The layers for this request. Of all that a listener is, only the
    /// cross-origin rules may change while a connection is kept.
    fn layers(&self, call: &Call, is_console: bool) -> Inner {
        // No other origin has any business with the console, whatever else the listener serves.
        let now = cors(&self.gate, &call.snapshot).filter(|_| !is_console);
        if now == self.gate.listener.cors.as_ref() {
            self.inner.clone()
        } else {
            layers(&self.gate, now)
        }
    }
}

/// The cross-origin rules for a request that sees this snapshot.
fn cors<'a>(gate: &'a Gate, snapshot: &'a Snapshot) -> Option<&'a Cors> {
    let own = &gate.listener;
    let mut listeners = snapshot.plan.listeners.iter();
    let now = listeners.find(|listener| listener.name == own.name);
    now.unwrap_or(own).cors.as_ref()
}

impl hyper::service::Service<Request<Incoming>> for Stack {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::start(&self.gate.standing);
        let version = request.version();
        let bodiless = request.method() == Method::HEAD;
        let (head, body) = request.into_parts();
        let arrival = enter(&self.gate, head, body);
        let traceparent = arrival.call.trace.as_ref().map(|trace| trace.header());
        let gate = Arc::clone(&self.gate);
        let is_console =
            gate.listener.serve.console && console::TEMPLATES.contains(&arrival.call.template);
        let mut inner = self.layers(&arrival.call, is_console);
        Box::pin(async move {
            let mut response = match &mut inner {
                Inner::Plain(service) => service.call(arrival).await?,
                Inner::Cors(service) => service.call(arrival).await?,
            };
            if let Some(traceparent) = traceparent {
                // What a worker says of a trace is not about the client's.
                response.headers_mut().remove(TRACESTATE);
                response.headers_mut().insert(TRACEPARENT, traceparent);
            }
            if is_console {
                // Refusals, too, and whatever a panic has left.
                console::guard(response.headers_mut());
            }
            if bodiless {
                // HTTP/1 leaves the body out by itself, HTTP/2 does not.
                response = without_body(response);
            }
            if version < Version::HTTP_2 && response.headers().contains_key(CONNECTION) {
                gate.standing.unread.store(true, Ordering::Relaxed);
            }
            let last = gate.live.phase() >= Phase::Draining
                || gate.standing.ending.load(Ordering::Relaxed);
            if version < Version::HTTP_2 && last {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| body.keeping(busy)))
        })
    }
}

/// The head of an answer, with the length that the body would have.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact() {
        let length = HeaderValue::from(length);
        response.headers_mut().insert(CONTENT_LENGTH, length);
    }
    response.map(Body::without_data)
}

/// Begins the call: its id, its snapshot, its clock.
fn enter(gate: &Gate, head: http::request::Parts, body: Incoming) -> Arrival {
    let path = head.uri.path();
    let found = routes::find(path, gate.listener.serve);
    let snapshot = gate.live.load();
    let endpoint = found.and_then(|found| found.endpoint());
    let id = request_id::choose(
        &head.headers,
        &snapshot.plan.server.request_id_headers,
        endpoint,
    );
    let template = found.map_or(routes::OTHER, |found| found.template);
    let mut call = Call::start(
        &gate.live,
        snapshot,
        head.method.clone(),
        template,
        path,
        id,
    );
    let tracing = &call.snapshot.plan.tracing;
    if tracing.enabled {
        let trace = Trace::begin(&head.headers, tracing.sample_ratio);
        call.trace = Some(Box::new(trace));
    }
    call.observe = Some(observe::finished);
    observe::arrived(&head.method, template);
    access::started(call.id_str(), head.method.as_str(), path);
    Arrival {
        call: Box::new(call),
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body,
    }
}

/// What lies inside the layers: checks of the head, then the endpoint.
#[derive(Clone)]
pub(crate) struct Core {
    gate: Arc<Gate>,
}

impl Service<Arrival> for Core {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        Box::pin(async move { Ok(route(&gate, arrival).await) })
    }
}

async fn route(gate: &Gate, arrival: Arrival) -> Response<Body> {
    let Arrival {
        mut call,
        method,
        uri,
        mut headers,
        version,
        body,
    } = arrival;
    let goal = match admit(
        gate,
        &mut call,
        (&method, &uri, version),
        &mut headers,
        &body,
    )
    .await
    {
        Ok(goal) => goal,
        Err(refusal) => {
            Box::pin(intake::discard(gate, &headers, body)).await;
            return refusal.into_response(call);
        }
    };
    let query = uri.query().unwrap_or_default();
    // What is rare is boxed, so that the future of an inference request stays small.
    match goal {
        Goal::Inference(endpoint) => endpoint::inference(gate, call, endpoint, headers, body).await,
        Goal::Models => endpoint::models(call),
        Goal::Model(id) => endpoint::model(call, id),
        Goal::Ask(question) => Box::pin(endpoint::ask(call, question)).await,
        Goal::EngineMetrics => Box::pin(endpoint::engine_metrics(call)).await,
        Goal::Alive => endpoint::alive(call),
        Goal::Ready => endpoint::ready(gate, call),
        Goal::FlushCache => Box::pin(endpoint::flush_cache(call)).await,
        Goal::Loads => Box::pin(endpoint::loads(call)).await,
        Goal::Workers => endpoint::workers(gate, call, query),
        Goal::Worker(id) => endpoint::worker(gate, call, id, query),
        Goal::AddWorker => Box::pin(endpoint::add_worker(gate, call, headers, body)).await,
        Goal::ReplaceWorker(id) => {
            Box::pin(endpoint::replace_worker(
                gate, call, id, query, headers, body,
            ))
            .await
        }
        Goal::PatchWorker(id) => {
            Box::pin(endpoint::patch_worker(gate, call, id, query, headers, body)).await
        }
        Goal::RemoveWorker(id) => Box::pin(endpoint::remove_worker(gate, call, id, query)).await,
        Goal::DrainPool(name) => {
            Box::pin(endpoint::drain_pool(gate, call, name, headers, body)).await
        }
        Goal::Reload => Box::pin(endpoint::reload(gate, call, query)).await,
        Goal::Upgrade => Box::pin(endpoint::upgrade(gate, call, query)).await,
        Goal::Config => endpoint::config(gate, call),
        Goal::ConfigStatus => endpoint::config_status(gate, call),
        Goal::Overview => endpoint::overview(gate, call),
        Goal::Snapshots => endpoint::snapshots(gate, call),
        Goal::Explain => Box::pin(endpoint::explain(gate, call, body)).await,
        Goal::Metrics => endpoint::metrics(gate, call),
        Goal::ConsoleHome => console::home(call),
        Goal::Console => console::page(gate, call),
        Goal::ConsoleLive => console::live(gate, call),
    }
}

/// Where a request goes, if its head lets it.
async fn admit<'a>(
    gate: &Gate,
    call: &mut Call,
    (method, uri, version): (&Method, &'a http::Uri, Version),
    headers: &mut HeaderMap,
    body: &Incoming,
) -> Result<Goal<'a>, Refusal> {
    check_head(uri, version, headers, &gate.listener.limits)?;
    let found = routes::find(uri.path(), gate.listener.serve).ok_or_else(Refusal::unknown_url)?;
    let goal = found
        .goal(method)
        .ok_or_else(|| Refusal::method(found.allow))?;
    let head = identity::Head { found, method, uri };
    // Before a byte of the body is read, and before a client that waits for a 100 gets it.
    if let Err(denied) = identity::judge(gate, call, head, headers).await {
        let mut refusal = Refusal::from(denied);
        if intake::is_long(body, headers) {
            refusal = refusal.and_close();
        }
        return Err(refusal);
    }
    if found.class == Class::Control
        && !method.is_safe()
        && let Some(origin) = headers.get(ORIGIN)
        && !cors(gate, &call.snapshot).is_some_and(|rules| allows(rules, origin))
    {
        return Err(Refusal::foreign_page());
    }
    intake::check_declared(body, call.snapshot.plan.server.max_payload)?;
    Ok(goal)
}

fn check_head(
    uri: &http::Uri,
    version: Version,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<(), Refusal> {
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_bytes {
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            ErrorCode::UriTooLong,
            format!(
                "the request target is longer than {} bytes",
                limits.max_uri_bytes
            ),
        )
        .and_close());
    }
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum::<usize>()
        + authority.len();
    if headers.len() > limits.max_headers || bytes > limits.max_header_bytes {
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ErrorCode::RequestHeadersTooLarge,
            format!(
                "the request has more than {} headers or {} bytes of them",
                limits.max_headers, limits.max_header_bytes
            ),
        )
        .and_close());
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Refusal::bad_request(
            ErrorCode::InvalidFraming,
            "a request has either a length or a transfer coding",
        )
        .and_close());
    }
    // Chunked once: applied twice it means something else, or nothing, to others along the way.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next().map(HeaderValue::as_bytes);
    if codings.next().is_some()
        || coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            ErrorCode::NotImplemented,
            "the only transfer coding understood is chunked, once",
        )
        .and_close());
    }
    check_host(authority, version, headers)
}

/// A request says once to whom it is, or several times the same: who decides by one name must not be
/// led past by another. RFC 9112 §3.2, RFC 9113 §8.3.1.
fn check_host(authority: &str, version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    let why = if hosts.next().is_some() {
        "a request has one host"
    } else {
        match host {
            None if version == Version::HTTP_11 => "a request of HTTP/1.1 has a host",
            Some(host)
                if !authority.is_empty() && !host.eq_ignore_ascii_case(authority.as_bytes()) =>
            {
                "the host of the request is not that of its target"
            }
            Some(_) | None => return Ok(()),
        }
    };
    Err(Refusal::bad_request(ErrorCode::InvalidFraming, why).and_close())
}
