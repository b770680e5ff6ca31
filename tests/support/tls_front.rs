//! TLS in front of an engine that speaks in the clear: what an engine behind HTTPS looks like, with
//! everything that its clients show noted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::tls::{Authority, Pair};

/// What one client did in its handshake.
#[derive(Debug, Clone)]
pub(crate) struct Shaken {
    /// The name that it asked for (SNI).
    pub(crate) name: Option<String>,
    /// The protocol that was agreed on.
    pub(crate) protocol: Option<String>,
    /// The certificate that it showed, in DER.
    pub(crate) shown: Option<Vec<u8>>,
    /// Whether it went on with an earlier session.
    pub(crate) resumed: bool,
}

struct Shared {
    inner: SocketAddr,
    config: Mutex<Arc<ServerConfig>>,
    shaken: Mutex<Vec<Shaken>>,
    failed: AtomicUsize,
    open: AtomicUsize,
}

/// A running front. It stops, connections included, when dropped.
pub(crate) struct TlsFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

/// Settings that show `pair`, agree on one of these protocols, and ask for a certificate of `clients`.
pub(crate) fn showing(pair: &Pair, clients: Option<&Authority>, alpn: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder
        .with_single_cert(pair.chain(), pair.private_key())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

impl TlsFront {
    /// Starts one on a free port of loopback.
    pub(crate) async fn start(inner: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            inner,
            config: Mutex::new(Arc::new(config)),
            shaken: Mutex::default(),
            failed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// `https://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        self.url_of("127.0.0.1")
    }

    /// The same by this name of loopback.
    pub(crate) fn url_of(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address.port())
    }

    /// What connections get from now on.
    pub(crate) fn show(&self, config: ServerConfig) {
        *self.shared.config.lock() = Arc::new(config);
    }

    /// The handshakes that were completed so far.
    pub(crate) fn shaken(&self) -> Vec<Shaken> {
        self.shared.shaken.lock().clone()
    }

    /// Handshakes that came to nothing.
    pub(crate) fn failed(&self) -> usize {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new(); // aborted with this task
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            pass_on(stream, &shared).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass_on(stream: TcpStream, shared: &Shared) {
    let config = Arc::clone(&shared.config.lock());
    let Ok(mut outside) = TlsAcceptor::from(config).accept(stream).await else {
        shared.failed.fetch_add(1, Ordering::SeqCst);
        return;
    };
    let (_, session) = outside.get_ref();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    shared.shaken.lock().push(Shaken {
        name: session.server_name().map(str::to_owned),
        protocol: session.alpn_protocol().map(text),
        shown: session
            .peer_certificates()
            .and_then(|chain| Some(chain.first()?.to_vec())),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    });
    if let Ok(mut inside) = TcpStream::connect(shared.inner).await {
        // An error is the end of one of the two, which is what is passed on.
        tokio::io::copy_bidirectional(&mut outside, &mut inside)
            .await
            .ok();
    }
}
