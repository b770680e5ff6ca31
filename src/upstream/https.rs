//! One `GET` from somewhere that is no worker, such as an issuer of tokens: nothing is kept between
//! two of them.
//!
//! Invariant: only addresses that the caller allows are connected to. A name is looked up once, and
//! what was looked at is what is connected to, so that a second answer cannot lead elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::tls::{self, TlsError};

/// What a fetch may take, and where it may go.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// From the look-up of the name to the last byte.
    pub timeout: Duration,
    /// Largest body, in bytes.
    pub max_bytes: usize,
    /// Whether an address may be connected to.
    pub allow: fn(IpAddr) -> bool,
}

/// A whole answer, whatever its status.
#[derive(Debug)]
pub struct Fetched {
    /// Status. Redirects are not followed.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// Why there is no whole answer. No variant carries the URL, which may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It is not one that can be fetched: neither http nor https, without a host, or with a user.
    #[error("the URL is not one of http or https with a host and without a user")]
    Url,
    /// The name has no address.
    #[error("cannot resolve the host: {0}")]
    Resolve(#[source] io::Error),
    /// None of its addresses may be connected to.
    #[error("the host has no address that may be connected to")]
    Forbidden,
    /// Refused, unreachable, or not who it should be.
    #[error("connection failed: {0}")]
    Connect(#[source] io::Error),
    /// Nobody can be trusted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No whole answer over an open connection.
    #[error("the answer broke off: {0}")]
    Broken(#[source] hyper::Error),
    /// More bytes than wanted.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// No whole answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Fetches `url`, over TLS with the roots of the system where it is https, within `rules`. A proxy is
/// not asked, a redirect is not followed.
///
/// Cancel safety: dropping the future closes the connection.
///
/// # Errors
/// [`GetError`]; an answer with any status is an answer.
pub async fn get(url: &Url, rules: &Rules) -> Result<Fetched, GetError> {
    // Boxed: callers need not make room for what is done once in a while.
    timeout(rules.timeout, Box::pin(whole(url, rules)))
        .await
        .unwrap_or(Err(GetError::Timeout(rules.timeout)))
}

async fn whole(url: &Url, rules: &Rules) -> Result<Fetched, GetError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(GetError::Url),
    };
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(GetError::Url);
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(GetError::Url);
    }
    let request = request(url).ok_or(GetError::Url)?;
    let stream = connect(&host, port, rules.allow).await?;
    if !secure {
        return exchange(stream, request, rules.max_bytes).await;
    }
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| GetError::Url)?,
        Host::Ipv4(address) => IpAddr::V4(address).into(),
        Host::Ipv6(address) => IpAddr::V6(address).into(),
    };
    // The first one reads the roots of the system.
    let config = spawn_blocking(|| tls::client(&[], None, &[b"http/1.1"]))
        .await
        .map_err(|error| GetError::Connect(io::Error::other(error)))??;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(GetError::Connect)?;
    exchange(stream, request, rules.max_bytes).await
}

fn request(url: &Url) -> Option<Request<Empty<Bytes>>> {
    let mut target = url.path().to_owned();
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    let host = match (url.host_str()?, url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(host).ok()?);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static("smg"));
    Some(request)
}

/// Connects to the first address that is allowed and accepts.
async fn connect(
    host: &Host<&str>,
    port: u16,
    allow: fn(IpAddr) -> bool,
) -> Result<TcpStream, GetError> {
    let addresses: Vec<SocketAddr> = match host {
        Host::Ipv4(address) => vec![(*address, port).into()],
        Host::Ipv6(address) => vec![(*address, port).into()],
        Host::Domain(name) => lookup_host((*name, port))
            .await
            .map_err(GetError::Resolve)?
            .collect(),
    };
    if addresses.is_empty() {
        return Err(GetError::Resolve(io::ErrorKind::NotFound.into()));
    }
    let mut last = GetError::Forbidden;
    for address in addresses.into_iter().filter(|address| allow(address.ip())) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = GetError::Connect(error),
        }
    }
    Err(last)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    max: usize,
) -> Result<Fetched, GetError> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(GetError::Broken)?;
    let answer = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(GetError::Broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), max).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => GetError::Broken(*error),
            Err(error) if error.is::<LengthLimitError>() => GetError::TooLarge(max),
            Err(error) => GetError::Connect(io::Error::other(error)),
        })?;
        Ok(Fetched {
            status,
            body: body.to_bytes(),
        })
    };
    let driving = async move {
        // Its end, good or bad, reaches whoever waits for the answer.
        driver.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driving => never,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::task::AbortOnDrop;

    const RULES: Rules = Rules {
        timeout: Duration::from_secs(20),
        max_bytes: 1000,
        allow: |_| true,
    };

    /// Answers every connection with these bytes, and says where.
    async fn server(answer: String) -> (Url, AbortOnDrop) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = AbortOnDrop::spawn("server of a test", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                // A handshake begins with 22, and no request does.
                while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&22) {
                    if stream.read_buf(&mut head).await.unwrap() == 0 {
                        break;
                    }
                }
                let head = String::from_utf8_lossy(&head);
                let answer = answer.replace("HEAD", head.lines().next().unwrap());
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        let url = format!("http://127.0.0.1:{port}/keys?a=b");
        (url.parse().unwrap(), serving)
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_a_redirect_is_one() {
        let (url, _serving) = server("HTTP/1.1 200 OK\r\n\r\nHEAD".into()).await;
        let fetched = get(&url, &RULES).await.unwrap();
        assert_eq!(fetched.status, 200);
        assert_eq!(fetched.body, "GET /keys?a=b HTTP/1.1");
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\
                     content-length: 0\r\n\r\n";
        let (url, _serving) = server(moved.into()).await;
        assert_eq!(get(&url, &RULES).await.unwrap().status, 302);
    }

    #[tokio::test]
    async fn an_answer_is_bounded_in_size_and_time() {
        let long = "x".repeat(1001);
        for answer in [
            format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n{long}"),
        ] {
            let (url, _serving) = server(answer).await;
            let error = get(&url, &RULES).await.unwrap_err();
            assert!(matches!(error, GetError::TooLarge(1000)), "{error:?}");
        }
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let short = Rules {
            timeout: Duration::from_millis(50),
            ..RULES
        };
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://127.0.0.1:{port}/").parse().unwrap();
            let error = get(&url, &short).await.unwrap_err();
            assert!(matches!(error, GetError::Timeout(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_breaks_off_is_no_answer() {
        let (url, _serving) = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into()).await;
        let error = get(&url, &RULES).await.unwrap_err();
        assert!(matches!(error, GetError::Broken(_)), "{error:?}");
    }

    /// A server that answers in the clear is not taken for one that speaks TLS.
    #[tokio::test]
    async fn https_is_never_less() {
        let (mut url, _serving) = server("HTTP/1.1 200 OK\r\n\r\n".into()).await;
        url.set_scheme("https").unwrap();
        let error = get(&url, &RULES).await.unwrap_err();
        let refused = matches!(error, GetError::Connect(_) | GetError::Tls(_));
        assert!(refused, "{error:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_not_allowed_is_not_connected_to() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let (url, _serving) = server("HTTP/1.1 200 OK\r\n\r\n".into()).await;
        let picky = Rules {
            allow: |address| {
                ASKED.fetch_add(1, Ordering::SeqCst);
                !address.is_loopback()
            },
            ..RULES
        };
        for host in ["127.0.0.1", "localhost", "[::1]", "2130706433"] {
            let mut url = url.clone();
            url.set_host(Some(host)).unwrap();
            let before = ASKED.load(Ordering::SeqCst);
            let error = get(&url, &picky).await.unwrap_err();
            assert!(matches!(error, GetError::Forbidden), "{host}: {error:?}");
            assert!(ASKED.load(Ordering::SeqCst) > before, "{host}");
        }
    }

    #[tokio::test]
    async fn only_urls_of_the_web_without_a_user() {
        for url in [
            "ftp://h/",
            "file:///etc/passwd",
            "http://user@127.0.0.1/",
            "https://:secret@127.0.0.1/",
            "data:,x",
        ] {
            let error = get(&url.parse().unwrap(), &RULES).await.unwrap_err();
            assert!(matches!(error, GetError::Url), "{url}: {error:?}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
