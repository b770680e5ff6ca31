//! What workers have told about themselves, and what operators have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::compiled::compile;
use super::super::fleet::Asked;
use super::super::report;
use super::{Bound, Publisher};
use crate::base::clock;
use crate::live::ChangeError;
use crate::plan::WorkerKey;

/// Those who asked for changes of workers, and what they are told.
pub(super) type Answers = Vec<(
    oneshot::Sender<Result<(), ChangeError>>,
    Result<(), ChangeError>,
)>;

impl Publisher {
    /// Takes changes of workers that operators or jobs want. They are in force with the next snapshot.
    pub(super) async fn accept(&mut self, orders: Vec<Asked>) -> Answers {
        let Some(spec) = self.loaded.spec.as_ref().filter(|_| !orders.is_empty()) else {
            return Vec::new();
        };
        let taken = self.ledger.take(orders, spec, &self.facts.fleet).await;
        if let Some(fleet) = taken.fleet {
            self.facts.fleet = fleet;
            self.changed = true;
        }
        taken.answers
    }

    /// Publishes what workers have told about themselves, and what operators have changed.
    pub(super) async fn learn(&mut self) {
        let old = self.live.load();
        let known: BTreeSet<WorkerKey> = old.plan.workers.iter().map(|w| w.key.base()).collect();
        // A worker that has left meanwhile is forgotten.
        let mut news = self.desk.take_facts();
        news.retain(|key, learned| {
            known.contains(key) && self.facts.workers.get(key) != Some(learned)
        });
        if news.is_empty() && !self.changed {
            return;
        }
        let began = clock::now();
        let manual = self.changed;
        let sources = [("probe", !news.is_empty()), ("manual", manual)];
        let mut facts = self.facts.clone();
        let joined: BTreeSet<WorkerKey> = news
            .keys()
            .filter(|key| !facts.workers.contains_key(key))
            .cloned()
            .collect();
        facts.workers.extend(news);
        let Some(plan) = compile(Arc::clone(&self.loaded), facts.clone()).await else {
            return;
        };
        let sha256 = Arc::clone(&old.sha256);
        let Some(Bound { next, .. }) = self.bind(plan, self.generation, sha256).await else {
            return;
        };
        self.facts = facts;
        self.swap(&old, next);
        if manual {
            report::synchronized("manual", began);
        }
        self.changed = false;
        for (source, _) in sources.into_iter().filter(|(_, changed)| *changed) {
            report::facts_changed(source);
        }
        self.forget_removed(&old, "removed");
        let new = self.live.load();
        for worker in new
            .plan
            .workers
            .iter()
            .filter(|worker| joined.contains(&worker.key.base()))
        {
            report::registered(worker, &new.plan.pool(worker.pool).name);
        }
        self.tidy(old).await;
    }
}
