//! The audit log: who asked what of the control plane.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::scene::{PATIENCE, config, with};
use crate::support::client::{json_request, request};
use crate::support::{Connection, Smg, eventually, get};

fn audited(path: &Path, more: &str) -> String {
    let workers = ["http://127.0.0.1:9".to_owned()];
    let more = format!("[audit]\npath = {path:?}\n{more}");
    config(&workers, &more)
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until a record is there of which `wanted` holds.
async fn record(path: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    eventually(PATIENCE, async || {
        found = records(path).into_iter().find(|record| wanted(record));
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_in_and_what_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let socket = folder.path().join("control.sock");
    let file = audited(&path, "");
    let file = file.replace(
        "version = 1",
        &format!("version = 1\n[server]\ncontrol_socket = {socket:?}\n"),
    );
    // No filter keeps records out.
    let mut smg = Smg::start_with(&file, |command| {
        command.env("RUST_LOG", "smg=info,smg::audit=off");
    })
    .await;
    let ask = with(
        request(Method::GET, "/workers/nobody?secret=canary", Bytes::new()),
        "x-request-id",
        "r-1",
    );
    let answer = Connection::h1(smg.main()).await.send(ask).await;
    assert_eq!(answer.status, 400);
    let found = record(&path, |record| record["request_id"] == "r-1").await;
    for (key, value) in [
        ("message", json!("control_plane_audit")),
        ("target", json!("smg::audit")),
        ("level", json!("INFO")),
        ("auth_method", json!("none")),
        ("method", json!("GET")),
        ("path", json!("/workers/nobody")),
        ("resource", json!("nobody")),
        ("outcome", json!("success")),
        ("status", json!(400)),
        ("client", json!("127.0.0.1")),
    ] {
        assert_eq!(found[key], value, "{key}: {found}");
    }
    assert!(found["timestamp"].as_str().unwrap().ends_with('Z'));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Refused logins: one record at once, the others when their minute is over or at the end.
    let mut connection = Connection::h1(smg.main()).await;
    for _ in 0..5 {
        let ask = with(
            request(Method::GET, "/admin/config", Bytes::new()),
            "x-forwarded-for",
            "8.8.8.8",
        );
        assert_eq!(connection.send(ask).await.status, 401);
    }
    let page = with(
        json_request("/admin/reload", &json!({})),
        "origin",
        "http://evil.example",
    );
    assert_eq!(connection.send(page).await.status, 403);
    let found = record(&path, |record| record["status"] == 403).await;
    assert_eq!(
        (&found["outcome"], &found["path"]),
        (&json!("denied"), &json!("/admin/reload"))
    );

    let stream = UnixStream::connect(&socket).await.unwrap();
    let mut local = Connection::h1_over(stream, "control").await;
    let ask = request(Method::GET, "/admin/config/status", Bytes::new());
    assert_eq!(local.send(ask).await.status, 200);
    record(&path, |record| record["path"] == "/admin/config/status").await;

    // What is no business of the control plane is not recorded.
    get(smg.main(), "/readiness").await;
    get(smg.main(), "/v1/models").await;
    assert!(smg.term_and_wait().await.success());
    let all = records(&path);
    let refused: Vec<_> = all
        .iter()
        .filter(|record| record["status"] == 401)
        .collect();
    let counts: Vec<_> = refused.iter().map(|record| &record["count"]).collect();
    assert_eq!(counts, [1, 4], "{refused:?}");
    for record in refused {
        assert_eq!(record["principal"], "unauthenticated");
        assert_eq!(record["outcome"], "denied");
    }
    let paths: Vec<_> = all.iter().map(|record| record["path"].as_str()).collect();
    assert!(!paths.contains(&Some("/readiness")) && !paths.contains(&Some("/v1/models")));
    // The log has them as well, though its filter says otherwise.
    let logged = |log: &[String]| {
        let audited = log
            .iter()
            .filter(|line| line.contains("control_plane_audit"));
        audited.count()
    };
    eventually(PATIENCE, async || {
        logged(&smg.process().output()) >= all.len()
    })
    .await;
    let log = smg.process().output();
    assert_eq!(logged(&log), all.len());
    assert!(!log.iter().any(|line| line.contains("canary")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_noted_once_and_every_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut smg = Smg::start(&audited(&path, "")).await;
    for _ in 0..5 {
        assert_eq!(get(smg.main(), "/admin/overview").await.status, 200);
    }
    for _ in 0..2 {
        let ask = with(
            request(Method::GET, "/admin/overview", Bytes::new()),
            "host",
            "evil.example",
        );
        assert_eq!(Connection::h1(smg.main()).await.send(ask).await.status, 403);
    }
    assert!(smg.term_and_wait().await.success());
    let all = records(&path);
    let looks = all
        .iter()
        .filter(|record| record["path"] == "/admin/overview");
    let outcomes: Vec<_> = looks.map(|record| record["outcome"].as_str()).collect();
    assert_eq!(
        outcomes,
        [Some("success"), Some("denied"), Some("denied")],
        "{all:?}"
    );
    // Of the access lines only those of the refusals are worth a line of this level.
    let log = smg.process().output();
    let lines = log.iter().filter(|line| {
        line.contains("finished processing request") && line.contains("/admin/overview")
    });
    assert_eq!(lines.count(), 2, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_are_recorded_and_the_file_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let file = audited(&path, "");
    let mut smg = Smg::start(&file).await;
    let sha256 = smg.status().await["live"]["sha256"].clone();
    let second = format!("{file}\n# another\n");
    smg.apply(&second).await;
    let found = record(&path, |record| record["result"] == "applied").await;
    assert_eq!(
        (&found["principal"], &found["outcome"]),
        (&json!("system"), &json!("success"))
    );
    assert_eq!(found["generation"], 2);
    assert!(matches!(found["trigger"].as_str(), Some("file" | "admin")));
    assert_ne!(found["sha256"], sha256);

    // Moved away by others, it is begun anew without being told, and on SIGHUP.
    let moved = folder.path().join("audit.1");
    std::fs::rename(&path, &moved).unwrap();
    get(smg.main(), "/workers").await;
    record(&path, |record| record["path"] == "/workers").await;
    std::fs::remove_file(&path).unwrap();
    smg.sighup();
    record(&path, |record| record["trigger"] == "signal").await;

    // One that cannot be written keeps the configuration out.
    let nowhere = folder.path().join("no/such/folder/audit");
    smg.rewrite(&audited(&nowhere, ""));
    let reload = smg.reload().await;
    assert_eq!(reload.result(), "rejected", "{reload:?}");
    assert!(reload.body.to_string().contains("audit"), "{reload:?}");
    record(&path, |record| record["result"] == "rejected").await;

    // The one that ends it is the last in it.
    smg.apply(&second.replace("[audit]\n", "[audit]\nenabled = false\n"))
        .await;
    record(&path, |record| record["result"] == "applied").await;
    let before = records(&path).len();
    get(smg.main(), "/workers").await;
    assert!(smg.term_and_wait().await.success());
    let after: Vec<_> = records(&path).split_off(before);
    assert!(
        after.iter().all(|record| record["path"] != "/workers"),
        "{after:?}"
    );
}
