//! Who may come in, and how much each may use.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::route::{is_glob, matches};
use crate::base::moment::Moment;
use crate::base::network::Network;
use crate::base::secret::{MASK, Secret};
use crate::config::spec::{self, DefaultRole, Material, Spec};

pub use crate::config::spec::Role as OperatorRole;

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Auth {
    /// Whether inference routes ask for a credential. Not the same as whether there is one: a
    /// configuration that asks for what nobody has keeps everybody out.
    pub guards_inference: bool,
    /// Whether any route asks for a credential.
    pub is_any: bool,
    /// The key that opens the inference routes.
    pub api_key: Option<Digest>,
    /// As whom its holders are counted.
    #[serde(skip)]
    pub shared: Option<Arc<str>>,
    /// Header that carries the gateway's credential where it is present; lower case.
    pub api_key_header: Arc<str>,
    /// Header in which a trusted proxy names the tenant; lower case. `None`: it does not count.
    pub tenant_header: Option<Arc<str>>,
    /// Tenants, in the order of the file.
    pub tenants: Vec<Tenant>,
    /// Every key of every tenant.
    pub tenant_keys: Vec<Key<TenantIx>>,
    /// Limits of everybody who is no tenant.
    pub default_limits: Arc<TenantLimits>,
    /// The keys of operators.
    pub operators: Vec<Key<Operator>>,
    /// Whether the control plane is open to all while no credential is configured.
    pub open: bool,
    /// Where the URL of a worker that is added may lead; empty: anywhere.
    pub worker_cidrs: Arc<[Network]>,
    /// Tokens of an identity provider.
    pub jwt: Option<Arc<Jwt>>,
}

/// SHA-256 of a credential. It is compared in constant time, and shown nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Index of a tenant in the plan it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantIx(pub u32);

/// A key, whose it is, and when it is valid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key<T> {
    /// What it is compared with.
    pub digest: Digest,
    /// Whose it is.
    pub of: T,
    /// Valid from then on.
    pub not_before: Option<Moment>,
    /// Valid until then, that moment not included.
    pub expires_at: Option<Moment>,
}

/// Who holds a key of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// What the key is called in the audit log.
    pub id: Arc<str>,
    /// What its holder may do.
    pub role: OperatorRole,
}

/// Somebody who uses the gateway.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tenant {
    /// Name as declared.
    pub name: Arc<str>,
    /// The models it may use, names or globs; empty: all.
    pub models: Vec<Arc<str>>,
    /// The class in which its requests wait, where it has one.
    pub class: Option<Arc<str>>,
    /// How much it may use.
    pub limits: Arc<TenantLimits>,
}

/// How much one caller may use. `None`: as much as there is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TenantLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests under way at once.
    pub max_concurrent: Option<u64>,
    /// Limits for some models; of those that fit, the longest counts.
    pub models: Vec<ModelLimits>,
}

/// How much one caller may use of the models that fit one name or glob together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelLimits {
    /// The name or glob.
    pub pattern: Arc<str>,
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
}

/// Tokens of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Jwt {
    /// The `iss` of a token, exactly.
    pub issuer: Arc<str>,
    /// The `aud` of a token, or one of several.
    pub audience: Arc<str>,
    /// Where the issuer's keys are; `None`: the issuer says.
    pub jwks_uri: Option<Arc<str>>,
    /// The claim that says the role; a dotted path, or a literal name.
    pub role_claim: Arc<str>,
    /// What its words mean; empty: `admin` and `user` mean themselves.
    pub role_mapping: Vec<(Arc<str>, OperatorRole)>,
    /// The role of a token that brings none.
    pub default_role: Option<OperatorRole>,
    /// The claim that says the tenant.
    pub tenant_claim: Option<Arc<str>>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Whether the keys may be fetched from private addresses.
    pub allow_private: bool,
}

/// Against whom limits are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A tenant of the file, a tenant that a token names, or the holder of the shared key.
    Tenant(Arc<str>),
    /// What a trusted proxy says.
    Header(Arc<str>),
    /// The client's address.
    Address(IpAddr),
    /// Nobody can say.
    Anonymous,
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => write!(out, "auth:{name}"),
            Self::Header(value) => write!(out, "header:{value}"),
            Self::Address(address) => write!(out, "ip:{address}"),
            Self::Anonymous => out.write_str("anonymous"),
        }
    }
}

impl Digest {
    /// That of `credential`.
    pub fn of(credential: &[u8]) -> Self {
        Self(Sha256::digest(credential).into())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes in hex, by which the holder of the shared key is counted.
    pub fn short(&self) -> String {
        let bytes = self.0.iter().take(8);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MASK)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(MASK)
    }
}

impl Tenant {
    /// Whether it may use the model called `name`.
    pub fn may_use(&self, name: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether it may use the model `canonical` by the name `asked`. The model itself must be among
    /// its own: a glob that happens to fit an alias opens nothing. An alias that is listed letter by
    /// letter is meant.
    pub fn may_ask(&self, asked: &str, canonical: &str) -> bool {
        let is_listed = |pattern: &Arc<str>| **pattern == *asked && !is_glob(pattern);
        self.may_use(canonical) || self.models.iter().any(is_listed)
    }
}

impl TenantLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits for the model called `name`, and their place in the list.
    pub fn model(&self, name: &str) -> Option<(usize, &ModelLimits)> {
        let fit = self.models.iter().enumerate();
        fit.filter(|(_, limits)| matches(&limits.pattern, name))
            .max_by_key(|(_, limits)| limits.pattern.len())
    }
}

impl Auth {
    /// The tenant at `ix`, which must come from this plan.
    pub fn tenant(&self, ix: TenantIx) -> Option<&Tenant> {
        self.tenants.get(ix.0 as usize)
    }
}

pub(super) fn compile(spec: &Spec) -> Auth {
    let auth = &spec.auth;
    let tenants = auth.tenants.iter().map(|tenant| Tenant {
        name: tenant.name.as_str().into(),
        models: tenant
            .models
            .iter()
            .map(|glob| glob.as_str().into())
            .collect(),
        class: tenant.class.as_deref().map(Arc::from),
        limits: Arc::new(limits(&tenant.limits)),
    });
    let tenant_keys = (0u32..).zip(&auth.tenants).flat_map(|(ix, tenant)| {
        let keys = tenant.keys.iter();
        keys.filter_map(move |declared| key(declared, TenantIx(ix)))
    });
    let operators = auth.control_plane.api_keys.iter().filter_map(|declared| {
        let operator = Operator {
            id: declared.id.as_str().into(),
            role: declared.role,
        };
        key(&declared.key, operator)
    });
    let shared = auth.api_key.as_ref().and_then(in_force);
    let shared = shared.map(|key| Digest::of(key.as_bytes()));
    let header = &auth.tenant_header;
    Auth {
        guards_inference: auth.guards_inference(),
        is_any: auth.is_any(),
        api_key: shared,
        shared: shared.map(|digest| digest.short().into()),
        api_key_header: auth.api_key_header.to_ascii_lowercase().into(),
        tenant_header: header
            .trusted
            .then(|| header.name.to_ascii_lowercase().into()),
        tenants: tenants.collect(),
        tenant_keys: tenant_keys.collect(),
        default_limits: Arc::new(limits(&auth.default_limits)),
        operators: operators.collect(),
        open: auth.control_plane.open,
        worker_cidrs: auth.control_plane.worker_cidrs.as_slice().into(),
        jwt: auth.jwt.as_ref().and_then(jwt),
    }
}

/// `None` for a key whose value is absent, which opens nothing.
fn key<T>(declared: &spec::TenantKey, of: T) -> Option<Key<T>> {
    let digest = match &declared.material {
        Material::Sha256(bytes) => Digest(*bytes),
        Material::Secret(secret) => Digest::of(in_force(secret)?.as_bytes()),
    };
    Some(Key {
        digest,
        of,
        not_before: declared.not_before,
        expires_at: declared.expires_at,
    })
}

/// What a dump shows in place of a secret is no key: it would open the gateway that is made of the dump
/// to everybody.
fn in_force(secret: &Secret) -> Option<&str> {
    secret.expose().filter(|value| *value != MASK)
}

fn limits(declared: &spec::TenantLimits) -> TenantLimits {
    let models = declared.models.iter().map(|limits| ModelLimits {
        pattern: limits.matches.as_str().into(),
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
    });
    TenantLimits {
        requests_per_minute: declared.requests_per_minute,
        tokens_per_minute: declared.tokens_per_minute,
        max_concurrent: declared.max_concurrent,
        models: models.collect(),
    }
}

/// The checks have seen to it that both halves are there.
fn jwt(declared: &spec::Jwt) -> Option<Arc<Jwt>> {
    let mapping = declared.role_mapping.iter();
    Some(Arc::new(Jwt {
        issuer: declared.issuer.as_deref()?.into(),
        audience: declared.audience.as_deref()?.into(),
        jwks_uri: declared.jwks_uri.as_deref().map(Arc::from),
        role_claim: declared.role_claim.as_str().into(),
        role_mapping: mapping
            .map(|(word, role)| (word.as_str().into(), *role))
            .collect(),
        default_role: match declared.default_role {
            DefaultRole::None => None,
            DefaultRole::User => Some(OperatorRole::User),
            DefaultRole::Admin => Some(OperatorRole::Admin),
        },
        tenant_claim: declared.tenant_claim.as_deref().map(Arc::from),
        leeway: declared.leeway.get(),
        allow_private: declared.allow_private_jwks,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_uses_its_models_by_whichever_name() {
        let tenant = |models: &[&str]| Tenant {
            name: "t".into(),
            models: models.iter().map(|model| (*model).into()).collect(),
            class: None,
            limits: Arc::default(),
        };
        for (models, asked, canonical, may) in [
            (&[][..], "any", "any", true),
            (&["llama"], "llama", "llama", true),
            (&["llama"], "other", "other", false),
            (&["llama-*"], "llama-3", "llama-3", true),
            // By an alias of a model that it has.
            (&["llama-*"], "small", "llama-3", true),
            // An alias that looks like one of its models and is another.
            (&["llama-*"], "llama-x", "gpt", false),
            // An alias that is listed.
            (&["small"], "small", "llama-3", true),
            (&["small"], "llama-3", "llama-3", false),
            (&["*"], "", "", true),
            (&["llama"], "", "", false),
        ] {
            assert_eq!(
                tenant(models).may_ask(asked, canonical),
                may,
                "{models:?} {asked}"
            );
        }
    }
}
