//! Who may come in. The head of a request is judged here before a byte of its body is read.
//!
//! Invariants: whatever is not understood keeps out. A credential is compared with every key there
//! is, in the same time whichever it is. One of the gateway's own stays here: it is taken out of the
//! headers that the rest of the house sees.

mod client;
mod console;
mod control;
mod count;
mod credential;
mod data;
mod denied;
mod keys;
mod own;
mod public;
mod throttle;
mod token;

pub(crate) use denied::{Denied, Plane, Why};
pub use public::warn_of_open_doors;
pub(crate) use token::TokenError;
#[doc(hidden)]
pub use token::read_unverified;

use http::{HeaderMap, Method, Uri};

use self::client::Client;
use super::audit;
use super::gate::Gate;
use super::routes::{Class, Found, Goal};
use crate::dispatch::Call;
use crate::plan::{Auth, Listener, Plan};

/// The head of a request that is to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Where it goes.
    pub(crate) found: Found<'a>,
    /// Method.
    pub(crate) method: &'a Method,
    /// Target.
    pub(crate) uri: &'a Uri,
}

/// Judges who makes `call`, tells the call, and takes the gateway's own credentials out of `headers`.
///
/// # Errors
/// Why it may not.
pub(crate) async fn judge(
    gate: &Gate,
    call: &mut Call,
    head: Head<'_>,
    headers: &mut HeaderMap,
) -> Result<(), Denied> {
    let auth = &call.snapshot.plan.auth;
    let client = Client::of(gate, headers);
    call.caller.address = client.address;
    call.caller.identity = client.identity(auth.tenant_header.as_deref(), headers);
    // What asks for a credential is boxed, so that the future of a request that needs none stays small.
    match plane(head.found.class, &gate.listener, &call.snapshot.plan) {
        Some(Plane::Data) if !auth.is_any => Ok(()),
        Some(Plane::Data) => Box::pin(data::judge(call, headers)).await,
        Some(Plane::Control) => {
            let goal = head.found.goal(head.method);
            call.audit = goal.map(|goal| audit::begin(gate, &goal));
            call.watches = goal == Some(Goal::Overview);
            Box::pin(control::judge(gate, call, head, headers)).await
        }
        Some(Plane::Console) => {
            let goal = head.found.goal(head.method);
            call.audit = goal.map(|goal| audit::begin(gate, &goal));
            call.watches = goal == Some(Goal::ConsoleLive);
            Box::pin(console::judge(gate, call, head, headers)).await
        }
        None if head.found.knows_tenants() && auth.guards_inference => {
            Box::pin(data::recognise(call, headers)).await;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Whose word it takes; `None`: nobody's.
fn plane(class: Class, listener: &Listener, plan: &Plan) -> Option<Plane> {
    let Auth { is_any, .. } = plan.auth;
    match class {
        Class::Public => None,
        Class::Inference => Some(Plane::Data),
        Class::Control => Some(Plane::Control),
        Class::Console => Some(Plane::Console),
        Class::InferenceOnceGuarded => is_any.then_some(Plane::Data),
        Class::ControlOnceGuarded => {
            // The key may change while a connection is kept.
            let mut listeners = plan.listeners.iter();
            let now = listeners.find(|now| now.name == listener.name);
            let guarded = now.map_or(listener.guards_engine_metrics, |now| {
                now.guards_engine_metrics
            });
            guarded.unwrap_or(is_any).then_some(Plane::Control)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::spec::Spec;
    use crate::plan::{Facts, compile};

    fn plan(more: &str) -> Plan {
        let listener = "version = 1\n[[listeners]]\nname = 'main'\naddress = '127.0.0.1:1'\n\
                        serve = ['inference', 'admin']\n";
        let spec: Spec = toml::from_str(&format!("{listener}{more}")).unwrap();
        compile(&spec, &Facts::default())
    }

    #[test]
    fn a_route_asks_for_what_its_class_says() {
        let key = "[auth]\napi_key = 'x'\n";
        let operators = "[[auth.control_plane.api_keys]]\nid = 'a'\nrole = 'admin'\nkey = 'k'\n";
        let (data, control) = (Some(Plane::Data), Some(Plane::Control));
        for (class, more, expected) in [
            (Class::Public, key, None),
            (Class::Inference, "", data),
            (Class::Control, "", control),
            (Class::InferenceOnceGuarded, "", None),
            (Class::InferenceOnceGuarded, key, data),
            (Class::InferenceOnceGuarded, operators, data),
            (Class::ControlOnceGuarded, "", None),
            (Class::ControlOnceGuarded, key, control),
            (Class::ControlOnceGuarded, operators, control),
            (
                Class::ControlOnceGuarded,
                "engine_metrics = 'admin'\n",
                control,
            ),
            (
                Class::ControlOnceGuarded,
                &format!("engine_metrics = 'public'\n{key}"),
                None,
            ),
        ] {
            let plan = plan(more);
            // A listener as it was when its connection was accepted says nothing any more.
            let old = Listener {
                guards_engine_metrics: None,
                ..Listener::clone(&plan.listeners[0])
            };
            let got = plane(class, &Arc::new(old), &plan);
            assert_eq!(got, expected, "{class:?} {more}");
        }
    }
}
