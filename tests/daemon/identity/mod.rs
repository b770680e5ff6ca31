//! Who may come in: by which credential, to which half of the gateway, and what becomes of the
//! credential.

#[cfg(test)]
mod control;
#[cfg(test)]
mod tenants;

use std::net::SocketAddr;
use std::process::Output;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::scene::{
    LISTENERS, PATIENCE, Wire, ask, assert_error, config, gateway, plain_engine, silent_engine,
    with,
};
use crate::support::client::{Answer, json_request, request};
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, eventually, get, process, smg, stream,
};

const SHARED: &str = "[auth]\napi_key = \"shared-key\"\n";
const TENANT: &str = "[[auth.tenants]]\nname = \"team-a\"\nkeys = [\"tenant-key\"]\n";
const OPERATORS: &str = r#"
[[auth.control_plane.api_keys]]
id = "ops"
role = "admin"
key = "admin-key"
[[auth.control_plane.api_keys]]
id = "watch"
role = "user"
key = "user-key"
"#;
const JWT: &str = "[auth.jwt]\nissuer = \"https://127.0.0.1:1/\"\naudience = \"smg\"\n";

const PATH: &str = "/v1/completions";

/// A request for a completion with these headers.
fn asking(lines: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    add(json_request(PATH, &ask()), lines)
}

/// A request without a body with these headers.
fn plain(method: Method, path: &str, lines: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    add(request(method, path, Bytes::new()), lines)
}

fn add(request: Request<Full<Bytes>>, lines: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let add = |request, (name, value): &(&'static str, &str)| with(request, name, value);
    lines.iter().fold(request, add)
}

/// The same with this key behind `Bearer`; an empty one is none.
fn by(key: &str) -> Vec<(&'static str, String)> {
    match key {
        "" => Vec::new(),
        key => vec![("authorization", format!("Bearer {key}"))],
    }
}

fn lines<'a>(owned: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let lines = owned.iter().map(|(name, value)| (*name, value.as_str()));
    lines.collect()
}

async fn sent(to: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    Connection::h1(to).await.send(request).await
}

#[track_caller]
fn assert_refused(answer: &Answer, realm: &str, code: &str) {
    assert_error(answer, 401, code);
    let challenge = format!("Bearer realm=\"{realm}\"");
    assert_eq!(answer.header("www-authenticate"), challenge);
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_the_inference_routes() {
    let engine = plain_engine().await;
    let keys = [
        "",
        "shared-key",
        "tenant-key",
        "admin-key",
        "user-key",
        "wrong",
    ];
    for (file, opening) in [
        (String::new(), &keys[..]),
        (OPERATORS.to_owned(), &keys),
        (SHARED.to_owned(), &["shared-key"]),
        (TENANT.to_owned(), &["tenant-key"]),
        (
            format!("{SHARED}{TENANT}{OPERATORS}"),
            &["shared-key", "tenant-key"],
        ),
        (format!("{SHARED}{JWT}"), &["shared-key"]),
        (JWT.to_owned(), &[]),
    ] {
        let smg = gateway(&[&engine], &file).await;
        for key in keys {
            let answer = sent(smg.main(), asking(&lines(&by(key)))).await;
            if opening.contains(&key) {
                assert_eq!(answer.status, 200, "{file} {key}: {}", answer.text());
            } else {
                assert_refused(&answer, "data-plane", "invalid_api_key");
            }
        }
        // What tells whether it lives asks nobody.
        for path in ["/liveness", "/health", "/readiness", "/v1/models"] {
            assert_eq!(get(smg.main(), path).await.status, 200, "{file} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_credential_may_stand() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], &format!("{SHARED}{TENANT}")).await;
    let (own, bearer, plain) = ("x-smg-api-key", "authorization", "x-api-key");
    for (lines, status) in [
        (&[(own, "shared-key")][..], 200),
        (&[(bearer, "bearer shared-key")], 200),
        (&[(bearer, "BEARER   shared-key")], 200),
        (&[(plain, "shared-key")], 200),
        (&[(bearer, "Bearer shared-key"), (plain, "shared-key")], 200),
        (
            &[(own, "shared-key"), (bearer, "Bearer x"), (plain, "y")],
            200,
        ),
        (&[(bearer, "Basic x"), (plain, "shared-key")], 200),
        // Two good ones are still two.
        (&[(bearer, "Bearer shared-key"), (plain, "tenant-key")], 401),
        (&[(bearer, "Bearer shared-key"), (plain, "x")], 401),
        (&[(bearer, "Bearer x"), (plain, "shared-key")], 401),
        (&[(bearer, "Bearer shared-key"), (bearer, "Bearer x")], 401),
        (&[(own, "x"), (bearer, "Bearer shared-key")], 401),
        (&[(own, ""), (bearer, "Bearer shared-key")], 401),
        (&[(bearer, "shared-key")], 401),
        (&[(bearer, "Basic shared-key")], 401),
        (&[(bearer, "Bearer shared-key x")], 401),
        (&[(bearer, "Bearer Shared-key")], 401),
        (&[(bearer, "Bearer shared-ke")], 401),
        (
            &[
                ("x-goog-api-key", "shared-key"),
                ("cookie", "key=shared-key"),
            ],
            401,
        ),
    ] {
        for h2 in [false, true] {
            let mut connection = match h2 {
                true => Connection::h2(smg.main()).await,
                false => Connection::h1(smg.main()).await,
            };
            let answer = connection.send(asking(lines)).await;
            assert_eq!(answer.status, status, "{lines:?}: {}", answer.text());
        }
    }
    let renamed = format!("{SHARED}api_key_header = \"X-Our-Key\"\n");
    let smg = gateway(&[&engine], &renamed).await;
    assert_eq!(
        sent(smg.main(), asking(&[("x-our-key", "shared-key")]))
            .await
            .status,
        200
    );
    assert_eq!(
        sent(smg.main(), asking(&[(own, "shared-key")]))
            .await
            .status,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_without_a_gap_and_revoked_on_a_kept_connection() {
    let engine = plain_engine().await;
    let file = |keys: &str| {
        let tenant = format!("[[auth.tenants]]\nname = \"t\"\nkeys = [{keys}]\n");
        config(&[engine.url()], &format!("{OPERATORS}{tenant}"))
    };
    let hashed =
        "{ sha256 = \"401000c1d9d896a1d268f12225caf71c9f660e4dfc740b10116ba4a5b1832ab9\" }";
    let smg = Smg::start(&file("\"old\"")).await;
    let mut kept = Connection::h2(smg.main()).await;
    let mut opens = async |keys: [&str; 3]| {
        let mut opened = Vec::new();
        for key in keys {
            let shown = by(key);
            opened.push(kept.send(asking(&lines(&shown))).await.status);
        }
        opened
    };
    let apply = async |toml: &str| {
        smg.rewrite(toml);
        let admin = by("admin-key");
        let reload = add(json_request("/admin/reload", &json!({})), &lines(&admin));
        let answer = sent(smg.main(), reload).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let keys = ["old", "new", "hunter2-hashed"];
    assert_eq!(opens(keys).await, [200, 401, 401]);
    apply(&file(&format!(
        "\"old\", {{ value = \"new\", not_before = \"2020-01-01T00:00:00Z\" }}, {hashed}"
    )))
    .await;
    assert_eq!(opens(keys).await, [200, 200, 200]);
    apply(&file(
        "{ value = \"old\", expires_at = 2020-01-01T00:00:00Z }, \"new\"",
    ))
    .await;
    assert_eq!(opens(keys).await, [401, 200, 401]);
    apply(&file(
        "{ value = \"new\", not_before = 2999-01-01T00:00:00Z }",
    ))
    .await;
    assert_eq!(opens(keys).await, [401, 401, 401]);
    // The last key is gone, and with it the tenant: nobody is asked any more.
    apply(&config(&[engine.url()], OPERATORS)).await;
    assert_eq!(opens(keys).await, [200, 200, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_file_is_the_one_that_stands_there_now() {
    let engine = plain_engine().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, "first\n").unwrap();
    let smg = gateway(
        &[&engine],
        &format!("[auth]\napi_key = {{ file = {secret:?} }}\n"),
    )
    .await;
    let mut kept = Connection::h1(smg.main()).await;
    let mut status = async |key: &str| {
        let shown = by(key);
        kept.send(asking(&lines(&shown))).await.status
    };
    assert_eq!(status("first").await, 200);
    let fresh = folder.path().join("fresh");
    std::fs::write(&fresh, "second\n").unwrap();
    std::fs::rename(&fresh, &secret).unwrap();
    let second = by("second");
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_config_generation", &[]) == 2.0
    })
    .await;
    assert_eq!([status("first").await, status("second").await], [401, 200]);
    // One that vanishes changes nothing.
    std::fs::remove_file(&secret).unwrap();
    let reload = add(json_request("/admin/reload", &json!({})), &lines(&second));
    assert_eq!(sent(smg.main(), reload).await.status, 422);
    assert_eq!([status("first").await, status("second").await], [401, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_slowed_down_and_nobody_else() {
    let engine = plain_engine().await;
    let toml = config(&[engine.url()], SHARED).replacen(
        "\"probes\"]",
        "\"probes\"]\ntrusted_proxies = [\"127.0.0.0/8\"]",
        1,
    );
    let smg = Smg::start(&toml).await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut from = async |client: &str, key: &str| {
        let mut shown = by(key);
        shown.push(("x-forwarded-for", client.to_owned()));
        connection.send(asking(&lines(&shown))).await
    };
    for _ in 0..20 {
        let refused = from("192.0.2.7", "wrong").await;
        assert_refused(&refused, "data-plane", "invalid_api_key");
        let refused = from("6.6.6.6, 2001:db8::1", "wrong").await;
        assert_refused(&refused, "data-plane", "invalid_api_key");
    }
    for client in [
        "192.0.2.7",
        "2001:db8::1",
        "2001:db8::2:0:0:1",
        "10.9.9.9, 192.0.2.7",
    ] {
        let throttled = from(client, "wrong").await;
        assert_error(&throttled, 429, "auth_throttled");
        let wait: u64 = throttled.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        // A good credential passes; none at all is no guess.
        assert_eq!(from(client, "shared-key").await.status, 200);
        assert_eq!(from(client, "").await.status, 401);
    }
    for client in ["192.0.2.8", "2001:db8:0:1::1"] {
        assert_eq!(from(client, "wrong").await.status, 401, "{client}");
    }
    let metrics = smg.metrics().await;
    let count = |method, outcome| {
        let labels = [("plane", "data"), ("method", method), ("outcome", outcome)];
        metrics.sum("smg_auth_decisions_total", &labels)
    };
    assert_eq!(count("api_key", "invalid"), 42.0);
    assert_eq!(count("api_key", "throttled"), 4.0);
    assert_eq!(count("api_key", "allowed"), 4.0);
    assert_eq!(count("none", "missing"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_of_the_gateways_goes_to_a_worker() {
    let engine = silent_engine(|_| vec![crate::scene::ok()]).await;
    let forwarding = |more: &str| {
        let toml = config(&[engine.url()], more);
        toml.replacen(
            "runtime = \"vllm\"",
            "runtime = \"vllm\"\nforward_authorization = true",
            1,
        )
    };
    let (own, bearer, plain) = ("x-smg-api-key", "authorization", "x-api-key");
    let every = format!(
        "{SHARED}{TENANT}{OPERATORS}[[auth.tenants]]\nname = \"late\"\n\
                         keys = [{{ value = \"old-key\", expires_at = 2020-01-01T00:00:00Z }}]\n"
    );
    for (file, shown, passed) in [
        // The gateway asks for nothing: what a client shows is the worker's.
        ("", &[(bearer, "Bearer theirs")][..], Some("Bearer theirs")),
        (
            OPERATORS,
            &[(bearer, "Bearer theirs")],
            Some("Bearer theirs"),
        ),
        (OPERATORS, &[(bearer, "Bearer admin-key")], None),
        (OPERATORS, &[(bearer, "admin-key")], None),
        (OPERATORS, &[(bearer, "Token user-key")], None),
        (OPERATORS, &[(bearer, "Bearer\tadmin-key")], None),
        // It asks for one: that stays here, and so does any other of its own.
        (&every, &[(bearer, "Bearer shared-key")], None),
        (&every, &[(bearer, "Bearer tenant-key")], None),
        (&every, &[(plain, "shared-key")], None),
        (
            &every,
            &[(plain, "shared-key"), (bearer, "Bearer shared-key")],
            None,
        ),
        (
            &every,
            &[(plain, "shared-key"), (bearer, "Basic dXNlcg==")],
            Some("Basic dXNlcg=="),
        ),
        (
            &every,
            &[(plain, "shared-key"), (bearer, "Basic admin-key")],
            None,
        ),
        (
            &every,
            &[(own, "shared-key"), (bearer, "Bearer theirs")],
            Some("Bearer theirs"),
        ),
        (
            &every,
            &[(own, "shared-key"), (bearer, "Bearer shared-key")],
            None,
        ),
        (
            &every,
            &[(own, "shared-key"), (bearer, "Bearer tenant-key")],
            None,
        ),
        (
            &every,
            &[(own, "shared-key"), (bearer, "Bearer admin-key")],
            None,
        ),
        (
            &every,
            &[(own, "shared-key"), (bearer, "Bearer old-key")],
            None,
        ),
        (&every, &[(own, "tenant-key"), (plain, "theirs")], None),
    ] {
        let smg = Smg::start(&forwarding(file)).await;
        let answer = sent(smg.main(), asking(shown)).await;
        assert_eq!(answer.status, 200, "{shown:?}: {}", answer.text());
        let call = engine.calls().pop().unwrap();
        assert_eq!(call.header(bearer), passed, "{file} {shown:?}");
        for (name, value) in &call.headers {
            assert!(!value.contains("-key"), "{shown:?}: {name}: {value}");
            assert!(name != own && name != plain, "{shown:?}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_come_in_is_told_before_sending_anything() {
    let engine = plain_engine().await;
    let more = format!("{SHARED}[server]\nmax_payload_size = \"1KiB\"\n");
    let smg = gateway(&[&engine], &more).await;
    // Neither the size of the body nor its form is looked at, and nobody says 100.
    for length in [10, 100_000] {
        let mut wire = Wire::connect(smg.main()).await;
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        wire.write(head).await;
        let answer = wire.answer().await;
        assert_refused(&answer, "data-plane", "invalid_api_key");
        wire.until_close().await;
    }
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    assert_refused(&wire.answer().await, "data-plane", "invalid_api_key");
    assert!(engine.calls().is_empty());
    // A preflight brings no credential.
    let cors = LISTENERS.replacen(
        "\"probes\"]\n",
        "\"probes\"]\ncors = { allowed_origins = [\"https://chat.example\"] }\n",
        1,
    );
    let smg = Smg::start(&format!("{cors}{SHARED}")).await;
    let preflight = [
        ("origin", "https://chat.example"),
        ("access-control-request-method", "POST"),
    ];
    let answer = sent(smg.main(), plain(Method::OPTIONS, PATH, &preflight)).await;
    assert_eq!(answer.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_outlives_its_key() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = FakeEngine::serving("m", move |_| crate::scene::two_tokens(&held)).await;
    let file = |auth: &str| config(&[engine.url()], &format!("{OPERATORS}{auth}"));
    let smg = Smg::start(&file("")).await;
    let body = json!({ "model": "m", "prompt": "x", "stream": true });
    let mut long = stream(smg.main(), PATH, &body).await;
    assert!(long.event().await.unwrap().is_some());
    smg.rewrite(&file(SHARED));
    eventually(PATIENCE, async || {
        get(smg.main(), "/server_info").await.status == 401
    })
    .await;
    gate.open();
    assert_eq!(long.events().await.last().unwrap(), "data: [DONE]");
}
