//! Kept connections that the worker has closed.

use futures_util::future::join_all;

use crate::scene::{ask, gateway, ok, settled};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Step};

const CLIENTS: usize = 8;
const REQUESTS: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_closes_behind_every_answer_fails_no_request() {
    // Without saying so: each connection looks as if it could be used again.
    let engine = FakeEngine::serving("m", |_| vec![ok(), Step::Close]).await;
    let smg = gateway(&[&engine], "").await;
    let client = async || {
        let mut connection = Connection::h1(smg.main()).await;
        for _ in 0..REQUESTS {
            let answer = connection
                .send(json_request("/v1/completions", &ask()))
                .await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    join_all((0..CLIENTS).map(|_| client())).await;
    settled(&smg).await;
    let asked = (CLIENTS * REQUESTS) as f64;
    let metrics = smg.metrics().await;
    let attempts = metrics.sum("smg_worker_requests_total", &[]);
    println!("{attempts} attempts for {asked} requests");
    // A close that crosses a request on the wire costs an attempt; all others cost nothing.
    assert!(attempts < asked * 1.2, "{attempts} for {asked}");
}
