//! `[auth]`: who may come in, and how much of the gateway each may use.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::is_default;
use super::word::words;
use crate::base::file::FilePath;
use crate::base::moment::Moment;
use crate::base::network::Network;
use crate::base::secret::{MASK, Secret, Source};
use crate::base::units::Millis;

/// `[auth]`: who may come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// A key that opens the inference routes.
    ///
    /// Unit: secret. Default: none. Range: any. Reload: live.
    /// It is never sent to a worker. Where no key of the control plane and no JWT is configured it
    /// opens the control plane, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,

    /// Header that carries the gateway's credential where it is present.
    ///
    /// Unit: header name. Default: x-smg-api-key. Range: a header name. Reload: live.
    /// `Authorization` and `x-api-key` are then left to the worker behind.
    pub api_key_header: String,

    /// Whether a proxy in front says who the tenant is.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub tenant_header: TenantHeader,

    /// Who uses the gateway, with keys and limits of their own.
    ///
    /// Unit: list of tables. Default: []. Range: distinct names and keys. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,

    /// Limits of everybody who is no tenant of the list.
    ///
    /// Unit: table. Default: no limits. Range: any. Reload: live.
    /// Each caller has them for itself: by what a trusted proxy says, else by address.
    #[serde(skip_serializing_if = "is_default")]
    pub default_limits: TenantLimits,

    /// Who may ask and change the gateway itself.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub control_plane: ControlPlane,

    /// Tokens of an identity provider.
    ///
    /// Unit: table. Default: none, no tokens. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            api_key: None,
            api_key_header: "x-smg-api-key".to_owned(),
            tenant_header: TenantHeader::default(),
            tenants: Vec::new(),
            default_limits: TenantLimits::default(),
            control_plane: ControlPlane::default(),
            jwt: None,
        }
    }
}

impl Auth {
    /// Whether inference routes ask for a credential.
    pub fn guards_inference(&self) -> bool {
        self.api_key.is_some() || !self.tenants.is_empty() || self.jwt.is_some()
    }

    /// Whether any route asks for a credential.
    pub fn is_any(&self) -> bool {
        self.guards_inference() || !self.control_plane.api_keys.is_empty()
    }
}

/// `[auth.tenant_header]`: whether a proxy in front says who the tenant is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantHeader {
    /// Whether the header counts.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// It counts only from a listener's `trusted_proxies`, and only where no credential says who
    /// the tenant is.
    pub trusted: bool,

    /// The header.
    ///
    /// Unit: header name. Default: x-smg-tenant-id. Range: a header name. Reload: live.
    /// Its value is the name under which limits are counted.
    pub name: String,
}

impl Default for TenantHeader {
    fn default() -> Self {
        Self {
            trusted: false,
            name: "x-smg-tenant-id".to_owned(),
        }
    }
}

/// `[[auth.tenants]]`: somebody who uses the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// What the tenant is called in logs and metrics.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: live.
    /// A token's tenant claim is compared with it.
    pub name: String,

    /// The keys of the tenant.
    ///
    /// Unit: list of keys. Default: []. Range: distinct. Reload: live.
    /// Each is a string, or a table of `sha256` (what `smg key new` prints), `file`, `env`,
    /// `credential` or `value`, with `not_before` and `expires_at` where it is good for a time only.
    /// Several are valid at once, so that one can be replaced by another without a gap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<TenantKey>,

    /// The models that the tenant may use.
    ///
    /// Unit: list of names or globs. Default: [], all. Range: any. Reload: live.
    /// Others are refused with 403, and `/v1/models` does not list them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,

    /// The class in which the tenant's requests wait.
    ///
    /// Unit: string. Default: none. Range: one of `reliability.admission.classes`.
    /// Reload: live.
    /// The class of the model comes before it, where that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,

    /// How much of the gateway the tenant may use.
    ///
    /// Unit: table. Default: no limits. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: TenantLimits,
}

/// How much one caller may use. What is not said is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantLimits {
    /// Requests per minute.
    ///
    /// Unit: number. Default: none. Range: >= 1. Reload: live.
    /// So many may come at once; then they come back evenly over the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,

    /// Tokens per minute, those of prompts and of answers together.
    ///
    /// Unit: number. Default: none. Range: >= 1. Reload: live.
    /// An estimate is taken when a request comes, and corrected when its answer says its usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,

    /// Requests under way at once.
    ///
    /// Unit: number. Default: none. Range: >= 1. Reload: live.
    /// Further ones are refused, they do not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,

    /// Limits for some models, besides those above.
    ///
    /// Unit: list of tables. Default: []. Range: distinct `match`. Reload: live.
    /// Of several that fit a model the longest counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelLimits>,
}

/// How much one caller may use of some models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelLimits {
    /// The models.
    ///
    /// Unit: name or glob. Default: none, required. Range: not empty. Reload: live.
    /// The models that fit have one allowance together.
    #[serde(rename = "match")]
    pub matches: String,

    /// Requests per minute.
    ///
    /// Unit: number. Default: none. Range: >= 1. Reload: live.
    /// As above, for these models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,

    /// Tokens per minute.
    ///
    /// Unit: number. Default: none. Range: >= 1. Reload: live.
    /// As above, for these models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
}

/// `[auth.control_plane]`: who may ask and change the gateway itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlane {
    /// Whether everybody may, while no credential of any kind is configured.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// Without it, and without credentials, only clients on this machine may.
    pub open: bool,

    /// Where the URL of a worker that is added over the API may lead.
    ///
    /// Unit: list of networks. Default: [], anywhere. Range: any. Reload: live.
    /// Link-local addresses and metadata services are refused in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub worker_cidrs: Vec<Network>,

    /// The keys of operators.
    ///
    /// Unit: list of tables. Default: []. Range: distinct ids. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ControlKey>,
}

/// `[[auth.control_plane.api_keys]]`: the key of an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlKey {
    /// What the key is called in the audit log.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: live.
    /// It is no secret.
    pub id: String,

    /// Whose key it is.
    ///
    /// Unit: string. Default: the id. Range: any. Reload: live.
    /// For people who read the file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,

    /// What its holder may do.
    ///
    /// Unit: word. Default: none, required. Range: admin, user. Reload: live.
    /// `user` reads, `admin` changes as well.
    pub role: Role,

    /// The key.
    ///
    /// Unit: key, as those of a tenant. Default: none, required. Range: any. Reload: live.
    /// It opens the control plane and nothing else.
    pub key: TenantKey,
}

words! {
    /// What an operator may do.
    pub enum Role ("role", compare str::to_owned) {
        /// Read.
        User = "user",
        /// Read and change.
        Admin = "admin",
    }
    later []
}

words! {
    /// The role of a token that brings none.
    pub enum DefaultRole ("role", compare str::to_owned) {
        /// None: the control plane stays shut.
        None = "none",
        /// Read.
        User = "user",
        /// Read and change.
        Admin = "admin",
    }
    later []
}

/// `[auth.jwt]`: tokens of an identity provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// Who makes the tokens: their `iss`.
    ///
    /// Unit: URL. Default: none. Range: together with `audience`. Reload: live.
    /// Its keys are found at `{issuer}/.well-known/openid-configuration`, or at `jwks_uri`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,

    /// For whom the tokens are made: their `aud`.
    ///
    /// Unit: string. Default: none. Range: together with `issuer`. Reload: live.
    /// A token for somebody else is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,

    /// Where the keys of the issuer are.
    ///
    /// Unit: URL. Default: asked of the issuer. Range: https, or http on this machine.
    /// Reload: live.
    /// A set of keys (JWKS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,

    /// The claim that says the role.
    ///
    /// Unit: name or dotted path. Default: roles. Range: not empty. Reload: live.
    /// A string or a list. Where a token lacks it, `role`, `roles`, `groups` and `group` are
    /// looked at.
    pub role_claim: String,

    /// What the words of that claim mean.
    ///
    /// Unit: table of words. Default: {}, `admin` and `user` mean themselves.
    /// Range: values are admin or user. Reload: live.
    /// With several words the highest role counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub role_mapping: BTreeMap<String, Role>,

    /// The role of a token that brings none.
    ///
    /// Unit: word. Default: none. Range: none, user, admin. Reload: live.
    /// With `none` such a token opens the inference routes and nothing else.
    pub default_role: DefaultRole,

    /// The claim that says the tenant.
    ///
    /// Unit: name or dotted path. Default: none. Range: not empty. Reload: live.
    /// One of `tenants`, whose models, class and limits then hold, or a name of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,

    /// How far the clocks of issuer and gateway may differ.
    ///
    /// Unit: duration ("30s"). Default: 30s. Range: 0s to 5m. Reload: live.
    /// It is added to the end of a token's time, and taken off its beginning.
    pub leeway: Millis,

    /// Whether the issuer's keys may be fetched from private addresses.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// For providers inside the cluster. Metadata services are refused in any case.
    pub allow_private_jwks: bool,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            jwks_uri: None,
            role_claim: "roles".to_owned(),
            role_mapping: BTreeMap::new(),
            default_role: DefaultRole::None,
            tenant_claim: None,
            leeway: Millis::secs(30),
            allow_private_jwks: false,
        }
    }
}

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
