//! Why a call has no answer from a worker.

use crate::api::error::ErrorCode;
use crate::policy::Refused;

/// The deadline that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Until the connection is usable.
    Connect,
    /// Until the response head.
    Headers,
    /// Until the first event.
    FirstToken,
    /// Between events.
    Idle,
    /// Of the whole call.
    Total,
}

/// Why a call failed. What it says is for clients: it names no worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// No worker that serves the model can be used now.
    NoWorker,
    /// The request names a worker that cannot be used now.
    Target,
    /// No connection to a worker.
    Connect,
    /// A deadline towards a worker ran out.
    Timeout(Deadline),
    /// The worker's connection broke before it answered.
    Broken,
    /// The worker's answer broke off.
    BrokeOff,
    /// The worker's answer is not HTTP.
    Malformed,
    /// The worker answered with a redirect, which is never followed.
    Redirect,
    /// The worker's stream reported an error or ended without its terminator.
    Stream,
    /// The worker answered with this status after the head had gone out.
    Status(u16),
    /// The gateway is ending.
    Ending,
}

impl CallError {
    /// The stable code.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NoWorker => ErrorCode::NoAvailableWorkers,
            Self::Target => ErrorCode::TargetWorkerUnavailable,
            Self::Connect | Self::Broken => ErrorCode::CallUpstreamConnectionFailed,
            Self::Timeout(_) => ErrorCode::CallUpstreamTimeout,
            Self::BrokeOff | Self::Stream => ErrorCode::ReadResponseBodyFailed,
            Self::Malformed | Self::Status(_) => ErrorCode::NoWorkerResponse,
            Self::Redirect => ErrorCode::CallUpstreamRedirectError,
            Self::Ending => ErrorCode::InternalError,
        }
    }

    /// What the client reads.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoWorker => "no worker that serves this model is available",
            Self::Target => {
                "`x-smg-target-worker` names no worker that is available for this model"
            }
            Self::Connect => "no connection to a worker",
            Self::Timeout(Deadline::Connect) => "no connection to a worker in time",
            Self::Timeout(Deadline::Headers) => "the worker did not begin to answer in time",
            Self::Timeout(Deadline::FirstToken) => "the worker sent no first event in time",
            Self::Timeout(Deadline::Idle) => "the worker fell silent",
            Self::Timeout(Deadline::Total) => "the request took longer than it may",
            Self::Broken => "the worker closed the connection before it answered",
            Self::BrokeOff => "the worker's answer broke off",
            Self::Malformed => "the worker's answer is malformed",
            Self::Redirect => "the worker answered with a redirect",
            Self::Stream => "the worker's stream ended without its end",
            Self::Status(_) => "the worker answered with an error",
            Self::Ending => "the gateway is shutting down",
        }
    }

    /// The `error_type` label of worker errors.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect | Self::Broken => "connection_error",
            Self::Timeout(_) => "timeout",
            Self::NoWorker
            | Self::Target
            | Self::BrokeOff
            | Self::Stream
            | Self::Malformed
            | Self::Redirect
            | Self::Status(_)
            | Self::Ending => "backend_error",
        }
    }
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Nobody => Self::NoWorker,
            Refused::Target => Self::Target,
        }
    }
}
