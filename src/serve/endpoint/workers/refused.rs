//! Why a question about workers, or a change of them, has no better answer.

use http::{Response, StatusCode};

use super::fields::Fault;
use crate::api::error::{ErrorCode, WorkersCode};
use crate::dispatch::Call;
use crate::live::ChangeError;
use crate::serve::body::Body;
use crate::serve::error::{Refusal, workers_error};

/// An error in the form of `/workers*`.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    code: WorkersCode,
    /// What any other route would call it.
    cause: Option<ErrorCode>,
    message: String,
}

impl Refused {
    /// The request makes no sense.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: WorkersCode::BadRequest,
            cause: None,
            message: message.into(),
        }
    }

    /// There is no such worker.
    pub(super) fn unknown() -> Self {
        ChangeError::UnknownWorker.into()
    }

    /// The worker belongs to the configuration.
    pub(super) fn declared() -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: WorkersCode::WorkerAlreadyExists,
            cause: None,
            message: "the file declares this worker: what is to differ goes into a PATCH"
                .to_owned(),
        }
    }

    /// The response, which ends `call`.
    pub(super) fn into_response(self, call: Box<Call>) -> Response<Body> {
        workers_error(call, self.status, self.code, self.cause, &self.message)
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::bad(fault.to_string())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let ours = refusal.status().is_server_error();
        Self {
            status: refusal.status(),
            code: if ours {
                WorkersCode::InternalServerError
            } else {
                WorkersCode::BadRequest
            },
            cause: Some(refusal.code()),
            message: refusal.message().to_owned(),
        }
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        use StatusCode as S;
        use WorkersCode as C;
        let (status, code) = match &error {
            ChangeError::Exists => (S::CONFLICT, C::WorkerAlreadyExists),
            ChangeError::UnknownWorker | ChangeError::UnknownPool(_) => {
                (S::NOT_FOUND, C::WorkerNotFound)
            }
            ChangeError::NotDynamic(_) => (S::FORBIDDEN, C::BadRequest),
            ChangeError::Unfit(_) => (S::BAD_REQUEST, C::BadRequest),
            ChangeError::Full | ChangeError::Upgrading => {
                (S::SERVICE_UNAVAILABLE, C::InternalServerError)
            }
            ChangeError::NotKept => (S::INTERNAL_SERVER_ERROR, C::InternalServerError),
        };
        Self {
            status,
            code,
            cause: (error == ChangeError::Upgrading).then_some(ErrorCode::UpgradeInProgress),
            message: error.to_string(),
        }
    }
}
