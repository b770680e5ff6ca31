//! The text of a flag or variable to the value that its key has in the file.

use std::collections::BTreeMap;

use toml::Value;

use super::flag::Kind;
use crate::base::units::{ByteSize, Millis, UnitError};
use crate::config::spec::{
    AssignmentMode, LogLevel, PolicyName, Role, Runtime, WordError, WorkerUrl, WorkerUrlError,
};

/// Why a text is no value of a flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not one of the words for yes and no.
    #[error("expected `1`, `true`, `yes` or `on`, or `0`, `false`, `no` or `off`")]
    Switch,
    /// Empty, where something must stand.
    #[error("a value is needed")]
    Empty,
    /// Not a host.
    #[error("expected an IP address or a host name")]
    Host,
    /// Not a port.
    #[error("expected a port from {least} to 65535")]
    Port {
        /// The smallest that is allowed.
        least: u16,
    },
    /// Not a whole number.
    #[error("expected a whole number from 0 to {}", u32::MAX)]
    Number,
    /// Not a whole number.
    #[error("expected a whole number that is not negative")]
    Long,
    /// Not a whole number above 0, nor -1.
    #[error("expected a whole number of at least 1, or -1 for any number")]
    Limit,
    /// Not a number.
    #[error("expected a number")]
    Float,
    /// A policy that goes by the length of prompts.
    #[error("`bucket` goes by the length of prompts, which decode workers do not read")]
    DecodePolicy,
    /// More than a URL and a port.
    #[error("expected `URL`, `URL PORT` or `URL none`")]
    Prefill,
    /// Neither a number of threads nor `auto`.
    #[error("expected a number of at least 1, or `auto`")]
    Threads,
    /// No leading slash.
    #[error("expected a path that begins with `/`")]
    UrlPath,
    /// Not an http or https URL.
    #[error("expected a URL that begins with `https://` or `http://`")]
    WebUrl,
    /// Not `TENANT:KEY`.
    #[error("expected `TENANT:KEY`")]
    TenantKey,
    /// Not `ID:NAME:ROLE:KEY`.
    #[error("expected `ID:NAME:ROLE:KEY`, with the role `admin` or `user`")]
    OperatorKey,
    /// Not `WORD=ROLE`.
    #[error("expected `WORD=ROLE`, with the role `admin` or `user`")]
    Role,
    /// Not `ALIAS=NAME`.
    #[error("expected `ALIAS=NAME`")]
    Alias,
    /// Not a duration or size.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Not a word of the list.
    #[error(transparent)]
    Word(#[from] WordError),
    /// Not the URL of a worker.
    #[error(transparent)]
    Url(#[from] WorkerUrlError),
}

/// One value of a flag of this `kind`; of a list flag one element.
///
/// # Errors
/// The variant of [`ValueError`] that names what was expected.
pub fn parse(kind: Kind, text: &str) -> Result<Value, ValueError> {
    match kind {
        Kind::Switch => switch(text).map(Value::Boolean),
        Kind::Path | Kind::Paths | Kind::Secret | Kind::Text | Kind::Origins | Kind::Headers => {
            match text {
                "" => Err(ValueError::Empty),
                text => Ok(Value::from(text)),
            }
        }
        Kind::Host => host(text),
        Kind::Port => port(text, 0),
        Kind::FixedPort => port(text, 1),
        Kind::Number => match text.parse::<u32>() {
            Ok(number) => Ok(Value::Integer(number.into())),
            Err(_) => Err(ValueError::Number),
        },
        Kind::Long => match text.parse::<i64>() {
            Ok(number) if number >= 0 => Ok(Value::Integer(number)),
            _ => Err(ValueError::Long),
        },
        Kind::Limit => match text.parse::<i64>() {
            Ok(number) if number >= 1 || number == -1 => Ok(Value::Integer(number)),
            _ => Err(ValueError::Limit),
        },
        Kind::Float | Kind::Floats => match text.parse::<f64>() {
            Ok(number) => Ok(Value::Float(number)),
            Err(_) => Err(ValueError::Float),
        },
        Kind::Seconds => duration(text, "s"),
        Kind::Millis => duration(text, "ms"),
        Kind::Size => {
            let size: ByteSize = with_unit(text, "B").parse()?;
            Ok(Value::String(size.to_string()))
        }
        Kind::Threads => threads(text),
        Kind::UrlPath if text.starts_with('/') => Ok(Value::from(text)),
        Kind::UrlPath => Err(ValueError::UrlPath),
        Kind::Policy => Ok(Value::from(text.parse::<PolicyName>()?.as_str())),
        Kind::DecodePolicy => match text.parse::<PolicyName>()? {
            PolicyName::Bucket => Err(ValueError::DecodePolicy),
            name => Ok(Value::from(name.as_str())),
        },
        Kind::AssignmentMode => Ok(Value::from(text.parse::<AssignmentMode>()?.as_str())),
        Kind::Runtime => Ok(Value::from(text.parse::<Runtime>()?.as_str())),
        Kind::LogLevel => {
            let level: LogLevel = text.to_ascii_lowercase().parse()?;
            Ok(Value::from(level.as_str()))
        }
        Kind::Urls => Ok(Value::from(text.parse::<WorkerUrl>()?.as_str())),
        Kind::Prefill => prefill(text),
        Kind::Url => match url::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Value::from(text)),
            _ => Err(ValueError::WebUrl),
        },
        Kind::TenantKeys => match text.split_once(':') {
            Some((tenant, key)) if !tenant.is_empty() && !key.is_empty() => Ok(Value::from(text)),
            _ => Err(ValueError::TenantKey),
        },
        Kind::OperatorKeys => operator_key(text).ok_or(ValueError::OperatorKey),
        Kind::Roles => match text.rsplit_once('=') {
            Some((word, role)) if !word.is_empty() && role.parse::<Role>().is_ok() => {
                Ok(Value::from(text))
            }
            _ => Err(ValueError::Role),
        },
        Kind::Aliases => match text.split_once('=') {
            Some((alias, name)) if !alias.is_empty() && !name.is_empty() => Ok(Value::from(text)),
            _ => Err(ValueError::Alias),
        },
    }
}

/// The value of a variable: as on the command line, but a list stands between commas.
///
/// # Errors
/// As [`parse`].
pub fn parse_variable(kind: Kind, text: &str) -> Result<Vec<Value>, ValueError> {
    if !kind.is_list() {
        return Ok(vec![parse(kind, text.trim())?]);
    }
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| parse(kind, part))
        .collect()
}

/// The names that the values of a flag of kind [`Kind::Aliases`] speak of, each with its aliases.
pub(super) fn aliases(values: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (alias, name) in values
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|v| v.split_once('='))
    {
        names
            .entry(name.to_owned())
            .or_default()
            .push(alias.to_owned());
    }
    names
}

/// The tenants that the values of a flag of kind [`Kind::TenantKeys`] speak of, each with its keys.
pub(super) fn tenants(values: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut tenants: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tenant, key) in values
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|value| value.split_once(':'))
    {
        let keys = tenants.entry(tenant.to_owned()).or_default();
        keys.push(key.to_owned());
    }
    tenants
}

/// What the values of a flag of kind [`Kind::Roles`] say, as a table.
pub(super) fn roles(values: &[Value]) -> Value {
    let pairs = values
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|value| value.rsplit_once('='));
    Value::Table(
        pairs
            .map(|(word, role)| (word.to_owned(), Value::from(role)))
            .collect(),
    )
}

/// The key of an operator; the key itself may have colons in it, and the role is of any case.
fn operator_key(text: &str) -> Option<Value> {
    let mut parts = text.splitn(4, ':');
    let (id, name, role, key) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let role: Role = role.to_ascii_lowercase().parse().ok()?;
    let keys = [
        ("id", id),
        ("name", name),
        ("role", role.as_str()),
        ("key", key),
    ];
    let table = keys.map(|(key, value)| (key.to_owned(), Value::from(value)));
    (!id.is_empty() && !key.is_empty()).then(|| Value::Table(table.into_iter().collect()))
}

fn switch(text: &str) -> Result<bool, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ValueError::Switch),
    }
}

/// A worker that reads prompts: its URL, and behind a space its bootstrap port or `none`.
fn prefill(text: &str) -> Result<Value, ValueError> {
    let mut words = text.split_whitespace();
    let url = words.next().ok_or(ValueError::Empty)?;
    let url = Value::from(url.parse::<WorkerUrl>()?.as_str());
    let worker = match words.next() {
        None => url,
        Some(word) if word.eq_ignore_ascii_case(NO_PORT) => url,
        Some(word) => {
            let keys = [("url", url), ("bootstrap_port", port(word, 1)?)];
            let keys = keys.map(|(key, value)| (key.to_owned(), value));
            Value::Table(toml::Table::from_iter(keys))
        }
    };
    match words.next() {
        None => Ok(worker),
        Some(_) => Err(ValueError::Prefill),
    }
}

/// The word that stands for no bootstrap port.
const NO_PORT: &str = "none";

/// Whether what follows the URL of a prefill worker on the command line belongs to it.
pub fn is_bootstrap_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() || text.eq_ignore_ascii_case(NO_PORT)
}

fn host(text: &str) -> Result<Value, ValueError> {
    match crate::config::spec::ListenAddress::from_parts(text, 0) {
        Ok(_) => Ok(Value::from(text)),
        Err(_) => Err(ValueError::Host),
    }
}

fn port(text: &str, least: u16) -> Result<Value, ValueError> {
    match text.parse::<u16>() {
        Ok(port) if port >= least => Ok(Value::Integer(port.into())),
        _ => Err(ValueError::Port { least }),
    }
}

fn threads(text: &str) -> Result<Value, ValueError> {
    if text == "auto" {
        return Ok(Value::from(text));
    }
    match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(Value::Integer(number.into())),
        _ => Err(ValueError::Threads),
    }
}

fn duration(text: &str, unit: &str) -> Result<Value, ValueError> {
    let duration: Millis = with_unit(text, unit).parse()?;
    Ok(Value::String(duration.to_string()))
}

/// A bare number gets the unit that the flag's name promises.
fn with_unit(text: &str, unit: &str) -> String {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        format!("{text}{unit}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_may_be_left_out() {
        for (kind, text, value) in [
            (Kind::Seconds, "90", "90s"),
            (Kind::Seconds, "500ms", "500ms"),
            (Kind::Seconds, "2h", "2h"),
            (Kind::Seconds, "0", "0s"),
            (Kind::Millis, "250", "250ms"),
            (Kind::Millis, "10s", "10s"),
            (Kind::Size, "1024", "1KiB"),
            (Kind::Size, "1MB", "1MB"),
        ] {
            assert_eq!(parse(kind, text), Ok(Value::from(value)), "{text}");
        }
        for text in ["", "x", "-1", "1.5s"] {
            assert!(parse(Kind::Seconds, text).is_err(), "{text}");
        }
    }

    #[test]
    fn yes_and_no() {
        for text in ["1", "true", "YES", "On"] {
            assert_eq!(parse(Kind::Switch, text), Ok(Value::Boolean(true)));
        }
        for text in ["0", "False", "no", "OFF"] {
            assert_eq!(parse(Kind::Switch, text), Ok(Value::Boolean(false)));
        }
        for text in ["", "2", "y", "enabled"] {
            assert_eq!(parse(Kind::Switch, text), Err(ValueError::Switch));
        }
    }

    #[test]
    fn hosts_and_ports() {
        for text in [
            "0.0.0.0",
            "::",
            "::1",
            "[::1]",
            "localhost",
            "gw.example.com",
        ] {
            assert!(parse(Kind::Host, text).is_ok(), "{text}");
        }
        for text in ["", "1.2.3", "a b", "host:80", "unix:/x"] {
            assert_eq!(parse(Kind::Host, text), Err(ValueError::Host), "{text}");
        }
        assert!(parse(Kind::Port, "0").is_ok());
        for text in ["65536", "-1", "x", ""] {
            assert!(parse(Kind::Port, text).is_err(), "{text}");
        }
        assert_eq!(
            parse(Kind::FixedPort, "0"),
            Err(ValueError::Port { least: 1 })
        );
    }

    #[test]
    fn lists_in_a_variable() {
        let urls = parse_variable(Kind::Urls, "http://a:1, http://b:2/,").unwrap();
        assert_eq!(urls, [Value::from("http://a:1"), Value::from("http://b:2")]);
        assert!(parse_variable(Kind::Urls, "http://a:1,b").is_err());
    }

    #[test]
    fn prefill_workers() {
        let table = "url = 'http://p:1'\nbootstrap_port = 9001".parse().unwrap();
        let with_port = Value::Table(table);
        for (text, value) in [
            ("http://p:1", Value::from("http://p:1")),
            ("http://p:1/ none", Value::from("http://p:1")),
            ("http://p:1 NONE", Value::from("http://p:1")),
            ("http://p:1  9001", with_port.clone()),
        ] {
            assert_eq!(parse(Kind::Prefill, text), Ok(value), "{text}");
        }
        let values = parse_variable(Kind::Prefill, "http://p:1 9001,http://q:1, http://r:1 none");
        let [q, r] = ["http://q:1", "http://r:1"].map(Value::from);
        assert_eq!(values, Ok(vec![with_port, q, r]));
        for (text, error) in [
            ("", ValueError::Empty),
            ("http://p:1 0", ValueError::Port { least: 1 }),
            ("http://p:1 x", ValueError::Port { least: 1 }),
            ("http://p:1 1 2", ValueError::Prefill),
            ("9001", ValueError::Url(WorkerUrlError::NoScheme)),
        ] {
            assert_eq!(parse(Kind::Prefill, text), Err(error), "{text}");
        }
        assert_eq!(
            parse(Kind::DecodePolicy, "bucket"),
            Err(ValueError::DecodePolicy)
        );
    }

    #[test]
    fn keys_of_tenants_and_operators() {
        let values = ["a:k1", "b:k2", "a:k:3"].map(Value::from);
        let tenants = tenants(&values);
        assert_eq!(tenants["a"], ["k1", "k:3"]);
        assert_eq!(tenants["b"], ["k2"]);
        for text in ["a", ":k", "a:"] {
            assert_eq!(parse(Kind::TenantKeys, text), Err(ValueError::TenantKey));
        }
        let key = parse(Kind::OperatorKeys, "k1:Ann:Admin:a:b:c").unwrap();
        assert_eq!(key["id"].as_str(), Some("k1"));
        assert_eq!(key["key"].as_str(), Some("a:b:c"));
        for text in [
            "k1:Ann:admin",
            "k1:Ann:root:k",
            ":Ann:admin:k",
            "k1:Ann:admin:",
        ] {
            let wrong = Err(ValueError::OperatorKey);
            assert_eq!(parse(Kind::OperatorKeys, text), wrong, "{text}");
        }
        let values = ["Gateway.Admin=admin", "a=b=user"].map(Value::from);
        let roles = roles(&values);
        assert_eq!(roles["Gateway.Admin"].as_str(), Some("admin"));
        assert_eq!(roles["a=b"].as_str(), Some("user"));
        assert_eq!(parse(Kind::Roles, "a=root"), Err(ValueError::Role));
        assert_eq!(parse(Kind::Url, "ftp://x"), Err(ValueError::WebUrl));
    }

    #[test]
    fn aliases_by_name() {
        let values = ["a=m", "b=n", "c=m"].map(Value::from);
        let names = aliases(&values);
        assert_eq!(names["m"], ["a", "c"]);
        assert_eq!(names["n"], ["b"]);
        for text in ["a", "=m", "a="] {
            assert_eq!(parse(Kind::Aliases, text), Err(ValueError::Alias));
        }
    }
}
