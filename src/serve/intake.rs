//! Reading a request body: once, whole, within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::StatusCode;
use http_body::Body as _;
use hyper::body::Incoming;
use std::pin::Pin;
use tokio::time::timeout;

use super::error::Refusal;
use crate::api::error::ErrorCode;
use crate::base::clock;
use crate::plan::Limits;

/// A body is given this long before its rate is judged.
const GRACE: Duration = Duration::from_secs(10);

/// Most that is set aside on a client's word alone.
const TRUSTED: usize = 1024 * 1024;

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

/// Reads `body` to its end. A body that arrives in one piece is not copied.
///
/// # Errors
/// 413 above `max` bytes; 408 when it stalls or creeps; 400 when it breaks off.
pub(crate) async fn read(
    mut body: Incoming,
    max: usize,
    limits: &Limits,
) -> Result<Bytes, Refusal> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let started = clock::now();
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
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
        match rest.as_mut() {
            Some(all) => all.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut all = BytesMut::with_capacity(declared.clamp(length, TRUSTED.max(length)));
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                rest = Some(all);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
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
