//! Answers that are no streams: JSON, text and refusals.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::args::Runtime;

/// An answer whose body is complete.
pub(super) type Reply = Response<Bytes>;

/// An error answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
    retry_after: Option<u32>,
}

impl Refusal {
    /// 400: the request cannot be read or asks for what cannot be.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// 404: no such model.
    pub(super) fn no_model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist.");
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", message)
    }

    /// 404: no such route.
    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", "Not Found")
    }

    /// 405: the route has another method.
    pub(super) fn no_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "BadRequestError",
            "Method Not Allowed",
        )
    }

    /// 401: the key is missing or wrong.
    pub(super) fn no_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 413: the body is longer than the worker reads.
    pub(super) fn too_long() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "BadRequestError",
            "the body is too long",
        )
    }

    /// The status that a fault asks for; `retry_after` in seconds.
    pub(super) fn fault(status: u16, retry_after: Option<u32>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_server_error() {
            "InternalServerError"
        } else {
            "BadRequestError"
        };
        let message = format!("sample fault: status {}", status.as_u16());
        Self {
            retry_after,
            ..Self::new(status, kind, message)
        }
    }

    /// 500: the fault is the worker's.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "InternalServerError", message)
    }

    /// The error as an answer, in the shape that `runtime` has for it.
    pub(super) fn reply(&self, runtime: Runtime) -> Reply {
        let code = self.status.as_u16();
        let error = match runtime {
            Runtime::Sglang => json!({
                "object": "error", "message": self.message, "type": self.kind,
                "param": null, "code": code,
            }),
            Runtime::Vllm => json!({ "error": {
                "message": self.message, "type": self.kind, "param": null, "code": code,
            }}),
        };
        let mut reply = json_value(&error);
        *reply.status_mut() = self.status;
        if let Some(seconds) = self.retry_after {
            reply.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        reply
    }

    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// 200 with a JSON body.
pub(super) fn json_bytes(body: impl Into<Bytes>) -> Reply {
    typed(body.into(), "application/json")
}

/// 200 with a JSON value.
pub(super) fn json_value(value: &Value) -> Reply {
    json_bytes(value.to_string())
}

/// `status` with a text body, which may be empty.
pub(super) fn text(status: StatusCode, body: &'static str) -> Reply {
    let mut reply = typed(
        Bytes::from_static(body.as_bytes()),
        "text/plain; charset=utf-8",
    );
    *reply.status_mut() = status;
    reply
}

/// 200 with a page where JSON was asked for, as from a proxy in between.
pub(super) fn html() -> Reply {
    let page =
        "<!doctype html><html><head><title>Welcome</title></head><body>It works</body></html>";
    typed(
        Bytes::from_static(page.as_bytes()),
        "text/html; charset=utf-8",
    )
}

/// 200 with `body` of the given content type.
pub(super) fn typed(body: Bytes, kind: &'static str) -> Reply {
    let mut reply = Response::new(body);
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}
