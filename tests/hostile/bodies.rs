//! Request bodies that are no JSON, or not one that everybody reads alike.

use serde_json::Value;

use crate::recorder::Recorder;
use crate::scene::{Wire, assert_error, config, in_chunks, post_bytes, with};
use crate::support::{Connection, Smg};

const PATH: &str = "/v1/completions";

async fn recorded(more: &str) -> (Smg, Recorder) {
    let worker = Recorder::start().await;
    let smg = Smg::start(&config(&[worker.url()], more)).await;
    (smg, worker)
}

/// Asks with this body whole, in small chunks, in large ones, and over HTTP/2; each answer is this
/// error, and no worker hears of it.
async fn refused(bodies: &[Vec<u8>], status: u16, code: &str) {
    let (smg, worker) = recorded("").await;
    for body in bodies {
        let shown = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
        for mut connection in [
            Connection::h1(smg.main()).await,
            Connection::h2(smg.main()).await,
        ] {
            let answer = connection.send(post_bytes(PATH, body.clone())).await;
            assert_eq!(answer.status, status, "{shown}: {}", answer.text());
            assert_error(&answer, status, code);
        }
        for size in [7, 16 * 1024] {
            if body.len() / size > 5_000 {
                continue;
            }
            let mut wire = Wire::connect(smg.main()).await;
            wire.write(in_chunks(PATH, body, size)).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, status, "{shown}: {}", answer.text());
            assert_error(&answer, status, code);
        }
    }
    assert_eq!(worker.bodies(), Vec::<Vec<u8>>::new());
}

/// The body goes to the worker byte by byte as it is, however it comes.
async fn taken(bodies: &[Vec<u8>]) {
    let (smg, worker) = recorded("").await;
    let mut expected = Vec::new();
    for body in bodies {
        let mut connection = Connection::h1(smg.main()).await;
        let answer = connection.send(post_bytes(PATH, body.clone())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(in_chunks(PATH, body, 5_000)).await;
        assert_eq!(wire.answer().await.status, 200);
        expected.extend([body.clone(), body.clone()]);
    }
    let mut bodies = worker.bodies();
    bodies.sort();
    expected.sort();
    assert!(bodies == expected, "a body was changed on its way");
}

fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
    format!(
        "{{\"model\":\"m\",\"prompt\":{}1{}}}",
        open.repeat(depth),
        close.repeat(depth)
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_nests_no_deeper_than_128() {
    // The object itself is one level.
    taken(&[nested("[", "]", 127), nested("{\"a\":", "}", 127)]).await;
    refused(
        &[
            nested("[", "]", 128),
            nested("{\"a\":", "}", 128),
            nested("[", "", 200),
            nested("[", "", 4_000_000),
            nested("{\"a\":[", "]}", 1_000_000),
            b"[".repeat(4_000_000),
        ],
        400,
        "invalid_json",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_given_twice_is_refused_in_any_spelling() {
    let long = "x".repeat(200_000);
    let bodies = [
        r#"{"model":"m","model":"m","prompt":"hi"}"#.to_owned(),
        r#"{"model":"m","prompt":"hi","model":"other"}"#.to_owned(),
        r#"{"model":"m","prompt":"hi","mod\u0065l":"other"}"#.to_owned(),
        r#"{"\u006d\u006f\u0064\u0065\u006c":"m","prompt":"hi","model":"other"}"#.to_owned(),
        r#"{"mod\u0065l":"m","mod\u0065l":"other","prompt":"hi"}"#.to_owned(),
        r#"{"MOD\u0045L":1,"model":null,"model":"m","prompt":"hi"}"#.to_owned(),
        format!("{{\"model\":\"m\",\"prompt\":\"{long}\",\"model\":\"other\"}}"),
        format!("{{\"model\":\"m\",\"prompt\":\"{long}\",\"mod\\u0065l\":\"other\"}}"),
    ];
    refused(&bodies.map(String::into_bytes), 400, "duplicate_model").await;
    // Only at the top, and only that name.
    taken(&[
        br#"{"model":"m","prompt":"hi","metadata":{"model":"a","model":"b"},"n":1,"n":1}"#.to_vec(),
        br#"{"model":"m","prompt":"{\"model\":\"a\"}","Model":"b","model ":"c"}"#.to_vec(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_object() {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        "null",
        "[]",
        "\"model\"",
        "{\"model\":\"m\"",
        "{\"model\":\"m\"}}",
        "{\"model\":\"m\"} {}",
        "{\"model\":\"m\",}",
        "{'model':'m'}",
        "{model:\"m\"}",
        "{\"model\":\"m\" \"prompt\":\"hi\"}",
        "\u{feff}{\"model\":\"m\"}",
        "{\"model\":\"a\nb\"}",
        "{\"model\":\"a\0b\"}",
        "{\"model\":\"\\x41\"}",
        "{\"model\":\"\\ud800\"}",
        "{\"model\":\"m\",\"stream\":tru}",
        "{\"model\":\"m\",\"n\":NaN}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    // No UTF-8, where it is read: too long, a surrogate, out of range, cut off.
    for bad in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
    ] {
        bodies.push([b"{\"model\":\"m", bad, b"\",\"prompt\":\"hi\"}"].concat());
        bodies.push([b"{\"mod", bad, b"el\":\"m\",\"model\":\"m\"}"].concat());
    }
    refused(&bodies, 400, "invalid_json").await;
}

/// The worker judges what the gateway does not read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_passes_as_it_is() {
    let digits = "9".repeat(10_000);
    taken(&[
        b"{\"model\":\"m\",\"prompt\":\"\xff\xfe\"}".to_vec(),
        format!("{{\"model\":\"m\",\"prompt\":\"hi\",\"seed\":{digits}}}").into_bytes(),
        format!("{{\"model\":\"m\",\"prompt\":\"hi\",\"x\":1e{digits}}}").into_bytes(),
        br#"{ "model" : "m" , "x":1.0000000000000000000000001,"prompt":"\u0000\ud83d" }"#.to_vec(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_415() {
    let (smg, worker) = recorded("").await;
    let bytes = br#"{"model":"m","prompt":"hi"}"#;
    for codings in [
        &["gzip"][..],
        &["GZIP"],
        &["br"],
        &["deflate"],
        &["zstd"],
        &["gzip, identity"],
        &["identity, gzip"],
        &["identity", "gzip"],
        &["x-unknown"],
    ] {
        for mut connection in [
            Connection::h1(smg.main()).await,
            Connection::h2(smg.main()).await,
        ] {
            let mut request = post_bytes(PATH, &bytes[..]);
            for coding in codings {
                request = with(request, "content-encoding", coding);
            }
            assert_error(&connection.send(request).await, 415, "unsupported_encoding");
        }
    }
    assert!(worker.bodies().is_empty());
    let plain = with(post_bytes(PATH, &bytes[..]), "content-encoding", "identity");
    let answer = Connection::h1(smg.main()).await.send(plain).await;
    assert_eq!(answer.status, 200);
    assert_eq!(worker.bodies(), [bytes]);
}

/// Behind an alias the name is exchanged, and nothing can be smuggled by its spelling.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_replaced_by_what_is_asked_for() {
    for body in [
        r#"{"model":"also-m","prompt":"hi"}"#,
        r#"{"prompt":"\"model\":\"x\"","\u006dodel":"also-\u006d"}"#,
        r#"{"a":{"model":"also-m"},"model" :  "\u0061lso-m"  }"#,
    ] {
        let (smg, worker) = recorded("").await;
        let mut connection = Connection::h1(smg.main()).await;
        let answer = connection.send(post_bytes(PATH, body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent: Value = serde_json::from_slice(worker.bodies().last().unwrap()).unwrap();
        let mut meant: Value = serde_json::from_str(body).unwrap();
        meant["model"] = "m".into();
        assert_eq!(sent, meant);
    }
}
