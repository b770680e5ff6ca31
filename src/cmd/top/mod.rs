//! `smg top`: the figures of the console in a terminal.

use clap::{ArgMatches, Command};

use super::{exit, out};
use crate::config::Environment;

pub(super) fn command() -> Command {
    Command::new("top").about("Show what the running gateway does, live")
}

pub(super) fn run(_matches: &[&ArgMatches], _environment: &Environment) -> u8 {
    out::error("not yet");
    exit::FAILED
}
