//! Flags that are known and refused: those of features that this version does not have, and those
//! of a similar program that this one leaves out on purpose.

use super::flag::variable;
use super::table;

/// A flag of a feature that this version does not have.
#[derive(Debug)]
pub struct Later {
    /// Its names, the one with a variable first.
    pub names: &'static [&'static str],
    /// A variable of other tools for it.
    pub legacy: Option<&'static str>,
}

impl Later {
    /// The variables that would mean the same.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        let own = self.names.first().map(|name| variable(name));
        own.into_iter().chain(self.legacy.map(str::to_owned))
    }
}

/// Why the flag called `name` is refused; `None` if nothing is known about it.
pub fn reason(name: &str) -> Option<&'static str> {
    if LATER.iter().any(|later| later.names.contains(&name)) {
        return Some("is not available in this version");
    }
    if table::find(name).is_some() {
        return None;
    }
    FOREIGN
        .iter()
        .find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pattern,
        })
        .map(|(_, reason)| *reason)
}

macro_rules! later {
    ($($first:literal $(($($alias:literal),+))? $($legacy:ident)?;)+) => {
        &[$(Later {
            names: &[$first $(, $($alias),+)?],
            legacy: later!(@ $($legacy)?),
        }),+]
    };
    (@) => { None };
    (@ $legacy:ident) => { Some(stringify!($legacy)) };
}

/// The flags of features that this version does not have: names, other names in brackets, and a
/// variable of other tools.
pub static LATER: &[Later] = later! {
    "service-discovery";
    "selector";
    "prefill-selector";
    "decode-selector";
    "router-selector";
    "service-discovery-namespace";
    "service-discovery-port";
    "bootstrap-port-annotation";
    "model-id-from";
    "worker-ports-annotation";
    "mesh-port-annotation";
    "service-discovery-resync-secs";

    "model-path" ("model");
    "tokenizer-path";
    "chat-template";
    "disable-tokenizer-autoload";
    "tokenizer-cache-enable-l0" ("enable-l0-cache");
    "tokenizer-cache-l0-max-entries" ("l0-max-entries");
    "tokenizer-cache-enable-l1" ("enable-l1-cache");
    "tokenizer-cache-l1-max-memory" ("l1-max-memory");
    "reasoning-parser";
    "tool-call-parser";
    "mcp-config-path";
    "enable-wasm";
    "history-backend";
    "oracle-wallet-path" ATP_WALLET_PATH;
    "oracle-tns-alias" ATP_TNS_ALIAS;
    "oracle-dsn" ("oracle-connect-descriptor") ATP_DSN;
    "oracle-user" ("oracle-username") ATP_USER;
    "oracle-password" ATP_PASSWORD;
    "oracle-external-auth" ATP_EXTERNAL_AUTH;
    "oracle-pool-min" ATP_POOL_MIN;
    "oracle-pool-max" ATP_POOL_MAX;
    "oracle-pool-timeout-secs" ATP_POOL_TIMEOUT_SECS;
    "postgres-db-url" POSTGRES_DB_URL;
    "postgres-pool-max-size" ("postgres-pool-max") POSTGRES_POOL_MAX;
    "postgres-op-timeout-secs";
    "redis-url" REDIS_URL;
    "redis-pool-max-size" ("redis-pool-max") REDIS_POOL_MAX;
    "redis-retention-days" REDIS_RETENTION_DAYS;
    "redis-op-timeout-secs";
    "history-memory-max-responses";
    "history-memory-max-items";
    "history-memory-retention-secs";
    "max-background-responses";
    "schema-config";
    "storage-hook-wasm-path";
    "storage-context-headers";

    "enable-mesh";
    "mesh-server-name";
    "mesh-host";
    "mesh-port";
    "mesh-advertise-host";
    "mesh-peer-urls";
    "mesh-tls-ca-cert";
    "mesh-tls-cert";
    "mesh-tls-key";
    "webrtc-bind-addr";
    "webrtc-stun-server";
};

/// Flags of a similar program that are left out on purpose, and why. A `*` stands for any end.
static FOREIGN: &[(&str, &str)] = &[
    (
        "priority-scheduler*",
        "is not taken: this gateway has no priority scheduler",
    ),
    (
        "encode*",
        "is not taken: this gateway splits no encode leg off a pool",
    ),
    (
        "epd-disaggregation",
        "is not taken: this gateway splits no encode leg off a pool",
    ),
    (
        "discovery-provider",
        "is not taken: list the workers in the config file, which is reloaded when it changes",
    ),
    (
        "discovery-file",
        "is not taken: list the workers in the config file, which is reloaded when it changes",
    ),
    (
        "tenant-rate-limit*",
        "is not taken: limits of tenants stand in the config file",
    ),
    (
        "overload-*",
        "is not taken: this gateway has no overload detector to tune",
    ),
    (
        "wedge-*",
        "is not taken: health checks find a worker that hangs",
    ),
    (
        "warmup-*",
        "is not taken: a worker gets requests as soon as it answers its probe",
    ),
    (
        "warm-up-*",
        "is not taken: a worker gets requests as soon as it answers its probe",
    ),
    (
        "enable-rl*",
        "is not taken: this gateway steers no training",
    ),
    (
        "multimodal-*",
        "is not taken: images and sound go to the workers as they came",
    ),
    (
        "mm-*",
        "is not taken: images and sound go to the workers as they came",
    ),
    ("rdma-*", "is not taken: this gateway moves no tensors"),
    (
        "heap-profil*",
        "is not taken: profile the process with tools of the system",
    ),
    (
        "enable-heap-profil*",
        "is not taken: profile the process with tools of the system",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::table::FLAGS;

    #[test]
    fn no_name_means_two_things() {
        let mut names: Vec<&str> = FLAGS
            .iter()
            .flat_map(|flag| std::iter::once(flag.name).chain(flag.aliases.iter().copied()))
            .collect();
        assert!(names.iter().all(|name| reason(name).is_none()));
        names.extend(LATER.iter().flat_map(|later| later.names));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn reasons() {
        let later = Some("is not available in this version");
        assert_eq!(reason("enable-wasm"), later);
        assert_eq!(reason("l0-max-entries"), later);
        assert_eq!(reason("overload-token-usage-threshold"), None);
        assert!(
            reason("priority-scheduler-enabled")
                .unwrap()
                .contains("no priority")
        );
        assert!(reason("encode").unwrap().contains("encode leg"));
        assert_eq!(reason("worker-urls"), None);
        assert_eq!(reason("no-such-flag"), None);
    }
}
