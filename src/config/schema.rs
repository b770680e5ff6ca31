//! The JSON schema of `smg.toml`, from the types that read it.

use serde_json::Value;

use super::spec::Spec;

/// The schema of a file.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Spec);
    schema.insert("title".to_owned(), Value::from("smg.toml"));
    schema.to_value()
}
