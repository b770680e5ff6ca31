//! `smg`, `smg launch`, `smg start`: the gateway itself.

use clap::ArgMatches;

use super::exit;
use super::given::{Opened, open};
use crate::config::Environment;
use crate::daemon;

/// Runs the gateway until it is told to stop.
pub(super) fn run(matches: &[&ArgMatches], environment: Environment) -> u8 {
    match open(matches, environment) {
        Err(status) => status,
        Ok(Opened { loaded, .. }) if loaded.spec.is_none() => exit::INVALID,
        Ok(Opened {
            input,
            loaded,
            filter,
        }) => daemon::run(input, loaded, filter),
    }
}
