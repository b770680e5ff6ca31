//! What a reload does with a change of each key.

use serde_json::Value;

use super::spec::Spec;

/// How a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The next request sees it.
    Live,
    /// Connections that are open finish under the old value.
    Drain,
    /// Only a restart of the process; a reload that changes it is refused.
    Restart,
}

impl Class {
    /// The word that is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Drain => "drain",
            Self::Restart => "restart",
        }
    }
}

/// The class of every key; of several entries that fit, the longest counts. Elements of a list
/// are written `[]`.
const CLASSES: &[(&str, Class)] = &[
    ("version", Class::Live),
    ("include", Class::Live),
    ("server", Class::Live),
    ("server.worker_threads", Class::Restart),
    ("server.control_socket", Class::Restart),
    ("server.state_dir", Class::Restart),
    ("listeners", Class::Drain),
    ("listeners[].cors", Class::Live),
    ("listeners[].engine_metrics", Class::Live),
    ("pools", Class::Live),
    ("pools[].connections", Class::Drain),
    ("pools[].tls", Class::Drain),
    ("pools[].workers[].tls", Class::Drain),
    ("pools[].prefill.workers[].tls", Class::Drain),
    ("pools[].decode.workers[].tls", Class::Drain),
    ("models", Class::Live),
    ("routing", Class::Live),
    ("reliability", Class::Live),
    ("auth", Class::Live),
    ("audit", Class::Live),
    ("metrics", Class::Restart),
    ("tracing", Class::Live),
    ("logging", Class::Live),
    ("tests", Class::Live),
];

/// The class of a key, whose indices may be numbers or left out (`listeners[0].cors`,
/// `listeners[].cors`); `None` for a key that does not exist.
pub fn class_of(key: &str) -> Option<Class> {
    let key = without_indices(key);
    CLASSES
        .iter()
        .filter(|(prefix, _)| {
            key.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, class)| *class)
}

/// The keys of class `restart` whose values differ, as paths.
pub fn restart_changes(old: &Spec, new: &Spec) -> Vec<String> {
    let mut out = Vec::new();
    // A `Spec` always has a JSON form; if it had none, nothing could be said about its keys.
    let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return out;
    };
    compare(&old, &new, "", &mut out);
    out
}

fn compare(old: &Value, new: &Value, key: &str, out: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Value::Object(left), Value::Object(right)) = (old, new) else {
        if class_of(key) == Some(Class::Restart) {
            out.push(key.to_owned());
        }
        return;
    };
    let added = right.keys().filter(|name| !left.contains_key(*name));
    for name in left.keys().chain(added) {
        let below = if key.is_empty() {
            name.clone()
        } else {
            format!("{key}.{name}")
        };
        let nothing = &Value::Null;
        compare(
            left.get(name).unwrap_or(nothing),
            right.get(name).unwrap_or(nothing),
            &below,
            out,
        );
    }
}

fn without_indices(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|c| {
            inside = match c {
                '[' => true,
                ']' => false,
                _ => inside,
            };
            !inside || *c == '['
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the schema, with `[]` for elements.
    fn keys(schema: &Value, node: &Value, key: &str, out: &mut Vec<String>) {
        if let Some(name) = node["$ref"].as_str() {
            let pointer = name.trim_start_matches('#');
            keys(schema, schema.pointer(pointer).unwrap(), key, out);
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            for node in node[choice].as_array().into_iter().flatten() {
                keys(schema, node, key, out);
            }
        }
        if node["items"].is_object() {
            keys(schema, &node["items"], &format!("{key}[]"), out);
        }
        for (name, node) in node["properties"].as_object().into_iter().flatten() {
            let below = if key.is_empty() {
                name.clone()
            } else {
                format!("{key}.{name}")
            };
            out.push(below.clone());
            keys(schema, node, &below, out);
        }
    }

    #[test]
    fn every_key_has_a_class() {
        let schema = super::super::json_schema();
        let mut all = Vec::new();
        keys(&schema, &schema, "", &mut all);
        assert!(all.len() > 80, "{}", all.len());
        assert!(all.contains(&"pools[].workers[].labels".to_owned()));
        for key in &all {
            assert!(class_of(key).is_some(), "`{key}` has no reload class");
        }
        for (prefix, _) in CLASSES {
            assert!(all.contains(&(*prefix).to_owned()), "`{prefix}` is no key");
        }
    }

    #[test]
    fn the_longest_match_counts() {
        for (key, class) in [
            ("server.request_timeout", Some(Class::Live)),
            ("server.worker_threads", Some(Class::Restart)),
            ("server.worker_threads_x", Some(Class::Live)),
            ("listeners[3].limits.max_headers", Some(Class::Drain)),
            ("listeners[0].cors.allowed_origins", Some(Class::Live)),
            ("pools[].connections.idle_timeout", Some(Class::Drain)),
            ("metrics.duration_buckets", Some(Class::Restart)),
            ("listeners[0].expose_decision", Some(Class::Drain)),
            (
                "pools[0].prefill.workers[0].bootstrap_port",
                Some(Class::Live),
            ),
            ("routing.policy.cache_aware.memory", Some(Class::Live)),
            ("tests[1].expect.pool", Some(Class::Live)),
            ("serverx", None),
            ("auth.api_key", Some(Class::Live)),
            ("pools[0].workers[1].tls.ca_paths", Some(Class::Drain)),
        ] {
            assert_eq!(class_of(key), class, "{key}");
        }
    }

    #[test]
    fn documented_classes_are_the_true_ones() {
        let schema = super::super::json_schema();
        fn walk(schema: &Value, node: &Value, key: &str) {
            if let Some(name) = node["$ref"].as_str() {
                walk(
                    schema,
                    schema.pointer(name.trim_start_matches('#')).unwrap(),
                    key,
                );
            }
            for node in node["anyOf"].as_array().into_iter().flatten() {
                walk(schema, node, key);
            }
            walk_items(schema, node, key);
            for (name, node) in node["properties"].as_object().into_iter().flatten() {
                let below = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                let text = node["description"].as_str().unwrap_or_default();
                // The sources of a secret carry no reference page of their own.
                let of_secret = ["api_key.", ".keys[].", ".key."];
                if !of_secret.iter().any(|part| below.contains(part)) {
                    let class = class_of(&below).unwrap().as_str();
                    for part in ["Unit: ", "Default: ", "Range: "] {
                        assert!(text.contains(part), "`{below}` does not say its {part}");
                    }
                    assert!(
                        text.contains(&format!("Reload: {class}."))
                            || text.contains("Reload: by key."),
                        "`{below}` is {class}: {text}"
                    );
                }
                walk(schema, node, &below);
            }
        }
        fn walk_items(schema: &Value, node: &Value, key: &str) {
            if node["items"].is_object() {
                walk(schema, &node["items"], &format!("{key}[]"));
            }
        }
        walk(&schema, &schema, "");
    }

    #[test]
    fn changes_of_restart_keys_are_listed() {
        let old = Spec::default();
        let mut new = old.clone();
        new.server.request_timeout = crate::base::units::Millis::secs(1);
        assert!(restart_changes(&old, &new).is_empty());
        new.server.control_socket = Some(std::path::PathBuf::from("/run/x").into());
        new.metrics.duration_buckets.push(9000.0);
        assert_eq!(
            restart_changes(&old, &new),
            ["server.control_socket", "metrics.duration_buckets"]
        );
    }
}
