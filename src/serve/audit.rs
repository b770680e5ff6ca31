//! Which control-plane requests the audit log hears of, and what.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::gate::{Gate, Peer};
use super::routes::Goal;
use crate::base::clock;
use crate::dispatch::{Audited, Call};
use crate::live::AuthMethod;
use crate::telemetry::audit::{self, Record};

/// Who has not looked for so long begins anew.
const LOOKING: Duration = Duration::from_secs(60);

/// Onlookers that are told apart; every look of any further one is recorded.
const ONLOOKERS: usize = 256;

static ONLOOKERS_NOW: LazyLock<Mutex<Onlookers>> = LazyLock::new(Mutex::default);

/// Who watches the gateway, and when each has looked last.
#[derive(Default)]
struct Onlookers(AHashMap<Onlooker, Instant>);

/// What is looked at, by whom, from where.
type Onlooker = (&'static str, Box<str>, Box<str>);

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
    let (Some(audited), Some(passed)) = (&call.audit, passed(call)) else {
        return;
    };
    let address = call.caller.address.map(|address| address.to_string());
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
    if call.watches && passed && call.status < 400 {
        let onlooker = (call.template, record.principal.into(), record.client.into());
        if !ONLOOKERS_NOW.lock().begins(onlooker, clock::now()) {
            return;
        }
    }
    audit::emit(&record);
}

impl Onlookers {
    /// Whether this look is the first one of an onlooker, or the first for long.
    fn begins(&mut self, who: Onlooker, now: Instant) -> bool {
        let is_over = |last: Instant| now.saturating_duration_since(last) >= LOOKING;
        if let Some(last) = self.0.get_mut(&who) {
            return is_over(std::mem::replace(last, now));
        }
        if self.0.len() >= ONLOOKERS {
            self.0.retain(|_, last| !is_over(*last));
        }
        if self.0.len() < ONLOOKERS {
            self.0.insert(who, now);
        }
        true
    }
}

/// Whether `call` was let in. `None` where it was neither let in nor turned away: who is kept waiting,
/// cannot be recognised now, or has gone away before that was decided.
fn passed(call: &Call) -> Option<bool> {
    if matches!(call.status, 401 | 403) {
        return Some(false);
    }
    // Whoever is let in has a role, and nobody else.
    call.caller.role.map(|_| true)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;
    use crate::plan::OperatorRole;
    use crate::serve::idle::live;

    #[test]
    fn who_watches_is_recorded_when_it_begins() {
        let (mut onlookers, start) = (Onlookers::default(), clock::now());
        let one = |n: usize| {
            let who = format!("key-{n}");
            ("/admin/overview", who.into(), "127.0.0.1".into())
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        for (second, begins) in [
            (0, true),
            (1, false),
            (59, false),
            (118, false),
            (178, true),
        ] {
            assert_eq!(onlookers.begins(one(0), after(second)), begins, "{second}");
        }
        for n in 1..2 * ONLOOKERS {
            assert!(onlookers.begins(one(n), after(179)), "{n}");
        }
        assert_eq!(onlookers.0.len(), ONLOOKERS);
        // For whom there was no room is rather told of too often.
        assert!(onlookers.begins(one(2 * ONLOOKERS - 1), after(180)));
        assert!(!onlookers.begins(one(1), after(180)));
        // Those who have gone make room.
        assert!(onlookers.begins(one(2 * ONLOOKERS), after(300)));
        assert_eq!(onlookers.0.len(), 1);
    }

    #[test]
    fn who_goes_away_at_the_door_was_not_let_in() {
        let live = live();
        for (status, role, expected) in [
            (200, Some(OperatorRole::Admin), Some(true)),
            (500, Some(OperatorRole::User), Some(true)),
            (499, Some(OperatorRole::Admin), Some(true)),
            (403, Some(OperatorRole::User), Some(false)),
            (403, None, Some(false)),
            (401, None, Some(false)),
            (429, None, None),
            (503, None, None),
            (499, None, None),
            (500, None, None),
        ] {
            let id = HeaderValue::from_static("r");
            let path = "/workers";
            let mut call = Call::start(&live, live.load(), Method::GET, path, path, id);
            call.status = status;
            call.caller.role = role;
            assert_eq!(passed(&call), expected, "{status} {role:?}");
        }
    }
}
