//! From an error to a response. Nothing else in the house knows statuses and error bodies.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::body::Body;
use super::identity::{Denied, Plane, TokenError, Why};
use crate::api::error::{self, ErrorCode, WorkersCode};
use crate::api::scan::ScanError;
use crate::dispatch::{Call, CallError, Deadline, Fault, Shortage};
use crate::plan::Unroutable;
use crate::state::{Late, Over, Shut};
use crate::upstream::headers::X_REQUEST_ID;

/// The stable code of an error.
pub(crate) const X_SMG_ERROR_CODE: HeaderName = HeaderName::from_static("x-smg-error-code");

/// Why the gateway itself answers instead of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    param: Option<&'static str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    close: bool,
    realm: Option<HeaderValue>,
}

impl Refusal {
    /// An error with `status`, `code` and what the client is to read.
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
            close: false,
            realm: None,
        }
    }

    /// A fault of the request.
    pub(crate) fn bad_request(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the client reads.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// There is no memory for what would have to be buffered.
    pub(crate) fn no_memory() -> Self {
        CallError::Short(Shortage::Memory).into()
    }

    /// There is no such path.
    pub(crate) fn unknown_url() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::UnknownUrl,
            "there is no such path here",
        )
    }

    /// The path takes `allowed` methods only.
    pub(crate) fn method(allowed: &'static str) -> Self {
        let mut refusal = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::MethodNotAllowed,
            format!("this path takes {allowed}"),
        );
        refusal.allow = Some(allowed);
        refusal
    }

    /// The queue before the gate is full, or there is none.
    pub(crate) fn shut(why: Shut) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let (refusal, wait) = match why {
            Shut::Full(wait) => {
                let message = "too many requests wait already";
                (
                    Self::new(status, ErrorCode::AdmissionQueueFull, message),
                    wait,
                )
            }
            Shut::NoQueue(wait) => {
                let message = "too many requests are under way or begin at once";
                (
                    Self::new(status, ErrorCode::RateLimitExceeded, message),
                    wait,
                )
            }
        };
        refusal.retry_after(wait)
    }

    /// The caller has used what it may for now.
    pub(crate) fn over(over: Over) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::TenantRateLimitExceeded,
            "you have reached a limit on your requests or tokens",
        )
        .retry_after(over.retry_after())
    }

    /// The time to be let in has run out.
    pub(crate) fn late(which: Late) -> Self {
        match which {
            Late::Queue => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::AdmissionQueueTimeout,
                "the request was not let in within the time that it may wait",
            ),
            Late::Displaced(wait) => Self::shut(Shut::Full(wait)),
            Late::Total => CallError::Timeout(Deadline::Total).into(),
        }
    }

    /// The field that is at fault.
    pub(crate) fn at(mut self, param: Option<&'static str>) -> Self {
        self.param = param;
        self
    }

    /// When to come back.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The connection cannot be used again.
    pub(crate) fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    /// A page in somebody's browser asks for a change. Browsers send a request without a body, or with
    /// one that is not called JSON, to any machine that they reach, this one included, and ask nobody.
    pub(crate) fn foreign_page() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden,
            "the control plane takes changes from web pages only where the listener's \
             `cors.allowed_origins` names their origin",
        )
    }

    /// The response, which ends `call`.
    pub(crate) fn into_response(self, mut call: Box<Call>) -> Response<Body> {
        call.error_code = self.code.as_str();
        let body = error::body(self.code, self.status.as_u16(), &self.message, self.param);
        let mut response = json(call, self.status, body);
        let headers = response.headers_mut();
        headers.insert(
            X_SMG_ERROR_CODE,
            HeaderValue::from_static(self.code.as_str()),
        );
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(realm) = self.realm {
            headers.insert(http::header::WWW_AUTHENTICATE, realm);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An error of `/workers*`, which has a form of its own. Its cause is told where it is none of theirs.
pub(crate) fn workers_error(
    mut call: Box<Call>,
    status: StatusCode,
    code: WorkersCode,
    cause: Option<ErrorCode>,
    message: &str,
) -> Response<Body> {
    let word = match (cause, code) {
        (Some(cause), _) => cause.as_str(),
        (None, WorkersCode::BadRequest) => "bad_request",
        (None, WorkersCode::WorkerNotFound) => "worker_not_found",
        (None, WorkersCode::WorkerAlreadyExists) => "worker_already_exists",
        (None, WorkersCode::InternalServerError) => "internal_error",
    };
    call.error_code = word;
    let mut response = json(call, status, error::workers_body(code, message));
    let headers = response.headers_mut();
    headers.insert(X_SMG_ERROR_CODE, HeaderValue::from_static(word));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if matches!(
        status,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
    ) {
        // What is left of the body has not been read.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A response with a JSON body.
pub(crate) fn json(call: Box<Call>, status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    respond(
        call,
        status,
        HeaderValue::from_static("application/json"),
        body,
    )
}

/// A response with a body at hand.
pub(crate) fn respond(
    mut call: Box<Call>,
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Body> {
    call.status = status.as_u16();
    let (id, body) = (call.id.clone(), body.into());
    call.bytes_out = body.len() as u64;
    let mut response = Response::new(Body::full(body, call));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_REQUEST_ID, id);
    response
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::NoWorker
            | CallError::Target
            | CallError::NoLeg(_)
            | CallError::Short(Shortage::Memory)
            | CallError::Ending => StatusCode::SERVICE_UNAVAILABLE,
            CallError::Unbuildable | CallError::Short(Shortage::Sockets) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            CallError::Timeout(_) | CallError::Leg(_, Fault::Timeout(_)) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            CallError::Leg(_, Fault::Status(status)) => StatusCode::from_u16(status)
                .ok()
                .filter(|status| status.is_client_error() || status.is_server_error())
                .unwrap_or(StatusCode::BAD_GATEWAY),
            CallError::Connect
            | CallError::Broken
            | CallError::BrokeOff
            | CallError::Malformed
            | CallError::Redirect
            | CallError::Stream
            | CallError::Leg(..)
            | CallError::Status(_) => StatusCode::BAD_GATEWAY,
        };
        let refusal = Self::new(status, error.code(), error.message());
        match error {
            CallError::NoWorker | CallError::Short(_) => {
                refusal.retry_after(Duration::from_secs(1))
            }
            _ => refusal,
        }
    }
}

impl Refusal {
    /// The model is served by pairs, and the endpoint is none that generates.
    pub(crate) fn only_generated() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            ErrorCode::NotImplemented,
            "this model is served by pairs of workers, which only generate",
        )
    }

    /// Why `call` has no answer, with what the worker of a leg said itself.
    pub(crate) fn failed(call: &Call, error: CallError) -> Self {
        let mut refusal = Self::from(error);
        let said = call.routed.as_ref().and_then(|routed| routed.said.as_ref());
        if let (CallError::Leg(..), Some(said)) = (error, said) {
            if !said.text.is_empty() {
                refusal.message = format!("{}: {}", refusal.message, said.text);
            }
            refusal.retry_after = said.retry_after;
        }
        refusal
    }
}

impl From<ScanError> for Refusal {
    fn from(error: ScanError) -> Self {
        Self::bad_request(error.code(), error.to_string()).at(error.param())
    }
}

impl Refusal {
    /// A model name that leads nowhere. The name is the client's own word and is given back.
    pub(crate) fn unroutable(why: Unroutable, model: Option<&str>) -> Self {
        match why {
            Unroutable::Unknown => {
                let shown: String = model.unwrap_or_default().chars().take(256).collect();
                Self::new(
                    StatusCode::NOT_FOUND,
                    ErrorCode::ModelNotFound,
                    format!("the model `{shown}` is not served here"),
                )
                .at(Some("model"))
            }
            Unroutable::Missing => Self::bad_request(
                ErrorCode::MissingModel,
                "`model` is required: more than one model is served here, or none yet",
            )
            .at(Some("model")),
        }
    }
}

/// Who is not let in reads which kind of door it is, and nothing of what would open it.
impl From<Denied> for Refusal {
    fn from(Denied { plane, why }: Denied) -> Self {
        let unauthorized = |code, message: &str| {
            let mut refusal = Self::new(StatusCode::UNAUTHORIZED, code, message);
            refusal.realm = Some(HeaderValue::from_static(match plane {
                Plane::Data => "Bearer realm=\"data-plane\"",
                Plane::Control => "Bearer realm=\"control-plane\"",
                // What a browser asks its user for.
                Plane::Console => "Basic realm=\"smg\", charset=\"UTF-8\"",
            }));
            refusal
        };
        let forbidden =
            |message: &str| Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message);
        match why {
            Why::Missing => unauthorized(
                ErrorCode::InvalidApiKey,
                "Missing or invalid Authorization header",
            ),
            Why::Several if plane == Plane::Data => unauthorized(
                ErrorCode::InvalidApiKey,
                "the request shows several credentials, and they differ",
            ),
            Why::Several | Why::Key => {
                unauthorized(ErrorCode::InvalidApiKey, "Invalid authentication token")
            }
            Why::Token(TokenError::Unavailable) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::AuthUnavailable,
                "tokens cannot be verified now: the keys of their issuer cannot be had",
            )
            .retry_after(Duration::from_secs(5)),
            Why::Token(error) => {
                unauthorized(ErrorCode::InvalidToken, &format!("Invalid JWT: {error}"))
            }
            Why::Throttled(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::AuthThrottled,
                "too many wrong credentials came from this address",
            )
            // Not a moment before the minute is over.
            .retry_after(wait + Duration::from_millis(999)),
            Why::Stranger if plane == Plane::Console => forbidden(
                "the console is shown to other machines only where a credential of the control \
                 plane exists: configure `auth.control_plane.api_keys`, `auth.jwt` or `auth.api_key`",
            ),
            Why::Stranger => unauthorized(
                ErrorCode::InvalidApiKey,
                "the control plane answers only loopback and unix-socket peers while no credentials \
                 exist: configure `auth.control_plane.api_keys`, `auth.jwt` or `auth.api_key`, or let \
                 everybody in with `auth.control_plane.open = true`",
            ),
            Why::Host => forbidden(
                "while no credentials exist the control plane is asked for by a loopback address, \
                 `localhost` or the listener's own name",
            ),
            Why::ForeignHost => forbidden(
                "the console is asked for by a loopback address, `localhost`, the listener's own \
                 address or name, or a name in its certificate",
            ),
            Why::ForeignPage => forbidden("the console is for no page of another origin"),
            Why::Exposed => forbidden(
                "the console is shown to other machines over TLS only, and to this one only without \
                 a proxy between",
            ),
            Why::NoRole => forbidden("this credential has no role on the control plane"),
            Why::ReadOnly => forbidden("the role `user` reads and changes nothing"),
        }
    }
}

impl Refusal {
    /// The tenant may not use the model that it asks for.
    pub(crate) fn model_not_allowed(asked: &str) -> Self {
        let shown: String = asked.chars().take(256).collect();
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorCode::ModelNotAllowed,
            format!("the model `{shown}` is not among those that this credential may use"),
        )
        .at(Some("model"))
    }
}
