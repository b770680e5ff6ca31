//! A set of keys (JWKS), made ready for use once.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, crypto};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Sizes of an RSA modulus that are accepted, in bytes: what is shorter can be broken, and what is
/// longer cannot be verified.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=512;

/// Keys by their ids.
pub struct Keys {
    known: Box<[Known]>,
    /// Of what they are, in whichever order.
    fingerprint: [u8; 32],
}

struct Known {
    kid: Box<str>,
    /// What it verifies; `None` where that is nothing that tokens may be signed with.
    usable: Option<(Algorithm, DecodingKey)>,
}

/// What is known of a key.
pub enum Found<'a> {
    /// It is there.
    Key(&'a DecodingKey),
    /// It is there, for other algorithms.
    Otherwise,
    /// It is not there.
    Nowhere,
}

/// Why a text is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not a JSON object with a list `keys`.
    #[error("no set of keys: {0}")]
    Syntax(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The members of a key that count here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set. Keys that have no id, are no keys, or are not for signatures count as absent.
    ///
    /// # Errors
    /// [`KeysError`] if it is no set at all.
    pub fn read(text: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(text)?;
        let jwks = set.keys.into_iter();
        let jwks = jwks.filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let mut prints = Vec::new();
        let mut known = Vec::new();
        for jwk in jwks.filter(Jwk::is_for_signatures) {
            let Some(kid) = &jwk.kid else {
                continue;
            };
            prints.push(jwk.fingerprint());
            known.push(Known {
                kid: kid.as_str().into(),
                usable: jwk.usable(),
            });
        }
        prints.sort_unstable();
        Ok(Self {
            known: known.into(),
            fingerprint: Sha256::digest(prints.concat()).into(),
        })
    }

    /// The key called `kid` for `algorithm`.
    pub fn find(&self, kid: &str, algorithm: Algorithm) -> Found<'_> {
        let mut found = Found::Nowhere;
        for known in self.known.iter().filter(|known| *known.kid == *kid) {
            match &known.usable {
                Some((own, key)) if *own == algorithm => return Found::Key(key),
                _ => found = Found::Otherwise,
            }
        }
        found
    }

    /// How many keys can verify something.
    pub fn usable(&self) -> usize {
        let known = self.known.iter();
        known.filter(|known| known.usable.is_some()).count()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids = self.known.iter().map(|known| &known.kid);
        out.debug_list().entries(kids).finish()
    }
}

impl Jwk {
    fn is_for_signatures(&self) -> bool {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(verifies)
    }

    /// The algorithm of the key, which its kind must allow, and the key ready for use.
    fn usable(&self) -> Option<(Algorithm, DecodingKey)> {
        let (default, allowed) = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => (
                Algorithm::RS256,
                &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512][..],
            ),
            ("EC", Some("P-256")) => (Algorithm::ES256, &[Algorithm::ES256][..]),
            ("EC", Some("P-384")) => (Algorithm::ES384, &[Algorithm::ES384][..]),
            _ => return None,
        };
        let algorithm = match &self.alg {
            None => default,
            Some(alg) => alg.parse().ok().filter(|alg| allowed.contains(alg))?,
        };
        let key = if self.kty == "RSA" {
            let (n, e) = (self.n.as_deref()?, self.e.as_deref()?);
            let key = DecodingKey::from_rsa_components(n, e).ok()?;
            has_good_size(&key).then_some(key)?
        } else {
            let (x, y) = (self.x.as_deref()?, self.y.as_deref()?);
            DecodingKey::from_ec_components(x, y).ok()?
        };
        // A point that is not on its curve shows when it is used.
        crypto::verify("", b"", &key, algorithm).ok()?;
        Some((algorithm, key))
    }

    fn fingerprint(&self) -> [u8; 32] {
        let members = [
            Some(&self.kty),
            self.kid.as_ref(),
            self.alg.as_ref(),
            self.crv.as_ref(),
            self.n.as_ref(),
            self.e.as_ref(),
            self.x.as_ref(),
            self.y.as_ref(),
        ];
        let mut hash = Sha256::new();
        for member in members {
            let text = member.map_or("", |text| text);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

fn has_good_size(key: &DecodingKey) -> bool {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => {
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            MODULUS.contains(&(n.len() - zeros))
        }
        DecodingKeyKind::SecretOrDer(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};
    use serde_json::json;

    use super::*;

    fn ec(algorithm: &'static SignatureAlgorithm, crv: &str) -> Value {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let der = jsonwebtoken::EncodingKey::from_ec_der(&pair.serialize_der());
        let alg = if crv == "P-256" {
            Algorithm::ES256
        } else {
            Algorithm::ES384
        };
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&der, alg).unwrap();
        let jwk = serde_json::to_value(jwk).unwrap();
        json!({ "kty": "EC", "crv": crv, "x": jwk["x"], "y": jwk["y"] })
    }

    fn rsa(bytes: usize) -> Value {
        // 0xff repeated; odd, and as good as any number where nothing is to be verified.
        let n = "_".repeat(bytes.div_ceil(3) * 4);
        json!({ "kty": "RSA", "n": n, "e": "AQAB" })
    }

    fn with(mut jwk: Value, more: Value) -> Value {
        let Value::Object(more) = more else {
            panic!("{more}");
        };
        jwk.as_object_mut().unwrap().extend(more);
        jwk
    }

    fn read(keys: &[Value]) -> Keys {
        Keys::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn is(found: &Found<'_>) -> &'static str {
        match found {
            Found::Key(_) => "key",
            Found::Otherwise => "otherwise",
            Found::Nowhere => "nowhere",
        }
    }

    #[test]
    fn a_key_says_its_algorithm_or_its_kind_does() {
        let p256 = ec(&PKCS_ECDSA_P256_SHA256, "P-256");
        let p384 = ec(&PKCS_ECDSA_P384_SHA384, "P-384");
        let keys = read(&[
            with(rsa(256), json!({ "kid": "r" })),
            with(
                rsa(256),
                json!({ "kid": "r5", "alg": "RS512", "use": "sig" }),
            ),
            with(p256.clone(), json!({ "kid": "e2" })),
            with(p384.clone(), json!({ "kid": "e3", "key_ops": ["verify"] })),
            with(p256.clone(), json!({ "kid": "both" })),
            with(rsa(256), json!({ "kid": "both" })),
        ]);
        for (kid, algorithm, wanted) in [
            ("r", Algorithm::RS256, "key"),
            ("r", Algorithm::RS512, "otherwise"),
            ("r", Algorithm::ES256, "otherwise"),
            ("r5", Algorithm::RS512, "key"),
            ("r5", Algorithm::RS256, "otherwise"),
            ("e2", Algorithm::ES256, "key"),
            ("e2", Algorithm::ES384, "otherwise"),
            ("e3", Algorithm::ES384, "key"),
            ("both", Algorithm::RS256, "key"),
            ("both", Algorithm::ES256, "key"),
            ("R", Algorithm::RS256, "nowhere"),
            ("", Algorithm::RS256, "nowhere"),
        ] {
            assert_eq!(
                is(&keys.find(kid, algorithm)),
                wanted,
                "{kid} {algorithm:?}"
            );
        }
        assert_eq!(keys.usable(), 6);
    }

    #[test]
    fn what_no_token_may_be_signed_with() {
        let p256 = ec(&PKCS_ECDSA_P256_SHA256, "P-256");
        let keys = read(&[
            json!({ "kty": "oct", "kid": "hmac", "k": "AAAA", "alg": "HS256" }),
            with(rsa(256), json!({ "kid": "pss", "alg": "PS256" })),
            with(rsa(256), json!({ "kid": "mixed", "alg": "ES256" })),
            with(p256.clone(), json!({ "kid": "larger", "alg": "ES384" })),
            with(p256.clone(), json!({ "kid": "off", "y": p256["x"] })),
            with(rsa(129), json!({ "kid": "short" })),
            with(rsa(600), json!({ "kid": "long" })),
            json!({ "kty": "RSA", "kid": "empty" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "AAAA" }),
        ]);
        assert_eq!(keys.usable(), 0);
        assert_eq!(is(&keys.find("hmac", Algorithm::RS256)), "otherwise");
        let absent = read(&[
            with(rsa(256), json!({ "kid": "enc", "use": "enc" })),
            with(rsa(256), json!({ "kid": "ops", "key_ops": ["wrapKey"] })),
            rsa(256),
            with(rsa(256), json!({ "kid": 7 })),
            json!("text"),
            json!(null),
        ]);
        for kid in ["enc", "ops", "", "7"] {
            assert_eq!(is(&absent.find(kid, Algorithm::RS256)), "nowhere", "{kid}");
        }
    }

    #[test]
    fn the_order_of_keys_does_not_count() {
        let (a, b) = (
            with(rsa(256), json!({ "kid": "a" })),
            with(rsa(256), json!({ "kid": "b" })),
        );
        let both = read(&[a.clone(), b.clone()]);
        assert!(both.is_same(&read(&[b, a.clone()])));
        assert!(!both.is_same(&read(&[a])));
    }

    #[test]
    fn no_sets() {
        for text in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[}"#, "\u{0}"] {
            assert!(Keys::read(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!(r#"{{"keys":{}"#, "[".repeat(100_000));
        assert!(Keys::read(deep.as_bytes()).is_err());
        assert_eq!(Keys::read(br#"{"keys":[]}"#).unwrap().usable(), 0);
    }
}
