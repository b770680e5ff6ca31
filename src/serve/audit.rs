//! Which control-plane requests the audit log hears of, and what.

use std::sync::Arc;

use super::gate::{Gate, Peer};
use super::routes::Goal;
use crate::dispatch::{Audited, Call};
use crate::live::AuthMethod;
use crate::telemetry::audit::{self, Record};

/// Notes a control-plane request that is about to be judged.
pub(crate) fn begin(gate: &Gate, goal: &Goal<'_>) -> Box<Audited> {
    let client: Arc<str> = match gate.peer {
        Peer::Tcp(address) => address.to_canonical().to_string().into(),
        Peer::Unix => "unix".into(),
        Peer::Control(_) => "control".into(),
    };
    Box::new(Audited {
        client,
        resource: goal.resource().map(Into::into),
        details: gate
            .certificate
            .as_ref()
            .map(|subject| format!("client certificate {subject}").into()),
    })
}

/// Keeps the record of `call`, if it is one of the control plane, when it has ended.
pub(crate) fn finished(call: &Call) {
    let Some(audited) = &call.audit else { return };
    // Who is kept waiting, or cannot be recognised now, has been neither let in nor turned away.
    if matches!(call.error_code, "auth_throttled" | "auth_unavailable") {
        return;
    }
    let address = call.caller.address.map(|address| address.to_string());
    let passed = !matches!(call.status, 401 | 403);
    let mut record = Record {
        principal: &call.caller.principal,
        auth_method: call.caller.method.as_str(),
        role: call.caller.role.map_or("", |role| role.as_str()),
        method: call.method.as_str(),
        path: &call.path,
        resource: audited.resource.as_deref().unwrap_or_default(),
        denied: !passed,
        status: Some(call.status),
        request_id: call.id_str(),
        client: address.as_deref().unwrap_or(&audited.client),
        details: audited.details.as_deref().unwrap_or_default(),
        count: None,
    };
    if call.status == 401 {
        return audit::refused(&record);
    }
    if passed && call.caller.method == AuthMethod::None {
        // The control plane is open to it, whoever it is.
        record.principal = "anonymous";
    }
    audit::emit(&record);
}
