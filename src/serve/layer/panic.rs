//! Catches a panic of anything inside: the client gets 500, the process lives. Where the head has gone
//! out already, the answer breaks off.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use tower::{Layer, Service};

use super::Arrival;
use crate::api::error::{self, ErrorCode};
use crate::dispatch::{Call, RelayError};
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

/// Polls `body`, which is there until it panics; then the answer breaks off in the way of any that its
/// worker leaves, and the other streams of an HTTP/2 connection go on. `call` finds what the panic is
/// counted with.
pub(crate) fn poll_caught<B>(
    body: &mut Option<B>,
    cx: &mut Context<'_>,
    call: impl FnOnce(&mut B) -> Option<&mut Call>,
) -> Poll<Option<Result<Frame<Bytes>, RelayError>>>
where
    B: HttpBody<Data = Bytes, Error = RelayError> + Unpin,
{
    let Some(inner) = body else {
        return Poll::Ready(None);
    };
    if let Ok(polled) = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *inner).poll_frame(cx))) {
        return polled;
    }
    // Without one it has ended with what panicked, and has been counted there.
    if let Some(call) = call(inner) {
        tracing::error!(request_id = ?call.id, "an answer panicked");
        call.status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        call.error_code = ErrorCode::InternalError.as_str();
    }
    *body = None;
    Poll::Ready(Some(Err(RelayError)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use http::{Method, Request};
    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use parking_lot::Mutex;
    use tower::service_fn as tower_fn;

    use super::*;
    use crate::base::task;
    use crate::live::Live;
    use crate::serve::idle::live;

    /// Status and code with which calls were counted.
    static COUNTED: Mutex<Vec<(String, u16, &str)>> = Mutex::new(Vec::new());

    fn call(live: &Arc<Live>, id: &'static str) -> Box<Call> {
        let id = HeaderValue::from_static(id);
        let mut call = Call::start(live, live.load(), Method::GET, "other", "/x", id);
        call.observe = Some(|call, _| {
            let counted = (call.id_str().to_owned(), call.status, call.error_code);
            COUNTED.lock().push(counted);
        });
        Box::new(call)
    }

    fn counted(id: &str) -> Vec<(u16, &'static str)> {
        let counted = COUNTED.lock();
        let of = counted.iter().filter(|(known, ..)| known == id);
        of.map(|(_, status, code)| (*status, *code)).collect()
    }

    /// An answer that says one thing, waits until that has gone out, and panics.
    struct Failing {
        polled: u8,
        call: Box<Call>,
    }

    impl HttpBody for Failing {
        type Data = Bytes;
        type Error = RelayError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
            self.polled += 1;
            match self.polled {
                1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"first"))))),
                2 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                _ => panic!("this answer fails on purpose"),
            }
        }
    }

    struct Caught(Option<Failing>);

    impl HttpBody for Caught {
        type Data = Bytes;
        type Error = RelayError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
            poll_caught(&mut self.0, cx, |failing| Some(&mut *failing.call))
        }
    }

    /// What a client reads of the answer that `serve` gives, over HTTP/1 or HTTP/2.
    async fn ask<S, F, B>(h2: bool, serve: S) -> (Response<()>, Result<Bytes, hyper::Error>)
    where
        S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: HttpBody<Data = Bytes, Error = RelayError> + Send + 'static,
    {
        let (near, far) = tokio::io::duplex(64 * 1024);
        task::spawn("server", async move {
            let service = service_fn(serve);
            let builder = auto::Builder::new(TokioExecutor::new());
            let served = builder.serve_connection(TokioIo::new(far), service);
            served.await.ok();
        });
        let request = Request::get("http://h/x").body(Empty::<Bytes>::new());
        let (request, near) = (request.unwrap(), TokioIo::new(near));
        let response = if h2 {
            let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), near);
            let (mut sender, connection) = client.await.unwrap();
            task::spawn("client", connection);
            sender.send_request(request).await.unwrap()
        } else {
            let client = hyper::client::conn::http1::handshake(near);
            let (mut sender, connection) = client.await.unwrap();
            task::spawn("client", connection);
            sender.send_request(request).await.unwrap()
        };
        let (head, body) = response.into_parts();
        let read = tokio::time::timeout(Duration::from_secs(10), body.collect()).await;
        let read = read.expect("the answer ends").map(|all| all.to_bytes());
        (Response::from_parts(head, ()), read)
    }

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_counted() {
        for (h2, id) in [(false, "panics-1"), (true, "panics-2")] {
            let live = live();
            let known = Arc::clone(&live);
            let serve = move |request: Request<Incoming>| {
                let (head, body) = request.into_parts();
                let arrival = Arrival {
                    call: call(&known, id),
                    method: head.method,
                    uri: head.uri,
                    version: head.version,
                    headers: head.headers,
                    body,
                };
                let inner = tower_fn(|arrival: Arrival| async move {
                    let held = arrival;
                    assert!(held.call.status > 0, "this request fails on purpose");
                    Ok::<_, Infallible>(Response::new(Body::bare(Bytes::new())))
                });
                PanicLayer.layer(inner).call(arrival)
            };
            let (head, body) = ask(h2, serve).await;
            assert_eq!(head.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(head.headers()[X_REQUEST_ID], id);
            let body: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
            assert_eq!(body["error"]["code"], "internal_error");
            assert_eq!(live.calls(), 0);
            assert_eq!(counted(id), [(500, "internal_error")]);
        }
    }

    #[tokio::test]
    async fn an_answer_that_panics_breaks_off_and_is_counted() {
        for (h2, id) in [(false, "breaks-1"), (true, "breaks-2")] {
            let live = live();
            let known = Arc::clone(&live);
            let serve = move |_| {
                let call = call(&known, id);
                let failing = Failing { polled: 0, call };
                async move { Ok(Response::new(Caught(Some(failing)))) }
            };
            let (head, body) = ask(h2, serve).await;
            assert_eq!(head.status(), StatusCode::OK);
            assert!(body.is_err(), "it looks complete: {body:?}");
            assert_eq!(live.calls(), 0);
            assert_eq!(counted(id), [(500, "internal_error")]);
        }
    }
}
