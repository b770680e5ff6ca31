//! Connecting to a worker, by whichever of its addresses accepts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, timeout_at};

use super::http::is_short;
use super::resolve::{self, Lookup};
use super::tls;
use crate::base::clock;
use crate::state::{ConnPool, Stream};

/// Silence before the kernel asks whether the other side is still there, how often it asks again,
/// and how often in vain before the connection counts as broken.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A connection for `pool` within `limit`, its handshake included where it is secured, and the address
/// that it leads to.
///
/// All addresses are tried, one at a time: the next one at once when one refuses or is not who it should
/// be, and when one stays silent for its share of what is left of `limit`. If none connects the host is looked up
/// once more, and addresses that come to light have what is left. What the pool may not connect to
/// counts as refused.
///
/// Cancel safety: dropping the future closes what it has opened.
///
/// # Errors
/// That of the last address tried, or of the look-up; `TimedOut` at the end of `limit`.
pub(super) async fn dial(
    pool: &ConnPool,
    limit: Duration,
    lookup: impl Lookup,
) -> io::Result<(Stream, IpAddr)> {
    let began = clock::now();
    let end = began + limit;
    let names = pool.names();
    if let Some(address) = names.literal() {
        return connect(pool, address, end).await;
    }
    let mut tried = Vec::new();
    let mut known = by(end, resolve::addresses(names, lookup)).await?;
    loop {
        let mut last = io::ErrorKind::NotFound.into();
        for (at, address) in known.iter().enumerate() {
            let now = clock::now();
            match connect(pool, *address, now + share(end, now, known.len() - at)).await {
                Ok(connected) => return Ok(connected),
                // No other address would have more luck.
                Err(error) if is_short(&error) => return Err(error),
                Err(error) => last = error,
            }
            names.failed(*address);
        }
        tried.append(&mut known);
        if clock::now() >= end {
            // The next one who connects finds a newer answer.
            resolve::hurry(names, lookup, began);
            return Err(last);
        }
        if !by(end, async {
            Ok(resolve::again(names, lookup, began).await)
        })
        .await?
        {
            return Err(last);
        }
        known = names.addresses();
        known.retain(|address| !tried.contains(address));
        if known.is_empty() {
            return Err(last);
        }
    }
}

fn share(end: Instant, now: Instant, among: usize) -> Duration {
    end.saturating_duration_since(now) / u32::try_from(among).unwrap_or(u32::MAX).max(1)
}

async fn by<T>(end: Instant, awaited: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(TokioInstant::from_std(end), awaited)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(
    pool: &ConnPool,
    mut address: SocketAddr,
    end: Instant,
) -> io::Result<(Stream, IpAddr)> {
    if !pool.may_reach(address.ip()) {
        let why = "no worker has such an address: it is link-local, unspecified, multicast, of a \
                   metadata service, or outside `auth.control_plane.worker_cidrs`";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    address.set_port(pool.port());
    let stream = by(end, TcpStream::connect(address))
        .await
        .map_err(|error| {
            // What is a want of ports elsewhere is, on a machine without this family, an address that
            // nobody can reach.
            if address.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable {
                io::ErrorKind::NetworkUnreachable.into()
            } else {
                error
            }
        })?;
    stream.set_nodelay(true)?;
    let (silence, between, times) = KEEPALIVE;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(silence)
        .with_interval(between)
        .with_retries(times);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = match pool.secured() {
        None => Stream::Plain(stream),
        Some(secured) => {
            let shaken = by(end, tls::shake_hands(pool, secured, stream)).await;
            shaken.inspect_err(|error| tls::tell(pool, secured, address, error))?
        }
    };
    Ok((stream, address.ip()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::api::payload::Sending;
    use crate::state::{ConnKey, Keyed, NameCell};

    const LIMIT: Duration = Duration::from_secs(5);
    const FIRST: &str = "127.0.0.1";
    const SECOND: &str = "127.0.0.2";

    /// Answers what it was told last, once it is let.
    struct Script {
        answer: Mutex<Option<Vec<&'static str>>>,
        gate: Semaphore,
        asked: AtomicUsize,
    }

    #[derive(Clone, Copy)]
    struct Scripted(&'static Script);

    impl Scripted {
        fn new(answer: &[&'static str]) -> Self {
            Self(Box::leak(Box::new(Script {
                answer: Mutex::new(Some(answer.to_vec())),
                gate: Semaphore::new(1000),
                asked: AtomicUsize::new(0),
            })))
        }

        fn answers(self, answer: Option<&[&'static str]>) {
            *self.0.answer.lock() = answer.map(<[_]>::to_vec);
        }

        fn asked(self) -> usize {
            self.0.asked.load(Ordering::SeqCst)
        }
    }

    impl Lookup for Scripted {
        async fn addresses(self, _: &str) -> io::Result<Vec<SocketAddr>> {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            self.0.gate.acquire().await.unwrap().forget();
            let answer = self.0.answer.lock().clone();
            answer
                .map(|answer| found(&answer))
                .ok_or_else(|| io::Error::other("the name service is down"))
        }
    }

    fn found(answer: &[&str]) -> Vec<SocketAddr> {
        let ips = answer.iter().map(|text| text.parse().unwrap());
        ips.map(|ip| SocketAddr::new(ip, 0)).collect()
    }

    fn names() -> Arc<NameCell> {
        Arc::new(NameCell::new(&"worker.test".into()))
    }

    /// A name whose answer is this one, learned so long ago.
    fn known(answer: &[&str], ago: Duration) -> Arc<NameCell> {
        let names = names();
        let then = clock::now().checked_sub(ago).unwrap();
        names.ask().unwrap().land(Ok(found(answer)), then);
        names
    }

    fn pool(names: &Arc<NameCell>, port: u16, guarded: bool) -> ConnPool {
        let key = ConnKey {
            host: names.host().into(),
            port,
            http2: false,
            guarded,
            networks: Arc::default(),
            tls: None,
        };
        ConnPool::new(&key, Arc::clone(names), &Keyed::default())
    }

    async fn listen(host: &str, port: u16) -> (TcpListener, u16) {
        let listener = TcpListener::bind((host, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    async fn to(names: &Arc<NameCell>, port: u16, lookup: Scripted) -> io::Result<String> {
        let (_, address) = dial(&pool(names, port, false), LIMIT, lookup).await?;
        Ok(address.to_string())
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_and_comes_last_from_then_on() {
        let (_listener, port) = listen(SECOND, 0).await;
        let lookup = Scripted::new(&[FIRST, SECOND]);
        let names = names();
        for _ in 0..3 {
            assert_eq!(to(&names, port, lookup).await.unwrap(), SECOND);
            assert_eq!(names.addresses().first().unwrap().ip().to_string(), SECOND);
        }
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn connections_are_spread_over_the_addresses() {
        let (_first, port) = listen(FIRST, 0).await;
        let (_second, _) = listen(SECOND, port).await;
        let lookup = Scripted::new(&[FIRST, SECOND]);
        let names = names();
        let mut firsts = 0;
        for _ in 0..10 {
            firsts += usize::from(to(&names, port, lookup).await.unwrap() == FIRST);
        }
        assert_eq!(firsts, 5);
    }

    #[tokio::test]
    async fn many_wait_for_one_look_up() {
        let (_listener, port) = listen(FIRST, 0).await;
        let lookup = Scripted::new(&[FIRST]);
        let names = names();
        let dials = (0..50).map(|_| to(&names, port, lookup));
        for outcome in futures_util::future::join_all(dials).await {
            outcome.unwrap();
        }
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_costs_the_deadline_and_is_asked_once() {
        let (_listener, port) = listen(FIRST, 0).await;
        let lookup = Scripted::new(&[FIRST]);
        lookup.0.gate.forget_permits(1000);
        let names = names();
        let short = Duration::from_millis(50);
        for _ in 0..3 {
            let pool = pool(&names, port, false);
            let error = dial(&pool, short, lookup).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(lookup.asked(), 1);
        // The look-up goes on, and its answer serves whoever comes then.
        lookup.0.gate.add_permits(1);
        to(&names, port, lookup).await.unwrap();
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn an_old_answer_is_looked_up_again_and_a_new_one_is_not() {
        let (_first, port) = listen(FIRST, 0).await;
        let (_second, _) = listen(SECOND, port).await;
        let lookup = Scripted::new(&[SECOND]);
        let young = known(&[FIRST], Duration::from_secs(29));
        assert_eq!(to(&young, port, lookup).await.unwrap(), FIRST);
        assert_eq!(lookup.asked(), 0);
        let old = known(&[FIRST], Duration::from_secs(30));
        assert_eq!(to(&old, port, lookup).await.unwrap(), SECOND);
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn an_old_answer_is_used_while_the_name_service_is_down() {
        let (_listener, port) = listen(FIRST, 0).await;
        let lookup = Scripted::new(&[]);
        lookup.answers(None);
        let names = known(&[FIRST], Duration::from_secs(40));
        for _ in 0..3 {
            assert_eq!(to(&names, port, lookup).await.unwrap(), FIRST);
        }
        // It is asked again in time, not by every connection.
        assert_eq!(lookup.asked(), 1);
        assert!(names.trouble().is_some());
        let nothing_known = self::names();
        assert!(to(&nothing_known, port, lookup).await.is_err());
    }

    #[tokio::test]
    async fn a_name_that_had_no_address_is_asked_for_again_soon() {
        let (_listener, port) = listen(FIRST, 0).await;
        let lookup = Scripted::new(&[FIRST]);
        let down = |ago: u64| {
            let names = names();
            let then = clock::now().checked_sub(Duration::from_millis(ago));
            let asking = names.ask().unwrap();
            asking.land(Err(io::ErrorKind::NotFound.into()), then.unwrap());
            names
        };
        assert_eq!(to(&down(1000), port, lookup).await.unwrap(), FIRST);
        // Many who want it at once do not become a storm of look-ups.
        assert!(to(&down(0), port, lookup).await.is_err());
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn when_no_address_connects_the_name_is_looked_up_at_once() {
        let (_listener, port) = listen(SECOND, 0).await;
        let lookup = Scripted::new(&[SECOND]);
        let names = known(&[FIRST], Duration::from_secs(2));
        assert_eq!(to(&names, port, lookup).await.unwrap(), SECOND);
        assert_eq!(lookup.asked(), 1);
        // Not more often than once in a while, though.
        let names = known(&[FIRST], Duration::ZERO);
        let refused = to(&names, port, lookup).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(lookup.asked(), 1);
    }

    #[tokio::test]
    async fn an_idle_connection_to_an_address_that_is_gone_is_not_used_again() {
        let (_listener, port) = listen(FIRST, 0).await;
        let names = known(&[FIRST, SECOND], Duration::ZERO);
        let pool = pool(&names, port, false);
        let lookup = Scripted::new(&[]);
        let keep = async || {
            let (stream, address) = dial(&pool, LIMIT, lookup).await.unwrap();
            let stream = hyper_util::rt::TokioIo::new(stream);
            let (sender, driver) = hyper::client::conn::http1::handshake::<_, Sending>(stream)
                .await
                .unwrap();
            let conn = pool.adopt(sender, driver, address);
            pool.give_back(conn, clock::now(), 10);
        };
        keep().await;
        let conn = pool.take().unwrap();
        pool.give_back(conn, clock::now(), 10);
        let changed = |answer: &[&str]| {
            names.ask().unwrap().land(Ok(found(answer)), clock::now());
        };
        changed(&[FIRST]);
        let conn = pool.take().unwrap();
        pool.give_back(conn, clock::now(), 10);
        changed(&[SECOND]);
        assert!(pool.take().is_none());
        assert_eq!((pool.open(), pool.idle()), (0, 0));
        changed(&[FIRST]);
        keep().await;
        changed(&[SECOND]);
        pool.sweep(clock::now(), LIMIT);
        assert_eq!((pool.open(), pool.idle()), (0, 0));
    }

    /// A name that led elsewhere when it was accepted must not lead to the link now.
    #[tokio::test]
    async fn what_is_guarded_connects_to_no_forbidden_address() {
        let (_listener, port) = listen(FIRST, 0).await;
        let to = async |host: &str, guarded: bool, lookup: Scripted| {
            let names = Arc::new(NameCell::new(&host.into()));
            let (_, address) = dial(&pool(&names, port, guarded), LIMIT, lookup).await?;
            Ok::<_, io::Error>(address)
        };
        let link = Scripted::new(&["169.254.169.254", "fe80::1", "::ffff:169.254.169.254"]);
        for host in ["name", "169.254.169.254"] {
            let error = to(host, true, link).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{host}");
        }
        let both = Scripted::new(&["169.254.169.254", FIRST]);
        assert!(to("name", true, both).await.unwrap().is_loopback());
        // 0.0.0.0 leads to this machine, which the configuration may say.
        assert!(to("0.0.0.0", false, both).await.is_ok());
        assert!(to("0.0.0.0", true, both).await.is_err());
    }
}
