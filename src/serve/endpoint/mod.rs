//! What each route does.

mod admin;
mod admission;
mod decision;
mod fleet;
mod health;
mod inference;
mod information;
mod rerank;

pub(crate) use admin::{config, config_status, explain, metrics, reload, snapshots};
pub(crate) use fleet::{flush_cache, loads, worker, workers};
pub(crate) use health::{alive, ready};
pub(crate) use inference::{check_pair, check_type, inference};
pub(crate) use information::{ask, engine_metrics, model, models};
pub(crate) use rerank::Ranking;

use serde::Serialize;

/// JSON text of an answer that the gateway made itself.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Whether the query string has `name=true` (or `name` alone).
fn flag(query: &str, name: &str) -> bool {
    value(query, name).is_some_and(|value| matches!(value, "" | "true" | "1"))
}

/// The value of `name` in the query string, not decoded.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_values_of_a_query() {
        assert!(flag("wait=true", "wait") && flag("a=1&wait", "wait") && flag("wait=1", "wait"));
        assert!(!flag("wait=false", "wait") && !flag("awaits=true", "wait") && !flag("", "wait"));
        assert_eq!(value("pool=a&model=b", "model"), Some("b"));
    }
}
