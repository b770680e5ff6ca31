//! Clients that ask one thing after the other while a test changes the gateway under them. They do
//! what a well-behaved client does and nothing more: a connection is kept until an answer says
//! `connection: close` or the other side has closed it, and a request of which a byte was sent
//! either gets its answer or has failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::client::{Answer, json_request};
use crate::support::{Connection, TlsClient, eventually};

/// The model that is asked for.
pub(crate) const MODEL: &str = "sample";

/// Between two requests of a client: the load is bounded on purpose.
const PAUSE: Duration = Duration::from_millis(3);

const PATIENCE: Duration = Duration::from_secs(30);

/// What keeps the access log of a loaded gateway short.
pub(crate) const QUIET: (&str, &str) = ("RUST_LOG", "info,smg::response=warn");

/// Running clients: kept HTTP/1.1 connections, one HTTP/2 connection for each kind, with whole
/// answers and with streams.
pub(crate) struct Load {
    target: watch::Sender<SocketAddr>,
    stop: watch::Sender<bool>,
    tally: Arc<Tally>,
    clients: JoinSet<()>,
}

/// How clients encrypt, and whom they expect.
pub(crate) type Over = (TlsClient, &'static str);

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    connections: AtomicU64,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Stream,
}

impl Load {
    /// Starts seven clients against this address.
    pub(crate) fn start(to: SocketAddr) -> Self {
        Self::start_over(to, None)
    }

    /// The same with TLS where it is given.
    pub(crate) fn start_over(to: SocketAddr, over: Option<&Over>) -> Self {
        let target = watch::Sender::new(to);
        let stop = watch::Sender::new(false);
        let tally = Arc::<Tally>::default();
        let mut clients = JoinSet::new();
        for (version, kind, count) in [
            (Version::Http1, Kind::Whole, 3),
            (Version::Http1, Kind::Stream, 2),
            (Version::Http2, Kind::Whole, 1),
            (Version::Http2, Kind::Stream, 1),
        ] {
            for _ in 0..count {
                let client = Client {
                    version,
                    kind,
                    over: over.cloned(),
                    target: target.subscribe(),
                    stop: stop.subscribe(),
                    tally: Arc::clone(&tally),
                };
                clients.spawn(client.run());
            }
        }
        Self {
            target,
            stop,
            tally,
            clients,
        }
    }

    /// New connections go here from now on.
    pub(crate) fn redirect(&self, to: SocketAddr) {
        self.target.send_replace(to);
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.tally.answered.load(Ordering::SeqCst)
    }

    /// Connections made so far.
    pub(crate) fn connections(&self) -> u64 {
        self.tally.connections.load(Ordering::SeqCst)
    }

    /// Waits until that many more requests have been answered.
    #[track_caller]
    pub(crate) fn answers(&self, more: u64) -> impl Future<Output = ()> {
        let tally = Arc::clone(&self.tally);
        let wanted = self.answered() + more;
        eventually(PATIENCE, async move || {
            tally.answered.load(Ordering::SeqCst) >= wanted
        })
    }

    /// Waits until every client, on average, has connected that many times.
    #[track_caller]
    pub(crate) fn connects(&self, times: u64) -> impl Future<Output = ()> {
        let tally = Arc::clone(&self.tally);
        let wanted = times * self.clients.len() as u64;
        eventually(PATIENCE, async move || {
            tally.connections.load(Ordering::SeqCst) >= wanted
        })
    }

    /// Lets the clients finish what they are at, and returns how many requests were answered.
    /// Panics if one has failed.
    pub(crate) async fn finish(mut self) -> u64 {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let failures = self.tally.failures.lock();
        let answered = self.answered();
        assert!(
            failures.is_empty(),
            "{} of {} requests failed, first: {:?}",
            failures.len(),
            answered + failures.len() as u64,
            failures.iter().take(5).collect::<Vec<_>>()
        );
        answered
    }
}

struct Client {
    version: Version,
    kind: Kind,
    over: Option<Over>,
    target: watch::Receiver<SocketAddr>,
    stop: watch::Receiver<bool>,
    tally: Arc<Tally>,
}

impl Client {
    async fn run(self) {
        let mut kept = None;
        while !*self.stop.borrow() {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect().await,
            };
            let ask = json_request("/v1/completions", &question(self.kind));
            match connection.try_send(ask).await {
                Ok(answer) => {
                    if let Some(failure) = judge(self.kind, &answer) {
                        self.tally.failures.lock().push(failure);
                    }
                    self.tally.answered.fetch_add(1, Ordering::SeqCst);
                    if !answer.header("connection").eq_ignore_ascii_case("close") {
                        kept = Some(connection);
                    }
                }
                Err(error) if is_unsent(&error) => {}
                Err(error) => self.tally.failures.lock().push(format!("{error:?}")),
            }
            sleep(PAUSE).await;
        }
    }

    /// A connection to whatever the target is by now: where nobody listens any more, nothing was
    /// asked yet.
    async fn connect(&self) -> Connection {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let to = *self.target.borrow();
            if let Ok(made) = TcpStream::connect(to).await {
                self.tally.connections.fetch_add(1, Ordering::SeqCst);
                if let Some((client, name)) = &self.over {
                    let alpn = match self.version {
                        Version::Http1 => "http/1.1",
                        Version::Http2 => "h2",
                    };
                    match client.offering(&[alpn]).open(to, name).await {
                        Ok(connection) => return connection,
                        Err(error) => self.tally.failures.lock().push(format!("TLS: {error:?}")),
                    }
                    continue;
                }
                return match self.version {
                    Version::Http1 => Connection::h1_over(made, &to.to_string()).await,
                    Version::Http2 => Connection::h2_over(made, &to.to_string()).await,
                };
            }
            assert!(Instant::now() < deadline, "nobody listens at {to}");
            sleep(PAUSE).await;
        }
    }
}

/// Whether the connection was over before the request began: closed before a byte of it was sent,
/// or, over HTTP/2, with a GOAWAY by which the other side promises that it has not seen it
/// (RFC 9113, section 6.8). An answer that breaks off is another error.
fn is_unsent(error: &hyper::Error) -> bool {
    let told = format!("{error:?}");
    let refused = told.starts_with("hyper::Error(Http2") && told.contains("NO_ERROR, Remote");
    error.is_closed() || error.is_canceled() || refused
}

fn question(kind: Kind) -> Value {
    json!({ "model": MODEL, "prompt": "hi", "max_tokens": 8, "stream": kind == Kind::Stream })
}

/// What is wrong with an answer.
fn judge(kind: Kind, answer: &Answer) -> Option<String> {
    let text = answer.text();
    let good = answer.status == 200
        && match kind {
            Kind::Whole => answer.json()["usage"]["completion_tokens"] == 8,
            Kind::Stream => {
                text.trim_end().ends_with("data: [DONE]") && !text.contains("\"error\"")
            }
        };
    (!good).then(|| format!("{}: {text}", answer.status))
}
