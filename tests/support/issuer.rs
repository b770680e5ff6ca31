//! An issuer of tokens: it signs what a test says, and shows its keys over HTTP on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivatePkcs1KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::engine::{FakeEngine, Step};

/// Where the issuer describes itself.
pub(crate) const DESCRIPTION: &str = "/.well-known/openid-configuration";
/// Where its keys are.
pub(crate) const KEYS: &str = "/keys";

/// A key that signs tokens.
pub(crate) struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// A new key for ES256.
    pub(crate) fn ec(kid: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self {
            kid: kid.to_owned(),
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
        }
    }

    /// A key for RS256 that is the same in every test.
    pub(crate) fn rsa(kid: &str) -> Self {
        let file = "fixtures/jwt/test-only-rsa-2048.pem";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let der = PrivatePkcs1KeyDer::from_pem_file(file).unwrap();
        Self {
            kid: kid.to_owned(),
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(der.secret_pkcs1_der()),
        }
    }

    /// A token that says exactly this.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        encode(&header, claims, &self.key).unwrap()
    }

    /// What the issuer shows of it.
    fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = self.kid.as_str().into();
        jwk
    }
}

/// A running issuer. It stops when dropped.
pub(crate) struct Issuer {
    server: FakeEngine,
    keys: Arc<Mutex<Step>>,
    description: Arc<Mutex<Option<Step>>>,
}

impl Issuer {
    /// Starts one that shows the keys of `signers`.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, signers)
    }

    /// The same on a socket that is bound already.
    pub(crate) fn start_on(listener: TcpListener, signers: &[&Signer]) -> Self {
        let url = url(listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(shown(signers)));
        let description: Arc<Mutex<Option<Step>>> = Arc::default();
        let (answer, description_answer) = (Arc::clone(&keys), Arc::clone(&description));
        let server = FakeEngine::start_on(listener, move |asked| {
            let own = json!({ "issuer": url, "jwks_uri": format!("{url}{KEYS}") });
            vec![match &*asked.path {
                KEYS => answer.lock().clone(),
                DESCRIPTION => {
                    let set = description_answer.lock().clone();
                    set.unwrap_or_else(|| Step::json(200, &own))
                }
                _ => Step::json(404, &json!({})),
            }]
        });
        Self {
            server,
            keys,
            description,
        }
    }

    /// The `iss` of its tokens.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Shows the keys of `signers`, and nothing else, from now on.
    pub(crate) fn show(&self, signers: &[&Signer]) {
        *self.keys.lock() = shown(signers);
    }

    /// Answers in this way when it is asked for its keys.
    pub(crate) fn answer_keys(&self, answer: Step) {
        *self.keys.lock() = answer;
    }

    /// Answers in this way when it is asked about itself.
    pub(crate) fn answer_description(&self, answer: Step) {
        *self.description.lock() = Some(answer);
    }

    /// How often it has been asked for `path`.
    pub(crate) fn asked(&self, path: &str) -> usize {
        let asked = self.server.asked();
        asked.iter().filter(|asked| asked.path == path).count()
    }

    /// Claims of a token that is good for ten minutes, for the audience `gateway`.
    pub(crate) fn claims(&self) -> Value {
        claims(&self.url())
    }

    /// The same with `more` claims, or others.
    pub(crate) fn claims_with(&self, more: &Value) -> Value {
        let mut claims = self.claims();
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        claims
    }
}

/// Claims of a token that `issuer` has made.
pub(crate) fn claims(issuer: &str) -> Value {
    json!({ "iss": issuer, "aud": "gateway", "sub": "ann", "exp": now() + 600 })
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// `http://127.0.0.1:PORT`
pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn shown(signers: &[&Signer]) -> Step {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    Step::json(200, &json!({ "keys": keys }))
}
