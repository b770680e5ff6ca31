//! Checks of `[[models]]`.

use super::Check;
use crate::config::diag::nearest::{list, nearest};
use crate::config::diag::{Place, Severity, Spot};
use crate::config::spec::Model;

impl Check<'_> {
    pub(super) fn models(&mut self) {
        let models = || self.spec.models.iter().enumerate();
        let names = models().map(|(i, model)| (format!("models[{i}].name"), model.name.as_str()));
        let aliases = models().flat_map(|(i, model)| {
            let key = move |a| format!("models[{i}].aliases[{a}]");
            model
                .aliases
                .iter()
                .enumerate()
                .map(move |(a, alias)| (key(a), alias.as_str()))
        });
        self.names("model", names.chain(aliases));
        for (i, model) in models() {
            let at = format!("models[{i}]");
            self.model_name(&at, model);
            self.model_pool(&at, model);
        }
    }

    fn model_name(&mut self, at: &str, model: &Model) {
        if is_glob(&model.name) && !model.aliases.is_empty() {
            let message = "a glob of names has no aliases: there is no one name they stand for";
            self.error("alias", &format!("{at}.aliases"), message);
        }
        for (i, alias) in model.aliases.iter().enumerate() {
            if is_glob(alias) {
                let message = format!("alias `{alias}` must be an exact name");
                self.error("alias", &format!("{at}.aliases[{i}]"), message);
            }
        }
    }

    fn model_pool(&mut self, at: &str, model: &Model) {
        let key = format!("{at}.pool");
        let pools = &self.spec.pools;
        let Some(name) = &model.pool else {
            if pools.len() > 1 && self.origins.is_intact(&key) {
                let message = format!(
                    "model `{}` does not say its `pool`, and there are several",
                    model.name
                );
                let names = list(pools.iter().map(|pool| pool.name.as_str()));
                let diagnostic = self.found(Severity::Error, "missing-key", at, message);
                self.out.push(diagnostic.help(format!("there are {names}")));
            }
            return;
        };
        let Some(i) = pools.iter().position(|pool| pool.name == *name) else {
            // A pool that could not be read may be the one that is meant.
            if self.origins.is_intact("pools") {
                self.unknown_pool(&key, model, name);
            }
            return;
        };
        let workers = format!("pools[{i}].workers");
        if pools.get(i).is_some_and(|pool| pool.workers.is_empty())
            && self.origins.is_intact(&workers)
        {
            let message = format!(
                "model `{}` is served by pool `{name}`, which has no workers",
                model.name
            );
            self.out
                .push(self.found(Severity::Warning, "model-without-workers", &key, message));
        }
    }

    fn unknown_pool(&mut self, key: &str, model: &Model, name: &str) {
        let names = || self.spec.pools.iter().map(|pool| pool.name.as_str());
        let message = format!(
            "model `{}` names pool `{name}`, which is not defined",
            model.name
        );
        let help = match nearest(name, names()) {
            Some(near) => {
                let i = names().position(|name| name == near).unwrap_or_default();
                match self.origins.place(&format!("pools[{i}].name")) {
                    Some(Place::File(Spot {
                        file, line, column, ..
                    })) => {
                        format!("did you mean `{near}` (defined at {file}:{line}:{column})?")
                    }
                    _ => format!("did you mean `{near}`?"),
                }
            }
            None => format!("defined are {}", list(names())),
        };
        let diagnostic = self.found(Severity::Error, "pool-unknown", key, message);
        self.out.push(diagnostic.help(help));
    }
}

/// Whether a name stands for many: `*` for any characters, `?` for any one.
fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}
