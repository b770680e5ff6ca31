//! Whom else the gateway asks: the issuer of tokens, and the collector of spans. It starts without
//! them, so that what is wrong there is a warning.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Found, reason};
use crate::cmd::explain::offline;
use crate::config::Severity;
use crate::config::spec::Spec;
use crate::control::issuer_keys;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Asks those that the file names, and says which answered.
pub(super) async fn probe(spec: &Spec, found: &mut Found<'_>) -> Vec<String> {
    let snapshot = offline::snapshot(spec);
    let mut parts = Vec::new();
    if let Some(issuer) = snapshot.issuer() {
        match issuer_keys(issuer).await {
            Ok(0) => {
                let message = "the issuer of tokens has no key that can be used".to_owned();
                add(
                    found,
                    "issuer-keys",
                    &["auth.jwt.jwks_uri", "auth.jwt.issuer"],
                    message,
                );
            }
            Ok(usable) => parts.push(format!(
                "issuer of tokens: {}",
                super::counted(usable, "key")
            )),
            Err(error) => {
                let message = format!("the keys of the issuer of tokens cannot be had: {error}");
                add(
                    found,
                    "issuer-keys",
                    &["auth.jwt.jwks_uri", "auth.jwt.issuer"],
                    message,
                );
            }
        }
    }
    let tracing = &snapshot.plan.tracing;
    if tracing.enabled {
        match reach(&tracing.endpoint).await {
            Ok(()) => parts.push("collector of spans: it answers".to_owned()),
            Err(error) => {
                let message = format!(
                    "the collector of spans cannot be reached: {}",
                    reason(&error)
                );
                add(
                    found,
                    "collector-unreachable",
                    &["tracing.otlp_endpoint"],
                    message,
                );
            }
        }
    }
    parts
}

/// A warning at the first of `keys` that is written.
fn add(found: &mut Found<'_>, slug: &'static str, keys: &[&str], message: String) {
    let written = keys.iter().find(|key| found.origins.is_set(key));
    let key = written.or_else(|| keys.last()).copied().unwrap_or_default();
    found.add(Severity::Warning, slug, key, message, None);
}

async fn reach(endpoint: &str) -> io::Result<()> {
    let url = url::Url::parse(endpoint).map_err(io::Error::other)?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(4317);
    match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
