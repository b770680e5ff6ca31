//! The bodies of the admin routes: small, whole, JSON.

use http::HeaderMap;
use hyper::body::Incoming;

use crate::dispatch::Call;
use crate::serve::endpoint::check_type;
use crate::serve::error::Refusal;
use crate::serve::gate::Gate;
use crate::serve::intake;

/// Bytes that such a body may have.
const MAX: usize = 1024 * 1024;

/// Reads a body to its end. One that is there says that it is JSON: a browser asks before it sends
/// that to another site.
///
/// # Errors
/// Where it is too large, too slow, or called something else, or there is no memory for it.
pub(super) async fn read(
    gate: &Gate,
    call: &Call,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Vec<u8>, Refusal> {
    let server = &call.snapshot.plan.server;
    let (max, by) = (
        server.max_payload.min(MAX),
        call.started + server.request_timeout,
    );
    intake::check_declared(&body, max)?;
    let memory = &call.snapshot.memory;
    let taken = intake::read(body, memory, max, by, &gate.listener.limits).await?;
    let whole = taken.payload.pieces().concat();
    if !whole.is_empty() {
        check_type(headers)?;
    }
    Ok(whole)
}
