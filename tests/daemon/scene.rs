//! What the tests of the request path share: a configuration, requests, raw connections.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::client::{Answer, request};
use crate::support::engine::Asked;
use crate::support::{FakeEngine, Gate, Smg, Step, eventually, get};

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The two listeners, `main` last, so that `[listeners.…]` behind it is about that one.
pub(crate) const LISTENERS: &str = r#"
version = 1

[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]
"#;

/// A pool `p` of these workers that serves the model `m`, also called `also-m`, from the start and
/// without probes. `more` may begin with further keys of that model.
pub(crate) fn config(workers: &[String], more: &str) -> String {
    format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "vllm"
workers = {workers:?}
health.enabled = false

[[models]]
name = "m"
aliases = ["also-m"]
{more}
"#
    )
}

/// The gateway in front of these engines.
pub(crate) async fn gateway(engines: &[&FakeEngine], more: &str) -> Smg {
    let workers: Vec<String> = engines.iter().map(|engine| engine.url()).collect();
    Smg::start(&config(&workers, more)).await
}

/// Waits until the gateway says that it can serve something.
pub(crate) async fn ready(smg: &Smg) {
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
}

/// Waits until no worker has a request in flight and no client one under way but the scrape.
pub(crate) async fn settled(smg: &Smg) {
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_requests_active", &[]) == 0.0
            && metrics.sum("smg_http_requests_in_flight", &[]) <= 1.0
    })
    .await;
}

/// An engine that serves `m` and answers everything with a short JSON text.
pub(crate) async fn plain_engine() -> FakeEngine {
    FakeEngine::serving("m", |_| vec![ok()]).await
}

/// An engine that lives and tells nothing about itself.
pub(crate) async fn silent_engine(
    script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
) -> FakeEngine {
    FakeEngine::start(
        move |asked| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/health") => vec![Step::answer(200, "text/plain", "OK")],
            ("GET", _) => vec![Step::json(404, &json!({ "error": "no such path" }))],
            _ => script(asked),
        },
    )
    .await
}

/// A small whole answer.
pub(crate) fn ok() -> Step {
    Step::json(200, &json!({ "object": "text_completion", "choices": [] }))
}

/// A stream of two tokens, of which the second waits for the gate.
pub(crate) fn two_tokens(gate: &Gate) -> Vec<Step> {
    let token =
        |text: &str| Step::event(&json!({ "choices": [{ "index": 0, "text": text }] }).to_string());
    vec![
        Step::sse_head(),
        token("one"),
        Step::Hold(gate.clone()),
        token("two"),
        Step::event("[DONE]"),
        Step::Close,
    ]
}

/// Before a reset, which takes away what the gateway has not read yet; or between two events that
/// are to be read one by one.
pub(crate) fn settle() -> Step {
    Step::Pause(Duration::from_millis(100))
}

/// A request for a completion of the model `m`.
pub(crate) fn ask() -> Value {
    json!({ "model": "m", "prompt": "hi" })
}

/// A request for a chat stream of the model `m`.
pub(crate) fn ask_stream() -> Value {
    json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "hi" }] })
}

/// A chunk of a chat stream with this text.
pub(crate) fn delta(text: &str) -> String {
    json!({
        "id": "c", "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
    })
    .to_string()
}

/// The chunk that says who speaks and nothing else.
pub(crate) fn role() -> String {
    json!({
        "id": "c", "object": "chat.completion.chunk",
        "choices": [{
            "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null,
        }],
    })
    .to_string()
}

/// A whole chat stream of one chunk.
pub(crate) fn short_stream(text: &str) -> Vec<Step> {
    vec![
        Step::sse_head(),
        Step::event(&delta(text)),
        Step::event("[DONE]"),
        Step::Close,
    ]
}

/// A `POST` of these bytes as JSON.
pub(crate) fn post_bytes(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, path, body.into());
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert("content-type", json);
    request
}

/// A `POST` of these bytes in chunks of this size, as it stands on the wire. The gateway gets them
/// one by one.
pub(crate) fn in_chunks(path: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(size) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

/// The same request with one more header.
pub(crate) fn with(
    mut request: Request<Full<Bytes>>,
    name: &'static str,
    value: &str,
) -> Request<Full<Bytes>> {
    let name = HeaderName::from_static(name);
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

/// The answer is an error of the gateway in its canonical form.
#[track_caller]
pub(crate) fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.header("x-smg-error-code")),
        (status, code),
        "{answer:?}"
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    let body = answer.json();
    let error = body["error"].as_object().unwrap();
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!(kind), &json!(code))
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{body}"
    );
    assert!(error.contains_key("param"), "{body}");
    assert!(
        !answer.text().contains("127.0.0.1"),
        "an address is told: {body}"
    );
}

/// The `error` object of the terminal frame that ends this chat or completions stream.
#[track_caller]
pub(crate) fn terminal_error(events: &[String]) -> Value {
    let [.., frame, done] = events else {
        panic!("no terminal frame: {events:?}")
    };
    assert_eq!(done, "data: [DONE]", "{events:?}");
    let payload = frame.strip_prefix("data: ").unwrap();
    let error = serde_json::from_str::<Value>(payload).unwrap()["error"].clone();
    assert_eq!(error["type"], "stream_error", "{events:?}");
    error
}

/// A connection on which a test writes and reads bytes as it likes.
pub(crate) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.unwrap())
    }

    /// The same over a connection that is open already.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Writes; `false` once the other side takes nothing more.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer that has a content length.
    pub(crate) async fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = parse(&self.unread) {
                self.unread.drain(..length);
                return answer;
            }
            assert!(
                self.more().await,
                "closed within an answer: {}",
                self.text()
            );
        }
    }

    /// Reads until this text has come, and returns everything up to its end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, text.as_bytes()) {
                let read: Vec<u8> = self.unread.drain(..at + text.len()).collect();
                return String::from_utf8(read).unwrap();
            }
            assert!(self.more().await, "closed before {text:?}: {}", self.text());
        }
    }

    /// Reads until the other side closes, and returns what had not been read before.
    pub(crate) async fn until_close(&mut self) -> String {
        while self.more().await {}
        self.text()
    }

    /// Whether this text comes before the other side closes.
    pub(crate) async fn until_or_close(&mut self, text: &str) -> bool {
        while memchr::memmem::find(&self.unread, text.as_bytes()).is_none() {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Whether there was something to read; a reset counts as a close.
    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.unread);
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.expect("bytes or a close in time")
            .is_ok_and(|read| read > 0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }
}

/// A complete answer at the start of these bytes, and its length.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_length = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length]).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let length: usize = match headers.get("content-length") {
        Some(length) => length.to_str().unwrap().parse().unwrap(),
        None => 0,
    };
    let body = bytes.get(head_length..head_length + length)?;
    let body = Bytes::copy_from_slice(body);
    let answer = Answer {
        status,
        headers,
        body,
    };
    Some((answer, head_length + length))
}

/// An address whose port is taken but refuses connections, until it is opened.
pub(crate) struct Door {
    socket: TcpSocket,
    pub(crate) address: SocketAddr,
}

impl Door {
    pub(crate) fn closed() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on connections lead to `inner`. Dropping what is returned refuses new ones and
    /// leaves those that are open alone.
    pub(crate) fn open(self, inner: SocketAddr) -> Opened {
        let listener = self.socket.listen(1024).unwrap();
        Opened(tokio::spawn(forward(listener, inner)).abort_handle())
    }
}

/// An open [`Door`].
pub(crate) struct Opened(tokio::task::AbortHandle);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn forward(listener: TcpListener, inner: SocketAddr) {
    while let Ok((mut outside, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(inner).await {
                // An error is the end of one of the two, which is what is passed on.
                tokio::io::copy_bidirectional(&mut outside, &mut inside)
                    .await
                    .ok();
            }
        });
    }
}
