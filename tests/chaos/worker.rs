//! A worker whose manners can be changed while it runs. Its tokens are stamped, see [`Ledger`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::dialect::Api;
use crate::ledger::{Entry, Ledger};
use crate::support::engine::{Asked, read_request};

/// Between two tokens of a worker that is well.
const PACE: Duration = Duration::from_millis(2);

/// Longer than any deadline of the gateway.
const FOREVER: Duration = Duration::from_secs(120);

/// How a worker behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Healthy,
    /// Nobody listens.
    Refuse,
    /// Listens, but its backlog is full: the system drops every SYN.
    Blackhole,
    /// Resets each connection as it comes.
    ResetAtOnce,
    /// Reads the request, then resets.
    ResetAfterRequest,
    /// Resets after some tokens.
    ResetMidway,
    /// Reads the request and never answers.
    StallHead,
    /// Sends a head and then nothing.
    StallFirstToken,
    /// Sends a head, then comments and no token.
    CommentsOnly,
    /// Sends some tokens, then nothing.
    StallMidway,
    /// A healthy answer between thousands of comments.
    CommentFlood,
    /// Some tokens, then bytes that are no event.
    Garbage,
    /// Not even HTTP.
    NotHttp,
    /// Ends in the middle of a chunk.
    TruncatedChunk,
    /// Announces more bytes than it sends.
    LengthTooLong,
    /// Sends more bytes than it announced.
    LengthTooShort,
    /// 200 with a page of a proxy.
    Html,
    /// Sends a head and closes.
    CloseAfterHead,
    /// Ends in order but without the stream's terminator.
    NoTerminator,
    /// An error event before anything else.
    ErrorFirst,
    /// An error event after some tokens.
    ErrorMidway,
    /// A healthy answer byte by byte.
    Trickle,
    /// A whole answer, and the connection reset right behind it although it was to be kept.
    ResetWhenIdle,
    /// 429 with a `Retry-After` in seconds.
    Busy,
    /// 503 with a `Retry-After` that is a date.
    BusyUntil,
    /// 429 with a `Retry-After` far beyond anybody's patience.
    BusyForLong,
    /// 500.
    Fail,
}

impl Mood {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Refuse => "connection refused",
            Self::Blackhole => "SYN dropped",
            Self::ResetAtOnce => "reset at connect",
            Self::ResetAfterRequest => "reset before the answer",
            Self::ResetMidway => "reset in mid-stream",
            Self::StallHead => "no head",
            Self::StallFirstToken => "no first token",
            Self::CommentsOnly => "comments and no token",
            Self::StallMidway => "stall between tokens",
            Self::CommentFlood => "flood of comments",
            Self::Garbage => "garbage in a stream",
            Self::NotHttp => "no HTTP",
            Self::TruncatedChunk => "truncated chunk",
            Self::LengthTooLong => "length too long",
            Self::LengthTooShort => "length too short",
            Self::Html => "200 with HTML",
            Self::CloseAfterHead => "closed after the head",
            Self::NoTerminator => "stream without its end",
            Self::ErrorFirst => "error event first",
            Self::ErrorMidway => "error event midway",
            Self::Trickle => "byte by byte",
            Self::ResetWhenIdle => "reset while idle",
            Self::Busy => "429 with seconds",
            Self::BusyUntil => "503 with a date",
            Self::BusyForLong => "429 for an hour",
            Self::Fail => "500",
        }
    }

    /// What the listening socket does.
    fn door(self) -> Door {
        match self {
            Self::Refuse => Door::Shut,
            Self::Blackhole => Door::Full,
            _ => Door::Open,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Shut,
    Full,
}

/// A scripted worker. It stops when dropped.
pub(crate) struct Scripted {
    name: String,
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    task: AbortHandle,
    /// Keeps the port while nobody listens.
    _claim: Socket,
}

struct Shared {
    name: String,
    ledger: Arc<Ledger>,
    mood: watch::Receiver<Mood>,
    /// Whether `/health` shows the mood.
    frank: AtomicBool,
}

impl Scripted {
    /// Starts a healthy one on a free port of loopback. A `frank` one shows its mood in `/health`,
    /// the others claim to be well for as long as they can be asked.
    pub(crate) fn start(name: &str, ledger: &Arc<Ledger>, frank: bool) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let claim = bound(any).unwrap();
        let address = claim.local_addr().unwrap().as_socket().unwrap();
        let (mood, moods) = watch::channel(Mood::Healthy);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ledger: Arc::clone(ledger),
            mood: moods,
            frank: AtomicBool::new(frank),
        });
        Self {
            name: name.to_owned(),
            address,
            mood,
            task: tokio::spawn(live(address, shared)).abort_handle(),
            _claim: claim,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next request on; what changes at the door takes the open connections along, as the
    /// end of a process does.
    pub(crate) fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bound(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn listening(address: SocketAddr, backlog: i32) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let listening = bound(address).and_then(|socket| {
            socket.listen(backlog)?;
            Ok(socket)
        });
        match listening {
            Ok(socket) => return TcpListener::from_std(socket.into()).unwrap(),
            // A process that is just being started has a copy of the last one for a moment.
            Err(error) => assert!(Instant::now() < deadline, "cannot listen: {error}"),
        }
        sleep(PACE).await;
    }
}

/// Stands at the door for ever.
async fn live(address: SocketAddr, shared: Arc<Shared>) {
    let mut mood = shared.mood.clone();
    loop {
        let door = mood.borrow_and_update().door();
        let turned = async {
            // An error means that the worker is gone, and this task with it.
            mood.wait_for(|mood| mood.door() != door)
                .await
                .map(drop)
                .ok();
        };
        match door {
            Door::Open => {
                let listener = listening(address, 1024).await;
                tokio::select! {
                    () = accept(&listener, &shared) => {}
                    () = turned => {}
                }
            }
            Door::Shut => {
                shared.ledger.fault(Mood::Refuse.name());
                turned.await;
            }
            Door::Full => {
                shared.ledger.fault(Mood::Blackhole.name());
                let _listener = listening(address, 0).await;
                // The system allows one more than the backlog; the others of these wait for ever.
                let mut stuffing = JoinSet::new();
                for _ in 0..4 {
                    stuffing.spawn(async move {
                        let stuffed = TcpStream::connect(address).await;
                        sleep(FOREVER).await;
                        drop(stuffed);
                    });
                }
                turned.await;
            }
        }
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = JoinSet::new(); // end with this future
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            // An error of the socket is the end of the connection.
            serve(stream, &shared).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if *shared.mood.borrow() == Mood::ResetAtOnce {
        shared.ledger.fault(Mood::ResetAtOnce.name());
        return reset(&stream);
    }
    let mut unread = Vec::new();
    while let Some(asked) = read_request(&mut stream, &mut unread).await? {
        let mood = *shared.mood.borrow();
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/health") if shared.frank.load(Ordering::Relaxed) => match mood {
                Mood::Healthy => answer(&mut stream, 200, "text/plain", "OK").await?,
                Mood::StallHead | Mood::StallFirstToken | Mood::CommentsOnly => {
                    sleep(FOREVER).await;
                }
                Mood::Garbage | Mood::NotHttp => stream.write_all(b"no idea\r\n\r\n").await?,
                _ => answer(&mut stream, 503, "text/plain", "unwell").await?,
            },
            ("GET", "/health") => answer(&mut stream, 200, "text/plain", "OK").await?,
            ("GET", _) => answer(&mut stream, 404, "application/json", "{}").await?,
            _ => {
                // A connection that was given up before anybody looked at it.
                if let Some(Ok(0) | Err(_)) = stream.peek(&mut [0]).now_or_never() {
                    return Ok(());
                }
                if !Turn::new(&mut stream, shared, &asked, mood).play().await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// With a linger time of zero the close is a reset.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

async fn answer(
    stream: &mut TcpStream,
    status: u16,
    content_type: &str,
    body: &str,
) -> std::io::Result<()> {
    answer_with(stream, status, content_type, "", body).await
}

async fn answer_with(
    stream: &mut TcpStream,
    status: u16,
    content_type: &str,
    more: &str,
    body: &str,
) -> std::io::Result<()> {
    let length = body.len();
    let all = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\n{more}\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(all.as_bytes()).await
}

/// One request and what is done about it.
struct Turn<'a> {
    stream: &'a mut TcpStream,
    entry: Entry,
    api: Api,
    streamed: bool,
    tokens: usize,
    mood: Mood,
}

impl<'a> Turn<'a> {
    fn new(stream: &'a mut TcpStream, shared: &Shared, asked: &Asked, mood: Mood) -> Self {
        let body = asked.json();
        let id = body["user"].as_str().unwrap_or_default().to_owned();
        if asked.header("x-request-id") != Some(&id) {
            shared.ledger.stray(format!(
                "{}: request {id:?} came under the id {:?}",
                shared.name,
                asked.header("x-request-id")
            ));
        }
        let harm = (mood != Mood::Healthy).then(|| mood.name());
        Self {
            stream,
            entry: shared.ledger.attempt(&shared.name, &id, harm),
            api: Api::of(&asked.path).unwrap_or(Api::Chat),
            streamed: body["stream"] == true,
            tokens: usize::try_from(body["max_tokens"].as_u64().unwrap_or(4)).unwrap(),
            mood,
        }
    }

    /// Whether the connection is kept.
    async fn play(self) -> std::io::Result<bool> {
        match self.mood {
            Mood::ResetAtOnce | Mood::ResetAfterRequest => {
                reset(self.stream)?;
                Ok(false)
            }
            Mood::StallHead => self.wait_for_the_end().await,
            Mood::NotHttp => {
                self.stream.write_all(b"220 mail.example ESMTP\r\n").await?;
                Ok(false)
            }
            Mood::Html => {
                let page = "<html><body>Welcome to the proxy</body></html>";
                answer(self.stream, 200, "text/html", page).await?;
                Ok(true)
            }
            Mood::Busy => self.refuse(429, "retry-after: 1\r\n").await,
            Mood::BusyForLong => self.refuse(429, "retry-after: 3600\r\n").await,
            Mood::BusyUntil => {
                let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1));
                self.refuse(503, &format!("retry-after: {date}\r\n")).await
            }
            Mood::Fail => self.refuse(500, "").await,
            _ if self.streamed => self.stream_answer().await,
            _ => self.whole_answer().await,
        }
    }

    async fn refuse(self, status: u16, more: &str) -> std::io::Result<bool> {
        let body = json!({ "error": { "message": "worker says no", "code": status } }).to_string();
        answer_with(self.stream, status, "application/json", more, &body).await?;
        Ok(true)
    }

    /// Until the gateway has had enough.
    async fn wait_for_the_end(self) -> std::io::Result<bool> {
        let mut rest = [0; 64];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(false)
    }

    async fn whole_answer(self) -> std::io::Result<bool> {
        let words: Vec<_> = (0..self.tokens).map(|n| self.entry.stamp(n)).collect();
        let body = self.api.whole(&words.concat()).to_string();
        let announced = match self.mood {
            Mood::LengthTooLong => body.len() + 10,
            Mood::LengthTooShort => body.len() - 10,
            _ => body.len(),
        };
        let chunked = matches!(self.mood, Mood::TruncatedChunk | Mood::Trickle);
        let framing = if chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {announced}")
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let half = body.len() / 2;
        match self.mood {
            Mood::StallFirstToken | Mood::CommentsOnly => return self.wait_for_the_end().await,
            Mood::CloseAfterHead => return Ok(false),
            Mood::StallMidway => {
                self.stream.write_all(&body.as_bytes()[..half]).await?;
                return self.wait_for_the_end().await;
            }
            Mood::ResetMidway | Mood::Garbage | Mood::NoTerminator => {
                self.stream.write_all(&body.as_bytes()[..half]).await?;
                sleep(PACE).await;
                reset(self.stream)?;
                return Ok(false);
            }
            Mood::TruncatedChunk => {
                let size = format!("{:x}\r\n", body.len());
                let part = [size.as_bytes(), &body.as_bytes()[..half]].concat();
                self.stream.write_all(&part).await?;
                return Ok(false);
            }
            Mood::Trickle => {
                for piece in body.as_bytes().chunks(7) {
                    self.chunk(piece).await?;
                }
                self.stream.write_all(b"0\r\n\r\n").await?;
            }
            _ => self.stream.write_all(body.as_bytes()).await?,
        }
        if self.mood == Mood::LengthTooLong {
            return Ok(false);
        }
        self.finish().await
    }

    async fn stream_answer(self) -> std::io::Result<bool> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await?;
        match self.mood {
            Mood::CloseAfterHead => return Ok(false),
            Mood::StallFirstToken => return self.wait_for_the_end().await,
            Mood::CommentsOnly => {
                // Ends with the connection.
                loop {
                    self.chunk(b": still here\n\n").await?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
            Mood::ErrorFirst => {
                self.chunk(self.api.failure().as_bytes()).await?;
                self.stream.write_all(b"0\r\n\r\n").await?;
                return Ok(true);
            }
            Mood::CommentFlood => {
                let comments = ": nothing to see here\n\n".repeat(500);
                for _ in 0..10 {
                    self.chunk(comments.as_bytes()).await?;
                }
            }
            _ => {}
        }
        let opening = self.api.opening();
        if !opening.is_empty() {
            self.chunk(opening.as_bytes()).await?;
        }
        let midway = self.tokens / 2;
        for sequence in 0..self.tokens {
            if sequence == midway {
                match self.mood {
                    Mood::StallMidway => return self.wait_for_the_end().await,
                    Mood::ResetMidway => {
                        sleep(PACE).await;
                        reset(self.stream)?;
                        return Ok(false);
                    }
                    Mood::ErrorMidway => {
                        self.chunk(self.api.failure().as_bytes()).await?;
                        self.stream.write_all(b"0\r\n\r\n").await?;
                        return Ok(true);
                    }
                    Mood::Garbage => {
                        self.chunk(b"\x00\xff\xfe<garbage>\ndata: {\"choices\":[{\"del")
                            .await?;
                        self.chunk(b"data: }}}\n\ndata: []\n\n\r\r\r").await?;
                        self.stream.write_all(b"0\r\n\r\n").await?;
                        return Ok(true);
                    }
                    Mood::TruncatedChunk | Mood::LengthTooLong => {
                        self.stream.write_all(b"ff\r\ndata: {\"cho").await?;
                        return Ok(false);
                    }
                    Mood::LengthTooShort => {
                        self.stream.write_all(b"3\r\ndata: {\"cho\r\n").await?;
                        return Ok(false);
                    }
                    _ => {}
                }
            }
            let event = self.api.token(sequence, &self.entry.stamp(sequence));
            match self.mood {
                Mood::Trickle => {
                    for piece in event.as_bytes().chunks(5) {
                        self.chunk(piece).await?;
                    }
                }
                Mood::CommentFlood => {
                    let flood = ": x\n\n".repeat(200);
                    self.chunk(format!("{flood}{event}").as_bytes()).await?;
                }
                _ => self.chunk(event.as_bytes()).await?,
            }
            // A long answer is one for somebody who reads slowly: it comes as fast as it can, and
            // is larger than what the system keeps on the way.
            if self.tokens <= 64 {
                sleep(PACE).await;
            } else {
                let padding = format!(": {}\n\n", "x".repeat(16 * 1024));
                self.chunk(padding.as_bytes()).await?;
            }
        }
        if self.mood != Mood::NoTerminator {
            self.chunk(self.api.closing(self.tokens).as_bytes()).await?;
        }
        self.stream.write_all(b"0\r\n\r\n").await?;
        self.finish().await
    }

    async fn finish(self) -> std::io::Result<bool> {
        self.entry.complete();
        if self.mood == Mood::ResetWhenIdle {
            sleep(PACE).await;
            reset(self.stream)?;
            return Ok(false);
        }
        Ok(true)
    }

    async fn chunk(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        let mut left = &framed[..];
        while !left.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
