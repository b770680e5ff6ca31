//! The form of a policy in a file: a word, or a table with one word as its key.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::policy::{Bucket, CacheAware, LeastLoad, Manual, Policy, PolicyName, PrefixHash};
use super::word::spellings;

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        fn table<S: Serializer, O: Serialize + Default + PartialEq>(
            to: S,
            name: &'static str,
            options: &O,
        ) -> Result<S::Ok, S::Error> {
            if *options == O::default() {
                return to.serialize_str(name);
            }
            let mut map = to.serialize_map(Some(1))?;
            map.serialize_entry(name, options)?;
            map.end()
        }
        let name = self.as_str();
        match self {
            Self::Random
            | Self::RoundRobin
            | Self::Passthrough
            | Self::PowerOfTwo
            | Self::ConsistentHashing => to.serialize_str(name),
            Self::LeastLoad(options) => table(to, name, options),
            Self::PrefixHash(options) => table(to, name, options),
            Self::Manual(options) => table(to, name, options),
            Self::Bucket(options) => table(to, name, options),
            Self::CacheAware(options) => table(to, name, options),
        }
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct NoOptions {}

        /// A name that stands as a key, so that an unknown one is an unknown key.
        struct Key(PolicyName);

        impl<'de> Deserialize<'de> for Key {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse()
                    .map(Key)
                    .map_err(|_| de::Error::unknown_field(&text, PolicyName::WORDS))
            }
        }

        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Policy;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the name of a policy, or a table with one as its key")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Policy, E> {
                text.parse::<PolicyName>()
                    .map(Policy::named)
                    .map_err(|_| E::unknown_variant(text, PolicyName::WORDS))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Policy, A::Error> {
                let Some(Key(name)) = map.next_key()? else {
                    return Err(de::Error::invalid_length(0, &self));
                };
                let policy = match name {
                    PolicyName::LeastLoad => Policy::LeastLoad(map.next_value()?),
                    PolicyName::PrefixHash => Policy::PrefixHash(map.next_value()?),
                    PolicyName::Manual => Policy::Manual(map.next_value()?),
                    PolicyName::Bucket => Policy::Bucket(map.next_value()?),
                    PolicyName::CacheAware => Policy::CacheAware(map.next_value()?),
                    PolicyName::Random
                    | PolicyName::RoundRobin
                    | PolicyName::PowerOfTwo
                    | PolicyName::ConsistentHashing
                    | PolicyName::Passthrough => {
                        let NoOptions {} = map.next_value()?;
                        Policy::named(name)
                    }
                };
                match map.next_key::<String>()? {
                    None => Ok(policy),
                    Some(_) => Err(de::Error::custom(
                        "a policy is one word, or a table with one word as its key",
                    )),
                }
            }
        }

        from.deserialize_any(Visitor)
    }
}

impl JsonSchema for Policy {
    fn schema_name() -> Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        let mut tables = serde_json::Map::new();
        let mut spelled = serde_json::Map::new();
        let mut patterns = Vec::new();
        for word in PolicyName::WORDS {
            let Ok(name) = word.parse::<PolicyName>() else {
                continue;
            };
            let mut table = match name {
                PolicyName::Random
                | PolicyName::RoundRobin
                | PolicyName::PowerOfTwo
                | PolicyName::ConsistentHashing
                | PolicyName::Passthrough => json_schema!({ "type": "object", "maxProperties": 0 }),
                PolicyName::LeastLoad => schemas.subschema_for::<LeastLoad>(),
                PolicyName::PrefixHash => schemas.subschema_for::<PrefixHash>(),
                PolicyName::Manual => schemas.subschema_for::<Manual>(),
                PolicyName::Bucket => schemas.subschema_for::<Bucket>(),
                PolicyName::CacheAware => schemas.subschema_for::<CacheAware>(),
            };
            let pattern = spellings(word);
            if word.contains('_') {
                spelled.insert(format!("^{pattern}$"), table.clone().to_value());
            }
            patterns.push(pattern);
            table.insert("description".to_owned(), page(name).into());
            tables.insert((*word).to_owned(), table.to_value());
        }
        json_schema!({
            "anyOf": [
                { "type": "string", "enum": PolicyName::WORDS },
                { "type": "string", "pattern": format!("^({})$", patterns.join("|")) },
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": tables,
                    "patternProperties": spelled,
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// The reference page of a policy's table.
fn page(name: PolicyName) -> String {
    let (what, unit, more) = match name {
        PolicyName::CacheAware => (
            "The worker that has most of the prompt in its cache and least to do.",
            "table",
            "What was sent where is remembered, for each entry of `[[models]]` and each leg.",
        ),
        PolicyName::Random => ("Any worker, with equal chance.", "empty table", ""),
        PolicyName::RoundRobin => ("One worker after the other.", "empty table", ""),
        PolicyName::PowerOfTwo => (
            "The less loaded of two workers drawn at random.",
            "empty table",
            "By the share of its cache in use where both engines report it, else by requests in \
             flight.",
        ),
        PolicyName::LeastLoad => (
            "The worker that will be free first, as its engine reports.",
            "table",
            "Where no engine reports, the one with the fewest requests in flight.",
        ),
        PolicyName::PrefixHash => (
            "The place on a ring of workers that the start of the prompt hashes to.",
            "table",
            "A worker that has too much to do is passed over.",
        ),
        PolicyName::ConsistentHashing => (
            "The place on a ring of workers that a key of the request hashes to.",
            "empty table",
            "The key is the header `x-smg-routing-key`, else what tells the client from others: \
             `authorization`, `x-forwarded-for` or `cookie`. `x-smg-target-worker` names the \
             worker itself.",
        ),
        PolicyName::Bucket => (
            "By length of the prompt: short ones go to some workers, long ones to others.",
            "table",
            "Not for the decode leg of a pool.",
        ),
        PolicyName::Manual => (
            "The worker that the routing key was assigned to.",
            "table",
            "The key is the header `x-smg-routing-key`. What is assigned survives a reload.",
        ),
        PolicyName::Passthrough => ("The first worker, by URL.", "empty table", ""),
    };
    let (default, range) = match unit {
        "table" => ("its keys' defaults", "any"),
        _ => ("none", "no keys"),
    };
    let page = format!(
        "{what}\n\nUnit: {unit}. Default: {default}. Range: {range}. Reload: live.\n{more}"
    );
    page.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::Algorithm;

    #[derive(Debug, Deserialize)]
    struct Table {
        policy: Policy,
    }

    fn read(text: &str) -> Result<Policy, String> {
        toml::from_str::<Table>(text)
            .map(|table| table.policy)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_in_any_spelling() {
        for text in ["power_of_two", "power-of-two", "poweroftwo"] {
            assert_eq!(read(&format!("policy = {text:?}")), Ok(Policy::PowerOfTwo));
        }
        for text in ["", "Random", "best"] {
            assert!(text.parse::<PolicyName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_with_options() {
        assert_eq!(read("policy.random = {}"), Ok(Policy::Random));
        let tree = read("policy.cache_aware = { cache_threshold = 0.5 }").unwrap();
        let Policy::CacheAware(options) = &tree else {
            panic!("{tree:?}");
        };
        assert_eq!(options.runs(), Algorithm::Tree);
        assert_eq!(CacheAware::default().runs(), Algorithm::Score);
        let written = serde_json::to_string(&tree).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&written).unwrap(), tree);
        for (text, part) in [
            ("policy.random = { x = 1 }", "unknown field `x`"),
            ("policy = { random = {}, least_load = {} }", "one word"),
            ("policy = {}", "the name of a policy"),
            ("policy.best = {}", "unknown field `best`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
