//! `POST /admin/pools/{name}/drain`

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body;
use super::fields::Fields;
use super::show::{DRAINING, status};
use crate::api::error::ErrorCode;
use crate::dispatch::Call;
use crate::live::ChangeError;
use crate::serve::body::Body;
use crate::serve::endpoint::{decoded, to_json};
use crate::serve::error::{Refusal, json as respond};
use crate::serve::gate::Gate;

/// `POST /admin/pools/{name}/drain`
pub(crate) async fn drain_pool(
    gate: &Gate,
    call: Box<Call>,
    name: &str,
    headers: HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let pool = decoded(name);
    let answer = async {
        let whole = body::read(gate, &call, &headers, body).await?;
        let drain = wish(&whole)?;
        let drained = gate.admin.drain_pool(&pool, drain).await;
        drained.map_err(|error| refusal(&error))?;
        Ok(json!({ "pool": pool, "drain": drain, "workers": workers(gate, &pool, drain) }))
    };
    match answer.await {
        Ok(body) => respond(call, StatusCode::ACCEPTED, to_json(&body)),
        Err(refusal) => Refusal::into_response(refusal, call),
    }
}

/// Whether to drain: `drain` of the body, yes without one.
fn wish(body: &[u8]) -> Result<bool, Refusal> {
    if body.is_empty() {
        return Ok(true);
    }
    let fields = Fields::of(body)
        .map_err(|fault| Refusal::bad_request(ErrorCode::InvalidJson, fault.to_string()));
    let drain = fields?.flag("drain").map_err(|fault| {
        Refusal::bad_request(ErrorCode::InvalidType, fault.to_string()).at(Some("drain"))
    })?;
    Ok(drain.unwrap_or(true))
}

fn refusal(error: &ChangeError) -> Refusal {
    let (status, code) = match error {
        ChangeError::UnknownPool(_) => (StatusCode::NOT_FOUND, ErrorCode::NotFound),
        ChangeError::Full => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::InternalError),
        ChangeError::Upgrading => (
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::UpgradeInProgress,
        ),
        ChangeError::NotKept
        | ChangeError::Exists
        | ChangeError::UnknownWorker
        | ChangeError::NotDynamic(_)
        | ChangeError::Unfit(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::InternalError),
    };
    Refusal::new(status, code, error.to_string())
}

/// The workers of the pool with what each still has to do. All that are to drain do so from now on,
/// though the snapshot that says so may be a moment away.
fn workers(gate: &Gate, pool: &str, drain: bool) -> Vec<Value> {
    let snapshot = gate.live.load();
    let members = snapshot
        .workers()
        .filter(|worker| *snapshot.plan.pool(worker.plan.pool).name == *pool);
    members
        .map(|worker| {
            json!({
                "id": worker.plan.id,
                "url": worker.plan.key.as_str(),
                "status": if drain { DRAINING } else { status(worker, None) },
                "load": worker.parts.cell.load(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_it_is_drained() {
        for (body, drain) in [
            ("", Some(true)),
            ("{}", Some(true)),
            (r#"{"drain": null}"#, Some(true)),
            (r#"{"drain": true}"#, Some(true)),
            (r#"{"drain": false}"#, Some(false)),
            (r#"{"drain": 0}"#, None),
            ("[]", None),
        ] {
            assert_eq!(wish(body.as_bytes()).ok(), drain, "{body}");
        }
    }
}
