//! `smg`, `smg launch`, `smg start`: the gateway itself.

use clap::ArgMatches;

use super::given::Invocation;
use super::{exit, out};
use crate::config::{Environment, Format, Input, load, render};
use crate::daemon;

/// Runs the gateway until it is told to stop.
pub(super) fn run(matches: &[&ArgMatches], environment: Environment) -> u8 {
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
    if loaded.spec.is_none() {
        return exit::INVALID;
    }
    daemon::run(input, loaded, invocation.filter)
}
