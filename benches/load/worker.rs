//! The worker: a fixed answer at once, or a fixed event at a fixed pace.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

use crate::wire;

const MODELS: &str = r#"{"object":"list","data":[{"id":"bench","object":"model","created":1700000000,"owned_by":"sglang","root":"bench","max_model_len":1048576}]}"#;
const SERVER: &str = r#"{"model_path":"bench","served_model_name":"bench","version":"0.5.0","dp_size":1,"tp_size":1,"max_running_requests":4096}"#;
const MODEL: &str = r#"{"model_path":"bench","tokenizer_path":"bench","is_generation":true,"served_model_name":"bench"}"#;
const ANSWER: &str = r#"{"id":"chatcmpl-0001","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"A worker that answers at once has little to say."},"finish_reason":"stop"}],"usage":{"prompt_tokens":64,"completion_tokens":11,"total_tokens":75}}"#;
const EVENT: &str = "data: {\"id\":\"chatcmpl-0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A body longer than this is read and forgotten; a shorter one may ask for a stream.
const SMALL: usize = 4096;
const PIECE: usize = 256 * 1024;

/// Serves on `listen` for ever.
pub(crate) async fn run(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

/// One connection, until the other side leaves or sends what isn't understood.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let answer = json("200 OK", ANSWER);
    let mut buffer = vec![0; 2 * SMALL];
    loop {
        let mut filled = 0;
        let head_end = loop {
            let n = stream.read(&mut buffer[filled..]).await?;
            if n == 0 {
                return Ok(());
            }
            filled += n;
            if let Some(end) = wire::head_end(&buffer[..filled]) {
                break end;
            }
        };
        let length = body_length(&buffer[..head_end])?;
        let whole = head_end + length;
        if length <= SMALL && whole <= buffer.len() {
            while filled < whole {
                filled += some(stream.read(&mut buffer[filled..whole]).await?)?;
            }
            let (head, body) = buffer[..whole].split_at(head_end);
            if head.starts_with(b"GET ") {
                stream.write_all(&get(head)).await?;
            } else if memmem::find(body, br#""stream":true"#).is_some() {
                let (events, pace) = (field(body, "max_tokens"), field(body, "seed"));
                send_events(&mut stream, events, Duration::from_millis(pace)).await?;
            } else {
                stream.write_all(&answer).await?;
            }
        } else {
            let mut left = whole - filled;
            buffer.resize(PIECE, 0);
            while left > 0 {
                let piece = left.min(PIECE);
                left -= some(stream.read(&mut buffer[..piece]).await?)?;
            }
            stream.write_all(&answer).await?;
        }
    }
}

async fn send_events(stream: &mut TcpStream, events: u64, pace: Duration) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut ticks = tokio::time::interval(pace.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let event = chunk(EVENT);
    let (mut reads, mut writes) = stream.split();
    let mut nothing = [0; 1];
    for _ in 0..events {
        tokio::select! {
            biased;
            _ = ticks.tick() => writes.write_all(event.as_bytes()).await?,
            // The other side has nothing to say in the middle of a stream but that it leaves.
            _ = reads.read(&mut nothing) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    writes
        .write_all(format!("{}0\r\n\r\n", chunk(DONE)).as_bytes())
        .await
}

fn get(head: &[u8]) -> Vec<u8> {
    let path = head
        .split(|byte| matches!(byte, b' ' | b'?'))
        .nth(1)
        .unwrap_or_default();
    match path {
        b"/health" | b"/health_generate" => json("200 OK", "{}"),
        b"/v1/models" => json("200 OK", MODELS),
        b"/get_server_info" | b"/server_info" => json("200 OK", SERVER),
        b"/get_model_info" | b"/model_info" => json("200 OK", MODEL),
        _ => json("404 Not Found", r#"{"detail":"Not Found"}"#),
    }
}

fn json(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn body_length(head: &[u8]) -> io::Result<usize> {
    match wire::header(head, "content-length") {
        Some(length) => wire::number(length)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(|| io::Error::other("a length that is no number")),
        None if wire::header(head, "transfer-encoding").is_some() => {
            Err(io::Error::other("a request in chunks"))
        }
        None => Ok(0),
    }
}

/// The number under `key` in a flat JSON object; 0 without it.
fn field(body: &[u8], key: &str) -> u64 {
    let key = format!("\"{key}\":");
    let digits = memmem::find(body, key.as_bytes())
        .and_then(|at| body.get(at + key.len()..))
        .and_then(|rest| rest.split(|byte| !byte.is_ascii_digit()).next());
    digits.and_then(wire::number).unwrap_or_default()
}

fn some(read: usize) -> io::Result<usize> {
    if read == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(read)
    }
}
