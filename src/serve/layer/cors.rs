//! Cross-origin rules of a listener: answers preflights, names the origin that may read.
//!
//! Source: the Fetch standard's CORS protocol.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Response, StatusCode};
use tower::{Layer, Service};

use super::Arrival;
use crate::plan::Cors as Rules;
use crate::serve::body::Body;
use crate::serve::error::respond;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, traceparent, tracestate, x-smg-error-code");
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");
const ALLOWED: &str = "content-type, authorization, x-api-key, anthropic-version, anthropic-beta, \
                       traceparent, tracestate";

/// Adds [`Cors`].
#[derive(Clone)]
pub(crate) struct CorsLayer(Rules);

impl CorsLayer {
    /// Rules as the listener has them.
    pub(crate) fn new(rules: Rules) -> Self {
        Self(rules)
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Cors<S> {
        Cors {
            inner,
            rules: Arc::new(self.0.clone()),
        }
    }
}

/// The layer.
#[derive(Clone)]
pub(crate) struct Cors<S> {
    inner: S,
    rules: Arc<Rules>,
}

pin_project_lite::pin_project! {
    /// A call whose response gets the origin header.
    pub(crate) struct Marked<F> {
        #[pin]
        inner: F,
        origin: Option<HeaderValue>,
        any: bool,
    }
}

impl<S, E> Service<Arrival> for Cors<S>
where
    S: Service<Arrival, Response = Response<Body>, Error = E>,
{
    type Response = Response<Body>;
    type Error = E;
    type Future = Either<Ready<Result<Response<Body>, E>>, Marked<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let origin = allowed(&self.rules, &arrival.headers);
        let any = matches!(*self.rules, Rules::Any);
        let preflight = arrival.method == Method::OPTIONS
            && arrival.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if preflight {
            let mut names = ALLOWED.to_owned();
            let plan = &arrival.call.snapshot.plan;
            let ids = plan.server.request_id_headers.iter().map(AsRef::as_ref);
            for name in ids.chain([&*plan.auth.api_key_header]) {
                names.push_str(", ");
                names.push_str(name);
            }
            let plain = HeaderValue::from_static("text/plain");
            let mut response = respond(arrival.call, StatusCode::NO_CONTENT, plain, Vec::new());
            let headers = response.headers_mut();
            headers.remove(CONTENT_TYPE);
            if mark(headers, origin, any) {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                if let Ok(names) = HeaderValue::try_from(names) {
                    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
                }
            }
            return Either::Left(ready(Ok(response)));
        }
        Either::Right(Marked {
            inner: self.inner.call(arrival),
            origin,
            any,
        })
    }
}

impl<F, E> Future for Marked<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut outcome = std::task::ready!(this.inner.poll(cx));
        if let Ok(response) = &mut outcome
            && mark(response.headers_mut(), this.origin.take(), *this.any)
        {
            response
                .headers_mut()
                .insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        Poll::Ready(outcome)
    }
}

/// Whether the rules let pages of this origin in.
pub(crate) fn allows(rules: &Rules, origin: &HeaderValue) -> bool {
    match rules {
        Rules::Any => true,
        Rules::Origins(origins) => origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin.as_bytes()),
    }
}

/// The origin to name in the answer, where the rules let it in.
fn allowed(rules: &Rules, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN).filter(|it| allows(rules, it))?;
    Some(match rules {
        Rules::Any => HeaderValue::from_static("*"),
        Rules::Origins(_) => origin.clone(),
    })
}

fn mark(headers: &mut HeaderMap, origin: Option<HeaderValue>, any: bool) -> bool {
    if !any {
        // A cache must not give one origin the answer meant for another.
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = origin else { return false };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_origins_are_named() {
        let rules = Rules::Origins(vec!["https://a.example".into()]);
        let with = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            headers
        };
        assert_eq!(
            allowed(&rules, &with("https://a.example")).unwrap(),
            "https://a.example"
        );
        assert!(allowed(&rules, &with("https://b.example")).is_none());
        assert!(allowed(&rules, &HeaderMap::new()).is_none());
        assert_eq!(
            allowed(&Rules::Any, &with("https://b.example")).unwrap(),
            "*"
        );
    }
}
