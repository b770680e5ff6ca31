//! SGLang: both legs get the same body at once and meet in a room that it names.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::header::CONTENT_LENGTH;

use super::super::Job;
use super::super::attempt::{Held, Tried, deadline, dialect, first_event, is_event_stream};
use super::super::call::Call;
use super::super::error::Deadline;
use super::super::reply::Reply;
use super::joint::{Joint, Merge, Side};
use super::leg::Letter;
use super::prefill::Prefill;
use super::{Pair, count_mode};
use crate::api::logprobs::Lines;
use crate::api::members::{Changes, Outline, batch};
use crate::api::{Endpoint, Payload, quoted, sse};
use crate::base::clock;
use crate::policy::Refused;

/// Rooms are numbers below this.
const ROOMS: u64 = (1 << 63) - 1;

pub(super) async fn attempt(
    call: &mut Call,
    job: &Job,
    mut pair: Pair<'_>,
    outline: &Outline,
    release: Option<Duration>,
) -> Tried {
    count_mode("bootstrap");
    let timeouts = &pair.route.timeouts;
    let [first, second] = with_room(job, outline, &pair);
    let gather = job.endpoint == Endpoint::Generate && wants_logprobs(&job.body, outline);
    let by = deadline(job.streaming, pair.sent, timeouts, pair.total_by);
    let late = if by == pair.total_by {
        Deadline::Total
    } else {
        Deadline::Headers
    };
    let prefill = Prefill {
        letter: Letter::new(call, job, pair.prefill, timeouts.connect, first),
        guard: pair.prefill_guard,
        model: Arc::clone(&pair.model),
        sent: pair.sent,
        head_by: (by, late),
        dialect: dialect(job.endpoint),
        gather,
    };
    let mut side = Side::Running(prefill.run());
    let head = {
        let letter = Letter::new(call, job, pair.decode, timeouts.connect, second);
        let mut decode = pin!(letter.post(by, late));
        poll_fn(|cx| {
            if let Poll::Ready(head) = decode.as_mut().poll(cx) {
                return Poll::Ready(head);
            }
            match side.poll(cx) {
                Poll::Ready(Err(lost)) => Poll::Ready(Err(lost)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    };
    let (mut parts, answer) = match head {
        Ok(head) => head,
        Err(lost) => {
            if lost.worker == pair.decode.ix {
                lost.tell(&call.snapshot, &mut pair.decode_guard);
            }
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
    if streams || gather {
        parts.headers.remove(CONTENT_LENGTH);
    }
    let merge = match (gather, streams) {
        (false, _) => Merge::Off,
        (true, false) => Merge::Whole(Vec::new()),
        (true, true) => Merge::Events(Lines::default()),
    };
    let held = Box::new(Held {
        parts,
        answer: Reply::Pair(Box::new(Joint::new(
            answer,
            side,
            merge,
            call.snapshot.memory.none(),
        ))),
        guard: pair.decode_guard,
        worker: pair.decode.ix,
        sse: streams.then(|| sse::Reader::new(dialect(job.endpoint))),
        queued: Vec::new(),
        memory: None,
        ended: false,
        health: Arc::clone(&pair.decode.parts.health),
        first_by: if job.streaming {
            pair.sent + timeouts.first_token
        } else {
            pair.total_by
        },
        said_error: false,
    });
    let release = release.map(|wait| clock::now() + wait);
    first_event(&call.snapshot, routed, held, pair.total_by, release).await
}

/// The bodies for both legs, with a room of their own, or with one for each element of a batch. What
/// the client says about rooms and ranks does not count: two requests in one room bring engines down.
fn with_room(job: &Job, outline: &Outline, pair: &Pair<'_>) -> [Payload; 2] {
    let prefill = pair.prefill.plan;
    let host = quoted(&prefill.host);
    let port = prefill
        .bootstrap_port
        .map_or_else(|| b"null".to_vec(), |port| port.to_string().into_bytes());
    let room = || fastrand::u64(..ROOMS).to_string().into_bytes();
    let (host, port, room): (Bytes, Bytes, Bytes) = match size(job) {
        None => (host.into(), port.into(), room().into()),
        Some(size) => (
            list(size, || host.clone()),
            list(size, || port.clone()),
            list(size, room),
        ),
    };
    let mut both = Changes::new(outline);
    both.set("bootstrap_host", host);
    both.set("bootstrap_port", port);
    both.set("bootstrap_room", room);
    let (read_by, own) = (prefill.key.rank(), pair.decode.plan.key.rank());
    if read_by.is_none() && own.is_none() {
        let body = both.apply(&job.body);
        return [body.clone(), body];
    }
    let of = |mut changes: Changes<'_>, ranks: [(&'static str, Option<u32>); 3]| {
        for (name, rank) in ranks {
            match rank {
                Some(rank) => changes.set(name, rank.to_string()),
                None => changes.amend(name, "null"),
            }
        }
        changes.apply(&job.body)
    };
    [
        of(
            both.clone(),
            [
                ("data_parallel_rank", None),
                ("routed_dp_rank", read_by),
                ("disagg_prefill_dp_rank", None),
            ],
        ),
        of(
            both,
            [
                ("data_parallel_rank", None),
                ("routed_dp_rank", own),
                ("disagg_prefill_dp_rank", read_by),
            ],
        ),
    ]
}

/// How many requests in one it is; `None` where it is none but itself.
fn size(job: &Job) -> Option<usize> {
    let fields = &job.fields;
    let many = |span: Option<_>| span.and_then(|span| batch(&job.original, span));
    let batched = match job.endpoint {
        Endpoint::Completions => many(fields.prompt),
        Endpoint::Generate => many(fields.text).or_else(|| many(fields.input_ids)),
        _ => None,
    };
    let answers = fields
        .n
        .filter(|n| *n > 1)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|_| matches!(job.endpoint, Endpoint::Chat | Endpoint::Completions));
    // As many rooms as nobody asks for would only cost memory; the worker refuses such a request.
    batched.or(answers).map(|size| size.min(MOST))
}

/// Most rooms that are made for one request.
const MOST: usize = 65_536;

fn list(size: usize, mut element: impl FnMut() -> Vec<u8>) -> Bytes {
    let mut out = vec![b'['];
    for index in 0..size {
        if index > 0 {
            out.push(b',');
        }
        out.extend(element());
    }
    out.push(b']');
    out.into()
}

/// Whether the client wants logprobs, which both legs then have in part.
fn wants_logprobs(body: &Payload, outline: &Outline) -> bool {
    ["return_logprob", "logprobs"].into_iter().any(|name| {
        let value = outline.value(name).and_then(|span| body.raw(span));
        value.is_some_and(|value| !matches!(&*value, b"null" | b"false" | b"0"))
    })
}
