//! `smg`, `smg launch`, `smg start`: the gateway itself.

use clap::ArgMatches;

use super::exit;
use super::given::{Opened, open};
use crate::config::{Environment, Format, render};
use crate::daemon;

/// Runs the gateway until it is told to stop.
pub(super) fn run(matches: &[&ArgMatches], environment: Environment) -> u8 {
    match open(matches, environment) {
        Err(status) => status,
        Ok(Opened { input, loaded, .. }) if loaded.spec.is_none() => {
            let text = render(&loaded.diagnostics, Format::Human);
            daemon::decline(&input.environment, &text);
            exit::INVALID
        }
        Ok(Opened {
            input,
            loaded,
            filter,
        }) => daemon::run(input, loaded, filter),
    }
}
