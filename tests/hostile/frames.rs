//! HTTP/2 byte by byte: frames as a client that keeps no rules may write them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame as it came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection that has said its preface.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let mut raw = Self {
            stream: TcpStream::connect(to).await.unwrap(),
            unread: Vec::new(),
        };
        raw.write(PREFACE).await;
        raw.write(frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// Writes; `false` once the other side takes nothing more, or has taken nothing for a while.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let written = self.stream.write_all(bytes.as_ref());
        tokio::time::timeout(Duration::from_secs(2), written)
            .await
            .is_ok_and(|written| written.is_ok())
    }

    /// The next frame; none when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(found) = parse(&self.unread) {
                self.unread.drain(..9 + found.payload.len());
                return Some(found);
            }
            let read = self.stream.read_buf(&mut self.unread);
            let read = tokio::time::timeout(PATIENCE, read).await;
            if !read
                .expect("a frame or the end in time")
                .is_ok_and(|read| read > 0)
            {
                return None;
            }
        }
    }

    /// How this stream ends: the status of its answer, the code of its reset, or that of the end of
    /// the whole connection.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let mut away = None;
        while let Some(frame) = self.next().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Answered,
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(code(&frame.payload));
                }
                GOAWAY => away = Some(code(&frame.payload[4..])),
                _ => {}
            }
        }
        Outcome::Ended(away)
    }

    /// Reads to the end of the connection, and returns the code of its last words.
    pub(crate) async fn ended(&mut self) -> Option<u32> {
        let mut away = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                away = Some(code(&frame.payload[4..]));
            }
        }
        away
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Reset(u32),
    Ended(Option<u32>),
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

fn parse(bytes: &[u8]) -> Option<Frame> {
    let head = bytes.get(..9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    Some(Frame {
        kind: head[3],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
        payload: bytes.get(9..9 + length)?.to_vec(),
    })
}

/// A frame on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A block of headers, each written out.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        literal(&mut bytes, 0x00, name, value);
    }
    bytes
}

/// One header written out; `first` is 0x40 where the other side is to remember it.
pub(crate) fn literal(bytes: &mut Vec<u8>, first: u8, name: &str, value: &str) {
    bytes.push(first);
    text(bytes, name);
    text(bytes, value);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    // A length as RFC 7541 §5.1 has it, with a prefix of seven bits.
    let mut left = text.len();
    if left < 127 {
        bytes.push(u8::try_from(left).unwrap());
    } else {
        bytes.push(127);
        left -= 127;
        while left >= 128 {
            bytes.push(u8::try_from(left % 128 + 128).unwrap());
            left /= 128;
        }
        bytes.push(u8::try_from(left).unwrap());
    }
    bytes.extend_from_slice(text.as_bytes());
}

/// The headers that every request has.
pub(crate) const PSEUDO: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/liveness"),
    (":authority", "x"),
];

/// A whole request for liveness on this stream.
pub(crate) fn alive(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(PSEUDO))
}

/// The head of a request for a completion, whose body is still to come.
pub(crate) fn completion(stream: u32) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/completions"),
        (":authority", "x"),
        ("content-type", "application/json"),
    ];
    frame(HEADERS, END_HEADERS, stream, &block(&headers))
}
