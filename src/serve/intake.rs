//! Reading a request body: once, whole, within its limits.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::StatusCode;
use http_body::Body as _;
use hyper::body::Incoming;
use std::pin::Pin;
use tokio::time::timeout;

use super::error::Refusal;
use crate::api::Payload;
use crate::api::error::ErrorCode;
use crate::api::skim::Skimmer;
use crate::base::clock;
use crate::plan::Limits;

/// A body is given this long before its rate is judged.
const GRACE: Duration = Duration::from_secs(10);

/// Refuses a body that declares itself larger than `max` bytes, before a byte of it is read.
///
/// # Errors
/// 413 with the limit in the message.
pub(crate) fn check_declared(body: &Incoming, max: usize) -> Result<(), Refusal> {
    let declared = body.size_hint().lower();
    if declared > max as u64 {
        Err(too_large(max))
    } else {
        Ok(())
    }
}

/// A body that has been read.
pub(crate) struct Taken {
    /// The body.
    pub(crate) payload: Payload,
    /// What was seen of it on the way, where it came in more than one piece.
    pub(crate) skimmed: Option<Skimmer>,
}

/// Reads `body` to its end. Nothing is copied: it stays in the pieces in which it came.
///
/// # Errors
/// 413 above `max` bytes; 408 when it stalls or creeps; 400 when it breaks off.
pub(crate) async fn read(
    mut body: Incoming,
    max: usize,
    limits: &Limits,
) -> Result<Taken, Refusal> {
    let declared = body.size_hint().exact();
    let started = clock::now();
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut skimmed: Option<Skimmer> = None;
    let mut length = 0_usize;
    while !body.is_end_stream() {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = if limits.body_timeout.is_zero() {
            next.await
        } else {
            timeout(limits.body_timeout, next)
                .await
                .map_err(|_| stalled())?
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Refusal::bad_request(ErrorCode::InvalidJson, "the request body broke off").and_close()
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length > max {
            return Err(too_large(max));
        }
        if limits.min_body_rate > 0 {
            let elapsed = clock::now().saturating_duration_since(started);
            if elapsed > GRACE && (length as u64) < limits.min_body_rate * elapsed.as_secs() {
                return Err(stalled());
            }
        }
        if pieces.is_empty() && declared == Some(data.len() as u64) {
            return Ok(Taken {
                payload: data.into(),
                skimmed: None,
            });
        }
        // Each piece is looked at while it is fresh.
        skimmed.get_or_insert_default().feed(&data);
        pieces.push(data);
    }
    Ok(Taken {
        payload: Payload::new(pieces),
        skimmed,
    })
}

fn too_large(max: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RequestBodyTooLarge,
        format!("the request body is larger than {max} bytes"),
    )
    .and_close()
}

fn stalled() -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        ErrorCode::RequestBodyTimeout,
        "the request body came too slowly",
    )
    .and_close()
}
