//! Checks of `[[pools]]`.

use std::collections::HashMap;

use super::Check;
use crate::config::diag::Severity;
use crate::config::spec::{Policy, Pool, Undeclared, WorkerUrl};

impl Check<'_> {
    pub(super) fn pools(&mut self) {
        let names = self
            .spec
            .pools
            .iter()
            .enumerate()
            .map(|(i, pool)| (format!("pools[{i}].name"), pool.name.as_str()));
        self.names("pool", names);
        for (i, pool) in self.spec.pools.iter().enumerate() {
            let at = format!("pools[{i}]");
            self.workers(&at, pool);
            self.two_choices(pool);
            self.positive(
                &format!("{at}.connections.idle_timeout"),
                pool.connections.idle_timeout,
            );
        }
    }

    fn workers(&mut self, at: &str, pool: &Pool) {
        let list = format!("{at}.workers");
        if pool.workers.is_empty() && self.origins.is_intact(&list) {
            let key = if self.origins.is_set(&list) {
                list.as_str()
            } else {
                at
            };
            let message = format!("pool `{}` has no workers", pool.name);
            self.out
                .push(self.found(Severity::Warning, "no-workers", key, message));
        }
        let mut seen: HashMap<&WorkerUrl, String> = HashMap::new();
        for (i, worker) in pool.workers.iter().enumerate() {
            let key = format!("{list}[{i}]");
            if worker
                .model
                .as_deref()
                .is_some_and(|model| model.trim().is_empty())
            {
                self.error(
                    "name",
                    &format!("{key}.model"),
                    "the name of a model must not be empty",
                );
            }
            if let Some(first) = seen.get(&worker.url) {
                let message = format!("pool `{}` has the worker `{}` twice", pool.name, worker.url);
                let diagnostic = self
                    .found(
                        Severity::Error,
                        "worker-twice",
                        &self.url_key(&key),
                        message,
                    )
                    .beside(self.origins.place(first), "the first one");
                self.out.push(diagnostic);
                continue;
            }
            seen.insert(&worker.url, self.url_key(&key));
        }
    }

    /// The key of a worker's URL: its own if the worker is a table, else the worker.
    fn url_key(&self, worker: &str) -> String {
        let url = format!("{worker}.url");
        if self.origins.is_set(&url) {
            url
        } else {
            worker.to_owned()
        }
    }

    /// `power_of_two` draws two workers, so it needs two.
    fn two_choices(&mut self, pool: &Pool) {
        if pool.workers.len() >= 2 || !self.origins.is_intact("pools") {
            return;
        }
        let models = || {
            self.spec
                .models
                .iter()
                .enumerate()
                .filter(|(_, model)| match &model.pool {
                    Some(name) => *name == pool.name,
                    None => self.spec.pools.len() == 1,
                })
        };
        let own = models().find(|(_, model)| model.policy == Some(Policy::PowerOfTwo));
        let inherits = self.spec.routing.undeclared_models == Undeclared::Discover
            || models().any(|(_, model)| model.policy.is_none());
        let key = match own {
            Some((i, _)) => format!("models[{i}].policy"),
            None if self.spec.routing.policy == Policy::PowerOfTwo && inherits => {
                "routing.policy".to_owned()
            }
            None => return,
        };
        let message = format!(
            "`power_of_two` chooses between two workers, and pool `{}` has {}",
            pool.name,
            if pool.workers.is_empty() {
                "none"
            } else {
                "one"
            }
        );
        self.out
            .push(self.found(Severity::Warning, "one-choice", &key, message));
    }
}
