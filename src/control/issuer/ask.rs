//! Asking for keys: where they are said to be, or where the issuer says that they are.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use url::Url;

use super::place::{Place, Reach, Unfit};
use crate::state::{IssuerKey, Keys, KeysError};
use crate::upstream::https::{self, GetError, Rules};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const LONGEST: usize = 1024 * 1024;

/// Where an issuer describes itself, below its own URL.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum NoKeys {
    /// They must not be asked for there.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// No answer.
    #[error("`{url}`: {source}")]
    Get {
        /// Who was asked.
        url: String,
        /// Why there is none.
        source: GetError,
    },
    /// An answer that is none: an error, or a redirect, which nobody follows.
    #[error("`{url}` answered with status {status}")]
    Status {
        /// Who was asked.
        url: String,
        /// What it said.
        status: u16,
    },
    /// It does not describe an issuer.
    #[error("`{url}` does not describe an issuer: {source}")]
    Description {
        /// Who was asked.
        url: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It describes another one.
    #[error("`{url}` describes the issuer `{found}`")]
    OtherIssuer {
        /// Who was asked.
        url: String,
        /// Whom it describes.
        found: String,
    },
    /// What is there are no keys.
    #[error("`{url}`: {source}")]
    Keys {
        /// Who was asked.
        url: String,
        /// What is wrong.
        source: KeysError,
    },
}

/// What can ask.
pub(super) trait Network: Send + Sync + 'static {
    /// The status and the body of what `url` answers, asked at addresses that `allow` allows.
    fn get(
        &self,
        url: &Url,
        allow: fn(IpAddr) -> bool,
    ) -> impl Future<Output = Result<(u16, Bytes), NoKeys>> + Send;
}

/// The real one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire;

impl Network for Wire {
    async fn get(&self, url: &Url, allow: fn(IpAddr) -> bool) -> Result<(u16, Bytes), NoKeys> {
        let rules = Rules {
            timeout: TIMEOUT,
            max_bytes: LONGEST,
            allow,
        };
        let fetched = https::get(url, &rules).await;
        let fetched = fetched.map_err(|source| NoKeys::Get {
            url: shown(url),
            source,
        })?;
        Ok((fetched.status, fetched.body))
    }
}

/// What an issuer says of itself, as far as it counts here.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

/// The keys of the issuer `key` as they are now.
pub(super) async fn keys(key: &IssuerKey, network: &impl Network) -> Result<Keys, NoKeys> {
    let written = Reach {
        private: key.allow_private,
        local: true,
    };
    let place = match &key.jwks_uri {
        Some(uri) => Place::judge(uri, written)?,
        None => discover(key, written, network).await?,
    };
    let text = fetch(&place, network).await?;
    Keys::read(&text).map_err(|source| NoKeys::Keys {
        url: shown(&place.url),
        source,
    })
}

/// Where the issuer says that its keys are. One that is elsewhere must not lead to this machine.
async fn discover(
    key: &IssuerKey,
    written: Reach,
    network: &impl Network,
) -> Result<Place, NoKeys> {
    let url = format!("{}{WELL_KNOWN}", key.issuer.trim_end_matches('/'));
    let place = Place::judge(&url, written)?;
    let text = fetch(&place, network).await?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|source| NoKeys::Description {
            url: shown(&place.url),
            source,
        })?;
    if *description.issuer != *key.issuer {
        return Err(NoKeys::OtherIssuer {
            url: shown(&place.url),
            found: description.issuer,
        });
    }
    let reach = Reach {
        local: place.is_local,
        ..written
    };
    Ok(Place::judge(&description.jwks_uri, reach)?)
}

async fn fetch(place: &Place, network: &impl Network) -> Result<Bytes, NoKeys> {
    match network.get(&place.url, place.allow).await? {
        (200, body) => Ok(body),
        (status, _) => Err(NoKeys::Status {
            url: shown(&place.url),
            status,
        }),
    }
}

/// Without its query, in which some hide a secret.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ahash::RandomState;
    use serde_json::json;

    use super::*;

    /// What each URL answers; anything else is a failed test.
    struct Scripted(HashMap<String, (u16, String), RandomState>);

    impl Network for Scripted {
        async fn get(&self, url: &Url, _: fn(IpAddr) -> bool) -> Result<(u16, Bytes), NoKeys> {
            let (status, body) = &self.0[url.as_str()];
            Ok((*status, body.clone().into()))
        }
    }

    fn key(issuer: &str) -> IssuerKey {
        IssuerKey {
            issuer: issuer.into(),
            jwks_uri: None,
            allow_private: false,
        }
    }

    async fn asked(key: &IssuerKey, answers: &[(&str, u16, serde_json::Value)]) -> String {
        let answers = answers.iter();
        let answers =
            answers.map(|(url, status, body)| ((*url).to_owned(), (*status, body.to_string())));
        match keys(key, &Scripted(answers.collect())).await {
            Ok(_) => "keys".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    const ISSUER: &str = "https://issuer.example/realm";
    const DESCRIPTION: &str = "https://issuer.example/realm/.well-known/openid-configuration";
    const KEYS: &str = "https://keys.example/jwks";

    #[tokio::test]
    async fn the_issuer_says_where_its_keys_are() {
        let set = || json!({ "keys": [] });
        let description = |issuer: &str| json!({ "issuer": issuer, "jwks_uri": KEYS });
        let answers = [(DESCRIPTION, 200, description(ISSUER)), (KEYS, 200, set())];
        assert_eq!(asked(&key(ISSUER), &answers).await, "keys");
        let slash = format!("{ISSUER}/");
        let answers = [(DESCRIPTION, 200, description(&slash)), (KEYS, 200, set())];
        assert_eq!(asked(&key(&slash), &answers).await, "keys");
        let other = asked(&key(ISSUER), &answers).await;
        assert!(other.ends_with("describes the issuer `https://issuer.example/realm/`"));
        let written = IssuerKey {
            jwks_uri: Some(KEYS.into()),
            ..key("an issuer without a URL")
        };
        assert_eq!(asked(&written, &[(KEYS, 200, set())]).await, "keys");
    }

    #[tokio::test]
    async fn what_is_no_answer() {
        let moved = asked(&key(ISSUER), &[(DESCRIPTION, 302, json!({}))]).await;
        assert!(moved.ends_with("answered with status 302"), "{moved}");
        let empty = asked(&key(ISSUER), &[(DESCRIPTION, 200, json!({}))]).await;
        assert!(empty.contains("does not describe an issuer"), "{empty}");
        let written = IssuerKey {
            jwks_uri: Some(KEYS.into()),
            ..key(ISSUER)
        };
        let none = asked(&written, &[(KEYS, 200, json!({ "keys": 1 }))]).await;
        assert!(none.contains("no set of keys"), "{none}");
    }

    #[tokio::test]
    async fn a_description_does_not_lead_inside() {
        for (uri, why) in [
            ("http://127.0.0.1/keys", "private"),
            ("https://10.0.0.1/keys", "private"),
            ("http://keys.example/jwks", "not https"),
            ("https://169.254.169.254/", "never asked"),
            ("file:///etc/passwd", "no URL"),
        ] {
            let description = json!({ "issuer": ISSUER, "jwks_uri": uri });
            let text = asked(&key(ISSUER), &[(DESCRIPTION, 200, description)]).await;
            assert!(text.contains(why), "{uri}: {text}");
        }
        let own = "http://127.0.0.1:80";
        let description = json!({ "issuer": own, "jwks_uri": "http://127.0.0.1/keys" });
        let answers = [
            (
                "http://127.0.0.1/.well-known/openid-configuration",
                200,
                description,
            ),
            ("http://127.0.0.1/keys", 200, json!({ "keys": [] })),
        ];
        assert_eq!(asked(&key(own), &answers).await, "keys");
    }
}
