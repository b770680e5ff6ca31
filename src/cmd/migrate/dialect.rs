//! Whose flags a command line has, and in what they differ from ours.

use toml::Value;

use crate::config::cli::flag::{Flag, Group, Kind, Target};
use crate::config::cli::table::{DEFAULT_POOL, MAIN, METRICS};
use crate::config::spec::PolicyName;
use crate::config::{self, Given, Overlay};

/// A program whose flags are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// This one.
    Smg,
    /// SGLang router 0.3.
    SglangRouter,
    /// vLLM router 0.1.
    VllmRouter,
    /// SMG 1.13.
    Smg1,
}

impl Dialect {
    /// Every name, as it is given.
    pub(super) const WORDS: [&'static str; 4] = ["smg", "sglang-router", "vllm-router", "smg-1"];

    /// The dialect of this name.
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "smg" => Self::Smg,
            "sglang-router" => Self::SglangRouter,
            "vllm-router" => Self::VllmRouter,
            "smg-1" => Self::Smg1,
            _ => return None,
        })
    }

    /// What the program is called.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Smg => "smg",
            Self::SglangRouter => "SGLang router 0.3",
            Self::VllmRouter => "vLLM router 0.1",
            Self::Smg1 => "SMG 1.13",
        }
    }

    /// Whether an occurrence of a list flag replaces an earlier one.
    pub(super) const fn replaces_lists(self) -> bool {
        matches!(self, Self::SglangRouter | Self::VllmRouter)
    }

    /// Our name of a flag that is called otherwise.
    pub(super) fn ours(self, name: &str) -> &str {
        match name {
            "vllm-pd-disaggregation" => "pd-disaggregation",
            "cache-match-threshold" => "cache-threshold",
            "spill-abs-threshold" => "balance-abs-threshold",
            "spill-rel-threshold" => "balance-rel-threshold",
            "sticky-key-idle-secs" => "max-idle-secs",
            // Its callers are asked for nothing.
            "api-key" if self == Self::VllmRouter => "worker-api-key",
            name => name,
        }
    }

    /// The text of a value in our words, and what is lost by that.
    pub(super) fn value(self, flag: &Flag, text: &str) -> Spelled {
        let policy = matches!(flag.kind, Kind::Policy | Kind::DecodePolicy);
        match text {
            "kv_aware" if policy => Spelled::Nearly(
                "cache_aware",
                "`kv_aware` follows cache events of the engines; `cache_aware` remembers what was \
                 sent where",
            ),
            "consistent_hash" if policy => Spelled::Nearly(
                "consistent_hashing",
                "`consistent_hashing` hashes the header `x-smg-routing-key`, not a session or user \
                 id of the body",
            ),
            "sticky_least_loaded" if policy => Spelled::Nearly(
                "manual",
                "`manual` keeps requests with one `x-smg-routing-key` at one worker; set its \
                 `assignment_mode` to \"min_load\"",
            ),
            "warning" if flag.kind == Kind::LogLevel => Spelled::As("warn"),
            "critical" if flag.kind == Kind::LogLevel => Spelled::As("error"),
            "openai" if flag.kind == Kind::Runtime => Spelled::Nearly(
                "external",
                "`--backend openai` becomes `external`, which sends requests on as they come; \
                 health checks are off, and the `Authorization` of the caller goes to the worker",
            ),
            _ => Spelled::Same,
        }
    }

    /// Lays under the flags what the program does without them and we do not.
    pub(super) fn defaults(self, engines: bool) -> Overlay {
        let mut overlay = Overlay::default();
        let mut set = |target: config::Target, value: Value| {
            overlay.set(target, value, Given::Env(self.default_mark()));
        };
        let host = |listener: &str| config::Target::ListenerHost(listener.to_owned());
        let port = |listener: &str| config::Target::ListenerPort(listener.to_owned());
        let key = |key: &str| config::Target::Key(key.to_owned());
        let listener = |key: &str| config::Target::Listener(MAIN.to_owned(), key.to_owned());
        let option = |kinds: &[PolicyName], option: &str| config::Target::PolicyOption {
            pool: DEFAULT_POOL.to_owned(),
            kinds: kinds.to_vec(),
            option: option.to_owned(),
        };
        const CACHE: &[PolicyName] = &[PolicyName::CacheAware];
        const CLEARED: &[PolicyName] = &[PolicyName::CacheAware, PolicyName::Manual];
        if self != Self::Smg {
            set(option(CACHE, "algorithm"), Value::from("tree"));
        }
        for listener in self.hosts(engines) {
            set(host(listener), Value::from("127.0.0.1"));
        }
        match self {
            Self::Smg => {}
            Self::SglangRouter => {
                set(option(CLEARED, "eviction_interval"), Value::from("60s"));
            }
            Self::VllmRouter => {
                set(option(CACHE, "max_tree_size"), Value::from(33_554_432));
                let limit = "reliability.admission.max_concurrent_requests";
                set(key(limit), Value::from(32_768));
                let timeout = "reliability.health.startup_timeout";
                set(key(timeout), Value::from("10m"));
            }
            Self::Smg1 => {
                set(option(CLEARED, "eviction_interval"), Value::from("60s"));
                set(listener("limits.header_timeout"), Value::from("30s"));
                set(listener("limits.idle_timeout"), Value::from("90s"));
                let idle = "connections.idle_timeout".to_owned();
                set(
                    config::Target::Pool(DEFAULT_POOL.to_owned(), idle),
                    Value::from("3s"),
                );
                if engines {
                    set(port(MAIN), Value::from(8080));
                }
            }
        }
        overlay
    }

    /// The listeners to which the program gives another host than we do.
    pub(super) const fn hosts(self, engines: bool) -> &'static [&'static str] {
        match self {
            Self::VllmRouter => &[MAIN, METRICS],
            Self::SglangRouter | Self::Smg1 if engines => &[MAIN],
            Self::Smg | Self::SglangRouter | Self::Smg1 => &[],
        }
    }

    /// What a comment says of a key that [`Self::defaults`] sets.
    pub(super) fn default_mark(self) -> String {
        format!("the default of {}", self.title())
    }
}

/// A value of another program in our words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelled {
    /// As it is.
    Same,
    /// Another word for the same.
    As(&'static str),
    /// The nearest thing that we have, and the difference.
    Nearly(&'static str, &'static str),
}

const fn extra(name: &'static str, kind: Kind, target: Target) -> Flag {
    Flag {
        name,
        aliases: &[],
        short: None,
        kind,
        target,
        legacy: None,
        group: Group::Server,
        common: false,
        help: "",
    }
}

/// Flags that we do not have of keys that we do have.
static EXTRA: &[Flag] = &[
    extra(
        "upstream-http2",
        Kind::Switch,
        Target::Pool("connections.http2"),
    ),
    extra(
        "upstream-pool-idle-timeout-secs",
        Kind::Seconds,
        Target::Pool("connections.idle_timeout"),
    ),
    extra(
        "stream-body-stall-timeout-secs",
        Kind::Seconds,
        Target::Key("reliability.timeouts.idle"),
    ),
    extra(
        "job-queue-capacity",
        Kind::Number,
        Target::Key("server.jobs.capacity"),
    ),
    extra(
        "job-queue-concurrency",
        Kind::Number,
        Target::Key("server.jobs.concurrency"),
    ),
    extra(
        "control-plane-audit-enabled",
        Kind::Switch,
        Target::Key("audit.enabled"),
    ),
    extra(
        "no-remove-unhealthy-workers",
        Kind::Switch,
        Target::Off("reliability.health.remove_unhealthy"),
    ),
    extra(
        "worker-auto-recovery",
        Kind::Switch,
        Target::Off("reliability.health.remove_unhealthy"),
    ),
    extra(
        "no-worker-auto-recovery",
        Kind::Switch,
        Target::Key("reliability.health.remove_unhealthy"),
    ),
];

/// The flag of another program called `name`, where its key exists here.
pub(super) fn extra_flag(name: &str) -> Option<&'static Flag> {
    EXTRA.iter().find(|flag| flag.name == name)
}
