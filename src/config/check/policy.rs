//! Checks of policies, wherever they stand.

use super::Check;
use crate::base::units::Millis;
use crate::config::spec::{
    Algorithm, Bucket, CacheAware, LeastLoad, Manual, Policy, PrefixHash, Routing,
};

/// Keys of `cache_aware` that only `tree` reads.
const TREE_ONLY: &[&str] = &[
    "cache_threshold",
    "balance_abs_threshold",
    "balance_rel_threshold",
    "balance_token_usage_threshold",
    "overload_token_usage_threshold",
    "eviction_interval",
    "max_tree_size",
];

impl Check<'_> {
    pub(super) fn routing(&mut self) {
        let Routing {
            policy,
            load_monitor_interval,
            sticky_sessions,
            ..
        } = &self.spec.routing;
        self.positive("routing.load_monitor_interval", *load_monitor_interval);
        self.policy("routing.policy", policy);
        let mut others = Vec::new();
        for (i, pool) in self.spec.pools.iter().enumerate() {
            for (leg, table) in [("prefill", &pool.prefill), ("decode", &pool.decode)] {
                let policy = table.as_ref().and_then(|leg| leg.policy.as_ref());
                others.extend(policy.map(|policy| (format!("pools[{i}].{leg}.policy"), policy)));
            }
        }
        for (i, model) in self.spec.models.iter().enumerate() {
            let policy = model.policy.as_ref();
            others.extend(policy.map(|policy| (format!("models[{i}].policy"), policy)));
        }
        for (at, policy) in &others {
            self.policy(at, policy);
        }
        let by_itself =
            |policy: &Policy| matches!(policy, Policy::Manual(_) | Policy::ConsistentHashing);
        if *sticky_sessions
            && by_itself(policy)
            && others.iter().all(|(_, policy)| by_itself(policy))
        {
            let reason = "every policy keeps requests with a routing key together by itself";
            self.without_effect("routing.sticky_sessions", reason);
        }
    }

    fn policy(&mut self, at: &str, policy: &Policy) {
        let at = format!("{at}.{policy}");
        match policy {
            Policy::Random
            | Policy::RoundRobin
            | Policy::Passthrough
            | Policy::PowerOfTwo
            | Policy::ConsistentHashing => {}
            Policy::LeastLoad(options) => self.least_load(&at, options),
            Policy::PrefixHash(options) => self.prefix_hash(&at, options),
            Policy::Manual(options) => self.manual(&at, options),
            Policy::Bucket(options) => self.bucket(&at, options),
            Policy::CacheAware(options) => self.cache_aware(&at, options),
        }
    }

    fn least_load(&mut self, at: &str, options: &LeastLoad) {
        if !(options.kv_pressure_weight >= 0.0 && options.kv_pressure_weight.is_finite()) {
            self.range(&format!("{at}.kv_pressure_weight"), "finite and at least 0");
        }
        self.above_zero(
            &format!("{at}.default_throughput"),
            options.default_throughput,
        );
        self.at_least_one(
            &format!("{at}.mean_prefill_tokens"),
            options.mean_prefill_tokens,
        );
    }

    fn prefix_hash(&mut self, at: &str, options: &PrefixHash) {
        self.at_least_one(
            &format!("{at}.prefix_token_count"),
            options.prefix_token_count,
        );
        self.factor(&format!("{at}.load_factor"), options.load_factor);
    }

    fn manual(&mut self, at: &str, options: &Manual) {
        self.positive(&format!("{at}.max_idle"), options.max_idle);
        self.positive(
            &format!("{at}.eviction_interval"),
            options.eviction_interval,
        );
        self.at_least_one(&format!("{at}.max_keys"), options.max_keys);
    }

    fn bucket(&mut self, at: &str, options: &Bucket) {
        self.factor(
            &format!("{at}.balance_rel_threshold"),
            options.balance_rel_threshold,
        );
        if options.adjust_interval < Millis::secs(1) {
            self.range(&format!("{at}.adjust_interval"), "at least 1s");
        }
    }

    fn cache_aware(&mut self, at: &str, options: &CacheAware) {
        let full = options.in_full();
        let key = |name: &str| format!("{at}.{name}");
        if let Some(share) = full.cache_threshold
            && !(0.0..=1.0).contains(&share)
        {
            self.range(&key("cache_threshold"), "from 0 to 1");
        }
        self.factor(
            &key("balance_rel_threshold"),
            full.balance_rel_threshold.unwrap_or(1.0),
        );
        for (name, share) in [
            (
                "balance_token_usage_threshold",
                full.balance_token_usage_threshold,
            ),
            (
                "overload_token_usage_threshold",
                full.overload_token_usage_threshold,
            ),
        ] {
            self.above_zero(&key(name), share.unwrap_or(1.0));
        }
        if let Some(interval) = full.eviction_interval {
            self.positive(&key("eviction_interval"), interval);
        }
        if full.max_tree_size == Some(0) {
            self.range(&key("max_tree_size"), "at least 1");
        }
        self.at_least_one(&key("block_size"), options.block_size);
        if options.memory.get() == 0 {
            self.range(&key("memory"), "greater than 0");
        }
        if options.runs() == Algorithm::Score {
            let reason = match options.algorithm {
                Some(_) => "only `tree` reads it, and `algorithm` is `score`",
                None => "only `tree` reads it; set `algorithm` to `tree` to have that one",
            };
            for name in TREE_ONLY {
                self.without_effect(&key(name), reason);
            }
        }
    }

    fn above_zero(&mut self, key: &str, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            self.range(key, "finite and greater than 0");
        }
    }

    fn factor(&mut self, key: &str, value: f64) {
        if !(value >= 1.0 && value.is_finite()) {
            self.range(key, "finite and at least 1");
        }
    }
}
