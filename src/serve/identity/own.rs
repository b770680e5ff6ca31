//! Keeps the gateway's own credentials from going any further.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::credential::{self, Credential, X_API_KEY};
use super::data::verified;
use super::keys;
use super::token::TokenError;
use crate::live::Snapshot;
use crate::plan::Digest;

/// Takes out of `headers` every credential that is one of the gateway's, whatever it opens; what is left
/// belongs to whoever is behind. `accepted`: the request came in by one.
pub(super) async fn withhold(snapshot: &Snapshot, headers: &mut HeaderMap, accepted: bool) {
    let header = &*snapshot.plan.auth.api_key_header;
    let by_own_header = credential::has_own_header(headers, header);
    if by_own_header {
        headers.remove(header);
    }
    let accepted = accepted && !by_own_header;
    let by_bearer = accepted && credential::has_bearer(headers);
    if by_bearer || shows(snapshot, headers, &AUTHORIZATION).await {
        replace(headers);
    }
    if accepted || shows(snapshot, headers, &X_API_KEY).await {
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
async fn shows(snapshot: &Snapshot, headers: &HeaderMap, name: &HeaderName) -> bool {
    for value in headers.get_all(name) {
        for part in credential::parts(value) {
            if is_ours(snapshot, part).await {
                return true;
            }
        }
    }
    false
}

/// A token that cannot be judged now may be ours, and counts as such.
async fn is_ours(snapshot: &Snapshot, shown: Credential<'_>) -> bool {
    if keys::is_any(&snapshot.plan.auth, &shown.digest()) {
        return true;
    }
    matches!(
        verified(snapshot, shown).await,
        Some(Ok(_) | Err(TokenError::Unavailable))
    )
}
