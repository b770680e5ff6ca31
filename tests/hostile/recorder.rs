//! A worker that keeps every byte that it is sent, and what those bytes mean to a reader that forgives
//! nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What it answers, always.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 11\r\n\r\n{\"ok\":true}";

/// The only headers that a worker may be shown.
const KNOWN: &[&str] = &[
    "accept",
    "authorization",
    "content-length",
    "content-type",
    "host",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    "x-request-id",
    "x-smg-routing-key",
];

type Connections = Arc<Mutex<Vec<Vec<u8>>>>;

/// A running worker. It stops when dropped.
pub(crate) struct Recorder {
    address: SocketAddr,
    connections: Connections,
    accepting: AbortHandle,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::default();
        let kept = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut open = JoinSet::new(); // aborted with this task
            while let Ok((stream, _)) = listener.accept().await {
                let at = {
                    let mut kept = kept.lock();
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                open.spawn(record(stream, Arc::clone(&kept), at));
            }
        })
        .abort_handle();
        Self {
            address,
            connections,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().len()
    }

    /// The bodies of all requests. Panics when any byte that came could be read in another way:
    /// unknown or repeated headers, another framing than one length, a byte too many.
    #[track_caller]
    pub(crate) fn bodies(&self) -> Vec<Vec<u8>> {
        let connections = self.connections.lock().clone();
        let requests = connections.iter().flat_map(|bytes| strictly(bytes));
        requests.map(|(_, body)| body).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn record(mut stream: TcpStream, kept: Connections, at: usize) {
    let mut read = [0; 4096];
    let mut answered = 0;
    while let Ok(length) = stream.read(&mut read).await
        && length > 0
    {
        let whole = {
            let mut kept = kept.lock();
            kept[at].extend_from_slice(&read[..length]);
            whole(&kept[at])
        };
        while answered < whole {
            answered += 1;
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// How many requests are whole, by their lengths.
fn whole(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((_, _, rest)) = first(bytes) {
        count += 1;
        bytes = rest;
    }
    count
}

/// The head and the body of the first request, and what follows it.
fn first(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(end..end + length)?;
    Some((head, body, &bytes[end + length..]))
}

#[track_caller]
fn strictly(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut requests = Vec::new();
    while let Some((head, body, rest)) = first(bytes) {
        let mut lines = head.trim_end().split("\r\n");
        let start: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert!(
            matches!(start[..], ["POST" | "GET", target, "HTTP/1.1"] if target.starts_with('/')),
            "{head}"
        );
        let mut seen = Vec::new();
        for line in lines {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("{line:?} in {head}"));
            assert!(
                KNOWN.contains(&name) || name == "accept-encoding" && start[0] == "GET",
                "{name} in {head}"
            );
            assert!(!seen.contains(&name), "{name} is repeated in {head}");
            assert!(
                value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !value.is_empty(),
                "{line:?} in {head}"
            );
            seen.push(name);
        }
        assert!(seen.contains(&"host"), "{head}");
        assert!(
            start[0] == "GET" || seen.contains(&"content-length"),
            "{head}"
        );
        if start[0] == "POST" {
            requests.push((head.to_owned(), body.to_vec()));
        }
        bytes = rest;
    }
    assert!(
        bytes.is_empty(),
        "bytes that belong to no request: {}",
        String::from_utf8_lossy(bytes)
    );
    requests
}
