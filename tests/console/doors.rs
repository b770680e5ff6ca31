//! Who is shown the console, and with which words to the browser.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use sha2::{Digest as _, Sha256};

use crate::scene::{ask, ask_over, console, gateway, page};
use crate::support::{Authority, Connection, TlsClient, get};

#[tokio::test]
async fn a_console_is_where_it_is_served_and_reads_only() {
    let (smg, _worker) = gateway("").await;
    let home = get(console(&smg), "/").await;
    assert_eq!((home.status, home.header("location")), (303, "/console"));
    for path in ["/", "/console", "/console/live"] {
        assert_eq!(get(smg.main(), path).await.status, 404, "{path}");
        let posted = ask(console(&smg), Method::POST, path, &[]).await;
        assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
    }
    assert_eq!(get(console(&smg), "/admin/overview").await.status, 404);
    let head = ask(console(&smg), Method::HEAD, "/console", &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 5000);
}

#[tokio::test]
async fn the_policy_names_the_only_style_and_the_only_script() {
    let (smg, _worker) = gateway("").await;
    let html = page(&smg).await;
    let answer = get(console(&smg), "/console").await;
    let policy = answer.header("content-security-policy");
    for tag in ["style", "script"] {
        let (_, behind) = html.split_once(&format!("<{tag}>")).unwrap();
        let (block, behind) = behind.split_once(&format!("</{tag}>")).unwrap();
        assert!(!behind.contains(&format!("<{tag}")), "two of {tag}");
        let hash = STANDARD.encode(Sha256::digest(block.as_bytes()));
        let named = format!("{tag}-src 'sha256-{hash}'");
        assert!(policy.contains(&named), "no {named} in {policy}");
    }
    for words in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(words), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert!(!html.contains("http://www.w3.org/1999"), "{html}");
}

#[tokio::test]
async fn refusals_are_as_guarded_as_the_page() {
    let (smg, _worker) = gateway("").await;
    let at = console(&smg);
    let policy = get(at, "/console").await;
    let policy = policy.header("content-security-policy");
    for (method, path, headers, status) in [
        (Method::GET, "/", &[][..], 303),
        (Method::GET, "/console", &[("host", "evil.example")], 403),
        (Method::GET, "/console/live", &[("origin", "null")], 403),
        (Method::POST, "/console", &[], 405),
        (Method::OPTIONS, "/", &[], 405),
    ] {
        let answer = ask(at, method, path, headers).await;
        assert_eq!(answer.status, status, "{path}");
        for (name, value) in [
            ("content-security-policy", policy),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
    }
}

#[tokio::test]
async fn a_proxy_on_this_machine_is_a_stranger() {
    let (smg, _worker) = gateway("trusted_proxies = [\"127.0.0.0/8\"]\n").await;
    for path in ["/", "/console", "/console/live"] {
        let answer = get(console(&smg), path).await;
        assert_eq!(answer.status, 403, "{path} {}", answer.text());
    }
}

#[tokio::test]
async fn pages_of_others_get_nothing() {
    let cors = "[listeners.cors]\nallowed_origins = [\"*\"]\n";
    let (smg, _worker) = gateway(cors).await;
    let at = console(&smg);
    let own = format!("http://{at}");
    for (headers, status) in [
        (&[("host", "localhost:1")][..], 200),
        (&[("host", "[::1]:1")], 200),
        (&[("host", "evil.example")], 403),
        (&[("host", "127.0.0.1.evil.example")], 403),
        (&[("origin", &*own)], 200),
        (&[("origin", "http://evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        // Somebody follows a link.
        (
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            200,
        ),
        // What a proxy passes on comes from elsewhere, and this listener speaks no TLS.
        (&[("x-forwarded-for", "192.0.2.1")], 403),
    ] {
        for path in ["/", "/console", "/console/live"] {
            let answer = ask(at, Method::GET, path, headers).await;
            let status = if path == "/" && status == 200 {
                303
            } else {
                status
            };
            assert_eq!(answer.status, status, "{path} {headers:?}");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                "",
                "{headers:?}"
            );
            if status == 403 {
                assert_eq!(answer.json()["error"]["code"], "forbidden");
            }
        }
    }
    let preflight = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "GET"),
    ];
    let answer = ask(at, Method::OPTIONS, "/console", &preflight).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

const KEYS: &str = "\n[auth]\napi_key = \"shared\"\n\
    [[auth.control_plane.api_keys]]\nid = \"a\"\nrole = \"admin\"\nkey = \"admin-key\"\n\
    [[auth.control_plane.api_keys]]\nid = \"u\"\nrole = \"user\"\nkey = \"user-key\"\n";

#[tokio::test]
async fn strangers_show_a_key_over_tls() {
    let authority = Authority::new();
    let pair = authority.issue("gw.internal");
    let tls = format!(
        "[listeners.tls]\ncert_path = {:?}\nkey_path = {:?}\n{KEYS}",
        pair.cert, pair.key
    );
    let worker = crate::support::Worker::start(&[]).await;
    let smg = crate::support::Smg::start(&crate::scene::config(&[worker.url()], &tls)).await;
    let at = console(&smg);
    let client = TlsClient::new(&authority, &["http/1.1"]);
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let from_afar = ("x-forwarded-for", "192.0.2.1");
    for (authorization, status) in [
        (None, 401),
        (Some(basic("anybody:user-key")), 200),
        (Some(basic(":admin-key")), 200),
        (Some("Bearer user-key".to_owned()), 200),
        // A key for inference only.
        (Some(basic("anybody:shared")), 401),
        (Some(basic("user-key:")), 401),
        (Some("Basic !".to_owned()), 401),
    ] {
        let mut headers = vec![from_afar];
        headers.extend(
            authorization
                .as_deref()
                .map(|value| ("authorization", value)),
        );
        let connection = client.open(at, "gw.internal").await.unwrap();
        let answer = ask_over(connection, Method::GET, "/console", &headers).await;
        assert_eq!(answer.status, status, "{authorization:?} {}", answer.text());
        if status == 401 {
            let asks = answer.header("www-authenticate");
            assert_eq!(asks, "Basic realm=\"smg\", charset=\"UTF-8\"");
        }
    }
    // The name of the certificate is a name of ours, another one is not; who sits here needs no key.
    for (host, status) in [
        ("gw.internal", 200),
        ("gw.internal:8443", 200),
        ("evil.example", 403),
    ] {
        let stream = client.connect(at, "gw.internal").await.unwrap();
        let connection = Connection::h1_over(stream, host).await;
        let answer = ask_over(connection, Method::GET, "/console", &[]).await;
        assert_eq!(answer.status, status, "{host}");
    }
    // Elsewhere nobody takes a password.
    let password = basic("anybody:admin-key");
    let headers = [("authorization", &*password)];
    let answer = ask(smg.main(), Method::GET, "/workers", &headers).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
}

#[tokio::test]
async fn without_keys_strangers_see_nothing_even_over_tls() {
    let authority = Authority::new();
    let pair = authority.issue("gw.internal");
    let open = format!(
        "[listeners.tls]\ncert_path = {:?}\nkey_path = {:?}\n\
         [auth.control_plane]\nopen = true\n",
        pair.cert, pair.key
    );
    let (smg, _worker) = gateway(&open).await;
    let client = TlsClient::new(&authority, &["h2"]);
    let connection = client.open(console(&smg), "gw.internal").await.unwrap();
    let from_afar = [("x-forwarded-for", "192.0.2.1")];
    let answer = ask_over(connection, Method::GET, "/console", &from_afar).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
}
