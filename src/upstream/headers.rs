//! Which headers cross the gateway, in both directions.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST,
    HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};

use crate::live::WorkerRef;

/// The request id, towards workers and towards clients.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// Keeps requests that carry the same value together.
pub const X_SMG_ROUTING_KEY: HeaderName = HeaderName::from_static("x-smg-routing-key");

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

const AGENT: HeaderValue = HeaderValue::from_static(concat!("smg/", env!("CARGO_PKG_VERSION")));

/// The headers of a client's request that every worker may see, all others left behind, as are those
/// that `connection` names. RFC 9110 §7.6.1.
pub fn forwardable(client: &HeaderMap, request_id: &HeaderValue) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(8);
    for name in [
        CONTENT_TYPE,
        TRACEPARENT,
        X_CORRELATION_ID,
        X_SMG_ROUTING_KEY,
    ] {
        if let Some(value) = client.get(&name) {
            out.insert(name, value.clone());
        }
    }
    for name in [ACCEPT, TRACESTATE] {
        for value in client.get_all(&name) {
            out.append(&name, value.clone());
        }
    }
    for (name, value) in client {
        // Some servers read `_` as `-`: to them such a name may be another one.
        if name.as_str().starts_with("x-request-id-") && !name.as_str().contains('_') {
            out.append(name.clone(), value.clone());
        }
    }
    for name in hop_by_hop(client) {
        out.remove(name);
    }
    out.insert(X_REQUEST_ID, request_id.clone());
    out.insert(USER_AGENT, AGENT);
    out
}

/// Adds what is meant for `worker` alone: its host and its credential. `client` is the client's
/// own credential, given only where the pool asks for it; a key of the worker goes before it.
pub fn address(headers: &mut HeaderMap, worker: WorkerRef<'_>, client: Option<&HeaderValue>) {
    headers.insert(HOST, worker.parts.host.clone());
    if let Some(credential) = worker.parts.authorization.as_ref().or(client) {
        headers.insert(AUTHORIZATION, credential.clone());
    }
}

/// Headers for the gateway's own requests to a worker.
pub fn own(worker: WorkerRef<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(USER_AGENT, AGENT);
    // What is read here is never inflated.
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    address(&mut headers, worker, None);
    headers
}

/// Takes out of a worker's answer what is between the worker and us (hop-by-hop headers, those
/// that `connection` names) and what a worker must not tell our clients. RFC 9110 §7.6.1.
pub fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in hop_by_hop(headers) {
            headers.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        SERVER,
        SET_COOKIE,
    ] {
        headers.remove(name);
    }
    if headers
        .keys()
        .any(|name| name.as_str().starts_with("x-smg-"))
    {
        let own: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-smg-"))
            .cloned()
            .collect();
        for name in own {
            headers.remove(name);
        }
    }
}

/// What the `connection` headers name. The framing and the type of the body are not theirs to name
/// away.
fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != CONTENT_LENGTH && *name != CONTENT_TYPE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    #[test]
    fn only_the_allow_list_goes_upstream() {
        let client = map(&[
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
            ("content-type", "application/json"),
            ("x-request-id-parent", "p"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-smg-target-worker", "0"),
            ("traceparent", "00-1-2-01"),
        ]);
        let sent = forwardable(&client, &HeaderValue::from_static("req-1"));
        let mut names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-type",
                "traceparent",
                "user-agent",
                "x-request-id",
                "x-request-id-parent"
            ]
        );
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_by_connection_stay_behind() {
        let mut answer = map(&[
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("server", "uvicorn"),
            ("set-cookie", "a=b"),
            ("x-smg-error-code", "forged"),
            ("content-type", "application/json"),
            ("x-ratelimit", "1"),
            ("x-ratelimit", "2"),
        ]);
        clean_answer(&mut answer);
        let kept: Vec<(&str, &str)> = answer
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        assert_eq!(
            kept,
            [
                ("content-type", "application/json"),
                ("x-ratelimit", "1"),
                ("x-ratelimit", "2")
            ]
        );
    }

    #[test]
    fn connection_cannot_name_the_framing_away() {
        let mut answer = map(&[
            ("connection", "content-length, content-type"),
            ("content-type", "text/html"),
        ]);
        clean_answer(&mut answer);
        assert!(answer.contains_key("content-type"));
    }
}
