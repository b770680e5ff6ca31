//! The keys of tenants and operators, as the file writes them: a text, or a table of where one is and
//! when it is valid.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::file::FilePath;
use crate::base::moment::Moment;
use crate::base::secret::{MASK, Secret, Source};

/// A key that somebody shows: a secret, or the hash of one, and when it is valid.
#[derive(Clone, PartialEq, Eq)]
pub struct TenantKey {
    /// What it is compared with.
    pub material: Material,
    /// Valid from then on.
    pub not_before: Option<Moment>,
    /// Valid until then.
    pub expires_at: Option<Moment>,
}

/// What a shown key is compared with.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// The key, from wherever it comes.
    Secret(Secret),
    /// SHA-256 of the key.
    Sha256([u8; 32]),
}

impl From<Secret> for TenantKey {
    fn from(secret: Secret) -> Self {
        Self {
            material: Material::Secret(secret),
            not_before: None,
            expires_at: None,
        }
    }
}

impl fmt::Debug for TenantKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MASK)
    }
}

const KEY_FIELDS: &[&str] = &[
    "value",
    "sha256",
    "env",
    "file",
    "credential",
    "not_before",
    "expires_at",
];

impl Serialize for TenantKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // What may be known of it is when it is valid; a hash can be guessed at.
        if self.not_before.is_none() && self.expires_at.is_none() {
            return to.serialize_str(MASK);
        }
        let mut map = BTreeMap::from([("value", MASK.to_owned())]);
        map.extend(self.not_before.map(|at| ("not_before", at.to_string())));
        map.extend(self.expires_at.map(|at| ("expires_at", at.to_string())));
        map.serialize(to)
    }
}

impl<'de> Deserialize<'de> for TenantKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TenantKey;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(
                    "a key: a table with one of `sha256`, `file`, `env`, `credential` and `value`, \
                     or a string",
                )
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<TenantKey, E> {
                if value.is_empty() {
                    return Err(E::custom("a key must not be empty"));
                }
                Ok(Secret::literal(value).into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TenantKey, A::Error> {
                const ONE: &str =
                    "a key has one source: `sha256`, `file`, `env`, `credential` or `value`";
                let (mut material, mut not_before, mut expires_at) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let next = match key.as_str() {
                        "value" => {
                            let value: String = map.next_value()?;
                            if value.is_empty() {
                                return Err(de::Error::custom("a key must not be empty"));
                            }
                            Material::Secret(Secret::literal(&value))
                        }
                        "sha256" => Material::Sha256(digest(&map.next_value::<String>()?)?),
                        "env" => secret(Source::Env(map.next_value()?)),
                        "file" => secret(Source::File(map.next_value::<FilePath>()?.into())),
                        "credential" => secret(Source::Credential(map.next_value()?)),
                        "not_before" => {
                            not_before = Some(map.next_value()?);
                            continue;
                        }
                        "expires_at" => {
                            expires_at = Some(map.next_value()?);
                            continue;
                        }
                        other => return Err(de::Error::unknown_field(other, KEY_FIELDS)),
                    };
                    if material.replace(next).is_some() {
                        return Err(de::Error::custom(ONE));
                    }
                }
                Ok(TenantKey {
                    material: material.ok_or_else(|| de::Error::custom(ONE))?,
                    not_before,
                    expires_at,
                })
            }
        }

        from.deserialize_struct("TenantKey", KEY_FIELDS, Visitor)
    }
}

fn secret(source: Source) -> Material {
    Material::Secret(Secret::unresolved(source))
}

/// The 32 bytes that 64 hex digits stand for. The text is in no message: somebody may have written
/// the key itself there.
fn digest<E: de::Error>(text: &str) -> Result<[u8; 32], E> {
    let nibble = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = [0; 32];
    let mut pairs = text.as_bytes().chunks_exact(2);
    for byte in &mut bytes {
        let pair = pairs.next().and_then(|pair| match pair {
            [high, low] => u8::try_from(nibble(high)? * 16 + nibble(low)?).ok(),
            _ => None,
        });
        *byte =
            pair.ok_or_else(|| E::custom("`sha256` is 64 hex digits; `smg key new` prints them"))?;
    }
    if text.len() != 64 {
        return Err(E::custom(
            "`sha256` is 64 hex digits; `smg key new` prints them",
        ));
    }
    Ok(bytes)
}

impl JsonSchema for TenantKey {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let moment = generator.subschema_for::<Moment>();
        let source = |name: &str, what: &str, pattern: &str| {
            json_schema!({
                "type": "object",
                "properties": {
                    name: { "type": "string", "description": what, "pattern": pattern },
                    "not_before": moment.clone(),
                    "expires_at": moment.clone(),
                },
                "required": [name],
                "additionalProperties": false,
            })
        };
        json_schema!({
            "description": "A key: a string, or a table of one source and when it is valid.",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                source("value", "The key itself.", "."),
                source("sha256", "SHA-256 of the key in hex, as `smg key new` prints it.", "^[0-9a-fA-F]{64}$"),
                source("env", "Name of an environment variable.", ""),
                source("file", "Path of a file, relative to the file that names it.", "."),
                source("credential", "Name of a systemd credential.", ""),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Holder {
        key: TenantKey,
    }

    #[test]
    fn keys_have_one_source_and_a_time() {
        let read = |text: &str| toml::from_str::<Holder>(text).map(|holder| holder.key);
        let hash = "50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c";
        assert_eq!(read("key = 'x'").unwrap(), Secret::literal("x").into());
        assert_eq!(
            read("key.value = 'x'").unwrap(),
            Secret::literal("x").into()
        );
        let key = read(&format!(
            "key = {{ sha256 = '{hash}', expires_at = '2030-01-01T00:00:00Z' }}"
        ));
        let key = key.unwrap();
        assert!(matches!(key.material, Material::Sha256([0x50, 0xd8, ..])));
        assert_eq!(key.expires_at.unwrap().unix(), 1_893_456_000);
        for bad in [
            "key = ''",
            "key = {}",
            "key.sha256 = 'abc'",
            &format!("key.sha256 = '{hash}00'"),
            &format!("key.sha256 = '{}'", hash.replace('5', "x")),
            "key = { env = 'A', value = 'b' }",
            "key = { expires_at = '2030-01-01T00:00:00Z' }",
            "key = { value = 'x', not_before = 'soon' }",
        ] {
            let error = read(bad).unwrap_err();
            assert!(!error.message().contains(hash), "{error}");
        }
    }

    #[test]
    fn nothing_prints_a_key_or_its_hash() {
        let hash = "50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c";
        for text in [
            "key = 'canary'",
            "key.value = 'canary'",
            &format!("key.sha256 = '{hash}'"),
        ] {
            let holder: Holder = toml::from_str(text).unwrap();
            for shown in [format!("{holder:?}"), toml::to_string(&holder).unwrap()] {
                assert!(
                    !shown.contains("canary") && !shown.contains("50d8"),
                    "{shown}"
                );
            }
        }
    }
}
