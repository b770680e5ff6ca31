//! Checks of `[[models]]`.

use std::collections::HashMap;

use super::Check;
use crate::config::diag::nearest::list;
use crate::config::diag::{Place, Severity};
use crate::config::spec::{Mirror, Model, Share};

impl Check<'_> {
    pub(super) fn models(&mut self) {
        let spec = self.spec;
        let models = || spec.models.iter().enumerate();
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
            self.split(&at, model);
            if let Some(mirror) = &model.mirror {
                self.mirror(&format!("{at}.mirror"), model, mirror);
            }
            self.fallback(&at, model);
        }
        self.circles();
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
        let split = format!("{at}.split");
        let pools = &self.spec.pools;
        let Some(name) = &model.pool else {
            let unclear = pools.len() > 1 && model.split.is_empty() && !self.origins.is_set(&split);
            if unclear && self.origins.is_intact(&key) && self.origins.is_intact(&split) {
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
        if !model.split.is_empty() {
            let message = format!("model `{}` has a `pool` and a `split`", model.name);
            let diagnostic = self
                .found(Severity::Error, "pool-and-split", &split, message)
                .beside(self.origins.place(&key), "the pool")
                .help("a split names all pools: make it one of them, or remove it");
            self.out.push(diagnostic);
        }
        self.pool_named(&key, &format!("model `{}`", model.name), name);
        self.pool_with_workers(&key, model, name);
    }

    /// Complains about the name of a pool that is not defined. Says whether it is.
    fn pool_named(&mut self, key: &str, who: &str, name: &str) -> bool {
        let pools = || self.spec.pools.iter().map(|pool| pool.name.as_str());
        if self.pools.contains_key(name) {
            return true;
        }
        // A pool that could not be read may be the one that is meant.
        if self.origins.is_intact("pools") {
            let message = format!("{who} names pool `{name}`, which is not defined");
            let defined = pools().enumerate();
            let defined = defined.map(|(i, pool)| (format!("pools[{i}].name"), pool));
            let help = self.suggestion(name, defined);
            let diagnostic = self.found(Severity::Error, "pool-unknown", key, message);
            self.out.push(diagnostic.help(help));
        }
        false
    }

    fn pool_with_workers(&mut self, key: &str, model: &Model, name: &str) {
        let known = self.pools.get(name).copied();
        let Some((i, pool)) = known.and_then(|i| Some((i, self.spec.pools.get(i)?))) else {
            return;
        };
        let absent = pool.members().next().is_none();
        if absent
            && !self.spec.routing.multi_model
            && self.origins.is_intact(&format!("pools[{i}]"))
        {
            let message = format!(
                "model `{}` is served by pool `{name}`, which has no workers",
                model.name
            );
            self.out
                .push(self.found(Severity::Warning, "model-without-workers", key, message));
        }
    }

    fn split(&mut self, at: &str, model: &Model) {
        let at = format!("{at}.split");
        if model.split.is_empty() {
            if self.origins.is_set(&at) && self.origins.is_intact(&at) {
                self.error(
                    "split",
                    &at,
                    format!("the `split` of model `{}` is empty", model.name),
                );
            }
            return;
        }
        let mut seen: HashMap<(&str, &str), String> = HashMap::new();
        for (i, share) in model.split.iter().enumerate() {
            let at = format!("{at}[{i}]");
            self.share(&at, model, share);
            let asked = share.model.as_deref().unwrap_or(&model.name);
            if let Some(first) = seen.get(&(share.pool.as_str(), asked)) {
                let message = format!(
                    "pool `{}` stands twice in the `split` of model `{}`",
                    share.pool, model.name
                );
                let diagnostic = self
                    .found(
                        Severity::Error,
                        "share-twice",
                        &format!("{at}.pool"),
                        message,
                    )
                    .beside(self.origins.place(first), "the first one")
                    .help("add the weights up, or give them different models");
                self.out.push(diagnostic);
            }
            seen.entry((&share.pool, asked))
                .or_insert_with(|| format!("{at}.pool"));
        }
        let sum: f64 = model.split.iter().map(|share| share.weight).sum();
        if sum <= 0.0 && self.origins.is_intact(&at) {
            let message = format!("the weights of model `{}` add up to 0", model.name);
            let diagnostic = self.found(Severity::Error, "split", &at, message);
            self.out
                .push(diagnostic.help("give one share at least a `weight` above 0"));
        }
    }

    fn share(&mut self, at: &str, model: &Model, share: &Share) {
        if !(share.weight >= 0.0 && share.weight.is_finite()) {
            self.range(&format!("{at}.weight"), "finite and at least 0");
        }
        let key = format!("{at}.model");
        match share.model.as_deref() {
            Some(name) if name.trim().is_empty() => {
                self.error("name", &key, "the name of a model must not be empty");
            }
            Some(name) if is_glob(name) => {
                let message = format!("a worker is asked for one model, not for `{name}`");
                self.error("name", &key, message);
            }
            _ => {}
        }
        let key = format!("{at}.pool");
        let who = format!("the `split` of model `{}`", model.name);
        if self.pool_named(&key, &who, &share.pool) && share.weight > 0.0 {
            self.pool_with_workers(&key, model, &share.pool);
        }
    }

    fn mirror(&mut self, at: &str, model: &Model, mirror: &Mirror) {
        if !(0.0..=1.0).contains(&mirror.fraction) {
            self.range(&format!("{at}.fraction"), "from 0 to 1");
        }
        let key = format!("{at}.pool");
        let who = format!("the `mirror` of model `{}`", model.name);
        if !self.pool_named(&key, &who, &mirror.pool) {
            return;
        }
        let mut pools = self.spec.pools.iter().enumerate();
        let legs = pools.find(|(_, pool)| pool.name == mirror.pool && pool.has_legs());
        if let Some((i, pool)) = legs {
            let leg = if pool.prefill.is_some() {
                "prefill"
            } else {
                "decode"
            };
            let message = format!("pool `{}` gets copies, and has legs", pool.name);
            let diagnostic = self
                .found(Severity::Error, "mirror-legs", &key, message)
                .beside(self.origins.place(&format!("pools[{i}].{leg}")), "a leg")
                .help("a copy goes to one worker; mirror to a pool without legs");
            self.out.push(diagnostic);
        }
    }

    fn fallback(&mut self, at: &str, model: &Model) {
        let spec = self.spec;
        for (i, name) in model.fallback.iter().enumerate() {
            let key = format!("{at}.fallback[{i}]");
            let models = || spec.models.iter().enumerate();
            if models().any(|(_, model)| model.name == *name) && !is_glob(name) {
                continue;
            }
            if is_glob(name) {
                let message = format!("fallback `{name}` must be an exact name");
                self.error("fallback", &key, message);
                continue;
            }
            // A model that could not be read may be the one that is meant.
            if !self.origins.is_intact("models") {
                continue;
            }
            let alias_of = models().find(|(_, model)| model.aliases.contains(name));
            let help = match alias_of {
                Some((_, model)) => format!("`{name}` is an alias: name `{}`", model.name),
                None => {
                    let exact = models().filter(|(_, model)| !is_glob(&model.name));
                    let exact = exact.map(|(i, m)| (format!("models[{i}].name"), m.name.as_str()));
                    self.suggestion(name, exact)
                }
            };
            let message = format!(
                "model `{}` falls back to `{name}`, which is not declared",
                model.name
            );
            let diagnostic = self.found(Severity::Error, "fallback-unknown", &key, message);
            self.out.push(diagnostic.help(help));
        }
    }

    /// Models that fall back to each other have nobody to fall back to.
    fn circles(&mut self) {
        let models = &self.spec.models;
        // Way from a model, each step with the key that leads on.
        let mut walk = Walk {
            models,
            done: vec![false; models.len()],
            way: Vec::new(),
            circles: Vec::new(),
        };
        for start in 0..models.len() {
            walk.from(start);
        }
        for circle in walk.circles {
            let names = circle.iter().filter_map(|(i, _)| models.get(*i));
            let mut names: Vec<String> = names.map(|model| format!("`{}`", model.name)).collect();
            names.extend(names.first().cloned());
            let message = format!("fallbacks lead in a circle: {}", names.join(" → "));
            let keys: Vec<String> = circle
                .iter()
                .map(|(i, f)| format!("models[{i}].fallback[{f}]"))
                .collect();
            let Some((last, others)) = keys.split_last() else {
                continue;
            };
            let mut diagnostic = self
                .found(Severity::Error, "fallback-circle", last, message)
                .help("remove one of them");
            for key in others {
                diagnostic = diagnostic.beside(self.origins.place(key), "on the way");
            }
            self.out.push(diagnostic);
        }
    }

    /// What may have been meant by a name that is not among the `defined` ones, each with its key,
    /// which may be empty.
    pub(super) fn suggestion<'n>(
        &self,
        name: &str,
        defined: impl Iterator<Item = (String, &'n str)>,
    ) -> String {
        use crate::config::diag::Spot;
        use crate::config::diag::nearest::nearest;
        let defined: Vec<(String, &str)> = defined.collect();
        let Some(near) = nearest(name, defined.iter().map(|(_, name)| *name)) else {
            return match defined.is_empty() {
                true => "none is defined".to_owned(),
                false => format!(
                    "defined are {}",
                    list(defined.iter().map(|(_, name)| *name))
                ),
            };
        };
        let key = defined.iter().find(|(_, name)| *name == near);
        let key = key.filter(|(key, _)| !key.is_empty());
        match key.and_then(|(key, _)| self.origins.place(key)) {
            Some(Place::File(Spot {
                file, line, column, ..
            })) => format!("did you mean `{near}` (defined at {file}:{line}:{column})?"),
            _ => format!("did you mean `{near}`?"),
        }
    }
}

/// A walk along fallbacks, depth first.
struct Walk<'a> {
    models: &'a [Model],
    /// Models from which everything was seen.
    done: Vec<bool>,
    /// The models from the start to here, each with the index of the fallback that is followed.
    way: Vec<(usize, usize)>,
    /// The circles that were found, each in the order of its way.
    circles: Vec<Vec<(usize, usize)>>,
}

impl Walk<'_> {
    fn from(&mut self, at: usize) {
        if self.done.get(at).copied().unwrap_or(true) {
            return;
        }
        let models = self.models;
        let fallback = models.get(at).map_or(&[][..], |model| &model.fallback);
        for (f, name) in fallback.iter().enumerate() {
            let Some(next) = models.iter().position(|model| model.name == *name) else {
                continue;
            };
            self.way.push((at, f));
            match self.way.iter().position(|(model, _)| *model == next) {
                Some(start) => self
                    .circles
                    .push(self.way.get(start..).unwrap_or_default().to_vec()),
                None => self.from(next),
            }
            self.way.pop();
        }
        if let Some(done) = self.done.get_mut(at) {
            *done = true;
        }
    }
}

/// Whether a name stands for many: `*` for any characters, `?` for any one.
fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}
