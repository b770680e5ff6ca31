//! A small HTTP client: one connection per question, or one that is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// No answer takes longer; a test that hangs fails with its own line instead of the runner's.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// `GET` on a connection of its own.
pub(crate) async fn get(to: SocketAddr, path: &str) -> Answer {
    Connection::h1(to)
        .await
        .send(request(Method::GET, path, Bytes::new()))
        .await
}

/// `POST` with a JSON body on a connection of its own.
pub(crate) async fn post(to: SocketAddr, path: &str, body: &Value) -> Answer {
    Connection::h1(to)
        .await
        .send(json_request(path, body))
        .await
}

/// `POST` with a JSON body; the answer's body is read as it comes. Dropping the stream closes the
/// connection.
pub(crate) async fn stream(to: SocketAddr, path: &str, body: &Value) -> Stream {
    stream_over(Connection::h1(to).await, path, body).await
}

/// The same over a connection that is open already.
pub(crate) async fn stream_over(mut connection: Connection, path: &str, body: &Value) -> Stream {
    let response = connection.open(json_request(path, body)).await;
    Stream {
        _connection: connection,
        response,
        unread: String::new(),
    }
}

/// A request with this body and no content type; `host` is added on sending.
pub(crate) fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(body))
        .unwrap()
}

/// A `POST` of a JSON document.
pub(crate) fn json_request(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, path, Bytes::from(body.to_string()));
    request
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    request
}

impl Answer {
    /// The header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// A connection that is kept between requests. It closes when dropped.
pub(crate) struct Connection {
    sender: Sender,
    host: String,
    task: Arc<Task>,
}

/// Moves the bytes of a connection until dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn h1(to: SocketAddr) -> Self {
        Self::h1_over(TcpStream::connect(to).await.unwrap(), &to.to_string()).await
    }

    /// HTTP/1.1 over a connection that is open already; `host` is what its requests name.
    pub(crate) async fn h1_over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
    ) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let task = tokio::spawn(connection).abort_handle();
        Self {
            sender: Sender::Http1(sender),
            host: host.to_owned(),
            task: Arc::new(Task(task)),
        }
    }

    /// HTTP/2 with prior knowledge.
    pub(crate) async fn h2(to: SocketAddr) -> Self {
        Self::h2_over(TcpStream::connect(to).await.unwrap(), &to.to_string()).await
    }

    /// HTTP/2 over a connection that is open already; `host` is what its requests name.
    pub(crate) async fn h2_over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
    ) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
        let task = tokio::spawn(connection).abort_handle();
        Self {
            sender: Sender::Http2(sender),
            host: host.to_owned(),
            task: Arc::new(Task(task)),
        }
    }

    /// The same connection for one more stream. Only HTTP/2 has several.
    pub(crate) fn again(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else {
            panic!("an HTTP/1 connection carries one request at a time")
        };
        Self {
            sender: Sender::Http2(sender.clone()),
            host: self.host.clone(),
            task: Arc::clone(&self.task),
        }
    }

    /// Sends and reads the whole answer. Panics on a transport error.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends and reads the whole answer.
    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Answer> {
        let whole = async {
            let (head, body) = self.try_open(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(PATIENCE, whole)
            .await
            .expect("an answer in time")
    }

    /// Sends and returns with the head.
    pub(crate) async fn open(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let head = tokio::time::timeout(PATIENCE, self.try_open(request)).await;
        head.expect("a head in time")
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends and returns with the head.
    pub(crate) async fn try_open(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                if !request.headers().contains_key("host") {
                    request
                        .headers_mut()
                        .insert("host", self.host.parse().unwrap());
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let uri = format!("http://{}{}", self.host, request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// An answer whose body is read as it comes.
pub(crate) struct Stream {
    _connection: Connection,
    response: Response<Incoming>,
    unread: String,
}

impl Stream {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The next SSE event without its blank line, comments included; none at a clean end of the
    /// body, an error at an unclean one.
    pub(crate) async fn event(&mut self) -> hyper::Result<Option<String>> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let event = event.to_owned();
                self.unread = rest.to_owned();
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout(PATIENCE, self.response.body_mut().frame()).await;
            match frame.expect("a frame in time") {
                Some(frame) => {
                    let chunk = frame?.into_data().unwrap_or_default();
                    self.unread.push_str(&String::from_utf8_lossy(&chunk));
                }
                None => return Ok(None),
            }
        }
    }

    /// All further events, to a clean end. Panics at an unclean one.
    pub(crate) async fn events(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(event) = self.event().await.expect("a clean end of the body") {
            all.push(event);
        }
        all
    }
}
