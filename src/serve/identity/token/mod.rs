//! Tokens of an identity provider.

mod form;
mod said;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{DecodingKey, crypto};
use tokio::time::timeout;

use self::form::Form;
use self::said::Said;
use crate::base::clock;
use crate::live::Snapshot;
use crate::plan::{Digest, Jwt};
use crate::state::{Found, Held, IssuerCell};

pub(crate) use crate::state::Claims;

/// Longer tokens are not looked at.
const LONGEST: usize = 16 * 1024;

/// How long a token with an unknown key waits for newer keys.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a token is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// The keys of the issuer cannot be had now.
    #[error("the keys of the issuer cannot be had")]
    Unavailable,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not yet valid")]
    NotYetValid,
    /// Somebody else made it.
    #[error("issuer")]
    Issuer,
    /// It was made for somebody else.
    #[error("audience")]
    Audience,
    /// It is not what was signed.
    #[error("signature")]
    Signature,
    /// It is signed in a way that is not accepted.
    #[error("algorithm")]
    Algorithm,
    /// The issuer has no such key.
    #[error("unknown key")]
    UnknownKey,
    /// It is no token.
    #[error("malformed")]
    Malformed,
    /// It would be good for ever.
    #[error("missing exp")]
    MissingExp,
}

/// What `token` would say by `jwt` at `now`, in time since the Unix epoch, if its signature were good,
/// and until when. It lets nobody in: it is there for tests that make tokens up.
#[doc(hidden)]
pub fn read_unverified(jwt: &Jwt, token: &str, now: Duration) -> Option<(Claims, Duration)> {
    let form = Form::read(token).ok()?;
    Said::read(form.payload).ok()?.judge(jwt, now).ok()
}

/// Whether `token` says that it is one of those that `jwt` accepts, true or not, in its time or not.
/// Every token that [`verify`] accepts says so.
pub(super) fn is_meant(jwt: &Jwt, token: &str) -> bool {
    let payload = token.split('.').nth(1).filter(|_| token.len() <= LONGEST);
    let said = payload.and_then(|payload| Said::read(payload).ok());
    said.is_some_and(|said| said.is_meant(jwt))
}

/// What `token` says, once it has been verified against `jwt`, which must come from the plan of
/// `snapshot`. A token that has been verified before costs a hash and a look-up.
///
/// Cancel safety: nothing is lost but the wish for newer keys, which others may share.
///
/// # Errors
/// Why it is no good.
pub(crate) async fn verify(
    snapshot: &Snapshot,
    jwt: &Jwt,
    token: &str,
) -> Result<Arc<Claims>, TokenError> {
    let issuer = snapshot.issuer().ok_or(TokenError::Unavailable)?;
    let held = held(&issuer.cell)?;
    if token.len() > LONGEST {
        return Err(TokenError::Malformed);
    }
    let digest = Digest::of(token.as_bytes());
    if let Some(claims) = issuer.vouched.get(&digest, held.epoch, clock::unix()) {
        return Ok(claims);
    }
    let form = Form::read(token)?;
    let held = match held.keys.find(&form.kid, form.algorithm) {
        Found::Nowhere => newer(&issuer.cell, held).await?,
        Found::Key(_) | Found::Otherwise => held,
    };
    let said = read_signed(&form, key(&held, &form)?)?;
    let (claims, until) = said.judge(jwt, clock::unix())?;
    let claims = Arc::new(claims);
    issuer.vouched.put(digest, &claims, held.epoch, until);
    Ok(claims)
}

fn held(cell: &IssuerCell) -> Result<Held, TokenError> {
    cell.held(clock::now()).ok_or(TokenError::Unavailable)
}

/// The keys after the next fetch, if there may be one, else those of before.
async fn newer(cell: &IssuerCell, before: Held) -> Result<Held, TokenError> {
    let Some(wish) = cell.wish(clock::now()) else {
        return Ok(before);
    };
    // Late is as good as never: the token is judged by the keys there are.
    timeout(PATIENCE, wish.served()).await.ok();
    held(cell)
}

fn key<'a>(held: &'a Held, form: &Form<'_>) -> Result<&'a DecodingKey, TokenError> {
    match held.keys.find(&form.kid, form.algorithm) {
        Found::Key(key) => Ok(key),
        Found::Otherwise => Err(TokenError::Algorithm),
        Found::Nowhere => Err(TokenError::UnknownKey),
    }
}

/// The claims, which nothing looks at before the signature has been found good.
fn read_signed(form: &Form<'_>, key: &DecodingKey) -> Result<Said, TokenError> {
    let signed = form.signed.as_bytes();
    match crypto::verify(form.signature, signed, key, form.algorithm) {
        Ok(true) => Said::read(form.payload),
        Ok(false) | Err(_) => Err(TokenError::Signature),
    }
}
