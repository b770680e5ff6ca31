//! The limits of whoever asks: on the head, and once the body is there.

use http::header::HeaderMap;
use hyper::body::Incoming;

use crate::api::scan::Fields;
use crate::api::{self, Endpoint, Payload};
use crate::base::clock;
use crate::dispatch::Call;
use crate::serve::error::Refusal;
use crate::serve::intake;
use crate::state::Wanted;

/// Judges what needs the head alone; no byte of `body` has been read.
///
/// # Errors
/// 429 over a limit.
pub(super) fn arrive(call: &mut Call, headers: &HeaderMap, body: &Incoming) -> Result<(), Refusal> {
    if !call.snapshot.counts_callers() {
        // Not even the clock is read.
        return Ok(());
    }
    match call.snapshot.arrive(&call.caller, clock::now()) {
        Ok(stay) => {
            call.stay = stay;
            Ok(())
        }
        Err(over) => {
            let refusal = Refusal::over(over);
            Err(match intake::is_long(body, headers) {
                true => refusal.and_close(),
                false => refusal,
            })
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
    let routes = &call.snapshot.plan.routes;
    let found = routes.resolve(asked.as_deref()).ok();
    let wanted = Wanted {
        // An alias is no way around the limits of a model.
        model: found.map_or("", |found| routes.meant(&found)),
        bytes: body.len(),
        generates: endpoint.generates(),
        answers: api::answers(endpoint, body, fields),
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
