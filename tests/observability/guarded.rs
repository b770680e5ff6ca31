//! A gateway that wants to know who asks: keys of a tenant, tokens of an issuer, a certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::bustle::{LISTENERS, engine, ready, well};
use crate::support::client::json_request;
use crate::support::{Authority, Connection, FakeEngine, Issuer, Signer, Smg, Step};

/// The key of the tenant `team`.
pub(crate) const TEAM_KEY: &str = "key-of-the-team";

const NAME: &str = "127.0.0.1";

/// The gateway, with whom it depends on.
pub(crate) struct Guarded {
    pub(crate) smg: Smg,
    issuer: Issuer,
    signer: Signer,
    authority: Authority,
    files: TempDir,
    _engine: FakeEngine,
}

impl Guarded {
    /// Starts it with a certificate that is valid for long, in front of a worker that is well.
    pub(crate) async fn start() -> Self {
        let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
        let signer = Signer::ec("k");
        let issuer = Issuer::start(&[&signer]).await;
        let engine = engine(well).await;
        let pair = authority.issue(NAME);
        for (from, name) in [(&pair.cert, "cert.pem"), (&pair.key, "key.pem")] {
            std::fs::copy(from, files.path().join(name)).unwrap();
        }
        let smg = Smg::start(&config(&engine.url(), &issuer.url(), files.path())).await;
        ready(&smg).await;
        Self {
            smg,
            issuer,
            signer,
            authority,
            files,
            _engine: engine,
        }
    }

    /// Clients with these keys who ask again and again until what is returned is dropped.
    pub(crate) fn clients(&self, keys: &[&str]) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for key in keys {
            clients.spawn(ask_on(self.smg.main(), (*key).to_owned()));
        }
        clients
    }

    /// Puts a pair in the place of the one that is shown; it ends to be valid after so many days.
    pub(crate) fn certify(&self, days: u32) {
        let until = time::OffsetDateTime::now_utc() + Duration::from_secs(86_400) * days;
        let pair = self.authority.issue_ending(NAME, until);
        replace(&self.files.path().join("cert.pem"), &pair.cert);
        replace(&self.files.path().join("key.pem"), &pair.key);
    }

    /// Puts a key in the place of the one of the certificate, to which it does not belong.
    pub(crate) fn mismatch(&self) {
        let other = self.authority.issue(NAME);
        replace(&self.files.path().join("key.pem"), &other.key);
    }

    /// The issuer no longer tells its keys, and a token wants to be checked by a new one.
    pub(crate) fn lose_keys(&self) -> JoinSet<()> {
        self.issuer.answer_keys(Step::json(500, &json!({})));
        let unknown = Signer::ec("unknown").sign(&self.issuer.claims());
        self.clients(&[&unknown])
    }

    /// It tells them again.
    pub(crate) fn find_keys(&self) {
        self.issuer.show(&[&self.signer]);
    }
}

fn config(engine: &str, issuer: &str, files: &Path) -> String {
    let (cert, key) = (files.join("cert.pem"), files.join("key.pem"));
    let team = files.join("team.key");
    std::fs::write(&team, TEAM_KEY).unwrap();
    format!(
        r#"{LISTENERS}
[[listeners]]
name = "secure"
address = "127.0.0.1:0"
serve = ["inference"]
tls = {{ cert_path = {cert:?}, key_path = {key:?} }}

[[pools]]
name = "p"
runtime = "sglang"
workers = ["{engine}"]

[[models]]
name = "m"
pool = "p"

[[auth.tenants]]
name = "team"
keys = [{{ file = {team:?} }}]
limits = {{ requests_per_minute = 100000, tokens_per_minute = 100000000 }}

[auth.jwt]
issuer = "{issuer}"
audience = "gateway"
"#
    )
}

async fn ask_on(to: SocketAddr, key: String) {
    let bearer = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    loop {
        let mut asked = json_request("/v1/chat/completions", &body);
        asked.headers_mut().insert("authorization", bearer.clone());
        // What becomes of it is seen in the metrics.
        Connection::h1(to).await.try_send(asked).await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts a copy in the place of a file, by renaming it.
fn replace(path: &Path, by: &Path) {
    let fresh = path.with_extension("fresh");
    std::fs::copy(by, &fresh).unwrap();
    std::fs::rename(fresh, path).unwrap();
}
