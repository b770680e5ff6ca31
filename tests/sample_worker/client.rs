//! A client that shows everything it gets, and the requests of the tests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use smg::base::task;
use smg::cmd::sample_worker::{self, Args, Running};
use tokio::net::TcpStream;

/// Longer than anything here takes; what runs into it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const CHAT: &str = "/v1/chat/completions";

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body ended as HTTP wants it.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The `data:` of the events that are JSON.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = |line: &str| serde_json::from_str(line.strip_prefix("data: ")?).ok();
        self.text().lines().filter_map(data).collect()
    }

    pub(crate) fn ends_with_done(&self) -> bool {
        self.text().ends_with("data: [DONE]\n\n")
    }
}

pub(crate) async fn start(args: Args) -> Running {
    sample_worker::start(args).await.expect("start")
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "worker");
    request.body(Full::new(body.into())).unwrap()
}

pub(crate) async fn send(
    worker: &Running,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(worker.addr).await.expect("connect");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .expect("handshake");
    task::spawn("test connection", connection);
    sender.send_request(request).await
}

pub(crate) async fn connect_h2(worker: &Running) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(worker.addr).await.expect("connect"));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .expect("handshake");
    task::spawn("test connection", connection);
    sender
}

pub(crate) async fn collect(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Answer {
        status: head.status,
        headers: head.headers,
        body: bytes.into(),
        whole,
    }
}

pub(crate) async fn exchange(worker: &Running, request: Request<Full<Bytes>>) -> Answer {
    let exchange = async { collect(send(worker, request).await.expect("an answer")).await };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("an answer in time")
}

pub(crate) async fn get(worker: &Running, path: &str) -> Answer {
    exchange(worker, request(Method::GET, path, "")).await
}

pub(crate) async fn post(worker: &Running, path: &str, body: Value) -> Answer {
    exchange(worker, request(Method::POST, path, body.to_string())).await
}

pub(crate) fn chat(text: &str) -> Value {
    json!({ "model": "sample", "messages": [{ "role": "user", "content": text }] })
}

pub(crate) fn with(mut body: Value, more: Value) -> Value {
    if let Value::Object(more) = more {
        for (key, value) in more {
            body[key] = value;
        }
    }
    body
}

pub(crate) fn stream() -> Request<Full<Bytes>> {
    request(
        Method::POST,
        CHAT,
        with(chat("hello"), json!({ "stream": true })).to_string(),
    )
}

pub(crate) fn faulty(fault: &str, stream: bool) -> Value {
    with(
        chat("hello"),
        json!({ "sample_fault": fault, "stream": stream }),
    )
}

pub(crate) fn content_deltas(text: &str) -> usize {
    text.matches(r#""delta":{"content":""#).count()
}

pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
