//! A client of the control socket, or of a listener that serves `admin`.
//!
//! One request on one connection; no connection is kept.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use clap::ArgMatches;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::given::Invocation;
use crate::base::file::{self, FileError};
use crate::config::spec::{ListenAddress, Serve};
use crate::config::{Environment, Input, load};
use crate::tls::{self, TlsError};

/// How long to wait for a connection. The answer may take as long as the gateway needs.
const CONNECT: Duration = Duration::from_secs(5);

/// The control socket of the packaged service. Only its unit knows that it stands there: the gateway
/// hears it of systemd, and no key of the file needs to say so.
const SERVICE_SOCKET: &str = "/run/smg/control.sock";

/// The variable that says the key.
const KEY: &str = "SMG_KEY";

/// Where a gateway may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A unix socket.
    Unix(PathBuf),
    /// A host, as written, a port, and what stands before the paths of the gateway.
    Tcp {
        /// Host name or address, v6 without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Without a slash at its end; often empty.
        prefix: String,
        /// Over TLS.
        tls: bool,
    },
}

impl std::fmt::Display for Way {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Tcp {
                host,
                port,
                prefix,
                tls,
            } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(out, "{scheme}://{}:{port}{prefix}", bracketed(host))
            }
        }
    }
}

/// A host as URLs write it.
fn bracketed(host: &str) -> std::borrow::Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}

/// What a client shows and trusts.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    key: Option<HeaderValue>,
    /// Authorities in place of the system's, as PEM.
    ca: Option<Vec<u8>>,
}

/// What a gateway answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body; `null` if it is no JSON.
    pub(super) body: serde_json::Value,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The URL is none that this client can use.
    #[error(
        "`{0}` is no address of a gateway: expected `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`"
    )]
    Url(String),
    /// The file of authorities cannot be read.
    #[error(transparent)]
    Ca(#[from] FileError),
    /// Nobody can be trusted.
    #[error("no gateway can be verified: {0}")]
    Tls(#[from] TlsError),
    /// The key is none that a header can carry. It is not shown.
    #[error("the key is not of visible ASCII characters")]
    Key,
    /// There is nothing to try.
    #[error("the configuration names no control socket and no listener that serves `admin`")]
    NoWay,
    /// The file that would say one cannot be read.
    #[error(transparent)]
    Unread(FileError),
    /// None of the ways leads to a gateway.
    #[error("no gateway answers: {}", tried(.0))]
    Unreachable(Vec<(Way, io::Error)>),
    /// The connection was there, but the exchange failed.
    #[error("the gateway at {way} broke off: {source}")]
    Exchange {
        /// Where it is.
        way: Way,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client itself could not start.
    #[error("cannot start a client: {0}")]
    Start(io::Error),
}

fn tried(ways: &[(Way, io::Error)]) -> String {
    let reason = |error: &io::Error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        text.to_lowercase()
    };
    let ways = ways
        .iter()
        .map(|(way, error)| format!("{way} ({})", reason(error)));
    ways.collect::<Vec<_>>().join(", ")
}

/// The ways to a gateway: that of `url` alone where there is one, else those that its
/// configuration names, the control socket first. The configuration may have mistakes. That of the
/// packaged service leads to its control socket even if it names none.
///
/// # Errors
/// [`ClientError::Url`], [`ClientError::Unread`] or [`ClientError::NoWay`].
pub(super) fn ways(
    url: Option<&str>,
    invocation: Invocation,
    environment: Environment,
) -> Result<Vec<Way>, ClientError> {
    if let Some(url) = url {
        return Ok(vec![parse(url)?]);
    }
    let file = invocation.file.or_else(|| {
        let default = PathBuf::from(super::check::DEFAULT_FILE);
        default.exists().then_some(default)
    });
    let input = Input {
        file,
        overlay: invocation.overlay,
        environment,
        ..Input::default()
    };
    let loaded = load(&input);
    let folder = input.file.as_deref().and_then(std::path::Path::parent);
    let root = &loaded.origins.root;
    let socket = root
        .get("server")
        .and_then(|server| server.get("control_socket"));
    let socket = socket.and_then(|node| node.as_str()).map(|path| {
        Way::Unix(folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path)))
    });
    let packaged = input.file.as_deref() == Some(std::path::Path::new(super::check::DEFAULT_FILE));
    let socket = socket.or_else(|| packaged.then(|| Way::Unix(SERVICE_SOCKET.into())));
    let listeners = root
        .get("listeners")
        .into_iter()
        .flat_map(|list| list.elements());
    let listeners = listeners.filter_map(|listener| {
        let mut serve = listener.get("serve")?.elements().iter();
        serve.find(|node| node.as_str() == Some(Serve::Admin.as_str()))?;
        let address: ListenAddress = listener.get("address")?.as_str()?.parse().ok()?;
        from_here(address, listener.get("tls").is_some())
    });
    let ways: Vec<Way> = socket.into_iter().chain(listeners).collect();
    if !ways.is_empty() {
        return Ok(ways);
    }
    let read = input.file.as_deref().map(file::read).transpose();
    Err(read.map_or_else(ClientError::Unread, |_| ClientError::NoWay))
}

/// How a process of the same machine reaches a listener.
fn from_here(address: ListenAddress, tls: bool) -> Option<Way> {
    let tcp = |host: String, port: u16| {
        (port > 0).then(|| Way::Tcp {
            host,
            port,
            prefix: String::new(),
            tls,
        })
    };
    match address {
        ListenAddress::Unix(path) => Some(Way::Unix(path)),
        ListenAddress::Systemd(_) => None,
        ListenAddress::Host { host, port } => tcp(host, port),
        ListenAddress::Ip(address) if address.ip().is_unspecified() => match address.is_ipv4() {
            true => tcp("127.0.0.1".to_owned(), address.port()),
            false => tcp("::1".to_owned(), address.port()),
        },
        ListenAddress::Ip(address) => tcp(address.ip().to_string(), address.port()),
    }
}

fn parse(text: &str) -> Result<Way, ClientError> {
    if let Some(path) = text.strip_prefix(ListenAddress::UNIX)
        && !path.is_empty()
    {
        return Ok(Way::Unix(path.into()));
    }
    let malformed = || ClientError::Url(text.to_owned());
    let url = url::Url::parse(text).map_err(|_| malformed())?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(malformed()),
    };
    let host = url.host_str().ok_or_else(malformed)?;
    Ok(Way::Tcp {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: url.port_or_known_default().ok_or_else(malformed)?,
        prefix: url.path().trim_end_matches('/').to_owned(),
        tls,
    })
}

/// The key of `--key`, else of `SMG_KEY`, and the authorities of `--ca`.
///
/// # Errors
/// [`ClientError::Key`] or [`ClientError::Ca`].
pub(super) fn credentials(
    own: &ArgMatches,
    environment: &Environment,
) -> Result<Credentials, ClientError> {
    let ca = own.get_one::<PathBuf>("ca");
    let ca = ca.map(|path| file::read(path)).transpose()?;
    let typed = own.get_one::<String>("key").cloned();
    let key = typed.or_else(|| environment.get(KEY));
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        return Ok(Credentials { key: None, ca });
    };
    let value = HeaderValue::try_from(format!("Bearer {key}"));
    let mut value = value.map_err(|_| ClientError::Key)?;
    value.set_sensitive(true);
    Ok(Credentials {
        key: Some(value),
        ca,
    })
}

/// Asks the first gateway that can be reached on one of `ways`. `body` is JSON; it may be empty.
///
/// # Errors
/// [`ClientError::Unreachable`], [`ClientError::Tls`] or [`ClientError::Exchange`].
pub(super) fn ask(
    ways: Vec<Way>,
    method: &Method,
    path: &str,
    credentials: Credentials,
    body: Vec<u8>,
) -> Result<Answer, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClientError::Start)?;
    runtime.block_on(Client::new(ways, credentials).ask(method, path, body.into()))
}

/// Who asks more than once. Each time it tries the ways anew.
#[derive(Debug)]
pub(super) struct Client {
    ways: Vec<Way>,
    credentials: Credentials,
    /// Authorities are read once, when they are first needed.
    trust: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    /// A client of the gateway at one of `ways`.
    pub(super) fn new(ways: Vec<Way>, credentials: Credentials) -> Self {
        Self {
            ways,
            credentials,
            trust: OnceLock::new(),
        }
    }

    /// Asks the first gateway that can be reached. `body` is JSON; it may be empty.
    ///
    /// # Errors
    /// As of [`ask`].
    pub(super) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let key = &self.credentials.key;
        let request =
            |host: &str, path: &str| request(method, host, path, key.clone(), body.clone());
        let mut failed = Vec::new();
        for way in &self.ways {
            let asked = match way {
                Way::Unix(socket) => match connect(UnixStream::connect(socket)).await {
                    Ok(stream) => exchange(stream, request("localhost", path)?).await,
                    Err(error) => {
                        failed.push((way.clone(), error));
                        continue;
                    }
                },
                Way::Tcp {
                    host,
                    port,
                    prefix,
                    tls,
                } => {
                    let trust = tls.then(|| self.trust()).transpose()?;
                    match connect(reach(host, *port, trust)).await {
                        Ok(stream) => {
                            let authority = format!("{}:{port}", bracketed(host));
                            let request = request(&authority, &format!("{prefix}{path}"))?;
                            match stream {
                                Reached::Plain(stream) => exchange(stream, request).await,
                                Reached::Tls(stream) => exchange(*stream, request).await,
                            }
                        }
                        Err(error) => {
                            failed.push((way.clone(), error));
                            continue;
                        }
                    }
                }
            };
            return asked.map_err(|source| ClientError::Exchange {
                way: way.clone(),
                source,
            });
        }
        Err(ClientError::Unreachable(failed))
    }

    fn trust(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(trust) = self.trust.get() {
            return Ok(Arc::clone(trust));
        }
        let ca: Vec<&[u8]> = self.credentials.ca.as_deref().into_iter().collect();
        let trust = tls::client(&ca, None, &[b"http/1.1"])?;
        Ok(Arc::clone(self.trust.get_or_init(|| trust)))
    }
}

/// A connection over TCP.
enum Reached {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn reach(host: &str, port: u16, trust: Option<Arc<ClientConfig>>) -> io::Result<Reached> {
    let stream = TcpStream::connect((host, port)).await?;
    let Some(trust) = trust else {
        return Ok(Reached::Plain(stream));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(trust).connect(name, stream).await?;
    Ok(Reached::Tls(Box::new(stream)))
}

fn request(
    method: &Method,
    host: &str,
    path: &str,
    key: Option<HeaderValue>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, host)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| ClientError::Url(format!("{host}{path}")))?;
    if let Some(key) = key {
        request.headers_mut().insert(AUTHORIZATION, key);
    }
    Ok(request)
}

async fn connect<S>(connecting: impl Future<Output = io::Result<S>>) -> io::Result<S> {
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Ok::<_, hyper::Error>(Answer { status, body })
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answer => return Ok(answer?),
        ended = &mut connection => ended?,
    }
    // The connection has ended; what it brought may still be unread.
    Ok(answer.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("http://127.0.0.1:30000", "http://127.0.0.1:30000"),
            ("http://gw/smg/", "http://gw:80/smg"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://gw", "https://gw:443"),
            ("unix:/run/smg/control.sock", "unix:/run/smg/control.sock"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "gw:80", "ftp://gw", "unix:"] {
            assert!(matches!(parse(text), Err(ClientError::Url(_))), "{text}");
        }
    }

    #[test]
    fn a_listener_seen_from_here() {
        let way = |text: &str| from_here(text.parse().unwrap(), false).map(|way| way.to_string());
        for (address, shown) in [
            ("0.0.0.0:30000", Some("http://127.0.0.1:30000")),
            ("[::]:30000", Some("http://[::1]:30000")),
            ("10.0.0.1:80", Some("http://10.0.0.1:80")),
            ("unix:/x", Some("unix:/x")),
            ("127.0.0.1:0", None),
        ] {
            assert_eq!(way(address).as_deref(), shown);
        }
    }
}
