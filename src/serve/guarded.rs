//! A client's connection, with the deadlines that the HTTP library leaves to us: a head that does
//! not come to its end, a kept connection that nobody uses, a client that does not read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

use super::gate::Standing;
use crate::base::clock;

/// The deadlines; zero is off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// From the first byte of a head to its last.
    pub(crate) header: Duration,
    /// Without any request.
    pub(crate) idle: Duration,
    /// Without taking a byte of a waiting answer.
    pub(crate) write: Duration,
}

/// So many times per idle time a busy connection is looked at; its idleness is found out that much
/// too late at most.
const LOOKS: u32 = 4;

/// How long a client that is still sending is listened to after the last answer, and how much of it is
/// taken: closed at once, the connection would be reset, and the answer lost with it.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 16 * 1024 * 1024);

/// What a connection of HTTP/2 begins with. Anything else, and be it a method that begins like it, is
/// HTTP/1, whose heads are timed.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the connection is doing while no request is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For the first byte of a head, since then.
    Idle(Instant),
    /// For the rest of a head, since then.
    Head(Instant),
}

/// The connection.
pub(crate) struct Guarded<S> {
    stream: S,
    deadlines: Deadlines,
    /// While there are requests under way, only writes are timed. Frames of HTTP/2 come without
    /// requests too, so its heads are not timed.
    standing: Arc<Standing>,
    waiting: Option<Waiting>,
    /// What is still to come of the preface of HTTP/2; empty once it is here, or something else is.
    preface: &'static [u8],
    /// Requests begun when `waiting` was set: once there are more, it is about the past.
    served: usize,
    stalled: Option<Instant>,
    lingering: Option<Lingering>,
    read_timer: Timer,
    write_timer: Timer,
}

/// The last words have been said; what still comes is thrown away.
struct Lingering {
    until: Instant,
    left: usize,
}

/// A timer that is moved only when it fires: a request costs no trip to the timer wheel.
#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once `by` is past.
    pub(crate) fn poll(&mut self, by: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if clock::now() >= by {
                return Poll::Ready(());
            }
            let at = TokioInstant::from_std(by);
            let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if sleep.is_elapsed() || sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            std::task::ready!(sleep.as_mut().poll(cx));
        }
    }

    /// Wakes the task again and again, every so often.
    fn tick(&mut self, every: Duration, cx: &mut Context<'_>) {
        let next = || TokioInstant::from_std(clock::now() + every);
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(next())));
        while sleep.as_mut().poll(cx).is_ready() {
            sleep.as_mut().reset(next());
        }
    }
}

impl<S> Guarded<S> {
    /// Guards `stream`, which stands so.
    pub(crate) fn new(stream: S, deadlines: Deadlines, standing: Arc<Standing>) -> Self {
        Self {
            stream,
            deadlines,
            standing,
            waiting: None,
            preface: PREFACE,
            served: 0,
            stalled: None,
            lingering: None,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    /// Forgets what was waited for before the latest request began.
    fn refresh(&mut self) {
        let served = self.standing.served.load(Ordering::Relaxed);
        if self.served != served {
            self.served = served;
            self.waiting = None;
        }
    }

    fn is_busy(&self) -> bool {
        self.standing.busy.load(Ordering::Relaxed) > 0
    }

    fn came(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.preface.is_empty() {
            if bytes.starts_with(self.preface) {
                self.standing.multiplexed.store(true, Ordering::Relaxed);
            }
            self.preface = self.preface.strip_prefix(bytes).unwrap_or_default();
        }
        if self.is_busy() {
            return;
        }
        self.refresh();
        let now = clock::now();
        self.waiting = Some(match self.waiting {
            _ if self.standing.multiplexed.load(Ordering::Relaxed) => Waiting::Idle(now),
            Some(Waiting::Head(since)) => Waiting::Head(since),
            Some(Waiting::Idle(_)) | None => Waiting::Head(now),
        });
    }

    /// Pending, or an error once the connection has waited too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_busy() {
            self.waiting = None;
            // When the request ends nobody looks here again until the next one comes, so a timer
            // brings us back to see whether the connection stands idle.
            if !self.deadlines.idle.is_zero() {
                self.read_timer.tick(self.deadlines.idle / LOOKS, cx);
            }
            return Poll::Pending;
        }
        self.refresh();
        let waiting = *self
            .waiting
            .get_or_insert_with(|| Waiting::Idle(clock::now()));
        let (since, limit) = match waiting {
            Waiting::Idle(since) => (since, self.deadlines.idle),
            Waiting::Head(since) => (since, self.deadlines.header),
        };
        if limit.is_zero() {
            return Poll::Pending;
        }
        std::task::ready!(self.read_timer.poll(since + limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        if self.deadlines.write.is_zero() {
            return Poll::Pending;
        }
        let since = *self.stalled.get_or_insert_with(clock::now);
        std::task::ready!(self.write_timer.poll(since + self.deadlines.write, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Ready once the client has closed its side, too, or has had its time.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (time, most) = LINGER;
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: clock::now() + time,
            left: most,
        });
        let mut scrap = [0; 4096];
        while lingering.left > 0 {
            let mut scrap = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut scrap) {
                Poll::Pending => return self.read_timer.poll(lingering.until, cx),
                Poll::Ready(Ok(())) if !scrap.filled().is_empty() => {
                    lingering.left = lingering.left.saturating_sub(scrap.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.came(buf.filled().get(before..).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.wait(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What is encrypted waits here, where plain sockets never do.
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
            std::task::ready!(this.written(cx, outcome))?;
            if !this.standing.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        this.linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::body::Busy;
    use super::*;

    const DEADLINES: Deadlines = Deadlines {
        header: Duration::from_millis(50),
        idle: Duration::from_millis(200),
        write: Duration::from_millis(50),
    };

    #[tokio::test]
    async fn an_unused_connection_and_an_unfinished_head_time_out() {
        for (sent, least) in [("", DEADLINES.idle), ("GET / HT", DEADLINES.header)] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut guarded = Guarded::new(server, DEADLINES, Arc::default());
            client.write_all(sent.as_bytes()).await.unwrap();
            let started = clock::now();
            let error = guarded.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(started.elapsed() >= least, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_head_that_begins_like_http2_is_timed_like_any_other() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut guarded = Guarded::new(server, DEADLINES, Arc::default());
        client.write_all(b"PRIX / HTTP/1.1\r\nx: ").await.unwrap();
        let dripping = async {
            while client.write_all(b"y").await.is_ok() {
                tokio::time::sleep(DEADLINES.header / 5).await;
            }
        };
        let mut read = Vec::new();
        let reading = tokio::time::timeout(DEADLINES.header * 20, guarded.read_to_end(&mut read));
        tokio::select! {
            ended = reading => {
                let error = ended.expect("it may drip on").unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            () = dripping => panic!("it is held open here"),
        }
    }

    #[tokio::test]
    async fn http2_is_known_by_all_of_its_beginning_however_it_comes() {
        let (mut client, server) = tokio::io::duplex(64);
        let standing = Arc::<Standing>::default();
        let mut guarded = Guarded::new(server, DEADLINES, Arc::clone(&standing));
        for (sent, multiplexed) in [
            ("PR", false),
            ("I * HTTP/2.0\r\n\r\nS", false),
            ("M\r\n\r\n", true),
        ] {
            client.write_all(sent.as_bytes()).await.unwrap();
            guarded.read_exact(&mut vec![0; sent.len()]).await.unwrap();
            assert_eq!(standing.multiplexed.load(Ordering::Relaxed), multiplexed);
        }
        // Without a request it is idle, and waits for no head.
        let whole = clock::now();
        let error = guarded.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(whole.elapsed() >= DEADLINES.idle);
    }

    #[tokio::test]
    async fn a_connection_with_a_request_under_way_is_left_alone() {
        let (mut client, server) = tokio::io::duplex(64);
        let standing = Arc::<Standing>::default();
        standing.busy.store(1, Ordering::Relaxed);
        let mut guarded = Guarded::new(server, DEADLINES, standing);
        let mut byte = [0];
        let quiet = tokio::time::timeout(DEADLINES.idle * 2, guarded.read_exact(&mut byte)).await;
        assert!(quiet.is_err(), "nothing ends while the request is served");
        client.write_all(b"x").await.unwrap();
        guarded.read_exact(&mut byte).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_idle_after_its_last_request() {
        let (_client, server) = tokio::io::duplex(64);
        let standing = Arc::<Standing>::default();
        let busy = Busy::start(&standing);
        let mut guarded = Guarded::new(server, DEADLINES, standing);
        let serving = async {
            tokio::time::sleep(DEADLINES.idle * 2).await;
            drop(busy);
            clock::now()
        };
        // Its end does not make anybody poll the connection.
        let (read, ended) = tokio::join!(guarded.read_u8(), serving);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(ended.elapsed() < DEADLINES.idle * 3);
    }

    #[tokio::test]
    async fn what_is_still_sent_to_a_connection_that_closes_is_taken() {
        let (mut client, server) = tokio::io::duplex(16);
        let standing = Arc::<Standing>::default();
        standing.unread.store(true, Ordering::Relaxed);
        let mut guarded = Guarded::new(server, DEADLINES, standing);
        guarded.write_all(b"too large").await.unwrap();
        let sending = async {
            client.write_all(&[0; 4096]).await.unwrap();
            let mut answer = [0; 9];
            client.read_exact(&mut answer).await.unwrap();
            client.shutdown().await.unwrap();
            answer
        };
        let (closed, answer) = tokio::join!(guarded.shutdown(), sending);
        closed.unwrap();
        assert_eq!(&answer, b"too large");
        // Who neither sends nor closes is not waited for long.
        let (_client, server) = tokio::io::duplex(16);
        let standing = Arc::<Standing>::default();
        standing.unread.store(true, Ordering::Relaxed);
        let mut guarded = Guarded::new(server, DEADLINES, standing);
        let started = clock::now();
        guarded.shutdown().await.unwrap();
        assert!(started.elapsed() >= LINGER.0 && started.elapsed() < LINGER.0 * 5);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_times_out() {
        let (_client, server) = tokio::io::duplex(16);
        let mut guarded = Guarded::new(server, DEADLINES, Arc::default());
        let error = guarded.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_is_written_but_not_taken_times_out_too() {
        for closing in [false, true] {
            let (_client, server) = tokio::io::duplex(16);
            let server = tokio::io::BufWriter::with_capacity(1024, server);
            let mut guarded = Guarded::new(server, DEADLINES, Arc::default());
            guarded.write_all(&[0; 64]).await.unwrap();
            let ended = if closing {
                guarded.shutdown().await
            } else {
                guarded.flush().await
            };
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }
}
