//! Checks of `[[pools]]`.

use std::collections::HashMap;

use super::Check;
use crate::config::diag::Severity;
use crate::config::spec::{Leg, Model, Policy, Pool, Runtime, Undeclared, Worker, WorkerUrl};

/// One of the lists of workers of a pool.
struct List<'a> {
    /// Its key.
    key: String,
    /// What stands in the file if the list does not.
    around: String,
    /// What it is called in messages.
    what: String,
    /// Its workers.
    workers: &'a [Worker],
    /// The policy of the leg.
    policy: Option<(&'a Policy, String)>,
    /// Whether it is that of prefill workers.
    prefills: bool,
}

impl Check<'_> {
    pub(super) fn pools(&mut self) {
        let spec = self.spec;
        let pools = || spec.pools.iter().enumerate();
        let names = pools().map(|(i, pool)| (format!("pools[{i}].name"), pool.name.as_str()));
        self.names("pool", names);
        for (i, pool) in pools() {
            let at = format!("pools[{i}]");
            for list in lists(&at, pool) {
                self.workers(pool, &list);
                self.two_choices(pool, &list);
            }
            self.client_tls(&format!("{at}.tls"), &pool.tls);
            self.legs(&at, pool);
            self.ranks(&at, pool);
            self.positive(
                &format!("{at}.connections.idle_timeout"),
                pool.connections.idle_timeout,
            );
        }
    }

    fn workers(&mut self, pool: &Pool, list: &List<'_>) {
        let List { key: at, what, .. } = list;
        let later = self.spec.routing.multi_model;
        if list.workers.is_empty() && !later && self.origins.is_intact(at) {
            let key = if self.origins.is_set(at) {
                at
            } else {
                &list.around
            };
            let message = format!("{what} has no workers");
            self.out
                .push(self.found(Severity::Warning, "no-workers", key, message));
        }
        let mut seen: HashMap<&WorkerUrl, String> = HashMap::new();
        for (i, worker) in list.workers.iter().enumerate() {
            let key = format!("{at}[{i}]");
            self.worker(pool, list, &key, worker);
            let url = self.url_key(&key);
            if let Some(first) = seen.get(&worker.url) {
                let message = format!("{what} has the worker `{}` twice", worker.url);
                let diagnostic = self
                    .found(Severity::Error, "worker-twice", &url, message)
                    .beside(self.origins.place(first), "the first one");
                self.out.push(diagnostic);
                continue;
            }
            seen.insert(&worker.url, url);
        }
    }

    fn worker(&mut self, pool: &Pool, list: &List<'_>, at: &str, worker: &Worker) {
        let model = worker.model.as_deref();
        if model.is_some_and(|model| model.trim().is_empty()) {
            let message = "the name of a model must not be empty";
            self.error("name", &format!("{at}.model"), message);
        }
        if !(worker.cost > 0.0 && worker.cost.is_finite()) {
            self.range(&format!("{at}.cost"), "finite and greater than 0");
        }
        let tls = format!("{at}.tls");
        if worker.url.is_tls() {
            self.client_tls(&tls, &worker.tls);
        } else {
            self.without_effect(&tls, "the worker's URL begins with `http://`");
        }
        let key = format!("{at}.bootstrap_port");
        match worker.bootstrap_port {
            None => {}
            Some(0) => self.range(&key, "from 1 to 65535"),
            Some(_) if !list.prefills => {
                let message = format!("a worker of {} has no bootstrap port", list.what);
                let diagnostic = self.found(Severity::Error, "bootstrap-port", &key, message);
                let help = "workers of a `prefill` leg have one: decode workers fetch from it";
                self.out.push(diagnostic.help(help));
            }
            Some(_) if pool.runtime == Some(Runtime::Vllm) => {
                let reason = "vLLM says in its answers where decode workers find what they need";
                self.without_effect(&key, reason);
            }
            Some(_) => {}
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

    /// A pool has both legs or none, and with legs nothing else.
    fn legs(&mut self, at: &str, pool: &Pool) {
        if !pool.has_legs() {
            return;
        }
        let (prefill, decode) = (format!("{at}.prefill"), format!("{at}.decode"));
        let lone = match (&pool.prefill, &pool.decode) {
            (Some(_), None) => Some((&prefill, "prefill", &decode, "decode")),
            (None, Some(_)) => Some((&decode, "decode", &prefill, "prefill")),
            _ => None,
        };
        if let Some((key, has, absent, lacks)) = lone
            && self.origins.is_intact(absent)
        {
            let message = format!(
                "pool `{}` has a `{has}` leg, but no `{lacks}` leg",
                pool.name
            );
            let diagnostic = self.found(Severity::Error, "lone-leg", key, message);
            let help = format!("add `[pools.{lacks}]` with its `workers`, or `--{lacks}`");
            self.out.push(diagnostic.help(help));
        }
        if !pool.workers.is_empty() {
            let leg = if pool.prefill.is_some() {
                &prefill
            } else {
                &decode
            };
            let message = format!("pool `{}` has legs, and workers of no leg", pool.name);
            let diagnostic = self
                .found(
                    Severity::Error,
                    "workers-beside-legs",
                    &format!("{at}.workers"),
                    message,
                )
                .beside(self.origins.place(leg), "a leg")
                .help("put each worker into `prefill` or `decode`, or into a pool of its own");
            self.out.push(diagnostic);
        }
        if pool.runtime == Some(Runtime::Trtllm) {
            let key = format!("{at}.runtime");
            let message = format!(
                "workers of TensorRT-LLM cannot be the legs of `{}`",
                pool.name
            );
            let diagnostic = self.found(Severity::Error, "legs-of-runtime", &key, message);
            let help = "what their prefill answers is not enough for a decode worker to go on; \
                        list them in `workers`";
            self.out.push(diagnostic.help(help));
        }
        if pool.decode.is_some() {
            self.decode_by_length(&decode, pool);
        }
    }

    /// `bucket` goes by the length of prompts, which says nothing about decoding.
    fn decode_by_length(&mut self, at: &str, pool: &Pool) {
        const HELP: &str = "it goes by the length of prompts, which decode workers do not read";
        let decode = pool.decode.as_ref().and_then(|leg| leg.policy.as_ref());
        let is_bucket = |policy: Option<&Policy>| matches!(policy, Some(Policy::Bucket(_)));
        for (i, model) in self.served_by(pool) {
            if is_bucket(model.policy.as_ref()) {
                let key = format!("models[{i}].policy");
                let message = format!(
                    "`bucket` cannot choose decode workers, and model `{}` is served by pool \
                     `{}`, which has legs",
                    model.name, pool.name
                );
                let diagnostic = self
                    .found(Severity::Error, "decode-by-length", &key, message)
                    .beside(self.origins.place(at), "the leg")
                    .help("leave the policy to the legs: `policy` in `[pools.prefill]`");
                self.out.push(diagnostic);
            }
        }
        if is_bucket(decode) {
            let message = "`bucket` cannot choose decode workers";
            let key = format!("{at}.policy");
            let diagnostic = self.found(Severity::Error, "decode-by-length", &key, message);
            self.out.push(diagnostic.help(HELP));
        } else if decode.is_none()
            && is_bucket(Some(&self.spec.routing.policy))
            && self.is_inherited(pool)
        {
            let message = format!(
                "`bucket` cannot choose decode workers, and the `decode` leg of pool `{}` has no \
                 `policy` of its own",
                pool.name
            );
            let diagnostic = self
                .found(Severity::Error, "decode-by-length", at, message)
                .beside(self.origins.place("routing.policy"), "the policy of all")
                .help(
                    "give the leg another one: `policy` in `[pools.decode]`, or `--decode-policy`",
                );
            self.out.push(diagnostic);
        }
    }

    fn ranks(&mut self, at: &str, pool: &Pool) {
        if pool.dp_minimum_tokens && !pool.dp_aware {
            let reason = "it chooses among ranks, and `dp_aware` is false";
            self.without_effect(&format!("{at}.dp_minimum_tokens"), reason);
        }
        let other = pool.runtime.filter(|runtime| *runtime != Runtime::Sglang);
        if let Some(runtime) = other.filter(|_| pool.dp_aware) {
            let message = format!(
                "pool `{}` chooses the rank itself, which `{runtime}` does not offer over HTTP",
                pool.name
            );
            let key = format!("{at}.dp_aware");
            let diagnostic = self.found(Severity::Warning, "ranks-of-runtime", &key, message);
            self.out
                .push(diagnostic.help("its workers are taken only if they turn out to be SGLang"));
        }
    }

    /// The models whose requests may go to a pool.
    pub(super) fn served_by<'s>(&self, pool: &'s Pool) -> Vec<(usize, &'s Model)>
    where
        Self: 's,
    {
        let spec = self.spec;
        let only = spec.pools.len() == 1;
        let serves = |model: &Model| match &model.pool {
            Some(name) => *name == pool.name,
            None if model.split.is_empty() => only,
            None => model.split.iter().any(|share| share.pool == pool.name),
        };
        let models = spec.models.iter().enumerate();
        models.filter(|(_, model)| serves(model)).collect()
    }

    /// Whether some requests to a pool are placed by a policy that is not their model's.
    fn is_inherited(&self, pool: &Pool) -> bool {
        self.spec.routing.undeclared_models == Undeclared::Discover
            || self
                .served_by(pool)
                .iter()
                .any(|(_, model)| model.policy.is_none())
    }

    /// `power_of_two` draws two workers, so it needs two.
    fn two_choices(&mut self, pool: &Pool, list: &List<'_>) {
        let few = list.workers.len() < 2;
        if !few || self.spec.routing.multi_model || !self.origins.is_intact("pools") {
            return;
        }
        let models = self.served_by(pool);
        let mut own = models
            .iter()
            .filter(|(_, model)| model.policy == Some(Policy::PowerOfTwo));
        let wider = match &list.policy {
            Some((policy, key)) => (*policy, key.clone()),
            None => (&self.spec.routing.policy, "routing.policy".to_owned()),
        };
        let key = match own.next() {
            Some((i, _)) => format!("models[{i}].policy"),
            None if *wider.0 == Policy::PowerOfTwo && self.is_inherited(pool) => wider.1,
            None => return,
        };
        let message = format!(
            "`power_of_two` chooses between two workers, and {} has {}",
            list.what,
            if list.workers.is_empty() {
                "none"
            } else {
                "one"
            }
        );
        self.out
            .push(self.found(Severity::Warning, "one-choice", &key, message));
    }
}

/// The lists of workers that a pool has or should have.
fn lists<'a>(at: &str, pool: &'a Pool) -> Vec<List<'a>> {
    let name = &pool.name;
    let mut lists = Vec::new();
    if !pool.has_legs() || !pool.workers.is_empty() {
        lists.push(List {
            key: format!("{at}.workers"),
            around: at.to_owned(),
            what: format!("pool `{name}`"),
            workers: &pool.workers,
            policy: None,
            prefills: false,
        });
    }
    for (leg, table) in [("prefill", &pool.prefill), ("decode", &pool.decode)] {
        let Some(Leg { workers, policy }) = table else {
            continue;
        };
        let around = format!("{at}.{leg}");
        lists.push(List {
            key: format!("{around}.workers"),
            what: format!("the `{leg}` leg of pool `{name}`"),
            workers,
            policy: policy
                .as_ref()
                .map(|policy| (policy, format!("{around}.policy"))),
            prefills: leg == "prefill",
            around,
        });
    }
    lists
}
