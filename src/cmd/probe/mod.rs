//! `smg check-config --probe`: what only the network, the clock and the file system of this machine
//! can tell about a configuration that is valid.
//!
//! It asks workers what the gateway would ask them, binds each address and lets go of it again, and
//! writes nothing. What it finds are diagnostics like any others. Severities follow what a start
//! would do: what would keep the gateway from starting, or its clients from trusting it, is an error;
//! what it would start with all the same, such as a worker that is down, is a warning.

mod certificates;
mod folders;
mod meeting;
mod outside;
mod owner;
mod progress;
mod sockets;
mod trouble;
mod verdicts;
mod workers;

use std::io;

use crate::config::spec::Spec;
use crate::config::{Diagnostic, Environment, Origins, Severity};

/// What was found, and how much was looked at.
pub(super) struct Probed {
    /// In no particular order.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// One line about what was probed.
    pub(super) summary: String,
}

/// Probes everything that `spec` names.
///
/// # Errors
/// There is no runtime to probe with.
pub(super) fn probe(
    spec: &Spec,
    origins: &Origins,
    environment: &Environment,
) -> io::Result<Probed> {
    let mut found = Found {
        origins,
        list: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut parts = Vec::new();
    parts.extend(runtime.block_on(workers::probe(spec, &mut found)));
    parts.extend(runtime.block_on(outside::probe(spec, &mut found)));
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_background();
    parts.extend(certificates::probe(spec, &mut found));
    let identity = folders::Identity::here();
    parts.push(sockets::probe(spec, environment, &identity, &mut found));
    parts.extend(folders::probe(spec, &identity, &mut found));
    Ok(Probed {
        diagnostics: found.list,
        summary: format!("probed {}", parts.join("; ")),
    })
}

/// The findings so far.
struct Found<'a> {
    origins: &'a Origins,
    list: Vec<Diagnostic>,
}

impl Found<'_> {
    /// A finding at the value of `key`, or at what is around it where it is not written.
    fn add(
        &mut self,
        severity: Severity,
        slug: &'static str,
        key: &str,
        message: String,
        help: Option<String>,
    ) {
        let mut finding = Diagnostic::new(severity, slug, message)
            .about(key)
            .at(self.origins.place(key));
        finding.help = help;
        self.list.push(finding);
    }
}

/// `1 socket`, `3 sockets`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The reason of the system, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first)
            if letters
                .as_str()
                .starts_with(|c: char| c.is_ascii_lowercase()) =>
        {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
