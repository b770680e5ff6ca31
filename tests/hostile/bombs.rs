//! Answers of workers that are small on the wire and large unpacked, or large without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::scene::{LISTENERS, PATIENCE, ask, gateway, ready, silent_engine};
use crate::support::{FakeEngine, Smg, Step, eventually, get, post};

/// A thousand members of gzip with 10 KiB of nothing each, as far as their heads tell. Whether they
/// unpack is what the gateway does not try.
fn bomb() -> Vec<u8> {
    let member: &[u8] = &[
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0xed, 0xc1, 0x01, 0x0d, 0, 0, 0, 0xc2, 0xa0, 0xf7,
        0x4f, 0x6d, 0x0f, 0x07, 0x14, 0, 0, 0,
    ];
    member.repeat(1000)
}

fn zipped(content_type: &str) -> Vec<u8> {
    let bomb = bomb();
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-encoding: gzip\r\n\
         content-length: {}\r\n\r\n",
        bomb.len()
    )
    .into_bytes();
    bytes.extend(bomb);
    bytes
}

/// What a client is sent is what the worker has sent, with the name of its coding.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_passes_as_it_is() {
    let engine = silent_engine(|_| vec![Step::Write(zipped("application/json"))]).await;
    let mut smg = gateway(&[&engine], "").await;
    post(smg.main(), "/v1/completions", &ask()).await;
    let before = smg.process().rss_kb();
    for _ in 0..20 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-encoding"), "gzip");
        assert!(answer.body[..] == bomb()[..], "it was changed");
    }
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

/// What the gateway reads itself it asks for plain, and does not unpack what comes otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_to_the_gateways_own_questions_are_not_unpacked() {
    let engine = FakeEngine::start(|_| vec![Step::Write(zipped("application/json"))]).await;
    let mut smg = Smg::start(&format!(
        "{LISTENERS}[reliability.health]\ninterval = \"50ms\"\nstartup_check_interval = \"50ms\"\n\
         [[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n\
         [[models]]\nname = \"m\"\npool = \"p\"\npolicy = \"least_load\"\n",
        engine.url()
    ))
    .await;
    ready(&smg).await;
    let before = smg.process().rss_kb();
    let asked = engine.asked().len();
    eventually(PATIENCE, async || engine.asked().len() > asked + 40).await;
    for path in [
        "/v1/models",
        "/get_server_info",
        "/get_model_info",
        "/engine_metrics",
    ] {
        get(smg.main(), path).await;
    }
    for asked in engine.asked() {
        assert_eq!(
            asked.header("accept-encoding"),
            Some("identity"),
            "{}",
            asked.path
        );
    }
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

/// An answer without an end to any question of the gateway's: it stops reading, and lives.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_end_to_the_gateways_own_questions_are_cut() {
    let written = Arc::new(AtomicUsize::new(0));
    let engine = {
        let written = Arc::clone(&written);
        FakeEngine::start(move |asked| {
            if asked.path == "/health" {
                return vec![Step::answer(200, "text/plain", "OK")];
            }
            written.fetch_add(1, Ordering::SeqCst);
            let mut steps = vec![Step::write(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
                 {\"data\":[",
            )];
            let filler = Step::write(&"{\"id\":\"x\"},".repeat(10_000));
            steps.extend((0..1_000).map(|_| filler.clone()));
            steps
        })
        .await
    };
    let mut smg = Smg::start(&format!(
        "{LISTENERS}[reliability.health]\ninterval = \"50ms\"\nstartup_check_interval = \"50ms\"\n\
         [[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n\
         [[models]]\nname = \"m\"\npool = \"p\"\npolicy = \"least_load\"\n",
        engine.url()
    ))
    .await;
    let before = smg.process().rss_kb();
    eventually(PATIENCE, async || written.load(Ordering::SeqCst) > 5).await;
    for path in [
        "/v1/models",
        "/get_server_info",
        "/get_model_info",
        "/engine_metrics",
    ] {
        get(smg.main(), path).await;
    }
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
    let grown = smg.process().rss_kb().saturating_sub(before);
    // Each of the ten answers or so was 110 MB long, and several came at once; what they took up is
    // kept by the allocator for a while.
    assert!(grown < 256 * 1024, "{grown} KiB more");
}
