//! Keeps the gateway's own credentials from going any further.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::credential::{self, Credential, X_API_KEY};
use super::{keys, token};
use crate::plan::{Auth, Digest};

/// Takes out of `headers` every credential that is one of the gateway's, whatever it opens; what is left
/// belongs to whoever is behind. `accepted`: the request came in by one.
pub(super) fn withhold(auth: &Auth, headers: &mut HeaderMap, accepted: bool) {
    let header = &*auth.api_key_header;
    let by_own_header = credential::has_own_header(headers, header);
    if by_own_header {
        headers.remove(header);
    }
    let accepted = accepted && !by_own_header;
    let by_bearer = accepted && credential::has_bearer(headers);
    if by_bearer || shows(auth, headers, &AUTHORIZATION) {
        replace(headers);
    }
    if accepted || shows(auth, headers, &X_API_KEY) {
        headers.remove(X_API_KEY);
    }
}

/// Takes every credential out of `headers`, whosesoever.
pub(super) fn withdraw(headers: &mut HeaderMap, own: &str) {
    headers.remove(own);
    headers.remove(AUTHORIZATION);
    headers.remove(X_API_KEY);
}

/// Policies tell clients apart by this header, so something of it stays: a piece of its hash, marked as
/// what does not go to a worker.
fn replace(headers: &mut HeaderMap) {
    let hash = headers
        .remove(AUTHORIZATION)
        .map(|value| Digest::of(value.as_bytes()).short());
    let mark = hash.and_then(|hash| HeaderValue::try_from(hash).ok());
    if let Some(mut mark) = mark {
        mark.set_sensitive(true);
        headers.insert(AUTHORIZATION, mark);
    }
}

/// Whether a line of the header `name` shows a credential of the gateway's.
fn shows(auth: &Auth, headers: &HeaderMap, name: &HeaderName) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(credential::parts)
        .any(|shown| is_ours(auth, shown))
}

/// What a token says of itself settles it. Its signature does not count: a token of somebody else's
/// must neither wait for keys of our issuer nor have them fetched, and one of ours whose time is over
/// goes no further either.
fn is_ours(auth: &Auth, shown: Credential<'_>) -> bool {
    let is_token = || {
        let jwt = auth.jwt.as_ref()?;
        Some(token::is_meant(jwt, shown.token()?))
    };
    keys::is_any(auth, &shown.digest()) || is_token().unwrap_or_default()
}
