//! Clients that do what they should: ask, read to the end, ask again. They keep connections for as
//! long as the gateway does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::dialect::Api;
use crate::judge::Rule;
use crate::support::Connection;
use crate::support::client::json_request;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) tokens: usize,
    pub(crate) stream: bool,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Where its framing says that it ends.
    Clean,
    /// After the head, but before its end.
    Broken(String),
    /// Without a head.
    None(String),
    /// Not at all.
    TooLate,
}

/// What a client was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) ask: Ask,
    pub(crate) rule: Rule,
    pub(crate) status: u16,
    /// Of the gateway; empty where the answer is a worker's.
    pub(crate) code: String,
    pub(crate) content_type: String,
    pub(crate) echoed: String,
    pub(crate) body: String,
    pub(crate) end: End,
    /// When the first byte was here that only a worker can have sent.
    pub(crate) first: Option<Instant>,
    pub(crate) took: Duration,
}

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// Answers of many clients, to be judged together.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Vec<Told>>>);

impl Tally {
    pub(crate) fn push(&self, told: Told) {
        self.0.lock().push(told);
    }

    pub(crate) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// A client with at most one connection.
pub(crate) struct Client {
    pub(crate) to: SocketAddr,
    pub(crate) version: Version,
    /// Past this an answer is too late.
    pub(crate) patience: Duration,
    kept: Option<Connection>,
}

impl Client {
    pub(crate) fn new(to: SocketAddr, version: Version, patience: Duration) -> Self {
        Self {
            to,
            version,
            patience,
            kept: None,
        }
    }

    /// Asks and reads to the end, whatever that is.
    pub(crate) async fn ask(&mut self, ask: Ask, rule: Rule) -> Told {
        let started = Instant::now();
        let mut told = Told {
            ask,
            rule,
            status: 0,
            code: String::new(),
            content_type: String::new(),
            echoed: String::new(),
            body: String::new(),
            end: End::TooLate,
            first: None,
            took: Duration::ZERO,
        };
        let patience = self.patience;
        // Nothing of the conversation is worth keeping when it took too long.
        if tokio::time::timeout(patience, self.converse(&mut told))
            .await
            .is_err()
        {
            told.end = End::TooLate;
            self.kept = None;
        }
        told.took = started.elapsed();
        told
    }

    async fn converse(&mut self, told: &mut Told) {
        let ask = &told.ask;
        let body = ask.api.ask(&ask.model, &ask.id, ask.tokens, ask.stream);
        let mut opened = None;
        for _ in 0..5 {
            let mut connection = match self.kept.take() {
                Some(kept) => kept,
                None => match self.connect().await {
                    Ok(made) => made,
                    Err(error) => {
                        told.end = End::None(format!("no connection: {error}"));
                        return;
                    }
                },
            };
            let mut request = json_request(ask.api.path(), &body);
            let id = ask.id.parse().unwrap();
            request.headers_mut().insert("x-request-id", id);
            match connection.try_open(request).await {
                Ok(response) => {
                    opened = Some((connection, response));
                    break;
                }
                Err(error) if is_unsent(&error) => {}
                Err(error) => {
                    told.end = End::None(format!("{error:?}"));
                    return;
                }
            }
        }
        let Some((connection, response)) = opened else {
            told.end = End::None("closed before the request, five times".to_owned());
            return;
        };
        let (head, mut body) = response.into_parts();
        let header = |name: &str| {
            let value = head.headers.get(name);
            value.map_or_else(String::new, |value| {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            })
        };
        told.status = head.status.as_u16();
        told.code = header("x-smg-error-code");
        told.content_type = header("content-type");
        told.echoed = header("x-request-id");
        let events = told.content_type.starts_with("text/event-stream");
        if told.code.is_empty() && !events {
            told.first = Some(Instant::now());
        }
        let mut bytes = Vec::new();
        told.end = loop {
            match body.frame().await {
                None => break End::Clean,
                Some(Err(error)) => break End::Broken(format!("{error:?}")),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    bytes.extend_from_slice(&data);
                    if told.first.is_none() && memchr::memmem::find(&data, b"data:").is_some() {
                        told.first = Some(Instant::now());
                    }
                }
            }
        };
        told.body = String::from_utf8_lossy(&bytes).into_owned();
        if told.end == End::Clean && !header("connection").eq_ignore_ascii_case("close") {
            self.kept = Some(connection);
        }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let made = TcpStream::connect(self.to).await?;
        made.set_nodelay(true)?;
        let host = self.to.to_string();
        Ok(match self.version {
            Version::Http1 => Connection::h1_over(made, &host).await,
            Version::Http2 => Connection::h2_over(made, &host).await,
        })
    }
}

/// Whether the connection was over before the request began: closed before a byte of it was sent,
/// or, over HTTP/2, with a GOAWAY that says so.
fn is_unsent(error: &hyper::Error) -> bool {
    let told = format!("{error:?}");
    let refused = told.starts_with("hyper::Error(Http2") && told.contains("NO_ERROR, Remote");
    error.is_closed() || error.is_canceled() || refused
}
