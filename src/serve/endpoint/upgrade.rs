//! The control plane: a new process takes over.

use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::json;

use super::{to_json, value};
use crate::api::error::ErrorCode;
use crate::dispatch::Call;
use crate::live::UpgradeError;
use crate::serve::body::Body;
use crate::serve::error::{Refusal, json as respond_json};
use crate::serve::gate::Gate;

/// How long a new process may take until it serves, where nobody says else.
const PATIENCE: u64 = 60;

/// The most that may be asked for.
const LONGEST: u64 = 3600;

/// `POST /admin/upgrade[?timeout=SECONDS]`
pub(crate) async fn upgrade(gate: &Gate, call: Box<Call>, query: &str) -> Response<Body> {
    let patience = match value(query, "timeout").map(str::parse::<u64>) {
        None => PATIENCE,
        Some(Ok(seconds)) if (1..=LONGEST).contains(&seconds) => seconds,
        Some(_) => {
            let message = format!("`timeout` is a number of seconds from 1 to {LONGEST}");
            let refusal = Refusal::bad_request(ErrorCode::InvalidType, message);
            return refusal.at(Some("timeout")).into_response(call);
        }
    };
    match gate.admin.upgrade(Duration::from_secs(patience)).await {
        Ok(upgraded) => {
            let body = json!({
                "result": "upgraded", "old": upgraded.old, "new": upgraded.new,
                "generation": upgraded.generation,
            });
            respond_json(call, StatusCode::OK, to_json(&body))
        }
        Err(UpgradeError::Failed { reason, said }) => {
            let body = json!({ "result": "failed", "reason": reason, "text": said });
            respond_json(call, StatusCode::UNPROCESSABLE_ENTITY, to_json(&body))
        }
        Err(error @ UpgradeError::Busy) => Refusal::new(
            StatusCode::CONFLICT,
            ErrorCode::UpgradeInProgress,
            error.to_string(),
        )
        .into_response(call),
        Err(error @ UpgradeError::Stopping) => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::InternalError,
            error.to_string(),
        )
        .into_response(call),
    }
}
