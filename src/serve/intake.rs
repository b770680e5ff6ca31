//! Reading a request body: once, whole, within its limits.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::StatusCode;
use http::header::{EXPECT, HeaderMap};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::Pin;
use tokio::time::{Instant as TokioInstant, timeout, timeout_at};

use super::error::Refusal;
use super::gate::Gate;
use crate::api::Payload;
use crate::api::error::ErrorCode;
use crate::api::skim::Skimmer;
use crate::base::clock;
use crate::plan::Limits;
use crate::state::{Allowance, Reservation};

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

/// Whether more may come of a body than is worth reading only to throw it away.
pub(crate) fn is_long(body: &Incoming, headers: &HeaderMap) -> bool {
    const SHORT: u64 = 64 * 1024;
    let length = body.size_hint().exact();
    headers.contains_key(EXPECT) || length.is_none_or(|length| length > SHORT)
}

/// Takes the rest of a short body that nobody wants, over HTTP/2: a refusal that overtakes it resets the
/// stream, and some clients then lose the answer. HTTP/1 reads on by itself, or lingers.
pub(crate) async fn discard(gate: &Gate, headers: &HeaderMap, mut body: Incoming) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let multiplexed = gate.standing.multiplexed.load(Ordering::Relaxed);
    if !multiplexed || body.is_end_stream() || is_long(&body, headers) {
        return;
    }
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // What has not come by then is not waited for.
    timeout(PATIENCE, rest).await.ok();
}

/// A body that has been read.
pub(crate) struct Taken {
    /// The body.
    pub(crate) payload: Payload,
    /// What was seen of it on the way, where it came in more than one piece.
    pub(crate) skimmed: Option<Skimmer>,
    /// What it takes up.
    pub(crate) memory: Reservation,
}

/// Reads `body` to its end, until `by`. It stays in the pieces in which it came; only small ones are
/// put together, since each piece has a price in memory and on its way to the worker.
///
/// What it declares is reserved of `memory` before anything is read, and before a client that waits
/// for a 100 gets it; what it does not declare, as it comes.
///
/// # Errors
/// 413 above `max` bytes; 503 without memory for it; 408 when it stalls or creeps; 400 when it breaks
/// off.
pub(crate) async fn read(
    mut body: Incoming,
    memory: &Allowance,
    max: usize,
    by: Instant,
    limits: &Limits,
) -> Result<Taken, Refusal> {
    let declared = body.size_hint().exact();
    let mut memory = reserve(memory, declared)?;
    let started = clock::now();
    let mut pieces = Pieces::default();
    let mut length = 0_usize;
    while !body.is_end_stream() {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let now = clock::now();
        let mut until = by;
        if !limits.body_timeout.is_zero() {
            until = until.min(now + limits.body_timeout);
        }
        let frame = timeout_at(TokioInstant::from_std(until), next)
            .await
            .map_err(|_| stalled())?;
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
        if declared.is_none() && !memory.grow(data.len()) {
            return Err(Refusal::no_memory().and_close());
        }
        if limits.min_body_rate > 0 {
            let elapsed = now.saturating_duration_since(started);
            let least = limits.min_body_rate.saturating_mul(elapsed.as_secs());
            if elapsed > GRACE && (length as u64) < least {
                return Err(stalled());
            }
        }
        if pieces.is_empty() && declared == Some(data.len() as u64) {
            return Ok(Taken {
                payload: data.into(),
                skimmed: None,
                memory,
            });
        }
        pieces.push(data);
    }
    Ok(pieces.take(memory))
}

/// Memory for all that a body declares; for none of one that does not.
fn reserve(memory: &Allowance, declared: Option<u64>) -> Result<Reservation, Refusal> {
    let declared = usize::try_from(declared.unwrap_or(0)).unwrap_or(usize::MAX);
    memory
        .try_reserve(declared)
        .ok_or_else(|| Refusal::no_memory().and_close())
}

/// Below this a piece is copied together with its neighbours.
const SMALL: usize = 4 * 1024;

/// What is copied together until it has this size.
const FULL: usize = 64 * 1024;

/// The pieces so far.
#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    small: BytesMut,
    skimmer: Skimmer,
}

impl Pieces {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.small.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
            if self.small.len() < FULL {
                return;
            }
        }
        self.flush();
        if data.len() >= SMALL {
            // Looked at while it is fresh.
            self.skimmer.feed(&data);
            self.whole.push(data);
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            let together = self.small.split().freeze();
            self.skimmer.feed(&together);
            self.whole.push(together);
        }
    }

    fn take(mut self, memory: Reservation) -> Taken {
        self.flush();
        let skimmed = (self.whole.len() > 1).then_some(self.skimmer);
        Taken {
            payload: Payload::new(self.whole),
            skimmed,
            memory,
        }
    }
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
