//! `smg config dump`: the effective configuration.

use clap::ArgMatches;

use super::given::Invocation;
use super::{exit, out};
use crate::config::{Environment, Format, Input, load, render, render_effective};

/// Prints the configuration that a gateway with these flags would have.
pub(super) fn dump(matches: &[&ArgMatches], environment: Environment) -> u8 {
    let invocation = match Invocation::new(matches, &environment) {
        Ok(invocation) => invocation,
        Err(error) => {
            out::error(error);
            return exit::USAGE;
        }
    };
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
    let origins = matches.last().is_some_and(|own| own.get_flag("origins"));
    match render_effective(&loaded, origins) {
        Ok(text) => {
            out::print(&text);
            exit::OK
        }
        Err(error) => {
            if !loaded.has_errors() {
                out::error(error);
            }
            exit::INVALID
        }
    }
}
