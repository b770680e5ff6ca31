//! As much HTTP/1.1 as the load and the worker need.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;

const WORDS: &[&str] = &[
    "the",
    "gateway",
    "keeps",
    "one",
    "connection",
    "open",
    "while",
    "a",
    "worker",
    "thinks",
    "about",
    "latency",
    "and",
    "every",
    "token",
    "of",
    "this",
    "prompt",
    "counts",
    "towards",
    "routing",
    "decisions",
    "made",
    "in",
    "microseconds",
    "naïve",
    "batching",
    "helps",
    "rarely",
];

/// Where chat requests go.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// Room a JSON chat body takes around its content, and then some for the last word.
const SMALLEST: usize = 128;

/// A chat body of `size` bytes, or of the smallest size there is.
pub(crate) fn chat(size: usize) -> Vec<u8> {
    let mut body = br#"{"model":"bench","messages":[{"role":"user","content":""#.to_vec();
    let end = br#""}]}"#;
    let goal = size.max(SMALLEST) - end.len();
    for (at, word) in WORDS.iter().cycle().enumerate() {
        let separator = match at % 97 {
            0 => "\\n",
            48 => " \\\"",
            _ => " ",
        };
        if body.len() + separator.len() + word.len() > goal {
            break;
        }
        body.extend_from_slice(separator.as_bytes());
        body.extend_from_slice(word.as_bytes());
    }
    body.resize(goal, b'.');
    body.extend_from_slice(end);
    body
}

/// A chat body that asks the worker for `events` events, `pace` milliseconds apart. The two
/// numbers travel in keys that every gateway passes on.
pub(crate) fn streaming_chat(events: u64, pace: u64) -> Vec<u8> {
    format!(
        r#"{{"model":"bench","stream":true,"max_tokens":{events},"seed":{pace},"messages":[{{"role":"user","content":"count slowly"}}]}}"#
    )
    .into_bytes()
}

/// The request that carries `body`, head included.
pub(crate) fn post(address: SocketAddr, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\nuser-agent: load\r\n\
         accept: */*\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Offset of the first byte after the head, once the whole head is there.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The value of header `name` in `head`.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name.as_bytes())
            .then(|| value.trim_ascii())
    })
}

/// The number that `text` is; `None` if it isn't one.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// Whether `head` starts an answer of status 200.
pub(crate) fn is_ok(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 200 ")
}

/// Whether `bytes` hold a whole answer; `Some(ok)` if they do.
pub(crate) fn whole_answer(bytes: &[u8]) -> io::Result<Option<bool>> {
    let Some((head, body)) = head_end(bytes).and_then(|end| bytes.split_at_checked(end)) else {
        return Ok(None);
    };
    let complete = match header(head, "content-length") {
        Some(length) => number(length).is_some_and(|length| body.len() as u64 >= length),
        None if header(head, "transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
        None => return Err(io::Error::other("an answer without a length")),
    };
    Ok(complete.then(|| is_ok(head)))
}
