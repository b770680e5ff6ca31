//! `smg config dump`: the effective configuration.

use clap::ArgMatches;

use super::given::open;
use super::{exit, out};
use crate::config::{Environment, render_effective};

/// Prints the configuration that a gateway with these flags would have.
pub(super) fn dump(matches: &[&ArgMatches], environment: Environment) -> u8 {
    let loaded = match open(matches, environment) {
        Ok(opened) => opened.loaded,
        Err(status) => return status,
    };
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
