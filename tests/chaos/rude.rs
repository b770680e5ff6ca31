//! Clients that do not do what they should.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Ask;
use crate::support::Connection;
use crate::support::client::json_request;

/// A bad habit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Gone as soon as the request is sent.
    VanishesAtOnce,
    /// Gone, with a reset, before there can be an answer.
    Resets,
    /// Gone in the middle of the answer.
    VanishesMidway,
    /// The same with a stream of an HTTP/2 connection that goes on.
    CancelsStreams,
    /// Takes the answer spoon by spoon.
    ReadsSlowly,
    /// Takes nothing.
    NeverReads,
    /// Sends the request byte by byte, then takes the answer.
    SendsSlowly,
    /// Sends half a body and waits.
    HalfBody,
    /// Sends half a head and waits.
    HalfHead,
    /// Sends what is no HTTP.
    Babbles,
}

impl Habit {
    pub(crate) const ALL: [Self; 10] = [
        Self::VanishesAtOnce,
        Self::Resets,
        Self::VanishesMidway,
        Self::CancelsStreams,
        Self::ReadsSlowly,
        Self::NeverReads,
        Self::SendsSlowly,
        Self::HalfBody,
        Self::HalfHead,
        Self::Babbles,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VanishesAtOnce => "client gone at once",
            Self::Resets => "client reset",
            Self::VanishesMidway => "client gone midway",
            Self::CancelsStreams => "client cancels",
            Self::ReadsSlowly => "client reads slowly",
            Self::NeverReads => "client never reads",
            Self::SendsSlowly => "client sends slowly",
            Self::HalfBody => "half a body",
            Self::HalfHead => "half a head",
            Self::Babbles => "client babbles",
        }
    }
}

/// Behaves so once. Returns what the gateway did wrong.
pub(crate) async fn misbehave(
    habit: Habit,
    to: SocketAddr,
    ask: &Ask,
    until_cut: Duration,
    rng: &mut Rng,
) -> Result<(), String> {
    let body = ask.api.ask(&ask.model, &ask.id, ask.tokens, ask.stream);
    let wrong = async {
        match habit {
            Habit::CancelsStreams => cancel_streams(to, ask, &body, rng).await,
            _ => on_the_wire(habit, to, ask, &body, until_cut, rng).await,
        }
    };
    // An error of a socket is what such a client has to expect.
    wrong.await.unwrap_or(Ok(()))
}

async fn cancel_streams(
    to: SocketAddr,
    ask: &Ask,
    body: &Value,
    rng: &mut Rng,
) -> std::io::Result<Result<(), String>> {
    let made = TcpStream::connect(to).await?;
    let connection = Connection::h2_over(made, &to.to_string()).await;
    for _ in 0..4 {
        let mut one = connection.again();
        let mut request = json_request(ask.api.path(), body);
        let id = ask.id.parse().unwrap();
        request.headers_mut().insert("x-request-id", id);
        let length = Duration::from_millis(rng.u64(0..60));
        // Dropped wherever it is by then.
        drop(timeout(length, one.try_open(request)).await);
    }
    Ok(Ok(()))
}

async fn on_the_wire(
    habit: Habit,
    to: SocketAddr,
    ask: &Ask,
    body: &Value,
    until_cut: Duration,
    rng: &mut Rng,
) -> std::io::Result<Result<(), String>> {
    let body = body.to_string();
    // A kept connection would look like an answer that goes on.
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\nx-request-id: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        ask.api.path(),
        ask.id,
        body.len()
    );
    let socket = TcpSocket::new_v4()?;
    if matches!(habit, Habit::ReadsSlowly | Habit::NeverReads) {
        // So that little of the answer hides in the system's buffers.
        socket.set_recv_buffer_size(4096)?;
    }
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    match habit {
        Habit::SendsSlowly => {
            for piece in format!("{head}{body}").as_bytes().chunks(40) {
                stream.write_all(piece).await?;
                sleep(Duration::from_millis(5)).await;
            }
        }
        Habit::HalfBody => {
            let half = &body.as_bytes()[..body.len() / 2];
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(half).await?;
        }
        Habit::HalfHead => stream.write_all(&head.as_bytes()[..head.len() / 2]).await?,
        Habit::Babbles => {
            let mut noise = vec![0; rng.usize(1..400)];
            rng.fill(&mut noise);
            stream.write_all(&noise).await?;
            stream.write_all(b"\r\n\r\n").await?;
        }
        _ => stream.write_all(format!("{head}{body}").as_bytes()).await?,
    }
    let mut piece = [0; 512];
    match habit {
        Habit::Resets => {
            sleep(Duration::from_millis(rng.u64(0..20))).await;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Habit::VanishesMidway => {
            for _ in 0..rng.usize(1..4) {
                if stream.read(&mut piece).await? == 0 {
                    break;
                }
            }
        }
        Habit::ReadsSlowly => {
            let until = Instant::now() + until_cut;
            while Instant::now() < until {
                if timeout(until_cut, stream.read(&mut piece)).await?? == 0 {
                    break;
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
        Habit::NeverReads => return cut_off(&mut stream, until_cut).await,
        Habit::SendsSlowly => {
            let read = timeout(until_cut, stream.read(&mut piece)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return Ok(Err(format!("a slow request of {ask:?} got no answer")));
            }
        }
        Habit::HalfBody | Habit::HalfHead | Habit::Babbles if rng.bool() => {
            // Either side may be the first to have had enough.
            drop(timeout(Duration::from_millis(300), stream.read(&mut piece)).await);
        }
        _ => {}
    }
    Ok(Ok(()))
}

/// Reads nothing until the gateway must have given up, then what is left: a whole answer may not
/// have been sent to somebody who does not take it.
async fn cut_off(stream: &mut TcpStream, after: Duration) -> std::io::Result<Result<(), String>> {
    sleep(after).await;
    let rest = async {
        let mut piece = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // What is in the buffers comes at once, and then the end.
    let ended = timeout(Duration::from_secs(5), rest).await;
    Ok(ended.map_err(|_| "a client that takes nothing is still being served".to_owned()))
}
