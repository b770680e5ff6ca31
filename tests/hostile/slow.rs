//! Clients that take their time, many at once.

use std::time::{Duration, Instant};

use crate::scene::{PATIENCE, Wire, ask, gateway, plain_engine, settled};
use crate::support::{eventually, get, post};

const MANY: usize = 300;

const LIMITS: &str = "[listeners.limits]\nheader_timeout = \"500ms\"\nbody_timeout = \"500ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_drip_are_cut_off_and_others_are_served_meanwhile() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], LIMITS).await;
    let mut dripping = Vec::new();
    for n in 0..MANY {
        let mut wire = Wire::connect(smg.main()).await;
        // Some begin as HTTP/2 does, which is more than a head.
        let method = if n % 2 == 0 { "POST" } else { "PRI" };
        wire.write(format!(
            "{method} /v1/completions HTTP/1.1\r\nhost: x\r\nx-1"
        ))
        .await;
        dripping.push(tokio::spawn(async move {
            while wire.try_write("y").await {
                tokio::time::sleep(Duration::from_millis(50)).await; // the pace of the client
            }
            assert!(!wire.until_close().await.contains(" 200 "));
        }));
    }
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
        assert!(started.elapsed() < Duration::from_secs(5), "served late");
    }
    for drip in dripping {
        tokio::time::timeout(PATIENCE, drip)
            .await
            .expect("it may drip on")
            .unwrap();
    }
    assert_eq!(engine.calls().len(), 20);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_come_are_408_and_give_their_memory_back() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], LIMITS).await;
    let mut waiting = Vec::new();
    for n in 0..MANY {
        let mut wire = Wire::connect(smg.main()).await;
        let framing = if n % 2 == 0 {
            "content-length: 100000"
        } else {
            "transfer-encoding: chunked"
        };
        let start = if n % 2 == 0 {
            "{\"model\":"
        } else {
            "9\r\n{\"model\":\r\n"
        };
        wire.write(format!(
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             {framing}\r\n\r\n{start}"
        ))
        .await;
        waiting.push(wire);
    }
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    for mut wire in waiting {
        let answer = wire.answer().await;
        assert_eq!(answer.status, 408);
        assert_eq!(answer.header("x-smg-error-code"), "request_body_timeout");
        assert!(!answer.header("x-request-id").is_empty());
        wire.until_close().await;
    }
    settled(&smg).await;
    eventually(PATIENCE, async || {
        smg.metrics()
            .await
            .sum("smg_memory_budget_bytes", &[("state", "used")])
            == 0.0
    })
    .await;
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}
