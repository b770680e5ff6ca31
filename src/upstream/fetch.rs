//! The gateway's own small requests to a worker: probes, metadata, cache flushes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use std::pin::Pin;

use super::headers;
use super::http::{self as wire, Break, Failure};
use crate::api::payload::Sending;
use crate::live::WorkerRef;
use crate::plan::Connections;

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No head.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// No whole answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The body broke off.
    #[error("the answer broke off: {0}")]
    BrokeOff(#[source] Break),
    /// More bytes than anybody wants.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The path is no request target.
    #[error("`{0}` is no path")]
    Path(String),
}

/// A whole answer.
#[derive(Debug)]
pub struct Fetched {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Asks `worker` for `path` (below its base path), with the worker's own credential, and reads the
/// answer whole, up to `max` bytes.
///
/// Cancel safety: dropping the future ends the exchange.
///
/// # Errors
/// [`FetchError`]; an answer with any status is an answer.
pub async fn fetch(
    worker: WorkerRef<'_>,
    limits: Connections,
    method: Method,
    path: &str,
    timeout: Duration,
    max: usize,
) -> Result<Fetched, FetchError> {
    let target = format!("{}{path}", worker.plan.base_path);
    let uri: Uri = target.parse().map_err(|_| FetchError::Path(target))?;
    let request = || {
        let mut request = Request::new(Sending::default());
        request.method_mut().clone_from(&method);
        request.uri_mut().clone_from(&uri);
        *request.headers_mut() = headers::own(worker);
        request
    };
    let whole = async {
        let response = wire::send(worker, limits, timeout / 10 * 9, request).await?;
        let (mut head, mut body) = response.into_parts();
        headers::clean_answer(&mut head.headers);
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let data = frame
                .map_err(FetchError::BrokeOff)?
                .into_data()
                .unwrap_or_default();
            if all.len() + data.len() > max {
                return Err(FetchError::TooLarge(max));
            }
            all.extend_from_slice(&data);
        }
        Ok(Fetched {
            status: head.status,
            headers: head.headers,
            body: all.into(),
        })
    };
    tokio::time::timeout(timeout, whole)
        .await
        .unwrap_or(Err(FetchError::Timeout(timeout)))
}
