//! `smg check-config`: everything that is wrong with a file, without effect on anything.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::explain::verify::verify;
use super::given::Invocation;
use super::probe::{Probed, probe};
use super::{exit, out};
use crate::config::spec::Spec;
use crate::config::{
    Diagnostic, Environment, Format, Input, Loaded, Secrets, Severity, load, render, sort,
};

/// The file that is meant where none is named.
pub(super) const DEFAULT_FILE: &str = "/etc/smg/smg.toml";

/// Checks, prints and judges.
pub(super) fn run(matches: &[&ArgMatches], environment: Environment) -> u8 {
    let Some(own) = matches.last() else {
        return exit::USAGE;
    };
    let isolated = own.get_flag("no-environment");
    let environment = match isolated {
        true => Environment::from_iter::<[(String, String); 0]>([]),
        false => environment,
    };
    let invocation = match Invocation::new(matches, &environment) {
        Ok(invocation) => invocation,
        Err(error) => {
            out::error(error);
            return exit::USAGE;
        }
    };
    let file = own.get_one::<PathBuf>("file").cloned();
    let file = file
        .or(invocation.file)
        .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let input = Input {
        file: Some(file.clone()),
        overlay: invocation.overlay,
        environment,
        secrets: match isolated {
            true => Secrets::Note,
            false => Secrets::Require,
        },
    };
    let mut loaded = load(&input);
    let mut diagnostics = std::mem::take(&mut loaded.diagnostics);
    diagnostics.extend(invocation.warnings);
    let probed = match own.get_flag("probe") {
        true => match probed(&loaded, &input.environment, &mut diagnostics) {
            Ok(summary) => summary,
            Err(error) => {
                out::error(format_args!("cannot probe: {error}"));
                return exit::FAILED;
            }
        },
        false => None,
    };
    let tests = match &loaded.spec {
        Some(spec) if own.get_flag("test") => {
            Some((verify(spec, &loaded.origins), spec.tests.len()))
        }
        _ => None,
    };
    let untrue = tests.as_ref().is_some_and(|(found, _)| !found.is_empty());
    let failed = untrue || (probed.is_some() && count(&diagnostics, Severity::Error) > 0);
    let run = tests.as_ref().map(|(_, run)| *run);
    diagnostics.extend(tests.into_iter().flat_map(|(found, _)| found));
    let format = match own.get_one::<String>("format").map(String::as_str) {
        Some("json") => Format::Json,
        Some("github") => Format::Github,
        Some("sarif") => Format::Sarif,
        _ => Format::Human,
    };
    if format != Format::Human {
        out::print(&render(&diagnostics, format));
    } else {
        out::print_diagnostics(&diagnostics, &input.environment);
        let space = if diagnostics.is_empty() { "" } else { "\n" };
        let spec = loaded.spec.as_ref().filter(|_| !failed);
        let summary = summary(&file, &diagnostics, spec, run);
        let probed = probed.map_or_else(String::new, |probed| format!("{probed}\n"));
        out::print(&format!("{space}{probed}{summary}\n"));
    }
    let warned = count(&diagnostics, Severity::Warning) > 0;
    match loaded.spec {
        None => exit::INVALID,
        Some(_) if failed => exit::INVALID,
        Some(_) if warned && own.get_flag("deny-warnings") => exit::DENIED,
        Some(_) => exit::OK,
    }
}

/// Probes what is valid and adds what is found to `diagnostics`. `None` where the file is not valid.
fn probed(
    loaded: &Loaded,
    environment: &Environment,
    diagnostics: &mut Vec<Diagnostic>,
) -> std::io::Result<Option<String>> {
    let Some(spec) = &loaded.spec else {
        return Ok(None);
    };
    let Probed {
        diagnostics: found,
        summary,
    } = probe(spec, &loaded.origins, environment)?;
    // The probe judges the time of certificates more strictly.
    diagnostics.retain(|known| {
        !found
            .iter()
            .any(|found| found.slug == known.slug && found.key == known.key)
    });
    diagnostics.extend(found);
    sort(diagnostics, &loaded.origins);
    Ok(Some(summary))
}

/// The last line of the report: the verdict, and how much there is.
fn summary(
    file: &Path,
    diagnostics: &[Diagnostic],
    spec: Option<&Spec>,
    tests: Option<usize>,
) -> String {
    let found = [
        (count(diagnostics, Severity::Error), "error"),
        (count(diagnostics, Severity::Warning), "warning"),
        (count(diagnostics, Severity::Note), "note"),
    ];
    let found = found.into_iter().filter(|(count, _)| *count > 0);
    let found: Vec<String> = found.map(|(count, what)| counted(count, what)).collect();
    let Some(spec) = spec else {
        return format!("{}: {}", file.display(), found.join(", "));
    };
    let mut parts = vec![
        counted(spec.pools.len(), "pool"),
        counted(
            spec.pools.iter().map(|pool| pool.members().count()).sum(),
            "worker",
        ),
        counted(spec.models.len(), "model"),
        counted(spec.listeners.len(), "listener"),
    ];
    parts.extend(tests.map(|tests| format!("{} passed", counted(tests, "test"))));
    let but = match found.is_empty() {
        true => String::new(),
        false => format!("; {}", found.join(", ")),
    };
    format!("{}: valid ({}){but}", file.display(), parts.join(", "))
}

fn count(diagnostics: &[Diagnostic], severity: Severity) -> usize {
    diagnostics
        .iter()
        .filter(|d| d.severity == severity)
        .count()
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
