//! `smg upgrade`: has the running gateway hand its sockets to a new process of the installed binary.

use clap::{ArgMatches, Command};

use super::{exit, out};
use crate::config::Environment;

pub(super) fn command() -> Command {
    Command::new("upgrade").about("Have the running gateway hand over to the installed binary")
}

pub(super) fn run(_matches: &[&ArgMatches], _environment: &Environment) -> u8 {
    out::error("not yet");
    exit::FAILED
}
