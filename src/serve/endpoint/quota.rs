//! The limits of whoever asks: on the head, and once the body is there.

use http_body::Body as _;
use hyper::body::Incoming;

use crate::api::scan::Fields;
use crate::api::{self, Endpoint, Payload};
use crate::base::clock;
use crate::dispatch::Call;
use crate::serve::error::Refusal;
use crate::state::Wanted;

/// The rest of a body that is longer is not waited for, to keep a connection.
const SHORT: u64 = 16 * 1024;

/// Judges what needs the head alone; no byte of `body` has been read.
///
/// # Errors
/// 429 over a limit.
pub(super) fn arrive(call: &mut Call, body: &Incoming) -> Result<(), Refusal> {
    match call.snapshot.arrive(&call.caller, clock::now()) {
        Ok(stay) => {
            call.stay = stay;
            Ok(())
        }
        Err(over) => {
            let refusal = Refusal::over(over);
            let length = body.size_hint().upper();
            if length.is_some_and(|length| length <= SHORT) {
                Err(refusal)
            } else {
                Err(refusal.and_close())
            }
        }
    }
}

/// Judges what needs the body, and reserves what the call is expected to cost.
///
/// # Errors
/// 429 over a limit; what the call had taken is given back.
pub(super) fn reserve(
    call: &mut Call,
    endpoint: Endpoint,
    body: &Payload,
    fields: &Fields,
) -> Result<(), Refusal> {
    let Some(stay) = call.stay.as_mut().filter(|stay| stay.reads_body()) else {
        return Ok(());
    };
    let asked = fields.model.and_then(|span| body.text(span));
    let found = call.snapshot.plan.routes.resolve(asked.as_deref()).ok();
    // An alias is no way around the limits of a model.
    let canonical = found.and_then(|found| Some(&**found.canonical?));
    let label = call.routed.as_ref().map(|routed| &*routed.label);
    let wanted = Wanted {
        model: canonical
            .or(asked.as_deref().filter(|name| !name.is_empty()))
            .or(label)
            .unwrap_or_default(),
        bytes: body.len(),
        generates: endpoint.generates(),
        most: api::ceiling(endpoint, body, fields),
    };
    stay.reserve(&wanted, clock::now()).map_err(Refusal::over)
}

/// Whether the usage of a stream is to be asked for on the gateway's own account.
pub(super) fn asks_usage(call: &Call, endpoint: Endpoint, fields: &Fields) -> bool {
    call.stay.as_ref().is_some_and(|stay| stay.needs_usage())
        && matches!(endpoint, Endpoint::Chat | Endpoint::Completions)
        && fields.streaming()
        && fields.include_usage != Some(true)
}
