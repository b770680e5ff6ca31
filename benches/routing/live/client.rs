//! Clients of the gateway: one thread for each session.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smg::base::clock;

use super::stage::status;
use super::{Broken, PATIENCE};
use crate::sim::trace::{Request, Session, Trace, Turn};

/// Sends all of `trace` to the gateway at `to`; seconds to the first text of each answer.
pub(super) fn run(to: SocketAddr, trace: &Trace) -> Result<Vec<f64>, Broken> {
    if let Some(order) = &trace.closed {
        return one_by_one(to, trace, order);
    }
    let waits = Mutex::new(Vec::new());
    let failed: Mutex<Option<Broken>> = Mutex::default();
    let began = clock::now();
    thread::scope(|scope| {
        for session in &trace.sessions {
            scope.spawn(|| {
                if let Err(error) = talk(to, session, began, &waits) {
                    *failed.lock() = Some(error);
                }
            });
        }
    });
    match failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(waits.into_inner()),
    }
}

fn one_by_one(to: SocketAddr, trace: &Trace, order: &[Request]) -> Result<Vec<f64>, Broken> {
    order
        .iter()
        .map(|request| {
            let (session, turn) = trace.at(*request);
            ask(to, session, turn)
        })
        .collect()
}

fn talk(
    to: SocketAddr,
    session: &Session,
    began: Instant,
    waits: &Mutex<Vec<f64>>,
) -> Result<(), Broken> {
    let start = began + Duration::from_secs_f64(session.start);
    thread::sleep(start.saturating_duration_since(clock::now()));
    for (at, turn) in session.turns.iter().enumerate() {
        if at > 0 {
            thread::sleep(Duration::from_secs_f64(turn.think));
        }
        let wait = ask(to, session, turn)?;
        waits.lock().push(wait);
    }
    Ok(())
}

/// Sends one request and reads its whole answer; seconds until its first text.
fn ask(to: SocketAddr, session: &Session, turn: &Turn) -> Result<f64, Broken> {
    let end = format!("],\"stream\":true,\"max_tokens\":{}}}", turn.output_tokens);
    let start = session.body.get(..turn.cut).unwrap_or_default();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\
         content-type: application/json\r\nx-smg-routing-key: {}\r\ncontent-length: {}\r\n\r\n",
        session.key,
        start.len() + end.len()
    );
    let sent = clock::now();
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[head.as_bytes(), start, end.as_bytes()].concat())?;
    first_text(stream, sent)
}

fn first_text(mut stream: TcpStream, sent: Instant) -> Result<f64, Broken> {
    const TEXT: &[u8] = b"\"content\":\"";
    let mut first = None;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
        if first.is_none() {
            let begun = memchr::memmem::find_iter(&answer, TEXT).any(|at| {
                answer
                    .get(at + TEXT.len())
                    .is_some_and(|byte| *byte != b'"')
            });
            first = begun.then(|| clock::now().saturating_duration_since(sent));
        }
    }
    match first {
        Some(wait) if status(&answer) == 200 => Ok(wait.as_secs_f64()),
        _ => {
            let answer = String::from_utf8_lossy(&answer);
            Err(format!("an answer without text: {answer}").into())
        }
    }
}
