//! What is told about the live configuration and about the candidate that was refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::base::clock;
use crate::config::{Diagnostic, Loaded};
use crate::live::{Judged, Live, Trigger};
use crate::plan::{Fleet, Member, Override};

/// A configuration that took effect, or should have.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Candidate {
    /// Its number; a refused one is told under the number it would have got.
    pub(super) generation: u64,
    /// Its hash.
    pub(super) sha256: Arc<str>,
    /// When it was judged.
    #[serde(serialize_with = "rfc3339")]
    pub(super) time: SystemTime,
    /// What asked for it.
    pub(super) trigger: &'static str,
    /// What was found.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Candidate {
    /// What was read at this moment because of `trigger`.
    pub(super) fn new(
        generation: u64,
        trigger: Trigger,
        sha256: &str,
        diagnostics: &[Diagnostic],
    ) -> Self {
        Self {
            generation,
            sha256: sha256.into(),
            time: clock::wall(),
            trigger: trigger.as_str(),
            diagnostics: diagnostics.to_vec(),
        }
    }
}

impl From<&Candidate> for Judged {
    fn from(candidate: &Candidate) -> Self {
        Self {
            generation: candidate.generation,
            sha256: Arc::clone(&candidate.sha256),
            time: candidate.time,
            trigger: candidate.trigger,
            diagnostics: candidate.diagnostics.clone(),
        }
    }
}

/// Where configurations stand.
#[derive(Debug)]
pub(super) struct Status {
    /// The one in effect.
    pub(super) live: Candidate,
    /// What the files say, where that was refused.
    pub(super) rejected: Option<Candidate>,
    /// The configuration in effect, as it was loaded.
    pub(super) loaded: Arc<Loaded>,
}

impl Status {
    /// The answer of `GET /admin/config/status`.
    pub(super) fn to_json(&self, live: &Live, fleet: &Fleet) -> Value {
        json!({
            "snapshot_id": live.load().id,
            "synchronized": self.rejected.is_none(),
            "live": self.live,
            "rejected": self.rejected,
            "process": { "phase": live.phase().as_str(), "calls_in_flight": live.calls() },
            "fleet": beside(fleet),
        })
    }
}

/// What differs from the configuration because operators said so.
fn beside(fleet: &Fleet) -> Value {
    let member = |member: &Member| json!({ "pool": member.pool, "url": member.worker });
    let members = |of: &BTreeSet<Member>| of.iter().map(member).collect::<Vec<_>>();
    let changed = |(of, change): (&Member, &Override)| {
        let Override {
            priority,
            cost,
            labels,
            api_key,
            health,
            circuit_breaker,
            drain,
        } = change;
        let mut shown = json!({ "pool": of.pool, "url": of.worker });
        let differs = [
            ("priority", json!(priority)),
            ("cost", json!(cost)),
            ("labels", json!(labels)),
            ("api_key", json!(api_key)),
            ("health", json!(health)),
            ("circuit_breaker", json!(circuit_breaker)),
            ("drain", json!(drain)),
        ];
        if let Some(shown) = shown.as_object_mut() {
            let is_empty = |value: &Value| {
                value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
            };
            let said = differs.into_iter().filter(|(_, value)| !is_empty(value));
            shown.extend(said.map(|(name, value)| (name.to_owned(), value)));
        }
        shown
    };
    json!({
        "added": fleet.added.keys().map(member).collect::<Vec<_>>(),
        "leaving": members(&fleet.leaving),
        "tombstones": members(&fleet.tombstones),
        "overrides": fleet.overrides.iter().map(changed).collect::<Vec<_>>(),
        "drains": fleet
            .drains
            .iter()
            .map(|(pool, drain)| json!({ "pool": pool, "drain": drain }))
            .collect::<Vec<_>>(),
    })
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let text = OffsetDateTime::from(*time)
        .format(&Rfc3339)
        .map_err(serde::ser::Error::custom)?;
    to.serialize_str(&text)
}
