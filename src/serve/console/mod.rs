//! The console: one page that shows the gateway, complete as it comes from the server. A script of its
//! own fetches the same again and changes what has changed; without it the page reloads itself.
//!
//! Nothing here changes anything, and nothing is loaded from elsewhere: the policy that goes with the
//! page names its style and its script by their hashes.

mod chart;
mod number;
mod page;
mod view;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};

use super::body::Body;
use super::error::{Refusal, respond};
use super::gate::Gate;
use super::overview;
use crate::api::error::ErrorCode;
use crate::dispatch::Call;

/// The route templates of the console.
pub(crate) const TEMPLATES: [&str; 3] = ["/", "/console", "/console/live"];

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// `GET /`
pub(crate) fn home(call: Box<Call>) -> Response<Body> {
    let mut response = respond(call, StatusCode::SEE_OTHER, HTML, "");
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/console"));
    response
}

/// `GET /console`
pub(crate) fn page(gate: &Gate, call: Box<Call>) -> Response<Body> {
    answer(gate, call, page::whole)
}

/// `GET /console/live`: the part of the page that changes.
pub(crate) fn live(gate: &Gate, call: Box<Call>) -> Response<Body> {
    answer(gate, call, page::part)
}

fn answer(gate: &Gate, call: Box<Call>, render: page::Render) -> Response<Body> {
    let overview = overview::look(gate, &call.snapshot);
    match render(&view::of(&overview)) {
        Ok(html) => respond(call, StatusCode::OK, HTML, html),
        Err(error) => {
            tracing::error!(%error, "the console cannot be rendered");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let message = "the console cannot be rendered";
            Refusal::new(status, ErrorCode::InternalError, message).into_response(call)
        }
    }
}

/// What browsers are told with every answer: nobody keeps, frames or reads it but who asked for it.
pub(crate) fn guard(headers: &mut HeaderMap) {
    if let Ok(policy) = HeaderValue::try_from(&**page::POLICY) {
        headers.insert(HeaderName::from_static("content-security-policy"), policy);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        let name = HeaderName::from_static(name);
        headers.insert(name, HeaderValue::from_static(value));
    }
}
