//! The base URL of a worker.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::word::NOT_AVAILABLE;

/// The base URL of a worker, in normal form: no slash at its end, no default port, host in lower
/// case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerUrl(String);

/// Why a text is no [`WorkerUrl`]. No variant carries the user or the query of the URL, which may
/// hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerUrlError {
    /// There is no scheme in front.
    #[error("a worker URL begins with `http://` or `https://`")]
    NoScheme,
    /// The scheme is not one for workers.
    #[error("unknown scheme `{0}` of a worker URL: expected `http` or `https`")]
    Scheme(String),
    /// The scheme is in upper case.
    #[error("the scheme of a worker URL is in lower case: expected `{0}`")]
    SchemeCase(String),
    /// The scheme belongs to a later version.
    #[error("a worker URL with scheme `{0}` is {NOT_AVAILABLE}")]
    SchemeLater(String),
    /// The host is missing or malformed.
    #[error("a worker URL needs a host")]
    Host,
    /// The port is 0 or no port.
    #[error("the port of a worker URL is from 1 to 65535")]
    Port,
    /// There is a character in it that readers of URLs drop, or take for another one.
    #[error("a worker URL has no control characters and no backslashes")]
    Character,
    /// There is a user or a password.
    #[error("a worker URL has no user and no password")]
    UserInfo,
    /// There is a query.
    #[error("a worker URL has no query")]
    Query,
    /// There is a fragment.
    #[error("a worker URL has no fragment")]
    Fragment,
}

impl WorkerUrl {
    /// The URL in normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl FromStr for WorkerUrl {
    type Err = WorkerUrlError;

    fn from_str(text: &str) -> Result<Self, WorkerUrlError> {
        if text.contains(|c: char| c.is_control() || c == '\\') {
            return Err(WorkerUrlError::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(WorkerUrlError::NoScheme)?;
        let lower = scheme.to_ascii_lowercase();
        if !matches!(lower.as_str(), "http" | "https" | "grpc" | "grpcs") {
            let known = scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
            return Err(if known {
                WorkerUrlError::Scheme(scheme.to_owned())
            } else {
                WorkerUrlError::NoScheme
            });
        }
        if lower != scheme {
            return Err(WorkerUrlError::SchemeCase(lower));
        }
        if !matches!(scheme, "http" | "https") {
            return Err(WorkerUrlError::SchemeLater(lower));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(WorkerUrlError::UserInfo);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(WorkerUrlError::Host);
        }
        let url = url::Url::parse(text).map_err(|error| match error {
            url::ParseError::InvalidPort => WorkerUrlError::Port,
            _ => WorkerUrlError::Host,
        })?;
        if url.query().is_some() {
            return Err(WorkerUrlError::Query);
        }
        if url.fragment().is_some() {
            return Err(WorkerUrlError::Fragment);
        }
        if url.port() == Some(0) {
            return Err(WorkerUrlError::Port);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for WorkerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for WorkerUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WorkerUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = WorkerUrl;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the URL of a worker, such as \"http://10.0.0.1:8000\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WorkerUrl, E> {
                text.parse().map_err(E::custom)
            }
        }

        from.deserialize_str(Visitor)
    }
}

impl JsonSchema for WorkerUrl {
    fn schema_name() -> Cow<'static, str> {
        "WorkerUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "uri",
            "pattern": "^https?://",
            "description": "The base URL of a worker.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
            ("http://Host.Example:80/", "http://host.example"),
            ("http://[::1]:8000/v2/", "http://[::1]:8000/v2"),
        ] {
            assert_eq!(text.parse::<WorkerUrl>().unwrap().as_str(), shown);
        }
        use WorkerUrlError as E;
        for (text, error) in [
            ("10.0.0.1:8000", E::NoScheme),
            ("", E::NoScheme),
            ("ftp://h", E::Scheme("ftp".into())),
            ("HTTP://h", E::SchemeCase("http".into())),
            ("grpc://h", E::SchemeLater("grpc".into())),
            ("grpcs://h:1", E::SchemeLater("grpcs".into())),
            ("http://", E::Host),
            ("http://:80", E::Host),
            ("http://a b", E::Host),
            ("http://h/\r\nx: y", E::Character),
            ("http://h\t", E::Character),
            ("http://h\\@other", E::Character),
            ("http://h:0", E::Port),
            ("http://h:70000", E::Port),
            ("http://u:p@h", E::UserInfo),
            ("http://h/?q", E::Query),
            ("http://h/#f", E::Fragment),
        ] {
            assert_eq!(text.parse::<WorkerUrl>(), Err(error), "{text}");
        }
    }
}
