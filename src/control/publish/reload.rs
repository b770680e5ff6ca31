//! A configuration that was read: checked, prepared, published; or kept out.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinError, spawn_blocking};

use super::super::certificates::{self, Ending};
use super::super::compiled::{Compiled, broken, check, is_same};
use super::super::fleet::Ended;
use super::super::status::{Candidate, Status};
use super::super::watch::Watched;
use super::super::{logging, report};
use super::{Bound, Publisher, Step};
use crate::base::clock;
use crate::config::{Diagnostic, Loaded};
use crate::live::{Outcome, PreparedSockets, Sockets, Trigger};
use crate::plan::Fleet;
use crate::telemetry::{audit, event, log};

/// A configuration for which everything that may fail has been done.
struct Ready {
    loaded: Arc<Loaded>,
    fleet: Fleet,
    ended: Vec<Ended>,
    bound: Bound,
    sockets: Box<dyn PreparedSockets>,
    log: Option<log::Prepared>,
}

impl Publisher {
    pub(super) async fn reload(
        &mut self,
        trigger: Trigger,
        loaded: Result<Loaded, JoinError>,
        sockets: &dyn Sockets,
    ) -> Outcome {
        let Ok(loaded) = loaded.map(Arc::new) else {
            let diagnostic = broken("reading the configuration");
            return self.refuse(trigger, "", vec![diagnostic]);
        };
        self.watch(&loaded);
        if trigger == Trigger::File && self.is_seen(&loaded) {
            return self.serving();
        }
        (self.outside.observer)(Step::Reloading);
        if is_same(&loaded, &self.loaded) {
            return self.keep(trigger);
        }
        let began = clock::now();
        let ready = match self.check(&loaded).await {
            Ok(compiled) => self.prepare(compiled, sockets).await,
            Err(diagnostics) => Err(diagnostics),
        };
        match ready {
            Ok(ready) => self.publish(trigger, ready, began).await,
            Err(diagnostics) => {
                certificates::count(&self.loaded, &loaded, Ending::Rejected);
                let sha256 = loaded.sha256.clone();
                self.refused = Some(loaded);
                self.refuse(trigger, &sha256, diagnostics)
            }
        }
    }

    /// Whether this is what was judged last: a file that is looked at again and again is reported
    /// once.
    fn is_seen(&self, loaded: &Loaded) -> bool {
        is_same(loaded, self.refused.as_ref().unwrap_or(&self.loaded))
    }

    /// Whether a file could not be read: there may be nothing wrong with it but that descriptors had
    /// run out, and then no event tells when it can be read.
    pub(super) fn is_unread(&self) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|refused| refused.diagnostics.iter().any(|d| d.slug == "unreadable"))
    }

    async fn check(&self, loaded: &Arc<Loaded>) -> Result<Compiled, Vec<Diagnostic>> {
        let (before, facts) = (Arc::clone(&self.loaded), self.facts.clone());
        let loaded = Arc::clone(loaded);
        // With many workers it takes a while.
        let checked = spawn_blocking(move || check(&before, loaded, facts)).await;
        checked.unwrap_or_else(|_| Err(vec![broken("compiling the configuration")]))
    }

    async fn prepare(
        &self,
        compiled: Compiled,
        sockets: &dyn Sockets,
    ) -> Result<Ready, Vec<Diagnostic>> {
        let Compiled {
            loaded,
            plan,
            fleet,
            ended,
        } = compiled;
        let log = self.log_settings(&loaded).map_err(|error| {
            let key = match error {
                log::LogError::Audit { .. } => "audit.path",
                _ => "logging",
            };
            vec![Diagnostic::error("logging", error.to_string()).about(key)]
        })?;
        let sockets = sockets.prepare(&plan.listeners).await.map_err(|errors| {
            errors
                .iter()
                .map(|error| report::unbound(error, &loaded))
                .collect::<Vec<_>>()
        })?;
        let sha256 = loaded.sha256.as_str().into();
        let bound = self.bind(plan, self.generation + 1, sha256).await;
        let bound = bound.ok_or_else(|| vec![broken("binding the configuration")])?;
        Ok(Ready {
            loaded,
            fleet,
            ended,
            bound,
            sockets,
            log,
        })
    }

    fn log_settings(&self, loaded: &Loaded) -> Result<Option<log::Prepared>, log::LogError> {
        match (&self.outside.logging, &loaded.spec) {
            (Some(logging), Some(spec)) => logging.prepare(spec).map(Some),
            _ => Ok(None),
        }
    }

    async fn publish(&mut self, trigger: Trigger, ready: Ready, began: Instant) -> Outcome {
        let Ready {
            loaded,
            fleet,
            ended,
            bound: Bound { old, next, changes },
            sockets,
            log,
        } = ready;
        let changes = report::changes(&changes);
        let sha256 = Arc::clone(&next.sha256);
        self.generation = next.generation;
        self.swap(&old, next);
        sockets.commit();
        report::synchronized("static", began);
        logging::trace(&self.live.load().plan);
        // The reload that puts an end to the audit log is the last thing in it.
        let audited = audit::enabled();
        if audited {
            self.audit(trigger, "applied", &sha256);
        }
        self.apply_log(log);
        if !audited {
            self.audit(trigger, "applied", &sha256);
        }
        event::ConfigApplied {
            trigger: report::trigger_of(trigger),
            generation: self.generation,
            sha256: &sha256,
            changes: &changes,
        }
        .emit();
        report::log_all(&loaded.diagnostics);
        certificates::count(&self.loaded, &loaded, Ending::Applied);
        if let Some(logging) = &self.outside.logging {
            logging.warn_of_mask(&loaded.origins);
        }
        self.loaded = loaded;
        self.refused = None;
        *self.status.lock() = Status {
            live: Candidate::new(self.generation, trigger, &sha256, &self.loaded.diagnostics),
            rejected: None,
            loaded: Arc::clone(&self.loaded),
        };
        self.changed = false;
        self.forget_removed(&old, "config_removed");
        self.tidy(old).await;
        (self.outside.observer)(Step::Serving(self.generation));
        let before = std::mem::replace(&mut self.facts.fleet, fleet);
        if let Some(spec) = &self.loaded.spec {
            let fleet = &self.facts.fleet;
            self.ledger.reloaded(spec, &before, fleet, &ended).await;
        }
        Outcome::Applied {
            generation: self.generation,
            sha256,
        }
    }

    fn audit(&self, trigger: Trigger, result: &str, sha256: &str) {
        let reload = audit::Reload {
            trigger: report::trigger_of(trigger).as_str(),
            result,
            generation: self.generation,
            sha256,
        };
        audit::reloaded(&reload);
    }

    fn apply_log(&self, prepared: Option<log::Prepared>) {
        if let (Some(logging), Some(prepared)) = (&self.outside.logging, prepared) {
            logging.apply(prepared);
        }
    }

    /// The files say what is served. The log file is opened anew all the same: this is how one
    /// that was moved away is let go.
    fn keep(&mut self, trigger: Trigger) -> Outcome {
        match self.log_settings(&self.loaded) {
            Ok(prepared) => self.apply_log(prepared),
            Err(error) => {
                tracing::warn!(target: "smg::config", %error, "log file not opened anew");
            }
        }
        self.audit(trigger, "unchanged", &self.loaded.sha256);
        event::ConfigUnchanged {
            trigger: report::trigger_of(trigger),
        }
        .emit();
        self.refused = None;
        self.status.lock().rejected = None;
        (self.outside.observer)(Step::Serving(self.generation));
        self.serving()
    }

    fn refuse(&self, trigger: Trigger, sha256: &str, diagnostics: Vec<Diagnostic>) -> Outcome {
        let refused = Candidate::new(self.generation + 1, trigger, sha256, &diagnostics);
        let before = self.status.lock().rejected.replace(refused);
        let told =
            before.is_some_and(|old| *old.sha256 == *sha256 && old.diagnostics == diagnostics);
        let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.is_error()).collect();
        let first = errors
            .first()
            .map(|error| report::line(error))
            .unwrap_or_default();
        self.audit(trigger, "rejected", sha256);
        event::ConfigRejected {
            trigger: report::trigger_of(trigger),
            errors: errors.len(),
            first: &first,
        }
        .emit();
        if !told {
            report::log_all(&diagnostics);
        }
        (self.outside.observer)(Step::Refused(&first));
        Outcome::Rejected { diagnostics }
    }

    /// Watches what was read now and what the configuration in effect was read from, so that a
    /// refused include does not hide the files that would mend it.
    fn watch(&self, loaded: &Loaded) {
        let mut watched = Watched::of(loaded);
        let served = Watched::of(&self.loaded);
        watched.files.extend(served.files);
        watched.directories.extend(served.directories);
        self.watched.send_if_modified(|known| {
            let differs = *known != watched;
            *known = watched;
            differs
        });
    }
}
