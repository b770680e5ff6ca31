//! Why a call has no answer from a worker.

use crate::api::error::ErrorCode;
use crate::plan::Role;
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

/// What the gateway itself has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Memory for what is buffered.
    Memory,
    /// Descriptors, or ports of its own, for another connection.
    Sockets,
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
    /// The leg of a pair that has no worker which can be used now.
    NoLeg(Role),
    /// A leg of a pair failed.
    Leg(Role, Fault),
    /// What a worker is to be sent cannot be made of what the client sent.
    Unbuildable,
    /// The gateway lacks what it needs to go on. No worker is to blame, and no other could help.
    Short(Shortage),
    /// The gateway is ending.
    Ending,
}

/// How a leg of a pair failed; as [`CallError`] has it for a worker that answers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection.
    Connect,
    /// A deadline ran out.
    Timeout(Deadline),
    /// The connection broke before an answer.
    Broken,
    /// The answer broke off.
    BrokeOff,
    /// The answer is not HTTP.
    Malformed,
    /// The answer is a redirect.
    Redirect,
    /// The stream ended without its terminator.
    Stream,
    /// The answer is a failure with this status.
    Status(u16),
    /// It did not: the gateway lacks what it needs to go on.
    Short(Shortage),
}

impl Fault {
    /// The same, of a worker that answers alone.
    pub(super) fn plain(self) -> CallError {
        match self {
            Self::Connect => CallError::Connect,
            Self::Timeout(which) => CallError::Timeout(which),
            Self::Broken => CallError::Broken,
            Self::BrokeOff => CallError::BrokeOff,
            Self::Malformed => CallError::Malformed,
            Self::Redirect => CallError::Redirect,
            Self::Stream => CallError::Stream,
            Self::Status(status) => CallError::Status(status),
            Self::Short(of) => CallError::Short(of),
        }
    }

    fn code(self, role: Role) -> ErrorCode {
        use ErrorCode as Code;
        let codes = match role {
            Role::Prefill => [
                Code::PrefillBadRequest,
                Code::PrefillNotFound,
                Code::PrefillInternalError,
                Code::PrefillBadGateway,
                Code::PrefillUnavailable,
                Code::PrefillError,
            ],
            Role::Decode | Role::Regular => [
                Code::DecodeBadRequest,
                Code::DecodeNotFound,
                Code::DecodeInternalError,
                Code::DecodeBadGateway,
                Code::DecodeUnavailable,
                Code::DecodeError,
            ],
        };
        let [
            bad_request,
            not_found,
            internal,
            gateway,
            unavailable,
            other,
        ] = codes;
        match self {
            Self::Status(400) => bad_request,
            Self::Status(404) => not_found,
            Self::Status(500) => internal,
            Self::Status(503) => unavailable,
            Self::Timeout(_) => other,
            Self::Status(status) if status != 502 => other,
            _ => gateway,
        }
    }

    fn message(self, role: Role) -> &'static str {
        let [prefill, decode] = match self {
            Self::Connect => [
                "no connection to the prefill worker",
                "no connection to the decode worker",
            ],
            Self::Timeout(Deadline::Idle) => [
                "the prefill worker fell silent",
                "the decode worker fell silent",
            ],
            Self::Timeout(_) => [
                "the prefill worker did not answer in time",
                "the decode worker did not answer in time",
            ],
            Self::Broken => [
                "the prefill worker closed the connection before it answered",
                "the decode worker closed the connection before it answered",
            ],
            Self::BrokeOff => [
                "the prefill worker's answer broke off",
                "the decode worker's answer broke off",
            ],
            Self::Malformed => [
                "the prefill worker's answer is malformed",
                "the decode worker's answer is malformed",
            ],
            Self::Redirect => [
                "the prefill worker answered with a redirect",
                "the decode worker answered with a redirect",
            ],
            Self::Stream => [
                "the prefill worker's stream ended without its end",
                "the decode worker's stream ended without its end",
            ],
            Self::Status(_) => [
                "the prefill worker answered with an error",
                "the decode worker answered with an error",
            ],
            Self::Short(of) => [of.message(); 2],
        };
        if role == Role::Prefill {
            prefill
        } else {
            decode
        }
    }
}

impl CallError {
    /// The same as a failure of the leg of `role`, where it is the failure of a worker.
    pub(super) fn of(self, role: Role) -> Self {
        let fault = match self {
            // Time runs out for the whole request, whoever is late.
            Self::Timeout(Deadline::Total) => return self,
            Self::Connect => Fault::Connect,
            Self::Timeout(which) => Fault::Timeout(which),
            Self::Broken => Fault::Broken,
            Self::BrokeOff => Fault::BrokeOff,
            Self::Malformed => Fault::Malformed,
            Self::Redirect => Fault::Redirect,
            Self::Stream => Fault::Stream,
            Self::Status(status) => Fault::Status(status),
            Self::NoWorker
            | Self::Target
            | Self::NoLeg(_)
            | Self::Leg(..)
            | Self::Unbuildable
            | Self::Short(_)
            | Self::Ending => return self,
        };
        Self::Leg(role, fault)
    }

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
            Self::NoLeg(_) => ErrorCode::ServerSelectionFailed,
            Self::Leg(role, fault) => fault.code(role),
            Self::Unbuildable => ErrorCode::CallUpstreamBuilderError,
            Self::Short(Shortage::Memory) => ErrorCode::MemoryBudgetExhausted,
            Self::Short(Shortage::Sockets) => ErrorCode::CallUpstreamRequestError,
            Self::Ending => ErrorCode::InternalError,
        }
    }

    /// Whether it is the gateway's own doing: no worker has failed, and none is asked again.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Short(_) | Self::Unbuildable | Self::Ending)
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
            Self::NoLeg(Role::Prefill) => "no prefill worker for this model is available",
            Self::NoLeg(_) => "no decode worker for this model is available",
            Self::Leg(role, fault) => fault.message(role),
            Self::Unbuildable => "the request to the worker could not be put together",
            Self::Short(of) => of.message(),
            Self::Ending => "the gateway is shutting down",
        }
    }

    /// The `error_type` label of worker errors.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect | Self::Broken => "connection_error",
            Self::Timeout(_) => "timeout",
            Self::Leg(_, fault) => fault.plain().label(),
            Self::NoWorker
            | Self::NoLeg(_)
            | Self::Target
            | Self::BrokeOff
            | Self::Stream
            | Self::Malformed
            | Self::Redirect
            | Self::Status(_)
            | Self::Unbuildable
            | Self::Short(_)
            | Self::Ending => "backend_error",
        }
    }
}

impl Shortage {
    fn message(self) -> &'static str {
        match self {
            Self::Memory => "the gateway has no memory left for what it would have to buffer",
            Self::Sockets => "the gateway has no socket left for a connection to a worker",
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
