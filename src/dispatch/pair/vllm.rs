//! vLLM: prefill answers first, and what it says about its KV cache goes on to decode.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use tokio::time::{Instant as TokioInstant, timeout_at};

use super::super::Job;
use super::super::attempt::{Held, Tried, deadline, dialect, first_event, is_event_stream};
use super::super::call::Call;
use super::super::error::{Deadline, Fault, Shortage};
use super::super::reply::Reply;
use super::leg::{Letter, Lost};
use super::{Pair, VLLM, count_mode, record_prefill};
use crate::api::members::{Changes, Outline, parameters};
use crate::api::usage::Finder;
use crate::api::{Endpoint, Payload, sse};
use crate::base::clock;
use crate::plan::Role;
use crate::policy::Refused;
use crate::state::Reservation;
use crate::telemetry::metrics::{self as names, Metric};

/// An answer of prefill above this is none.
const MAX: usize = 64 * 1024 * 1024;

/// Tells prefill that another worker will fetch what it computes.
const FETCHED: &[u8] = br#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

pub(super) async fn attempt(
    call: &mut Call,
    job: &Job,
    mut pair: Pair<'_>,
    outline: &Outline,
    release: Option<Duration>,
) -> Tried {
    let timeouts = &pair.route.timeouts;
    let first_by = if job.streaming {
        pair.total_by.min(pair.sent + timeouts.first_token)
    } else {
        pair.total_by
    };
    let letter = Letter::new(
        call,
        job,
        pair.prefill,
        timeouts.connect,
        for_prefill(job, outline),
    );
    let late = if first_by == pair.total_by {
        Deadline::Total
    } else {
        Deadline::FirstToken
    };
    let (answer, _memory) = match prefill(&letter, first_by, late).await {
        Ok(prefilled) => prefilled,
        Err(lost) => {
            letter.failed(&lost, &mut pair.prefill_guard);
            return Tried::Leg(lost);
        }
    };
    let handed_over = clock::now();
    pair.prefill_guard.prefilled(handed_over);
    letter.succeeded(&mut pair.prefill_guard);
    drop(pair.prefill_guard);
    record_prefill(&pair.model, VLLM, pair.sent);
    let Some(routed) = call.routed.as_mut() else {
        return Tried::Nobody(Refused::Nobody);
    };
    if let Some(prefilling) = routed.prefill.as_mut() {
        prefilling.complete = true;
        prefilling.usage = Finder::find(&answer);
        prefilling.handed_over = Some(handed_over);
        prefilling.done = Some(handed_over);
    }
    if let Some(trace) = call.trace.as_mut() {
        trace.sent(Role::Decode, handed_over);
    }
    let body = for_decode(job, outline, &answer);
    let letter = Letter::new(call, job, pair.decode, timeouts.connect, body);
    let by = deadline(job.streaming, handed_over, timeouts, pair.total_by).min(first_by);
    let late = if by == pair.total_by {
        Deadline::Total
    } else if by == first_by {
        Deadline::FirstToken
    } else {
        Deadline::Headers
    };
    let (mut parts, answer) = match letter.post(by, late).await {
        Ok(head) => head,
        Err(lost) => {
            letter.failed(&lost, &mut pair.decode_guard);
            return Tried::Leg(lost);
        }
    };
    let Some(routed) = call.routed.as_mut() else {
        return Tried::Nobody(Refused::Nobody);
    };
    routed.head = Some(clock::now());
    if let Some(trace) = call.trace.as_mut() {
        trace.answered(parts.status);
    }
    let streams = is_event_stream(&parts.headers);
    if streams {
        parts.headers.remove(CONTENT_LENGTH);
    }
    let held = Box::new(Held {
        parts,
        answer: Reply::One(answer),
        guard: pair.decode_guard,
        worker: pair.decode.ix,
        sse: streams.then(|| sse::Reader::new(dialect(job.endpoint))),
        queued: Vec::new(),
        memory: None,
        ended: false,
        health: Arc::clone(&pair.decode.parts.health),
        first_by,
        said_error: false,
    });
    let release = release.map(|wait| clock::now() + wait);
    first_event(&call.snapshot, routed, held, pair.total_by, release).await
}

/// Sends prefill its part and reads its answer.
async fn prefill(
    letter: &Letter,
    by: Instant,
    late: Deadline,
) -> Result<(Vec<u8>, Reservation), Box<Lost>> {
    let whole = async {
        let (_, mut answer) = letter.post(by, late).await?;
        let mut all = Vec::new();
        let mut memory = letter.memory().none();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
            let frame = frame.map_err(|_| letter.lost(Fault::BrokeOff))?;
            let data = frame.into_data().unwrap_or_default();
            if all.len() + data.len() > MAX {
                return Err(letter.lost(Fault::Malformed));
            }
            if !memory.grow(data.len()) {
                return Err(letter.lost(Fault::Short(Shortage::Memory)));
            }
            all.extend_from_slice(&data);
        }
        Ok((all, memory))
    };
    tokio::select! {
        biased;
        answer = timeout_at(TokioInstant::from_std(by), whole) => {
            answer.unwrap_or_else(|_| Err(letter.lost(Fault::Timeout(late))))
        }
        lost = letter.worker_lost() => Err(lost),
    }
}

/// The request for one token, which is as far as prefill goes.
fn for_prefill(job: &Job, outline: &Outline) -> Payload {
    const ONE: Bytes = Bytes::from_static(b"1");
    let mut changes = Changes::new(outline);
    if job.endpoint == Endpoint::Responses {
        changes.set("max_output_tokens", ONE);
    } else {
        changes.set("max_tokens", ONE);
    }
    // An engine refuses fewer tokens at most than at least.
    for name in ["max_completion_tokens", "min_tokens"] {
        changes.amend(name, ONE);
    }
    changes.set("stream", "false");
    changes.remove("stream_options");
    changes.set("kv_transfer_params", FETCHED);
    changes.apply(&job.body)
}

/// The client's own request, with the parameters of prefill's `answer`.
fn for_decode(job: &Job, outline: &Outline, answer: &[u8]) -> Payload {
    let mut changes = Changes::new(outline);
    match parameters(answer, "kv_transfer_params") {
        Some(parameters) => {
            count_mode("kv_transfer_params");
            changes.set("kv_transfer_params", parameters.to_vec());
        }
        None => {
            count_mode("none");
            names::counter(Metric::PdKvTransferFailures, &[]).increment(1);
            tracing::warn!(
                model = &*job.model,
                "a prefill worker gave no `kv_transfer_params`; decode computes the prompt again"
            );
            changes.remove("kv_transfer_params");
        }
    }
    changes.apply(&job.body)
}
