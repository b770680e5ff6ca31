//! Checks that need more than one value, or more than its type: ranges, names, references, and
//! keys that cannot mean what was meant. One file per part of the `Spec`.
//!
//! A check addresses a key by its path; the place is looked up when something is wrong. What could
//! not be read is absent from the `Spec`, so a check that complains about absence asks first
//! whether that part is intact.

mod admission;
mod auth;
mod listener;
mod model;
mod policy;
mod pool;
mod reliability;
mod telemetry;
mod test;
mod tls;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use super::Secrets;
use super::diag::{Diagnostic, Severity};
use super::origin::Origins;
use super::spec::{MemoryBudget, Spec};
use crate::base::units::{ByteSize, Millis};

/// Longest path of a unix socket: the kernel's field has 108 bytes, the last of them zero.
const MAX_SOCKET_PATH: usize = 107;

/// Everything that is wrong with a configuration whose keys and types are right.
pub(crate) fn check(spec: &Spec, origins: &Origins, secrets: Secrets) -> Vec<Diagnostic> {
    let mut check = Check {
        spec,
        origins,
        secrets,
        pools: HashMap::new(),
        out: Vec::new(),
    };
    for (i, pool) in spec.pools.iter().enumerate() {
        check.pools.entry(&pool.name).or_insert(i);
    }
    check.server();
    check.listeners();
    check.pools();
    check.models();
    check.routing();
    check.reliability();
    check.admission();
    check.auth();
    check.telemetry();
    check.tests();
    check.out
}

struct Check<'a> {
    spec: &'a Spec,
    origins: &'a Origins,
    secrets: Secrets,
    /// The first pool of each name.
    pools: HashMap<&'a str, usize>,
    out: Vec<Diagnostic>,
}

impl Check<'_> {
    fn server(&mut self) {
        let server = &self.spec.server;
        self.positive("server.request_timeout", server.request_timeout);
        if server.memory_budget == MemoryBudget::Size(ByteSize::new(0)) {
            self.range("server.memory_budget", "greater than 0");
        }
        self.at_least_one("server.jobs.capacity", server.jobs.capacity);
        self.at_least_one("server.jobs.concurrency", server.jobs.concurrency);
        if server.max_payload_size.get() == 0 {
            self.range("server.max_payload_size", "greater than 0");
        }
        for (i, name) in server.request_id_headers.iter().enumerate() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let key = format!("server.request_id_headers[{i}]");
                self.error(
                    "header-name",
                    &key,
                    format!("`{name}` is not the name of a header"),
                );
            }
        }
        if let Some(path) = &server.control_socket {
            self.socket_path("server.control_socket", path);
        }
    }

    /// A diagnostic about a key, at its place.
    fn found(
        &self,
        severity: Severity,
        slug: &'static str,
        key: &str,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::new(severity, slug, message)
            .about(key)
            .at(self.origins.place(key))
    }

    fn error(&mut self, slug: &'static str, key: &str, message: impl Into<String>) {
        self.out
            .push(self.found(Severity::Error, slug, key, message));
    }

    fn range(&mut self, key: &str, allowed: impl Display) {
        self.error("range", key, format!("`{key}` must be {allowed}"));
    }

    fn positive(&mut self, key: &str, value: Millis) {
        if value.is_zero() {
            self.range(key, "greater than 0");
        }
    }

    fn at_least_one(&mut self, key: &str, value: u32) {
        if value == 0 {
            self.range(key, "at least 1");
        }
    }

    /// Warns about a key that is set for nothing.
    fn without_effect(&mut self, key: &str, reason: &str) {
        if self.origins.is_set(key) {
            let message = format!("`{key}` has no effect: {reason}");
            self.out
                .push(self.found(Severity::Warning, "no-effect", key, message));
        }
    }

    /// Reports a name that is empty, and one that an earlier element of the list has.
    fn names<'n>(&mut self, what: &str, names: impl Iterator<Item = (String, &'n str)>) {
        let mut seen: HashMap<&str, String> = HashMap::new();
        for (key, name) in names {
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                self.error(
                    "name",
                    &key,
                    format!("the name of a {what} must not be empty, nor hold control characters"),
                );
                continue;
            }
            if let Some(first) = seen.get(name) {
                let message = format!("{what} `{name}` is defined twice");
                let diagnostic = self
                    .found(Severity::Error, "name-twice", &key, message)
                    .beside(self.origins.place(first), "defined here first");
                self.out.push(diagnostic);
                continue;
            }
            seen.insert(name, key);
        }
    }

    fn socket_path(&mut self, key: &str, path: &Path) {
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!("the path of a unix socket has at most {MAX_SOCKET_PATH} bytes");
            self.error("socket-path", key, message);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            let severity = match self.secrets {
                Secrets::Require => Severity::Error,
                Secrets::Note => Severity::Note,
            };
            let message = format!("there is no directory `{}`", folder.display());
            self.out
                .push(self.found(severity, "no-directory", key, message));
        }
    }
}
