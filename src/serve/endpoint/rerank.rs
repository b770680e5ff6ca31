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
    let mut all = Vec::new();
    let mut whole = true;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut answered).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            whole = false;
            break;
        };
        all.extend_from_slice(&frame.into_data().unwrap_or_default());
        if all.len() > MAX {
            whole = false;
            break;
        }
    }
    let Some(call) = answered.into_call() else {
        return Response::new(Body::bare(Bytes::new()));
    };
    if !whole {
        let message = "the worker's ranking broke off";
        return Refusal::new(
            StatusCode::BAD_GATEWAY,
            ErrorCode::ReadResponseBodyFailed,
            message,
        )
        .into_response(call);
    }
    match ranking
        .request
        .answer(&all, &ranking.model, clock::unix().as_secs())
    {
        Ok(body) => json(call, StatusCode::OK, body),
        Err(bad) => Refusal::new(
            StatusCode::BAD_GATEWAY,
            bad.code(),
            "the worker's ranking is malformed",
        )
        .into_response(call),
    }
}
