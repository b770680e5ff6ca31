//! The log and the traces as the configuration wants them.

use std::path::Path;
use std::sync::Arc;

use crate::config::spec::{self, Spec};
use crate::config::{Origin, Origins};
use crate::plan::Plan;
use crate::telemetry::log::{self, Audit, Format, Handle, LogError, Prepared, Rotate, Settings};
use crate::telemetry::trace;

/// The running log, that of audits included, and what stands over `[logging]`.
#[derive(Clone)]
pub struct Logging {
    handle: Handle,
    over: Over,
}

impl Logging {
    /// Says so where the level that the files name has no effect.
    pub(super) fn warn_of_mask(&self, origins: &Origins) {
        let by_filter =
            self.over.filter.is_some() && origins.of("logging.level") != Origin::Default;
        if by_filter || origins.level_is_masked() {
            let by = if by_filter {
                "RUST_LOG".to_owned()
            } else {
                origins.of("logging.level").to_string()
            };
            tracing::warn!(
                target: "smg::config",
                by, "`logging.level` of the configuration has no effect"
            );
        }
    }
}

/// What the file cannot change.
#[derive(Debug, Clone, Default)]
pub struct Over {
    /// A filter expression that comes before `logging.level`.
    pub filter: Option<String>,
    /// Whether the standard output is the journal.
    pub journal: bool,
}

impl Logging {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// Any [`LogError`].
    pub fn start(spec: &Spec, over: Over) -> Result<Self, LogError> {
        let handle = log::init(&settings(spec, &over))?;
        Ok(Self { handle, over })
    }

    /// Does everything about the new settings that may fail.
    pub(super) fn prepare(&self, spec: &Spec) -> Result<Prepared, LogError> {
        log::prepare(&settings(spec, &self.over))
    }

    /// Goes over to the new settings; a log file that was moved away is let go.
    pub(super) fn apply(&self, prepared: Prepared) {
        self.handle.apply(prepared);
    }
}

fn settings(spec: &Spec, over: &Over) -> Settings {
    let (logging, audit) = (&spec.logging, &spec.audit);
    Settings {
        filter: over
            .filter
            .clone()
            .unwrap_or_else(|| logging.level.as_str().to_owned()),
        format: match logging.format {
            spec::LogFormat::Text => Format::Text,
            spec::LogFormat::Json => Format::Json,
        },
        journal: over.journal,
        dir: logging.dir.as_deref().map(Path::to_owned),
        rotate: match logging.rotate {
            spec::Rotate::Daily => Rotate::Daily,
            spec::Rotate::Never => Rotate::Never,
        },
        keep: logging.keep as usize,
        audit: Audit {
            enabled: audit.enabled,
            path: audit.path.as_deref().map(Path::to_owned),
        },
    }
}

/// Sends spans where `plan` wants them.
pub(super) fn trace(plan: &Plan) {
    let tracing = &plan.tracing;
    trace::follow(tracing.enabled.then(|| trace::Settings {
        endpoint: Arc::clone(&tracing.endpoint),
        service_name: Arc::clone(&tracing.service_name),
    }));
}
