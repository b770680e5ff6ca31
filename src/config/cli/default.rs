//! What is in force where a flag is not given: the default of its key, for the help.

use std::sync::LazyLock;

use toml::Value;

use super::flag::{Flag, Kind, Target};
use super::table::{DEFAULT_POOL, MAIN};
use crate::config::spec::{ListenAddress, Policy, Spec};

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::default);

/// [`Spec::default`] in the form of the file; empty should that ever fail, which a test excludes.
static DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| Value::try_from(&*SPEC).unwrap_or_else(|_| Value::Table(toml::Table::new())));

/// The value that `flag` has without being given, as it would be typed; `None` if there is none or
/// none that needs saying.
pub fn default_of(flag: &Flag) -> Option<String> {
    match flag.target {
        Target::Key(key) if flag.kind != Kind::Switch => find(&DEFAULTS, key).and_then(text),
        Target::Listener(key) => find(named("listeners", MAIN)?, key).and_then(text),
        Target::Pool(key) => find(named("pools", DEFAULT_POOL)?, key).and_then(text),
        Target::Host(name) => Some(match address(name)? {
            ListenAddress::Ip(address) => address.ip().to_string(),
            ListenAddress::Host { host, .. } => host.clone(),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => return None,
        }),
        Target::Port(name) => Some(address(name)?.port()?.to_string()),
        Target::Policy => Some(SPEC.routing.policy.to_string()),
        Target::Option(kinds, option) => {
            let default = match Policy::named(*kinds.first()?) {
                Policy::CacheAware(options) => Policy::CacheAware(options.in_full()),
                other => other,
            };
            text(&Value::try_from(default.options().get(option)?).ok()?)
        }
        Target::Key(_)
        | Target::LegPolicy(_)
        | Target::Legs
        | Target::File
        | Target::Off(_)
        | Target::Word(..)
        | Target::Probes
        | Target::Aliases
        | Target::Tenants
        | Target::Operators => None,
    }
}

fn address(listener: &str) -> Option<&'static ListenAddress> {
    let mut listeners = SPEC.listeners.iter();
    listeners.find(|l| l.name == listener).map(|l| &l.address)
}

fn named(list: &str, name: &str) -> Option<&'static Value> {
    let elements = DEFAULTS.get(list)?.as_array()?;
    elements
        .iter()
        .find(|element| element.get("name").and_then(Value::as_str) == Some(name))
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.')
        .try_fold(value, |value, part| value.get(part))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Array(items) => match items.as_slice() {
            [] => None,
            [first, .., last] if items.len() > 8 => {
                Some(format!("{} … {}", text(first)?, text(last)?))
            }
            items => Some(items.iter().filter_map(text).collect::<Vec<_>>().join(" ")),
        },
        Value::Boolean(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::table::find;

    #[test]
    fn defaults() {
        for (flag, default) in [
            ("host", Some("0.0.0.0")),
            ("port", Some("30000")),
            ("prometheus-port", Some("29000")),
            ("policy", Some("cache_aware")),
            ("cache-threshold", Some("0.3")),
            ("balance-abs-threshold", Some("64")),
            ("balance-token-usage-threshold", Some("1")),
            ("eviction-interval", Some("2m")),
            ("max-tree-size", Some("67108864")),
            ("block-size", Some("16")),
            ("prefix-hash-load-factor", Some("1.25")),
            ("assignment-mode", Some("random")),
            ("max-idle-secs", Some("4h")),
            ("bucket-adjust-interval-secs", Some("5s")),
            ("least-load-default-throughput", Some("2000")),
            ("load-monitor-interval", Some("10s")),
            ("prefill", None),
            ("prefill-policy", None),
            ("pd-disaggregation", None),
            ("request-timeout-secs", Some("30m")),
            ("idle-connection-timeout-secs", Some("75s")),
            ("max-payload-size", Some("512MiB")),
            ("retry-jitter-factor", Some("0.2")),
            ("prometheus-duration-buckets", Some("0.001 … 7200")),
            ("worker-urls", None),
            ("log-json", None),
            ("config", None),
        ] {
            assert_eq!(
                default_of(find(flag).unwrap()).as_deref(),
                default,
                "{flag}"
            );
        }
    }
}
