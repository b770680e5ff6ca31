//! What a configuration that was read means in place of the one in force, judged without touching
//! anything that runs.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::fleet::{Ended, after_reload};
use super::{report, tls};
use crate::config::{Diagnostic, Loaded};
use crate::plan::{self, Facts, Fleet, Plan};

/// A configuration that may take effect.
pub(super) struct Compiled {
    pub(super) loaded: Arc<Loaded>,
    pub(super) plan: Plan,
    /// What is left of what operators have changed beside it, and what is not.
    pub(super) fleet: Fleet,
    pub(super) ended: Vec<Ended>,
}

/// Whether two readings mean the same. What secrets hold is in the specs only; what is wrong, in
/// the diagnostics only.
pub(super) fn is_same(one: &Loaded, other: &Loaded) -> bool {
    one.sha256 == other.sha256
        && one.spec == other.spec
        && (one.spec.is_some() || one.diagnostics == other.diagnostics)
}

/// What `loaded` means in place of `before`, beside what is known.
///
/// # Errors
/// Why it cannot take its place.
pub(super) fn check(
    before: &Loaded,
    loaded: Arc<Loaded>,
    known: Facts,
) -> Result<Compiled, Vec<Diagnostic>> {
    let (Some(old), Some(new)) = (&before.spec, &loaded.spec) else {
        return Err(loaded.diagnostics.clone());
    };
    let fixed = report::restart_keys(old, new, &loaded.origins);
    if !fixed.is_empty() {
        return Err(fixed);
    }
    if let Some(fault) = tls::fault(&loaded) {
        return Err(vec![fault]);
    }
    let (fleet, ended) = after_reload(old, new, &known.fleet);
    let facts = Facts { fleet, ..known };
    let plan = plan::compile(new, &facts);
    Ok(Compiled {
        loaded,
        plan,
        fleet: facts.fleet,
        ended,
    })
}

/// Compiles where blocking is allowed: with many workers it takes a while.
pub(super) async fn compile(loaded: Arc<Loaded>, facts: Facts) -> Option<Plan> {
    let compile = move || loaded.spec.as_ref().map(|spec| plan::compile(spec, &facts));
    spawn_blocking(compile).await.ok().flatten()
}

/// A step of a reload that ended without an outcome.
pub(super) fn broken(what: &str) -> Diagnostic {
    Diagnostic::error("internal", format!("{what} broke off"))
}
