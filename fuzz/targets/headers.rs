//! Which headers cross: of a client's only those that are known, of a worker's all but those that are
//! between it and the gateway.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use smg::upstream::headers::{clean_answer, forwardable};

const KNOWN: &[&str] = &[
    "accept",
    "content-type",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    "x-request-id",
    "x-smg-routing-key",
];

const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "server",
    "set-cookie",
];

pub(crate) fn run(input: &[u8]) {
    let headers = read(input);
    let id = HeaderValue::from_static("the-id");
    let sent = forwardable(&headers, &id);
    for (name, value) in &sent {
        let name = name.as_str();
        assert!(
            KNOWN.contains(&name) || name.starts_with("x-request-id-") && !name.contains('_'),
            "{name}"
        );
        let own = matches!(name, "x-request-id" | "user-agent");
        assert!(
            own || headers.get_all(name).iter().any(|given| given == value),
            "{name}"
        );
        let may_be_named = own || name == "content-type";
        assert!(may_be_named || !is_named(&headers, name), "{name}");
    }
    assert_eq!(
        sent.get_all("x-request-id").iter().collect::<Vec<_>>(),
        [&id]
    );
    assert_eq!(sent.get_all("user-agent").iter().count(), 1);

    let mut cleaned = headers.clone();
    clean_answer(&mut cleaned);
    for name in cleaned.keys() {
        let name = name.as_str();
        assert!(!HOP_BY_HOP.contains(&name), "{name}");
        assert!(!name.starts_with("x-smg-"), "{name}");
        assert!(
            matches!(name, "content-length" | "content-type") || !is_named(&headers, name),
            "{name}"
        );
    }
    // What is left stands as often as it stood, in its order.
    for name in headers.keys() {
        let kept: Vec<_> = cleaned.get_all(name).iter().collect();
        assert!(kept.is_empty() || kept == headers.get_all(name).iter().collect::<Vec<_>>());
    }
    let mut again = cleaned.clone();
    clean_answer(&mut again);
    assert_eq!(again, cleaned);
}

/// Lines of `name: value`; what is no header is left out.
fn read(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(200) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.trim_ascii()),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whether a `connection` that can be read names it.
fn is_named(headers: &HeaderMap, name: &str) -> bool {
    let values = headers.get_all("connection").iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(name))
}
