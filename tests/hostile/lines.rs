//! Whatever a client says of itself, a line of the log stays one line, without a byte that a terminal
//! would obey.

use serde_json::{Value, json};

use crate::scene::{PATIENCE, Wire, ask, gateway, plain_engine, with};
use crate::support::client::json_request;
use crate::support::{Connection, Smg, eventually, get, post};

/// What must never begin a line, nor stand raw in one.
const FORGED: &str = "2026-01-01 00:00:00 INFO smg::daemon: forged";

const NASTY: &[&str] = &[
    "a\r\n2026-01-01 00:00:00 INFO smg::daemon: forged",
    "a\n{\"level\":\"INFO\",\"message\":\"forged\"}",
    "\u{1b}[2J\u{1b}[31mred\u{1b}]0;title\u{7}",
    "\u{9b}31mred\u{85}next\u{2028}line\u{2029}paragraph",
    "a\0b\u{8}\u{7f}",
    "\u{202e}desrever\u{200f}",
    "\" forged=\"1",
    "quote\\",
];

/// Asks in every way that a client has of getting text into a log.
async fn ask_nastily(smg: &Smg) {
    for nasty in NASTY {
        for path in ["/v1/completions", "/v1/chat/completions", "/generate"] {
            post(smg.main(), path, &json!({ "model": nasty, "prompt": "hi" })).await;
        }
        post(
            smg.main(),
            "/workers",
            &json!({ "url": nasty, "pool": nasty, "labels": { *nasty: nasty } }),
        )
        .await;
        post(
            smg.main(),
            "/admin/explain",
            &json!({ "endpoint": nasty, "body": { "model": nasty } }),
        )
        .await;
        let bytes = nasty.replace(['\r', '\n', '\0'], "\t");
        let mut wire = Wire::connect(smg.main()).await;
        // Where these are no head at all, the connection ends.
        wire.try_write(format!(
            "GET /{path}?{path} HTTP/1.1\r\nhost: x\r\nx-request-id: {bytes}\r\nuser-agent: {bytes}\r\n\
             x-forwarded-for: {bytes}\r\ntraceparent: {bytes}\r\nconnection: close\r\n\r\n",
            path = bytes.replace([' ', '\t'], "_"),
        ))
        .await;
        wire.until_close().await;
        let encoded: String = nasty.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for path in [
            format!("/{encoded}"),
            format!("/v1/models/{encoded}"),
            format!("/workers/{encoded}"),
            format!("/workers?pool={encoded}"),
        ] {
            get(smg.main(), &path).await;
        }
    }
    for id in ["[31m", "\"forged=1", "a=b", "%0a%1b"] {
        let request = with(json_request("/v1/completions", &ask()), "x-request-id", id);
        Connection::h1(smg.main()).await.send(request).await;
    }
    // The last one, after which everything before it has been written.
    let last = with(
        json_request("/v1/completions", &ask()),
        "x-request-id",
        "the-last-one",
    );
    assert_eq!(
        Connection::h1(smg.main()).await.send(last).await.status,
        200
    );
}

async fn logged(format: &str) -> Vec<String> {
    let engine = plain_engine().await;
    let more = format!("[logging]\nlevel = \"trace\"\nformat = \"{format}\"\n");
    let mut smg = gateway(&[&engine], &more).await;
    ask_nastily(&smg).await;
    eventually(PATIENCE, async || {
        let output = smg.process().output();
        output
            .iter()
            .any(|line| line.contains("the-last-one") && line.contains("finished"))
    })
    .await;
    let output = smg.process().output();
    for line in &output {
        assert!(!line.starts_with(FORGED), "{line:?}");
        assert!(
            !line
                .chars()
                .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')),
            "{line:?}"
        );
    }
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn text_lines_hold_no_control_characters() {
    for line in logged("text").await {
        let stamp = line.get(..19).unwrap_or_default();
        assert!(
            stamp.starts_with("20") && stamp.as_bytes().get(10) == Some(&b' '),
            "no line of the log: {line:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_are_json() {
    for line in logged("json").await {
        let parsed: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            parsed["level"].is_string() && parsed["message"] != "forged",
            "{line}"
        );
    }
}

/// A name that a client makes up is in the metrics in no form.
#[tokio::test(flavor = "multi_thread")]
async fn no_label_is_what_a_client_has_said() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    // Once, so that all series that there can be are there.
    ask_nastily(&smg).await;
    let before = get(smg.address("metrics"), "/metrics")
        .await
        .text()
        .lines()
        .count();
    ask_nastily(&smg).await;
    for n in 0..200 {
        let model = format!("made-up-model-{n}");
        post(
            smg.main(),
            "/v1/completions",
            &json!({ "model": model, "prompt": "hi" }),
        )
        .await;
        get(smg.main(), &format!("/made-up-path-{n}")).await;
        let method = format!("MADEUP{n}");
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(format!(
            "{method} /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await;
        wire.until_close().await;
    }
    let text = get(smg.address("metrics"), "/metrics").await.text();
    for made_up in ["made-up", "MADEUP", "forged", "31mred", "desrever"] {
        assert!(!text.contains(made_up), "{made_up} has become a label");
    }
    let after = text.lines().count();
    assert!(after < before + 60, "{before} lines have become {after}");
}
