//! Catches a panic of anything inside: the client gets 500, the process lives.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use tower::{Layer, Service};

use super::Arrival;
use crate::api::error::{self, ErrorCode};
use crate::serve::body::Body;
use crate::serve::error::X_SMG_ERROR_CODE;
use crate::upstream::headers::X_REQUEST_ID;

/// Adds [`Panic`].
#[derive(Clone, Copy)]
pub(crate) struct PanicLayer;

impl<S> Layer<S> for PanicLayer {
    type Service = Panic<S>;

    fn layer(&self, inner: S) -> Panic<S> {
        Panic { inner }
    }
}

/// The layer.
#[derive(Clone)]
pub(crate) struct Panic<S> {
    inner: S,
}

pin_project_lite::pin_project! {
    /// A call whose panic becomes a response.
    pub(crate) struct Caught<F> {
        #[pin]
        inner: CatchUnwind<AssertUnwindSafe<F>>,
        id: HeaderValue,
    }
}

impl<S> Service<Arrival> for Panic<S>
where
    S: Service<Arrival, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Caught<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let id = arrival.call.id.clone();
        // Whatever was half-done belonged to this request alone and is dropped with it.
        Caught {
            inner: AssertUnwindSafe(self.inner.call(arrival)).catch_unwind(),
            id,
        }
    }
}

impl<F, E> Future for Caught<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match std::task::ready!(this.inner.poll(cx)) {
            Ok(outcome) => Poll::Ready(outcome),
            Err(_) => {
                tracing::error!(request_id = ?this.id, "a request panicked");
                let message = "the gateway failed to serve this request";
                let body = error::body(ErrorCode::InternalError, 500, message, None);
                let mut response = Response::new(Body::bare(Bytes::from(body)));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let code = ErrorCode::InternalError.as_str();
                headers.insert(X_SMG_ERROR_CODE, HeaderValue::from_static(code));
                headers.insert(X_REQUEST_ID, this.id.clone());
                Poll::Ready(Ok(response))
            }
        }
    }
}
