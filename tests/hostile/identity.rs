//! Clients that say who they are by headers that only a trusted proxy may send, or take the gateway's
//! own headers away.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::scene::{LISTENERS, ask, gateway, ok, plain_engine, silent_engine, with};
use crate::support::client::{json_request, request};
use crate::support::{Connection, Smg};

/// What a proxy would say about its client.
const SAID: &[(&str, &str)] = &[
    ("x-forwarded-for", "10.9.9.9"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "1"),
    ("x-forwarded-prefix", "/admin"),
    ("x-forwarded-user", "root"),
    ("x-original-url", "/admin/config"),
    ("x-rewrite-url", "/admin/config"),
    ("x-http-method-override", "DELETE"),
    ("forwarded", "for=10.9.9.9"),
    ("x-real-ip", "10.9.9.9"),
    ("x-client-ip", "10.9.9.9"),
    ("true-client-ip", "10.9.9.9"),
    ("x-smg-tenant-id", "other-tenant"),
    ("x-smg-tenant", "other-tenant"),
    ("x-smg-priority", "0"),
    ("x-smg-class", "interactive"),
    ("x-smg-error-code", "none"),
    ("x-smg-routed-worker-id", "none"),
    ("x-smg-decision", "none"),
    ("x-ssl-client-subject", "CN=root"),
    ("x_request_id", "underscored"),
    ("x_forwarded_for", "10.9.9.9"),
    ("x_smg_tenant_id", "other-tenant"),
    ("x-request-id-with_underscore", "underscored"),
    ("x-request-id_", "underscored"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_says_of_itself_goes_nowhere() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for mut connection in [
        Connection::h1(smg.main()).await,
        Connection::h2(smg.main()).await,
    ] {
        let mut request = json_request("/v1/completions", &ask());
        for (name, value) in SAID {
            request = with(request, name, value);
        }
        let answer = connection.send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let call = engine.calls().pop().unwrap();
        for (name, value) in &call.headers {
            let known = SAID
                .iter()
                .any(|(said, told)| said == name || told == value);
            assert!(!known, "{name}: {value}");
        }
        for (name, value) in &answer.headers {
            let told = SAID
                .iter()
                .any(|(_, told)| told.as_bytes() == value.as_bytes());
            assert!(!told, "{name}");
            assert!(!name.as_str().starts_with("x-smg-"), "{name}");
        }
    }
    let metrics = crate::support::get(smg.address("metrics"), "/metrics")
        .await
        .text();
    for (_, value) in SAID.iter().filter(|(_, value)| value.len() > 4) {
        assert!(!metrics.contains(value), "{value} has become a label");
    }
}

/// What `connection` names is between the client and the gateway: it takes away none of what the
/// gateway says to a worker by itself.
#[tokio::test(flavor = "multi_thread")]
async fn connection_names_none_of_the_gateways_headers_away() {
    let engine = silent_engine(|_| vec![ok()]).await;
    let smg = Smg::start(&format!(
        "{LISTENERS}[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nhealth.enabled = false\n\
         workers = [{{ url = \"{}\", api_key = \"own-key\" }}]\n[[models]]\nname = \"m\"\npool = \"p\"\n",
        engine.url()
    ))
    .await;
    let mut connection = Connection::h1(smg.main()).await;
    for named in [
        "authorization",
        "Authorization, Host, Content-Length, Content-Type",
        "x-request-id, user-agent, transfer-encoding",
        "close, authorization, x-smg-api-key, cookie",
        ", ,authorization,, \u{9}",
    ] {
        let request = json_request("/v1/completions", &ask());
        let request = with(request, "connection", named);
        let request = with(request, "authorization", "Bearer client");
        let request = with(request, "x-request-id", "mine");
        let answer = connection.send(request).await;
        assert_eq!(answer.status, 200, "{named}: {}", answer.text());
        assert_eq!(answer.header("x-request-id"), "mine");
        let call = engine.calls().pop().unwrap();
        let of = |name: &str| {
            let all = call.headers.iter().filter(|(header, _)| header == name);
            all.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(of("authorization"), ["Bearer own-key"], "{named}");
        assert_eq!(of("host"), [engine.address().to_string()]);
        assert_eq!(of("content-length"), [ask().to_string().len().to_string()]);
        assert_eq!(of("content-type"), ["application/json"]);
        assert_eq!(of("x-request-id"), ["mine"]);
        assert_eq!(of("connection"), Vec::<&str>::new());
        if named.contains("close") {
            connection = Connection::h1(smg.main()).await;
        }
    }
}

/// A page that was loaded from somewhere else and then points its own name at this machine is no
/// operator, although it comes from here.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_pointed_here_opens_no_control_plane() {
    let smg = Smg::start(&format!("{LISTENERS}[[pools]]\nname = \"p\"\n")).await;
    let port = smg.main().port();
    let reading = [
        "/workers",
        "/admin/config",
        "/admin/config/status",
        "/admin/snapshots",
    ];
    let changing = [
        "/admin/reload",
        "/admin/pools/p/drain",
        "/flush_cache",
        "/workers",
    ];
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        "10.0.0.1".to_owned(),
    ] {
        let mut h2 = Connection::h2_over(
            tokio::net::TcpStream::connect(smg.main()).await.unwrap(),
            &host,
        )
        .await;
        for path in reading {
            let mut h1 = Connection::h1(smg.main()).await;
            let ask = || request(Method::GET, path, Bytes::new());
            let mut named = ask();
            named.headers_mut().insert("host", host.parse().unwrap());
            for answer in [h1.send(named).await, h2.send(ask()).await] {
                assert!(
                    matches!(answer.status, 401 | 403),
                    "{host} {path}: {}",
                    answer.status
                );
            }
        }
        for path in changing {
            let mut h1 = Connection::h1(smg.main()).await;
            let mut named = json_request(path, &json!({}));
            named.headers_mut().insert("host", host.parse().unwrap());
            let answer = h1.send(named).await;
            assert!(
                matches!(answer.status, 401 | 403),
                "{host} {path}: {}",
                answer.status
            );
        }
    }
    // Its own names are good.
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("LocalHost:{port}"),
    ] {
        let mut connection = Connection::h1(smg.main()).await;
        let mut named = request(Method::GET, "/workers", Bytes::new());
        named.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(connection.send(named).await.status, 200, "{host}");
    }
}
