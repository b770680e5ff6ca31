//! What the command line gave: the flags in clap's matches, with the variables and the file.

use std::path::PathBuf;

use clap::ArgMatches;
use toml::Value;

use super::{exit, out};
use crate::config::cli::overlay::overlay;
use crate::config::cli::setting::{self, Setting, VariableError, Variables};
use crate::config::cli::table::FLAGS;
use crate::config::{Diagnostic, Environment, Format, Given, Input, Loaded, Overlay, load, render};

/// Everything that is said outside of the file.
#[derive(Debug)]
pub(super) struct Invocation {
    /// The file that `--config` or `SMG_CONFIG` names.
    pub(super) file: Option<PathBuf>,
    /// What flags and variables say over the file.
    pub(super) overlay: Overlay,
    /// The filter expression of `RUST_LOG`, unless a flag or variable sets the level.
    pub(super) filter: Option<String>,
    /// Remarks about variables that are not used.
    pub(super) warnings: Vec<Diagnostic>,
}

/// The effective configuration of an invocation.
pub(super) struct Opened {
    /// What it was read from.
    pub(super) input: Input,
    /// What was read.
    pub(super) loaded: Loaded,
    /// As in [`Invocation::filter`].
    pub(super) filter: Option<String>,
}

/// Reads the configuration that `matches` and `environment` ask for and prints every finding.
///
/// # Errors
/// The exit status for a bad flag or variable, which has been reported.
pub(super) fn open(matches: &[&ArgMatches], environment: Environment) -> Result<Opened, u8> {
    let invocation = Invocation::new(matches, &environment).map_err(|error| {
        out::error(error);
        exit::USAGE
    })?;
    let input = Input {
        file: invocation.file,
        overlay: invocation.overlay,
        environment,
        ..Input::default()
    };
    let loaded = load(&input);
    let mut diagnostics = invocation.warnings;
    diagnostics.extend(loaded.diagnostics.iter().cloned());
    out::complain_diagnostics(render(&diagnostics, Format::Human), &input.environment);
    Ok(Opened {
        input,
        loaded,
        filter: invocation.filter,
    })
}

impl Invocation {
    /// From the flags of `matches`, outermost command first, and the variables of `environment`.
    ///
    /// # Errors
    /// [`VariableError`] if a variable has no proper value.
    pub(super) fn new(
        matches: &[&ArgMatches],
        environment: &Environment,
    ) -> Result<Self, VariableError> {
        let Variables {
            mut settings,
            mut filter,
            notices,
        } = setting::variables(&|name| environment.get(name))?;
        settings.extend(flags(matches));
        if settings.iter().any(|s| s.flag.name == "log-level") {
            filter = None;
        }
        let file = settings.iter().rfind(|s| s.flag.name == "config");
        let file = file.and_then(|s| s.values.last()).and_then(Value::as_str);
        Ok(Self {
            file: file.map(PathBuf::from),
            overlay: overlay(&settings),
            filter,
            warnings: notices
                .iter()
                .map(|notice| Diagnostic::warning(notice.code(), notice.to_string()))
                .collect(),
        })
    }
}

/// The flags that were typed, in the order of the table.
pub(super) fn flags(matches: &[&ArgMatches]) -> Vec<Setting> {
    let mut settings = Vec::new();
    for flag in FLAGS {
        let mut values: Vec<Value> = Vec::new();
        for matches in matches {
            values.extend(matches.get_many(flag.name).into_iter().flatten().cloned());
        }
        if !values.is_empty() {
            settings.push(Setting {
                flag,
                given: Given::Flag(flag.dashed()),
                values,
            });
        }
    }
    settings
}
