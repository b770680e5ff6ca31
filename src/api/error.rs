//! Errors that the gateway itself answers with: their codes, bodies and terminal stream frames.
//!
//! Which status goes with which trouble is not decided here.

use serde_json::Value;

use super::quote::quote;

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// What went wrong, as one stable word for clients, logs and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])+ $name,)+
        }

        impl ErrorCode {
            /// All codes, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word as it stands in bodies, headers and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

codes! {
    /// The body is no JSON object.
    InvalidJson = "invalid_json",
    /// The content type is absent or not JSON.
    JsonParseError = "json_parse_error",
    /// A field has a value of the wrong type.
    InvalidType = "invalid_type",
    /// A required field is missing or blank.
    MissingRequiredParameter = "missing_required_parameter",
    /// A number is too large.
    DecimalAboveMaxValue = "decimal_above_max_value",
    /// A number is too small.
    DecimalBelowMinValue = "decimal_below_min_value",
    /// A list that needs an element has none.
    EmptyArray = "empty_array",
    /// `model` is given twice.
    DuplicateModel = "duplicate_model",
    /// No model is given and none can be assumed.
    MissingModel = "missing_model",
    /// The model is neither declared nor served by any worker.
    ModelNotFound = "model_not_found",
    /// The model is known, but no worker can take the request.
    NoAvailableWorkers = "no_available_workers",
    /// The request names a worker that cannot be used now.
    TargetWorkerUnavailable = "target_worker_unavailable",
    /// A leg of a pair has no worker that can take the request.
    ServerSelectionFailed = "server_selection_failed",
    /// The prefill worker of a pair found the request wrong.
    PrefillBadRequest = "prefill_bad_request",
    /// The prefill worker of a pair knows no such thing.
    PrefillNotFound = "prefill_not_found",
    /// The prefill worker of a pair failed.
    PrefillInternalError = "prefill_internal_error",
    /// The prefill worker of a pair could not be reached, or broke off.
    PrefillBadGateway = "prefill_bad_gateway",
    /// The prefill worker of a pair takes no requests now.
    PrefillUnavailable = "prefill_unavailable",
    /// The prefill worker of a pair answered with another status, or not in time.
    PrefillError = "prefill_error",
    /// The decode worker of a pair found the request wrong.
    DecodeBadRequest = "decode_bad_request",
    /// The decode worker of a pair knows no such thing.
    DecodeNotFound = "decode_not_found",
    /// The decode worker of a pair failed.
    DecodeInternalError = "decode_internal_error",
    /// The decode worker of a pair could not be reached, or broke off.
    DecodeBadGateway = "decode_bad_gateway",
    /// The decode worker of a pair takes no requests now.
    DecodeUnavailable = "decode_unavailable",
    /// The decode worker of a pair answered with another status, or not in time.
    DecodeError = "decode_error",
    /// There is no model to list.
    NoModelsAvailable = "no_models_available",
    /// No healthy worker is there to ask.
    NoWorkers = "no_workers",
    /// The worker could not be reached, or hung up before its answer began.
    CallUpstreamConnectionFailed = "call_upstream_connection_failed",
    /// A deadline towards the worker passed.
    CallUpstreamTimeout = "call_upstream_timeout",
    /// The request to the worker could not be put together.
    CallUpstreamBuilderError = "call_upstream_builder_error",
    /// The request could not be sent.
    CallUpstreamRequestError = "call_upstream_request_error",
    /// The worker answered with a redirect, which is never followed.
    CallUpstreamRedirectError = "call_upstream_redirect_error",
    /// The body could not be sent to the worker.
    CallUpstreamBodyError = "call_upstream_body_error",
    /// The head of the worker's answer is malformed.
    CallUpstreamDecodeError = "call_upstream_decode_error",
    /// The worker's answer broke off.
    ReadResponseFailed = "read_response_failed",
    /// The body of the worker's answer broke off.
    ReadResponseBodyFailed = "read_response_body_failed",
    /// The worker's answer is empty or malformed.
    NoWorkerResponse = "no_worker_response",
    /// The worker's ranking could not be turned into an answer.
    RerankResponseBuildFailed = "rerank_response_build_failed",
    /// A new process of the gateway is taking over.
    UpgradeInProgress = "upgrade_in_progress",
    /// The request body is larger than allowed.
    RequestBodyTooLarge = "request_body_too_large",
    /// The request body has a content coding.
    UnsupportedEncoding = "unsupported_encoding",
    /// The client's body stalled or came too slowly.
    RequestBodyTimeout = "request_body_timeout",
    /// There is no memory left for what has to be buffered.
    MemoryBudgetExhausted = "memory_budget_exhausted",
    /// As many requests wait to be let in as may.
    AdmissionQueueFull = "admission_queue_full",
    /// The request has waited to be let in for as long as it may.
    AdmissionQueueTimeout = "admission_queue_timeout",
    /// No request can be let in now, and none may wait.
    RateLimitExceeded = "rate_limit_exceeded",
    /// What the path names does not exist.
    NotFound = "not_found",
    /// There is no such path here.
    UnknownUrl = "unknown_url",
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed",
    /// The request target is too long.
    UriTooLong = "uri_too_long",
    /// The request head is too large, or has too many headers.
    RequestHeadersTooLarge = "request_headers_too_large",
    /// The head contradicts itself about the length of the body, or about the host.
    InvalidFraming = "invalid_framing",
    /// The credential is missing or wrong.
    InvalidApiKey = "invalid_api_key",
    /// The token is missing or wrong.
    InvalidToken = "invalid_token",
    /// The caller may not do this.
    Forbidden = "forbidden",
    /// The caller may not use this model.
    ModelNotAllowed = "model_not_allowed",
    /// Too many wrong credentials have come from there.
    AuthThrottled = "auth_throttled",
    /// Nobody can say now whether a token is good.
    AuthUnavailable = "auth_unavailable",
    /// The caller has used up what it may use.
    TenantRateLimitExceeded = "tenant_rate_limit_exceeded",
    /// Nothing here can serve this kind of request.
    NotImplemented = "not_implemented",
    /// The fault is the gateway's own.
    InternalError = "internal_error",
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `type` of an OpenAI error with this HTTP status.
pub const fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// The canonical error body: `{"error":{"type","code","message","param"}}`.
///
/// `message` is for the client and must not name a worker's URL, a key or a header value.
pub fn body(code: ErrorCode, status: u16, message: &str, param: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + message.len());
    out.extend_from_slice(br#"{"error":{"type":""#);
    out.extend_from_slice(error_type(status).as_bytes());
    out.extend_from_slice(br#"","code":""#);
    out.extend_from_slice(code.as_str().as_bytes());
    out.extend_from_slice(br#"","message":"#);
    quote(&mut out, message);
    out.extend_from_slice(br#","param":"#);
    match param {
        Some(param) => quote(&mut out, param),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}}");
    out
}

/// The words that `/workers*` uses in place of [`ErrorCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkersCode {
    /// The request makes no sense.
    BadRequest,
    /// There is no worker of that id.
    WorkerNotFound,
    /// The worker is there already.
    WorkerAlreadyExists,
    /// The fault is the gateway's own.
    InternalServerError,
}

impl WorkersCode {
    /// The word as it stands in bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::WorkerNotFound => "WORKER_NOT_FOUND",
            Self::WorkerAlreadyExists => "WORKER_ALREADY_EXISTS",
            Self::InternalServerError => "INTERNAL_SERVER_ERROR",
        }
    }
}

/// The error body of `/workers*`: `{"error","code"}`.
pub fn workers_body(code: WorkersCode, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + message.len());
    out.extend_from_slice(br#"{"error":"#);
    quote(&mut out, message);
    out.extend_from_slice(br#","code":""#);
    out.extend_from_slice(code.as_str().as_bytes());
    out.extend_from_slice(br#""}"#);
    out
}

/// What ends a stream of chat, completions or `/generate` that failed after its head went out.
pub fn stream_frame(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + message.len());
    out.extend_from_slice(br#"data: {"error":{"message":"#);
    quote(&mut out, message);
    out.extend_from_slice(br#","type":"stream_error","code":""#);
    out.extend_from_slice(code.as_str().as_bytes());
    out.extend_from_slice(b"\"}}\n\ndata: [DONE]\n\n");
    out
}

/// What ends a stream of the Responses API that failed after its head went out.
///
/// `sequence_number` continues the numbers of the stream; `response_id` is the one that its events
/// named, or one of the gateway's.
pub fn response_failed_frame(
    sequence_number: u64,
    response_id: &str,
    code: ErrorCode,
    message: &str,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + message.len());
    out.extend_from_slice(b"event: response.failed\n");
    out.extend_from_slice(br#"data: {"type":"response.failed","sequence_number":"#);
    out.extend_from_slice(sequence_number.to_string().as_bytes());
    out.extend_from_slice(br#","response":{"id":"#);
    quote(&mut out, response_id);
    out.extend_from_slice(br#","object":"response","status":"failed","error":{"code":""#);
    out.extend_from_slice(code.as_str().as_bytes());
    out.extend_from_slice(br#"","message":"#);
    quote(&mut out, message);
    out.extend_from_slice(b"}}}\n\n");
    out
}

/// What an error body of a worker says in words, shortened: its message where it has one, else the
/// text itself.
pub fn said(body: &[u8]) -> String {
    const LONGEST: usize = 1024;
    let text = body.trim_ascii();
    let line = text.strip_prefix(b"data:").map_or(text, |event| {
        event
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default()
    });
    let parsed: Option<Value> = serde_json::from_slice(line).ok();
    let words = parsed.as_ref().and_then(|value| {
        let error = value.get("error");
        let places = [
            error.and_then(|error| error.get("message")),
            error,
            value.get("message"),
            value.get("detail"),
        ];
        places.into_iter().flatten().find_map(Value::as_str)
    });
    let words = words.map_or_else(|| String::from_utf8_lossy(line), Into::into);
    words.trim().chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_workers_say() {
        for (body, expected) in [
            (r#"{"error":{"message":"too long","code":400}}"#, "too long"),
            (r#"{"error":"no"}"#, "no"),
            (r#"{"object":"error","message":"bad"}"#, "bad"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (
                "data: {\"error\":{\"message\":\"out\"}}\n\ndata: [DONE]\n\n",
                "out",
            ),
            (" Internal Server Error\n", "Internal Server Error"),
            ("", ""),
        ] {
            assert_eq!(said(body.as_bytes()), expected);
        }
        assert_eq!(said("é".repeat(5000).as_bytes()).chars().count(), 1024);
    }

    #[test]
    fn codes_are_distinct_snake_case_words() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for word in words {
            assert!(
                word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{word}"
            );
        }
        assert_eq!(ErrorCode::ModelNotFound.to_string(), "model_not_found");
    }

    #[test]
    fn the_body_is_canonical() {
        let message = "model `a\"b\\c\n` is not known";
        let body = body(ErrorCode::ModelNotFound, 404, message, Some("model"));
        let expected = json!({"error": {
            "type": "invalid_request_error", "code": "model_not_found", "message": message, "param": "model",
        }});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        let body = super::body(ErrorCode::InternalError, 500, "", None);
        assert_eq!(
            body,
            br#"{"error":{"type":"server_error","code":"internal_error","message":"","param":null}}"#
        );
    }

    #[test]
    fn types_follow_the_status() {
        for (status, expected) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "invalid_request_error"),
            (413, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "server_error"),
            (503, "server_error"),
        ] {
            assert_eq!(error_type(status), expected);
        }
    }

    #[test]
    fn the_workers_form_is_flat() {
        assert_eq!(
            workers_body(WorkersCode::WorkerNotFound, "no worker `x`"),
            br#"{"error":"no worker `x`","code":"WORKER_NOT_FOUND"}"#
        );
    }

    #[test]
    fn stream_frames_are_events() {
        assert_eq!(
            stream_frame(ErrorCode::CallUpstreamTimeout, "the worker fell silent"),
            b"data: {\"error\":{\"message\":\"the worker fell silent\",\"type\":\"stream_error\",\"code\":\"call_upstream_timeout\"}}\n\ndata: [DONE]\n\n"
        );
        let frame =
            response_failed_frame(7, "resp_1", ErrorCode::ReadResponseBodyFailed, "broke\noff");
        let text = String::from_utf8(frame).unwrap();
        let payload = text.strip_prefix("event: response.failed\ndata: ").unwrap();
        let expected = json!({
            "type": "response.failed", "sequence_number": 7,
            "response": {"id": "resp_1", "object": "response", "status": "failed",
                "error": {"code": "read_response_body_failed", "message": "broke\noff"}},
        });
        assert_eq!(
            serde_json::from_str::<Value>(payload.strip_suffix("\n\n").unwrap()).unwrap(),
            expected
        );
    }
}
