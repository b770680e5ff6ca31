//! An engine that speaks HTTP/2 with prior knowledge and does exactly what a test says, stream by
//! stream and frame by frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::engine::{Asked, Gate};

/// One thing to do on the stream that asked.
#[derive(Clone)]
pub(crate) enum Act {
    /// A whole answer.
    Answer(u16, &'static str, String),
    /// The head of an event stream.
    SseHead,
    /// The head of an answer of no known length, and the beginning of its body.
    Begin(&'static str),
    /// An event.
    Event(String),
    /// Goes on when the test opens the gate; ends when the gateway resets the stream before.
    Hold(Gate),
    /// Ends the stream in order.
    End,
    /// Ends the stream with trailers.
    Trailers,
    /// Resets the stream.
    Reset(Reason),
    /// Says that the connection takes no more streams; those it has live on.
    Leave,
    /// Closes the connection under all its streams.
    Die,
}

impl Act {
    pub(crate) fn json(body: &Value) -> Self {
        Self::Answer(200, "application/json", body.to_string())
    }

    pub(crate) fn event(data: &str) -> Self {
        Self::Event(format!("data: {data}\n\n"))
    }
}

enum Order {
    Leave,
    Die,
}

type Script = dyn Fn(&Asked) -> Vec<Act> + Send + Sync;

struct Shared {
    script: Box<Script>,
    max_streams: u32,
    calls: Mutex<Vec<Asked>>,
    counts: Counts,
}

/// What has been seen so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicUsize,
    pub(crate) open: AtomicUsize,
    /// Most streams of one connection at once.
    pub(crate) most: AtomicUsize,
    /// Streams that the gateway reset while they were held.
    pub(crate) resets: AtomicUsize,
}

/// A running engine. It stops, connections included, when dropped.
pub(crate) struct Http2Engine {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Http2Engine {
    /// Starts an engine on a free port of loopback that serves the model `m` and takes so many
    /// streams per connection. It answers `GET /health` and `GET /v1/models` by itself.
    pub(crate) async fn start(
        max_streams: u32,
        script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            max_streams,
            calls: Mutex::default(),
            counts: Counts::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            address,
            shared,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `POST`s so far.
    pub(crate) fn calls(&self) -> Vec<Asked> {
        let calls = self.shared.calls.lock();
        let posts = calls.iter().filter(|asked| asked.method == "POST");
        posts.cloned().collect()
    }

    /// Everything asked so far, probes included.
    pub(crate) fn asked(&self) -> usize {
        self.shared.calls.lock().len()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Http2Engine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new(); // aborted with this task
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        shared.counts.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(async move {
            shared.counts.open.fetch_add(1, Ordering::SeqCst);
            serve(stream, &shared).await;
            shared.counts.open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(shared.max_streams)
        .max_pending_accept_reset_streams(10_000);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let (orders, mut ordered) = mpsc::channel(8);
    let active = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (shared, active) = (Arc::clone(shared), Arc::clone(&active));
                let orders = orders.clone();
                let now = active.fetch_add(1, Ordering::SeqCst) + 1;
                shared.counts.most.fetch_max(now, Ordering::SeqCst);
                streams.spawn(async move {
                    play(request, respond, &shared, &orders).await;
                    active.fetch_sub(1, Ordering::SeqCst);
                });
            }
            order = ordered.recv() => match order {
                Some(Order::Leave) => connection.graceful_shutdown(),
                Some(Order::Die) | None => return,
            },
        }
    }
}

async fn play(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
    orders: &mpsc::Sender<Order>,
) {
    let Some(asked) = read(request).await else {
        return;
    };
    let acts = match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/health") => vec![Act::Answer(200, "text/plain", "OK".to_owned())],
        ("GET", "/v1/models") => vec![Act::json(&json!({
            "object": "list",
            "data": [{ "id": "m", "object": "model", "created": 0, "owned_by": "test" }],
        }))],
        ("GET", _) => vec![Act::Answer(404, "text/plain", String::new())],
        _ => (shared.script)(&asked),
    };
    shared.calls.lock().push(asked);
    let mut stream: Option<SendStream<Bytes>> = None;
    for act in acts {
        // What cannot be sent any more has been reset or lost its connection.
        match (act, stream.as_mut()) {
            (Act::Answer(status, kind, body), _) => {
                let head = Response::builder()
                    .status(status)
                    .header("content-type", kind)
                    .header("content-length", body.len())
                    .body(())
                    .unwrap();
                let Ok(mut stream) = respond.send_response(head, body.is_empty()) else {
                    return;
                };
                if !body.is_empty() {
                    stream.send_data(body.into(), true).ok();
                }
                return;
            }
            (Act::SseHead, _) => {
                let head = Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(())
                    .unwrap();
                stream = respond.send_response(head, false).ok();
            }
            (Act::Begin(body), _) => {
                let head = Response::builder()
                    .header("content-type", "application/json")
                    .body(())
                    .unwrap();
                stream = respond.send_response(head, false).ok();
                if let Some(stream) = &mut stream {
                    stream.send_data(body.into(), false).ok();
                }
            }
            (Act::Event(event), Some(stream)) => {
                stream.send_data(event.into(), false).ok();
            }
            (Act::Hold(gate), Some(stream)) => tokio::select! {
                () = gate.passed() => {}
                reset = std::future::poll_fn(|cx| stream.poll_reset(cx)) => {
                    if reset.is_ok() {
                        shared.counts.resets.fetch_add(1, Ordering::SeqCst);
                    }
                    return;
                }
            },
            (Act::Hold(gate), None) => tokio::select! {
                () = gate.passed() => {}
                reset = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    if reset.is_ok() {
                        shared.counts.resets.fetch_add(1, Ordering::SeqCst);
                    }
                    return;
                }
            },
            (Act::End, Some(stream)) => {
                stream.send_data(Bytes::new(), true).ok();
            }
            (Act::Trailers, Some(stream)) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-trailer", "1".parse().unwrap());
                stream.send_trailers(trailers).ok();
            }
            (Act::Reset(reason), _) => return respond.send_reset(reason),
            (Act::Leave, _) => orders.send(Order::Leave).await.unwrap_or_default(),
            (Act::Die, _) => orders.send(Order::Die).await.unwrap_or_default(),
            (Act::Event(_) | Act::End | Act::Trailers, None) => return,
        }
    }
}

async fn read(request: Request<RecvStream>) -> Option<Asked> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.ok()?;
        stream.flow_control().release_capacity(piece.len()).ok()?;
        body.extend_from_slice(&piece);
    }
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let mut headers: Vec<_> = head.headers.iter().map(header).collect();
    headers.push((
        ":authority".to_owned(),
        head.uri.authority().unwrap().to_string(),
    ));
    Some(Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers,
        body,
    })
}
