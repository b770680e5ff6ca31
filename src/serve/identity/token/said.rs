//! What a token says, and whether that holds here and now.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::form::json;
use super::{Claims, TokenError};
use crate::plan::{Jwt, OperatorRole};

/// Where else a role may stand when the claim that should say it is absent.
const ROLE_CLAIMS: [&str; 4] = ["role", "roles", "groups", "group"];

/// Who a token was made for; the first that it has.
const SUBJECTS: [&str; 3] = ["sub", "email", "preferred_username"];

/// Longest name of a tenant, in bytes: names are kept, each by itself.
const LONGEST_TENANT: usize = 256;

/// The claims of a token whose signature is good.
#[derive(Debug)]
pub(super) struct Said(Map<String, Value>);

impl Said {
    /// Reads the second part of a token.
    pub(super) fn read(payload: &str) -> Result<Self, TokenError> {
        json(payload).map(Self)
    }

    /// What it means by `jwt`, and until when, if it holds at `now`. Times count from the Unix epoch.
    pub(super) fn judge(&self, jwt: &Jwt, now: Duration) -> Result<(Claims, Duration), TokenError> {
        if !self.is_from(&jwt.issuer) {
            return Err(TokenError::Issuer);
        }
        if !self.is_for(&jwt.audience) {
            return Err(TokenError::Audience);
        }
        let until = self.date("exp")?.ok_or(TokenError::MissingExp)?;
        let until = until.saturating_add(jwt.leeway);
        if now >= until {
            return Err(TokenError::Expired);
        }
        let begins = self.date("nbf")?.unwrap_or_default();
        if now.saturating_add(jwt.leeway) < begins {
            return Err(TokenError::NotYetValid);
        }
        let mut subjects = SUBJECTS.iter().filter_map(|name| self.text(name));
        let subject = subjects.find(|subject| !subject.is_empty());
        let claims = Claims {
            // An audit log that cannot say who it was is none.
            subject: subject.ok_or(TokenError::Malformed)?.into(),
            role: self.role(jwt),
            tenant: self.tenant(jwt)?,
        };
        Ok((claims, until))
    }

    /// Whether it is from the issuer of `jwt` and for its audience.
    pub(super) fn is_meant(&self, jwt: &Jwt) -> bool {
        self.is_from(&jwt.issuer) && self.is_for(&jwt.audience)
    }

    fn is_from(&self, issuer: &str) -> bool {
        self.text("iss") == Some(issuer)
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// What happens before the epoch happens at the epoch, and what is too far away to be counted
    /// never happens.
    fn date(&self, name: &str) -> Result<Option<Duration>, TokenError> {
        let seconds = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_f64().ok_or(TokenError::Malformed)?,
        };
        let date = Duration::try_from_secs_f64(seconds.max(0.0));
        Ok(Some(date.unwrap_or(Duration::MAX)))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A claim by its name, else by the path that the name may be.
    fn claim(&self, name: &str) -> Option<&Value> {
        let literal = self.0.get(name);
        let found = literal.or_else(|| {
            let mut steps = name.split('.');
            let first = self.0.get(steps.next()?)?;
            steps.try_fold(first, |at, step| at.as_object()?.get(step))
        });
        found.filter(|value| !value.is_null())
    }

    fn role(&self, jwt: &Jwt) -> Option<OperatorRole> {
        let named = self.claim(&jwt.role_claim);
        let mut others = ROLE_CLAIMS.iter();
        let said = named.or_else(|| others.find_map(|name| self.claim(name)));
        let words = match said {
            Some(Value::Array(many)) => many.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        let mut role = None;
        for word in words.iter().filter_map(Value::as_str) {
            match meaning(word, jwt) {
                Some(OperatorRole::Admin) => return Some(OperatorRole::Admin),
                Some(OperatorRole::User) => role = Some(OperatorRole::User),
                None => {}
            }
        }
        role.or(jwt.default_role)
    }

    /// A name that is too long is not left out: its bearer would come in as nobody's.
    fn tenant(&self, jwt: &Jwt) -> Result<Option<Arc<str>>, TokenError> {
        let claim = jwt.tenant_claim.as_deref();
        let named = claim.and_then(|claim| self.claim(claim)?.as_str());
        match named {
            Some(name) if name.len() > LONGEST_TENANT => Err(TokenError::Malformed),
            named => Ok(named.filter(|name| !name.is_empty()).map(Arc::from)),
        }
    }
}

/// Words that are mapped mean what the mapping says and nothing else.
fn meaning(word: &str, jwt: &Jwt) -> Option<OperatorRole> {
    if jwt.role_mapping.is_empty() {
        let roles = [OperatorRole::Admin, OperatorRole::User];
        let mut roles = roles.into_iter();
        return roles.find(|role| word.eq_ignore_ascii_case(role.as_str()));
    }
    let mut mapped = jwt.role_mapping.iter();
    mapped
        .find(|(known, _)| **known == *word)
        .map(|(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn jwt() -> Jwt {
        Jwt {
            issuer: "https://issuer.example".into(),
            audience: "gateway".into(),
            jwks_uri: None,
            role_claim: "roles".into(),
            role_mapping: Vec::new(),
            default_role: None,
            tenant_claim: None,
            leeway: Duration::from_secs(30),
            allow_private: false,
        }
    }

    fn said(more: Value) -> Said {
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "gateway", "exp": NOW + 60, "sub": "ann",
        });
        let all = claims.as_object_mut().unwrap();
        let Value::Object(more) = more else {
            panic!("{more}");
        };
        all.extend(more);
        // `null` here stands for a claim that is not there.
        all.retain(|_, value| !value.is_null());
        Said(all.clone())
    }

    fn judge(more: Value) -> Result<Claims, TokenError> {
        let now = Duration::from_secs(NOW);
        said(more).judge(&jwt(), now).map(|(claims, _)| claims)
    }

    fn role(more: Value, change: impl FnOnce(&mut Jwt)) -> Option<OperatorRole> {
        let mut jwt = jwt();
        change(&mut jwt);
        said(more).role(&jwt)
    }

    #[test]
    fn each_reason() {
        assert_eq!(judge(json!({})).unwrap().subject, "ann".into());
        for (more, reason) in [
            (
                json!({ "iss": "https://issuer.example/" }),
                TokenError::Issuer,
            ),
            (json!({ "iss": null }), TokenError::Issuer),
            (
                json!({ "iss": ["https://issuer.example"] }),
                TokenError::Issuer,
            ),
            (json!({ "aud": "gateway2" }), TokenError::Audience),
            (json!({ "aud": null }), TokenError::Audience),
            (json!({ "aud": [] }), TokenError::Audience),
            (json!({ "aud": { "gateway": true } }), TokenError::Audience),
            (json!({ "exp": null }), TokenError::MissingExp),
            (json!({ "exp": "soon" }), TokenError::Malformed),
            (json!({ "exp": NOW - 30 }), TokenError::Expired),
            (json!({ "exp": -5 }), TokenError::Expired),
            (json!({ "nbf": NOW + 31 }), TokenError::NotYetValid),
            (json!({ "nbf": 1e300 }), TokenError::NotYetValid),
            (json!({ "nbf": true }), TokenError::Malformed),
            (json!({ "sub": null }), TokenError::Malformed),
            (json!({ "sub": "", "email": 7 }), TokenError::Malformed),
        ] {
            assert_eq!(judge(more.clone()), Err(reason), "{more}");
        }
    }

    #[test]
    fn what_is_good() {
        for more in [
            json!({ "aud": ["other", "gateway"] }),
            json!({ "exp": NOW - 29 }),
            json!({ "exp": NOW as f64 - 29.5 }),
            json!({ "exp": 1e300 }),
            json!({ "nbf": NOW + 30 }),
            json!({ "nbf": 0, "iat": NOW + 9000 }),
        ] {
            assert!(judge(more.clone()).is_ok(), "{more}");
        }
        let email = json!({ "sub": null, "email": "a@b", "preferred_username": "ann" });
        assert_eq!(judge(email).unwrap().subject, "a@b".into());
        let name = json!({ "sub": null, "preferred_username": "ann" });
        assert_eq!(judge(name).unwrap().subject, "ann".into());
    }

    #[test]
    fn leeway_counts_at_both_ends() {
        let mut strict = jwt();
        strict.leeway = Duration::ZERO;
        let now = Duration::from_secs(NOW);
        let judge = |more| said(more).judge(&strict, now).map(|(_, until)| until);
        assert_eq!(judge(json!({ "exp": NOW })), Err(TokenError::Expired));
        let next = Duration::from_secs(NOW + 1);
        assert_eq!(judge(json!({ "exp": NOW + 1, "nbf": NOW })), Ok(next));
        assert_eq!(
            judge(json!({ "nbf": NOW + 1 })),
            Err(TokenError::NotYetValid)
        );
        let (_, until) = said(json!({})).judge(&jwt(), now).unwrap();
        assert_eq!(until, Duration::from_secs(NOW + 90));
    }

    #[test]
    fn where_the_role_stands() {
        use OperatorRole::{Admin, User};

        let plain = |more| role(more, |_| {});
        assert_eq!(plain(json!({ "roles": "admin" })), Some(Admin));
        assert_eq!(plain(json!({ "roles": ["x", "User"] })), Some(User));
        assert_eq!(plain(json!({ "roles": ["user", "ADMIN", 7] })), Some(Admin));
        assert_eq!(plain(json!({ "roles": "admin user" })), None);
        assert_eq!(plain(json!({ "role": "admin" })), Some(Admin));
        assert_eq!(plain(json!({ "group": ["user"] })), Some(User));
        assert_eq!(
            plain(json!({ "role": "user", "groups": ["admin"] })),
            Some(User)
        );
        // A claim that is there and says nothing is not absent.
        assert_eq!(plain(json!({ "roles": [], "role": "admin" })), None);
        assert_eq!(plain(json!({ "roles": { "admin": true } })), None);
        assert_eq!(plain(json!({})), None);

        let nested = json!({ "realm_access": { "roles": ["admin"] } });
        let path = |jwt: &mut Jwt| jwt.role_claim = "realm_access.roles".into();
        assert_eq!(role(nested.clone(), path), Some(Admin));
        assert_eq!(plain(nested), None);
        let literal = json!({
            "realm_access": { "roles": ["admin"] }, "realm_access.roles": "user",
        });
        assert_eq!(role(literal, path), Some(User));
        assert_eq!(
            role(json!({ "realm_access": 7, "role": "user" }), path),
            Some(User)
        );
    }

    #[test]
    fn what_the_words_mean() {
        use OperatorRole::{Admin, User};

        let mapped = |jwt: &mut Jwt| {
            jwt.role_mapping = vec![("ops".into(), Admin), ("dev".into(), User)];
        };
        assert_eq!(
            role(json!({ "roles": ["dev", "ops"] }), mapped),
            Some(Admin)
        );
        assert_eq!(role(json!({ "roles": "dev" }), mapped), Some(User));
        assert_eq!(role(json!({ "roles": ["admin", "Ops"] }), mapped), None);
        let default = |jwt: &mut Jwt| {
            jwt.role_mapping = vec![("ops".into(), Admin)];
            jwt.default_role = Some(User);
        };
        assert_eq!(role(json!({ "roles": ["admin"] }), default), Some(User));
        assert_eq!(role(json!({}), default), Some(User));
        assert_eq!(role(json!({ "roles": ["ops"] }), default), Some(Admin));
    }

    #[test]
    fn tenants() {
        let tenant = |claims: Value, path: Option<&str>| {
            let mut jwt = jwt();
            jwt.tenant_claim = path.map(Arc::from);
            said(claims).tenant(&jwt).unwrap()
        };
        let claims = json!({ "org": { "id": "blue" }, "team": "red", "many": ["red"], "no": "" });
        assert_eq!(tenant(claims.clone(), Some("team")), Some("red".into()));
        assert_eq!(tenant(claims.clone(), Some("org.id")), Some("blue".into()));
        for path in [
            None,
            Some("org"),
            Some("many"),
            Some("no"),
            Some("absent"),
            Some(""),
        ] {
            assert_eq!(tenant(claims.clone(), path), None, "{path:?}");
        }
    }

    #[test]
    fn the_name_of_a_tenant_has_an_end() {
        let mut jwt = jwt();
        jwt.tenant_claim = Some("team".into());
        let named = |length| said(json!({ "team": "x".repeat(length) })).tenant(&jwt);
        assert!(named(LONGEST_TENANT).is_ok_and(|name| name.is_some()));
        assert_eq!(named(LONGEST_TENANT + 1), Err(TokenError::Malformed));
    }

    proptest! {
        #[test]
        fn no_date_is_good_beyond_its_leeway(exp in any::<f64>(), nbf in any::<f64>()) {
            let more = json!({ "exp": exp, "nbf": nbf });
            let known = more["exp"].is_f64() && more["nbf"].is_f64();
            prop_assume!(known);
            let in_time = NOW as f64 - exp < 30.0 && nbf - NOW as f64 <= 30.0;
            prop_assert_eq!(judge(more).is_ok(), in_time);
        }
    }
}
