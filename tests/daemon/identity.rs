//! Who may come in: by which credential, to which half of the gateway, and what becomes of the
//! credential.

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
role = "USER"
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
async fn what_opens_the_control_plane() {
    let engine = plain_engine().await;
    let keys = [
        "",
        "shared-key",
        "tenant-key",
        "admin-key",
        "user-key",
        "wrong",
    ];
    let (all, admin, operators) = (
        &keys[..],
        &["admin-key"][..],
        &["admin-key", "user-key"][..],
    );
    let (shared, open) = (&["shared-key"][..], "[auth.control_plane]\nopen = true\n");
    for (file, reading, changing) in [
        (String::new(), all, all),
        (open.to_owned(), all, all),
        (SHARED.to_owned(), shared, shared),
        (format!("{SHARED}{TENANT}"), shared, shared),
        (format!("{SHARED}{open}"), shared, shared),
        (TENANT.to_owned(), &[], &[]),
        (OPERATORS.to_owned(), operators, admin),
        (format!("{SHARED}{OPERATORS}"), operators, admin),
        (
            format!("{SHARED}{TENANT}{JWT}{OPERATORS}"),
            operators,
            admin,
        ),
        (format!("{SHARED}{JWT}"), &[], &[]),
    ] {
        let smg = gateway(&[&engine], &file).await;
        for key in keys {
            for (method, path) in [
                (Method::GET, "/workers"),
                (Method::HEAD, "/workers"),
                (Method::GET, "/admin/config"),
                (Method::GET, "/get_loads"),
                (Method::POST, "/flush_cache"),
                (Method::POST, "/admin/pools/p/drain?"),
                (Method::DELETE, "/workers/no-id"),
                (Method::POST, "/admin/explain"),
            ] {
                let reads = matches!(method, Method::GET | Method::HEAD);
                let shown = by(key);
                let request = match path.ends_with('?') {
                    true => add(
                        json_request(path, &json!({ "drain": false })),
                        &lines(&shown),
                    ),
                    false => plain(method.clone(), path, &lines(&shown)),
                };
                let answer = sent(smg.main(), request).await;
                let opens = if reads { reading } else { changing };
                let at = format!("{file}\n{key} {method} {path}: {answer:?}");
                if opens.contains(&key) {
                    // Not every request makes sense, but each has come in.
                    assert!(!matches!(answer.status, 401 | 403 | 429), "{at}");
                } else if reading.contains(&key) {
                    assert_error(&answer, 403, "forbidden");
                } else if method == Method::HEAD {
                    assert!(matches!(answer.status, 401 | 429), "{at}");
                } else if answer.status != 429 {
                    assert_refused(&answer, "control-plane", "invalid_api_key");
                    let expected = match key {
                        "" => "Missing or invalid Authorization header",
                        _ => "Invalid authentication token",
                    };
                    assert_eq!(message(&answer), expected, "{at}");
                }
            }
        }
        // Metrics have a listener of their own, and ask nobody.
        assert_eq!(get(smg.address("metrics"), "/metrics").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_credential_the_control_plane_is_this_machines() {
    let smg = Smg::start(LISTENERS).await;
    for host in [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:1",
        "[::1]:30000",
        "127.0.0.2",
    ] {
        let answer = sent(
            smg.main(),
            plain(Method::GET, "/workers", &[("host", host)]),
        )
        .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    // A page whose name was made to mean this address.
    for host in [
        "evil.example",
        "localhost.evil.example:80",
        "10.0.0.1",
        "x@evil.example",
    ] {
        let hostile = plain(Method::GET, "/workers", &[("host", host)]);
        assert_error(&sent(smg.main(), hostile).await, 403, "forbidden");
    }
    let mut h2 = Connection::h2_over(
        tokio::net::TcpStream::connect(smg.main()).await.unwrap(),
        "evil.example",
    )
    .await;
    let answer = h2.send(plain(Method::GET, "/workers", &[])).await;
    assert_error(&answer, 403, "forbidden");
    let forwarded = [("x-forwarded-for", "127.0.0.1")];
    let answer = sent(smg.main(), plain(Method::GET, "/workers", &forwarded)).await;
    assert_refused(&answer, "control-plane", "invalid_api_key");
    let said = message(&answer);
    for setting in [
        "auth.control_plane.open = true",
        "auth.control_plane.api_keys",
        "auth.api_key",
    ] {
        assert!(said.contains(setting), "{said}");
    }
    // With `open` there are no strangers; with a key it does not matter where it is shown.
    let open = format!("{LISTENERS}[auth.control_plane]\nopen = true\n");
    let keyed = format!("{LISTENERS}{SHARED}");
    for (file, key) in [(open, ""), (keyed, "shared-key")] {
        let smg = Smg::start(&file).await;
        let mut shown = by(key);
        shown.push(("x-forwarded-for", "192.0.2.1".to_owned()));
        shown.push(("host", "gw.example".to_owned()));
        let answer = sent(smg.main(), plain(Method::GET, "/workers", &lines(&shown))).await;
        assert_eq!(answer.status, 200, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_asks_for_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, unix) = (
        folder.path().join("control.sock"),
        folder.path().join("admin.sock"),
    );
    let file = format!(
        "{LISTENERS}[[listeners]]\nname = \"unix\"\naddress = \"unix:{}\"\nserve = [\"admin\"]\n\
         [server]\ncontrol_socket = {socket:?}\n{OPERATORS}",
        unix.display()
    );
    let smg = Smg::start(&file).await;
    let reload = || json_request("/admin/reload", &json!({}));
    let over =
        async |path| Connection::h1_over(UnixStream::connect(path).await.unwrap(), "x").await;
    assert_eq!(over(&socket).await.send(reload()).await.status, 200);
    // A socket of the file is a listener like others.
    let refused = over(&unix).await.send(reload()).await;
    assert_refused(&refused, "control-plane", "invalid_api_key");
    let admin = by("admin-key");
    let taken = over(&unix).await.send(add(reload(), &lines(&admin))).await;
    assert_eq!(taken.status, 200);
    let metrics = smg.metrics().await;
    let peers = [
        ("plane", "control"),
        ("method", "peer"),
        ("outcome", "allowed"),
    ];
    assert_eq!(metrics.sum("smg_auth_decisions_total", &peers), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_until_there_is_a_credential() {
    let engine = FakeEngine::start(|asked| match &*asked.path {
        "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
        "/metrics" => vec![Step::answer(200, "text/plain", "x 1\n")],
        _ => vec![Step::json(200, &json!({}))],
    })
    .await;
    let inference = [
        "/health_generate",
        "/get_server_info",
        "/server_info",
        "/model_info",
    ];
    let exposed = "[[listeners]]\nname = \"both\"\naddress = \"127.0.0.1:0\"\n\
                   serve = [\"inference\"]\nengine_metrics =";
    let smg = gateway(&[&engine], "").await;
    for path in inference.iter().chain(&["/engine_metrics"]) {
        assert_eq!(get(smg.main(), path).await.status, 200, "{path}");
    }
    let smg = gateway(
        &[&engine],
        &format!("{TENANT}{OPERATORS}{exposed} \"public\"\n"),
    )
    .await;
    for path in inference {
        for (key, status) in [("", 401), ("admin-key", 401), ("tenant-key", 200)] {
            let shown = by(key);
            let answer = sent(smg.main(), plain(Method::GET, path, &lines(&shown))).await;
            assert_eq!(answer.status, status, "{path} {key}");
        }
    }
    for (key, status) in [
        ("", 401),
        ("tenant-key", 401),
        ("user-key", 200),
        ("admin-key", 200),
    ] {
        let shown = by(key);
        let asked = || plain(Method::GET, "/engine_metrics", &lines(&shown));
        assert_eq!(sent(smg.main(), asked()).await.status, status, "{key}");
        assert_eq!(
            sent(smg.address("both"), asked()).await.status,
            200,
            "{key}"
        );
    }
    // Keys of the control plane alone leave the inference routes as they were.
    let smg = gateway(&[&engine], &format!("{OPERATORS}{exposed} \"admin\"\n")).await;
    assert_eq!(get(smg.main(), "/server_info").await.status, 200);
    assert_eq!(get(smg.main(), "/engine_metrics").await.status, 401);
    let smg = gateway(&[&engine], &format!("{exposed} \"admin\"\n")).await;
    assert_eq!(get(smg.main(), "/engine_metrics").await.status, 200);
    assert_eq!(
        get(smg.address("both"), "/engine_metrics").await.status,
        200
    );
    let forwarded = plain(
        Method::GET,
        "/engine_metrics",
        &[("x-real-ip", "192.0.2.1")],
    );
    assert_eq!(sent(smg.address("both"), forwarded).await.status, 401);
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
async fn a_tenant_has_its_models_and_sees_no_others() {
    let engine = silent_engine(|_| vec![crate::scene::ok()]).await;
    let more = r#"
[[models]]
name = "big"
aliases = ["m-in-disguise"]
[[models]]
name = "m-two"
fallback = ["big"]
[[auth.tenants]]
name = "small"
keys = ["small-key"]
models = ["m", "m-*"]
[[auth.tenants]]
name = "by-alias"
keys = ["alias-key"]
models = ["also-m"]
[[auth.tenants]]
name = "all"
keys = ["all-key"]
"#;
    let smg = gateway(&[&engine], more).await;
    for (key, model, status) in [
        ("small-key", "m", 200),
        ("small-key", "also-m", 200),
        ("small-key", "m-two", 200),
        ("small-key", "big", 403),
        // It looks like one of its own.
        ("small-key", "m-in-disguise", 403),
        ("small-key", "nobody", 404),
        ("alias-key", "also-m", 200),
        ("alias-key", "m", 403),
        ("all-key", "big", 200),
        ("all-key", "m-in-disguise", 200),
    ] {
        let asked = json_request(PATH, &json!({ "model": model, "prompt": "x" }));
        let shown = by(key);
        let answer = sent(smg.main(), add(asked, &lines(&shown))).await;
        assert_eq!(answer.status, status, "{key} {model}: {}", answer.text());
        if status == 403 {
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "model_not_allowed");
            assert_eq!(error["type"], "permission_error");
        }
    }
    let all = ["also-m", "big", "m", "m-in-disguise", "m-two"];
    for (key, seen) in [
        ("small-key", &["also-m", "m", "m-two"][..]),
        ("alias-key", &["also-m"]),
        ("all-key", &all),
        // It is public: what opens nothing changes nothing.
        ("", &all),
        ("wrong", &all),
    ] {
        let shown = by(key);
        let listed = sent(smg.main(), plain(Method::GET, "/v1/models", &lines(&shown))).await;
        let listed = listed.json();
        let ids = listed["data"].as_array().unwrap().iter();
        let ids: Vec<&str> = ids.map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!(ids, seen, "{key}");
        for id in all {
            let path = format!("/v1/models/{id}");
            let one = sent(smg.main(), plain(Method::GET, &path, &lines(&shown))).await;
            assert_eq!(one.status == 200, seen.contains(&id), "{key} {id}");
        }
    }
    let metrics = smg.metrics().await;
    let wrong = [("plane", "data"), ("outcome", "invalid")];
    assert_eq!(metrics.sum("smg_auth_decisions_total", &wrong), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_model_is_for_the_only_one_there_is() {
    let engine = plain_engine().await;
    for (models, status) in [("m", 200), ("other", 403)] {
        let tenant =
            format!("[[auth.tenants]]\nname = \"t\"\nkeys = [\"k\"]\nmodels = [\"{models}\"]\n");
        let smg = gateway(&[&engine], &tenant).await;
        for body in [
            json!({ "prompt": "x" }),
            json!({ "model": "", "prompt": "x" }),
        ] {
            let shown = by("k");
            let asked = add(json_request(PATH, &body), &lines(&shown));
            let answer = sent(smg.main(), asked).await;
            assert_eq!(answer.status, status, "{models} {body}: {}", answer.text());
        }
    }
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
async fn the_log_says_who_asked_and_never_by_what() {
    let engine = plain_engine().await;
    let header = "[auth.tenant_header]\ntrusted = true\n";
    let toml = |more: &str| {
        config(&[engine.url()], more).replacen(
            "\"probes\"]",
            "\"probes\"]\ntrusted_proxies = [\"127.0.0.1\"]",
            1,
        )
    };
    let forwarded = ("x-forwarded-for", "6.6.6.6, 192.0.2.9");
    for (more, shown, told) in [
        // Who is no more than an address is not named.
        ("", &[][..], ""),
        ("", &[forwarded], ""),
        ("", &[("x-smg-tenant-id", "x")], ""),
        (header, &[("x-smg-tenant-id", "x"), forwarded], "header:x"),
        (TENANT, &[("authorization", "Bearer tenant-key")], "team-a"),
        // The first 16 digits of the hash of the shared key.
        (SHARED, &[("x-api-key", "shared-key")], "auth:78a6b4e0"),
    ] {
        let mut smg = Smg::start(&toml(more)).await;
        let mut request = asking(shown);
        request = with(request, "x-request-id", "who-asks");
        assert_eq!(sent(smg.main(), request).await.status, 200);
        let is_it = |line: &&String| line.contains("request_id=who-asks");
        let process = smg.process();
        eventually(PATIENCE, async || {
            process.output().iter().any(|line| is_it(&line))
        })
        .await;
        let output = process.output();
        let line = output.iter().find(is_it).unwrap();
        let tenant = line
            .split(' ')
            .find_map(|word| word.strip_prefix("tenant="));
        let tenant = tenant.unwrap_or_default().trim_matches('"');
        match told.strip_prefix("auth:") {
            Some(_) => assert!(tenant.starts_with("auth:") && tenant.len() == 21, "{line}"),
            None => assert_eq!(tenant, told, "{line}"),
        }
        assert!(
            !output.iter().any(|line| line.contains("-key")),
            "{output:?}"
        );
    }
    // From somebody who is no proxy neither header counts.
    let mut smg = gateway(&[&engine], header).await;
    let lies = [
        ("x-smg-tenant-id", "x"),
        forwarded,
        ("x-request-id", "who-asks"),
    ];
    assert_eq!(sent(smg.main(), asking(&lies)).await.status, 200);
    let process = smg.process();
    eventually(PATIENCE, async || {
        let output = process.output();
        output
            .iter()
            .any(|line| line.contains("request_id=who-asks"))
    })
    .await;
    let output = process.output();
    let named = |line: &String| line.contains("tenant=header") || line.contains("192.0.2.9");
    assert!(!output.iter().any(named), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_class_of_a_tenant_comes_before_that_of_the_model() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = silent_engine(move |asked| {
        if asked.json()["stream"] != true {
            return vec![crate::scene::ok()];
        }
        vec![
            Step::sse_head(),
            Step::event(&crate::scene::delta("one")),
            Step::Hold(held.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let more = r#"
[reliability.admission]
max_concurrent_requests = 1
queue_size = 0
[reliability.admission.classes.vip]
weight = 1
queue_size = 10
[auth]
api_key = "shared-key"
[[auth.tenants]]
name = "vip"
keys = ["vip-key"]
class = "vip"
"#;
    let smg = gateway(&[&engine], more).await;
    let body = json!({ "model": "m", "prompt": "x", "stream": true });
    let own = by("shared-key");
    let mut first = Connection::h1(smg.main()).await;
    let open = first
        .open(add(json_request(PATH, &body), &lines(&own)))
        .await;
    assert_eq!(open.status(), 200);
    // There is no room for the one, and a place to wait for the other.
    let refused = sent(smg.main(), asking(&lines(&own))).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    let main = smg.main();
    let waiting = tokio::spawn(async move {
        let vip = by("vip-key");
        sent(main, asking(&lines(&vip))).await.status
    });
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_admission_queue_depth", &[("class", "vip")]) == 1.0
    })
    .await;
    gate.open();
    drop(open);
    drop(first);
    assert_eq!(waiting.await.unwrap(), 200);
}

/// `smg` with these arguments and variables.
fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = smg::command();
    command.args(args).envs(variables.iter().copied());
    tokio::task::block_in_place(|| process::run(&mut command, PATIENCE))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_the_key_that_they_are_given() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], OPERATORS).await;
    let url = format!("http://{}", smg.main());
    let file = smg.config_path();
    let file = file.to_str().unwrap();
    let request = smg.folder().join("request.json");
    std::fs::write(&request, ask().to_string()).unwrap();
    let request = request.to_str().unwrap();
    let reload = ["reload", "--url", &url];
    let explain = ["explain", "--live", &url, "--request", request];
    let diff = ["config", "diff", file, "--live", &url];
    for command in [&reload[..], &explain, &diff] {
        let good = run(&[command, &["--key", "admin-key"]].concat(), &[]);
        assert_eq!(good.status.code(), Some(0), "{good:?}");
        let named = run(command, &[("SMG_KEY", "admin-key")]);
        assert_eq!(named.status.code(), Some(0), "{named:?}");
        let typed = run(
            &[command, &["--key", "admin-key"]].concat(),
            &[("SMG_KEY", "x")],
        );
        assert_eq!(typed.status.code(), Some(0), "{typed:?}");
        for (args, variables) in [
            (&[][..], &[][..]),
            (&["--key", "wrong-key"], &[]),
            (&[], &[("SMG_KEY", "wrong-key")]),
            (&["--key", "bad\nkey"], &[]),
        ] {
            let refused = run(&[command, args].concat(), variables);
            assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
            let told = String::from_utf8_lossy(&refused.stderr);
            assert!(!told.is_empty() && !told.contains("wrong-key"), "{told}");
        }
    }
    let reader = run(&[&reload[..], &["--key", "user-key"]].concat(), &[]);
    assert_eq!(reader.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&reader.stderr).contains("403"),
        "{reader:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_explanation_is_that_of_a_tenant() {
    let engine = plain_engine().await;
    let more =
        format!("{SHARED}[[auth.tenants]]\nname = \"t\"\nkeys = [\"k\"]\nmodels = [\"x\"]\n");
    let smg = gateway(&[&engine], &more).await;
    for (identity, shown, status) in [
        (Value::Null, "anonymous", 200),
        (json!("t"), "auth:t", 403),
        (json!("nobody"), "anonymous", 400),
    ] {
        let mut body = json!({ "path": PATH, "body": ask() });
        if !identity.is_null() {
            body["identity"] = identity;
        }
        let key = by("shared-key");
        let answer = sent(
            smg.main(),
            add(json_request("/admin/explain", &body), &lines(&key)),
        )
        .await;
        let told = answer.json();
        assert_eq!(
            (&told["identity"], &told["status"]),
            (&json!(shown), &json!(status)),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_doors_are_told_of_at_the_start() {
    let public = LISTENERS.replacen(
        "name = \"main\"\naddress = \"127.0.0.1:0\"",
        "name = \"main\"\naddress = \"0.0.0.0:0\"",
        1,
    );
    let inference = "its inference routes ask for no credential";
    let control = "the control plane is open to everybody";
    let open = "[auth.control_plane]\nopen = true\n";
    for (file, told) in [
        (LISTENERS.to_owned(), &[][..]),
        (public.clone(), &[inference]),
        (format!("{public}{SHARED}"), &[]),
        (format!("{LISTENERS}{open}"), &[control]),
        (format!("{LISTENERS}{open}{OPERATORS}"), &[]),
        (format!("{public}{open}"), &[inference, control]),
    ] {
        let mut smg = Smg::start(&file).await;
        let output = smg.process().output();
        for line in [inference, control] {
            let found = output.iter().any(|said| said.contains(line));
            assert_eq!(found, told.contains(&line), "{file}: {output:?}");
        }
    }
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
