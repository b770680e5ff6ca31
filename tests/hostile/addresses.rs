//! Nothing that a client sends becomes an address that the gateway connects to, and what an operator
//! sends is looked at, when it is said and on every connection.

use http::Method;
use serde_json::{Value, json};

use crate::recorder::Recorder;
use crate::scene::{LISTENERS, PATIENCE, Wire, ask, config, ok, plain_engine, silent_engine};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_a_worker_or_nowhere() {
    let engine = plain_engine().await;
    let trap = Recorder::start().await;
    let smg = Smg::start(&config(&[engine.url()], "")).await;
    let trap_host = trap.address().to_string();
    let body = ask().to_string();
    let length = body.len();
    let raw = |target: &str, host: &str, more: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let path = "/v1/completions";
    for sent in [
        raw(&format!("http://{trap_host}{path}"), &trap_host, ""),
        raw(&format!("http://{trap_host}/"), &trap_host, ""),
        raw(&format!("//{trap_host}{path}"), "x", ""),
        raw(&format!("/\\{trap_host}{path}"), "x", ""),
        raw(&format!("/@{trap_host}{path}"), "x", ""),
        raw(&format!("{path}?url=http://{trap_host}"), "x", ""),
        raw(&format!("{path}/../../http://{trap_host}"), "x", ""),
        raw(path, &trap_host, ""),
        raw(
            path,
            "x",
            &format!("x-smg-target-worker: http://{trap_host}\r\n"),
        ),
        raw(path, "x", &format!("x-smg-target-worker: {trap_host}\r\n")),
        raw(
            path,
            "x",
            &format!("x-smg-routing-key: http://{trap_host}\r\n"),
        ),
        raw(path, "x", &format!("x-forwarded-host: {trap_host}\r\n")),
        raw(
            path,
            "x",
            &format!("x-smg-custom-host: http://{trap_host}\r\n"),
        ),
        raw(
            path,
            "x",
            &format!("x-original-url: http://{trap_host}/\r\n"),
        ),
        raw(path, "x", &format!("referer: http://{trap_host}/\r\n")),
        format!("CONNECT {trap_host} HTTP/1.1\r\nhost: {trap_host}\r\nconnection: close\r\n\r\n"),
        format!(
            "GET http://{trap_host}/v1/models HTTP/1.1\r\nhost: {trap_host}\r\nconnection: close\r\n\r\n"
        ),
        format!(
            "GET /v1/models/http://{trap_host} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ),
        format!(
            "GET /engine_metrics?url=http://{trap_host} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ),
    ] {
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(&sent).await;
        assert!(!wire.until_close().await.is_empty(), "{sent}");
    }
    for model in [
        format!("http://{trap_host}"),
        format!("m@{trap_host}"),
        format!("{trap_host}/m"),
        format!("m\r\nhost: {trap_host}"),
        "m:../../x".to_owned(),
    ] {
        for body in [
            json!({ "model": model, "prompt": "hi" }),
            json!({ "model": "m", "prompt": "hi", "base_url": model, "url": model, "worker": model,
                    "image_url": format!("http://{trap_host}/i.png"), "bootstrap_host": trap_host }),
        ] {
            post(smg.main(), path, &body).await;
        }
    }
    assert_eq!(trap.connections(), 0);
    for call in engine.calls() {
        assert_eq!(
            call.header("host"),
            Some(engine.address().to_string().as_str())
        );
        assert_eq!(call.path, path);
    }
}

fn dynamic(more: &str) -> String {
    format!(
        "{LISTENERS}[reliability.health]\ninterval = \"50ms\"\nfailure_threshold = 1\n\
         startup_check_interval = \"50ms\"\n[[pools]]\nname = \"p\"\nworkers = []\n\
         [[models]]\nname = \"m\"\npool = \"p\"\n{more}"
    )
}

async fn add(smg: &Smg, url: &str) -> (u16, Value) {
    let answer = post(smg.main(), "/workers", &json!({ "url": url })).await;
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_is_where_credentials_are_handed_out() {
    let smg = Smg::start(&dynamic("")).await;
    for host in [
        "169.254.169.254",
        "169.254.169.254.",
        "169.254.0.1:8000",
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "025177524776",
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "169.254.43518",
        "169.16689662",
        "169\u{3002}254\u{3002}169\u{3002}254",
        "\u{ff11}69.254.169.254",
        "%31%36%39.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::]",
        "0.0.0.0",
        "0",
        "255.255.255.255",
        "224.0.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata",
        "user@169.254.169.254",
        "x:y@127.0.0.1",
        "127.0.0.1@169.254.169.254",
        "169.254.169.254#@127.0.0.1",
        "169.254.169.254?@127.0.0.1",
        "169.254.169.254\\@127.0.0.1",
        "169.254.169.254\t",
        "\n169.254.169.254",
    ] {
        let (status, body) = add(&smg, &format!("http://{host}")).await;
        assert_eq!(
            (status, &body["code"]),
            (400, &json!("BAD_REQUEST")),
            "{host:?}: {body}"
        );
    }
    for url in [
        "file:///etc/passwd",
        "gopher://127.0.0.1",
        "ftp://127.0.0.1",
        "unix:/run/x",
        "http:127.0.0.1",
        "//127.0.0.1",
        "javascript:x",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1/\r\nx: y",
        "http://a\0b",
    ] {
        let (status, body) = add(&smg, url).await;
        assert_eq!(status, 400, "{url:?}: {body}");
    }
    assert_eq!(
        get(smg.main(), "/workers").await.json()["workers"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_added_only_where_the_configuration_lets_them_be() {
    let only = |network: &str| {
        dynamic(&format!(
            "[auth.control_plane]\nworker_cidrs = [\"{network}\"]\n"
        ))
    };
    let engine = plain_engine().await;
    let smg = Smg::start(&only("10.0.0.0/8")).await;
    let port = engine.address().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "8.8.8.8",
    ] {
        let (status, body) = add(&smg, &format!("http://{host}:{port}")).await;
        assert_eq!(status, 400, "{host}: {body}");
        assert!(
            body["error"].as_str().unwrap().contains("worker_cidrs"),
            "{body}"
        );
    }
    assert!(engine.asked().is_empty());

    // Where it may be it is served, until it may not.
    smg.apply(&only("127.0.0.0/8")).await;
    let (status, body) = add(&smg, &engine.url()).await;
    assert_eq!(status, 202, "{body}");
    let served = async || {
        eventually(PATIENCE, async || {
            post(smg.main(), "/v1/completions", &ask()).await.status == 200
        })
        .await;
    };
    served().await;
    smg.apply(&only("10.0.0.0/8")).await;
    let barred = post(smg.main(), "/v1/completions", &ask()).await;
    assert!(matches!(barred.status, 502 | 503), "{}", barred.text());
    // Kept connections are not used either: nothing more is heard.
    eventually(PATIENCE, async || engine.connections() == 0).await;
    let heard = engine.asked().len();
    assert_ne!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert_eq!(engine.asked().len(), heard);
    smg.apply(&only("127.0.0.0/8")).await;
    served().await;
}

/// What the file names may be anywhere: who writes the file may do everything.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_not_about_the_file() {
    let engine = plain_engine().await;
    let smg = Smg::start(&config(
        &[engine.url()],
        "[auth.control_plane]\nworker_cidrs = [\"10.0.0.0/8\"]\n",
    ))
    .await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
}

/// Neither a probe nor a request follows a worker to where it points.
#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_is_followed() {
    let trap = Recorder::start().await;
    let target = trap.url();
    let away = move |status: u16| {
        Step::write(&format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: {target}/latest/meta-data\r\n\
             refresh: 0;url={target}\r\ncontent-length: 0\r\n\r\n"
        ))
    };
    let engine = {
        let away = away.clone();
        FakeEngine::start(move |asked| match asked.method.as_str() {
            "GET" => vec![away(302)],
            _ => vec![away(307)],
        })
        .await
    };
    let smg = Smg::start(&dynamic("")).await;
    let (status, body) = add(&smg, &engine.url()).await;
    assert_eq!(status, 202, "{body}");
    eventually(PATIENCE, async || engine.asked().len() > 10).await;
    drop(smg);

    let engine = silent_engine(move |_| vec![away(307)]).await;
    let smg = Smg::start(&config(&[engine.url()], "")).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.header("location"), "");
    assert_eq!(trap.connections(), 0);
}

/// Who adds a worker names no other host by what stands around it.
#[tokio::test(flavor = "multi_thread")]
async fn the_path_of_a_worker_stays_a_path() {
    let engine = silent_engine(|_| vec![ok()]).await;
    let trap = Recorder::start().await;
    let smg = Smg::start(&dynamic("")).await;
    let url = format!("{}/@{}/..//", engine.url(), trap.address());
    let mut connection = Connection::h1(smg.main()).await;
    let answer = connection
        .send(json_request("/workers", &json!({ "url": url })))
        .await;
    if answer.status == 202 {
        eventually(PATIENCE, async || !engine.asked().is_empty()).await;
    }
    let gone = http::Request::builder()
        .method(Method::DELETE)
        .uri(format!("/workers/http:%2f%2f{}", trap.address()))
        .body(http_body_util::Full::default())
        .unwrap();
    connection.send(gone).await;
    assert_eq!(trap.connections(), 0);
}
