//! The effective configuration with the origin of each value.

use serde_json::{Map, Value, json};

use crate::config::{Loaded, Origins};

/// The configuration as JSON, secrets as `***`, and beside it the origin of each value by its key.
/// Included files are part of it, so `include` is not.
pub(super) fn to_json(loaded: &Loaded) -> Value {
    // A spec always has a JSON form.
    let mut config = serde_json::to_value(&loaded.spec).unwrap_or_default();
    if let Some(tables) = config.as_object_mut() {
        tables.shift_remove("include");
    }
    let mut origins = Map::new();
    collect(&config, String::new(), &loaded.origins, &mut origins);
    json!({ "config": config, "origins": origins })
}

fn collect(value: &Value, key: String, origins: &Origins, out: &mut Map<String, Value>) {
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                collect(value, key, origins, out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, value) in items.iter().enumerate() {
                collect(value, format!("{key}[{index}]"), origins, out);
            }
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let origin = origins.of(&key).to_string();
            out.insert(key, Value::String(origin));
        }
    }
}
