//! Pages of other origins.

use bytes::Bytes;
use http::Method;

use crate::scene::{ask, ask_stream, assert_error, gateway, plain_engine, with};
use crate::support::client::{Answer, json_request, request};
use crate::support::{Connection, Smg};

const OURS: &str = "https://chat.example.com";

/// The answer to the request with this origin.
async fn from(
    smg: &Smg,
    origin: &str,
    asked: http::Request<http_body_util::Full<Bytes>>,
) -> Answer {
    let mut connection = Connection::h1(smg.main()).await;
    connection.send(with(asked, "origin", origin)).await
}

async fn preflight(smg: &Smg, origin: &str, path: &str) -> Answer {
    let asked = request(Method::OPTIONS, path, Bytes::new());
    let asked = with(asked, "access-control-request-method", "POST");
    let asked = with(
        asked,
        "access-control-request-headers",
        "authorization,content-type",
    );
    from(smg, origin, asked).await
}

#[track_caller]
fn assert_no_cors(answer: &Answer) {
    let named: Vec<_> = answer
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .collect();
    assert!(named.is_empty(), "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn off_unless_an_origin_is_listed() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let answer = preflight(&smg, OURS, "/v1/chat/completions").await;
    assert_error(&answer, 405, "method_not_allowed");
    assert_no_cors(&answer);
    let answer = from(&smg, OURS, json_request("/v1/completions", &ask())).await;
    assert_eq!(answer.status, 200);
    assert_no_cors(&answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_origin_may_ask_and_read() {
    let engine = plain_engine().await;
    let more = format!(
        "[listeners.cors]\nallowed_origins = [\"{OURS}\", \"http://localhost:3000\"]\n\
         [server]\nrequest_id_headers = [\"x-request-id\", \"x-own-id\"]\n"
    );
    let smg = gateway(&[&engine], &more).await;
    for origin in [OURS, "http://localhost:3000"] {
        let answer = preflight(&smg, origin, "/v1/chat/completions").await;
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(
            answer.header("access-control-allow-methods"),
            "GET, POST, PUT, PATCH, DELETE, OPTIONS"
        );
        let names: Vec<_> = answer
            .header("access-control-allow-headers")
            .split(", ")
            .collect();
        for name in [
            "content-type",
            "authorization",
            "x-api-key",
            "x-smg-api-key",
            "anthropic-version",
            "anthropic-beta",
            "traceparent",
            "tracestate",
            "x-request-id",
            "x-own-id",
        ] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert_eq!(answer.header("access-control-max-age"), "3600");
        assert!(
            answer
                .header("vary")
                .to_ascii_lowercase()
                .contains("origin")
        );
        assert!(!answer.header("x-request-id").is_empty());

        let asks = [
            json_request("/v1/completions", &ask()),
            json_request("/v1/chat/completions", &ask_stream()),
        ];
        for asked in asks {
            let answer = from(&smg, origin, asked).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("access-control-allow-origin"), origin);
            assert_eq!(
                answer.header("access-control-expose-headers"),
                "x-request-id, traceparent, tracestate, x-smg-error-code"
            );
            assert!(
                answer
                    .header("vary")
                    .to_ascii_lowercase()
                    .contains("origin")
            );
        }
        // A page must be able to read errors too.
        let answer = from(&smg, origin, request(Method::GET, "/nowhere", Bytes::new())).await;
        assert_error(&answer, 404, "unknown_url");
        assert_eq!(answer.header("access-control-allow-origin"), origin);
    }
    assert!(
        engine
            .calls()
            .iter()
            .all(|call| call.header("origin").is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_origin_is_not_named() {
    let engine = plain_engine().await;
    let more = format!("[listeners.cors]\nallowed_origins = [\"{OURS}\"]\n");
    let smg = gateway(&[&engine], &more).await;
    for origin in [
        "https://evil.example",
        "https://chat.example.com.evil",
        "null",
        "http://chat.example.com",
    ] {
        assert_no_cors(&preflight(&smg, origin, "/v1/completions").await);
        let answer = from(&smg, origin, json_request("/v1/completions", &ask())).await;
        assert_eq!(answer.status, 200);
        assert_no_cors(&answer);
        assert!(
            answer
                .header("vary")
                .to_ascii_lowercase()
                .contains("origin")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_lets_every_origin_in() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "[listeners.cors]\nallowed_origins = [\"*\"]\n").await;
    let answer = preflight(&smg, "https://any.example", "/v1/models").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    let answer = from(
        &smg,
        "https://any.example",
        json_request("/v1/completions", &ask()),
    )
    .await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    // OPTIONS that is no preflight is a method like others.
    let options = request(Method::OPTIONS, "/v1/completions", Bytes::new());
    assert_error(&from(&smg, OURS, options).await, 405, "method_not_allowed");
}
