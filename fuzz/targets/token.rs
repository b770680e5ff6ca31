//! Tokens: a text that may be one, and the parts of one as JSON, separated by a line feed. Whoever is
//! let in by the claims has the right issuer, the right audience, a time that has not run out, and a
//! role that the settings gave.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use smg::plan::{Jwt, OperatorRole};
use smg::serve::read_unverified;

const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 30;

pub(crate) fn run(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        judge(text);
    }
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(payload)) = (parts.next(), parts.next()) else {
        return;
    };
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let token = format!("{}.{}.c2ln", part(header), part(payload));
    let Some(role) = judge(&token) else { return };
    let header: Value = serde_json::from_slice(header).expect("a header is JSON");
    let claims: Value = serde_json::from_slice(payload).expect("claims are JSON");
    assert!(
        ["RS256", "RS384", "RS512", "ES256", "ES384"]
            .iter()
            .any(|alg| header["alg"] == *alg)
    );
    assert!(header["kid"].as_str().is_some_and(|kid| !kid.is_empty()));
    assert_eq!(claims["iss"], "https://issuer.example");
    let audience = &claims["aud"];
    assert!(
        audience == "smg"
            || audience
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == "smg"))
    );
    assert!(
        claims["exp"]
            .as_f64()
            .is_some_and(|exp| exp + LEEWAY as f64 > NOW as f64)
    );
    if role.is_some() {
        // The words mean themselves in any case of letters.
        let text = claims.to_string().to_ascii_lowercase();
        assert!(
            text.contains("admin") || text.contains("user"),
            "a role from nowhere: {text}"
        );
    }
}

/// The role, if its bearer would get in with a good signature.
fn judge(token: &str) -> Option<Option<OperatorRole>> {
    let jwt = Jwt {
        issuer: Arc::from("https://issuer.example"),
        audience: Arc::from("smg"),
        jwks_uri: None,
        role_claim: Arc::from("realm_access.roles"),
        role_mapping: Vec::new(),
        default_role: None,
        tenant_claim: Some(Arc::from("org.name")),
        leeway: Duration::from_secs(LEEWAY),
        allow_private: false,
    };
    let (claims, until) = read_unverified(&jwt, token, Duration::from_secs(NOW))?;
    assert!(until > Duration::from_secs(NOW));
    assert!(!claims.subject.is_empty());
    Some(claims.role)
}
