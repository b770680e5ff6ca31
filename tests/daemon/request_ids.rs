//! Every answer to a head that was parsed carries a request id. One with too many headers is refused by the
//! HTTP library before that.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;

use crate::scene::{LISTENERS, Wire, ask, ask_stream, post_bytes, short_stream, with};
use crate::support::client::{json_request, request};
use crate::support::{Connection, FakeEngine, Smg, get, stream};

const LONG_BODY: usize = 5000;

async fn gateway(engine: &FakeEngine) -> Smg {
    // `main` is the last listener of the head.
    let more = r#"cors.allowed_origins = ["http://page.example"]
[listeners.limits]
max_uri_bytes = "256B"
body_timeout = "200ms"
[server]
max_payload_size = "4KiB"
"#;
    let url = engine.url();
    Smg::start(&format!(
        "{LISTENERS}{more}\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [{url:?}]\nhealth.enabled = false\n\
         [[models]]\nname = \"m\"\n"
    ))
    .await
}

fn plain(method: Method, path: &str) -> Request<Full<Bytes>> {
    request(method, path, Bytes::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_every_answer() {
    let engine = FakeEngine::serving("m", |asked| {
        if asked.json()["stream"] == true {
            return short_stream("one");
        }
        vec![crate::scene::ok()]
    })
    .await;
    let smg = gateway(&engine).await;
    let json = |path: &str, body: &str| post_bytes(path, body.as_bytes().to_vec());
    let preflight = with(
        with(
            plain(Method::OPTIONS, "/v1/completions"),
            "origin",
            "http://page.example",
        ),
        "access-control-request-method",
        "POST",
    );
    let long = format!("/{}", "x".repeat(300));
    let table = [
        (200, json_request("/v1/completions", &ask()), "cmpl-"),
        (200, plain(Method::GET, "/readiness"), "req-"),
        (200, plain(Method::HEAD, "/liveness"), "req-"),
        (200, plain(Method::GET, "/v1/models"), "req-"),
        (200, plain(Method::GET, "/workers"), "req-"),
        (200, plain(Method::GET, "/admin/config/status"), "req-"),
        (200, json_request("/admin/reload", &json!({})), "req-"),
        (204, preflight, "cmpl-"),
        (400, json("/v1/chat/completions", "{"), "chatcmpl-"),
        (
            400,
            with(
                plain(Method::POST, "/generate"),
                "content-type",
                "text/plain",
            ),
            "gnt-",
        ),
        (
            401,
            with(plain(Method::GET, "/workers"), "x-forwarded-for", "8.8.8.8"),
            "req-",
        ),
        (
            403,
            with(
                json_request("/admin/reload", &json!({})),
                "origin",
                "http://evil",
            ),
            "req-",
        ),
        (404, plain(Method::GET, "/no/such/path"), "req-"),
        (400, plain(Method::GET, "/workers/nobody"), "req-"),
        (404, json("/v1/responses", r#"{"model":"nobody"}"#), "resp-"),
        (405, plain(Method::DELETE, "/v1/completions"), "cmpl-"),
        (
            413,
            json("/v1/completions", &"x".repeat(LONG_BODY)),
            "cmpl-",
        ),
        (414, plain(Method::GET, &long), "req-"),
        (
            415,
            with(
                json_request("/v1/completions", &ask()),
                "content-encoding",
                "gzip",
            ),
            "cmpl-",
        ),
    ];
    for (status, request, prefix) in table {
        let what = format!("{} {}", request.method(), request.uri());
        let twin = with(request.clone(), "x-request-id", "mine-1");
        let answer = Connection::h1(smg.main()).await.send(request.clone()).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let id = answer.header("x-request-id");
        assert!(id.starts_with(prefix), "{what}: {id}");
        assert_eq!(id.len(), prefix.len() + 24, "{what}");
        let answer = Connection::h1(smg.main()).await.send(twin).await;
        assert_eq!(answer.header("x-request-id"), "mine-1", "{what}");
        // HTTP/2 takes the same way.
        let answer = Connection::h2(smg.main()).await.send(request).await;
        assert_eq!(answer.status, status, "HTTP/2 {what}");
        assert!(
            answer.header("x-request-id").starts_with(prefix),
            "HTTP/2 {what}"
        );
    }
    for bad in ["has space", &"x".repeat(129)] {
        let request = with(plain(Method::GET, "/liveness"), "x-request-id", bad);
        let answer = Connection::h1(smg.main()).await.send(request).await;
        assert!(answer.header("x-request-id").starts_with("req-"));
    }
    let metrics = get(smg.address("metrics"), "/metrics").await;
    assert!(metrics.header("x-request-id").starts_with("req-"));
    let answer = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert!(answer.header("x-request-id").starts_with("chatcmpl-"));

    let mut wire = Wire::connect(smg.main()).await;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    wire.write(format!("{head}content-length: 100\r\n\r\n{{"))
        .await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 408);
    assert!(answer.header("x-request-id").starts_with("cmpl-"));
}
