//! What is told about the live configuration and about the candidate that was refused.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{Diagnostic, Loaded};

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
    pub(super) fn to_json(&self, snapshot_id: u64) -> Value {
        json!({
            "snapshot_id": snapshot_id,
            "synchronized": self.rejected.is_none(),
            "live": self.live,
            "rejected": self.rejected,
        })
    }
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let text = OffsetDateTime::from(*time)
        .format(&Rfc3339)
        .map_err(serde::ser::Error::custom)?;
    to.serialize_str(&text)
}
