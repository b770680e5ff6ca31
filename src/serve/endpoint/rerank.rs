//! Rerank: the worker's ranking turned into the answer of the API.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as _;

use crate::api::error::ErrorCode;
use crate::api::rerank::Request;
use crate::api::scan::Fields;
use crate::base::clock;
use crate::dispatch::Answered;
use crate::serve::body::Body;
use crate::serve::error::{Refusal, json};

/// Largest ranking that is read.
const MAX: usize = 64 * 1024 * 1024;

/// What the answer is made with.
pub(crate) struct Ranking {
    request: Request,
    model: String,
}

impl Ranking {
    /// Checks the request.
    pub(crate) fn check(
        body: &[u8],
        fields: &Fields,
        model: Option<&str>,
    ) -> Result<Self, Refusal> {
        let request = Request::check(body, fields).map_err(|refusal| {
            Refusal::bad_request(refusal.code(), refusal.to_string()).at(Some(refusal.param()))
        })?;
        Ok(Self {
            request,
            model: model.unwrap_or("unknown").to_owned(),
        })
    }
}

/// Reads the worker's ranking and answers with it.
pub(super) async fn answer(ranking: Ranking, answer: Response<Answered>) -> Response<Body> {
    let mut answered = answer.into_body();
    // A stream whose head has gone out is no ranking.
    let Some(mut memory) = answered.call().map(|call| call.snapshot.memory.none()) else {
        return Response::new(Body::bare(Bytes::new()));
    };
    let mut all = Vec::new();
    let mut broke = None;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut answered).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            broke = Some(answered.broke().map_or_else(broken_off, Refusal::from));
            break;
        };
        let data = frame.into_data().unwrap_or_default();
        if all.len() + data.len() > MAX {
            broke = Some(broken_off());
            break;
        }
        // What is made of it is about as large, and both are there for a moment.
        if !memory.grow(2 * data.len()) {
            broke = Some(Refusal::no_memory());
            break;
        }
        all.extend_from_slice(&data);
    }
    let Some(call) = answered.into_call() else {
        return Response::new(Body::bare(Bytes::new()));
    };
    if let Some(refusal) = broke {
        return refusal.into_response(call);
    }
    match ranking
        .request
        .answer(&all, &ranking.model, clock::unix().as_secs())
    {
        Ok(body) => {
            memory.shrink_to(body.len());
            json(call, StatusCode::OK, memory.around(body))
        }
        Err(bad) => Refusal::new(
            StatusCode::BAD_GATEWAY,
            bad.code(),
            "the worker's ranking is malformed",
        )
        .into_response(call),
    }
}

fn broken_off() -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        ErrorCode::ReadResponseBodyFailed,
        "the worker's ranking broke off",
    )
}
