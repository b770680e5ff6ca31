//! What each route does.

mod admin;
mod admission;
mod decision;
mod fleet;
mod health;
mod inference;
mod information;
mod quota;
mod rerank;
mod workers;

pub(crate) use admin::{config, config_status, explain, metrics, overview, reload, snapshots};
pub(crate) use fleet::{flush_cache, loads};
pub(crate) use health::{alive, ready};
pub(crate) use inference::{check_pair, check_tenant, check_type, inference};
pub(crate) use information::{ask, engine_metrics, model, models};
pub(crate) use rerank::Ranking;
pub(crate) use workers::{
    add_worker, drain_pool, patch_worker, remove_worker, replace_worker, worker, workers,
};

use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// JSON text of an answer that the gateway made itself.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Whether the query string has `name=true` (or `name` alone).
fn flag(query: &str, name: &str) -> bool {
    value(query, name).is_some_and(|value| matches!(value, "" | "true" | "1"))
}

/// The value of `name` in the query string, decoded the way forms are written: `+` is a space.
fn said(query: &str, name: &str) -> Option<String> {
    value(query, name).map(|value| decoded(&value.replace('+', " ")))
}

/// The value of `name` in the query string, not decoded.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// What `text`, a part of a request target, says without percent-encoding.
fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, behind)) = rest.split_first() {
        let pair = (digit(behind.first()), digit(behind.get(1)));
        let coded = match (first, pair) {
            (b'%', (Some(high), Some(low))) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        out.push(coded.unwrap_or(*first));
        rest = behind
            .get(if coded.is_some() { 2 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A wall-clock time as answers write it.
fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_where_it_is_one() {
        for (text, plain) in [
            ("a%2Fb", "a/b"),
            ("meta%2fllama", "meta/llama"),
            ("%C3%A9", "é"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("a+b", "a+b"),
            ("", ""),
        ] {
            assert_eq!(decoded(text), plain);
        }
    }

    #[test]
    fn flags_and_values_of_a_query() {
        assert!(flag("wait=true", "wait") && flag("a=1&wait", "wait") && flag("wait=1", "wait"));
        assert!(!flag("wait=false", "wait") && !flag("awaits=true", "wait") && !flag("", "wait"));
        assert_eq!(value("pool=a&model=b", "model"), Some("b"));
        assert_eq!(said("pool=blue+%2B+red", "pool").unwrap(), "blue + red");
        assert_eq!(said("pool=a", "model"), None);
    }
}
