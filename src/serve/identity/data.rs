//! The inference routes: who asks, and whether they may.

use std::sync::{Arc, LazyLock};

use http::HeaderMap;

use super::count::{self, Outcome};
use super::credential::{self, Credential, Unclear};
use super::denied::{Denied, Plane, Refused, Why};
use super::token::{self, Claims};
use super::{keys, own};
use crate::dispatch::Call;
use crate::live::{AuthMethod, Caller, Snapshot};
use crate::plan::{Auth, Digest, Identity, OperatorRole, TenantIx};

/// What the holder of the shared key is called.
pub(super) static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());

/// Lets `call` in, and tells it whose it is.
///
/// # Errors
/// Why not.
pub(super) async fn judge(call: &mut Call, headers: &mut HeaderMap) -> Result<(), Denied> {
    let snapshot = &call.snapshot;
    let guarded = snapshot.plan.auth.guards_inference;
    if guarded {
        match known(snapshot, headers).await {
            Ok(known) => {
                count::decided(Plane::Data, known.method, Outcome::Allowed);
                known.tell(&mut call.caller);
            }
            Err(refused) => return Err(Plane::Data.refuse(&call.caller, refused)),
        }
    }
    own::withhold(&snapshot.plan.auth, headers, guarded);
    Ok(())
}

/// Tells `call` whose it is, where a credential says so. One that is no good says nothing.
pub(super) async fn recognise(call: &mut Call, headers: &HeaderMap) {
    if let Ok(known) = known(&call.snapshot, headers).await {
        known.tell(&mut call.caller);
    }
}

async fn known(snapshot: &Snapshot, headers: &HeaderMap) -> Result<Known, Refused> {
    let auth = &snapshot.plan.auth;
    match shown(snapshot, headers).await? {
        Shown::Token(claims) => Ok(Known::of_token(auth, &claims)),
        Shown::Key(key) => Known::of_key(auth, &key).ok_or((AuthMethod::ApiKey, Why::Key)),
    }
}

/// Who has shown a good credential.
pub(super) struct Known {
    pub(super) method: AuthMethod,
    pub(super) principal: Arc<str>,
    pub(super) role: Option<OperatorRole>,
    pub(super) tenant: Option<TenantIx>,
    /// `None`: the credential does not say against whom limits are counted.
    pub(super) identity: Option<Identity>,
}

impl Known {
    /// A key of a tenant, or the shared one. Both are looked at, whichever it is.
    fn of_key(auth: &Auth, shown: &Digest) -> Option<Self> {
        let tenant = keys::holder(&auth.tenant_keys, shown).copied();
        let is_shared = keys::is(auth.api_key.as_ref(), shown);
        let (principal, identity) = match tenant {
            Some(ix) => {
                let name = &auth.tenant(ix)?.name;
                (name, Arc::clone(name))
            }
            None if is_shared => (&*DEFAULT, Arc::clone(auth.shared.as_ref()?)),
            None => return None,
        };
        Some(Self {
            method: AuthMethod::ApiKey,
            principal: Arc::clone(principal),
            role: None,
            tenant,
            identity: Some(Identity::Tenant(identity)),
        })
    }

    fn of_token(auth: &Auth, claims: &Claims) -> Self {
        let named = claims.tenant.as_ref();
        let tenant = named.and_then(|name| {
            let mut tenants = (0u32..).zip(&auth.tenants);
            let found = tenants.find(|(_, tenant)| tenant.name == *name);
            found.map(|(ix, _)| TenantIx(ix))
        });
        Self {
            method: AuthMethod::Jwt,
            principal: Arc::clone(&claims.subject),
            role: claims.role,
            tenant,
            identity: named.map(|name| Identity::Tenant(Arc::clone(name))),
        }
    }

    /// Tells `caller` all that the credential says.
    pub(super) fn tell(self, caller: &mut Caller) {
        caller.method = self.method;
        caller.principal = self.principal;
        caller.role = self.role;
        caller.tenant = self.tenant;
        if let Some(identity) = self.identity {
            caller.identity = identity;
        }
    }
}

/// A credential in a form that can be judged.
pub(super) enum Shown {
    /// A token, which is good.
    Token(Arc<Claims>),
    /// A key, whosesoever.
    Key(Digest),
}

/// The credential of a request. What has the form of a token is never tried as a key where tokens are
/// configured.
///
/// # Errors
/// There is none, there are several, or it is a token and no good.
pub(super) async fn shown(snapshot: &Snapshot, headers: &HeaderMap) -> Result<Shown, Refused> {
    let auth = &snapshot.plan.auth;
    let found =
        credential::find(headers, &auth.api_key_header).map_err(|unclear| match unclear {
            Unclear::Missing => (AuthMethod::None, Why::Missing),
            Unclear::Several => (AuthMethod::ApiKey, Why::Several),
        })?;
    match verified(snapshot, found).await {
        Some(Ok(claims)) => Ok(Shown::Token(claims)),
        Some(Err(error)) => Err((AuthMethod::Jwt, Why::Token(error))),
        None => Ok(Shown::Key(found.digest())),
    }
}

/// What a credential says as a token; `None` where it is none, or none are configured.
async fn verified(
    snapshot: &Snapshot,
    shown: Credential<'_>,
) -> Option<Result<Arc<Claims>, token::TokenError>> {
    let jwt = snapshot.plan.auth.jwt.as_ref()?;
    let text = shown.token()?;
    // Boxed, so that the future of a request with a key stays small.
    Some(Box::pin(token::verify(snapshot, jwt, text)).await)
}
