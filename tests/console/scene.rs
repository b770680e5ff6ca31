//! A gateway with a console in front of sample workers, and requests to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::client::{Answer, request};
use crate::support::{Connection, Smg, Worker, eventually, get, post};

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where nobody listens.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

/// Listeners for everything, the metrics and the console, and a pool `chat` of these workers.
pub(crate) fn config(workers: &[&str], more: &str) -> String {
    format!(
        r#"version = 1

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]

[[listeners]]
name = "console"
address = "127.0.0.1:0"
serve = ["console"]
{more}
[[pools]]
name = "chat"
runtime = "sglang"
workers = {workers:?}
health.interval = "1s"
health.timeout = "1s"

[[models]]
name = "sample"
aliases = ["also <b>sample</b>"]
pool = "chat"
"#
    )
}

/// A gateway in front of a worker.
pub(crate) async fn gateway(more: &str) -> (Smg, Worker) {
    let worker = Worker::start(&[]).await;
    let smg = Smg::start(&config(&[worker.url()], more)).await;
    served(&smg).await;
    (smg, worker)
}

/// Waits until somebody serves.
pub(crate) async fn served(smg: &Smg) {
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
}

/// Asks for a short answer and returns the status.
pub(crate) async fn chat(smg: &Smg, model: &str) -> u16 {
    let content = "a question that is long enough to be found in a cache again ".repeat(20);
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": content }] });
    post(smg.main(), "/v1/chat/completions", &body).await.status
}

/// What the overview says now.
pub(crate) async fn overview(smg: &Smg) -> Value {
    get(smg.main(), "/admin/overview").await.json()
}

/// Where the console is.
pub(crate) fn console(smg: &Smg) -> SocketAddr {
    smg.address("console")
}

/// The page as it is now.
pub(crate) async fn page(smg: &Smg) -> String {
    let answer = get(console(smg), "/console").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// A request with these headers over a connection of its own.
pub(crate) async fn ask(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Answer {
    ask_over(Connection::h1(to).await, method, path, headers).await
}

/// The same over one that is there.
pub(crate) async fn ask_over(
    mut connection: Connection,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Answer {
    let mut asked = request(method, path, Bytes::new());
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_str(value).unwrap();
        asked.headers_mut().append(name, value);
    }
    connection.send(asked).await
}
