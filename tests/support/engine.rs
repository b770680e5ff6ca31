//! An engine that does exactly what a test says, byte by byte: it answers, stalls, closes or resets,
//! and records what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// One thing to do on the connection that asked.
#[derive(Clone)]
pub(crate) enum Step {
    /// Sends these bytes.
    Write(Vec<u8>),
    /// Does nothing for so long: for a deadline of the gateway to run out, not to wait for a
    /// condition.
    Pause(Duration),
    /// Goes on when the test opens the gate; ends when the gateway closes the connection before.
    Hold(Gate),
    /// Closes the connection in order.
    Close,
    /// Resets the connection.
    Reset,
}

impl Step {
    /// A whole answer with this JSON body; the connection is kept.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, "application/json", &body.to_string())
    }

    /// A whole answer; the connection is kept.
    pub(crate) fn answer(status: u16, content_type: &str, body: &str) -> Self {
        let length = body.len();
        Self::write(&format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    }

    /// The head of an event stream whose body ends with the connection.
    pub(crate) fn sse_head() -> Self {
        Self::write(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        )
    }

    /// An event of a stream.
    pub(crate) fn event(data: &str) -> Self {
        Self::write(&format!("data: {data}\n\n"))
    }

    pub(crate) fn write(text: &str) -> Self {
        Self::Write(text.as_bytes().to_vec())
    }
}

/// Closed at first; opened by the test, for all that wait and will wait. The value says whether it is
/// open.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) watch::Sender<bool>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn passed(&self) {
        // The sender lives as long as the gate, so there is no error to expect.
        self.0.subscribe().wait_for(|open| *open).await.ok();
    }
}

/// A request as the engine saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case, in the order of the wire.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The first value of the header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(header, _)| header == name);
        named.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Script = dyn Fn(&Asked) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    calls: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    cut: Mutex<Vec<Instant>>,
}

/// A running engine. It stops, connections included, when dropped.
pub(crate) struct FakeEngine {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl FakeEngine {
    /// Starts an engine on a free port of loopback that serves `model`: it answers `GET /health`
    /// and `GET /v1/models` by itself, other `GET`s with 404, and each further request by what the
    /// script returns for it. A script that doesn't close keeps the connection.
    pub(crate) async fn serving(
        model: &str,
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let models = json!({
            "object": "list",
            "data": [{ "id": model, "object": "model", "created": 0, "owned_by": "test" }],
        });
        Self::start(
            move |asked| match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", "/health") => vec![Step::answer(200, "text/plain", "OK")],
                ("GET", "/v1/models") => vec![Step::json(200, &models)],
                ("GET", _) => vec![Step::json(404, &json!({ "error": "no such path" }))],
                _ => script(asked),
            },
        )
        .await
    }

    /// The same with nothing answered by itself.
    pub(crate) async fn start(
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, script)
    }

    /// The same on a socket that is bound already.
    pub(crate) fn start_on(
        listener: TcpListener,
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            calls: Mutex::default(),
            connections: AtomicUsize::new(0),
            cut: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `POST`s so far; probes are left out.
    pub(crate) fn calls(&self) -> Vec<Asked> {
        let calls = self.shared.calls.lock();
        calls
            .iter()
            .filter(|asked| asked.method == "POST")
            .cloned()
            .collect()
    }

    /// Everything asked so far, probes included.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.calls.lock().clone()
    }

    /// When the gateway closed connections on which a [`Step::Hold`] was waiting.
    pub(crate) fn cut(&self) -> Vec<Instant> {
        self.shared.cut.lock().clone()
    }

    /// Connections open now.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new(); // aborted with this task
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&shared));
        connections.spawn(async move { serve(stream, &open.0).await });
        while connections.try_join_next().is_some() {}
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one connection to its end. An error of the socket is the other side's end of it.
async fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut unread = Vec::new();
    while let Ok(Some(asked)) = read_request(&mut stream, &mut unread).await {
        let steps = (shared.script)(&asked);
        shared.calls.lock().push(asked);
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(length) => tokio::time::sleep(length).await,
                Step::Hold(gate) => tokio::select! {
                    () = gate.passed() => {}
                    () = closed(&mut stream, &mut unread) => {
                        shared.cut.lock().push(Instant::now());
                        return;
                    }
                },
                Step::Close => return,
                Step::Reset => {
                    // With a linger time of zero the close is a reset.
                    socket2::SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .ok();
                    return;
                }
            }
        }
    }
}

/// Returns when the other side has closed its end.
async fn closed(stream: &mut TcpStream, unread: &mut Vec<u8>) {
    while stream.read_buf(unread).await.is_ok_and(|read| read > 0) {}
}

/// The next request, its body included; none when the connection ends before one is complete.
pub(crate) async fn read_request(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
) -> std::io::Result<Option<Asked>> {
    loop {
        if let Some((asked, length)) = parse(unread) {
            unread.drain(..length);
            return Ok(Some(asked));
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

/// A complete request at the start of the bytes, and its length.
fn parse(bytes: &[u8]) -> Option<(Asked, usize)> {
    let head_length = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..head_length)?).into_owned();
    let mut lines = head.lines();
    let mut request_line = lines.next()?.split(' ');
    let (method, path) = (
        request_line.next()?.to_owned(),
        request_line.next()?.to_owned(),
    );
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut asked = Asked {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let rest = bytes.get(head_length..)?;
    let body_length = if asked.header("transfer-encoding") == Some("chunked") {
        let (body, length) = dechunk(rest)?;
        asked.body = body;
        length
    } else {
        let length = asked
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        asked.body = rest.get(..length)?.to_vec();
        length
    };
    Some((asked, head_length + body_length))
}

/// The body of a complete chunked transfer without trailers, and its length on the wire.
fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line_length = memchr::memmem::find(bytes.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(bytes.get(at..at + line_length)?).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        at += line_length + 2;
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size;
        bytes.get(at..at + 2)?;
        at += 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
