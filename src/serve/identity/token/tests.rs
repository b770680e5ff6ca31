//! Tokens of all kinds against a snapshot whose issuer has keys.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use rustls::pki_types::PrivatePkcs1KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::*;
use crate::base::task;
use crate::config::Spec;
use crate::live::Stamp;
use crate::plan::{Facts, OperatorRole, compile};
use crate::state::{Cells, Keys};

const CONFIG: &str = "version = 1\n[auth.jwt]\nissuer = 'https://issuer.example'\n\
    audience = 'gateway'\n";

/// A key that signs, and what the issuer shows of it.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    jwk: Value,
}

impl Signer {
    fn new(kid: &str, algorithm: Algorithm, key: EncodingKey) -> Self {
        let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = kid.into();
        Self {
            key,
            algorithm,
            jwk,
        }
    }

    fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        Self::new(kid, algorithm, rsa_key("test-only-rsa-2048.pem"))
    }

    fn ec(kid: &str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
            _ => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        Self::new(
            kid,
            algorithm,
            EncodingKey::from_ec_der(&pair.serialize_der()),
        )
    }

    fn kid(&self) -> &str {
        self.jwk["kid"].as_str().unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid().to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn rsa_key(file: &str) -> EncodingKey {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/jwt");
    let der = PrivatePkcs1KeyDer::from_pem_file(folder.join(file)).unwrap();
    EncodingKey::from_rsa_der(der.secret_pkcs1_der())
}

static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa", Algorithm::RS256));
static EC: LazyLock<Signer> = LazyLock::new(|| Signer::ec("ec", Algorithm::ES256));

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "gateway", "sub": "ann",
        "exp": clock::unix().as_secs() + 600,
    })
}

fn with(more: Value) -> Value {
    let mut all = claims();
    let Value::Object(more) = more else {
        panic!("{more}");
    };
    all.as_object_mut().unwrap().extend(more);
    all
}

fn snapshot(cells: &Cells, config: &str) -> Snapshot {
    let spec: Spec = toml::from_str(config).unwrap();
    let stamp = Stamp {
        id: 1,
        generation: 1,
        sha256: "".into(),
    };
    let plan = compile(&spec, &Facts::default());
    Snapshot::bind(plan, cells, None, stamp, clock::now())
}

fn keys(shown: &[&Value]) -> Keys {
    Keys::read(json!({ "keys": shown }).to_string().as_bytes()).unwrap()
}

/// A snapshot whose issuer shows these keys.
fn issuer(shown: &[&Value]) -> Snapshot {
    let snapshot = snapshot(&Cells::default(), CONFIG);
    learn(&snapshot, shown, clock::now());
    snapshot
}

fn learn(snapshot: &Snapshot, shown: &[&Value], now: Instant) {
    let cell = &snapshot.issuer().unwrap().cell;
    cell.learn(keys(shown), now);
    // Nobody fetches here, so the next unknown key is judged at once.
    if cell.wish(now).is_some() {
        cell.serve(cell.wishes());
    }
}

async fn judge(snapshot: &Snapshot, token: &str) -> Result<Arc<Claims>, TokenError> {
    let jwt = snapshot.plan.auth.jwt.clone().unwrap();
    verify(snapshot, &jwt, token).await
}

/// A token of these parts, none of them well.
fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| base64(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(claims))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn each_algorithm() {
    for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512] {
        let signer = Signer::rsa("k", algorithm);
        let issuer = issuer(&[&signer.jwk]);
        let token = signer.sign(&with(json!({ "roles": ["admin"] })));
        let said = judge(&issuer, &token).await.unwrap();
        assert_eq!(&*said.subject, "ann");
        assert_eq!(said.role, Some(OperatorRole::Admin));
    }
    for algorithm in [Algorithm::ES256, Algorithm::ES384] {
        let signer = Signer::ec("k", algorithm);
        let issuer = issuer(&[&signer.jwk]);
        assert!(judge(&issuer, &signer.sign(&claims())).await.is_ok());
    }
    // The same without `alg` in the set.
    let mut shown = RSA.jwk.clone();
    shown.as_object_mut().unwrap().remove("alg");
    let token = RSA.sign(&claims());
    assert!(judge(&issuer(&[&shown]), &token).await.is_ok());
}

#[tokio::test]
async fn each_reason() {
    let issuer = issuer(&[&RSA.jwk, &EC.jwk]);
    let now = clock::unix().as_secs();
    for (more, reason) in [
        (json!({ "exp": now - 31 }), TokenError::Expired),
        (json!({ "nbf": now + 90 }), TokenError::NotYetValid),
        (
            json!({ "iss": "https://other.example" }),
            TokenError::Issuer,
        ),
        (json!({ "aud": ["other"] }), TokenError::Audience),
        (json!({ "exp": null }), TokenError::MissingExp),
    ] {
        for signer in [&*RSA, &*EC] {
            let token = signer.sign(&with(more.clone()));
            assert_eq!(judge(&issuer, &token).await, Err(reason), "{more}");
        }
    }
    let unknown = Signer::new("new", Algorithm::RS256, rsa_key("test-only-rsa-2048.pem"));
    let token = unknown.sign(&claims());
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::UnknownKey));
    let other = Signer::new(
        "rsa",
        Algorithm::RS256,
        rsa_key("test-only-rsa-2048-other.pem"),
    );
    let token = other.sign(&claims());
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::Signature));
    assert_eq!(judge(&issuer, "a.b.c").await, Err(TokenError::Malformed));
}

#[tokio::test]
async fn no_algorithm_but_that_of_the_key() {
    let issuer = issuer(&[&RSA.jwk, &EC.jwk]);
    // What everybody knows of the key must not be a secret to sign with.
    let modulus = RSA.jwk["n"].as_str().unwrap();
    for secret in [modulus.as_bytes(), RSA.jwk.to_string().as_bytes(), b""] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("rsa".to_owned());
        let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(judge(&issuer, &token).await, Err(TokenError::Algorithm));
    }
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = json!({ "alg": alg, "kid": "rsa" });
        for signature in ["", "AAAA"] {
            let token = forged(&header, &claims(), signature);
            assert_eq!(judge(&issuer, &token).await, Err(TokenError::Algorithm));
        }
    }
    // A good signature by the right key, in another way than the key is for.
    let as_rs512 = Signer::rsa("rsa", Algorithm::RS512).sign(&claims());
    assert_eq!(judge(&issuer, &as_rs512).await, Err(TokenError::Algorithm));
    let as_pss = Signer::rsa("rsa", Algorithm::PS256).sign(&claims());
    assert_eq!(judge(&issuer, &as_pss).await, Err(TokenError::Algorithm));
    // Keys of the other kind.
    let rsa_as_ec = Signer::rsa("ec", Algorithm::RS256).sign(&claims());
    assert_eq!(judge(&issuer, &rsa_as_ec).await, Err(TokenError::Algorithm));
    let ec_as_rsa = Signer::ec("rsa", Algorithm::ES256).sign(&claims());
    assert_eq!(judge(&issuer, &ec_as_rsa).await, Err(TokenError::Algorithm));
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_does_not_count() {
    let issuer = issuer(&[&RSA.jwk]);
    let own = Signer::new(
        "own",
        Algorithm::RS256,
        rsa_key("test-only-rsa-2048-other.pem"),
    );
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("rsa".to_owned());
    header.jwk = Some(serde_json::from_value(own.jwk.clone()).unwrap());
    header.jku = Some("https://attacker.example/keys".to_owned());
    let token = encode(&header, &claims(), &own.key).unwrap();
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::Signature));
    for kid in [
        "../../rsa",
        "rsa\u{0}",
        "RSA",
        "' OR 1=1 --",
        "/proc/self/fd/0",
    ] {
        header.kid = Some(kid.to_owned());
        let token = encode(&header, &claims(), &own.key).unwrap();
        assert_eq!(
            judge(&issuer, &token).await,
            Err(TokenError::UnknownKey),
            "{kid}"
        );
    }
    header.kid = None;
    let token = encode(&header, &claims(), &own.key).unwrap();
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::Malformed));
}

#[tokio::test]
async fn nothing_of_a_token_may_be_changed() {
    let issuer = issuer(&[&RSA.jwk, &EC.jwk]);
    for signer in [&*RSA, &*EC] {
        let token = signer.sign(&claims());
        assert!(judge(&issuer, &token).await.is_ok());
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("{token}");
        };
        let other = base64(with(json!({ "roles": "admin" })).to_string().as_bytes());
        let moved = format!("{header}.{other}.{signature}");
        assert_eq!(judge(&issuer, &moved).await, Err(TokenError::Signature));
        for broken in [
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{}", base64(&[0; 64])),
            format!("{header}.{payload}.{}", base64(&[0; 256])),
            format!("{header}.{payload}.{signature}="),
            format!("{header}.{payload}.{signature}AAAA"),
            format!("{header}.{payload}.!"),
        ] {
            assert_eq!(judge(&issuer, &broken).await, Err(TokenError::Signature));
        }
    }
}

#[tokio::test]
async fn a_token_may_be_long_but_not_endless() {
    let issuer = issuer(&[&RSA.jwk]);
    let groups = |number: usize| (0..number).map(|at| format!("group-{at:05}"));
    let fits = RSA.sign(&with(json!({ "roles": groups(700).collect::<Vec<_>>() })));
    assert!(fits.len() < LONGEST && judge(&issuer, &fits).await.is_ok());
    let huge = RSA.sign(&with(json!({ "roles": groups(2_000).collect::<Vec<_>>() })));
    assert_eq!(judge(&issuer, &huge).await, Err(TokenError::Malformed));
    let mut deep = json!(1);
    for _ in 0..1_500 {
        deep = json!([deep]);
    }
    let deep = RSA.sign(&with(json!({ "x": deep })));
    assert_eq!(judge(&issuer, &deep).await, Err(TokenError::Malformed));
}

#[tokio::test]
async fn without_keys_nothing_is_judged() {
    let none = snapshot(&Cells::default(), CONFIG);
    let token = RSA.sign(&claims());
    assert_eq!(judge(&none, &token).await, Err(TokenError::Unavailable));
    assert_eq!(judge(&none, "x").await, Err(TokenError::Unavailable));
    let Some(long_ago) = clock::now().checked_sub(Duration::from_secs(24 * 3600)) else {
        return;
    };
    // Even what has been verified is good for nothing once the keys are too old.
    let issuer = issuer(&[&RSA.jwk]);
    assert!(judge(&issuer, &token).await.is_ok());
    learn(&issuer, &[&RSA.jwk], long_ago);
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::Unavailable));
}

#[tokio::test]
async fn what_was_verified_is_remembered_until_the_keys_change() {
    let issuer = issuer(&[&RSA.jwk, &EC.jwk]);
    let token = RSA.sign(&claims());
    let first = judge(&issuer, &token).await.unwrap();
    let again = judge(&issuer, &token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    learn(&issuer, &[&RSA.jwk, &EC.jwk], clock::now());
    let refreshed = judge(&issuer, &token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &refreshed));
    learn(&issuer, &[&EC.jwk], clock::now());
    assert_eq!(judge(&issuer, &token).await, Err(TokenError::UnknownKey));
}

#[tokio::test]
async fn each_reader_remembers_its_own_reading() {
    let cells = Cells::default();
    let before = snapshot(&cells, CONFIG);
    learn(&before, &[&RSA.jwk], clock::now());
    let token = RSA.sign(&with(json!({ "roles": "ops" })));
    assert_eq!(judge(&before, &token).await.unwrap().role, None);
    // The keys stay, what they vouched for is read anew.
    let mapped = format!("{CONFIG}role_mapping = {{ ops = 'admin' }}\n");
    let after = snapshot(&cells, &mapped);
    let role = judge(&after, &token).await.unwrap().role;
    assert_eq!(role, Some(OperatorRole::Admin));
    assert_eq!(judge(&before, &token).await.unwrap().role, None);
    // The same settings in another generation share what they remember.
    let same = snapshot(&cells, &mapped);
    let (one, other) = (judge(&after, &token).await, judge(&same, &token).await);
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
    // Another issuer knows nothing of it.
    let elsewhere = snapshot(&cells, &CONFIG.replace("issuer.example", "other.example"));
    assert_eq!(
        judge(&elsewhere, &token).await,
        Err(TokenError::Unavailable)
    );
    drop((before, after, same, elsewhere));
    assert!(cells.issuers.is_empty() && cells.vouched.is_empty());
}

#[tokio::test]
async fn an_unknown_key_waits_for_newer_ones() {
    let snapshot = Arc::new(snapshot(&Cells::default(), CONFIG));
    let cell = Arc::clone(&snapshot.issuer().unwrap().cell);
    cell.learn(keys(&[&RSA.jwk]), clock::now());
    let fetching = Arc::clone(&cell);
    let fetcher = task::spawn("fetcher of a test", async move {
        fetching.wished().await;
        let serves = fetching.wishes();
        fetching.learn(keys(&[&RSA.jwk, &EC.jwk]), clock::now());
        fetching.serve(serves);
    });
    assert!(judge(&snapshot, &EC.sign(&claims())).await.is_ok());
    fetcher.await.unwrap();
    assert_eq!(cell.wishes(), 1);
    let never = Signer::ec("never", Algorithm::ES256).sign(&claims());
    assert_eq!(judge(&snapshot, &never).await, Err(TokenError::UnknownKey));
    assert_eq!(cell.wishes(), 1);
}
