//! Tokens of an identity provider.

use std::sync::Arc;

use crate::live::Snapshot;
use crate::plan::{Jwt, OperatorRole};

/// What a token that has been verified says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Whom it was made for.
    pub(crate) subject: Arc<str>,
    /// What its bearer may do on the control plane.
    pub(crate) role: Option<OperatorRole>,
    /// The tenant that it names.
    pub(crate) tenant: Option<Arc<str>>,
}

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

/// What `token` says, once it has been verified against `jwt`.
///
/// # Errors
/// Why it is no good.
pub(crate) async fn verify(
    _snapshot: &Snapshot,
    _jwt: &Jwt,
    _token: &str,
) -> Result<Arc<Claims>, TokenError> {
    Err(TokenError::Unavailable)
}
